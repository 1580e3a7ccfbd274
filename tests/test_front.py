"The program and the front door as a newcomer meets them: at once, in one line, and outside a clone"
import ast, importlib, importlib.util, json, os, re, signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pytest, tifffile
from conftest import run_cli

NBS = Path(__file__).resolve().parents[1]/'nbs'
PROGRAM = [sys.executable, '-c', 'import sys; from hrtem_seg.cli import main; sys.exit(main())']

@pytest.fixture
def micrograph(tmp_path):
    "A calibrated file with one particle"
    y, x = np.mgrid[:160, :160]
    away = np.hypot(y - 80, x - 80)/29
    dark = 60*np.sqrt(np.maximum(0, 1 - away**2))
    tifffile.imwrite(tmp_path/'a.tif', np.random.default_rng(0).poisson(200 - dark).astype('u2'), imagej=True,
                     resolution=(1/.06, 1/.06), metadata={'unit': 'nm'})
    return tmp_path/'a.tif'

def test_help_and_version_import_nothing_heavy():
    code = """import sys
from hrtem_seg.cli import main
try: main(sys.argv[1:])
except SystemExit: pass
print(sorted({'numpy', 'torch', 'numba', 'pandas', 'scipy', 'papermill', 'matplotlib'} & set(sys.modules)))"""
    for flag in ('--help', '--version'):
        said = subprocess.run([sys.executable, '-c', code, flag], capture_output=True, text=True).stdout
        assert said.splitlines()[-1] == '[]' and 'hrtem-seg' in said

def test_segment_says_which_network_and_resumes(micrograph, tmp_path):
    first = run_cli('segment', micrograph, '--out', tmp_path/'out')
    assert first.returncode == 0 and 'network: the one that comes with the package' in first.stdout and '1 particles' in first.stdout, first.stderr
    stamps = {f: f.stat().st_mtime_ns for f in (tmp_path/'out').iterdir()}
    again = run_cli('segment', micrograph, '--out', tmp_path/'out')
    assert again.returncode == 0 and 'done before' in again.stdout and {f: f.stat().st_mtime_ns for f in (tmp_path/'out').iterdir()} == stamps
    other = run_cli('segment', micrograph, '--out', tmp_path/'out', '--flips')
    assert other.returncode == 2 and '--overwrite' in other.stderr and {f: f.stat().st_mtime_ns for f in (tmp_path/'out').iterdir()} == stamps

def test_info_tells_people_and_programs(micrograph):
    assert '0.06 nm per pixel (ImageJ TIFF)' in run_cli('info', micrograph).stdout
    told = json.loads(run_cli('info', micrograph, '--json').stdout)
    assert told[0]['images'][0]['pixel_nm'] == pytest.approx(.06) and told[0]['images'][0]['refused'] == ''

def test_segment_exports_and_speaks_to_programs(micrograph, tmp_path):
    (tmp_path/'bad.tif').write_bytes(b'II*')
    r = run_cli('segment', micrograph, tmp_path/'bad.tif', '--out', tmp_path/'out', '--json', '--export', 'coco', 'netcdf',
                '--crystal', 'Au', '--lognormal', '--border', '--workers', 1)
    told = {t['file'].split('/')[-1]: t for t in json.loads(r.stdout)}
    assert r.returncode == 1 and 'bad.tif' in told['bad.tif']['refused'] and '1 of 2 files failed' in r.stderr
    assert told['a.tif']['particles'] == 1 and told['a.tif']['sizes']['mean_nm'] == pytest.approx(58*.06, rel=.1)
    assert all(Path(f).exists() for f in told['a.tif']['files']) and any(f.endswith('_lattice.csv') for f in told['a.tif']['files'])

@pytest.mark.parametrize('args, says', [
    (['--export', 'xlsx'], "export='xlsx': expected one of 'roi', 'coco'"), (['--device', 'abacus'], "device='abacus'"),
    (['--workers', -1], '--workers=-1'), (['--crystal', 'Unobtainium'], 'Unobtainium'), (['--track', 0], '--track (nm)=0'),
    (['--mask', 'm.png', '--no-borders'], '--mask=m.png marks borders')])
def test_what_cannot_be_asked_is_refused_before_any_work(micrograph, tmp_path, args, says):
    r = run_cli('segment', micrograph, '--out', tmp_path/'out', *args)
    assert r.returncode == 2 and says in r.stderr and r.stderr.count('\n') == 1 and not (tmp_path/'out').exists(), r.stderr

def test_what_cannot_be_written_is_one_line(micrograph, tmp_path):
    (tmp_path/'file').write_text('')
    for out in (tmp_path/'file'/'out', '/proc/out'):
        r = run_cli('segment', micrograph, '--out', out)
        assert r.returncode == 2 and 'nothing can be written to the folder' in r.stderr and r.stderr.count('\n') == 1, r.stderr

