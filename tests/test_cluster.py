"Work done by jobs of a real SLURM, of one node on this machine: the same bits, whoever dies"
import csv, re, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest
from hrtem_seg.data.generation import generate
from hrtem_seg.data.stacks import open_stack
from hrtem_seg.core.work import Batch, cluster, each_done
from hrtem_seg.learning.transfer import replicates
from slurm import kill_controller, slurm, start_controller, why_not

STACK = dict(n_structures=12, seed=1, crop=32, scene={'cell': [40., 40.], 'radius': 8., 'thickness': 5.}, wave={'pixel': .3})
JOBS = dict(queue='main', cores=1, memory='1.5 GB', jobs=2, walltime='30')
INI = '[stack.few]\n' + '\n'.join(f'{k} = {v!r}' for k, v in STACK.items())
INI += '\n\n[cluster.slurm]\n' + '\n'.join(f'{k} = {v!r}' for k, v in JOBS.items()) + '\n'
# a task that takes its time and none of the processor's, and says which job did it
SLOW = '''
import os, time
def slow(task):
    folder, number, seconds = task
    time.sleep(seconds)
    job = os.environ['SLURM_JOB_ID']
    with open(f'{folder}/{number}.txt', 'a') as f: f.write(f'{job}\\n')
    return int(job)
'''
PATIENCE = 900   # s: where many processes share a core, a worker's imports alone take a minute

needs_slurm = pytest.mark.skipif(bool(why_not()), reason=f'no SLURM: {why_not()}')

@pytest.fixture(scope='module')
def env(tmp_path_factory):
    pytest.importorskip('dask_jobqueue')
    with slurm(tmp_path_factory.mktemp('slurm')) as env: yield env

@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    "The stack as one process makes it"
    return generate(tmp_path_factory.mktemp('alone')/'few', workers=0, progress=False, **STACK)

@pytest.fixture
def asked(tmp_path, env):
    "A function that starts `hrtem-seg generate few --scheduler slurm` in a folder of its own"
    (tmp_path/'settings.ini').write_text(INI)
    code = 'import sys; from hrtem_seg.cli import main; sys.exit(main())'
    started = []
    def start():
        command = [sys.executable, '-c', code, 'generate', 'few', '--scheduler', 'slurm', '--out', 'few']
        pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        started.append(subprocess.Popen(command, cwd=tmp_path, env=env, **pipes))
        return started[-1]
    yield start
    for one in started: one.kill()
    subprocess.run(['scancel', '--me'], env=env)

def queue(env, what='%A'):
    said = subprocess.run(['squeue', '-h', '-o', what], env=env, capture_output=True, text=True).stdout
    return said.split()

def until(there, seconds=PATIENCE):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := there(): return found
        time.sleep(.2)
    raise TimeoutError(f'not within {seconds} s')

def n_finished(folder): return len(list((folder/'few/finished').glob('[0-9]*.json')))

def ended_well(asking, folder, alone):
    said, error = asking.communicate(timeout=PATIENCE)
    assert asking.returncode == 0, said + error
    made = open_stack(folder/'few')
    for name in ('image', 'mask'): assert np.array_equal(made[name].values, alone[name].values), name
    return error

def test_settings_that_make_no_sense_are_refused():
    for wrong, says in (({'system': 'pbs'}, "system='pbs': expected one of 'slurm'"), ({'jobs': 0}, 'jobs=0'),
                        ({'memory': 'much'}, "memory='much'"), ({'walltime': '1:2:3:4'}, "walltime='1:2:3:4'"), ({'walltime': '0:30'}, 'a minute')):
        with pytest.raises(ValueError) as e: Batch.from_record(wrong)
        assert says in str(e.value)

@needs_slurm
def test_a_stack_made_by_jobs_has_the_same_bits_though_a_job_is_killed(asked, env, alone, tmp_path):
    asking = asked()
    until(lambda: n_finished(tmp_path) >= 3)
    first = set(queue(env))
    assert first and len(first) <= 2
    subprocess.run(['scancel', '--signal=KILL', '--full', min(first)], env=env, check=True)
    ended_well(asking, tmp_path, alone)
    until(lambda: not queue(env))

@needs_slurm
def test_the_process_that_asked_may_die(asked, env, alone, tmp_path):
    asking = asked()
    until(lambda: n_finished(tmp_path) >= 3)
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    before = n_finished(tmp_path)
    until(lambda: not queue(env))   # its workers end by themselves
    assert before <= n_finished(tmp_path) < 12
    ended_well(asked(), tmp_path, alone)

