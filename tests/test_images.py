"""Lens, camera and labels against others, against sums by hand and against themselves turned round"""
import math
import numpy as np, pytest, xarray as xr
from hypothesis import given, settings as hypothesis_settings, strategies as st
from hrtem_seg.core.fourier import freqs
from hrtem_seg.core.units import coords, wavelength
from hrtem_seg.imaging.cameras import CAMERAS, camera_settings, check_flux, detect, expose
from hrtem_seg.imaging.ctf import TEAM05, TERMS, aberration_list, chi
from hrtem_seg.imaging.images import SAMPLINGS, image, image_grid, minimum_contrast_defocus, optics_settings
from hrtem_seg.imaging.labels import MASKS, edge_distance, label_map, mask_settings, particle_mask, phase_mask, projection
from hrtem_seg.structures.scenes import random_scene
from hrtem_seg.waves.multislice import exit_wave, resample, wave_pixel

@pytest.fixture(scope='module')
def waves():
    s = random_scene(np.random.default_rng(2), cell=(32., 32.), radius=9., thickness=10., n_defects=1)
    w = exit_wave(s, pixel=.2, phonons=2)
    return {k: w[k].assign_attrs(w.attrs) for k in ('full', 'particle')} | {'scene': s}

def plane_wave(a, pixel, **attrs):
    return xr.DataArray(np.asarray(a, 'c8'), dims=('y', 'x'), coords=coords(np.shape(a), pixel), attrs={'energy': 3e5, **attrs})

# the image

def abtem_image(wave, C1, aberrations):
    abtem = pytest.importorskip('abtem')
    px = float(wave.x[1])
    found = aberration_list(aberrations)
    names = {f'C{n}{m}': C for n, m, C, _ in found} | {f'phi{n}{m}': a for n, m, _, a in found if m}
    out = 0.
    for p in wave.values:   # abTEM's axes are (x, y)
        w = abtem.Waves(np.ascontiguousarray(p.T), energy=300e3, sampling=px)
        lens = abtem.CTF(aberration_coefficients={'C10': C1, **names}, energy=300e3)
        out = out + np.asarray(w.apply_ctf(lens).intensity().compute().array).T
    return out/len(wave)

@pytest.mark.parametrize('C1, aberrations', [(-120., {}), (80., {'C3': 1.2e7}), (-50., {'A1': (40., 30.), 'B2': (300., 70.)}), (-80., TEAM05)])
def test_images_agree_with_abtem(waves, C1, aberrations):
    ours = image(waves['full'], defocus=C1, aberrations=aberrations, sampling='wave').values
    theirs = abtem_image(waves['full'], C1, aberrations)
    assert np.std(ours - theirs)/np.std(theirs) < 1e-4

@pytest.mark.parametrize('turn', [lambda a: a.T, lambda a: a[::-1], lambda a: np.rot90(a)])
def test_round_lens_knows_no_direction(waves, turn):
    def turned(wave): return wave.copy(data=np.stack([turn(p) for p in wave.values]))
    optics = dict(defocus=-70., focal_spread=10., pixel=.2)
    a, b = turn(image(waves['full'], **optics).values), image(turned(waves['full']), **optics).values
    assert np.abs(a - b).max() < 1e-5
    assert minimum_contrast_defocus(turned(waves['particle'])) == minimum_contrast_defocus(waves['particle'])
    assert (turn(phase_mask(waves['particle']).values) == phase_mask(turned(waves['particle'])).values).all()

def test_each_aberration_has_its_symmetry():
    q, phi = .8, np.linspace(0, 2*np.pi, 361)
    for name, (n, m, _) in TERMS.items():
        c = chi(q*np.sin(phi), q*np.cos(phi), 300e3, 0., {name: (1e3, 20.) if m else 1e3})
        if m == 0: assert np.ptp(c) < 1e-9*abs(c).max()
        else:
            assert phi[np.isclose(c, c.max(), rtol=1e-3)].min() % (2*np.pi/m) == pytest.approx(math.radians(20) % (2*np.pi/m), abs=.06)
            assert np.sum((c[:-1] < 0) != (c[1:] < 0)) == 2*m
        assert chi(0, 2*q, 300e3, 0, {name: 1e3})/chi(0, q, 300e3, 0, {name: 1e3}) == pytest.approx(2**(n + 1))

