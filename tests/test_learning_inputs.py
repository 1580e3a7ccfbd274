"What a person can hand to the learning chapters: it works, it is refused by name, or there is a warning"
import json, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch, xarray as xr
from fastai.basics import Callback
from hypothesis import HealthCheck, given, settings, strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import f1_score, jaccard_score
from hrtem_seg.core.devices import as_device
from hrtem_seg.learning import training
from hrtem_seg.learning.benchmarks import collapsed, scores
from hrtem_seg.learning.kept import list_networks, load_network, load_published, save_network
from hrtem_seg.learning.losses import LOSSES, make_loss
from hrtem_seg.learning.metrics import LOWER_IS_BETTER, METRICS, dice, iou, pixel_error, soft_dice, two_class_f1
from hrtem_seg.learning.networks import NORMS, build, halo
from hrtem_seg.learning.prediction import predict, standardise
from hrtem_seg.learning.samples import Samples, check_augment, check_run_data, check_samples
from hrtem_seg.learning.training import fit
from hrtem_seg.learning.transfer import replicates, transfer

REAL = Path(__file__).parents[2]/'shared'/'real'
SMALL = {'name': 'UNet', 'filters': [4, 8], 'bottleneck': 8}
often = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
seldom = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))

pytestmark = pytest.mark.usefixtures('one_thread')

def toy(n, seed, side=32, noise=.3):
    "Discs in noise"
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:side, :side]
    mask = np.stack([np.hypot(yy - a, xx - b) < .25*side for a, b in rng.uniform(.3*side, .7*side, (n, 2))])
    image = 100 - 20*mask + 20*noise*rng.standard_normal(mask.shape)
    return xr.Dataset({'image': (('sample', 'y', 'x'), image.astype('f4')), 'mask': (('sample', 'y', 'x'), mask.astype('u1'))})

TRAIN, VALID = toy(8, 0), toy(4, 1)

class Count(Callback):
    "Whether a batch was trained on"
    n = 0
    def before_batch(self): Count.n += 1

def refused(word, *args, **kwargs):
    "That `fit` refuses something before the first batch, and says the word"
    Count.n = 0
    with pytest.raises(ValueError) as e: fit(*args, **{'callbacks': [Count()], 'epochs': 1, **kwargs})
    assert Count.n == 0 and word in str(e.value), str(e.value)

# Data

def spoil(stack, place, variable, value):
    bad = stack.copy(deep=True)
    if value == 'constant': bad.image[place] = 7.
    else:
        bad[variable] = bad[variable].astype('f4')
        bad[variable][place, 5, 7] = value
    return bad

@pytest.mark.parametrize('variable, value, fault', [('image', np.nan, 'is not finite'), ('image', -np.inf, 'is not finite'), ('image', 'constant', 'is the same in every pixel'),
                                                    ('mask', 255, 'holds other values than 0 and 1'), ('mask', .5, 'holds other values'), ('mask', np.nan, 'holds other values')])
def test_spoilt_data_are_refused_wherever_they_are_and_the_sample_is_named(variable, value, fault):
    for place in (0, 3): refused(f'train: the {variable} of sample {place} {fault}', 'UNet', spoil(TRAIN, place, variable, value), VALID)
    refused(f'valid: the {variable} of sample 1 {fault}', 'UNet', TRAIN, spoil(VALID, 1, variable, value))
    refused(f'far: the {variable} of sample 2 {fault}', 'UNet', TRAIN, VALID, benchmarks={'far': spoil(VALID, 2, variable, value)})

def test_sides_that_cannot_be_halved_train_validate_and_score():
    for side in (30, 33, 35):
        got = fit(SMALL, toy(8, 0, side), toy(4, 1, side + 1), epochs=2, benchmarks={'far': toy(3, 2, side + 2)})
        assert np.isfinite(got.history.value).all()
        last = got.history.query('epoch == 2 and metric == "dice"').set_index('dataset').value
        assert fit(SMALL, toy(8, 0, side), toy(4, 1, side + 1), epochs=2, keep='last').history.query('epoch == 2 and metric == "dice"').value.item() == last['valid']

