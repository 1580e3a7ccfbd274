"Many waves, images and fields in one array give what they give one by one; on any device, and with no traffic between"
import warnings
import ase, numpy as np, pytest, torch, xarray as xr
from hrtem_seg.core.devices import as_device, by_torch, count_transfers, fitting_batch, is_native
from hrtem_seg.core.units import coords
from hrtem_seg.data import generation
from hrtem_seg.data.generation import generate, repair
from hrtem_seg.data.reimaging import Redraw
from hrtem_seg.data.samples import make_structures
from hrtem_seg.data.stacks import damaged, finished, open_stack, structure_record
from hrtem_seg.imaging.cameras import CAMERAS, Recording, detect, detect_all
from hrtem_seg.imaging.images import View, image, image_views, minimum_contrast_defocus
from hrtem_seg.learning.samples import Batches, Samples
from hrtem_seg.learning.training import fit
from hrtem_seg.waves.multislice import exit_wave, exit_waves, one_structure, wave_error

TINY = dict(n_structures=5, seed=3, scene=dict(cell=(25.6, 25.6), radius=('uniform', 4., 6.), thickness=6.),
            wave=dict(pixel=.3, q_max=.8), pixel=.5, doses=[300.], crop=32, workers=0, progress=False)

pytestmark = pytest.mark.usefixtures('one_thread')

def slab(seed, thickness, numbers=(6, 79), edge=25.6):
    "Atoms at random in a thin box, the heavy ones in a particle"
    rng = np.random.default_rng(seed)
    scene = ase.Atoms(numbers=rng.choice(numbers, 120), positions=rng.uniform(0, [edge, edge, thickness], (120, 3)),
                      cell=[edge, edge, thickness + 4], pbc=[1, 1, 0])
    scene.arrays['particle_id'] = np.where(scene.numbers == 79, 0, -1).astype('i2')
    return scene

HOW = [dict(), dict(phonons=3), dict(rms=.08, absorption='thermal'), dict(rms='table'), dict(absorption=.1), dict(beam_tilt=(0., .4)),
       dict(substrate_thickness=6.), dict(projection='finite', slice_thickness=4.), dict(precision='double')]

@pytest.mark.parametrize('how', HOW, ids=lambda how: ' '.join(how) or 'plain')
def test_waves_of_unlike_scenes_pass_together(how):
    scenes = [slab(0, 7.), slab(1, 13.), slab(2, 9.)]
    how = dict(how, pixel=.25)
    alone = [exit_wave(scene, seed=k, **how) for k, scene in enumerate(scenes)]
    with by_torch(): together = exit_waves(scenes, seed=range(3), batch=5, **how)
    native = exit_waves(scenes, seed=range(3), batch=5, **how)
    for waves in (together, native):
        for k, one in enumerate(alone):
            mine = one_structure(waves, k)
            assert max(wave_error(mine[name][p], one[name][p]) for name in ('full', 'particle') for p in range(one.sizes['phonon'])) < 5e-6
            assert mine.attrs.keys() == one.attrs.keys() and mine.plane_z == one.plane_z

def test_a_batch_of_configurations_is_the_scene_s_own_to_rounding_and_no_slice_waits():
    scene = slab(0, 12.)
    few = slab(0, 4.)
    seen = []
    for s in (few, scene):
        with by_torch(), count_transfers() as count: exit_wave(s, phonons=4, batch=4, pixel=.25)
        seen.append(count)
    assert seen[0]['out'] == seen[1]['out'] == 4     # two waves, `.cpu().numpy()`
    assert seen[0]['in'] == seen[1]['in']            # thrice the slices, no more traffic

def test_one_at_a_time_the_cpu_is_native():
    assert is_native('cpu') and is_native(torch.zeros(1))
    with by_torch(): assert not is_native('cpu')
    assert is_native('cpu') and not is_native('cuda')

def test_scenes_whose_smeared_displacements_differ_are_refused(monkeypatch):
    from hrtem_seg.waves import multislice
    gold = [slab(k, 6., (79, 79)) for k in range(2)]
    monkeypatch.setattr(multislice, 'thermal_displacements', lambda scene: {'Au': .08 if scene is gold[0] else .09})
    with pytest.raises(ValueError, match='scene 1: Au moves by 0.0900 Å in it and by 0.0800 Å'): exit_waves(gold, rms='table', pixel=.25)
    exit_waves(gold, rms='table', phonons=1, pixel=.25)   # where potentials are not smeared each moves by its own

def test_batch_fits_the_memory(monkeypatch):
    from hrtem_seg.core import devices
    monkeypatch.setattr(devices, 'free_memory', lambda device: 1e9)
    assert fitting_batch(1e8, share=.5) == 5 and fitting_batch(1e8, 4e8, share=.5) == 1 and fitting_batch(1e12) == 1
    assert fitting_batch(1., most=64) == 64

