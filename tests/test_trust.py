"When a network is out of its depth: what is said of it, and what is said when it cannot be known"
import ast, shutil
import numpy as np, pandas as pd, pytest, tifffile, xarray as xr
from hypothesis import given, settings, strategies as st
from scipy.ndimage import gaussian_filter
from hrtem_seg.core.fourier import freqs
from hrtem_seg.core.units import coords
from hrtem_seg.data.settings import StackSettings, check_settings
from hrtem_seg.experiments.settings import stack_settings
from hrtem_seg.imaging.cameras import CAMERAS, detect
from hrtem_seg.imaging.ctf import ctf
from hrtem_seg.imaging.transfer import TYPICAL, Condition, likeness, loudness, transferred_share
from hrtem_seg.learning.kept import amend_record, load_network
from hrtem_seg.learning.samples import Samples
from hrtem_seg.micrographs.domain import Domain, FEATURES, place_of, training_domain
from hrtem_seg.micrographs.estimates import Estimates, Focus, estimate
from hrtem_seg.micrographs.micrograph import micrograph
from hrtem_seg.segmentation.files import segment_file
from hrtem_seg.segmentation.segmentation import segment, shipped_network
from hrtem_seg.learning.calibration import Calibration, Signs, at_temperature, fit_calibration, particle_signs, warning_of
from hrtem_seg.segmentation.trust import assess, cover_section, equivalent_dose

conditions = st.builds(
    Condition, defocus=st.floats(-1000, 1000), dose=st.floats(1, 1e5), pixel=st.floats(.2, 1.5), focal_spread=st.floats(0, 60),
    aberrations=st.sampled_from([None, 'TEAM05', {'C3': 1.2e7}, {'B2': (500., 30.)}]), camera=st.sampled_from([None, *CAMERAS]))

@settings(max_examples=40, deadline=None)
@given(conditions, conditions)
def test_likeness_is_a_cosine_and_the_share_a_share(a, b):
    assert -1 - 1e-9 <= likeness(a, b) <= 1 + 1e-9
    assert 0 <= transferred_share(a) <= 1.03
    assert np.isfinite(loudness(a, b)) and abs(loudness(a, a)) < 1e-9

@pytest.mark.parametrize('camera', ['scintillator', 'direct'])
def test_twice_the_efficiency_is_twice_the_dose(camera):
    table = CAMERAS[camera]
    half = dict(table, dqe=[v/2 for v in table['dqe']])
    assert transferred_share(Condition(dose=200., camera=half)) == pytest.approx(transferred_share(Condition(dose=100., camera=camera)))

@pytest.mark.parametrize('camera, binning', [('scintillator', 2), ('direct', 2), ('direct', 3)])
def test_a_summed_camera_is_what_its_recorded_images_say(camera, binning):
    "Gratings keep the contrast that a condition says, and empty images have its noise with what folds back; one pixel is as before"
    camera = dict(CAMERAS[camera], binning=binning)
    condition, n = Condition(pixel=.6, camera=camera, dose=1000.), 360
    own = .6/binning
    def recorded(values, dose, seed):
        picture = xr.DataArray(values, dims=('y', 'x'), coords=coords((n, n), own), attrs={'sampling': 'area'})
        counts = detect(picture, dose, np.random.default_rng(seed), **camera).values
        return counts/counts.mean() - 1
    x = np.arange(n)
    for q in (.2, .5, .78):
        k = round(q*n*own)
        wave = 1 + .5*np.sinc(k/n)*np.cos(2*np.pi*k*x/n)*np.ones((n, 1))
        left = 4*abs(np.fft.fft2(recorded(wave, 1e6, 0))[0, k])*binning**2/n**2
        assert left == pytest.approx(float(condition.mtf(np.array([k/(n*own)]))[0]), rel=.015)
    power = np.mean([abs(np.fft.fft2(recorded(np.ones((n, n)), 1000., i)))**2*.36*binning**2/n**2 for i in range(12)], 0)
    r = np.hypot(*freqs(power.shape, .6))
    for q in (.35, .6, .8):
        at = np.array([q])
        assert power[abs(r - q) < .04].mean() == pytest.approx(float((condition.mtf(at)**2*condition.noise(at))[0]), rel=.04)
    one = {**camera, 'binning': 1}
    assert Condition(camera=one).mtf(at) == np.interp(at, np.linspace(0, 1/1.2, 11), camera['mtf'])

