"""Stacks under fire: killed jobs and workers, damaged files, other settings, leaks"""
import json, os, signal, subprocess, sys, threading, time
import numpy as np, pytest, xarray as xr
from pathlib import Path
from hrtem_seg.core.records import checksum
from hrtem_seg.core.work import local_client
from hrtem_seg.data.generation import generate, regenerate, repair
from hrtem_seg.data.reimaging import Redraw
from hrtem_seg.data.samples import make_structure
from hrtem_seg.data.stacks import damaged, finished, leaks, lost, merge, open_stack, open_wave, save_images, save_netcdf, select, stack_record, structure_record

ASKED = dict(n_structures=8, seed=5, scene=dict(cell=[25.6, 25.6], radius=['uniform', 5., 8.], thickness=10.), wave=dict(pixel=.2, phonons=2),
             optics=dict(focal_spread=10.), doses=[50., 400.], defocus=['normal', -100., 15.], crop=96)
FILES = ('finished/*.json', 'image/c/*/*/*', 'mask/c/*/*/*', 'waves/*/c/*/*/*/*/*')
JOB = f'''
from hrtem_seg.data.generation import generate
if __name__ == '__main__':
    import sys
    generate(sys.argv[1], workers=2, progress=False, **{ASKED!r})
'''

def bits(path):
    "Every file that a job writes, without what may differ: nothing"
    return {str(f.relative_to(path)): f.read_bytes() for g in FILES for f in path.glob(g)}

def wait_for(what, seconds=90):
    end = time.time() + seconds
    while not what():
        assert time.time() < end, 'waited too long'
        time.sleep(.02)

def alive(pid):
    try: return open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[0] != 'Z'
    except FileNotFoundError: return False

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "The stack made in one go, in this process"
    path = tmp_path_factory.mktemp('whole')/'stack'
    generate(path, workers=0, progress=False, **ASKED)
    return path

def test_killed_job_resumes_to_the_same_bits(whole, tmp_path):
    (tmp_path/'job.py').write_text(JOB)
    path = tmp_path/'stack'
    job = subprocess.Popen([sys.executable, tmp_path/'job.py', path], start_new_session=True)
    wait_for(lambda: path.exists() and len(finished(path)) >= 3)
    os.kill(job.pid, signal.SIGKILL)
    job.wait()
    wait_for(lambda: not any(alive(p) for p in os.listdir('/proc') if p.isdigit() and in_session(p, job.pid)) if os.path.isdir('/proc') else True)
    done = finished(path)
    assert 3 <= len(done) < ASKED['n_structures']
    with pytest.warns(UserWarning, match=f"{len(done)} of {ASKED['n_structures']} structures are finished"): part = open_stack(path)   # what is there is whole
    assert part.sizes['sample'] == 2*len(done) and not damaged(path)
    before = {n: (path/f'finished/{n:06d}.json').stat().st_mtime_ns for n in done}
    again = generate(path, workers=0, progress=False, **ASKED)
    assert all((path/f'finished/{n:06d}.json').stat().st_mtime_ns == t for n, t in before.items())   # nothing was made twice
    assert bits(path) == bits(whole)
    assert again['sample'].values.tolist() == list(range(16))

def in_session(pid, leader):
    try: return int(open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[3]) == leader
    except (FileNotFoundError, ProcessLookupError): return False

def test_killed_worker_costs_nothing(whole, tmp_path):
    client = local_client(2)
    cluster = client.cluster
    try:
        job = threading.Thread(target=generate, args=(tmp_path/'stack',), kwargs=dict(client=client, progress=False, **ASKED))
        job.start()
        wait_for(lambda: (tmp_path/'stack').exists() and len(finished(tmp_path/'stack')) >= 2)
        os.kill(next(iter(client.run(os.getpid).values())), signal.SIGKILL)
        job.join(120)
        assert not job.is_alive() and bits(tmp_path/'stack') == bits(whole)
    finally:
        client.close()
        cluster.close()

@pytest.mark.parametrize('script, message', [
    ("from hrtem_seg.data.generation import generate\ngenerate({path!r}, workers=2, progress=False, **{asked!r})", "job.py: new processes read the script"),
    ("from hrtem_seg.core.work import local_client\nif __name__ == '__main__': pass\nlocal_client(1)", 'the worker processes did not start')])