def wave(seed, shape=(60, 80), phonons=2):
    rng = np.random.default_rng(seed)
    a = 1 + .1*rng.normal(size=(phonons, *shape)) + .1j*rng.normal(size=(phonons, *shape))
    return xr.DataArray(a.astype('c8'), dims=('phonon', 'y', 'x'), coords=coords(shape, .3), attrs=dict(energy=300e3, q_max=1.2))

LENSES = [{}, {'focal_spread': 10., 'aberrations': 'TEAM05'}, {'focal_spread': 40., 'aberrations': {'A1': (30., 20.), 'C3': 1e6}},
          {'convergence': .3, 'vibration': .3, 'drift': (.5, 1.)}, {'coherent': True, 'focal_spread': 20.}, {'aperture': .7}]

@pytest.mark.parametrize('how', [dict(pixel=.7), dict(pixel=.7, sampling='band'), dict(), dict(sampling='wave')], ids=str)
def test_images_of_many_lenses_at_once(how):
    pixel = how.get('pixel')
    waves = [wave(0), wave(1)]
    views = [View(waves[k % 2], -70. - 9*k, lens, pixel, how.get('sampling', 'area')) for k, lens in enumerate(LENSES)]
    alone = [image(v.wave, defocus=v.defocus, pixel=pixel, sampling=v.sampling, **v.optics) for v in views]
    with by_torch(): together = image_views(views, batch=4)
    for a, b in zip(together, alone):
        assert np.abs(a.values - b.values).max() < 5e-6 and a.dtype == b.dtype and a.coords.equals(b.coords)
        assert a.attrs == b.attrs

def test_focal_series_and_least_contrast_by_torch():
    w = wave(3)
    foci = [-100., 0., 40.]
    with by_torch(): series, least = image(w, defocus=foci, focal_spread=10., pixel=.7), minimum_contrast_defocus(w)
    assert np.abs(series - image(w, defocus=foci, focal_spread=10., pixel=.7)).max() < 5e-6
    assert least == minimum_contrast_defocus(w)

def test_views_are_refused_by_name():
    with pytest.raises(ValueError, match='expected one structure'): image_views([View(wave(0).expand_dims('structure'))])
    with pytest.raises(ValueError, match='defocus=nan'): image_views([View(wave(0), float('nan'))])
    with pytest.raises(ValueError, match='batch=-1'): image_views([View(wave(0))], batch=-1)

def test_electrons_are_those_of_each_image_s_own_generator():
    flat = xr.DataArray(1 + .2*np.random.default_rng(0).random((40, 50)).astype('f4'), dims=('y', 'x'), coords=coords((40, 50), .4), attrs=dict(sampling='area'))
    cameras = [*CAMERAS.values(), {}, dict(read_noise=2.), dict(mtf=[1., .4]), dict(dqe=[.5, .3], field={'y': slice(4, 36), 'x': slice(0, 32)})]
    def recordings(): return [Recording(flat, 20.*(k + 1), np.random.default_rng(k), camera) for k, camera in enumerate(cameras)]
    alone = [detect(r.intensity, r.dose, r.rng, **r.camera) for r in recordings()]
    for batch in (None, 1, 3):
        for a, b in zip(detect_all(recordings(), batch=batch), alone):
            assert np.abs(a.values - b.values).max() < 1e-3 and a.attrs == b.attrs   # an electron more would be 0.1 at least
    with pytest.raises(ValueError, match='expected 1 at zero frequency'): detect_all([Recording(flat, 20., np.random.default_rng(0), dict(mtf=[.4, .3]))])

@pytest.fixture(scope='module')
def batched(tmp_path_factory):
    path = tmp_path_factory.mktemp('batched')/'stack'
    generate(path, batch=2, **TINY)
    return path

def test_a_stack_in_batches_is_the_stack(batched, tmp_path):
    ds, one = open_stack(batched), generate(tmp_path/'one', **TINY)
    assert [structure_record(batched, n)['together'] for n in range(5)] == [[0, 1], [0, 1], [2, 3], [2, 3], [4]]
    assert 'together' not in structure_record(tmp_path/'one', 0)
    for name in one.coords:
        assert (ds[name] == one[name]).all(), name
    assert (ds.mask == one.mask).all()
    assert (ds.image.mean(('y', 'x'))/one.image.mean(('y', 'x')) - 1 < .02).all()
    assert ((ds.image == one.image).mean(('y', 'x')) > .99).sum() >= 3   # where no electron more went through, all are the same

def test_batches_are_resumed_and_mended_to_the_bit(batched, tmp_path):
    import shutil
    path = shutil.copytree(batched, tmp_path/'stack')
    before = open_stack(batched).image.values
    (path/'finished'/'000003.json').unlink()
    generate(path, batch=2, **TINY)
    assert (open_stack(path).image.values == before).all()
    chunk = next((path/'image'/'c'/'1').rglob('0'))
    chunk = chunk/'0' if chunk.is_dir() else chunk
    chunk.write_bytes(chunk.read_bytes()[:-9])
    assert {loss.number for loss in damaged(path)} == {1}
    repair(path)
    assert damaged(path) == [] and (open_stack(path).image.values == before).all()

