"Tasks under fire: killed workers, two studies at once, damaged parts, and estimates from what was made"
import os, signal, subprocess, sys, time
from pathlib import Path
import pytest
from hrtem_seg.core.records import write_json
from hrtem_seg.experiments.conditions import network_cost, stack_cost
from hrtem_seg.experiments.tasks import Planned, TaskRecord, Tasks, finished_tasks, task, task_key

# a module that worker processes can import
MAKERS = '''
import os, time
from pathlib import Path
from hrtem_seg.experiments.tasks import task
@task(version=1)
def stack(folder, dose, log, wait=.2):
    with open(log, 'a') as f: f.write(f'stack {dose} {os.getpid()}\\n')
    time.sleep(wait); (folder/'n').write_text(str(dose))
@task(version=1)
def network(folder, stack, seed, log):
    with open(log, 'a') as f: f.write(f'network {(Path(stack)/"n").read_text()} {seed} {os.getpid()}\\n')
    time.sleep(.1); (folder/'n').write_text(str(seed))
@task(version=1)
def steps(folder, n):
    "Goes on from the steps that it finds"
    for i in range(n):
        if (folder/str(i)).is_file(): continue
        time.sleep(.1)
        (folder/str(i)).write_text(str(os.getpid()))
@task(version=1)
def broken(folder, **settings): raise ValueError('nothing to see')
'''