def pictures(n, blur=.8, side=64, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([gaussian_filter(rng.poisson(100, (side, side)).astype('f4'), rng.uniform(.8, 1.2)*blur) for _ in range(n)])

def stack_of(images, pixel=.6):
    mask = np.zeros(images.shape, 'u1')
    mask[:, 20:40, 20:40] = 1
    dims = ('sample', 'y', 'x')
    return xr.Dataset({'image': (dims, images), 'mask': (dims, mask)}, coords(images.shape[1:], pixel))

def test_the_domain_is_the_same_by_every_way_that_gives_the_same_images():
    stack = stack_of(pictures(48))
    class Drawn:
        def __init__(self): self.stack = stack
        def read(self, idx, rng): return stack.image.values[idx], stack.mask.values[idx] > 0
    plain = training_domain(stack)
    assert training_domain(Drawn()).to_record() == plain.to_record()
    np.testing.assert_allclose(training_domain(Samples(stack)).low, plain.low, atol=.05)   # standardised before
    assert plain.pixel == pytest.approx(.6) and plain.n == 48 and plain.side == 64

def test_images_of_another_kind_are_outside_and_their_numbers_named():
    domain = Domain.from_record(training_domain(stack_of(pictures(80))).to_record())
    own, strange = pictures(8, seed=5), pictures(8, blur=2.5, seed=6)
    assert sum(place_of(a, domain).inside for a in own) >= 7
    for a in strange:
        place = place_of(a, domain)
        assert not place.inside and place.outside and place.outside[0].name in FEATURES

@pytest.mark.parametrize('change, said', [(dict(features=['x']), 'training_domain'), (dict(kind='x'), 'is no domain')])
def test_a_domain_that_this_version_did_not_measure_is_refused(change, said):
    record = training_domain(stack_of(pictures(40))).to_record()
    with pytest.raises(ValueError, match=said): Domain.from_record(record | change)

@pytest.fixture(scope='module')
def network(tmp_path_factory):
    "The shipped network's weights, with a domain and a calibration of no great worth"
    folder = tmp_path_factory.mktemp('trust')/'network'
    shutil.copytree(shipped_network(), folder)
    calibration = Calibration(usual=.9, temperature=1.3, coefficients=(1., .5, -.5, -.5, 0.), levels=(.5, .8),
                              residuals=((-.2, .1), (-.1, .1), (-.05, .02)), particle=(0., 1., 0., 0.), diameter=(-1.5, .5),
                              elsewhere=True, n=40, reach=50.)
    pixel = load_network(folder)[1]['data']['train']['pixel']
    amend_record(folder, True, domain=training_domain(stack_of(pictures(48), pixel)).to_record(), trust=calibration.to_record())
    return folder

def field(seed=0, side=160):
    "A dark disc on a speckled film"
    rng = np.random.default_rng(seed)
    y, x = np.indices((side, side))
    film = gaussian_filter(rng.normal(0, 1, (side, side)), 1.2)
    return (100 + 40*film - 25*(np.hypot(y - 80, x - 80) < 30) + rng.normal(0, 5, (side, side))).astype('f4')

def test_a_file_carries_what_is_thought_of_it(network, tmp_path):
    tifffile.imwrite(tmp_path/'a.tif', field())
    got = segment_file(tmp_path/'a.tif', .6, network, tmp_path/'out')
    judged = got.record['trust']
    assert judged['line'] in str(got) and judged['inside'] in (True, False) and 0 <= judged['low'] <= judged['dice'] <= judged['high'] <= 1
    table = pd.read_csv(tmp_path/'out/a_particles.csv')
    assert {'p_real', 'diameter_low_nm', 'diameter_high_nm'} <= set(table)
    assert (table.diameter_low_nm < table.diameter_high_nm).all() and table.p_real.between(0, 1).all()
    assert str(segment_file(tmp_path/'a.tif', .6, network, tmp_path/'out')).count(judged['line']) == 1   # done before
    assert (judged['estimates']['energy'], judged['estimates']['C3']) == (300e3, 0.)
    with pytest.raises(FileExistsError, match='other settings'): segment_file(tmp_path/'a.tif', .6, network, tmp_path/'out', C3=1.2e7)

def test_of_a_network_without_a_domain_nothing_is_said_but_that(tmp_path):
    net, record = load_network(shipped_network())
    bare = net, {k: v for k, v in record.items() if k not in ('domain', 'trust')}
    got = assess(micrograph(field(), .6), bare)
    assert got.inside is None and np.isnan(got.dice) and not got.simulate and 'cannot be known' in str(got)
    assert got.to_record()['dice'] is None

def test_far_from_home_no_dice_is_told_by_a_calibration_that_never_left_it(network):
    net, record = load_network(network)
    home = record['trust'] | {'elsewhere': False}
    strange = micrograph(1000*np.random.default_rng(0).random((96, 96)), .6)
    got = assess(strange, (net, record | {'trust': home}))
    assert got.inside is False and np.isnan(got.dice) and 'alone' in str(got)

def test_a_movie_is_judged_by_its_first_frame(network):
    one = assess(micrograph(field(), .6), network, cleaning=False)
    several = assess(micrograph(np.stack([field(), field(1)]), .6), network, cleaning=False)
    assert several.distance == pytest.approx(one.distance, abs=1e-6)

@pytest.mark.parametrize('labels', ['all', 'most'])
def test_no_film_in_view_is_said(labels):
    mask = np.ones((160, 160), int)
    if labels == 'most': mask[:20] = 0
    got = estimate(field(), .6, mask)
    assert 'too little film' in got.reason and not got.focus.known and np.isnan(got.signal)

def test_what_to_simulate_can_be_pasted_into_settings_ini(network, tmp_path, monkeypatch):
    got = assess(micrograph(gaussian_filter(field(), 3), .6), network)
    assert got.inside is False
    (tmp_path/'nbs/studies').mkdir(parents=True)
    (tmp_path/'settings.ini').write_text(got.simulate)
    settings = stack_settings('cover', tmp_path)
    assert settings['pixel']*settings['camera']['binning'] == .6 and settings['n_structures'] == 200 and 'scene' in settings

def film_at(energy, n=400, pixel=.5):
    "Film of the typical spectrum, 25 nm under focus"
    rng = np.random.default_rng(1)
    qy, qx = freqs((n, n), pixel)
    transfer = 2*ctf(qy, qx, energy, defocus=-250., focal_spread=5.)
    white = np.fft.fft2(rng.normal(size=(n, n)))/pixel
    ideal = 1 + np.fft.ifft2(white*np.sqrt(TYPICAL.at(np.hypot(qy, qx))[1])*transfer).real
    return rng.poisson(ideal.clip(0)*2000*pixel**2).astype('f4')

@pytest.mark.parametrize('told, energy', [(200., 200e3), (None, 300e3), (0., 300e3)])
def test_focus_is_read_at_the_voltage_that_the_file_says(network, told, energy):
    image = micrograph(film_at(energy), .5, voltage_kV=told)
    nothing = xr.Dataset({'probability': image*0 + .01, 'labels': image.astype(int)*0})
    got = assess(image, network, nothing, cleaning=False)
    assert got.estimates.energy == energy and abs(got.estimates.focus.defocus - 250) < 12
    assert f"'energy': {energy}" in got.simulate
    assert assess(image, network, nothing, cleaning=False, C3=1.2e7).estimates.C3 == 1.2e7

@pytest.mark.parametrize('pixel, field', [(.6, 176), (1.2, 166)])   # 166: a cell of 200 Å holds no more
def test_what_covers_an_image_has_its_pixel_its_field_and_its_dose(pixel, field):
    "Of the shipped network, whose camera has binning and which saw cells of two sizes"
    record = load_network(shipped_network())[1]
    found = Estimates(pixel, Focus(200., 180., 220.), signal=.5, energy=200e3, C3=1e7)
    lines = cover_section(record, found, 176).splitlines()[1:]
    made = {k: ast.literal_eval(v) for k, v in (line.split(' = ', 1) for line in lines)}
    binning = made['camera']['binning']
    assert binning == 2 and made['pixel']*binning == pytest.approx(pixel) and made['crop'] == field*binning
    assert made['wave']['energy'] == 200e3 and made['optics']['aberrations']['C3'] == 1e7
    camera = {k: v for k, v in made['camera'].items() if k != 'illumination'}
    alike = Condition(-200., pixel=pixel, aberrations={'C3': 1e7}, camera=camera, energy=200e3)
    assert made['doses'][0][1] == pytest.approx(equivalent_dose(.5, alike), rel=.1)
    check_settings(StackSettings(**made, images_per_structure=1, splits={'train': 1.}, keep=None))

def test_temperature_keeps_the_mask_and_bad_ones_are_refused():
    p = np.random.default_rng(0).random(1000).astype('f4')
    assert ((at_temperature(p, 4.) > .5) == (p > .5)).all()
    for wrong in (0., -1., np.nan, '1'):
        with pytest.raises(ValueError, match='temperature='): at_temperature(p, wrong)

def test_a_calibration_survives_its_record_and_needs_images():
    with pytest.raises(ValueError, match='0 images'): fit_calibration([])
    with pytest.raises(ValueError, match='is no calibration'): Calibration.from_record({'kind': 'network'})

def test_particles_with_nothing_in_doubt_have_narrow_bands():
    labels = np.zeros((60, 60), int)
    labels[20:40, 20:40] = 1
    sharp = particle_signs(labels, np.where(labels, .99, .01), 1.)
    soft = particle_signs(labels, gaussian_filter(np.where(labels, .99, .01), 4), 1.)
    assert sharp.band[0] == .5 < soft.band[0]
    assert len(particle_signs(np.zeros((60, 60), int), np.zeros((60, 60)), 1.)) == 0

def test_a_warning_rises_with_distance_and_with_the_fall_that_is_expected(network):
    calibration = Calibration.from_record(load_network(network)[1]['trust'])
    near, far, beyond = (Signs(.95, .1, .2, d) for d in (.3, 3., 80.))   # 80 is farther than any of the calibration
    assert warning_of(near, calibration) < warning_of(far, calibration)
    assert warning_of(beyond, calibration) == 80. and not calibration.reaches(beyond) and calibration.reaches(far)
    assert warning_of(Signs(.3, 5., .01, .3), calibration) > 1
