"The whole path, run as its user runs it: results that can fail, resume, same bits, bad settings"
import hashlib, json, os, signal, subprocess, sys, time
from pathlib import Path
import nbformat, numpy as np, pandas as pd, psutil, pytest
from skimage.io import imread, imsave
from hrtem_seg.core.records import read_json
from hrtem_seg.experiments.conditions import samples
from hrtem_seg.experiments.settings import study_settings
from conftest import run_cli

def weights(out):
    "Hash of every network, by what it was made from"
    return {f.parent.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in Path(out).glob('tasks/*/weights.safetensors')}

def stack_bits(out):
    stacks = list(Path(out).glob('tasks/make_stack-*'))
    assert len(stacks) == 1 and stacks[0].suffix != '.part'
    ds = samples({'stack': stacks[0]})
    return [hashlib.sha256(np.ascontiguousarray(ds[v].values)).hexdigest() for v in ('image', 'mask', 'defocus', 'structure')]

def test_networks_beat_the_baselines_at_their_own_dose(tiny_study):
    r = tiny_study['result']
    high = r['baselines']['600']
    m = r['matrices']['before transfer']
    own = m['dice'][m['train'].index('600')][m['test'].index('600')]
    assert own > high['Gaussian + Otsu'] + .1 and own > high['all background'] + .1, (own, high)
    assert np.isfinite(m['dice']).all() and np.allclose(np.diag(m['deviation']), 0)

def test_the_result_is_told_and_kept(tiny_study):
    folder, said = tiny_study['folder'], tiny_study['said']
    for f in ('matrix.png', 'matrix.csv', 'epochs.csv', 'dose.ipynb', 'baselines.csv'):
        assert (folder/f).stat().st_size > 60, f
    assert str(folder/'matrix.png') in said and str(folder/'dose.ipynb') in said and 'mean deviation' in said
    epochs = pd.read_csv(folder/'epochs.csv')
    settings = tiny_study['result']['settings']
    pre = epochs[(epochs.phase == 'pretrain') & (epochs.metric == 'dice') & epochs.dataset.isin(['30', '600'])]
    assert set(pre.epoch) == set(range(settings['epochs'] + 1)), 'benchmarks at every epoch, from before the first'
    assert (pre.groupby(['train', 'epoch']).dataset.nunique() == 2).all()

def test_the_values_given_are_the_values_used(tiny_study):
    asked, used = study_settings('dose', 'tiny'), tiny_study['result']['settings']
    assert {k: v for k, v in used.items() if k not in ('root', 'out')} == {k: v for k, v in asked.items() if k not in ('root', 'out')}
    nb = nbformat.read(tiny_study['folder']/'dose.ipynb', 4)
    injected = [c for c in nb.cells if 'injected-parameters' in c.metadata.get('tags', [])]
    assert len(injected) == 1 and 'n_structures = 60' in injected[0].source
    made = read_json(next(tiny_study['out'].glob('tasks/make_stack-*/task.json')))['settings']
    assert made['n_structures'] == 60 and made['doses'] == [30, 600]

def test_no_structure_is_on_two_sides(tiny_study):
    ds = samples({'stack': next(tiny_study['out'].glob('tasks/make_stack-*'))})
    assert pd.Series(ds.split.values).groupby(ds.structure.values).nunique().max() == 1

def test_a_second_run_makes_nothing_anew(tiny_study):
    stamps = {f: f.stat().st_mtime_ns for f in tiny_study['out'].glob('tasks/*/task.json')}
    assert len(stamps) == 1 + 2 + 2 + 1
    again = run_cli('study', 'dose', '--size', 'tiny', '--out', tiny_study['out'])
    assert again.returncode == 0, again.stderr
    assert {f: f.stat().st_mtime_ns for f in tiny_study['out'].glob('tasks/*/task.json')} == stamps
    assert json.loads((tiny_study['folder']/'result.json').read_text())['matrices'] == tiny_study['result']['matrices']

