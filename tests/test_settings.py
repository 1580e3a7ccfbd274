"Settings that a person can type: right, refused by name, or never looked at; and notebooks that are asked by papermill itself"
import ast, json, os, signal, string, subprocess, sys, time
from pathlib import Path
import pytest
from hypothesis import HealthCheck, given, settings as how, strategies as st
from hrtem_seg.experiments.settings import COMMON, Parameter, check_values, injected_names, list_studies, literal, parameters, sizes, stack_settings, study_settings, toy_study, used

CELL = """doses: list = [30., 600.] # e/Å²
epochs: int = 3 # passes over the data
images: dict = {} # what differs
otsu_sigma: float = 5. # pixels
volume: bool = True # or not
session: str = 'small Au' # name
mode: str = 'make' # or plan
root: str = 'runs/tasks' # finished tasks
out: str = 'runs/add' # results"""
STARTS = "from hrtem_seg.experiments.settings import used\nsettings = used(globals(), 'add')\nprint('used', settings['doses'], type(doses).__name__)"

@pytest.fixture(scope='module')
def project(tmp_path_factory): return toy_study(tmp_path_factory.mktemp('project'), '[add]\n', CELL, STARTS)

numbers = st.one_of(st.integers(), st.floats(allow_nan=True, allow_infinity=True), st.booleans())
typed = st.recursive(st.one_of(numbers, st.text(), st.none()), lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=6)
names = st.one_of(st.sampled_from(['doses', 'epochs', 'images', 'otsu_sigma', 'volume', 'session', 'mode']), st.text(string.ascii_letters + '_', min_size=1, max_size=12))

@how(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names, typed)
def test_whatever_is_given_is_kept_as_it_is_or_refused_by_its_name(project, name, value):
    if name in ('study', 'size', 'project'): return   # parameters of the function itself
    try: kept = study_settings('add', project=project, **{name: value})
    except ValueError as e:
        assert name in str(e), 'the error names what was wrong'
        return
    assert name in parameters('add', project)
    assert kept[name] == (list(value) if isinstance(value, tuple) else value)
    assert 'nan' not in json.dumps(kept).lower().replace('"nan"', ''), 'nothing that is no number gets through'

@how(max_examples=150, deadline=None)
@given(st.text(max_size=30))
def test_text_is_a_literal_or_refused_with_itself(text):
    try: value = literal(text, '-p doses')
    except ValueError as e:
        assert str(e).startswith(f'-p doses = {text}')
        return
    assert value == ast.literal_eval(text.strip()) or value != value

@how(max_examples=100, deadline=None)
@given(st.dictionaries(st.text(string.ascii_lowercase, min_size=1, max_size=6).filter(lambda s: s.isidentifier() and s not in ('is', 'in', 'if', 'as', 'or')), numbers.filter(lambda v: v == v and abs(v) < 1e300), max_size=5))
def test_what_papermill_injects_is_found(values):
    import keyword
    values = {k: v for k, v in values.items() if not keyword.iskeyword(k)}
    text = '# Parameters\n' + ''.join(f'{k} = {v!r}\n' for k, v in values.items())
    assert injected_names(['x = 1', text, '# Parameters of something else']) == list(values)

@pytest.mark.parametrize('name', COMMON)
def test_common_parameters_are_of_their_own_kind(name):
    check_values({name: COMMON[name].default}, COMMON, 'here')
    assert len(COMMON[name].help) > 5

@pytest.mark.parametrize('wrong', [dict(replicates=0), dict(replicates=2.), dict(seed=-1), dict(workers=-1), dict(workers='two'), dict(structures='new'), dict(lr=float('nan')),
                                   dict(images={'pixel': float('inf')}), dict(epochs=True), dict(batch_size=0)])
def test_common_parameters_are_checked_in_every_study(wrong):
    for study in ('dose', 'series'):
        with pytest.raises(ValueError, match=next(iter(wrong))): study_settings(study, **wrong)

def papermill(project, *args):
    return subprocess.run([sys.executable, '-m', 'papermill', str(project/'nbs/studies/add.ipynb'), str(project/'out.ipynb'), '--log-output', *args],
                          cwd=project, capture_output=True, text=True)

def test_plain_papermill_takes_lists_as_they_are_meant(project):
    done = papermill(project, '-p', 'doses', '[100, 400]')
    assert done.returncode == 0 and 'used [100, 400] list' in done.stderr, done.stderr[-2000:]

@pytest.mark.parametrize('name, value, says', [
    ('epoch', '5', "add.ipynb: unknown setting 'epoch'; allowed are doses, epochs"),
    ('epochs', 'nan', 'add.ipynb: epochs = nan holds what is not a finite number'),
    ('doses', '30', 'add.ipynb: doses = 30 is not of the kind expected')])
def test_plain_papermill_with_a_wrong_parameter_is_refused_by_the_notebook(project, name, value, says):
    done = papermill(project, '-p', name, value)
    assert done.returncode != 0 and says in done.stderr, done.stderr[-2000:]

def test_every_study_asks_what_it_was_given():
    "The first cell behind the parameters and the imports checks them"
    from hrtem_seg.experiments.settings import project_folder
    for study in list_studies():
        cells = json.loads((project_folder()/f'nbs/studies/{study}.ipynb').read_text())['cells']
        texts = [''.join(c['source']) for c in cells if c['cell_type'] == 'code' and 'parameters' not in c['metadata'].get('tags', [])]
        assert f"Study('{study}', globals())" in texts[1] or f"used(globals(), '{study}')" in texts[1], study

SLOW = "print('begun', flush=True)\nopen(f'{out}/begun', 'w').write('')\nimport time\ntime.sleep(60)"

def test_ctrl_c_in_a_study_says_one_line(tmp_path):
    project = toy_study(tmp_path, '[add]\n', CELL, SLOW)
    code = 'import sys; from hrtem_seg.cli import main; sys.exit(main())'
    run = subprocess.Popen([sys.executable, '-c', code, 'study', 'add', '--out', str(tmp_path/'runs')], cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                           text=True, start_new_session=True)
    end = time.time() + 120
    while not (tmp_path/'runs/add-default/begun').exists():
        assert run.poll() is None and time.time() < end
        time.sleep(.1)
    os.killpg(run.pid, signal.SIGINT)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 130 and 'stopped' in said, said[-2000:]
    assert said.count('\n') < 8 and 'Traceback' not in said, said[-3000:]

def test_a_settings_file_of_ones_own_counts_and_is_checked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert study_settings('dose')['n_structures'] == 256 and 'mine' not in sizes('dose')
    own = tmp_path/'settings.ini'
    own.write_text("[DEFAULT]\nlib_name = other\n\n[dose]\nn_structures = 90\n\n[dose.mine]\nepochs = 2\n\n[stack.mine]\nn_structures = 3\n\n[tox]\nenvlist = py\n")
    mine = study_settings('dose', 'mine')
    assert (mine['n_structures'], mine['epochs'], mine['replicates']) == (90, 2, 5)   # the last is the project's
    assert stack_settings('mine') == {'n_structures': 3} and stack_settings('demo')
    own.write_text('[dose]\nreplicate = 3\n')
    with pytest.raises(ValueError, match="unknown setting 'replicate'"): study_settings('dose')
    own.write_text('replicates = 3\n')
    with pytest.raises(ValueError, match=f'(?s)no section headers.*{own}'): study_settings('dose')