def test_what_is_padded_counts_neither_in_the_loss_nor_in_a_score():
    stack = toy(4, 1, 30)
    learn = training.make_learner(build(SMALL), stack, stack, batch_size=4, precision='float32')
    with learn.no_bar(), learn.no_logging(): loss, score = learn.validate()
    x, y = Samples(stack).batch(range(4), None)
    wide = np.pad(x.numpy(), ((0, 0), (0, 0), (0, 2), (0, 2)), mode='reflect')
    network = build(SMALL).eval()
    with torch.no_grad(): logits = network(torch.from_numpy(wide))[..., :30, :30]
    assert abs(loss - float(torch.nn.functional.cross_entropy(logits, y))) < 1e-5
    assert abs(score - scores(network, stack, precision='float32').dice.mean()) < 1e-6

def test_stacks_that_do_not_suit_each_other_are_refused_or_warned_of():
    def with_pixel(stack, pixel): return stack.assign_coords({d: pixel*np.arange(32) for d in 'yx'})
    refused('valid has pixels of 0.6 Å and train of 0.4 Å', SMALL, with_pixel(TRAIN, .4), with_pixel(VALID, .6))
    with pytest.warns(UserWarning, match='far has pixels of 0.6 Å'): check_run_data(with_pixel(TRAIN, .4), with_pixel(VALID, .4), {'far': with_pixel(toy(3, 2), .6)})
    with pytest.warns(UserWarning, match='valid: 4 of its images are also trained on'): check_run_data(TRAIN, TRAIN.isel(sample=slice(4)), {})
    def of(stack, names): return stack.assign_coords(structure=('sample', names))
    with pytest.warns(UserWarning, match=r'1 of its structures are also trained on \(b\)'): check_run_data(of(TRAIN, [*'aabbccdd']), of(VALID, [*'bbee']), {})
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        check_run_data(of(TRAIN, range(8)), of(VALID, range(4)), {})   # bare numbers name nothing across stacks

# What a newcomer types

@pytest.mark.parametrize('word, arguments', [
    ("network='Unet'", dict(network='Unet')), ("network='data/nothing'", dict(network='data/nothing')), ('network=3', dict(network=3)),
    ('network=None', dict(network=None)), ("name='VGG'", dict(network={'name': 'VGG'})), ('filters=', dict(network={'name': 'UNet', 'filters': [4, 2.5]})),
    ('two logits', dict(network={'name': 'UNet', 'n_out': 3})), ('one channel', dict(network={'name': 'UNet', 'n_in': 3})),
    ("open_stack('runs/s')", dict(train='runs/s')), ('train is a DataArray', dict(train=TRAIN.image)), ('valid is a NoneType', dict(valid=None)),
    ('train is a ndarray', dict(train=np.zeros((3, 8, 8)))), ('no samples', dict(valid=VALID.isel(sample=[]))), ('complex64', dict(train=TRAIN.astype('c8'))),
    ('batch_size=2.5', dict(batch_size=2.5)), ('batch_size=0', dict(batch_size=0)), ('epochs=1.5', dict(epochs=1.5)), ('epochs=True', dict(epochs=True)),
    ('seed=-1', dict(seed=-1)), ("seed='a'", dict(seed='a')), ("lr='fast'", dict(lr='fast')), ('lr=nan', dict(lr=float('nan'))),
    ("device='gpu'", dict(device='gpu')), ('device=7', dict(device=7)), ("loss='l2'", dict(loss='l2')), ('loss=3', dict(loss=3)),
    ('class_weights=3', dict(class_weights=3)), ('class_weights=b', dict(class_weights=b'ab')), ('augment=True', dict(augment=True)), ("dihedral='yes'", dict(augment={'dihedral': 'yes'})),
    ("schedule='steps'", dict(schedule='steps')), ("schedule=('decay',)", dict(schedule=('decay',))), ("freeze='tail'", dict(freeze='tail')),
    ("freeze='head'", dict(freeze=['head'])), ('benchmarks is a Dataset', dict(benchmarks=VALID)), ("benchmarks='valid'", dict(benchmarks={'valid': VALID})),
    ("metric='f3'", dict(metrics='f3')), ("standardisation='max'", dict(standardisation='max')), ("callbacks='bar'", dict(callbacks=['bar'])), ('out=3', dict(out=3))])
def test_wrong_kinds_of_argument_are_refused_by_name(word, arguments):
    arguments = {'network': SMALL, 'train': TRAIN, 'valid': VALID, **arguments}
    refused(word, *(arguments.pop(k) for k in ('network', 'train', 'valid')), **arguments)

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU here')
def test_a_gpu_that_is_not_there_is_refused(): refused("device='cuda': expected one of this machine, cpu", SMALL, TRAIN, VALID, device='cuda')

