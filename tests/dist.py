"""Build wheel and sdist twice, from copies that differ in place, time and permissions, and compare them: `make dist`

    python tests/dist.py [FOLDER]     keeps them in FOLDER
"""
import hashlib, os, shutil, subprocess, sys, tempfile
from pathlib import Path
from wheel import PROJECT, copy_tracked

def epoch():
    "Time of the commit, s; the same for all who build it"
    said = subprocess.run(['git', 'log', '-1', '--format=%ct'], cwd=PROJECT, capture_output=True, text=True, check=True)
    return said.stdout.strip()

def build(folder, mode):
    "{name: SHA-256} of what is built from a copy of the clone"
    source = folder/'source'
    copy_tracked(PROJECT, source)
    for f in source.rglob('*'):
        if f.is_file(): f.chmod(mode)
    env = {**os.environ, 'SOURCE_DATE_EPOCH': epoch()}
    env.pop('PYTHONPATH', None)
    subprocess.run([sys.executable, '-m', 'build', '--outdir', folder/'dist', source], env=env, check=True, stdout=subprocess.DEVNULL)
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted((folder/'dist').iterdir())}

def main():
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
        first = build(Path(one), 0o644)
        second = build(Path(other)/'deeper', 0o664)
        for name, digest in first.items(): print(f'{digest}  {name}')
        if first != second: sys.exit(f'built again they differ: {second}')
        if len(sys.argv) > 1: shutil.copytree(Path(one)/'dist', sys.argv[1], dirs_exist_ok=True)


if __name__ == '__main__': main()
