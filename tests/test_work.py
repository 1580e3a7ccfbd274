"Work under fire: workers without memory, writers that die, many who want one lock"
import os, signal, subprocess, sys, time
from functools import partial
import pytest
from distributed import Client, LocalCluster
from hrtem_seg.core.files import folder_lock, replace_file, replace_folder
from hrtem_seg.core.work import Interrupts, TimeLeft, each_done, fitting_workers, raise_failed, reason

# functions that worker processes can import
JOBS = '''
import os, time, psutil
held = []
def fill(share, limit):
    "Hold memory up to a share of the worker's limit"
    missing = int(share*limit - psutil.Process().memory_info().rss)
    held.append(b'x'*max(0, missing))
    time.sleep(1.)   # so that the worker notices
def wait(seconds):
    time.sleep(seconds)
    return seconds
def stop(number): os._exit(1)
'''

@pytest.fixture
def jobs(tmp_path, monkeypatch):
    (tmp_path/'work_jobs.py').write_text(JOBS)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setenv('PYTHONPATH', os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')]))
    sys.modules.pop('work_jobs', None)
    import work_jobs
    return work_jobs

@pytest.fixture
def one_worker():
    "A function that starts a worker with a memory limit"
    started = []
    def start(limit):
        cluster = LocalCluster(n_workers=1, threads_per_worker=1, memory_limit=int(limit), dashboard_address=':0', silence_logs=50)
        started.extend([Client(cluster), cluster])
        return started[0]
    yield start
    for s in started: s.close()

def test_workers_that_stand_still_for_memory_are_said_and_stopped(jobs, one_worker):
    limit = 600e6
    client = one_worker(limit)
    list(each_done(partial(jobs.fill, limit=limit), [.87], client))
    with pytest.raises(RuntimeError, match='workers stand still: their memory is full .0.5. of 0.60 GB'):
        list(each_done(jobs.wait, [.1]*3, client, patience=1.))
    assert not client.futures, 'nothing is left waiting'

def test_a_worker_that_is_busy_is_left_alone(jobs, one_worker):
    client = one_worker(2e9)
    assert [r for _, r, _ in each_done(jobs.wait, [5.], client, patience=.5)] == [5.]

def test_a_worker_that_dies_again_and_again_is_named(jobs, one_worker):
    client = one_worker(2e9)
    failed = {job: error for job, _, error in each_done(jobs.stop, [7], client)}
    assert 'memory runs out' in reason(failed[7])
    with pytest.raises(RuntimeError, match='here: 1 of 3 structures failed and the others are kept; structure 7: its worker'):
        raise_failed(failed, 3, 'structure', 'here')

def test_a_loop_that_is_left_calls_off_the_rest(jobs, one_worker):
    client = one_worker(2e9)
    for _ in each_done(jobs.wait, [.01, 60., 60.], client): break
    end = time.monotonic() + 10
    while client.futures and time.monotonic() < end: time.sleep(.05)
    assert not client.futures

@pytest.mark.parametrize('limit, asked, started', [(8e9, 4, 4), (2.5e9, 4, 3), (1.1e9, 2, 1)])
def test_workers_fit_into_memory(limit, asked, started):
    if started == asked: assert fitting_workers(asked, limit=limit) == asked
    else:
        with pytest.warns(UserWarning, match=f'{started} of {asked} are started'):
            assert fitting_workers(asked, limit=limit) == started

def test_a_heavy_job_needs_more():
    with pytest.raises(RuntimeError, match='4.00 GB of memory: a worker process needs 6.00 GB'): fitting_workers(1, memory=6e9, limit=4e9)

WRITER = '''
import os, sys
from hrtem_seg.core.files import replace_file, replace_folder
kind, path = sys.argv[1:]
with (replace_file if kind == 'file' else replace_folder)(path) as f:
    (f if kind == 'file' else f/'inside').write_text('half')
    os._exit(9)
'''

@pytest.mark.parametrize('kind', ['file', 'folder'])
def test_a_writer_that_is_killed_changes_nothing(kind, tmp_path):
    path = tmp_path/'made'
    if kind == 'file':
        with replace_file(path) as f: f.write_text('whole')
        content = path
    else:
        with replace_folder(path) as f: (f/'inside').write_text('whole')
        content = path/'inside'
    killed = subprocess.run([sys.executable, '-c', WRITER, kind, str(path)])
    assert killed.returncode == 9 and content.read_text() == 'whole'
    assert all(p == path or p.name.startswith('.') for p in tmp_path.iterdir())

COUNTER = '''
import sys, time
from pathlib import Path
from hrtem_seg.core.files import folder_lock
file = Path(sys.argv[1])
for _ in range(20):
    with folder_lock(file):
        n = int(file.read_text())
        time.sleep(.002)
        file.write_text(str(n + 1))
'''

def test_a_lock_holds_between_processes_and_is_given_back_by_the_dead(tmp_path):
    file = tmp_path/'count'
    file.write_text('0')
    counting = [subprocess.Popen([sys.executable, '-c', COUNTER, str(file)]) for _ in range(3)]
    assert [p.wait() for p in counting] == [0, 0, 0] and file.read_text() == '60'
    holder = subprocess.Popen([sys.executable, '-c', 'import sys, time; from hrtem_seg.core.files import folder_lock\n'
                               'with folder_lock(sys.argv[1]):\n    print("held", flush=True)\n    time.sleep(60)', str(file)], stdout=subprocess.PIPE)
    holder.stdout.readline()
    with pytest.raises(TimeoutError):
        with folder_lock(file, timeout=.1): pass
    holder.kill()
    holder.wait()
    with folder_lock(file, timeout=10): pass

def test_time_left_never_grows_between_two_jobs():
    now = 0.
    left = TimeLeft({i: 10. for i in range(6)}, workers=2, clock=lambda: now)
    told = []
    for step in range(200):
        now += .5
        before = left()
        if step % 40 == 39: left.done(step//40)
        else: assert not told or left() <= told[-1]
        told.append(left())
    assert told[0] == 29.5 and left.todo.keys() == {5}

def test_a_process_forked_after_a_transform_goes_on():
    code = ('import multiprocessing as mp, torch\nfrom hrtem_seg.core import fourier\n'
            'def job(n): return float(fourier.fft2(torch.ones(512, 512, dtype=torch.complex64)).abs().sum())\n'
            'if __name__ == "__main__":\n    torch.set_num_threads(2)\n    fourier.HAS_DUCC = False\n    here = job(0)\n'
            '    with mp.get_context("fork").Pool(1) as pool: assert pool.map_async(job, [1]).get(timeout=60) == [here]')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

class _Deaf:
    "Loses what is raised while it is taken away, as Python's own callbacks do"
    def __del__(self): signal.raise_signal(signal.SIGINT)

def _deaf(job): _Deaf()

@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_ctrl_c_that_python_loses_stops_before_the_next_job():
    done = []
    with Interrupts(), pytest.raises(KeyboardInterrupt):
        for job, *_ in each_done(_deaf, [1, 2, 3]): done.append(job)
    assert done == [1]

def test_workers_that_are_gone_for_good_end_the_work(jobs, one_worker):
    client = one_worker(2e9)
    nanny, = client.cluster.workers.values()
    client.cluster.sync(nanny.close)
    with pytest.raises(RuntimeError, match='all worker processes have ended and none could be started again'):
        list(each_done(jobs.wait, [.1], client, patience=1.))
