"Conditions, sources and tables: what must not depend on how they are asked for"
import json
import numpy as np, pandas as pd, pytest, zarr
from hrtem_seg.experiments.conditions import BASE, METRICS, SESSIONS, combine, part, pretrain, samples, stacks
from hrtem_seg.experiments.results import matrices, score_table
from hrtem_seg.data.generation import check_settings, generate
from hrtem_seg.experiments.tasks import Tasks
from hrtem_seg.data.stacks import leaks
from hrtem_seg.imaging.cameras import CAMERAS

SMALL = dict(n_structures=8, seed=3, crop=48, scene=dict(cell=[60., 60.], radius=12., n_particles=1), wave=dict(pixel=.3, slice_thickness=4.))

@pytest.fixture(scope='module')
def made(tmp_path_factory):
    tasks = Tasks(tmp_path_factory.mktemp('tasks'), workers=0)
    base = combine(BASE, SMALL)
    found = stacks(tasks, base, {'near': {}, 'far': {'defocus': ['normal', 300., 5.]}, 'small': {'scene': {'radius': 9.}}})
    return tasks, base, found

def test_conditions_share_waves_only_where_they_are_the_same(made):
    tasks, base, found = made
    kept = {k: 'waves' in zarr.open_group(s['stack'].folder/'stack', mode='r') for k, s in found.items()}
    assert kept == {'near': True, 'far': False, 'small': True}
    near, far, small = (samples(found[k]) for k in ('near', 'far', 'small'))
    assert list(near.structure.values) == list(far.structure.values) and not set(near.structure.values) & set(small.structure.values)
    assert (near.mask.values == far.mask.values).all() and (near.image.values != far.image.values).any()

def test_shared_waves_give_the_images_that_waves_of_their_own_give(made, tmp_path):
    tasks, base, found = made
    alone = generate(tmp_path/'alone', workers=0, progress=False, **combine(base, {'defocus': ['normal', 300., 5.]}, {'n_structures': 3, 'keep': 'half'}))
    shared = samples(found['far'])
    both = np.intersect1d(alone.structure.values, shared.structure.values)
    assert len(both) == 3
    for s in both: assert (alone.image.values[alone.structure.values == s] == shared.image.values[shared.structure.values == s]).all()

def test_a_camera_has_finer_pixels_than_its_images(made):
    tasks, base, found = made
    more = stacks(tasks, base, {'near': {}, 'by name': {'camera': 'direct'}, 'coarse': {'camera': {**CAMERAS['direct'], 'binning': 1}}})
    near, by_name, coarse = (samples(more[k]) for k in ('near', 'by name', 'coarse'))
    assert json.loads(by_name.attrs['record'])['settings']['camera']['binning'] == 2
    for seen in (by_name, coarse):
        assert seen.image.shape == near.image.shape
        np.testing.assert_allclose(seen.x, near.x)
    assert (by_name.image.values != coarse.image.values).any()

def test_parts_are_disjoint_and_lists_add_up(made):
    _, base, found = made
    sets = [samples(part(found['near'], k)) for k in ('train', 'valid', 'test')]
    assert sum(s.sizes['sample'] for s in sets) == base['n_structures'] and leaks(*sets) == []
    both = samples(part([found['near'], dict(found['small'], n=2)], 'train'))
    assert both.sizes['sample'] == sets[0].sizes['sample'] + 2 and both.image.dims == ('sample', 'y', 'x')
    assert part(found['near'], 'train', 3)['n'] == 3 and samples(part(found['near'], 'train', 3)).sizes['sample'] == 3

@pytest.mark.parametrize('where, says', [({'dosis': 3.}, "where='dosis': expected one of"), ({'dose': 3.}, "dose=3.0: expected one of")])
def test_a_source_that_names_nothing_is_refused(made, where, says):
    with pytest.raises(ValueError, match=says.replace('{', r'\{')): samples({**made[2]['near'], 'where': where})

def test_a_condition_that_cannot_be_made_is_named(made):
    tasks, base, _ = made
    with pytest.raises(ValueError, match='unobtainium'): stacks(tasks, base, {'odd': {'scene': {'material': 'unobtainium'}}})
    tasks.failed.clear()

def test_every_session_is_a_valid_setting():
    for s in SESSIONS.values():
        full = combine(BASE, s)
        assert full['camera'] and full['optics']['aberrations'] == 'TEAM05'

def test_a_table_has_a_row_for_each_network_and_test(made):
    tasks, base, found = made
    two = {k: found[k] for k in ('near', 'far')}
    nets = pretrain(tasks, [two]*2, [two]*2, benchmark=1, epochs=1)
    table = score_table(nets)
    assert len(table) == 2*2*2*len(METRICS) and not table.duplicated(['replicate', 'train', 'tested', 'metric']).any()
    own = pd.read_csv(nets[1, 'far'].folder/'tests.csv')
    row = table[(table.replicate == 1) & (table.train == 'far') & (table.tested == 'near') & (table.metric == 'dice')]
    assert row.value.item() == pytest.approx(own[own.dataset == 'near'].dice.mean())
    m = matrices(table, ['near', 'far'])
    assert m.value.dims == ('replicate', 'train', 'test') and float(m.deviation.sel(train='near', test='near').max()) == 0
