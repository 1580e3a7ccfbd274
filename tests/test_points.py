"Points under fire: killed workers, two studies at once, damaged parts, and estimates from what was made"
import os, signal, subprocess, sys, time
from pathlib import Path
import pytest
from hrtem_seg.experiments.points import Planned, Points, network_cost, point_key, stack_cost
from hrtem_seg.core.records import read_json, write_json

# a module that worker processes can import
MAKERS = '''
import os, time
from pathlib import Path
def stack(folder, dose, log, wait=.2):
    with open(log, 'a') as f: f.write(f'stack {dose} {os.getpid()}\\n')
    time.sleep(wait); (folder/'n').write_text(str(dose))
def network(folder, stack, seed, log):
    with open(log, 'a') as f: f.write(f'network {(Path(stack)/"n").read_text()} {seed} {os.getpid()}\\n')
    time.sleep(.1); (folder/'n').write_text(str(seed))
def steps(folder, n):
    "Goes on from the steps that it finds"
    for i in range(n):
        if (folder/str(i)).is_file(): continue
        time.sleep(.1)
        (folder/str(i)).write_text(str(os.getpid()))
def broken(folder, **settings): raise ValueError('nothing to see')
'''

@pytest.fixture
def makers(tmp_path, monkeypatch):
    (tmp_path/'point_makers.py').write_text(MAKERS)
    monkeypatch.syspath_prepend(str(tmp_path)); monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    sys.modules.pop('point_makers', None)
    import point_makers
    return point_makers

STUDY = '''
import sys, json
from point_makers import network, stack
from hrtem_seg.experiments.points import Points
if __name__ == '__main__':
    root, log, doses = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    points = Points(root, workers=1)
    stacks = [points.submit(stack, dose=d, log=log) for d in doses]
    nets = [points.submit(network, stack=s, seed=seed, log=log) for s in stacks for seed in (0, 1)]
    assert len(points.wait(nets, 'train')) == len(nets), points.failures()
    points.close()
'''