def test_a_closed_pipe_ends_without_a_word(micrograph, tmp_path):
    p = subprocess.Popen([*PROGRAM, 'segment', micrograph, '--out', tmp_path/'out'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    p.stdout.close()
    assert p.stderr.read() == '' and p.wait() == 141

@pytest.mark.skipif(os.name == 'nt', reason='Windows has no SIGINT for one process')
def test_ctrl_c_says_what_is_kept(tmp_path):
    a = np.random.default_rng(0).poisson(200, (512, 512)).astype('u2')
    for i in range(9): tifffile.imwrite(tmp_path/f'{i}.tif', a + i)
    p = subprocess.Popen([*PROGRAM, 'segment', tmp_path, '--pixel-size', '.06', '--out', tmp_path/'out'], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not (tmp_path/'out/0.json').exists():
        assert p.poll() is None
        time.sleep(.02)
    p.send_signal(signal.SIGINT)
    said = p.communicate()[1]
    assert p.returncode == 130 and 'files are finished, and the same command passes them over' in said and 'Traceback' not in said, said
    assert all(len(list((tmp_path/'out').glob(f'{f.stem}*'))) == 6 for f in (tmp_path/'out').glob('*.json'))

def test_the_wheel_has_what_a_user_needs(project, tmp_path, micrograph):
    "The network, the studies and their numbers, outside any clone"
    tracked = subprocess.run(['git', 'ls-files', '-co', '--exclude-standard'], cwd=project, capture_output=True, text=True, check=True).stdout
    for f in map(Path, tracked.splitlines()):
        if f.parts[0] not in ('hrtem_seg', 'nbs') and len(f.parts) > 1 or not (project/f).is_file(): continue
        (tmp_path/'source'/f).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path/'source'/f).write_bytes((project/f).read_bytes())
    build = [sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps', '--no-build-isolation', '-w', tmp_path, tmp_path/'source']
    made = subprocess.run(build, capture_output=True, text=True)
    if made.returncode and 'setuptools' in made.stderr: pytest.skip(f'no setuptools here to build with: {made.stderr[-200:]}')
    assert made.returncode == 0, made.stderr
    import zipfile
    with zipfile.ZipFile(next(tmp_path.glob('*.whl'))) as z: z.extractall(tmp_path/'installed')
    code = 'import hrtem_seg, sys; from hrtem_seg.cli import main; from hrtem_seg.experiments.settings import list_studies; print(hrtem_seg.__file__, list_studies()); sys.exit(main())'
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'} | {'PYTHONPATH': str(tmp_path/'installed')}
    (tmp_path/'empty').mkdir()
    r = subprocess.run([sys.executable, '-c', code, 'segment', micrograph, '--out', 'out'], cwd=tmp_path/'empty', env=env, capture_output=True, text=True)
    assert r.returncode == 0 and str(tmp_path/'installed') in r.stdout and "'dose'" in r.stdout and '1 particles' in r.stdout, r.stderr

@pytest.mark.skipif(os.name == 'nt' or os.geteuid() == 0 and not os.path.exists('/dev/null'), reason='needs a folder that nobody can write to')
def test_numba_finds_a_place_for_its_cache(tmp_path, monkeypatch):
    from hrtem_seg.front import settle_numba_cache
    monkeypatch.setenv('XDG_CACHE_HOME', '/dev/null/cache')
    monkeypatch.setenv('TMPDIR', str(tmp_path))
    monkeypatch.delenv('NUMBA_CACHE_DIR', raising=False)
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path))
    chosen = settle_numba_cache('/dev/null/package')
    assert Path(chosen).parent == tmp_path and Path(chosen).stat().st_mode & 0o022 == 0
    monkeypatch.delenv('NUMBA_CACHE_DIR', raising=False)

def code_of(notebook):
    "The code of a notebook as one syntax tree, without lines that only Jupyter understands"
    cells = [''.join(c['source']) for c in json.loads(notebook.read_text())['cells'] if c['cell_type'] == 'code']
    lines = [line for cell in cells for line in cell.splitlines() if not line.lstrip().startswith(('%', '!'))]
    return ast.parse('\n'.join(lines))

def is_module(owner, name): return importlib.util.find_spec(f'{owner.__name__}.{name}') is not None if hasattr(owner, '__path__') else False

def test_notebooks_take_names_that_are_there():
    "Those of the front door, of which its own chapter asks for one that is not there, and those imported from the parts"
    import hrtem_seg as hs
    missing = []
    for notebook in sorted(NBS.rglob('*.ipynb')):
        for node in ast.walk(code_of(notebook)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == 'hs': owner, names = hs, [node.attr]
            elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('hrtem_seg.'):
                owner, names = importlib.import_module(node.module), [name.name for name in node.names if name.name != '*']
            else: continue
            missing += [(notebook.name, name) for name in names if not hasattr(owner, name) and not is_module(owner, name)]
    assert missing == [('01_front.ipynb', 'segmentise')]

def test_help_of_the_package_begins_with_an_example():
    import hrtem_seg as hs
    named = re.findall(r'hs[.](\w+)', hs.__doc__)
    assert {'sample_scene', 'exit_wave', 'image', 'segment'} <= set(named) <= set(dir(hs))
