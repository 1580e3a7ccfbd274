"Try the wheel outside any clone: `make test-wheel`. The dependencies are those of this environment, without the clone itself"
import os, subprocess, sys, sysconfig, tempfile, time, venv
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
MICROGRAPH = """
import numpy as np, tifffile
y, x = np.mgrid[:270, :270]
disc = sum(np.hypot(y - a, x - b) < 29 for a, b in ((70, 70), (120, 190), (200, 90))) > 0
counts = np.random.default_rng(0).poisson(200 - 60*disc).astype('u2')
tifffile.imwrite('a.tif', counts, imagej=True, resolution=(1/.06, 1/.06), metadata={'unit': 'nm'})
"""
HELP = "import hrtem_seg as hs; print(hs.__file__); help(hs.image); help(hs)"

def copy_tracked(source, to):
    "A copy of a clone without what git ignores"
    tracked = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=source, capture_output=True, text=True, check=True).stdout
    for f in map(Path, tracked.splitlines()):
        if not (source/f).is_file(): continue
        (to/f).parent.mkdir(parents=True, exist_ok=True)
        (to/f).write_bytes((source/f).read_bytes())

def build(source, folder):
    "The wheel of a clone, made from a copy, so that nothing is left in the clone"
    copy_tracked(source, folder/'source')
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '-w', folder, folder/'source'], check=True)
    return next(folder.glob('*.whl'))

def borrow(environment, folder):
    "Give an environment the packages of this one, except the project and what leads to it"
    (folder/'borrowed').mkdir()
    for f in Path(sysconfig.get_path('purelib')).iterdir():
        if 'hrtem_seg' not in f.name and f.suffix != '.pth': (folder/'borrowed'/f.name).symlink_to(f)
    packages = next(environment.glob('lib/python*/site-packages'))
    (packages/'borrowed.pth').write_text(f'{folder/"borrowed"}\n')

def install(folder):
    "An environment with the wheel; the folder of its programs"
    wheel = build(PROJECT, folder)
    environment = folder/'environment'
    venv.create(environment, with_pip=True)
    subprocess.run([environment/'bin/python', '-m', 'pip', 'install', '-q', '--no-deps', wheel], check=True)
    borrow(environment, folder)
    return environment/'bin'

def tried(programs, here, *command, says=()):
    "Run a command in an empty folder and see that it ends well and says what it should"
    env = {k: v for k, v in os.environ.items() if k not in ('PYTHONPATH', 'IN_TEST')}
    start = time.time()
    r = subprocess.run([programs/command[0], *command[1:]], cwd=here, env=env, capture_output=True, text=True)
    missing = [text for text in says if text not in r.stdout]
    if r.returncode or missing: sys.exit(f'{" ".join(command)} ended with {r.returncode}; not said: {missing}\n{r.stdout[-2000:]}\n{r.stderr[-2000:]}')
    print(f'{time.time() - start:6.1f} s  {" ".join(command)[:80].splitlines()[0]}', flush=True)

def main():
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        programs = install(folder)
        here = folder/'empty'
        here.mkdir()
        tried(programs, here, 'hrtem-seg', '--version', says=['hrtem-seg '])
        tried(programs, here, 'hrtem-seg', '--help', says=['segment', 'studies'])
        tried(programs, here, 'python', '-c', HELP, says=[str(folder), 'underfocus negative', 'hs.segment'])
        tried(programs, here, 'python', '-c', MICROGRAPH)
        tried(programs, here, 'hrtem-seg', 'segment', 'a.tif', says=['3 particles'])
        tried(programs, here, 'hrtem-seg', 'export', 'network.zip', says=['network.zip'])
        tried(programs, here, 'hrtem-seg', 'studies', says=['dose', 'real', 'hours'])
        tried(programs, here, 'hrtem-seg', 'study', 'dose', '--size', 'tiny', says=['figure', 'notebook'])

if __name__ == '__main__': main()
