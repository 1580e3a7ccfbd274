"Every study runs to its end at its smallest size, from one command, and leaves what the results are gathered from"
import pandas as pd, pytest
from hrtem_seg.experiments.claims import VERDICTS
from hrtem_seg.core.records import read_json
from hrtem_seg.experiments.settings import list_studies
from conftest import run_cli

OTHERS = [s for s in list_studies() if s not in ('dose', 'real')]   # dose has tests of its own, real needs micrographs

@pytest.fixture(scope='session')
def everything(tmp_path_factory):
    out = tmp_path_factory.mktemp('all')
    done = run_cli('study', *OTHERS, '--size', 'tiny', '--out', out)
    return dict(out=out, done=done)

def test_all_of_them_end_well(everything):
    assert everything['done'].returncode == 0, everything['done'].stderr[-3000:]

@pytest.mark.parametrize('study', OTHERS)
def test_a_study_leaves_its_table_claims_and_figure(everything, study):
    folder = everything['out']/f'{study}-tiny'
    result, table, claims = read_json(folder/'result.json'), pd.read_csv(folder/'table.csv'), pd.read_csv(folder/'claims.csv')
    assert result['failed'] == {} and result['summary'] and (folder/result['figure']).stat().st_size > 5000
    assert {'study', 'phase', 'replicate', 'train', 'tested', 'metric', 'value'} <= set(table) and set(table.study) == {study}
    assert not table.duplicated([c for c in table if c not in ('value',)]).any(), 'a row is there twice'
    assert table.value.notna().all() and table[table.metric == 'dice'].value.between(0, 1).all()
    assert set(claims.verdict) <= set(VERDICTS) and set(claims.verdict) == {'undecided here'}, 'one replicate decides nothing'

def test_the_strategies_start_from_the_networks_of_defocus(everything):
    "Two studies with the same numbers share tasks: nothing is trained twice"
    keys = {s: {k for k in read_json(everything['out']/f'{s}-tiny/result.json')['settings']} for s in ('defocus', 'strategies')}
    assert keys['defocus'] - keys['strategies'] == set()
    made = [read_json(f) for f in everything['out'].glob('tasks/make_network-*/task.json')]
    starts = [m for m in made if m['settings'].get('phase') == 'pretrain' and set(m['settings']['tests']) == {'-200', '+200'} and isinstance(m['settings']['train'], dict) and not m['settings']['train'].get('n')]
    assert len(starts) == 2, 'one network for each of the two foci'

def test_all_results_gather_into_one_table(everything):
    r = run_cli('results', '--out', everything['out'])
    assert r.returncode == 0, r.stderr
    table = pd.read_csv(everything['out']/'results.csv')
    assert set(table.study) == set(OTHERS)

def test_replicates_may_differ_in_structures_too(everything):
    "The first replicate is that of the shared structures, made already; the second has images and networks of its own"
    out = everything['out']
    before = {f.name for f in out.glob('tasks/*') if f.suffix == ''}
    done = run_cli('study', 'defocus', '--size', 'tiny', '--out', out, '-p', 'structures', "'drawn'", '-p', 'replicates', '2')
    assert done.returncode == 0, done.stderr[-3000:]
    new = {f.name for f in out.glob('tasks/*') if f.suffix == ''} - before
    assert sorted(n.split('-')[0] for n in new) == ['make_network']*2 + ['make_stack']*2
    folder, = out.glob('defocus-tiny-*')
    table = pd.read_csv(folder/'table.csv')
    assert table.groupby('replicate').train.nunique().to_dict() == {0: 2, 1: 2}
    shared = pd.read_csv(out/'defocus-tiny/table.csv')
    first = table[table.replicate == 0].reset_index(drop=True)
    pd.testing.assert_frame_equal(first, shared)
    seeds = {n: read_json(out/'tasks'/n/'task.json')['settings'].get('seed') for n in new}
    assert {s for n, s in seeds.items() if n.startswith('make_stack')} == {10001}, 'stacks of the second replicate have a seed of their own'
    assert 'structures drawn' in read_json(folder/'result.json')['summary'][0]

def test_the_published_study_runs_on_a_downloaded_folder_as_on_a_simulated_one(everything, tmp_path):
    "The simulated set is laid out like the published one: taken for a download it gives the same numbers"
    raw, = everything['out'].glob('tasks/make_raw_set-*')
    done = run_cli('study', 'published', '--size', 'tiny', '--out', tmp_path, '-p', 'folder', repr(str(raw)))
    assert done.returncode == 0, done.stderr[-3000:]
    folder, = tmp_path.glob('published-tiny-*')
    pd.testing.assert_frame_equal(pd.read_csv(folder/'table.csv'), pd.read_csv(everything['out']/'published-tiny/table.csv'))
    assert 'downloaded experiments' in read_json(folder/'result.json')['summary'][0]

def test_what_was_not_downloaded_is_said_in_one_sentence(tmp_path):
    r = run_cli('study', 'published', '--size', 'experiments', '--out', tmp_path, '-p', 'folder', repr(str(tmp_path/'none')))
    said, *_ = [line for line in r.stderr.splitlines() if 'FileNotFoundError' in line]
    assert r.returncode == 1 and 'hrtem-seg download team05-raw' in said and 'dose=423.0' in said
    assert not list(tmp_path.glob('tasks/*'))