def killed_when(out, ready, timeout=240):
    "Start the study, and SIGKILL every process of it once `ready()`"
    code = 'import sys; from hrtem_seg.cli import main; sys.exit(main())'
    p = subprocess.Popen([sys.executable, '-c', code, 'study', 'dose', '--size', 'tiny', '--out', str(out)],
                         cwd=Path(__file__).parents[1], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.time() + timeout
    while not ready():
        assert p.poll() is None and time.time() < end, 'the study ended before it could be killed'
        time.sleep(.05)
    family = [psutil.Process(p.pid), *psutil.Process(p.pid).children(recursive=True)]
    for q in family:
        try: q.send_signal(signal.SIGKILL)
        except psutil.NoSuchProcess: pass
    p.wait()
    psutil.wait_procs(family, timeout=10)

def test_killed_twice_it_resumes_to_the_same_bits(tiny_study, tmp_path):
    structures = lambda: list(tmp_path.glob('tasks/make_stack-*.part/stack/finished/*.json'))
    killed_when(tmp_path, lambda: len(structures()) >= 20)
    kept = {f: f.stat().st_mtime_ns for f in structures()}
    assert len(kept) >= 20
    killed_when(tmp_path, lambda: list(tmp_path.glob('tasks/make_network-*.part/checkpoint.pt')))
    stack = next(f for f in tmp_path.glob('tasks/make_stack-*') if f.suffix != '.part')
    assert all((stack/'stack/finished'/f.name).stat().st_mtime_ns == t for f, t in kept.items()), 'a finished structure was made twice'
    done = run_cli('study', 'dose', '--size', 'tiny', '--out', tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert stack_bits(tmp_path) == stack_bits(tiny_study['out'])
    assert weights(tmp_path) == weights(tiny_study['out'])
    assert read_json(tmp_path/'dose-tiny/result.json')['matrices'] == tiny_study['result']['matrices']

@pytest.mark.parametrize('args, says', [
    (['dos'], "study='dos': expected one of 'amount', 'defocus', 'dose'"),
    (['dose', '--size', 'huge'], "size='huge': expected one of 'default'"),
    (['dose', '-p', 'dosis', '[30]'], "unknown setting 'dosis'; allowed are doses, n_structures"),
    (['dose', '-p', 'doses', '30'], 'doses = 30 is not of the kind expected, such as [30, 75'),
    (['dose', '-p', 'n_structures', '0'], 'n_structures = 0: expected a whole number from 1 on'),
    (['dose', '-p', 'epochs', 'many'], '-p epochs = many: not a Python literal'),
])
def test_bad_settings_are_refused_by_name_before_anything_runs(args, says, tmp_path):
    r = run_cli('study', *args, '--out', tmp_path/'runs')
    assert r.returncode == 2 and says in r.stderr and 'Traceback' not in r.stderr, r.stderr
    assert not (tmp_path/'runs').exists()

def test_a_stack_that_cannot_be_made_stops_the_study_and_says_why(tmp_path):
    r = run_cli('study', 'dose', '--size', 'tiny', '--out', tmp_path, '-p', 'images', "{'scene': {'material': 'unobtainium'}}")
    assert r.returncode == 1 and 'unobtainium' in r.stderr and 'traceback' in r.stderr, r.stderr

def test_segment_finds_simulated_particles(tiny_study, tmp_path):
    ds = samples({'stack': next(tiny_study['out'].glob('tasks/make_stack-*')), 'where': {'split': 'test', 'dose': 600.}})
    whole = int(np.argmax(ds.mask.values.sum((1, 2))))   # others may show a sliver of a particle at the frame
    a, truth = ds.image.values[whole].astype(float), ds.mask.values[whole] > 0
    imsave(tmp_path/'field.png', (255*(a - a.min())/np.ptp(a)).astype('u1'))
    r = run_cli('segment', tmp_path/'field.png', '--pixel-size', .05, '--runs', tiny_study['out'], '--out', tmp_path/'found')
    assert r.returncode == 0 and ('mean diameter' in r.stdout or 'none whole' in r.stdout), r.stderr
    mask = imread(tmp_path/'found/field_mask.png') > 0
    assert mask.shape == truth.shape and 2*(mask & truth).sum()/(mask.sum() + truth.sum()) > .5
    assert imread(tmp_path/'found/field_overlay.png').shape == (*truth.shape, 3)
    record = read_json(tmp_path/'found/field.json')
    assert Path(record['network']) == Path(tiny_study['result']['network']) and record['pixel'] == .5

@pytest.mark.parametrize('args, says', [
    (['none.png', '--pixel-size', '.05'], 'none.png: no such file'),
    (['none.dm9', '--pixel-size', '.05'], 'cannot read .dm9; readable are .png'),
    (['none.png', '--pixel-size', '-.05'], 'pixel'),
    (['field.png', '--pixel-size', '.05', '--network', 'nowhere'], 'nowhere is not a kept network'),
])
def test_segment_refuses_bad_input(args, says, tiny_study, tmp_path):
    imsave(tmp_path/'field.png', np.arange(4096).astype('u1').reshape(64, 64))
    r = run_cli('segment', *args, '--runs', tiny_study['out'], cwd=tmp_path)
    assert r.returncode == 2 and says in r.stderr and 'Traceback' not in r.stderr, r.stderr
