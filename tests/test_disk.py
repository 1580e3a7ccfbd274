"""Locks and replaced files on a disk that two nodes share

On a network disk of one's own: HRTEM_SEG_DISK=/shared/folder pytest tests/test_disk.py
"""
import os, signal, subprocess, sys
from pathlib import Path
import numpy as np, pytest
from hrtem_seg.core.files import folder_lock, read_whole, replace_file
from hrtem_seg.data.generation import generate
from hrtem_seg.data.stacks import open_stack
from network_disk import end, mount, network_disk, why_not

HOLD = '''
import sys, time
from hrtem_seg.core.files import folder_lock
with folder_lock(sys.argv[1]):
    print('held', flush=True)
    time.sleep(600)
'''
WRITE = '''
import sys
from hrtem_seg.core.files import replace_file
for n in range(200):
    with replace_file(sys.argv[1]) as f: f.write_text(f'{n:04d}\\n'*20_000)
'''
TASK = '''
import sys, time
from contextlib import nullcontext
from pathlib import Path
import hrtem_seg.experiments.tasks as tasks
from hrtem_seg.core.files import replace_file

@tasks.task(version=1)
def slow(folder, node, steps):
    for step in range(steps):
        with replace_file(Path(folder)/f'{step}.txt') as f: f.write_text(str(step))
        time.sleep(.1)
    with (Path(sys.argv[1])/'made.txt').open('a') as f: f.write('made\\n')

if sys.argv[2] == 'no locks': tasks.folder_lock = lambda folder: nullcontext()
tasks.do_task(slow, Path(sys.argv[1])/'slow-1', dict(node=1, steps=10))
'''
STACK = dict(n_structures=4, seed=1, crop=32, scene={'cell': [40., 40.], 'radius': 8., 'thickness': 5.}, wave={'pixel': .3})

@pytest.fixture(scope='module')
def nodes(tmp_path_factory):
    "Paths of one disk on two nodes; one's own disk is seen from one node only"
    own = os.environ.get('HRTEM_SEG_DISK')
    if own:
        folder = Path(own)/f'disk-{os.getpid()}'
        folder.mkdir()
        yield [folder, folder]
    elif why_not(): pytest.skip(why_not())
    else:
        with network_disk(tmp_path_factory.mktemp('disk')) as paths: yield paths

def python(code, *args):
    return subprocess.Popen([sys.executable, '-c', code, *map(str, args)], stdout=subprocess.PIPE, text=True)

def holder(path):
    "A process that holds a lock"
    process = python(HOLD, path)
    assert process.stdout.readline() == 'held\n'
    return process

def test_a_lock_holds_between_nodes_and_ends_with_its_holder(nodes):
    one, other = nodes
    holding = holder(one/'thing')
    with pytest.raises(TimeoutError, match='another process has been working on it'):
        with folder_lock(other/'thing', timeout=1): pass
    holding.kill()
    holding.wait()
    with folder_lock(other/'thing', timeout=30): pass

def test_a_lock_ends_with_its_node(nodes):
    one, other = nodes
    if one == other: pytest.skip('a disk of one\'s own is seen from one node only')
    holding = holder(one/'node')
    end(one.parent, one.name, signal.SIGKILL)   # the client that the holder reached the disk through
    try:
        with folder_lock(other/'node', timeout=60): pass
    finally:
        holding.kill()
        holding.wait()
        subprocess.run(['umount', '--lazy', one], check=True)
        mount(one.parent, one.name)

def test_nobody_sees_half_a_file(nodes):
    one, other = nodes
    with replace_file(one/'table') as f: f.write_text('0000\n'*20_000)
    writing = python(WRITE, one/'table')
    seen = set()
    while writing.poll() is None:
        text = read_whole(other/'table')
        lines = set(text.splitlines())
        assert len(text) == 100_000 and len(lines) == 1, lines
        seen |= lines
    assert writing.returncode == 0 and len(seen) > 3
    assert [p.name for p in other.glob('*table*')] == ['table']

@pytest.mark.parametrize('locks', ('locks', 'no locks'))
def test_two_nodes_that_want_the_same_task_both_have_it(nodes, locks):
    "Made once where locks reach the other node; where they do not, time is lost and nothing else"
    folders = [node/locks.replace(' ', '-') for node in nodes]
    folders[0].mkdir()
    asking = [python(TASK, folder, locks) for folder in folders]
    assert [one.wait(120) for one in asking] == [0, 0]
    made = folders[0]/'slow-1'
    assert (made/'task.json').is_file() and [(made/f'{n}.txt').read_text() for n in range(10)] == [str(n) for n in range(10)]
    times = (folders[1]/'made.txt').read_text().count('made')
    assert times == 1 if locks == 'locks' else times in (1, 2)

def test_a_stack_on_a_shared_disk_has_the_bits_of_one_that_is_not(nodes, tmp_path):
    one, other = nodes
    generate(one/'few', workers=0, progress=False, **STACK)
    local = generate(tmp_path/'few', workers=0, progress=False, **STACK)
    shared = open_stack(other/'few')
    for name in ('image', 'mask'): assert np.array_equal(shared[name].values, local[name].values), name