@pytest.fixture
def makers(tmp_path, monkeypatch):
    (tmp_path/'task_makers.py').write_text(MAKERS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')]))
    sys.modules.pop('task_makers', None)
    import task_makers
    return task_makers

STUDY = '''
import sys, json
from task_makers import network, stack
from hrtem_seg.experiments.tasks import Tasks
if __name__ == '__main__':
    root, log, doses = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    tasks = Tasks(root, workers=1)
    stacks = [tasks.submit(stack, dose=d, log=log) for d in doses]
    nets = [tasks.submit(network, stack=s, seed=seed, log=log) for s in stacks for seed in (0, 1)]
    assert len(tasks.wait(nets, 'train')) == len(nets), tasks.failures()
    tasks.close()
'''

def test_two_studies_at_once_make_a_shared_task_once(makers, tmp_path):
    (tmp_path/'study.py').write_text(STUDY)
    log = tmp_path/'log'
    runs = [subprocess.Popen([sys.executable, 'study.py', str(tmp_path/'tasks'), str(log), doses], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
            for doses in ('[30, 100, 300]', '[300, 100, 900]')]
    said = [p.communicate(timeout=600)[0] for p in runs]
    assert [p.returncode for p in runs] == [0, 0], said
    made = [l.rsplit(' ', 1)[0] for l in log.read_text().splitlines()]
    assert len(made) == len(set(made)) == 4 + 8, sorted(made)
    assert len(finished_tasks(tmp_path/'tasks')) == 12

def test_a_killed_worker_loses_no_step(makers, tmp_path):
    tasks = Tasks(tmp_path/'tasks', workers=1)
    long = tasks.submit(makers.steps, n=20)
    part = long.part
    end = time.time() + 600
    while not (part/'4').is_file():
        assert time.time() < end
        time.sleep(.02)
    os.kill(int((part/'0').read_text()), signal.SIGKILL)
    kept = {f.name: f.stat().st_mtime_ns for f in part.iterdir()}
    assert tasks.wait([long], 'steps') == [long], tasks.failures()
    tasks.close()
    assert all((long.folder/k).stat().st_mtime_ns == t for k, t in kept.items() if k.isdigit()), 'a finished step was made twice'
    assert len({(long.folder/str(i)).read_text() for i in range(20)}) == 2, 'another process went on'
    assert TaskRecord.read(long.folder).resumed

def test_a_part_that_was_cut_off_at_its_last_step_is_no_task(makers, tmp_path):
    key = task_key(makers.stack, dict(dose=30, log='log'))
    write_json(tmp_path/f'{key}.part'/'task.json', dict(task='stack', version=1, settings={'dose': 30}))
    assert not finished_tasks(tmp_path)
    made = Tasks(tmp_path, workers=0).submit(makers.stack, dose=30, log=str(tmp_path/'log'))
    assert made.done and len(finished_tasks(tmp_path)) == 1

def test_a_failed_task_names_its_settings_and_those_that_need_it_fail_with_its_reason(makers, tmp_path):
    for workers in (0, 1):
        tasks = Tasks(tmp_path/str(workers), workers=workers)
        bad = tasks.submit(makers.broken, dose=30)
        net = tasks.submit(makers.network, stack=bad, seed=0, log=str(tmp_path/'log'))
        good = tasks.submit(makers.stack, dose=600, log=str(tmp_path/'log'))
        assert tasks.wait([bad, net, good], 'all') == [good]
        tasks.close()
        assert set(tasks.failed) == {bad.key, net.key} and 'nothing to see' in tasks.failures().splitlines()[0]
        assert 'nothing to see' in tasks.failures().splitlines()[1] and not net.folder.with_name(f'{net.key}.part').exists()
        error = (tasks.root/f'{bad.key}.part/error.txt').read_text()
        assert 'Traceback' in error and '"dose": 30' in error

def test_a_plan_leaves_nothing_and_sees_what_stands(makers, tmp_path):
    root, log = tmp_path/'tasks', str(tmp_path/'log')
    def graph(mode, workers=0):
        tasks = Tasks(root, workers, mode=mode)
        a, b = (tasks.submit(makers.stack, dose=d, log=log) for d in (30, 600))
        return tasks, [tasks.submit(makers.network, stack=s, seed=1, log=log) for s in (a, b)]
    def states():
        tasks, nets = graph('plan')
        with pytest.raises(Planned) as e: tasks.wait(nets, 'train')
        with pytest.raises(Planned): tasks.close()
        return e.value.table
    assert states().state.eq('missing').all() and states().seconds.isna().all() and not root.exists()
    Tasks(root, 0).submit(makers.stack, dose=30, log=log)
    (root/(states().key[2] + '.part')).mkdir()
    got = states()
    assert got.state.tolist() == ['done', 'missing', 'partly', 'missing']
    assert got.seconds[:2].between(.1, 2).all(), 'a stack of another dose is taken to cost the same'
    with pytest.raises(FileNotFoundError, match='is not finished: run the study first'): graph('redraw')
    assert not Path(log).read_text().count('network')
    tasks, nets = graph('make')
    tasks.wait(nets, 'train')
    stamps = {f: f.stat().st_mtime_ns for f in root.rglob('*')}
    tasks, nets = graph('redraw')
    assert tasks.wait(nets, 'train') == nets and {f: f.stat().st_mtime_ns for f in root.rglob('*')} == stamps

STACK = dict(n_structures=100, seed=1, doses=[400.], crop=128, pixel=.5, splits={'train': .5, 'valid': .25, 'test': .25},
             scene=dict(cell=[100., 100.], radius=['uniform', 10., 20.], thickness=20.), wave=dict(pixel=.25, slice_thickness=2.))

def source(split, n=None, **stack): return {'stack': {'settings': {**STACK, **stack}}, 'where': {'split': split}, 'n': n}

def test_costs_follow_the_work():
    one = stack_cost(STACK)
    assert stack_cost({**STACK, 'n_structures': 300}) == pytest.approx([3*v for v in one])
    assert stack_cost({**STACK, 'wave': {**STACK['wave'], 'phonons': 8}})[0] > 3*one[0]
    imaged = stack_cost({'doses': [30.], 'n_structures': 100, 'crop': 128, 'waves': {'settings': STACK}})
    assert imaged[0] < .2*one[0] and 0 < imaged[1] < one[1]
    net = dict(train=source('train'), valid=source('valid'), benchmarks={'a': source('valid', 16)}, tests={'a': source('test')}, network={'name': 'UNet', 'filters': [4, 8, 16, 32]}, epochs=10)
    base = network_cost(net)[0]
    assert network_cost({**net, 'epochs': 20})[0] == pytest.approx(2*base, rel=.15)
    assert network_cost({**net, 'train': [source('train')]*2})[0] > 1.5*base
    assert network_cost({**net, 'network': {'filters': [16]}})[0] > 3*base
    child = {**net, 'network': None, 'parent': {'settings': {**net, 'network': {'filters': [16]}}}}
    assert network_cost(child)[0] > 3*base, 'the width is that of the network it came from'
    small = network_cost({**net, 'train': source('train', 4)})[0]
    assert small < .6*base

def test_code_may_move_and_keys_stay(makers):
    "What users have made is not void when a function moves to another module"
    key = task_key(makers.stack, {'dose': 30})
    def elsewhere(folder, dose): pass
    elsewhere.__module__ = 'another.module'
    assert task_key(task(version=1, name='stack')(elsewhere), {'dose': 30}) == key
    assert task_key(task(version=2, name='stack')(elsewhere), {'dose': 30}) != key

def test_keys_are_those_that_they_were():
    "These are in the folders that users have: they change only with a version"
    from hrtem_seg.experiments.conditions import make_baselines, make_network, make_real_scores, make_stack
    assert [m.kind.name for m in (make_stack, make_network, make_baselines, make_real_scores)] == ['make_stack', 'make_network', 'make_baselines', 'make_real_scores']
    named = task(version=1, name='make_network')(lambda folder: None)
    assert task_key(named, {'epochs': 3}) == 'make_network-8cd271fe7cf1df3b', 'the form of a key has changed'

def test_a_plan_goes_on_where_nothing_is_missing(makers, tmp_path):
    "A search asks for more when it knows a score: what it took is all of it"
    root, log = tmp_path/'tasks', str(tmp_path/'log')
    def searched(mode):
        tasks = Tasks(root, 0, mode=mode)
        for dose in (30, 600):
            stack = tasks.submit(makers.stack, dose=dose, log=log)
            tasks.wait([stack], 'search')
        tasks.close()
    with pytest.raises(Planned) as e: searched('plan')
    assert e.value.table.state.tolist() == ['missing']
    searched('make')
    with pytest.raises(Planned) as e: searched('plan')
    assert e.value.table.state.tolist() == ['done', 'done']

def test_an_edited_crystal_is_another_task(tmp_path):
    "A file counts by its content, not by its name"
    from ase.build import bulk
    from hrtem_seg.experiments.conditions import make_stack
    cif = tmp_path/'metal.cif'
    keys = []
    for metal in ('Pt', 'Ni', 'Pt'):
        bulk(metal, cubic=True).write(cif)
        tasks = Tasks(tmp_path/'tasks', mode='plan')
        asked = tasks.do(make_stack, n_structures=2, seed=1, scene={'material': str(cif), 'radius': 8.})
        keys.append(asked.key)
        assert str(tmp_path) not in str(tasks.asked[asked.key].settings), 'the record holds the content, not the place'
    assert keys[0] == keys[2] != keys[1]

def test_a_missing_worker_is_no_reason_to_wait_for_ever(makers, tmp_path):
    tasks = Tasks(tmp_path/'tasks', scheduler='tcp://127.0.0.1:1')
    with pytest.raises(ValueError, match='no Dask scheduler answers there'): tasks.submit(makers.stack, dose=30, log='log')
