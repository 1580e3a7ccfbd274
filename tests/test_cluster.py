"Work done by jobs of a real SLURM, of one node on this machine: the same bits, whoever dies"
import os, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest
from hrtem_seg.data.generation import generate
from hrtem_seg.data.stacks import open_stack
from hrtem_seg.core.work import Batch
from slurm import slurm, why_not

STACK = dict(n_structures=12, seed=1, crop=32, scene={'cell': [40., 40.], 'radius': 8., 'thickness': 5.}, wave={'pixel': .3})
INI = '[stack.few]\n' + '\n'.join(f'{k} = {v!r}' for k, v in STACK.items()) + '''

[cluster.slurm]
queue = 'main'
cores = 2
memory = '3 GB'
jobs = 2
walltime = '10'
'''
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
        started.append(subprocess.Popen(command, cwd=tmp_path, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return started[-1]
    yield start
    for one in started: one.kill()
    subprocess.run(['scancel', '--me'], env=env)

def queue(env, what='%A'):
    said = subprocess.run(['squeue', '-h', '-o', what], env=env, capture_output=True, text=True).stdout
    return said.split()

def until(there, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := there(): return found
        time.sleep(.2)
    raise TimeoutError(f'not within {seconds} s')

def n_finished(folder): return len(list((folder/'few/finished').glob('[0-9]*.json')))

def ended_well(asking, folder, alone):
    said, error = asking.communicate(timeout=300)
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
    until(lambda: not queue(env), 30)

@needs_slurm
def test_the_process_that_asked_may_die(asked, env, alone, tmp_path):
    asking = asked()
    until(lambda: n_finished(tmp_path) >= 3)
    asking.send_signal(signal.SIGKILL)
    asking.wait()
    before = n_finished(tmp_path)
    until(lambda: not queue(env), 150)   # its workers end by themselves
    assert before <= n_finished(tmp_path) < 12
    ended_well(asked(), tmp_path, alone)

@needs_slurm
def test_a_full_queue_is_waited_for_and_said(asked, env, alone, tmp_path):
    subprocess.run(['sbatch', '--cpus-per-task=4', '--output=/dev/null', '--wrap=sleep 600'], env=env, check=True, stdout=subprocess.DEVNULL)
    asking = asked()
    until(lambda: 'PENDING' in queue(env, '%T'))
    time.sleep(40)
    assert asking.poll() is None and n_finished(tmp_path) == 1   # the first shows how much room is needed
    blocking = min(queue(env), key=int)
    subprocess.run(['scancel', blocking], env=env, check=True)
    assert 'there has been no worker for 30 s' in ended_well(asking, tmp_path, alone)