def test_script_without_guard_is_told_in_one_line(tmp_path, script, message):
    (tmp_path/'job.py').write_text(script.format(path=str(tmp_path/'stack'), asked=ASKED))
    done = subprocess.run([sys.executable, tmp_path/'job.py'], capture_output=True, text=True, timeout=120)
    said = done.stderr.strip().splitlines()
    assert done.returncode == 1 and said[-1].startswith('RuntimeError') and message in said[-1] and "if __name__ == '__main__':" in said[-1]
    assert done.stderr.count('Traceback') == 1 and not (tmp_path/'stack').exists()

def dask(*args):
    return subprocess.Popen([sys.executable, '-m', 'dask', *map(str, args)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

def test_scheduler_of_others_and_a_killed_worker(whole, tmp_path):
    "`dask scheduler` and two `dask worker`, each a process of its own, as on a cluster; one worker dies"
    from distributed import Client
    known = tmp_path/'scheduler.json'
    started = [dask('scheduler', '--port', 0, '--no-dashboard', '--host', '127.0.0.1', '--scheduler-file', known)]
    try:
        wait_for(known.exists)
        address = json.loads(known.read_text())['address']
        started += [dask('worker', address, '--nthreads', 1, '--no-nanny', '--no-dashboard') for _ in range(2)]
        with Client(address) as c: c.wait_for_workers(2, timeout=90)
        path = tmp_path/'stack'
        job = threading.Thread(target=generate, args=(path,), kwargs=dict(scheduler=address, progress=False, **ASKED))
        job.start()
        wait_for(lambda: len(finished(path)) >= 2)
        started[1].kill()
        assert len(finished(path)) < ASKED['n_structures']
        job.join(120)
        assert not job.is_alive() and bits(path) == bits(whole)
    finally:
        for p in reversed(started):
            p.kill()
            p.wait()

def test_killed_scheduler_is_said_and_the_same_call_goes_on(whole, tmp_path):
    from distributed import Client
    known = tmp_path/'scheduler.json'
    started = [dask('scheduler', '--port', 0, '--no-dashboard', '--host', '127.0.0.1', '--scheduler-file', known)]
    said = []
    def ask():
        try: generate(tmp_path/'stack', scheduler=address, progress=False, **ASKED)
        except RuntimeError as e: said.append(str(e))
    try:
        wait_for(known.exists)
        address = json.loads(known.read_text())['address']
        started.append(dask('worker', address, '--nthreads', 1, '--no-nanny', '--no-dashboard'))
        with Client(address) as c: c.wait_for_workers(1, timeout=90)
        job = threading.Thread(target=ask)
        job.start()
        wait_for(lambda: len(finished(tmp_path/'stack')) >= 2)
        started[0].kill()
        job.join(120)
        assert len(said) == 1 and said[0].startswith('the scheduler of the workers does not answer any more')
    finally:
        for p in reversed(started):
            p.kill()
            p.wait()
    assert 2 <= len(finished(tmp_path/'stack')) < ASKED['n_structures']
    generate(tmp_path/'stack', workers=0, progress=False, **ASKED)
    assert bits(tmp_path/'stack') == bits(whole)

def test_cluster_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="scheduler='tcp://127.0.0.1:9': no Dask scheduler answers"): generate(tmp_path/'stack', scheduler='tcp://127.0.0.1:9', progress=False, **ASKED)
    with pytest.raises(ValueError, match='neither client nor workers'): generate(tmp_path/'stack', scheduler='tcp://127.0.0.1:9', workers=2, progress=False, **ASKED)
    assert not (tmp_path/'stack').exists()

def test_structure_does_not_depend_on_its_neighbours(whole):
    settings = stack_record(whole)['settings']
    made, ds = make_structure(settings, 6), open_stack(whole)
    assert (made.samples[1].pictures['image'] == ds.image.values[13]).all()

def test_existing_store_is_never_overwritten(whole, tmp_path):
    before = bits(whole)
    for change in (dict(seed=6), dict(doses=[50.]), dict(crop=64), dict(n_structures=9), dict(optics={})):
        with pytest.raises(ValueError, match=f'{next(iter(change))} is .* not'): generate(whole, workers=0, progress=False, **{**ASKED, **change})
    assert bits(whole) == before
    (tmp_path/'mine').mkdir()
    (tmp_path/'mine'/'notes.txt').write_text('keep me')
    with pytest.raises((OSError, ValueError)): generate(tmp_path/'mine', workers=0, progress=False, **ASKED)
    assert (tmp_path/'mine'/'notes.txt').read_text() == 'keep me'

@pytest.mark.parametrize('change, message', [
    (dict(doses=[0.]), 'dose=0.0'), (dict(doses=[]), 'at least one dose'), (dict(optics={'blurr': 1}), "optics='blurr'"), (dict(optics={'aberrations': 'TEAM06'}), 'TEAM06'), (dict(optics={'vibration': ['uniform', 20., 30.]}), 'vibration'),
    (dict(camera={'gain': -1.}), 'gain=-1.0'), (dict(camera={'mtff': 1}), "camera='mtff'"),
    (dict(camera='film'), "camera='film'"), (dict(wave={'slices': 2}), "wave='slices'"), (dict(mask={'threshold': 4.}), 'threshold=4.0'), (dict(scene={'radus': 3}), 'radus'),
    (dict(splits={'train': .7}), 'sum to 1'), (dict(defocus=['gauss', 0, 1]), 'gauss'), (dict(seed=-1), 'seed=-1'), (dict(n_structures=0), 'n_structures=0'),
    (dict(crop=1000), 'crop'), (dict(keep='quarter'), 'quarter')])
def test_bad_settings_are_refused_before_anything_is_made(tmp_path, change, message):
    with pytest.raises((ValueError, TypeError), match=message): generate(tmp_path/'stack', workers=0, progress=False, **{**ASKED, **change})
    assert not (tmp_path/'stack').exists()

def test_failure_keeps_the_rest_and_names_the_structure(tmp_path, monkeypatch):
    import hrtem_seg.data.generation as g
    real = g.make_structure
    def sometimes(settings, number, *a): return real(settings, number, *a) if number != 2 else 1/0
    monkeypatch.setattr(g, 'make_structure', sometimes)
    with pytest.raises(RuntimeError, match='1 of 7 structures failed .* structure 2: ZeroDivisionError'): generate(tmp_path/'stack', workers=0, progress=False, **ASKED)
    assert finished(tmp_path/'stack') == [0, 1, 3, 4, 5, 6, 7]

def test_damage_is_found_named_and_mended(whole, tmp_path):
    import shutil
    path = shutil.copytree(whole, tmp_path/'stack')
    chunk = path/'image'/'c'/'9'/'0'/'0'
    raw = bytearray(chunk.read_bytes())
    raw[-20] ^= 255
    chunk.write_bytes(raw)
    (path/'mask'/'c'/'0'/'0'/'0').unlink()
    wave = path/'waves'/'full'/'c'/'7'/'0'/'0'/'0'/'0'
    wave.write_bytes(wave.read_bytes()[:1000])
    record = path/'finished'/'000003.json'
    record.write_text(record.read_text()[:-500])
    assert {(d.number, os.path.basename(os.path.dirname(d.file))) for d in damaged(path)} == {(4, '0'), (0, '0'), (7, '0'), (3, 'finished')}
    repair(path)
    assert damaged(path) == [] and bits(path) == bits(whole)

def test_provenance_survives_selecting_merging_and_export(whole, tmp_path):
    ds = open_stack(whole)
    other = generate(tmp_path/'other', workers=0, progress=False, **{**ASKED, 'seed': 9, 'n_structures': 2})
    both = select(merge(ds, other), dose=400.)
    save_netcdf(both, tmp_path/'both.nc')
    with xr.open_dataset(tmp_path/'both.nc') as back:
        for i in (1, 9):
            one = regenerate(back, i)
            assert (one.image.values == back.image.values[i]).all() and (one.mask.values == back.mask.values[i]).all()
    assert leaks(both) == [] and leaks(ds, other) == [] and len(leaks(ds, both)) == 8

SESSION = dict(camera='imperfect scintillator', optics=dict(aberrations='TEAM05', focal_spread=10., vibration=.3, drift=[['uniform', -.5, .5], ['uniform', -.5, .5]]))

def test_imperfect_session_from_plain_settings(whole, tmp_path):
    "Lens and camera of a session, on waves that are there: other images of the same structures, everything recorded, the same bits again"
    k = {n: v for n, v in ASKED.items() if n not in ('seed', 'scene', 'wave')} | SESSION
    ds, ideal = generate(tmp_path/'stack', source=whole, workers=0, progress=False, **k), open_stack(whole)
    assert (ds.structure.values == ideal.structure.values).all() and ds.image.dtype == np.float32
    bright = ds.image.isel(sample=ds.dose == 400.)
    assert float(bright.mean()) == pytest.approx(float(ideal.image.isel(sample=ideal.dose == 400.).mean()), rel=.1)
    assert float((bright > 3*bright.median()).sum()) > 0     # hot pixels and x-rays
    lens, camera = json.loads(ds.lens.values[3]), json.loads(ds.camera.values[3])
    assert lens['aberrations'] == 'TEAM05' and -.5 <= lens['drift'][0] <= .5 and lens['drift'] != json.loads(ds.lens.values[2])['drift']
    assert camera['illumination'] == .2 and camera['mtf'][1] == .549
    assert (regenerate(ds, 15).image.values == ds.image.values[15]).all()

PAIR = {**ASKED, 'n_structures': 2, 'doses': [400.], 'labels': ['instance', 'grain'], 'crop': None,
        'scene': dict(cell=[36., 36.], n_particles=2, radius=6., n_defects=1, separation=2., substrate='vacuum')}

def test_instances_and_grains_are_kept_checked_and_mended(tmp_path):
    path = tmp_path/'stack'
    ds = generate(path, workers=0, progress=False, **PAIR)
    assert ds.instance.dtype == ds.grain.dtype == np.uint8 and ds.instance.dims == ('sample', 'y', 'x')
    for k in ('instance', 'grain'): assert ((ds[k] > 0).values == ds.mask.values).all()
    one = ds.isel(sample=0)
    assert set(np.unique(one.instance)) == {0, 1, 2} and len(np.unique(one.grain)) > 3
    for g in np.unique(one.grain)[1:]: assert len(np.unique(one.instance.values[one.grain.values == g])) == 1   # a grain lies in one particle
    assert ds.mask.attrs['kind'] == 'phase' and ds.mask.attrs['threshold'] == pytest.approx(np.pi/16) and ds.mask.attrs['sigma'] == 1.6
    again = regenerate(ds, 1)
    for k in ('image', 'mask', 'instance', 'grain'): assert (again[k].values == ds[k].values[1]).all()
    before = {f: f.read_bytes() for f in path.glob('*/c/*/*/*')}
    chunk = path/'instance'/'c'/'1'/'0'/'0'
    chunk.write_bytes(chunk.read_bytes()[:-5])
    assert [d.file for d in damaged(path)] == [str(chunk)]
    repair(path)
    assert damaged(path) == [] and before == {f: f.read_bytes() for f in path.glob('*/c/*/*/*')}
    other = generate(tmp_path/'binned', source=path, workers=0, progress=False, **{k: v for k, v in PAIR.items() if k not in ('scene', 'wave', 'seed')} | dict(camera={'binning': 2}, mask={'kind': 'projection'}, labels=['instance']))
    assert other.mask.attrs['kind'] == 'projection' and 'grain' not in other and ((other.instance > 0).values == other.mask.values).all()
    assert float(other.mask.mean()) > float(ds.mask.mean()) and float(other.x[1]) == pytest.approx(2*float(ds.x[1]))
    folder = save_images(ds, tmp_path/'images')
    from skimage.io import imread
    assert (imread(folder/'instances'/'000001.png') == ds.instance.values[1]).all() and imread(folder/'masks'/'000001.png').max() == 255
    with pytest.raises(ValueError, match="labels='edges'"): generate(tmp_path/'no', workers=0, progress=False, **{**PAIR, 'labels': ['edges']})

def test_merging_keeps_what_all_have(whole, tmp_path):
    ds = open_stack(whole)
    assert 'labels' not in stack_record(whole)['settings'] and 'instance' not in ds     # what was not asked for leaves no trace
    other = generate(tmp_path/'other', workers=0, progress=False, **{**ASKED, 'n_structures': 1, 'labels': ['instance']})
    assert set(merge(ds, other)) == {'image', 'mask'} and merge(ds, other).mask.attrs == ds.mask.attrs

def test_tilts_are_drawn_and_recorded(tmp_path):
    k = {**ASKED, 'n_structures': 2, 'wave': dict(pixel=.2, specimen_tilt=[['uniform', -3., 3.], ['uniform', -3., 3.]], beam_tilt=[0., .5])}
    ds = generate(tmp_path/'stack', workers=0, progress=False, **k)
    tilt = ds.specimen_tilt_y.values[::2]
    assert len(set(tilt)) == 2 and (np.abs(tilt) <= 3).all() and ds.specimen_tilt_y.attrs['units'] == '°'
    assert ds.beam_tilt_x.values == pytest.approx(.5, abs=.05) and (ds.beam_tilt_y == 0).all()
    straight = generate(tmp_path/'straight', workers=0, progress=False, **{**k, 'wave': dict(pixel=.2)})
    assert float(ds.mask.mean()) == pytest.approx(float(straight.mask.mean()), rel=.1)     # the slope of the tilted beam is no particle
    assert (regenerate(ds, 3).image.values == ds.image.values[3]).all()

def test_network_never_sees_an_image_twice(whole):
    "Three epochs on redrawn images: as many different images as were asked for, and the settings in the network's record"
    from hrtem_seg.learning.training import fit
    seen = []
    class Watched(Redraw):
        def read(self, idx, rng):
            x, y = super().read(idx, rng)
            seen.extend(checksum(a) for a in x)
            return x, y
    ds = open_stack(whole)
    few = ds.isel(sample=ds.dose.values == 400.)
    source = Watched(whole, few, dose=('uniform', 100., 400.), defocus=('uniform', -200., 0.), camera='direct', optics={'aberrations': {'A1': [('uniform', 0., 20.), 0.]}})
    got = fit({'name': 'UNet'}, source, few.isel(sample=[0]), epochs=3, batch_size=4)
    assert len(seen) == len(set(seen)) == 3*few.sizes['sample']
    kept = got.record['settings']['augment']['imaging']
    assert kept['dose'] == ['uniform', 100., 400.] and kept['camera']['mtf'][1] == .97 and kept['optics']['aberrations']['A1'] == [['uniform', 0., 20.], 0.]
    assert got.record['data']['train']['settings'] == stack_record(whole)['settings']

def test_camera_and_drawn_lens_regenerate(tmp_path):
    k = {**ASKED, 'n_structures': 2, 'pixel': .2, 'camera': {'mtf': [1., .5], 'binning': 2, 'read_noise': ['uniform', 1., 2.]}, 'optics': {'aberrations': {'A1': [['uniform', 0, 40], 0.]}}}
    ds = generate(tmp_path/'stack', workers=0, progress=False, **k)
    assert ds.image.dtype == np.float32 and ds.image.shape[1:] == (48, 48) and float(ds.x[1]) == pytest.approx(.4)
    drawn = [json.loads(c)['read_noise'] for c in ds.camera.values]
    assert len(set(drawn)) == 4 and all(1 <= d <= 2 for d in drawn)
    assert (regenerate(ds, 3).image.values == ds.image.values[3]).all()

OLD = sorted((Path(__file__).parent/'data').glob('*_before_parts'))

@pytest.mark.parametrize('path', OLD, ids=lambda p: p.name)
def test_old_stacks_open_and_regenerate_to_the_bit(path):
    "Made when waves were cut to the imaging pixel and some words meant something else"
    ds = open_stack(path)
    assert damaged(path) == [] and 'sampling' not in stack_record(path)['settings']
    for i in range(ds.sizes['sample']):
        again = regenerate(ds, i)
        for k in ('image', 'mask', 'instance'): assert (again[k].values == ds[k].values[i]).all(), (i, k)

def test_old_waves_are_made_again_to_the_bit(tmp_path):
    import shutil
    path = shutil.copytree(OLD[1], tmp_path/'old')
    (path/'waves'/'full'/'c'/'1'/'0'/'0'/'0'/'0').unlink()
    with pytest.raises(ValueError, match='is not there'): open_wave(path, 1)
    repair(path)
    assert damaged(path) == []
    assert structure_record(path, 1)['checksum'] == structure_record(OLD[1], 1)['checksum']
    x, y = Redraw(path, open_stack(path), crop=64).read([0, 1], np.random.default_rng(0))
    assert x.shape == y.shape == (2, 64, 64)

def test_images_drawn_anew_have_the_field_of_their_stack(tmp_path):
    "Whatever camera and pixel are asked for; one side for both axes cannot be that of a field that is not square"
    scene = dict(radius=5., substrate='vacuum')
    made = dict(n_structures=1, seed=1, wave=dict(pixel=.25), workers=0, progress=False)
    ds = generate(tmp_path/'binned', scene={**scene, 'cell': [24., 24.]}, pixel=.3, camera={'binning': 2}, **made)
    assert ds.sizes['y'] == 40
    for settings, pixels in ((dict(camera={'binning': 2}), 40), ({}, 80), (dict(camera={'binning': 4}), 20), (dict(pixel=.3), 80), (dict(pixel=.5), 48),
                             (dict(pixel=.24, camera={'binning': 2}), 50), (dict(pixel=.35), 69), (dict(crop=64), 64)):
        anew = Redraw(tmp_path/'binned', ds, **settings)
        x, y = anew.read([0], np.random.default_rng(0))
        assert x.shape == y.shape == (1, pixels, pixels), settings
        if 'crop' not in settings: assert abs(anew.side*anew.sampling - 24.) < .35
    wide = generate(tmp_path/'wide', scene={**scene, 'cell': [30., 20.]}, pixel=.4, **made)
    with pytest.raises(ValueError, match='50 × 75 pixels'): Redraw(tmp_path/'wide', wide)
    assert Redraw(tmp_path/'wide', wide, crop=48).read([0], np.random.default_rng(0))[0].shape == (1, 48, 48)

SMALL = dict(n_structures=3, seed=1, scene=dict(radius=7., thickness=5., cell=[32., 32.]), wave=dict(pixel=.3), pixel=.5, crop=48, workers=0, progress=False)

@pytest.fixture(scope='module')
def small(tmp_path_factory):
    path = tmp_path_factory.mktemp('small')/'stack'
    generate(path, **SMALL)
    return path

@pytest.fixture
def mine(small, tmp_path):
    "A copy to spoil"
    import shutil
    return Path(shutil.copytree(small, tmp_path/'stack'))

def test_lost_chunks_are_left_out_and_made_again(small, mine):
    (mine/'image'/'c'/'1'/'0'/'0').unlink()
    mask = mine/'mask'/'c'/'2'/'0'/'0'
    mask.write_bytes(mask.read_bytes()[:20])     # an interrupted copy
    with pytest.warns(UserWarning, match='2 of 3 structures are left out'): ds = open_stack(mine)
    assert ds.number.values.tolist() == [0]
    assert [d.number for d in lost(mine)] == [1, 2]
    again = generate(mine, **SMALL)
    assert (again.image.values == open_stack(small).image.values).all() and lost(mine) == []
    for k in range(3): (mine/'image'/'c'/str(k)/'0'/'0').unlink()
    with pytest.raises(ValueError, match='no sample is whole'): open_stack(mine)

def test_lost_waves_are_named_not_read_as_nothing(mine):
    (mine/'waves'/'full'/'c'/'1'/'0'/'0'/'0'/'0').unlink()
    with pytest.raises(ValueError, match='is not there'): open_wave(mine, 1)
    with pytest.raises(ValueError, match='number 1 is not there'):
        generate(mine.parent/'more', source=mine, **{k: v for k, v in SMALL.items() if k not in ('seed', 'scene', 'wave')})

@pytest.mark.filterwarnings('error')
def test_files_of_other_programs_are_passed_over(small, mine):
    (mine/'.DS_Store').write_bytes(b'x')
    (mine/'finished'/'.DS_Store').write_bytes(b'x')
    (mine/'.ipynb_checkpoints').mkdir()
    (mine/'finished'/'.ipynb_checkpoints').mkdir()
    for name in ('000001 (conflicted copy 2026-03-01).json', '000002 2.json', '000001-checkpoint.json', 'copy of 000001.json'):
        (mine/'finished'/name).write_text('{}')
    (mine/'image'/'c'/'1'/'0'/'0 (conflicted copy)').write_bytes(b'x')
    (mine/'image copy').mkdir()
    assert (open_stack(mine).image.values == open_stack(small).image.values).all()
    assert finished(mine) == [0, 1, 2] and damaged(mine) == []
    assert generate(mine, **SMALL).sizes['sample'] == 3

def test_a_folder_that_only_a_desktop_wrote_to_is_free(tmp_path):
    path = tmp_path/'stack'
    path.mkdir()
    (path/'.DS_Store').write_bytes(b'x')
    assert generate(path, **SMALL).sizes['sample'] == 3

@pytest.mark.parametrize('where, message', [('file', 'is a file'), ('file/stack', 'nothing can be written'), ('notes', "holds 'mine.txt'"), ('/proc/stack', 'nothing can be written')])
def test_a_place_that_cannot_be_written_is_named_before_any_work(tmp_path, where, message, monkeypatch):
    import hrtem_seg.data.generation as g
    monkeypatch.setattr(g, 'make_structure', lambda *a: pytest.fail('worked first'))
    (tmp_path/'file').write_text('x')
    (tmp_path/'notes').mkdir()
    (tmp_path/'notes'/'mine.txt').write_text('keep me')
    with pytest.raises((OSError, ValueError), match=message): generate(tmp_path/where, **SMALL)

def test_a_full_disk_stops_the_job_and_keeps_what_is_there(tmp_path, monkeypatch):
    import errno, hrtem_seg.data.generation as g
    real, asked = g.write_structure, []
    def full(path, made):
        asked.append(made.number)
        if made.number: raise OSError(errno.ENOSPC, 'No space left on device')
        return real(path, made)
    monkeypatch.setattr(g, 'write_structure', full)
    with pytest.raises(RuntimeError, match='1 of 2 structures failed.*No space left'): generate(tmp_path/'stack', **SMALL)
    assert asked == [0, 1] and finished(tmp_path/'stack') == [0]
    monkeypatch.undo()
    monkeypatch.setattr(g.shutil, 'disk_usage', lambda p: type('', (), {'free': 1000}))
    with pytest.warns(UserWarning, match='are free'): generate(tmp_path/'other', **SMALL)

def test_two_jobs_may_start_one_stack(small, tmp_path):
    code = f'import sys; from hrtem_seg.data.generation import generate; generate(sys.argv[1], **{SMALL!r})'
    jobs = [subprocess.Popen([sys.executable, '-c', code, tmp_path/'stack'], stderr=subprocess.PIPE, text=True) for _ in range(2)]
    assert [(j.wait(), j.stderr.read()) for j in jobs] == [(0, ''), (0, '')]
    assert bits(tmp_path/'stack') == bits(small)
    assert [f.name for f in tmp_path.iterdir() if f.suffix == '.tmp'] == []

def test_a_cif_counts_by_its_content(tmp_path, monkeypatch):
    from ase.build import bulk
    monkeypatch.chdir(tmp_path)
    bulk('Pt', cubic=True).write('m.cif')
    job = {**SMALL, 'scene': {**SMALL['scene'], 'material': 'm.cif'}}
    ds = generate('stack', **job)
    assert set(ds.material.values) == {str(ds.material.values[0])} and str(ds.material.values[0]).startswith('Pt')
    for n in (1, 2): (tmp_path/f'stack/finished/{n:06d}.json').unlink()
    bulk('Ni', cubic=True).write('m.cif')
    with pytest.raises(ValueError, match='exists with other settings: scene'): generate('stack', **job)
    assert (regenerate(ds, 0).image.values == ds.image.values[0]).all()
    repair('stack')

def test_atoms_are_a_material(tmp_path):
    from ase.build import bulk
    ds = generate(tmp_path/'stack', **{**SMALL, 'n_structures': 1, 'scene': {**SMALL['scene'], 'material': bulk('Pt', cubic=True)}})
    assert (regenerate(ds, 0).image.values == ds.image.values[0]).all()

@pytest.mark.parametrize('change, message', [
    (dict(scene='Au'), "scene='Au': expected a dictionary"), (dict(defocus=float('nan')), 'defocus=nan'), (dict(doses=[400., float('inf')]), r'doses\[1\]=inf'),
    (dict(doses=np.array([])), 'at least one dose'), (dict(optics={'focal_spread': 'wide'}), "'wide'"), (dict(n_structures=True), 'n_structures=True'),
    (dict(n_structures=2.5), 'n_structures=2.5'), (dict(pixel='fine'), "pixel='fine'"), (dict(pixel=-1.), 'pixel=-1.0'), (dict(device='gpu'), "device='gpu'"),
    (dict(workers=-1), 'workers=-1'), (dict(splits={'train': 'all'}), 'splits'), (dict(labels='instances'), 'labels'), (dict(mask='projection'), 'mask'),
    (dict(camera=lambda: 0), 'camera=<function'), (dict(seed=None), 'seed=None')])
def test_wrong_kinds_are_refused_by_name(tmp_path, change, message):
    with pytest.raises(ValueError, match=message): generate(tmp_path/'stack', **{**SMALL, **change})
    assert not (tmp_path/'stack').exists()

def test_an_image_that_lost_its_electrons_is_refused(tmp_path):
    with pytest.raises(ValueError, match='of the electrons that dose'):
        generate(tmp_path/'stack', **{**SMALL, 'optics': {'aperture': .001, 'aberrations': None}, 'wave': {'pixel': .3, 'beam_tilt': [0., 1.]}})
    assert not (tmp_path/'stack').exists()

def test_new_stacks_say_which_film_and_places_they_have(small):
    "What a scene leaves unsaid is written down with the meaning it has today, so that the record stays true when defaults change"
    scene = stack_record(small)['settings']['scene']
    assert (scene['substrate'], scene['placement']) == ('quenched_carbon', 'anywhere')
    assert structure_record(small, 0)['scene']['drawn']['substrate']['kind'] == 'quenched_carbon'
    for path in OLD: assert 'substrate' not in stack_record(path)['settings']['scene']     # read as what it meant then

def test_an_aperture_sets_the_grid_only_where_all_images_share_it(tmp_path):
    job = {**SMALL, 'n_structures': 1, 'pixel': None, 'crop': None, 'images_per_structure': 3}
    open_beam = generate(tmp_path/'open', **job)
    drawn = generate(tmp_path/'drawn', **{**job, 'optics': {'aperture': ['uniform', .3, .6]}})
    fixed = generate(tmp_path/'fixed', **{**job, 'optics': {'aperture': .5}})
    assert drawn.image.shape == open_beam.image.shape and float(drawn.pixel[0]) == float(open_beam.pixel[0])
    assert .9 < float(fixed.pixel[0])/.5 <= 1 and fixed.image.shape == fixed.mask.shape     # the intensity has twice the aperture
    assert (regenerate(fixed, 2).image.values == fixed.image.values[2]).all()

def test_empty_fields_are_imaged_at_the_surface(tmp_path):
    ds = generate(tmp_path/'stack', **{**SMALL, 'n_structures': 1, 'scene': {**SMALL['scene'], 'n_particles': 0}})
    record = structure_record(tmp_path/'stack', 0)
    assert float(ds.zero_defocus[0]) == pytest.approx(record['scene']['result']['surface'] - record['wave']['plane_z'])

def test_interrupt_says_what_is_kept(tmp_path, monkeypatch):
    import hrtem_seg.data.generation as g
    real = g.make_structure
    def stop(settings, number, *a):
        if number == 2: raise KeyboardInterrupt
        return real(settings, number, *a)
    monkeypatch.setattr(g, 'make_structure', stop)
    with pytest.raises(KeyboardInterrupt) as e: generate(tmp_path/'stack', **SMALL)
    assert '2 of 3 structures are kept' in e.value.__notes__[0]
    assert finished(tmp_path/'stack') == [0, 1]

def test_a_record_with_a_thickness_that_was_not_used_is_made_again(tmp_path):
    finite = {**SMALL, 'n_structures': 1, 'wave': {**SMALL.get('wave', {}), 'pixel': .3, 'projection': 'finite'}}
    generate(tmp_path/'stack', **finite)
    settings = stack_record(tmp_path/'stack')['settings']
    earlier = {**settings, 'wave': {**settings['wave'], 'substrate_thickness': 8.}}   # as earlier versions wrote it
    one, other = (make_structure(s, 0).samples[0].pictures['image'] for s in (settings, earlier))
    assert (one == other).all()
    with pytest.raises(ValueError, match='substrate_thickness does nothing'): generate(tmp_path/'new', **{**finite, 'wave': earlier['wave']})