def test_the_published_table_and_the_one_of_old_stacks():
    "A5 is 4.821 µm where it was published; stacks that say TEAM05 and no sampling were made with a thousand times that"
    def A5(name): return next(C for n, m, C, _ in aberration_list(name) if m == 6)
    assert A5('TEAM05') == 4.821e4 and A5(optics_settings({'aberrations': 'TEAM05'}, old=True)['aberrations']) == 4.821e7
    assert optics_settings({'aberrations': 'TEAM05'}) == {'aberrations': 'TEAM05'}
    assert [t[:2] for t in aberration_list('TEAM05')] == [t[:2] for t in aberration_list('TEAM05 as first typed')]

def test_defocus_is_propagation(waves):
    w = waves['full']
    q2 = sum(f**2 for f in freqs(w.shape[1:], float(w.x[1])))
    there = np.fft.ifft2(np.fft.fft2(w.values)*np.exp(-1j*np.pi*wavelength(300e3)*60*q2))
    assert np.abs((np.abs(there)**2).mean(0) - image(w, defocus=60., sampling='wave').values).max() < 1e-4

def test_image_takes_any_leading_dims(waves):
    w = waves['full']
    two = xr.concat([w, w.roll(x=20, roll_coords=False)], 'structure').assign_attrs(w.attrs)
    a = image(two, defocus=[0., -50.], pixel=.2)
    assert a.dims == ('structure', 'defocus', 'y', 'x')
    assert (a[0, 1].values == image(w, defocus=-50., pixel=.2).values).all()
    assert np.allclose(a[1].values, np.roll(a[0].values, 20, -1), atol=1e-5)
    assert np.allclose(image(w.isel(phonon=0)).values, image(w.isel(phonon=[0])).values)

def test_batch_size_changes_only_rounding(waves):
    optics = dict(defocus=-70., aberrations='TEAM05', focal_spread=15.)
    assert np.abs(image(waves['full'], batch=1, **optics).values - image(waves['full'], batch=2, **optics).values).max() < 1e-5

WRONG = [(dict(aberrations={'Cs': 1.}), 'Cs'), (dict(aberrations={'A1': ('a', 1)}), 'A1'), (dict(aberrations=3.), 'aberrations=3.0'),
         (dict(focal_spread=-1.), 'focal_spread'), (dict(aperture=0.), 'aperture'), (dict(drift=(1., 2., 3.)), 'drift'), (dict(drift=.5), 'drift=0.5'),
         (dict(drift=(math.nan, 0.)), 'drift_y=nan'), (dict(convergence=-1.), 'convergence'), (dict(energy=300), 'energy=300'),
         (dict(defocus=math.nan), 'defocus=nan'), (dict(defocus=None), 'defocus=None'), (dict(defocus='-100 Å'), "defocus='-100 Å'"),
         (dict(defocus=[]), 'defocus='), (dict(defocus=-80., aberrations={'C1': -80.}), 'give one of them'), (dict(pixel=0.), 'pixel=0.0'),
         (dict(pixel='fine'), "pixel='fine'"), (dict(sampling='sum'), "sampling='sum'"), (dict(pixel=.4, sampling='wave'), 'pixel=0.4')]

@pytest.mark.parametrize('bad, message', WRONG)
def test_bad_optics(waves, bad, message):
    with pytest.raises(ValueError, match=message): image(waves['full'], **bad)

def test_what_is_no_wave_is_refused():
    for wrong in (np.ones((8, 8)), 3., None):
        with pytest.raises(ValueError, match='expected a DataArray'): image(wrong)

# its pixel

def test_a_fringe_beyond_nyquist_is_folded_and_damped_and_not_stored_whole():
    "Beams at ±0.427/Å make a fringe at 0.855/Å; pixels of 0.84 Å show it at 1/0.84 − 0.855 = 0.336/Å"
    L = 220*.84
    x = np.arange(440)*L/440
    beam = 79/L
    w = plane_wave(np.broadcast_to(np.sqrt(2)*np.cos(2*np.pi*beam*x), (8, 440)), L/440)
    def amplitude(im, q):
        F = 2*np.abs(np.fft.fft(im.values.mean(0)))/im.sizes['x']
        return F[round(q*L)]
    folded = 1/.84 - 2*beam
    assert folded == pytest.approx(.336, abs=.001)
    assert amplitude(image(resample(w, .84), sampling='wave'), folded) == pytest.approx(1, abs=1e-4)   # as it was
    damped = math.sin(math.pi*2*beam*.84)/(math.pi*2*beam*.84)
    assert amplitude(image(w, pixel=.84), folded) == pytest.approx(damped, abs=1e-5)
    assert amplitude(image(w, pixel=.84, sampling='band'), folded) < 1e-5
    assert amplitude(image(w, pixel=.42), 2*beam) == pytest.approx(math.sin(math.pi*2*beam*.42)/(math.pi*2*beam*.42), abs=1e-5)

