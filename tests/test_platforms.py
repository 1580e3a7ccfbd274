"The program on every system: nothing that only POSIX has is needed, and the workflows and pages name what is supported"
import re, subprocess, sys
from pathlib import Path
import pytest

# What Windows' Python does not have. Modules are refused to this package and to its locks: the rest of Python is that of
# this system and takes its own branches
WITHOUT = '''
import builtins, os, signal, sys
ABSENT = ('fcntl', 'resource', 'pwd', 'grp', 'termios', 'tty', 'pty', 'syslog', 'posix')
usual, refused = builtins.__import__, []
def guarded(name, globals=None, *rest, **kwargs):
    asks = (globals or {}).get('__name__') or ''
    if name in ABSENT and asks.split('.')[0] in ('hrtem_seg', 'filelock'):
        refused.append((asks, name))
        raise ModuleNotFoundError(f'No module named {name!r}', name=name)
    return usual(name, globals, *rest, **kwargs)
builtins.__import__ = guarded
for name in ('fork', 'forkpty', 'setsid', 'killpg', 'sched_getaffinity', 'mkfifo'):   # who has getuid asks for it at import
    if hasattr(os, name): delattr(os, name)
if hasattr(os, 'process_cpu_count'): os.process_cpu_count = os.cpu_count   # as where there is no sched_getaffinity
for name in ('SIGKILL', 'SIGALRM', 'SIGUSR1', 'alarm', 'setitimer'):
    if hasattr(signal, name): delattr(signal, name)
'''
USE = '''
import importlib, pkgutil, tempfile
from pathlib import Path
import numpy as np, tifffile
import hrtem_seg
for module in pkgutil.walk_packages(hrtem_seg.__path__, 'hrtem_seg.'):
    if module.name != 'hrtem_seg._modidx': importlib.import_module(module.name)
from hrtem_seg.cli import main
from hrtem_seg.core.files import folder_lock, replace_file, replace_folder
from hrtem_seg.core.work import cores, machine
assert cores() >= 1 and machine()
y, x = np.mgrid[:200, :200]
counts = np.random.default_rng(0).poisson(200 - 60*(np.hypot(y - 100, x - 100) < 29)).astype('u2')
with tempfile.TemporaryDirectory() as folder:
    folder = Path(folder)
    with folder_lock(folder/'a'), replace_file(folder/'a') as f: f.write_text('whole')
    with replace_folder(folder/'b') as f: (f/'inside').write_text('whole')
    tifffile.imwrite(folder/'a b ü.tif', counts, imagej=True, resolution=(1/.06, 1/.06), metadata={'unit': 'nm'})
    code = main(['segment', str(folder/'a b ü.tif'), '--out', str(folder/'found')])
    assert code == 0 and list((folder/'found').glob('*.csv')), code
ours = [(asks, name) for asks, name in refused if asks.startswith('hrtem_seg')]
assert not ours and refused, (ours, refused)   # the locks did without
'''

def test_it_imports_and_segments_without_what_only_posix_has():
    done = subprocess.run([sys.executable, '-c', WITHOUT + USE], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]

def supported(project):
    found = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (project/'pyproject.toml').read_text())
    return range(int(found.group(1)), int(found.group(2)))

def test_every_place_names_the_same_pythons(project):
    minors = supported(project)
    first, last = minors[0], minors[-1]
    makefile = (project/'Makefile').read_text()
    assert all(f'python3.{minor}' in makefile for minor in minors) and f'(3,{first}) <= sys.version_info[:2] <= (3,{last})' in makefile
    workflow = (project/'.github/workflows/tests.yml').read_text()
    assert all(f"'3.{minor}'" in workflow for minor in minors)
    assert f'python >=3.{first},<3.{last + 1}' in (project/'environment.yml').read_text()
    for page in ('nbs/how_to/install.ipynb', 'nbs/index.ipynb'):
        assert f'3.{first} to 3.{last}' in (project/page).read_text(encoding='utf-8'), page

def test_the_sources_name_no_posix_call_outside_a_guard(project):
    calls = re.compile(r'\bimport (fcntl|resource|pwd|grp|termios)\b|\bos\.(fork|getuid|geteuid|sched_getaffinity|killpg|setsid|uname)\b|signal\.SIG(KILL|ALRM|USR1)')
    for f in sorted((project/'hrtem_seg').rglob('*.py')):
        for number, line in enumerate(f.read_text(encoding='utf-8').splitlines(), 1):
            assert not calls.search(line) or 'hasattr' in line or _guarded(f, number), f'{f.name}:{number}: {line.strip()}'

def _guarded(f, number):
    "Whether the line before asks whether the call is there"
    lines = f.read_text(encoding='utf-8').splitlines()
    return 'hasattr(os' in lines[number - 2]

def test_a_site_is_made_of_every_chapter(project):
    pytest.importorskip('fastcore')
    sys.path.insert(0, str(project/'docs'))
    try: import make_site
    finally: sys.path.pop(0)
    parts = {f.parent.name for f in (project/'nbs').glob('*/[0-9]*.ipynb')}
    assert set(make_site.READING) == parts, 'docs/make_site.py names every part in its reading order'
    lines = make_site.part_lines()
    for part, chapters in make_site.chapters().items():
        assert chapters and all(f'({part}/{f.name})' in lines for f in chapters), part
