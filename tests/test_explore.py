"The page for results, without a browser: what is chosen is what is drawn"
import numpy as np, pandas as pd, pytest
from hrtem_seg.core.records import write_json
from hrtem_seg.experiments import explore
from hrtem_seg.experiments.claims import gather
from hrtem_seg.learning.kept import save_network
from hrtem_seg.learning.networks import build

def test_each_reduction_is_that_of_the_rows(project):
    table = pd.read_csv(project/'data/results/dose-default/table.csv')
    rows = table[(table.phase == 'pretrain') & (table.metric == 'dice')]
    for name in explore.REDUCTIONS:
        matrix = explore.score_matrix(table, name, phase='pretrain', metric='dice')
        values = rows[(rows.train == 600) & (rows.tested == 30)].value
        assert matrix.loc['600', '30'] == pytest.approx(getattr(np, name)(values))

def test_the_page_offers_what_there_is_and_draws_what_is_chosen(project, monkeypatch):
    pytest.importorskip('ipywidgets')
    drawn = []
    monkeypatch.setattr(explore, 'draw_scores', lambda table, reduction, cell, **where: drawn.append((reduction, cell, where)) or explore.plt.figure())
    page = explore.Explorer(project/'data/results')
    for run in ('dose-default', 'magnification-default', 'size-default'):
        page.lists['run'].value = run
        assert drawn[-1][2]['run'] == run and drawn[-1][2]['phase'] == 'pretrain'
    page.lists['run'].value = 'dose-default'
    page.lists['reduction'].value = 'min'
    page.lists['cell'].value = ('600', '30')
    assert drawn[-1] == ('min', ('600', '30'), dict(run='dose-default', phase='pretrain', metric='dice'))
    page.lists['phase'].value = 'transfer'
    assert drawn[-1][1] is None, 'a cell of another phase is not kept'

def test_a_folder_without_results_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match='no run with a table.csv in it'): explore.read_scores(tmp_path)

def test_a_condition_may_be_called_by_a_word_for_nothing(tmp_path):
    rows = dict(phase='pretrain', replicate=0, train=['None', 'NA'], target=None, tested='null', metric='dice', value=[.5, .9])
    (tmp_path/'dose-quick').mkdir()
    pd.DataFrame(rows).to_csv(tmp_path/'dose-quick/table.csv', index=False)
    for table in (explore.read_scores(tmp_path), gather(tmp_path)):
        assert list(table.train) == ['None', 'NA'] and list(table.tested) == ['null']*2 and table.target.isna().all()
    assert explore.score_matrix(table).to_dict() == {'null': {'None': .5, 'NA': .9}}

TESTED = '100'   # a name that two runs give to sets of their own

def scored_task(root, key, dice, source, network=None, trained=True):
    "A task that scored a network on two images, as `make_network` or `make_scores` leaves it"
    settings = dict(tests={TESTED: dict(stack=source)}, network=network)
    write_json(root/key/'task.json', dict(task=key.split('-')[0], version=1, settings=settings))
    scores = dict(dataset=TESTED, dice=[dice - .1, dice + .1], pixel_error=[.1, .3])
    pd.DataFrame(scores).to_csv(root/key/'tests.csv', index=False)
    if not trained: return root/key
    history = pd.DataFrame([dict(epoch=e, dataset=TESTED, metric='dice', value=dice) for e in (1, 2)])
    weights = build(dict(name='UNet', filters=[2], bottleneck=2), int(1000*dice))
    return save_network(root/key, weights, history=history)

@pytest.fixture
def two_runs(tmp_path):
    "A run over doses and one over pixels, whose tasks lie in one folder; a dose and a pixel have the same name"
    runs = {'dose-quick': ('25', TESTED, .7), 'pixel-quick': ('0.2', TESTED, .8)}
    for run, (first, second, dice) in runs.items():
        rows = [dict(phase='pretrain', replicate=0, train=first, tested=t, metric=m, value=v)
                for t in (first, second) for m, v in (('dice', dice), ('pixel_error', .2))]
        (tmp_path/run).mkdir()
        pd.DataFrame(rows).to_csv(tmp_path/run/'table.csv', index=False)
    scored_task(tmp_path/'tasks', 'make_network-a', .7, 'of doses')
    scored_task(tmp_path/'tasks', 'make_network-b', .8, 'of pixels')
    scored_task(tmp_path/'tasks', 'make_baselines-c', .3, 'of doses', trained=False)
    return tmp_path

def rows_of(table, run, **where): return explore.scores_where(table, run=run, tested=TESTED, **where)

def test_names_are_as_their_run_wrote_them(two_runs):
    table = explore.read_scores(two_runs)
    assert set(table.train) == {'25', '0.2'} and set(table.tested) == {'25', '0.2', TESTED}

@pytest.mark.parametrize('run, source, key', [('dose-quick', 'of doses', 'a'), ('pixel-quick', 'of pixels', 'b')])
def test_behind_a_cell_are_the_networks_of_its_run(two_runs, run, source, key):
    rows = rows_of(explore.read_scores(two_runs), run)
    found, networks = explore.tests_behind(two_runs/'tasks', TESTED, rows)
    assert found == dict(stack=source) and [n.name for n in networks] == [f'make_network-{key}']

def test_without_rows_all_networks_are_behind_a_name_and_nothing_else(two_runs):
    _, networks = explore.tests_behind(two_runs/'tasks', TESTED)
    assert [n.name for n in networks] == ['make_network-a', 'make_network-b']

def test_a_network_that_was_scored_later_is_the_one_that_was_trained(two_runs):
    tasks = two_runs/'tasks'
    network = '/elsewhere/tasks/make_network-a'
    later = scored_task(tasks, 'make_scores-d', .6, 'further', network, trained=False)
    rows = pd.DataFrame(dict(tested=TESTED, metric=['dice', 'pixel_error'], value=[.6, .2]))
    assert explore.tests_behind(tasks, TESTED, rows) == (dict(stack='further'), [tasks/'make_network-a'])
    assert later not in explore.tests_behind(tasks, TESTED)[1]

def test_the_same_network_under_another_key_counts_once(two_runs):
    scored_task(two_runs/'tasks', 'make_network-e', .7, 'of doses')
    assert len(explore.tests_behind(two_runs/'tasks', TESTED)[1]) == 2

def test_one_metric_that_agrees_is_not_enough(two_runs):
    rows = rows_of(explore.read_scores(two_runs), 'dose-quick')
    other = rows.assign(value=rows.value.where(rows.metric == 'dice', .25))
    assert explore.tests_behind(two_runs/'tasks', TESTED, other) == (None, [])
    assert explore.tests_behind(two_runs/'tasks', TESTED, rows[:0]) == (None, [])

def test_the_page_asks_for_what_is_behind_the_cell_of_the_run(two_runs, monkeypatch):
    pytest.importorskip('ipywidgets')
    asked = []
    monkeypatch.setattr(explore, 'draw_tested', lambda root, tested, **how: asked.append((root, tested, how)))
    page = explore.Explorer(two_runs)
    page.lists['run'].value = 'dose-quick'
    page.lists['cell'].value = ('25', TESTED)
    (root, tested, how), = asked
    assert (root, tested, how['metric']) == (two_runs/'tasks', TESTED, 'dice')
    assert set(how['rows'].run) == {'dose-quick'} and set(how['rows'].metric) == {'dice', 'pixel_error'}