junk = st.one_of(st.none(), st.booleans(), st.integers(-3, 3), st.floats(), st.text(max_size=4), st.lists(st.integers(-1, 2), max_size=3),
                 st.dictionaries(st.sampled_from(['dihedral', 'noise', 'rotate', 'a']), st.floats(-2, 2), max_size=2), st.binary(max_size=3))
NAMES = ('epochs', 'lr', 'schedule', 'batch_size', 'seed', 'loss', 'class_weights', 'augment', 'freeze', 'benchmarks', 'metrics', 'keep', 'precision', 'device', 'standardisation')

@often
@given(st.sampled_from(NAMES), junk)
def test_any_argument_works_or_is_refused_by_name(name, value):
    Count.n = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            got = fit(SMALL, TRAIN, VALID, **{'epochs': 1, 'callbacks': [Count()], name: value})
    except ValueError as e: assert Count.n == 0 and str(e)
    else: assert np.isfinite(got.history.value).all()

@often
@given(st.sampled_from(['network', 'train', 'valid']), junk)
def test_whatever_is_no_network_and_no_stack_is_refused(name, value):
    arguments = {'network': SMALL, 'train': TRAIN, 'valid': VALID, name: value}
    with pytest.raises(ValueError, match='.'): fit(**arguments, epochs=1)

def test_a_network_is_named_in_five_ways(tmp_path):
    first = fit(SMALL, TRAIN, VALID, epochs=1, out=tmp_path/'first')
    from_folder = fit(tmp_path/'first', TRAIN, VALID, epochs=1)
    from_text = fit(str(tmp_path/'first'), TRAIN, VALID, epochs=1)
    by_transfer = transfer(first, TRAIN, VALID, epochs=1, lr=1e-2, phase='train')
    for got in (from_text, by_transfer):
        assert all(torch.equal(a, b) for a, b in zip(from_folder.network.state_dict().values(), got.network.state_dict().values()))
        assert got.record['run'] == from_folder.record['run'] and got.record['parent']['run'] == first.record['run']
    assert fit('UNet', TRAIN, VALID, epochs=1).record['run'] == fit({'name': 'UNet'}, TRAIN, VALID, epochs=1).record['run']

# Losses that are no number

class Blow(Callback):
    "A weight that becomes infinite in some epoch"
    def __init__(self, epoch): self.when = epoch
    def before_batch(self):
        if self.training and self.epoch == self.when: torch.nn.init.constant_(self.learn.model.final_conv.weight, float('inf'))

def test_the_first_loss_that_is_no_number_ends_the_run_and_keeps_the_epochs_before(tmp_path):
    with pytest.raises(FloatingPointError, match='the training loss of batch 1 in epoch 2 is nan'):
        fit(SMALL, TRAIN, VALID, epochs=3, callbacks=[Blow(1)], out=tmp_path/'net')
    assert not (tmp_path/'net'/'record.json').exists()
    state = torch.load(tmp_path/'net'/'checkpoint.pt', weights_only=True)
    assert state['epoch'] == 1 and all(torch.isfinite(v).all() for v in state['weights'].values())

def test_a_learning_rate_that_is_much_too_high_never_gives_weights_that_are_no_numbers():
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            got = fit(SMALL, TRAIN, VALID, epochs=3, lr=10., schedule='constant')
    except FloatingPointError: return
    assert all(torch.isfinite(v).all() for v in got.network.state_dict().values() if v.is_floating_point())

# Networks that collapsed

def test_a_network_that_says_one_class_is_named_by_fit_and_by_its_scores(tmp_path):
    with pytest.warns(UserWarning, match='calls every pixel of the validation images background'):
        got = fit(SMALL, TRAIN, VALID, epochs=1, class_weights=(1e5, 1), out=tmp_path/'net')
    assert got.record['collapsed'] == 'background' == load_network(tmp_path/'net')[1]['collapsed']
    assert collapsed(scores(got.network, VALID)) == 'background'
    torch.nn.init.zeros_(got.network.final_conv.weight)
    got.network.final_conv.bias.data = torch.tensor([0., 1.])
    assert collapsed(scores(got.network, VALID)) == 'particle'
    good = fit(SMALL, TRAIN, VALID, epochs=6, batch_size=2)
    assert good.record['collapsed'] == '' == collapsed(scores(good.network, VALID))
    old = pd.DataFrame({'dice': [0., 0.]})   # as tables were kept before they had shares
    assert collapsed(old) == 'background' and collapsed(old + .1) == ''