def test_two_studies_at_once_make_a_shared_point_once(makers, tmp_path):
    (tmp_path/'study.py').write_text(STUDY); log = tmp_path/'log'
    runs = [subprocess.Popen([sys.executable, 'study.py', str(tmp_path/'points'), str(log), doses], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for doses in ('[30, 100, 300]', '[300, 100, 900]')]
    said = [p.communicate(timeout=600)[0] for p in runs]
    assert [p.returncode for p in runs] == [0, 0], said
    made = [l.rsplit(' ', 1)[0] for l in log.read_text().splitlines()]
    assert len(made) == len(set(made)) == 4 + 8, sorted(made)
    table = Points(tmp_path/'points').table()
    assert len(table) == table.key.nunique() == 12

def test_a_killed_worker_loses_no_step(makers, tmp_path):
    points = Points(tmp_path/'points', workers=1)
    long = points.submit(makers.steps, n=20)
    part, end = long.folder.with_name(f'{long.key}.part'), time.time() + 600
    while not (part/'4').is_file():
        assert time.time() < end; time.sleep(.02)
    os.kill(int((part/'0').read_text()), signal.SIGKILL)
    kept = {f.name: f.stat().st_mtime_ns for f in part.iterdir()}
    assert points.wait([long], 'steps') == [long], points.failures()
    points.close()
    assert all((long.folder/k).stat().st_mtime_ns == t for k, t in kept.items() if k.isdigit()), 'a finished step was made twice'
    assert len({(long.folder/str(i)).read_text() for i in range(20)}) == 2, 'another process went on'
    assert read_json(long.folder/'point.json')['resumed']

def test_a_part_that_was_cut_off_at_its_last_step_is_no_point(makers, tmp_path):
    key = point_key(makers.stack, dict(dose=30, log='log')); part = tmp_path/f'{key}.part'
    write_json(part/'point.json', dict(make='stack', settings={'dose': 30}, seconds=1.))
    points = Points(tmp_path, workers=0)
    assert points.table().empty
    point = points.submit(makers.stack, dose=30, log=str(tmp_path/'log'))
    assert point.done and len(points.table()) == 1

def test_a_failed_point_names_its_settings_and_those_that_need_it_fail_with_its_reason(makers, tmp_path):
    for workers in (0, 1):
        points = Points(tmp_path/str(workers), workers=workers)
        bad = points.submit(makers.broken, dose=30)
        net = points.submit(makers.network, stack=bad, seed=0, log=str(tmp_path/'log'))
        good = points.submit(makers.stack, dose=600, log=str(tmp_path/'log'))
        assert points.wait([bad, net, good], 'all') == [good]
        points.close()
        assert set(points.failed) == {bad.key, net.key} and 'nothing to see' in points.failures().splitlines()[0]
        assert 'nothing to see' in points.failures().splitlines()[1] and not net.folder.with_name(f'{net.key}.part').exists()
        error = (points.root/f'{bad.key}.part/error.txt').read_text()
        assert 'Traceback' in error and '"dose": 30' in error

def test_a_plan_leaves_nothing_and_sees_what_stands(makers, tmp_path):
    root, log = tmp_path/'points', str(tmp_path/'log')
    def graph(mode, workers=0):
        points = Points(root, workers, mode=mode)
        a, b = (points.submit(makers.stack, dose=d, log=log) for d in (30, 600))
        return points, [points.submit(makers.network, stack=s, seed=1, log=log) for s in (a, b)]
    def states():
        points, nets = graph('plan')
        with pytest.raises(Planned) as e: points.wait(nets, 'train')
        with pytest.raises(Planned): points.close()
        return e.value.table
    assert states().state.eq('missing').all() and states().seconds.isna().all() and not root.exists()
    Points(root, 0).submit(makers.stack, dose=30, log=log)
    (root/(states().key[2] + '.part')).mkdir()
    got = states()
    assert got.state.tolist() == ['done', 'missing', 'partly', 'missing']
    assert got.seconds[:2].between(.1, 2).all(), 'a stack of another dose is taken to cost the same'
    with pytest.raises(FileNotFoundError, match='is not finished: run the study first'): graph('redraw')
    assert not Path(log).read_text().count('network')
    points, nets = graph('make'); points.wait(nets, 'train')
    stamps = {f: f.stat().st_mtime_ns for f in root.rglob('*')}
    points, nets = graph('redraw')
    assert points.wait(nets, 'train') == nets and {f: f.stat().st_mtime_ns for f in root.rglob('*')} == stamps

STACK = dict(n_structures=100, seed=1, doses=[400.], crop=128, pixel=.5, splits={'train': .5, 'valid': .25, 'test': .25},
             scene=dict(cell=[100., 100.], radius=['uniform', 10., 20.], thickness=20.), wave=dict(pixel=.25, slice_thickness=2.))

def source(split, n=None, **stack): return {'stack': {'make': 'make_stack', 'settings': {**STACK, **stack}}, 'where': {'split': split}, 'n': n}

def test_costs_follow_the_work():
    one = stack_cost(STACK)
    assert stack_cost({**STACK, 'n_structures': 300}) == pytest.approx([3*v for v in one])
    assert stack_cost({**STACK, 'wave': {**STACK['wave'], 'phonons': 8}})[0] > 6*one[0]
    imaged = stack_cost({'doses': [30.], 'n_structures': 100, 'crop': 128, 'waves': {'make': 'make_stack', 'settings': STACK}})
    assert imaged[0] < .2*one[0] and 0 < imaged[1] < one[1]
    net = dict(train=source('train'), valid=source('valid'), benchmarks={'a': source('valid', 16)}, tests={'a': source('test')}, network={'name': 'UNet', 'filters': [4, 8, 16, 32]}, epochs=10)
    base = network_cost(net)[0]
    assert network_cost({**net, 'epochs': 20})[0] == pytest.approx(2*base, rel=.15)
    assert network_cost({**net, 'train': [source('train')]*2})[0] > 1.5*base
    assert network_cost({**net, 'network': {'filters': [16]}})[0] > 3*base
    child = {**net, 'network': None, 'parent': {'make': 'make_network', 'settings': {**net, 'network': {'filters': [16]}}}}
    assert network_cost(child)[0] > 3*base, 'the width is that of the network it came from'
    small = network_cost({**net, 'train': source('train', 4)})[0]
    assert small < .6*base
