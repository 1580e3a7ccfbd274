"The commands around studies, called as a user calls them, on a project of two small studies"
import nbformat as nbf, pandas as pd, pytest, xarray as xr
from hrtem_seg.cli import main
from conftest import run_cli

PARAMETERS = """doses: list = [30., 600.] # e/Å²
replicates: int = 5 # per dose
sign: float = 1. # of the effect
mode: str = 'make' # make, plan, redraw
root: str = 'runs/tasks' # finished tasks
out: str = 'runs/x' # results"""
BODY = """import numpy as np, pandas as pd
from hrtem_seg.experiments.claims import claim, verdicts
from hrtem_seg.experiments.tasks import Tasks, task
from hrtem_seg.core.records import write_json
@task(version=1)
def make_score(folder, dose, seed):
    if dose < 0: raise ValueError(f'dose={dose}: no such beam')
    (folder/'dice').write_text(str(.8 + .1*(dose > 100) + .01*np.random.default_rng([int(dose), seed]).normal()))
tasks = Tasks(root, 0, mode=mode)
made = {(d, r): tasks.submit(make_score, dose=d, seed=r) for d in doses for r in range(replicates)}
tasks.wait(made.values(), 'score')
tasks.close()
tasks.raise_failed()
table = pd.DataFrame([dict(study='STUDY', phase='pretrain', replicate=r, train=d, tested=d, metric='dice', value=float((p.folder/'dice').read_text())) for (d, r), p in made.items()])
table.to_csv(f'{out}/table.csv', index=False)
low, high = (sign*table[table.train == d].value.values for d in doses)
verdicts([claim('STUDY', 'a higher dose gives a higher Dice', high, low, published=.05)]).to_csv(f'{out}/claims.csv', index=False)
open(f'{out}/figure.png', 'w').write('drawn')
write_json(f'{out}/result.json', dict(study='STUDY', settings=dict(doses=doses, replicates=replicates, sign=sign), figure=f'{out}/figure.png'))"""
INI = """[one.quick]
replicates = 3

[two]
sign = -1.

[stack.few]
n_structures = 2
seed = 1
crop = 32
scene = {'cell': [40., 40.], 'radius': 8., 'thickness': 5.}
wave = {'pixel': .3}

[stack.wrong]
n_structure = 2
"""

@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "A project whose studies share their tasks"
    folder = tmp_path_factory.mktemp('toy')
    (folder/'nbs/studies').mkdir(parents=True)
    (folder/'settings.ini').write_text(INI)
    for name in ('one', 'two'):
        nb = nbf.v4.new_notebook(metadata={'kernelspec': {'name': 'python3', 'display_name': 'python3', 'language': 'python'}})
        nb.cells = [nbf.v4.new_code_cell(PARAMETERS, metadata={'tags': ['parameters']}), nbf.v4.new_code_cell(BODY.replace('STUDY', name))]
        nbf.write(nb, folder/f'nbs/studies/{name}.ipynb')
    return folder

@pytest.fixture(scope='module')
def runs(toy):
    "What `studies` says before, and what `study all` leaves"
    before = run_cli('studies', '--size', 'quick', cwd=toy)
    assert before.returncode == 0 and not (toy/'runs').exists(), before.stderr
    done = run_cli('study', 'all', cwd=toy)
    assert done.returncode == 0, done.stderr
    return dict(out=toy/'runs', before=before.stdout, said=done.stdout)

@pytest.fixture
def here(toy, monkeypatch, capsys):
    "The program in this process: (exit code, what it said, its errors)"
    monkeypatch.chdir(toy)
    def call(*args):
        code = main([str(a) for a in args])
        said = capsys.readouterr()
        return code, said.out, said.err
    return call

def listed(text): return {l.split()[0]: l.split()[1:] for l in text.splitlines()[1:] if len(l.split()) == 8}

def test_studies_are_listed_before_anything_starts(here, runs):
    before = listed(runs['before'])
    assert before['one'] == ['quick', '6', '0', '0', '0.00', '0.00', '6'] and before['two'][:4] == ['default', '10', '0', '0']
    assert before['all'][1] == '10', 'shared tasks count once'
    after = listed(here('studies')[1])
    assert after['one'][1:] == ['10', '10', '0', '0.00', '0.00', '0'] and after['all'][1:3] == ['10', '10']

def test_one_study_is_planned_with_other_numbers_and_nothing_is_made(here, tmp_path):
    code, said, _ = here('study', 'one', '--plan', '-p', 'replicates', '2', '--out', tmp_path)
    assert not code and listed(said)['one'][:3] == ['default', '4', '0'] and 'two' not in listed(said)
    assert not list(tmp_path.glob('*')), 'a plan leaves nothing'
    code, _, wrong = here('study', 'one', '-p', 'mode', "'plan'", '--out', tmp_path)
    assert code == 1 and "mode='plan'" in wrong and not list(tmp_path.glob('*'))

def test_all_studies_run_from_one_command_and_share_their_tasks(runs):
    assert {f.name for f in runs['out'].iterdir() if f.is_dir()} == {'one-default', 'two-default', 'tasks'}
    assert len(list(runs['out'].glob('tasks/make_score-*/task.json'))) == 10
    for n in ('one', 'two'): assert str(runs['out']/f'{n}-default/figure.png') in runs['said'] and str(runs['out']/f'{n}-default/{n}.ipynb') in runs['said']

