"""Lens, camera and labels against others and against themselves turned round"""
import math
import numpy as np, pytest, xarray as xr
from hrtem_seg.imaging.cameras import CAMERAS, detect, expose
from hrtem_seg.core.units import coords
from hrtem_seg.core.fourier import freqs
from hrtem_seg.imaging.labels import edge_distance, label_map, phase_map, phase_mask
from hrtem_seg.waves.multislice import exit_wave
from hrtem_seg.imaging.ctf import TEAM05, TERMS, aberration_list, chi
from hrtem_seg.imaging.images import image, minimum_contrast_defocus
from hrtem_seg.structures.scenes import random_scene

@pytest.fixture(scope='module')
def waves():
    s = random_scene(np.random.default_rng(2), cell=(32., 32.), radius=9., thickness=10., n_defects=1)
    w = exit_wave(s, pixel=.2, phonons=2)
    return {k: w[k].assign_attrs(w.attrs) for k in ('full', 'particle')} | {'scene': s}

def abtem_image(wave, C1, aberrations):
    abtem = pytest.importorskip('abtem')
    px = float(wave.x[1]); out = 0.
    names = {f'C{n}{m}': C for n, m, C, _ in aberration_list(aberrations)} | {f'phi{n}{m}': a for n, m, _, a in aberration_list(aberrations) if m}
    for p in wave.values:   # abTEM's axes are (x, y)
        w = abtem.Waves(np.ascontiguousarray(p.T), energy=300e3, sampling=px)
        out = out + np.asarray(w.apply_ctf(abtem.CTF(aberration_coefficients={'C10': C1, **names}, energy=300e3)).intensity().compute().array).T
    return out/len(wave)

@pytest.mark.parametrize('C1, aberrations', [(-120., {}), (80., {'C3': 1.2e7}), (-50., {'A1': (40., 30.), 'B2': (300., 70.)}), (-80., TEAM05)])
def test_images_agree_with_abtem(waves, C1, aberrations):
    ours, theirs = image(waves['full'], defocus=C1, aberrations=aberrations, sampling='wave').values, abtem_image(waves['full'], C1, aberrations)
    assert np.std(ours - theirs)/np.std(theirs) < 1e-4

@pytest.mark.parametrize('turn', [lambda a: a.T, lambda a: a[::-1], lambda a: np.rot90(a)])
def test_round_lens_knows_no_direction(waves, turn):
    def turned(wave): return wave.copy(data=np.stack([turn(p) for p in wave.values]))
    a, b = turn(image(waves['full'], defocus=-70., focal_spread=10., pixel=.2).values), image(turned(waves['full']), defocus=-70., focal_spread=10., pixel=.2).values
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

def test_defocus_is_propagation(waves):
    from hrtem_seg.core.units import wavelength
    w = waves['full']; q2 = sum(f**2 for f in freqs(w.shape[1:], float(w.x[1])))
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
    kw = dict(defocus=-70., aberrations='TEAM05', focal_spread=15.)
    assert np.abs(image(waves['full'], batch=1, **kw).values - image(waves['full'], batch=2, **kw).values).max() < 5e-6

@pytest.mark.parametrize('bad, message', [(dict(aberrations={'Cs': 1.}), 'Cs'), (dict(aberrations={'A1': ('a', 1)}), 'A1'), (dict(focal_spread=-1.), 'focal_spread'),
                                          (dict(aperture=0.), 'aperture'), (dict(drift=(1., 2., 3.)), 'drift'), (dict(convergence=-1.), 'convergence'), (dict(energy=300), 'energy=300')])
def test_bad_optics(waves, bad, message):
    with pytest.raises(ValueError, match=message): image(waves['full'], **bad)

def test_camera_keeps_the_signal(waves):
    im = image(waves['full'], defocus=-100., pixel=.2, sampling='band')
    many = np.mean([detect(im, 2e3, np.random.default_rng(i), **CAMERAS['direct']).values for i in range(30)], 0)
    q = np.hypot(*freqs(im.shape, .5)); want = np.fft.ifft2(np.fft.fft2(im.values)*np.interp(q, np.linspace(0, 1, 11), CAMERAS['direct']['mtf'])).real
    got = many/(2e3*float(im.x[1])**2)
    assert np.corrcoef(got.ravel(), want.ravel())[0, 1] > .99 and abs(got.mean() - im.values.mean()) < .002

def test_counts_follow_poisson_statistics():
    flat = xr.DataArray(np.full((400, 400), 1., 'f4'), dims=('y', 'x'), coords=coords((400, 400), .2))
    from scipy.stats import poisson, chisquare
    c = expose(flat, 100., np.random.default_rng(0)).values
    k = np.arange(13); n = np.array([(c == i).sum() for i in k] + [(c > 12).sum()])
    p = np.append(poisson.pmf(k, 4.), poisson.sf(12, 4.))
    assert chisquare(n, p*c.size).pvalue > 1e-3

def test_mask_does_not_depend_on_optics_or_threads(waves):
    import torch
    m = phase_mask(waves['particle']).values; n = torch.get_num_threads()
    try: torch.set_num_threads(2); assert (phase_mask(waves['particle']).values == m).all()
    finally: torch.set_num_threads(n)
    assert 0 < m.mean() < .6

def test_labels_partition_the_mask(waves):
    m = phase_mask(waves['particle']); g = label_map(waves['scene'], m, 'grain_id')
    assert ((g.values >= 0) == m.values).all() and set(np.unique(g)) <= set(waves['scene'].arrays['grain_id']) | {-1}
    assert (edge_distance(m).values > 0).tolist() == m.values.tolist()
    for bad in (0., -1., math.pi, 4.):
        with pytest.raises(ValueError, match='threshold'): phase_mask(waves['particle'], threshold=bad)
    with pytest.raises(ValueError, match="by='element'"): label_map(waves['scene'], m, 'element')

def test_a_wave_is_left_as_it_was(waves):
    w = waves['full'].copy(deep=True)
    image(w, defocus=-70., focal_spread=10., vibration=.3); minimum_contrast_defocus(w)
    assert (w == waves['full']).all()
