"What keeps the project in one piece: notebooks, modules and README say the same"
import ast, json, os, re, shutil, subprocess, sys, tokenize
from pathlib import Path
import pytest
from hrtem_seg.experiments.runner import list_studies, parameters, sizes, study_settings

BIN = Path(sys.executable).parent

def tracked(project):
    out = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=project, capture_output=True, text=True, check=True).stdout
    return [Path(f) for f in out.splitlines() if (project/f).is_file()]

# a part imports parts to its left, never to its right
PARTS = ('core', 'structures', 'waves', 'imaging', 'data', 'micrographs', 'learning', 'segmentation', 'experiments', 'cli')

def chapters(project, part): return sorted((project/'nbs'/part).glob('[0-9]*.ipynb'))

def module_of(notebook): return notebook.stem[3:] if notebook.parent.name == 'cli' else f'{notebook.parent.name}.{notebook.stem[3:]}'

def cells(path): return json.loads(path.read_text())['cells']

def test_modules_and_readme_are_what_the_notebooks_export(project, tmp_path):
    for f in tracked(project):
        (tmp_path/f).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(project/f, tmp_path/f)
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'PYTHONPATH': str(tmp_path)}
    subprocess.run(['make', '-o', f'{sys.prefix}/ready', f'VENV={sys.prefix}', 'sync'], cwd=tmp_path, env=env, check=True, capture_output=True)
    differ = [str(f) for f in tracked(project) if f.parts[0] in ('nbs', 'hrtem_seg', 'README.md') and (project/f).read_bytes() != (tmp_path/f).read_bytes()]
    made = {str(f.relative_to(tmp_path)) for f in (tmp_path/'hrtem_seg').rglob('*.py')} - {str(f) for f in tracked(project)}
    assert not differ and not made, f'run make sync: {differ + sorted(made)}'

def test_chapters_are_numbered_without_gaps_and_short_enough(project):
    for part in PARTS:
        found = chapters(project, part)
        assert [int(f.name[:2]) for f in found] == list(range(len(found))), part
        assert {f.name: n for f in found if (n := len(cells(f))) > 65} == {}

def test_every_numbered_notebook_is_in_a_part(project):
    folders = {f.parent.relative_to(project/'nbs').as_posix() for f in (project/'nbs').rglob('[0-9]*.ipynb') if '.ipynb_checkpoints' not in f.parts}
    assert folders == set(PARTS)

def test_imports_run_one_way(project):
    order = [module_of(f) for part in PARTS for f in chapters(project, part)]
    for i, name in enumerate(order):
        tree = ast.parse((project/f"hrtem_seg/{name.replace('.', '/')}.py").read_text())
        found = set()
        for node in ast.walk(tree):
            if not isinstance(node, ast.ImportFrom): continue
            if node.level: found.add('.'.join([*name.split('.')[:-node.level], *filter(None, [node.module])]))
            elif (node.module or '').startswith('hrtem_seg.'): found.add(node.module.removeprefix('hrtem_seg.'))
        later = [m for m in order[i+1:] if m in found]
        assert not later, f'{name} imports {later}, which come after it'

def test_studies_have_a_parameter_cell_and_no_outputs(project):
    for f in sorted((project/'nbs/studies').glob('*.ipynb')):
        assert sum('parameters' in c['metadata'].get('tags', []) for c in cells(f)) == 1, f.name
        assert not any(c.get('outputs') for c in cells(f)), f'{f.name} is committed with outputs'

def test_every_parameter_is_explained_and_every_size_is_valid():
    for study in list_studies():
        assert [k for k, (_, text) in parameters(study).items() if len(text) < 3] == [], study
        for size in sizes(study): study_settings(study, size)

def test_the_notebook_opens_at_quick_size():
    for study in list_studies():
        if 'quick' not in sizes(study): continue
        own = {k: v for k, (v, _) in parameters(study).items()}
        assert study_settings(study, 'quick') == json.loads(json.dumps(own))

def test_cleaning_keeps_the_tag_that_papermill_needs(project, tmp_path):
    shutil.copy(project/'pyproject.toml', tmp_path)
    (tmp_path/'nbs').mkdir()
    f = Path(shutil.copy(project/'nbs/studies/dose.ipynb', tmp_path/'nbs'))
    subprocess.run([BIN/'nbdev-clean', '--fname', f], cwd=tmp_path, check=True, capture_output=True)
    assert any('parameters' in c['metadata'].get('tags', []) for c in cells(f))

def test_the_contents_lead_to_every_chapter_and_every_link_to_a_notebook(project):
    text = ''.join(''.join(c['source']) for c in cells(project/'nbs/contents.ipynb'))
    assert [str(f) for part in PARTS for f in chapters(project, part) if f'({part}/{f.name})' not in text] == []
    for f in (project/'nbs').rglob('*.ipynb'):
        if '.ipynb_checkpoints' in f.parts: continue
        words = ''.join(''.join(c['source']) for c in cells(f) if c['cell_type'] == 'markdown')
        lost = [link for link in re.findall(r'\]\(([^)\s#]+\.(?:ipynb|md|py|png|csv))\)', words) if ':' not in link and not (f.parent/link).is_file()]
        assert not lost, f'{f.name} links to {lost}'

def test_no_output_is_what_a_run_says_aside(project):
    "Warnings and progress bars differ from run to run"
    for f in (project/'nbs').rglob('*.ipynb'):
        if '.ipynb_checkpoints' in f.parts: continue
        said = [c['id'] for c in cells(f) for o in c.get('outputs', []) if o.get('name') == 'stderr']
        assert not said, f'{f.name}: cells {said} hold stderr'

def modules(project): return [f for f in (project/'hrtem_seg').rglob('*.py') if f.name not in ('_modidx.py', '__init__.py')]

def nodes_per_line(path):
    "Expressions and statements per line of each function's body, its docstring left out"
    for f in ast.walk(ast.parse(path.read_text())):
        if not isinstance(f, (ast.FunctionDef, ast.AsyncFunctionDef)): continue
        body = f.body[1:] if ast.get_docstring(f, clean=False) else f.body
        if not body: continue
        lines = body[-1].end_lineno - body[0].lineno + 1
        yield sum(isinstance(n, (ast.expr, ast.stmt)) for s in body for n in ast.walk(s))/lines

def test_code_is_calm(project):
    density = sorted(d for f in modules(project) for d in nodes_per_line(f))
    assert density[len(density)//2] <= 9 and density[int(.9*len(density))] <= 14
    tokens = [(f, t) for f in modules(project) for t in tokenize.generate_tokens(f.open().readline)]
    assert [f'{f.name}:{t.start[0]}' for f, t in tokens if t.type == tokenize.OP and t.string == ';'] == []
    wide = [f'{f.name}:{i}' for f in modules(project) for i, line in enumerate(f.read_text().splitlines(), 1) if len(line) > 120 and not line.startswith('__all__')]
    assert len(wide) <= 5, wide

def test_nothing_names_a_path_of_one_machine(project):
    for f in tracked(project):
        if f.suffix not in ('.ipynb', '.py', '.md', '.ini', '.toml', '.csv', '.json'): continue
        text = (project/f).read_text(errors='replace')
        for path in (str(project), str(Path.home()), sys.prefix):
            assert len(path) < 3 or path + '/' not in text, f'{f} names {path}'