def test_one_study_that_fails_is_named_and_the_rest_goes_on(toy, tmp_path, runs):
    (toy/'settings.ini').write_text(INI + '\n[one.bad]\ndoses = [-1., 600.]\n\n[two.bad]\nreplicates = 2\n')
    r = run_cli('study', 'all', '--size', 'bad', '--out', tmp_path, cwd=toy)
    (toy/'settings.ini').write_text(INI)
    assert r.returncode == 1 and 'one: RuntimeError' in r.stderr and 'dose=-1.0: no such beam' in r.stderr and '1 of 2 failed: one.' in r.stderr, r.stderr
    assert (tmp_path/'two-bad/result.json').is_file() and not (tmp_path/'one-bad/result.json').exists()
    assert 'no such beam' in next(tmp_path.glob('tasks/*.part/error.txt')).read_text()

def test_results_of_all_studies_come_as_one_table_and_one_list_of_claims(toy, runs, here):
    code, said, _ = here('results', '--keep', toy/'kept')
    assert code == 0
    kept = toy/'kept/one-default'
    assert {f.name for f in kept.iterdir()} == {'result.json', 'table.csv', 'claims.csv', 'figure.png'}
    assert (kept/'table.csv').read_bytes() == (runs['out']/'one-default/table.csv').read_bytes() and str(toy) not in (kept/'result.json').read_text()
    table = pd.read_csv(runs['out']/'results.csv')
    assert len(table) == 20 and not table.duplicated(['study', 'train', 'replicate']).any() and set(table.run) == {'one-default', 'two-default'}
    ds = xr.load_dataset(runs['out']/'results.nc')
    assert ds.value.groupby('study').mean().sel(study='one').item() == pytest.approx(table[table.study == 'one'].value.mean())
    claims = pd.read_csv(runs['out']/'claims.csv').set_index('study')
    assert claims.verdict.to_dict() == {'one': 'holds', 'two': 'does not hold'} and claims.p_adjusted['one'] == pytest.approx(2*claims.p['one'])
    assert 'a higher dose gives a higher Dice' in said and 'does not hold' in said

def test_redrawing_makes_nothing_and_needs_every_point(toy, runs):
    folder, tasks = runs['out']/'one-default', sorted(runs['out'].glob('tasks/*/*'))
    stamps = {f: f.stat().st_mtime_ns for f in tasks}
    (folder/'figure.png').unlink()
    r = run_cli('redraw', 'one', cwd=toy)
    assert r.returncode == 0 and (folder/'figure.png').is_file() and str(folder/'one.ipynb') in r.stdout, r.stderr
    assert {f: f.stat().st_mtime_ns for f in sorted(runs['out'].glob('tasks/*/*'))} == stamps
    lost, notebook = tasks[0].parent, (folder/'one.ipynb').read_bytes()
    lost.rename(lost.with_suffix('.gone'))
    r = run_cli('redraw', 'one-default', cwd=toy)
    lost.with_suffix('.gone').rename(lost)
    assert r.returncode == 1 and f'{lost} is not finished' in r.stderr and (folder/'one.ipynb').read_bytes() == notebook, r.stderr

def test_generate_makes_the_stack_of_a_section(here, tmp_path):
    code, said, _ = here('generate', 'few', '--out', tmp_path/'few', '--workers', 0)
    assert code == 0 and '2 images of 32 × 32 pixels' in said
    assert len(list((tmp_path/'few/finished').glob('[0-9]*.json'))) == 2

@pytest.mark.parametrize('args, says', [
    (['studies', '--size', 'huge'], "--size='huge': expected one of 'default', 'quick'"),
    (['study', 'one', 'three'], "study='three': expected one of 'one', 'two'"),
    (['study', 'one', 'two', '-p', 'dose', '3'], "unknown setting 'dose'; allowed are doses"),
    (['study', 'two', '--size', 'quick'], "size='quick': expected one of 'default'"),
    (['redraw', 'three'], "study='three': expected one of 'one-default'"),
    (['results', '--out', 'nowhere'], 'nowhere: no study with a claims.csv in it'),
    (['generate', 'none'], "stack='none': expected one of 'few', 'wrong'"),
    (['generate', 'wrong'], "[stack.wrong] in settings.ini: unknown setting 'n_structure'"),
])
def test_bad_input_is_one_line_before_anything_starts(args, says, toy, runs, here):
    there = sorted(toy.rglob('*'))
    code, _, said = here(*args)
    assert code == 2 and says in said and said.count('\n') == 1 and sorted(toy.rglob('*')) == there, said

def test_what_this_package_says_is_one_line_and_what_others_raise_is_traced(here, monkeypatch, runs):
    from hrtem_seg.experiments import tasks
    def nothing(*args, **how): raise RuntimeError('of another library')
    def failed(*args, **how): exec("raise RuntimeError('3 of 10 structures failed')", vars(tasks))
    monkeypatch.setattr('hrtem_seg.cli.studies', nothing)
    with pytest.raises(RuntimeError, match='another library'): here('studies')
    monkeypatch.setattr('hrtem_seg.cli.studies', failed)
    code, _, said = here('studies')
    assert code == 1 and said.strip() == 'hrtem-seg studies: 3 of 10 structures failed', said
