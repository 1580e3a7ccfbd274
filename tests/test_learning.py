"What a reader of the learning chapters should not have to see"
import json
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch, torch.nn.functional as F, xarray as xr
from fastai.basics import Callback
from torch import nn
from hrtem_seg.learning import identity, training, transfer as runs_of
from hrtem_seg.learning.benchmarks import Benchmarks, collapsed, deviation, matrix, scores
from hrtem_seg.learning.metrics import METRICS, dice
from hrtem_seg.learning.networks import NORMS, ResNetUNet, UNet, build, receptive_field
from hrtem_seg.learning.prediction import choose_precision, predict, standardise
from hrtem_seg.learning.kept import lineage, load_network, load_published, save_network
from hrtem_seg.learning.samples import Batches, Samples
from hrtem_seg.learning.training import fit
from hrtem_seg.learning.transfer import transfer

PUBLISHED = Path(__file__).parents[2]/'shared'/'real'/'published_unets'
SMALL = {'name': 'UNet', 'filters': [4, 8], 'bottleneck': 8}

@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def toy(n, seed, size=32, noise=.5):
    "Discs in noise"
    rng = np.random.default_rng(seed)
    yy, xx = np.mgrid[:size, :size]
    mask = np.stack([np.hypot(yy - a, xx - b) < r for a, b, r in zip(*rng.uniform(.3*size, .7*size, (2, n)), rng.uniform(.15*size, .3*size, n))])
    image = mask + rng.normal(0, noise, mask.shape)
    return xr.Dataset({'image': (('sample', 'y', 'x'), image.astype('f4')), 'mask': (('sample', 'y', 'x'), mask.astype('u1'))},
                      coords={'structure': ('sample', np.arange(n)//2)}, attrs={'record': json.dumps({'settings': {'seed': seed}})})

@pytest.fixture(scope='module')
def stacks(): return toy(16, 0), toy(8, 1), toy(8, 2, noise=1.)

def same(a, b): return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values()))

# The published networks

def by_hand(w, x):
    "The forward pass of the paper, from the arrays alone"
    def conv(name, x): return F.conv2d(x, w[f'{name}.weight'], w[f'{name}.bias'], padding=w[f'{name}.weight'].shape[-1]//2)
    def norm(name, x):
        m, v, g, b = (w[f'{name}.{k}'][:, None, None] for k in ('running_mean', 'running_var', 'weight', 'bias'))
        return (x - m)/(v + 1e-5).sqrt()*g + b
    def block(name, x):
        y = norm(f'{name}.bn1', conv(f'{name}.conv1', x)).clamp(min=0)
        return (norm(f'{name}.bn2', conv(f'{name}.conv2', y)) + conv(f'{name}.conv_add', x)).clamp(min=0)
    skips = []
    for i in range(4):
        skips.append(block(f'downs.{i}', x))
        n, c, h, v = skips[-1].shape
        x = skips[-1].reshape(n, c, h//2, 2, v//2, 2).amax((3, 5))
    x = block('bottleneck', x)
    for i in range(4): x = block(f'ups.{i}', torch.cat([skips[3 - i], x.repeat_interleave(2, 2).repeat_interleave(2, 3)], 1))
    return conv('final_conv', x)

@pytest.mark.skipif(not PUBLISHED.is_dir(), reason='the published weights are not at hand')
def test_published_weights_give_the_published_output():
    files = sorted(PUBLISHED.glob('*.npz'))
    assert len(files) >= 1
    x = torch.from_numpy(standardise(np.random.default_rng(0).normal(size=(2, 64, 96))))[:, None]
    for f in files:
        w = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(f).items()}
        net = UNet()
        net.load_state_dict(w)
        net.eval()
        with torch.no_grad(): ours, theirs = net(x), by_hand(w, x)
        assert float((ours - theirs).abs().max()) < 1e-4*float(theirs.abs().max())
        np.testing.assert_allclose(predict(net, x[:, 0].numpy(), precision='float32'), theirs.softmax(1)[:, 1].numpy(), atol=1e-4)

@pytest.mark.parametrize('spec', [{'name': 'UNet', 'filters': [4, 4], 'bottleneck': 4}, {'name': 'UNet', 'filters': [2, 3, 4], 'bottleneck': 5}])
def test_the_receptive_field_is_what_changes_an_output(spec):
    net = build(spec).double().eval()
    with torch.no_grad():
        for p in net.parameters(): p.abs_()   # nothing is cut off by a ReLU
    x = torch.rand(1, 1, 16, 160, dtype=torch.double, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = net(x)
        sees = []
        for i in range(160):
            y = x.clone()
            y[..., i] += 100.
            sees.append((net(y) != before)[0, :, :, 80:80 + net.multiple].any((0, 1)).tolist())
    assert np.sum(sees, 0).max() == receptive_field(spec)

def test_the_study_networks_have_the_sizes_that_their_layers_say():
    conv = lambda a, b, k, bias=0: a*b*k*k + bias*b
    block = lambda a, b: conv(a, b, 3, 1) + conv(b, b, 3, 1) + conv(a, b, 1, 1) + 4*b
    assert sum(p.numel() for p in UNet().parameters()) == sum(block(a, b) for a, b in [(1, 4), (4, 8), (8, 16), (16, 32), (32, 64), (96, 32), (48, 16), (24, 8), (12, 4)]) + conv(4, 2, 1, 1)
    big = ResNetUNet()
    resnet18 = 11_689_512 - (512*1000 + 1000) - conv(2, 64, 7)   # He et al. for ImageNet, without its classifier, and one channel instead of three
    decoder = sum(conv(a, b, 3) + conv(b, b, 3) + 4*b for a, b in [(768, 256), (384, 128), (192, 64), (128, 32), (32, 16)])
    assert sum(p.numel() for m in big.parts()['encoder'] for p in m.parameters()) == resnet18
    assert sum(p.numel() for p in big.parameters()) == resnet18 + decoder + conv(16, 2, 3, 1)
    z = big(torch.randn(2, 1, 64, 96))
    F.cross_entropy(z, torch.randint(0, 2, (2, 64, 96))).backward()
    assert z.shape == (2, 2, 64, 96) and all(p.grad.abs().sum() > 0 for p in big.parameters())

def test_bfloat16_is_chosen_where_it_is_faster(monkeypatch):
    from hrtem_seg.learning import prediction
    for amx, vector, amd, kind in ((True, True, False, 'bfloat16'), (False, True, False, 'float32'),
                                   (False, True, True, 'bfloat16'), (False, False, True, 'float32')):
        monkeypatch.setattr(torch.cpu, '_is_amx_tile_supported', lambda: amx, raising=False)
        monkeypatch.setattr(torch.cpu, '_is_avx512_bf16_supported', lambda: vector, raising=False)
        monkeypatch.setattr(prediction, '_made_by_amd', lambda: amd)
        assert choose_precision('auto', 'cpu') == kind
        assert choose_precision('float32', 'cpu') == 'float32' and choose_precision('bfloat16', 'cpu') == 'bfloat16'
    for name in ('amx_tile', 'avx512_bf16'): monkeypatch.delattr(torch.cpu, f'_is_{name}_supported')
    assert choose_precision('auto', 'cpu') == 'float32'
    monkeypatch.setattr(torch.cuda, 'is_bf16_supported', lambda: True)
    assert choose_precision('auto', 'cuda') == 'bfloat16'

# Same record, same bits

def test_a_run_repeats_to_the_bit(stacks):
    train, valid, far = stacks
    a, b = (fit(SMALL, train, valid, epochs=2, benchmarks={'far': far}, augment={'dihedral': True, 'rotate': .5, 'noise': (0, 1)}) for _ in range(2))
    assert same(a.network, b.network) and a.history.equals(b.history) and a.record['run'] == b.record['run']
    other = fit(SMALL, train, valid, epochs=2, seed=1)
    assert not same(a.network, other.network) and other.record['run'] != a.record['run']

@pytest.mark.parametrize('norm', NORMS)
def test_every_norm_trains(stacks, norm):
    trained = fit({**SMALL, 'norm': norm}, *stacks[:2], epochs=1)
    assert np.isfinite(trained.history.value.dropna()).all()

def test_training_leaves_the_callers_randomness_alone(stacks):
    torch.manual_seed(3)
    before = torch.rand(4)
    torch.manual_seed(3)
    fit(SMALL, *stacks[:2], epochs=1)
    assert torch.equal(torch.rand(4), before)

class StopIn(Callback):
    order = 80
    def __init__(self, epoch): self.stop = epoch
    def before_batch(self):
        if self.training and self.epoch == self.stop and self.learn.iter == 1: raise KeyboardInterrupt

@pytest.mark.parametrize('settings', [dict(), dict(freeze='gradual', schedule=('decay', .8)), dict(keep='last')])
def test_a_stopped_run_goes_on_to_the_same_bits(stacks, tmp_path, settings):
    train, valid, far = stacks
    settings = dict(settings, epochs=3, benchmarks={'far': far})
    whole = fit(SMALL, train, valid, **settings)
    with pytest.raises(KeyboardInterrupt, match='goes on from the last whole epoch'):
        fit(SMALL, train, valid, out=tmp_path/'net', callbacks=[StopIn(2)], **settings)
    assert not (tmp_path/'net'/'record.json').exists()
    resumed = fit(SMALL, train, valid, out=tmp_path/'net', **settings)
    assert same(whole.network, resumed.network)
    pd.testing.assert_frame_equal(whole.history, resumed.history)
    assert not (tmp_path/'net'/'checkpoint.pt').exists()

def test_what_is_in_the_way_is_refused(stacks, tmp_path):
    train, valid, _ = stacks
    fit(SMALL, train, valid, epochs=1, out=tmp_path/'net')
    again = fit(SMALL, train, valid, epochs=1, out=tmp_path/'net')   # finished: only read
    assert len(again.history)
    with pytest.raises(ValueError, match='choose another folder'): fit(SMALL, train, valid, epochs=2, out=tmp_path/'net')
    (tmp_path/'cut').mkdir()
    (tmp_path/'cut'/'checkpoint.pt').write_bytes(b'PK\x03\x04 no checkpoint')
    with pytest.raises(ValueError, match='cut short'): fit(SMALL, train, valid, epochs=1, out=tmp_path/'cut')

def test_bad_settings_are_refused_by_name_before_training(stacks):
    train, valid, _ = stacks
    for bad, word in [(dict(epochs=0), 'epochs=0'), (dict(lr=-1.), 'lr=-1'), (dict(keep='f1'), "keep='f1'"), (dict(freeze='tail'), "freeze='tail'"),
                      (dict(loss='l2'), "loss='l2'"), (dict(schedule='steps'), "schedule='steps'"), (dict(metrics=('f3',)), "metric='f3'"),
                      (dict(augment={'shear': 1}), "augment='shear'"), (dict(augment={'zoom': (.5, 2.)}), 'zoom without crop'), (dict(augment={'crop': 16, 'zoom': (2., 1.)}), 'zoom=1'), (dict(augment={'rotate': 2.}), 'rotate=2'), (dict(precision='half'), "precision='half'"),
                      (dict(benchmarks={'x': xr.Dataset()}), 'x has the variables'), (dict(benchmarks={'valid': valid}), "benchmarks='valid'")]:
        with pytest.raises(ValueError, match=word.replace('(', r'\(')): fit(SMALL, train, valid, **bad)
    with pytest.raises(ValueError, match='no parts'): fit(nn.Conv2d(1, 2, 3, padding=1), train, valid, freeze='encoder')

# The training step is the one that a plain loop makes

def test_fit_equals_a_plain_pytorch_loop(stacks):
    train, valid, _ = stacks
    fast = fit(SMALL, train, valid, epochs=2, lr=1e-3, schedule='constant', augment={}, keep='last', precision='float32')
    # in the same memory layout, since Adam's first steps make much of the last bits
    net = build(SMALL, 0).to(memory_format=torch.channels_last)
    opt = torch.optim.Adam(net.parameters(), lr=1e-3)
    samples = Samples(train)
    loader = Batches(samples, 8, True, 0)
    for epoch in range(2):
        loader.epoch = epoch
        for x, y in loader:
            opt.zero_grad()
            F.cross_entropy(net(x.contiguous(memory_format=torch.channels_last)), y).backward()
            opt.step()
    net.eval()
    np.testing.assert_allclose(predict(fast.network, valid.image.values), predict(net, valid.image.values), atol=1e-4)

def test_any_module_is_trained_and_not_changed(stacks, tmp_path):
    class Plain(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(1, 8, 5, padding=2), nn.ReLU(), nn.Dropout2d(.2), nn.Conv2d(8, 2, 5, padding=2))
        def forward(self, x): return self.body(x)
    net = Plain()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    done = fit(net, *stacks[:2], epochs=2, out=tmp_path/'plain')
    assert all(torch.equal(before[k], v) for k, v in net.state_dict().items())
    assert not same(net, done.network)
    back, _ = load_network(tmp_path/'plain', Plain())
    assert same(back, done.network)
    assert same(transfer(done, *stacks[:2], epochs=1, freeze=['body.0']).network.body[0], done.network.body[0])

def test_the_large_network_trains():
    train = toy(4, 0, size=64)
    done = fit({'name': 'ResNetUNet', 'filters': [8, 16, 32, 64], 'decoder': [32, 16, 8, 8, 8]}, train, train, epochs=2, batch_size=4)
    h = done.history.query('dataset == "train"').value.tolist()
    assert h[1] < h[0] and all(p.grad is None or p.grad.abs().sum() > 0 for p in done.network.parameters())

# Freezing

@pytest.mark.parametrize('freeze, kept, moved', [('encoder', ('downs', 'bottleneck'), ('ups', 'final_conv')), ('decoder', ('ups',), ('downs', 'bottleneck', 'final_conv'))])
def test_frozen_parts_do_not_change_by_a_bit(stacks, freeze, kept, moved):
    train, valid, far = stacks
    parent = fit(SMALL, train, valid, epochs=1)
    child = transfer(parent, far, far, epochs=2, freeze=freeze, keep='last')
    a, b = parent.network.state_dict(), child.network.state_dict()
    for k in a:
        if k.startswith(kept): assert torch.equal(a[k], b[k]), k                              # weights and batch-norm's statistics
        elif k.startswith(moved) and not k.endswith('conv1.bias') and not k.endswith('conv2.bias'): assert not torch.equal(a[k], b[k]), k
    assert child.record['parent']['run'] == parent.record['run']
    assert all(p.requires_grad for p in child.network.parameters())

class Watch(Callback):
    order = 90
    def before_fit(self): self.seen = []
    def after_train(self): self.seen.append({k: v.clone() for k, v in self.learn.model.state_dict().items()})

def test_gradual_unfreezing_goes_from_the_head_inwards(stacks):
    train, valid, _ = stacks
    parent, watch = fit(SMALL, train, valid, epochs=1), Watch()
    transfer(parent, train, valid, epochs=3, freeze='gradual', callbacks=[watch])
    first = {k: v for k, v in parent.network.state_dict().items()}
    for epoch, moving in enumerate((('final_conv',), ('final_conv', 'ups'), ('final_conv', 'ups', 'downs', 'bottleneck'))):
        changed = {k.split('.')[0] for k, v in watch.seen[epoch].items() if not torch.equal(v, first[k])}
        assert changed == set(moving)

# Benchmarks

def test_benchmarks_leave_the_training_as_it_is(stacks):
    train, valid, far = stacks
    a, b = fit(SMALL, train, valid, epochs=2), fit(SMALL, train, valid, epochs=2, benchmarks={'far': far, 'near': valid})
    assert same(a.network, b.network)
    near = b.history.query('dataset == "near" and epoch > 0').value.to_numpy()
    np.testing.assert_allclose(near, b.history.query('dataset == "valid" and metric == "dice" and epoch > 0').value, atol=1e-6)
    kept = b.history[b.history.kept].query('dataset == "near"').value.item()
    assert abs(kept - scores(b.network, valid).dice.mean()) < 1e-6
    assert sorted(b.history.query('dataset == "far"').epoch) == [0, 1, 2]

# Data

def test_augmented_masks_follow_their_images():
    disc = toy(8, 5, size=48, noise=0.)
    for augment in ({'dihedral': True}, {'rotate': 1.}, {'dihedral': True, 'rotate': .5}):
        x, y = Samples(disc, augment).batch(range(8), np.random.default_rng(0))
        assert dice((x[:, 0] > 0).float(), y).min() > .93
    x, y = Samples(disc, {'dihedral': True}).batch([0]*64, np.random.default_rng(1))
    assert len({a.numpy().tobytes() for a in y}) == 8
    flat = disc.isel(y=slice(0, 32))
    assert Samples(flat, {'dihedral': True, 'rotate': 1.}).batch(range(8), np.random.default_rng(0))[0].shape == (8, 1, 32, 48)

def test_noise_keeps_the_variance():
    x, _ = Samples(toy(32, 0), {'noise': 1.5}).batch(range(32), np.random.default_rng(0))
    plain, _ = Samples(toy(32, 0)).batch(range(32), None)
    assert abs(float(x.var()) - 1) < .03
    r = np.corrcoef(x.flatten(), plain.flatten())[0, 1]
    assert abs(r - 1/np.sqrt(1 + 1.5**2)) < .02

@pytest.mark.parametrize('name', sorted(METRICS))
def test_metrics_are_finite_and_perfect_where_they_should_be(name):
    t = toy(3, 0).mask.values
    perfect = METRICS[name](t.astype(float), t)
    assert perfect.shape == (3,) and np.allclose(perfect, 0 if name in ('pixel_error', 'offset_loss', 'cross_entropy', 'boundary_distance') else 1, atol=1e-6)
    for p in (0*t, 0*t + 1): assert np.isfinite(METRICS[name](p, t)).all() and np.isfinite(METRICS[name](p, 0*t)).all()

@pytest.fixture(scope='module')
def blobs():
    from scipy.ndimage import gaussian_filter
    rng = np.random.default_rng(3)
    truth = gaussian_filter(rng.normal(size=(4, 64, 64)), (0, 3, 3)) > .07
    pred = 1/(1 + np.exp(-40*(gaussian_filter(truth + rng.normal(0, .5, truth.shape), (0, 1.5, 1.5)) - .5)))
    return pred, truth

def test_two_class_f1_is_that_of_the_keras_package(blobs):
    pred, truth = blobs
    gt, pr = (np.stack([1 - a, a], -1) for a in (truth.astype(float), pred))   # classes last, as there
    tp = (gt*pr).sum((0, 1, 2))
    fp, fn = pr.sum((0, 1, 2)) - tp, gt.sum((0, 1, 2)) - tp
    np.testing.assert_allclose(METRICS['two_class_f1'](pred, truth), np.mean((2*tp + 1e-5)/(2*tp + fn + fp + 1e-5)), rtol=1e-12)

def test_particles_are_found_as_by_hand(blobs):
    from skimage.measure import label
    for p, t in zip(*blobs):
        a, b = ([set(map(tuple, np.argwhere(l == i))) for i in range(1, l.max() + 1)] for l in (label(p > .5, connectivity=1), label(t, connectivity=1)))
        found = sum(len(x & y)/len(x | y) >= .5 for x in a for y in b)
        assert abs(METRICS['particle_precision'](p, t)[0] - found/len(a)) < 1e-12 and abs(METRICS['particle_recall'](p, t)[0] - found/len(b)) < 1e-12

def test_boundary_loss_weighs_by_the_signed_distance():
    from hrtem_seg.learning.losses import BoundaryLoss, signed_distance
    t = torch.zeros(1, 12, 16, dtype=torch.long)
    t[0, 3:8, 4:9] = 1
    inside, outside = np.argwhere(t[0].numpy() == 1), np.argwhere(t[0].numpy() == 0)
    d = np.array([[-np.linalg.norm(outside - (j, i), axis=1).min() if t[0, j, i] else np.linalg.norm(inside - (j, i), axis=1).min() for i in range(16)] for j in range(12)])
    np.testing.assert_allclose(signed_distance(t)[0], d, atol=1e-5)
    logits = torch.randn(1, 2, 12, 16, generator=torch.Generator().manual_seed(0))
    expect = F.cross_entropy(logits, t) + .3*(logits.softmax(1)[0, 1]*torch.from_numpy(d)).mean()/16
    assert abs(float(BoundaryLoss(.3)(logits, t) - expect)) < 1e-5

def test_replicates_in_worker_processes_are_the_single_runs(stacks, tmp_path):
    from hrtem_seg.core.work import local_client
    here = [fit(SMALL, *stacks[:2], epochs=1, seed=s) for s in (0, 1)]
    with (client := local_client(1)).cluster, client:
        client.run(torch.set_num_threads, 1)
        there = runs_of.replicates(SMALL, *stacks[:2], 2, client=client, epochs=1, benchmarks={'far': stacks[2]}, out=tmp_path)
    assert all(same(a.network, b.network) for a, b in zip(here, there))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['seed-0', 'seed-1']

@pytest.fixture(scope='module')
def waves(tmp_path_factory):
    from hrtem_seg.data.generation import generate
    path = tmp_path_factory.mktemp('redraw')/'stack'
    return path, generate(path, n_structures=4, seed=0, scene=dict(cell=(25.6, 25.6), radius=6., thickness=10.), wave=dict(pixel=.2), pixel=.8, doses=[400.],
                          splits={'train': .5, 'valid': .5}, workers=0, progress=False)

def test_training_on_redrawn_images_is_recorded_repeated_and_resumed(waves, tmp_path):
    from hrtem_seg.data.reimaging import Redraw
    path, ds = waves
    def redraw(dose): return Redraw(path, ds.isel(sample=(ds.split == 'train').values), dose=dose, defocus=('normal', -100., 20.))
    settings, valid = dict(epochs=2, batch_size=1), ds.isel(sample=(ds.split == 'valid').values)
    whole = fit(SMALL, redraw(('uniform', 50., 800.)), valid, **settings)
    assert whole.record['settings']['augment']['imaging']['dose'] == ['uniform', 50., 800.]
    with pytest.raises(KeyboardInterrupt): fit(SMALL, redraw(('uniform', 50., 800.)), valid, out=tmp_path/'net', callbacks=[StopIn(1)], **settings)
    resumed = fit(SMALL, redraw(('uniform', 50., 800.)), valid, out=tmp_path/'net', **settings)
    assert same(whole.network, resumed.network) and whole.record['run'] == resumed.record['run']
    with pytest.raises(ValueError, match='choose another folder'): fit(SMALL, redraw(100.), valid, out=tmp_path/'net', **settings)

def test_fastais_own_unet_is_trained_by_the_same_call(stacks):
    models = pytest.importorskip('torchvision.models', reason='fastai.vision needs a torchvision that fits this torch', exc_type=Exception)
    from fastai.vision.learner import create_unet_model, unet_learner
    loaders = training.make_learner(build(SMALL), *stacks[:2]).dls
    by_learner = unet_learner(loaders, models.resnet18, n_in=1, n_out=2, normalize=False, pretrained=False, loss_func=nn.CrossEntropyLoss()).model
    for net in (by_learner, create_unet_model(models.resnet18, 2, (32, 32), pretrained=False, n_in=1)):
        done = fit(net, *stacks[:2], epochs=1, freeze=['layers.0'])
        assert same(done.network.layers[0], net.layers[0]) and not same(done.network, net)
        assert predict(done.network, stacks[1].image.values).shape == stacks[1].image.shape

def test_the_learner_keeps_fastais_own_tools(stacks):
    learn = training.make_learner(build(SMALL), *stacks[:2])
    with learn.no_bar(), learn.no_logging():
        assert learn.lr_find(num_it=12, show_plot=False).valley > 0
        p, t = learn.get_preds()
    assert p.shape == (8, 2, 32, 32) and torch.equal(t, Samples(stacks[1]).batch(range(8), None)[1])

# Several runs

def test_replicates_are_the_single_runs(stacks, tmp_path):
    runs = runs_of.replicates(SMALL, *stacks[:2], [4, 7], epochs=1, out=tmp_path)
    alone = fit(SMALL, *stacks[:2], epochs=1, seed=7)
    assert same(runs[1].network, alone.network) and not same(*[r.network for r in runs])
    assert sorted(p.name for p in tmp_path.iterdir()) == ['seed-4', 'seed-7']

def test_cross_validation_never_divides_a_structure(stacks, monkeypatch):
    seen = []
    def record(network, train, valid, **kw):
        seen.append((train, valid))
        return training.Trained(build(SMALL), {}, None)
    monkeypatch.setattr(runs_of, 'fit', record)
    table, runs = runs_of.cross_validate(SMALL, toy(40, 0), 4, others={'far': stacks[2]})
    assert len(runs) == 4 and sorted(table.dataset.unique()) == ['far', 'held out']
    held = []
    for train, valid in seen:
        a, b = set(train.structure.values), set(valid.structure.values)
        assert not a & b
        held += sorted(set(range(20)) - a - b)
    assert sorted(held) == list(range(20))   # each structure is held out once

def test_a_lost_parent_is_said(stacks, tmp_path):
    import shutil
    parent = fit(SMALL, *stacks[:2], epochs=1, out=tmp_path/'a')
    transfer(tmp_path/'a', *stacks[:2], epochs=1, out=tmp_path/'b')
    assert [r['run'] for r in lineage(tmp_path/'b')][0] == parent.record['run']
    shutil.rmtree(tmp_path/'a')
    assert lineage(tmp_path/'b')[0]['missing']

def test_progress_is_shown_when_asked(stacks, capsys):
    fit(SMALL, *stacks[:2], epochs=1)
    assert capsys.readouterr().out == ''
    fit(SMALL, *stacks[:2], epochs=1, progress=True)
    assert 'valid_loss' in capsys.readouterr().out

def test_another_stack_of_the_same_record_is_another_run(stacks, tmp_path):
    train, valid, _ = stacks
    other = train.copy(deep=True)
    other.image.values[0] += 1
    fit('UNet', train, valid, epochs=1, out=tmp_path/'net')
    with pytest.raises(ValueError, match='another'): fit('UNet', other, valid, epochs=1, out=tmp_path/'net')

def test_losses_of_one_class_are_told_apart():
    from hrtem_seg.learning.losses import DiceLoss, FocalLoss, SumLoss
    told = [identity.describe_loss(loss) for loss in (
        'ce', FocalLoss(0.), FocalLoss(5.), FocalLoss(5., (1, 9)), SumLoss(FocalLoss(5.)), SumLoss(FocalLoss(1.)), DiceLoss(),
        lambda a, b: a.sum(), lambda a, b: 2*a.sum())]
    assert len({json.dumps(t, sort_keys=True) for t in told}) == len(told)
    assert identity.describe_loss(FocalLoss(5.)) == identity.describe_loss(FocalLoss(5.))

def test_another_layout_with_the_same_weights_is_another_run(stacks, tmp_path):
    train, valid, _ = stacks
    instance = {**SMALL, 'norm': 'instance'}
    group = {**SMALL, 'norm': 'group'}
    first = fit(instance, train, valid, epochs=1, out=tmp_path/'net')
    assert fit(instance, train, valid, epochs=1, out=tmp_path/'net').record['run'] == first.record['run']
    with pytest.raises(ValueError, match='layout or first weights'): fit(group, train, valid, epochs=1, out=tmp_path/'net')

@pytest.mark.parametrize('spec', [SMALL, {**SMALL, 'kernel': 5}, {'name': 'ResNetUNet', 'filters': [8, 16], 'decoder': [16, 8, 8]}])
def test_the_usual_layouts_are_known_as_before(spec):
    network = build(spec)
    assert identity.describe_network(network) is None
    network.final_conv = nn.Sequential(nn.Dropout(.5), network.final_conv)
    assert identity.describe_network(network)

def loss_by(forward):
    "A loss of one's own, whose class is called the same whatever it does"
    return type('Mine', (nn.Module,), {'forward': forward})()

def weighed(weight, inner):
    def loss(logits, target): return weight*inner(logits, target)
    return loss

class Weighed:
    def __init__(self, weight): self.weight = weight
    def __repr__(self): return f'Weighed({self.weight})'
    def loss(self, logits, target): return self.weight*logits.sum()

def test_losses_of_ones_own_count_by_their_code_and_by_all_they_hold():
    from hrtem_seg.learning.losses import FocalLoss
    losses = [loss_by(lambda self, a, b: a.sum()), loss_by(lambda self, a, b: 2*a.sum()), weighed(1, FocalLoss(1.)), weighed(1, FocalLoss(2.)),
              weighed(1, lambda a, b: a.sum()), weighed(1, lambda a, b: a.mean()), weighed(torch.ones(3), FocalLoss(1.)),
              Weighed(1).loss, Weighed(2).loss]
    told = [json.dumps(identity.describe_loss(loss)) for loss in losses]
    assert len(set(told)) == len(told)
    assert not any(' at 0x' in t for t in told)
    for loss in losses: identity.check_lasting(loss, 'net')
    again = identity.describe_loss(weighed(1, lambda a, b: a.sum()))   # another function object with the same code
    assert json.dumps(again) == told[4]

def test_a_loss_known_by_its_address_alone_is_not_kept(stacks, tmp_path):
    loss = weighed(1, F.cross_entropy)
    loss.__defaults__ = (object(),)
    with pytest.raises(ValueError, match='only its address tells'): fit(SMALL, *stacks[:2], loss=loss, out=tmp_path/'net')
    assert not (tmp_path/'net').exists()

class Seen(Callback):
    def __init__(self): self.sums = {}
    def before_batch(self):
        if self.training: self.sums.setdefault(self.epoch, []).append(self.x.double().abs().sum().item())

def test_each_epoch_of_a_learner_is_drawn_as_in_fit(stacks):
    train, valid, _ = stacks
    alone, within = Seen(), Seen()
    noise = {'noise': (0, 1)}
    learn = training.make_learner(build(SMALL), train, valid, augment=noise, callbacks=[alone], metrics=())
    with learn.no_bar(), learn.no_logging(): learn.fit(2)
    fit(SMALL, train, valid, augment=noise, epochs=2, callbacks=[within], keep='last')
    assert alone.sums[0] != alone.sums[1]
    assert alone.sums == within.sums

def test_a_run_that_goes_on_scores_no_epoch_twice(stacks, tmp_path, monkeypatch):
    train, valid, far = stacks
    settings = dict(epochs=3, benchmarks={'far': far}, metrics={'dice', 'iou'}, out=tmp_path/'net')
    with pytest.raises(KeyboardInterrupt): fit(SMALL, train, valid, callbacks=[StopIn(2)], **settings)
    scored = []
    monkeypatch.setattr(Benchmarks, '_score', lambda self, epoch: scored.append(epoch))
    resumed = fit(SMALL, train, valid, **settings)
    assert scored == [3]
    assert resumed.record['settings']['metrics'] == ['dice', 'iou']

def test_what_would_be_passed_over_is_refused(stacks):
    from hrtem_seg.learning.losses import FocalLoss
    train, valid, _ = stacks
    with pytest.raises(ValueError, match='with a loss of your own'): fit('UNet', train, valid, loss=FocalLoss(2.), class_weights=(1, 2))
    with pytest.raises(ValueError, match='which have their own'): fit('UNet', Samples(train), valid, augment={'rotate': .5})

def test_benchmarks_are_scored_in_the_precision_that_is_asked_for(stacks, monkeypatch):
    train, valid, other = stacks
    monkeypatch.setattr('hrtem_seg.learning.prediction._has_bfloat16', lambda device: True)
    got = fit('UNet', train, valid, epochs=1, benchmarks={'again': valid}, precision='float32')
    dice = got.history[got.history.metric == 'dice'].pivot(index='epoch', columns='dataset', values='value')
    assert dice.again.tolist() == pytest.approx(dice.valid.tolist(), abs=1e-7)

def test_images_that_were_standardised_before_are_left_so_on_a_device():
    from hrtem_seg.core.devices import by_torch
    counts = toy(2, 0)
    whole = Samples(counts, standardisation='whole')
    native, _ = whole.batch([0, 1], np.random.default_rng(0), 'cpu')
    with by_torch(): sent, _ = whole.batch([0, 1], np.random.default_rng(0), 'cpu')
    assert torch.equal(native, sent)

def test_all_background_is_not_all_particle():
    from hrtem_seg.learning.metrics import boundary_distance
    nothing, all_of_it = np.zeros((1, 8, 8)), np.ones((1, 8, 8))
    assert boundary_distance(nothing, all_of_it)[0] > 8 and boundary_distance(all_of_it, all_of_it)[0] == 0
