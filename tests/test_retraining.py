"Retraining: nothing that is held out is learnt from, and what cannot be known is said"
import warnings
import numpy as np, pytest
from hrtem_seg.learning.training import fit
from hrtem_seg.micrographs.micrograph import micrograph
from hrtem_seg.segmentation.corrections import as_stack, correct
from hrtem_seg.segmentation.retraining import (Retraining, _sides, divide, make_folds, mixed, retrain, stay_together)

def correction(seed, shape=(128, 128), **more):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:shape[0], :shape[1]]
    labels = np.zeros(shape, int)
    for i, (cy, cx) in enumerate(rng.uniform(20, min(shape) - 20, (3, 2)), 1): labels[np.hypot(y - cy, x - cx) < 12] = i
    return correct(micrograph(rng.poisson(40 - 14*(labels > 0)).astype('f4'), .6, source=f'{seed}.tif'), labels, **more)

@pytest.fixture(scope='module')
def parent(tmp_path_factory):
    stack = as_stack([correction(90), correction(91)], .6, 64)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return fit({'name': 'UNet', 'filters': [4, 8], 'bottleneck': 8}, stack, stack, epochs=2, batch_size=4,
                   out=tmp_path_factory.mktemp('parent')/'net')

@pytest.mark.parametrize('names', [list('aabbcd'), list('ab'), list('abc'), list('aaaab'), list('abcdefgh')])
def test_no_name_is_on_two_sides_and_every_one_is_held_out_once(names):
    made = make_folds(names)
    held = [i for fold in made for i in fold.test]
    assert sorted(held) == list(range(len(names)))
    for fold in made:
        learn, test = ({names[i] for i in side} for side in (fold.learn, fold.test))
        assert not learn & test and not {names[i] for i in fold.choose} & test
        if len(set(names)) > 2: assert not learn & {names[i] for i in fold.choose}

def test_one_micrograph_is_divided_by_regions():
    assert [fold.quarter for fold in make_folds(['a', 'a'])] == [0, 1, 2, 3]

@pytest.mark.parametrize('quarter', range(4))
def test_quarters_keep_their_distance(quarter):
    stack = as_stack([correction(0, (256, 300))], .6, 48)
    outside, inside = divide(stack, quarter, 16)
    for a in range(inside.sizes['sample']):
        for b in range(outside.sizes['sample']):
            gaps = [abs(float(inside[k][a] - outside[k][b]))/.6 - 48 for k in ('y0', 'x0')]
            assert max(gaps) >= 16 - 1e-6

def test_a_micrograph_too_small_to_divide_is_refused():
    with pytest.raises(ValueError, match='cannot be divided'): divide(as_stack([correction(0)], .6, 96), 0, 16)

def test_fields_of_the_held_out_micrograph_are_not_learnt_from(parent):
    corrections = [correction(i) for i in range(4)]
    work = Retraining(parent, corrections, .6, 64, 16, {})
    for fold in make_folds(stay_together(corrections)):
        learn, choose = _sides(work, fold)
        held = {corrections[i].structure for i in fold.test}
        sides = [set(s.structure.values) for s in (learn, choose)]
        assert not held & (sides[0] | sides[1]) and not sides[0] & sides[1]

def test_two_micrographs_choose_the_epoch_within_one_and_hold_the_other_out(parent):
    corrections = [correction(i, (192, 192)) for i in range(2)]
    work = Retraining(parent, corrections, .6, 64, 16, {})
    fold = make_folds(stay_together(corrections))[0]
    learn, choose = _sides(work, fold)
    assert set(learn.structure.values) == set(choose.structure.values) == {corrections[fold.learn[0]].structure}
    assert not set(zip(learn.y0.values, learn.x0.values)) & set(zip(choose.y0.values, choose.x0.values))

def test_what_cannot_be_trained_is_refused_before_any_work(parent, tmp_path):
    with pytest.raises(ValueError, match='expected at least'): retrain([correct(micrograph(np.random.default_rng(0).poisson(40, (18, 18)).astype('f4'), .6), np.zeros((18, 18), int))], parent, tmp_path/'a', old=0)
    with pytest.raises(ValueError, match='epochs=0'): retrain([correction(0)], parent, tmp_path/'b', epochs=0)
    with pytest.raises(FileNotFoundError, match='no correction'): retrain(tmp_path, parent, tmp_path/'c')

def test_mixing_wants_fields_of_one_size():
    with pytest.raises(ValueError, match='expected the same'):
        mixed(as_stack([correction(0)], .6, 64), as_stack([correction(0)], .6, 48))

def test_bright_particles_are_doubted():
    from hrtem_seg.segmentation.retraining import _doubt_bright
    rng = np.random.default_rng(0)
    particle = np.zeros((64, 64), bool)
    particle[20:40, 20:40] = True
    def made(step): return correct(micrograph((rng.poisson(50, (64, 64)) + step*particle).astype('f4'), .6), particle)
    with pytest.warns(UserWarning, match='1 of 2 micrographs have particles that are brighter'): _doubt_bright([made(20), made(-20)])
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        _doubt_bright([made(-20)])