# Standardising

@often
@given(st.integers(0, 99), st.floats(1e-3, 1e3), st.floats(-1e3, 1e3), st.floats(100, 1e6))
def test_standardising_knows_no_gain_and_one_hot_pixel_changes_no_other(seed, gain, offset, hot):
    image = np.random.default_rng(seed).normal(size=(40, 50)).astype('f4')
    plain = standardise(image)
    assert np.array_equal(plain, standardise(image, 'mean'))
    np.testing.assert_allclose(standardise(gain*image + offset), plain, atol=2e-3*max(1, abs(offset/gain)))
    image[7, 9] = hot
    changed = standardise(image)
    assert changed[7, 9] == 0
    changed[7, 9] = plain[7, 9]
    assert np.abs(changed - plain).max() < .02

def test_hot_pixels_move_no_particle_of_a_trained_network():
    train, valid = toy(24, 0, 64), toy(6, 1, 64)
    got = fit(SMALL, train, valid, epochs=8, batch_size=2)
    hot = valid.copy(deep=True)
    hot.image[:, 40, 3] = 65_535
    hot.image[:, 2:4, 50:53] = 30_000
    before, after = (scores(got.network, s).dice.mean() for s in (valid, hot))
    assert before > .8 and abs(after - before) < .01
    got.network.standardisation = 'mean'
    assert scores(got.network, hot).dice.mean() < .5*before

def test_a_network_goes_on_standardising_as_it_was_trained(tmp_path):
    old = tmp_path/'old'   # of the first format, which did not say how
    fit(SMALL, TRAIN, VALID, epochs=1, standardisation='mean', out=old)
    record = json.loads((old/'record.json').read_text())
    del record['standardisation'], record['settings']['standardisation']
    (old/'record.json').write_text(json.dumps({**record, 'format': 1}))
    network, record = load_network(old)
    assert network.standardisation == 'mean' and 'standardisation' not in record
    child = fit(old, TRAIN, VALID, epochs=1, out=tmp_path/'child')
    assert child.record['settings']['standardisation'] == 'mean' == load_network(tmp_path/'child')[0].standardisation
    assert fit(SMALL, TRAIN, VALID, epochs=1, standardisation='mean', out=tmp_path/'mean').record['standardisation'] == 'mean'
    assert load_network(tmp_path/'mean')[0].standardisation == 'mean'

# Tiles

@seldom
@given(st.sampled_from([[4], [4, 8], [2, 3, 4]]), st.integers(1, 3), st.integers(1, 3), st.integers(0, 99))
def test_tiles_with_the_networks_border_are_the_whole(filters, ny, nx, seed):
    network = build({'name': 'UNet', 'filters': filters, 'bottleneck': 8}, seed)
    border, side = halo(network), 2*network.multiple
    field = np.random.default_rng(seed).normal(size=(ny*side + 5, nx*side + 3)).astype('f4')
    whole = predict(network, field, statistics=(0, 1), precision='float32')
    for top in range(0, field.shape[0], side):
        for left in range(0, field.shape[1], side):
            y, x = max(top - border, 0), max(left - border, 0)
            tile = field[y:top + side + border, x:left + side + border]
            inside = predict(network, tile, statistics=(0, 1), precision='float32')[top - y:, left - x:][:side, :side]
            np.testing.assert_allclose(inside, whole[top:top + side, left:left + side], atol=1e-4)

def test_the_border_is_no_wider_than_it_must_be():
    "An output at the tile's inner edge does depend on the outermost period of the border"
    network = build(SMALL).double().eval()
    with torch.no_grad():
        for p in network.parameters(): p.abs_()
        border = halo(SMALL)
        x = torch.rand(1, 1, 16, 4*border, dtype=torch.double)
        inner = 2*border
        y = x.clone()
        y[..., inner - border:inner - border + network.multiple] += 100.
        assert (network(x) != network(y))[..., inner:inner + network.multiple].any()
        y = x.clone()
        y[..., :inner - border] += 100.
        assert torch.equal(network(x)[..., inner:], network(y)[..., inner:])

# Kept networks

