"The page for results, without a browser: what is chosen is what is drawn"
import numpy as np, pandas as pd, pytest
from hrtem_seg.experiments import explore

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