@pytest.mark.parametrize('pixel', [.5, .6, .77, 1.3])
def test_pixels_hold_what_a_sum_over_a_far_finer_grid_gives(waves, pixel):
    "Direct summation: the intensity at 32 points along each edge of each pixel, by a Fourier sum in double precision"
    w = waves['full'].isel(phonon=0)
    im = image(w, pixel=pixel, defocus=-90.)
    (ny, nx), px = image_grid(w, pixel)
    q = np.fft.fftfreq(w.sizes['x'], .2)
    F = np.fft.fft2(w.values.astype('c16'))/w.size
    F = F*np.exp(-1j*np.pi*wavelength(3e5)*-90.*(q[:, None]**2 + q**2))
    points, weights = np.polynomial.legendre.leggauss(32)   # exact for such an intensity
    for j, i in ((3, 5), (ny - 1, 0), (ny//2, nx//2)):
        y, x = (k*px + points*px/2 for k in (j, i))
        psi = np.exp(2j*np.pi*np.outer(y, q)) @ F @ np.exp(2j*np.pi*np.outer(q, x))
        assert im.values[j, i] == pytest.approx(weights @ np.abs(psi)**2 @ weights/4, abs=2e-5)

def test_the_particle_is_as_dark_at_any_pixel():
    s = random_scene(np.random.default_rng(4), cell=(72., 72.), radius=25., thickness=20., n_defects=0, separation=4.)
    w = exit_wave(s, pixel=.25, slice_thickness=4.).full
    cx, cy = s.info['record']['drawn']['particles'][0]['centre']
    y, x = (np.arange(72)[:, None] + .5, np.arange(72) + .5)   # squares of 1 Å, which pixels of 0.2, 0.5 and 1 Å divide
    r = np.hypot((y - cy + 36) % 72 - 36, (x - cx + 36) % 72 - 36)
    def darkness(pixel):
        n = round(1/pixel)
        a = image(w, defocus=-100., pixel=pixel).values
        a = np.roll(a, (n//2, n//2), (0, 1)).reshape(72, n, 72, n).mean((1, 3)) if n > 1 else a
        return 100*(a[r > 32].mean() - a[r < 20].mean())
    dark = [darkness(p) for p in (.2, .25, .5, 1.)]
    assert dark[0] > .5 and np.ptp(dark) < .1, dark

def test_a_wave_kept_at_the_pixel_of_its_band_gives_the_same_images(waves):
    w = waves['full']
    kept = resample(w, wave_pixel(w))
    assert kept.sizes['x'] < .7*w.sizes['x']
    for how in (dict(pixel=.4), dict(pixel=.6, sampling='band'), dict(pixel=None)):
        assert np.abs(image(kept, defocus=-80., **how).values - image(w, defocus=-80., **how).values).max() < 2e-5
    assert (particle_mask(resample(waves['particle'], .3), pixel=.5).values == phase_mask(waves['particle'], pixel=.5).values).mean() > .998

def test_odd_and_narrow_waves(waves):
    odd = plane_wave(np.exp(.3j*np.random.default_rng(0).normal(size=(33, 51))), .3)
    for how in (dict(), dict(pixel=.9), dict(pixel=.9, sampling='band'), dict(sampling='wave')):
        assert float(image(odd, defocus=-50., **how).mean()) == pytest.approx(1, abs=1e-5)

@hypothesis_settings(max_examples=40, deadline=None)
@given(n=st.tuples(st.integers(4, 24), st.integers(4, 24)), pixel=st.floats(.05, 3.), sampling=st.sampled_from(('area', 'band')),
       defocus=st.floats(-1000., 1000.), spread=st.floats(0., 30.), band=st.floats(.05, 2.), seed=st.integers(0, 99))
def test_any_wave_at_any_pixel_keeps_its_electrons(n, pixel, sampling, defocus, spread, band, seed):
    rng = np.random.default_rng(seed)
    w = plane_wave(1 + .2*rng.normal(size=n) + .2j*rng.normal(size=n), .25)
    F = np.fft.fft2(w.values)
    qy, qx = freqs(n, .25)
    w = w.copy(data=np.fft.ifft2(F*((abs(qy) <= band) & (abs(qx) <= band))).astype('c8')).assign_attrs(q_max=band)
    try: shape, px = image_grid(w, pixel)
    except ValueError as e:
        assert 'not divided by square pixels' in str(e) or 'half the width of the cell' in str(e)
        return
    im = image(w, defocus=defocus, focal_spread=spread, pixel=pixel, sampling=sampling)
    assert im.shape == shape and px <= pixel*(1 + 1e-6) and np.isfinite(im.values).all()
    assert float(im.mean()) == pytest.approx(float((np.abs(w)**2).mean()), rel=1e-4)
    if sampling == 'area': assert im.values.min() > -1e-5

# the focus

def test_vacuum_has_no_focus_of_least_contrast():
    for tilt in (0, 3):
        w = plane_wave(np.broadcast_to(np.exp(2j*np.pi*tilt*np.arange(64)/64), (64, 64)), .2)
        with pytest.raises(ValueError, match='vacuum'): minimum_contrast_defocus(w)
        half = w.copy(data=(w.values.real.astype('f2') + 1j*w.values.imag.astype('f2')).astype('c8'))   # as it lies on disk
        with pytest.raises(ValueError, match='vacuum'): minimum_contrast_defocus(half)
        assert np.isfinite(minimum_contrast_defocus(w, own_grid=True))   # as in old stacks

def test_an_answer_at_the_edge_of_the_search_is_warned_of():
    x = (np.arange(128) - 64)*.2
    bump = np.exp(-(x[:, None]**2 + x**2)/8)   # smooth: its contrast grows with defocus
    q2 = sum(f**2 for f in freqs(bump.shape, .2))
    far = plane_wave(np.fft.ifft2(np.fft.fft2(np.exp(.2j*bump))*np.exp(-1j*np.pi*wavelength(3e5)*60*q2)), .2)
    assert minimum_contrast_defocus(far) == pytest.approx(-60, abs=3)
    with pytest.warns(UserWarning, match='edge of the search'): minimum_contrast_defocus(far, reach=40.)

# the camera

def test_camera_keeps_the_signal(waves):
    im = image(waves['full'], defocus=-100., pixel=.2, sampling='band')
    many = np.mean([detect(im, 2e3, np.random.default_rng(i), **CAMERAS['direct']).values for i in range(30)], 0)
    q = np.hypot(*freqs(im.shape, .5))
    want = np.fft.ifft2(np.fft.fft2(im.values)*np.interp(q, np.linspace(0, 1, 11), CAMERAS['direct']['mtf'])).real
    got = many/(2e3*float(im.x[1])**2)
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > .99 and abs(got.mean() - im.values.mean()) < .002

@pytest.mark.parametrize('name', ['scintillator', 'direct'])
def test_the_pixels_aperture_is_applied_once(waves, name):
    "What an MTF table does to the points of the intensity, it does to their mean over pixels, which had the aperture before"
    camera = {k: CAMERAS[name][k] for k in ('mtf', 'dqe')}
    clean = {s: image(waves['full'], defocus=-100., pixel=.8, sampling=s, aperture=.5) for s in ('area', 'band')}   # nothing beyond Nyquist to fold but a little
    seen = {s: np.mean([detect(a, 3e4, np.random.default_rng(i), **camera).values for i in range(4)], 0) for s, a in clean.items()}
    F = {s: np.abs(np.fft.rfft2(a)) for s, a in seen.items()}
    low = (np.hypot(*freqs(clean['area'].shape, .8)) < .4)[:, :F['area'].shape[1]]
    low[0, 0] = False
    assert F['area'][low].sum()/F['band'][low].sum() == pytest.approx(1, abs=.03)

def test_counts_follow_poisson_statistics():
    flat = xr.DataArray(np.full((400, 400), 1., 'f4'), dims=('y', 'x'), coords=coords((400, 400), .2))
    from scipy.stats import poisson, chisquare
    c = expose(flat, 100., np.random.default_rng(0)).values
    k = np.arange(13)
    n = np.array([(c == i).sum() for i in k] + [(c > 12).sum()])
    p = np.append(poisson.pmf(k, 4.), poisson.sf(12, 4.))
    assert chisquare(n, p*c.size).pvalue > 1e-3

def test_bad_pixels_belong_to_the_camera():
    flat = xr.DataArray(np.ones((96, 96), 'f4'), dims=('y', 'x'), coords=coords((96, 96), .2))
    def taken(seed, **how): return detect(flat, 2e4, np.random.default_rng(seed), gain=.05, dead=.01, hot=.01, **how).values
    def pattern(sensor): return np.mean([taken(k, sensor=sensor) for k in range(20)], 0)
    a, again, other = pattern(3), np.mean([taken(k, sensor=3) for k in range(20, 40)], 0), pattern(4)
    assert np.corrcoef(a.ravel(), again.ravel())[0, 1] > .99 and abs(np.corrcoef(a.ravel(), other.ravel())[0, 1]) < .05
    anew = np.mean([taken(k, **{'sensor': camera_settings({}, old=True)['sensor']}) for k in range(20)], 0)
    assert anew.std() < .5*a.std()   # old stacks: another pattern in each image
    field = {'y': slice(10, 74), 'x': slice(20, 84)}
    assert detect(flat, 400., np.random.default_rng(0), field=field).shape == (64, 64)

switches = st.fixed_dictionaries({}, optional=dict(
    mtf=st.lists(st.floats(.01, 1.), min_size=1, max_size=11).map(lambda rest: [1., *rest]), dqe=st.lists(st.floats(.01, 1.), min_size=2, max_size=12), illumination=st.floats(0, 1),
    gain=st.floats(0, .3), dead=st.floats(0, .1), hot=st.floats(0, .01), xrays=st.floats(0, .001), read_noise=st.floats(0, 10), binning=st.integers(1, 4),
    sensor=st.none() | st.integers(0, 9)))

@hypothesis_settings(max_examples=40, deadline=None)
@given(switches=switches, dose=st.floats(.1, 1e4), n=st.tuples(st.integers(8, 20), st.integers(8, 20)), seed=st.integers(0, 9))
def test_any_camera_gives_finite_counts_and_the_same_for_the_same_seed(switches, dose, n, seed):
    flat = xr.DataArray(np.ones(n, 'f4'), dims=('y', 'x'), coords=coords(n, .3), attrs={'sampling': 'area'})
    a, b = (detect(flat, dose, np.random.default_rng(seed), **switches) for _ in range(2))
    assert a.dtype == 'f4' and np.isfinite(a.values).all() and (a.values == b.values).all()
    size = switches.get('binning', 1)
    assert a.shape == (n[0]//size, n[1]//size) and a.attrs['camera_pixel'] == pytest.approx(.3)

anything = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.floats(), st.text(max_size=4), st.lists(st.floats(), max_size=3))

@hypothesis_settings(max_examples=150, deadline=None)
@given(name=st.sampled_from(('illumination', 'gain', 'dead', 'hot', 'xrays', 'read_noise', 'binning', 'mtf', 'dqe', 'dose')), value=anything)
def test_what_a_camera_cannot_take_is_refused_by_name(name, value):
    flat = xr.DataArray(np.ones((8, 8), 'f4'), dims=('y', 'x'), coords=coords((8, 8), .3))
    how = {'dose': 400., **{name: value}}
    try: a = detect(flat, rng=np.random.default_rng(0), **how)
    except ValueError as e: assert name in str(e) or repr(value) in str(e)
    else: assert np.isfinite(a.values).all()

def test_an_image_without_its_electrons_is_refused():
    flat = xr.DataArray(np.full((32, 32), 1e-4, 'f4'), dims=('y', 'x'), coords=coords((32, 32), .6))
    with pytest.raises(ValueError, match='dose=400'): check_flux(expose(flat, 400., np.random.default_rng(0)), 400.)
    check_flux(expose(flat*1e4, 400., np.random.default_rng(0)), 400.)

# the labels

def test_mask_does_not_depend_on_optics_or_threads(waves):
    import torch
    m = phase_mask(waves['particle']).values
    n = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert (phase_mask(waves['particle']).values == m).all()
    finally: torch.set_num_threads(n)
    assert 0 < m.mean() < .6

@pytest.mark.parametrize('cut, shift', [(.1, 1.2816), (.5, 0.), (.9, -1.2816)])
def test_the_label_is_cut_after_its_smoothing(cut, shift):
    "Half a field whose phase is 1 rad: the edge moves by the quantile of a Gaussian, whatever the height of the phase"
    x = np.arange(400)*.1
    for height in (.25, 1., 3.):
        w = plane_wave(np.broadcast_to(np.exp(1j*height*((x > 9.95) & (x < 29.95))), (16, 400)), .1)
        m = phase_mask(w, cut=cut)
        assert float(m.isel(y=0).sum())*.1 == pytest.approx(20 + 2*1.6*shift, abs=.11)

def test_most_configurations_decide():
    a = np.zeros((5, 32, 32))
    a[:3, :, :16] = 1.
    a[:2, :, 16:] = 1.
    w = xr.DataArray(np.exp(1j*a).astype('c8'), dims=('phonon', 'y', 'x'), coords=coords((32, 32), .2), attrs={'energy': 3e5})
    assert (phase_mask(w, sigma=0., cut=.5).values == (np.arange(32) < 16)).all()

def atoms_at(*particles, cell=60.):
    from ase import Atoms
    p = np.concatenate(particles)
    a = Atoms(['Au']*len(p), positions=p, cell=(cell, cell, 20.))
    a.arrays['particle_id'] = np.repeat(np.arange(len(particles)), [len(p) for p in particles])
    return a

def block(x0, x1, y0=10., y1=30., step=2.):
    y, x = np.meshgrid(np.arange(y0, y1 + 1e-6, step), np.arange(x0, x1 + 1e-6, step), indexing='ij')
    return np.stack([x.ravel(), y.ravel(), np.full(x.size, 5.)], 1)

@pytest.mark.parametrize('gap', [1., 2., 4.])
@pytest.mark.parametrize('pixel', [.1, .2, .5])
def test_a_gap_between_particles_stays_open(gap, pixel):
    "Two blocks whose atoms (radius 1 Å) leave `gap` of nothing between them; one of them lies across the cell's edge"
    like = xr.DataArray(np.zeros((300, 300)), dims=('y', 'x'), coords=coords((300, 300), .2))
    for shift in (0., 32.):
        s = atoms_at(block(10 + shift, 28 + shift), block(30 + gap + shift, 44 + gap + shift))
        m = projection(s, like, pixel=pixel)
        row = np.roll(m.sel(y=20., method='nearest').values, -round(shift/float(m.x[1])))
        x = m.x.values
        assert not row[(x > 29 + pixel) & (x < 29 + gap - pixel)].any()
        assert row[(x > 9 + pixel) & (x < 29 - pixel)].all() and row[(x > 29 + gap + pixel) & (x < 45 + gap - pixel)].all()
        assert row.sum()*float(m.x[1]) == pytest.approx(20 + 16, abs=2*pixel + .3)

def test_channels_inside_a_particle_are_closed():
    like = xr.DataArray(np.zeros((300, 300)), dims=('y', 'x'), coords=coords((300, 300), .2))
    s = atoms_at(block(10, 34, step=4.))   # atoms of 1 Å radius, 4 Å apart: most of the area lies between them
    m = projection(s, like, radius=1.)
    assert m.isel(y=slice(52, 148), x=slice(52, 168)).values.all()
    assert not projection(s, like, radius=1., closing=0.).isel(y=slice(52, 148), x=slice(52, 168)).values.all()

def test_a_particle_that_fills_the_cell_is_whole():
    like = xr.DataArray(np.zeros((100, 100)), dims=('y', 'x'), coords=coords((100, 100), .2))
    assert projection(atoms_at(block(0., 18., 0., 18.), cell=20.), like).values.all()
    one = projection(atoms_at(np.array([[.1, 19.9, 5.]]), cell=20.), like, radius=2.)
    assert float(one.sum())*.04 == pytest.approx(np.pi*4, rel=.12) and one.values[0, 0] and one.values[-5, 4]

def test_masks_lie_on_the_grid_of_the_image(waves):
    for kind in MASKS:
        for pixel in (.3, .55):
            m = particle_mask(waves['particle'], waves['scene'], kind, pixel=pixel)
            im = image(waves['full'], pixel=pixel)
            assert m.shape == im.shape and (m.x.values == im.x.values).all() and m.dtype == bool
            assert float(m.mean()) == pytest.approx(float(particle_mask(waves['particle'], waves['scene'], kind).mean()), rel=.06)

def test_old_words_keep_their_meaning():
    assert mask_settings({}, old=True) == dict(kind='smoothed_phase', threshold=np.pi/16, sigma=1.6)
    assert mask_settings({'kind': 'phase', 'sigma': 1.}, old=True)['kind'] == 'smoothed_phase'
    assert mask_settings({'kind': 'projection'}, old=True) == dict(kind='closed_projection', radius=None)
    assert mask_settings({})['kind'] == 'phase'

@hypothesis_settings(max_examples=200, deadline=None)
@given(given=st.dictionaries(st.sampled_from(('kind', 'threshold', 'sigma', 'cut', 'radius', 'closing', 'pixel', 'treshold')), anything | st.sampled_from(sorted(MASKS)), max_size=4), old=st.booleans())
def test_mask_settings_are_completed_or_refused_by_name(given, old):
    try: full = mask_settings(given, old)
    except ValueError as e: assert any(k in str(e) for k in given)
    else:
        assert full['kind'] in MASKS and set(given) <= set(full) and 'pixel' not in full
        assert mask_settings(full) == full

def test_labels_partition_the_mask(waves):
    m = phase_mask(waves['particle'])
    g = label_map(waves['scene'], m, 'grain_id')
    assert ((g.values >= 0) == m.values).all() and set(np.unique(g)) <= set(waves['scene'].arrays['grain_id']) | {-1}
    assert (edge_distance(m).values > 0).tolist() == m.values.tolist()
    for bad in (0., -1., math.pi, 4.):
        with pytest.raises(ValueError, match='threshold'): phase_mask(waves['particle'], threshold=bad)
    with pytest.raises(ValueError, match="by='element'"): label_map(waves['scene'], m, 'element')

def test_a_wave_is_left_as_it_was(waves):
    for k in ('full', 'particle'):
        w = waves[k].copy(deep=True)
        for sampling in SAMPLINGS: image(w, defocus=-70., focal_spread=10., vibration=.3, sampling=sampling)
        minimum_contrast_defocus(w)
        particle_mask(w, waves['scene'], pixel=.5)
        assert (w == waves[k]).all()

# odd but plausible input

def odd_waves(w):
    "Waves that would give another image than their user means, and what is said of them"
    shuffled = np.random.default_rng(0).permutation(w.sizes['x'])
    yield w.isel(x=shuffled), 'equal steps'
    yield w.isel(y=slice(None, None, -1)), 'equal steps'
    yield w.assign_coords(x=w.x**1.1), 'equal steps'
    yield w.isel(x=slice(None, None, 2)), 'square'
    yield w.isel(x=slice(None, None, 2), y=slice(None, None, 2)), 'pixel=0.2 in the attributes'
    yield w.assign_coords(x=w.x/10, y=w.y/10), 'pixel=0.2 in the attributes'   # in nm
    yield w.isel(x=slice(40, 80), y=slice(40, 80)), 'whole periodic cell'
    yield w.drop_vars('y'), 'coordinates in Å'
    yield w.isel(y=0), 'expected a DataArray with dims'
    yield w.isel(x=slice(0, 1)), 'at least two along x'
    yield w.to_dataset(name='full'), 'Dataset'
    yield w.real, 'dtype=float'
    yield w.real.astype('f2'), 'dtype=float16'
    yield w.where(w.x > 3), 'no numbers'
    yield w.isel(phonon=slice(0, 0)), 'at least one wave'
    for q in (0., -1., math.nan): yield w.assign_attrs(q_max=q), f'q_max={q}'

def test_odd_waves_are_refused_by_all_who_take_a_wave(waves):
    for wave, said in odd_waves(waves['particle']):
        with pytest.raises(ValueError, match=said): image(wave, pixel=.4)
        with pytest.raises(ValueError, match=said): minimum_contrast_defocus(wave)
        if 'q_max' in said: continue   # a mask asks for no band
        with pytest.raises(ValueError, match=said): phase_mask(wave, pixel=.4)

def test_odd_optics_are_refused(waves):
    w = waves['full']
    for how, said in ((dict(pixel=40.), 'pixel=40: expected at most 16 Å'), (dict(defocus='-100'), "defocus='-100'"), (dict(defocus=True), 'defocus=True'),
                      (dict(defocus=1e9), '0.1 mm'), (dict(focal_spread=10., points=2.5), 'points=2.5'), (dict(points=3, coherent=True), 'points=3'),
                      (dict(coherent='no'), "coherent='no'"), (dict(threads=0), 'threads=0'), (dict(batch=0), 'batch=0')):
        with pytest.raises(ValueError, match=said): image(w, **how)
    with pytest.raises(ValueError, match='expected another name than defocus'): image(w.expand_dims(defocus=[1.]))
    assert image(w, aperture=.001).shape == (2, 2)   # the direct beam alone, on pixels whose size can be told

def test_a_row_of_pixels_is_an_image_of_one_dimension(waves):
    row = waves['full'].isel(y=slice(0, 1))
    a, b = image(row, pixel=.2), image(row.isel(y=[0]*4).assign_coords(y=np.arange(4)*.2), pixel=.2)
    assert a.shape == (1, 160) and np.allclose(a.values[0], b.values[2], atol=1e-5)

def test_several_structures_are_no_phonons(waves):
    two = xr.concat([waves['particle'], waves['particle']], 'structure').assign_attrs(waves['particle'].attrs)
    for ask in (minimum_contrast_defocus, phase_mask):
        with pytest.raises(ValueError, match='expected one structure'): ask(two)
    with pytest.raises(ValueError, match='0 everywhere'): minimum_contrast_defocus(waves['particle']*0)

def test_odd_exposures_are_refused(waves):
    im = image(waves['full'], pixel=.4, defocus=-80.)
    def taken(a, **how): return detect(a, 400., np.random.default_rng(0), **how)
    for a, said in ((im - 1, 'negative values'), (taken(im), 'recorded before'), (waves['full'].isel(phonon=0), 'dtype=complex64'),
                    (im.isel(x=slice(None, None, 2)), 'square'), (im.isel(x=slice(None, None, -1)), 'equal steps')):
        with pytest.raises(ValueError, match=said): taken(a)
        with pytest.raises(ValueError, match=said): expose(a, 400., np.random.default_rng(0))
    for how, said in ((dict(binning=2.), 'binning=2.0'), (dict(binning=True), 'binning=True'), (dict(mtf=(.5, .2)), '1 at zero frequency'), (dict(sensor=1.5), 'sensor=1.5'),
                      (dict(field={'y': slice(70, 200)}), 'field='), (dict(field={'y': slice(70, 60)}), 'field='), (dict(field={'y': 3}), 'field='), (dict(field={'z': slice(2)}), 'field=')):
        with pytest.raises(ValueError, match=said): taken(im, **how)
    with pytest.raises(ValueError, match='binning=8: expected at most 5'): taken(im.isel(x=slice(0, 5)), binning=8)

def test_masks_of_other_scenes_are_refused(waves):
    p, s = waves['particle'], waves['scene']
    elsewhere = s.copy()
    elsewhere.set_cell([40., 40., 50.])
    unnamed = s.copy()
    del unnamed.arrays['particle_id']
    for kind in ('projection', 'closed_projection'):
        with pytest.raises(ValueError, match='expected the scene of this wave'): particle_mask(p, elsewhere, kind)
        with pytest.raises(ValueError, match='no array particle_id'): particle_mask(p, unnamed, kind)
        without = s[s.arrays['particle_id'] < 0]
        assert not particle_mask(p, without, kind).any() and not particle_mask(p, s[:0], kind).any()
    mask = projection(s, p)
    for ask in (edge_distance, lambda m: label_map(s, m)):
        with pytest.raises(ValueError, match='expected a cut'): ask(mask*.3)
    with pytest.raises(ValueError, match='expected the scene of this wave'): label_map(elsewhere, mask)
    forgot = p.drop_attrs().assign_attrs(energy=3e5, beam_tilt=(.2, .1), specimen_tilt=(3., 0.))
    for kind in ('phase', 'projection'):
        with pytest.raises(ValueError, match='plane_z'): particle_mask(forgot, s, kind)

def test_a_tilted_beam_is_not_damped_as_one_along_the_axis():
    n = 64
    y = np.arange(n)*.3
    tilt = (0., np.degrees(np.arcsin(4*.0196875/(n*.3))))   # four periods over the cell
    carrier = np.exp(2j*np.pi*4*np.arange(n)/n)*np.ones((n, 1))
    wave = xr.DataArray(carrier.astype('c8'), dims=('y', 'x'), coords={'y': y, 'x': y}, attrs=dict(energy=3e5, beam_tilt=tilt))
    plain = image(wave, defocus=-20.)
    assert np.allclose(plain, 1, atol=1e-3)
    for how in (dict(convergence=.3), dict(coherent=True, focal_spread=30.)):
        with pytest.raises(ValueError, match='beam_tilt='): image(wave, defocus=-400., **how)
    with pytest.warns(UserWarning, match='the lens moves the image by 1.6 Å'): image(wave, defocus=-400.)