@often
@given(st.data())
def test_a_damaged_file_of_weights_is_refused_by_name(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp('net')
    save_network(folder, build(SMALL))
    path = folder/'weights.safetensors'
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    path.write_bytes(whole[:at] if data.draw(st.booleans()) else whole[:at] + bytes([whole[at] ^ 255]) + whole[at + 1:])
    with pytest.raises(ValueError, match='weights.safetensors is cut short or was changed'): load_network(folder)

@pytest.mark.parametrize('change, word', [({'format': 3}, 'format=3, but this version reads formats 1 to 2'), ({'format': 'x'}, "format='x'"),
                                          ({'weights': None}, 'cut short or was changed'), ({'architecture': {'name': 'VGG'}}, "holds a 'VGG'"),
                                          ({'architecture': {'name': 'UNet', 'attention': True}}, 'kept by another version'), ({'architecture': 3}, 'holds a None'),
                                          ({'architecture': {'name': 'UNet', 'filters': [4]}}, 'does not fit into a UNet')])
def test_a_record_of_another_version_is_refused_by_name(tmp_path, change, word):
    from hrtem_seg.core.records import read_json, write_json
    save_network(tmp_path/'net', build(SMALL))
    write_json(tmp_path/'net'/'record.json', {**read_json(tmp_path/'net'/'record.json'), **change})
    with pytest.raises(ValueError, match='net') as e: load_network(tmp_path/'net')
    assert word in str(e.value)

def test_weights_that_are_no_numbers_are_not_loaded_and_a_damaged_record_hides_no_other(tmp_path):
    network = build(SMALL)
    save_network(tmp_path/'good', network)
    torch.nn.init.constant_(network.final_conv.bias, float('nan'))
    save_network(tmp_path/'bad', network)
    with pytest.raises(ValueError, match='final_conv.bias and 0 others hold values that are not finite'): load_network(tmp_path/'bad')
    (tmp_path/'torn').mkdir()
    (tmp_path/'torn'/'record.json').write_text('{"kind":')
    with pytest.warns(UserWarning, match='torn'): assert len(list_networks(tmp_path)) == 2

@pytest.mark.skipif(not REAL.is_dir(), reason='the published networks and images are not at hand')
def test_published_networks_find_particles_at_their_own_pixel():
    from skimage.io import imread
    from skimage.transform import resize
    network = load_published(REAL/'published_unets'/'UNet_5nmAu160kX425eUTC_fold0_seed962_model.npz')
    for name, least in (('Au_5nm_3', .9), ('Au_10nm_0', .95)):
        image = imread(REAL/'team05'/f'{name}_img.png').astype('f4')
        truth = imread(REAL/'team05'/f'{name}_label.png') > 0
        fine = resize(image, [round(n*.077/.042) for n in image.shape], order=1)   # nm a pixel, here and in training
        found = resize(predict(network, fine), image.shape, order=1)
        assert dice(found, truth)[0] > least
    with pytest.raises(ValueError, match='not a readable .npz'): load_published(REAL/'team05'/'Dataset_metadata.csv')

# Specifications, augmentation, losses, metrics

sizes = st.lists(st.integers(1, 5), min_size=1, max_size=3)

@often
@given(sizes, st.integers(1, 6), st.sampled_from(NORMS), st.integers(1, 40), st.integers(1, 40))
def test_every_valid_specification_predicts_images_of_every_size(filters, bottleneck, norm, ny, nx):
    network = build({'name': 'UNet', 'filters': filters, 'bottleneck': bottleneck, 'norm': norm})
    assert build(network.spec).spec == network.spec
    if norm == 'instance' and max(ny, nx) <= network.multiple: return   # one pixel has no variance at the coarsest level
    p = predict(network, np.random.default_rng(0).normal(size=(2, ny, nx)), precision='float32')
    assert p.shape == (2, ny, nx) and np.isfinite(p).all()

@often
@given(st.dictionaries(st.sampled_from(['name', 'filters', 'bottleneck', 'norm', 'n_in', 'width', 'momentum']), junk, max_size=3))
def test_any_other_specification_is_refused_with_a_value_error(spec):
    try: network = build({'name': 'UNet', **spec})
    except ValueError as e: assert str(e)
    else: assert network.spec['name'] == 'UNet'

@often
@given(st.dictionaries(st.sampled_from(['dihedral', 'rotate', 'noise']), st.one_of(st.booleans(), st.floats(0, 2), st.tuples(st.floats(0, 1), st.floats(0, 2))), max_size=3), st.integers(0, 99))
def test_an_augmentation_gives_finite_images_and_binary_masks_or_is_refused(augment, seed):
    try: samples = Samples(TRAIN, augment)
    except ValueError: return
    x, y = samples.batch(range(8), np.random.default_rng(seed))
    assert x.shape == (8, 1, 32, 32) and torch.isfinite(x).all() and set(y.unique().tolist()) <= {0, 1}

@often
@given(junk)
def test_an_augmentation_of_another_kind_is_refused(augment):
    try: kept = check_augment(augment)
    except ValueError as e: assert str(e)
    else: assert kept == (augment or {})

@often
@given(st.sampled_from(sorted(LOSSES)), st.integers(0, 999), st.one_of(st.none(), st.tuples(st.floats(0, 10), st.floats(.1, 10))), st.sampled_from([0., .3, 1.]), st.floats(.01, 30))
def test_losses_and_their_gradients_are_finite(name, seed, weights, share, size):
    rng = np.random.default_rng(seed)
    logits = torch.tensor(size*rng.normal(size=(2, 2, 9, 7)), dtype=torch.float32, requires_grad=True)
    target = torch.tensor((rng.random((2, 9, 7)) < share).astype(int))
    loss = make_loss(name, weights)(logits, target)
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(logits.grad).all()

@often
@given(st.sampled_from(sorted(LOSSES)), junk)
def test_class_weights_of_another_kind_are_refused(name, weights):
    try: make_loss(name, weights)
    except ValueError as e: assert str(e)

probabilities = hnp.arrays('f8', (3, 6, 5), elements=st.floats(0, 1))
masks = hnp.arrays(bool, (3, 6, 5))

@often
@given(probabilities, masks)
def test_metrics_are_those_of_scikit_learn_and_of_their_formulas(p, t):
    hard = p > .5
    for got, theirs in ((dice, f1_score), (iou, jaccard_score)):
        expected = [theirs(b.ravel(), a.ravel(), zero_division=1.) if a.any() or b.any() else 1. for a, b in zip(hard, t)]
        np.testing.assert_allclose(got(p, t), expected, atol=1e-12)
    np.testing.assert_allclose(pixel_error(p, t), [np.mean(a != b) for a, b in zip(hard, t)], atol=1e-12)
    total = [a.sum() + b.sum() for a, b in zip(p, t)]
    np.testing.assert_allclose(soft_dice(p, t), [2*(a*b).sum()/s if s else 1. for a, b, s in zip(p, t, total)], atol=1e-12)
    assert np.ptp(two_class_f1(p, t)) == 0

@often
@given(probabilities, masks, st.permutations(range(3)))
def test_metrics_have_their_range_and_know_no_order_and_no_mirror(p, t, order):
    for name, metric in METRICS.items():
        values = metric(p, t)
        assert values.shape == (3,) and np.isfinite(values).all() and (values >= -1e-12).all()
        if name not in LOWER_IS_BETTER: assert (values <= 1 + 1e-12).all()
        np.testing.assert_allclose(metric(p[order], t[order]), values[order], atol=1e-9)
        np.testing.assert_allclose(metric(p[:, ::-1], t[:, ::-1]), values, atol=1e-9)
        perfect = metric(t.astype(float), t)
        np.testing.assert_allclose(perfect, 0 if name in LOWER_IS_BETTER else 1, atol=1e-6)

@often
@given(st.integers(0, 7), st.sampled_from([np.nan, np.inf, 'constant', 2., -1.]), st.integers(0, 31), st.integers(0, 31))
def test_one_bad_value_anywhere_is_found(place, value, y, x):
    bad = TRAIN.copy(deep=True)
    if value == 'constant': bad.image[place] = 3.
    elif value in (2., -1.):
        bad = bad.assign(mask=bad.mask.astype('f4'))
        bad.mask[place, y, x] = value
    else: bad.image[place, y, x] = value
    with pytest.raises(ValueError, match=f'of sample {place} '): check_samples(bad)

def test_devices_by_name():
    assert as_device('cpu') == as_device(torch.device('cpu')) == torch.device('cpu')
    for bad in ('gpu', 'cuda:99', 3, True, 'meta', 'cpu:4'):
        with pytest.raises(ValueError, match='expected one of this machine'): as_device(bad)

def test_replicates_by_name_of_the_network():
    runs = replicates('UNet', TRAIN, VALID, 2, epochs=1)
    assert runs[0].record['first_weights'] != runs[1].record['first_weights']
