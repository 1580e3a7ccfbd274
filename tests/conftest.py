import json, os, subprocess, sys
from pathlib import Path
import pytest

PROJECT = Path(__file__).resolve().parents[1]

def run_cli(*args, cwd=PROJECT, **kwargs):
    "`hrtem-seg` as a user calls it, in a process of its own"
    code = 'import sys; from hrtem_seg.cli import main; sys.exit(main())'
    return subprocess.run([sys.executable, '-c', code, *map(str, args)], cwd=cwd, capture_output=True, text=True, **kwargs)

@pytest.fixture(scope='session')
def project(): return PROJECT

@pytest.fixture(scope='session')
def tiny_study(tmp_path_factory):
    "The dose study at its smallest size, run to its end once"
    out = tmp_path_factory.mktemp('runs')
    done = run_cli('study', 'dose', '--size', 'tiny', '--out', out)
    assert done.returncode == 0, done.stdout + done.stderr
    return dict(out=out, folder=out/'dose-tiny', said=done.stdout, result=json.loads((out/'dose-tiny/result.json').read_text()))

@pytest.fixture
def one_thread():
    "Torch on one thread, so that sums have one order"
    import torch
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)