def test_a_bad_structure_costs_its_batch_nothing(tmp_path, monkeypatch):
    real = generation.make_structure
    def together(settings, numbers, *a): return 1/0 if 3 in numbers else make_structures(settings, numbers, *a)
    def alone(settings, number, *a): return 1/0 if number == 3 else real(settings, number, *a)
    monkeypatch.setattr(generation, 'make_structures', together)
    monkeypatch.setattr(generation, 'make_structure', alone)
    with pytest.raises(RuntimeError, match='1 of 3 structures failed .* structure 3: ZeroDivisionError'): generate(tmp_path/'stack', batch=2, **TINY)
    assert finished(tmp_path/'stack') == [0, 1, 2, 4]

def test_redrawn_images_do_not_depend_on_how_many_are_made_together(batched):
    ds = open_stack(batched)
    how = dict(defocus=('uniform', -200., 0.), optics={'focal_spread': 10.}, camera='direct')
    one, many = (Redraw(batched, ds, batch=n, **how) for n in (1, 3))
    (a, mask), (b, same) = (r.read(range(5), np.random.default_rng(0)) for r in (one, many))
    assert (mask == same).all() and np.allclose(a.mean((1, 2)), b.mean((1, 2)), rtol=.01)
    assert one.settings == many.settings and one.settings['generators'] == 'own'
    assert 'generators' not in Redraw(batched, ds, **how).settings   # as before

def stack(n=6, side=40):
    rng = np.random.default_rng(0)
    a = rng.poisson(20, (n, side, side)).astype('f4')
    a[2, 3, 3] = 900.   # a speck
    return xr.Dataset({'image': (('sample', 'y', 'x'), a), 'mask': (('sample', 'y', 'x'), (a > 22).astype('u1'))})

AUGMENT = [{'dihedral': True}, {'rotate': 1.}, {'crop': 20, 'fields': 2}, {'crop': 16, 'zoom': (.6, 2.)}, {'blur': (0., 2.)}, {'noise': (0., 1.)},
           {'dihedral': True, 'rotate': .5, 'crop': 16, 'fields': 2, 'zoom': (.8, 1.6), 'blur': .5, 'noise': .3}]

@pytest.mark.parametrize('augment', AUGMENT, ids=lambda a: ' '.join(a))
@pytest.mark.parametrize('shape', [(40, 40), (40, 30)])
def test_augmentation_by_torch(augment, shape):
    ny, nx = shape
    samples = Samples(stack().isel(y=slice(ny), x=slice(nx)), augment)
    x, y = samples.batch(range(6), np.random.default_rng(1))
    with by_torch(), count_transfers() as count: on_device, classes = samples.batch(range(6), np.random.default_rng(1), 'cpu')
    assert (x - on_device).abs().max() < 2e-5 and (y == classes).all()
    assert on_device.dtype == x.dtype and classes.dtype == y.dtype
    assert count['out'] <= 4   # flags of specks, and the one image that has some

def test_batches_go_to_the_device_of_their_loader():
    samples = Samples(stack(), {'dihedral': True, 'blur': .5})
    loader = Batches(samples, 3, True, 1, torch.device('cpu'))
    plain = [x for x, _ in loader]
    with by_torch(): moved = [x for x, _ in loader]
    assert all((a - b).abs().max() < 2e-5 for a, b in zip(plain, moved))

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a card')
def test_a_card_that_is_not_there_is_refused_before_anything_is_done(tmp_path, batched):
    ds = open_stack(batched)
    said = "device='cuda': expected one of this machine"
    calls = [lambda: exit_wave(slab(0, 5.), device='cuda'), lambda: generate(tmp_path/'none', device='cuda', **TINY),
             lambda: Redraw(batched, ds, device='cuda'), lambda: fit('UNet', ds, ds, device='cuda'), lambda: as_device('cuda')]
    for call in calls:
        with pytest.raises(ValueError, match=said): call()
    assert not (tmp_path/'none').exists()

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a graphics card')
def test_a_card_gives_what_the_cpu_gives():
    scene = slab(0, 9.)
    there, here = (exit_wave(scene, phonons=2, pixel=.25, device=device) for device in ('cuda', 'cpu'))
    assert max(wave_error(there.full[p], here.full[p]) for p in range(2)) < 1e-5
    views = [View(wave(0), -70., lens, .7) for lens in LENSES]
    for a, b in zip(image_views(views, device='cuda'), image_views(views)): assert np.abs(a.values - b.values).max() < 1e-5
    samples = Samples(stack(), AUGMENT[-1])
    (x, y), (u, v) = (samples.batch(range(6), np.random.default_rng(1), device) for device in (None, 'cuda'))
    assert (x - u.cpu()).abs().max() < 1e-4 and (y == v.cpu()).float().mean() > .999