@needs_slurm
def test_a_full_queue_is_waited_for_and_said(asked, env, alone, tmp_path):
    block = ['sbatch', '--parsable', '--cpus-per-task=4', '--output=/dev/null', '--wrap=sleep 3600']
    blocking = subprocess.run(block, env=env, check=True, capture_output=True, text=True).stdout.strip()
    until(lambda: queue(env, '%T') == ['RUNNING'])
    asking = asked()
    until(lambda: 'PENDING' in queue(env, '%T'))
    time.sleep(40)
    assert asking.poll() is None and n_finished(tmp_path) == 1   # the first shows how much room is needed
    subprocess.run(['scancel', blocking], env=env, check=True)
    assert 'there has been no worker for 30 s' in ended_well(asking, tmp_path, alone)

@pytest.fixture
def slow(tmp_path, env, monkeypatch):
    "A function that gives tasks to jobs of these settings, and the numbers of the jobs that did them as they finish"
    (tmp_path/'slow_work.py').write_text(SLOW)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv('SLURM_CONF', env['SLURM_CONF'])
    from importlib import invalidate_caches, import_module
    invalidate_caches()
    sys.modules.pop('slow_work', None)
    function = import_module('slow_work').slow
    def done(seconds, **settings):
        batch = {**JOBS, 'setup': [f'export PYTHONPATH={tmp_path}:$PYTHONPATH'], **settings}
        tasks = [(str(tmp_path), number, s) for number, s in enumerate(seconds)]
        with cluster(scheduler=batch) as start:
            for _, job, error in each_done(function, tasks, start()):
                assert error is None, error
                yield job
    yield done
    subprocess.run(['scancel', '--me'], env=env)

def log(env): return (Path(env['SLURM_CONF']).parent/'slurmctld.log').read_text()

@needs_slurm
def test_workers_leave_before_their_walltime_and_come_back(slow, env, tmp_path):
    before = len(log(env))
    jobs = list(slow([4.]*40, jobs=1, walltime='1'))   # 160 s of work for jobs that last a minute
    assert len(jobs) == 40 and len(set(jobs)) >= 3
    said = log(env)[before:]
    assert not re.search('time limit|TIMEOUT', said, re.I), 'jobs end by themselves'
    times = [len((tmp_path/f'{n}.txt').read_text().split()) for n in range(40)]
    assert sum(times) - 40 <= len(set(jobs)), 'what a job has done is not done again, but for the task it was at'

@needs_slurm
def test_nothing_is_given_up_while_the_controller_does_not_answer(slow, env):
    doing = slow([1.]*60, jobs=2)
    first = {next(doing) for _ in range(4)}
    kill_controller(env)
    later = [next(doing) for _ in range(20)]   # the jobs go on
    start_controller(env)
    until(lambda: queue(env))
    rest = list(doing)
    assert len(rest) == 36 and len(first | set(later) | set(rest)) <= 2, 'no job was submitted in the place of one that runs'

@needs_slurm
def test_replicates_of_jobs_are_those_of_one_process(env, tmp_path, alone, monkeypatch):
    monkeypatch.setenv('SLURM_CONF', env['SLURM_CONF'])
    asked = dict(epochs=1, batch_size=4)
    train, valid = alone.isel(sample=slice(0, 8)), alone.isel(sample=slice(8, 12))
    network = {'name': 'UNet', 'filters': [4], 'bottleneck': 8}
    here = replicates(network, train, valid, 2, **asked)
    there = replicates(network, train, valid, 2, scheduler=JOBS, **asked)
    for one, other in zip(here, there): assert one.history.value.equals(other.history.value)

def scores(folder):
    with (folder/'dose-tiny/table.csv').open() as f: return list(csv.DictReader(f))

@needs_slurm
def test_a_study_by_jobs_has_the_numbers_of_one_on_this_machine(env, tmp_path, tiny_study):
    (tmp_path/'settings.ini').write_text(INI)
    code = 'import sys; from hrtem_seg.cli import main; sys.exit(main())'
    command = [sys.executable, '-c', code, 'study', 'dose', '--size', 'tiny', '--scheduler', 'slurm', '--out', 'runs']
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, timeout=2*PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert scores(tmp_path/'runs') == scores(tiny_study['out'])
