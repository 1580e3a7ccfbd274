"""The contenders of the benchmark of learning, each for a process of its own

usage: learning.py CONTENDER SIZE IMAGES BATCH EPOCHS [OPTIONS AS JSON]

Prints one line of JSON: images per second of wall clock and of CPU time, the memory beyond the imports, and what else the contender measures.
AtomAI's contender runs in a Python of its own, so what a contender needs is imported within it.
"""
import json, os, resource, sys, tempfile, time, warnings
from contextlib import redirect_stdout
from dataclasses import dataclass, field
import numpy as np, torch


@dataclass
class Job:
    "What is trained on, and how"
    size:int     # Side of an image, pixels
    images:int   # For training
    batch:int
    epochs:int
    options:dict = field(default_factory=dict)

    def __post_init__(self):
        rng = np.random.default_rng(0)
        self.train = self.discs(self.images, rng)
        self.valid = self.discs(4, rng)

    def discs(self, n, rng):
        "Images (counts) and masks"
        yy, xx = np.mgrid[:self.size, :self.size]
        places = rng.uniform(.3*self.size, .7*self.size, (n, 2))
        mask = np.stack([np.hypot(yy - a, xx - b) < self.size/5 for a, b in places])
        return rng.poisson(20 - 6*mask).astype('u2'), mask.astype('u1')


def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024   # MB


def report(run, job, trained):
    "Time a contender and print what it took"
    before = peak()
    wall = time.perf_counter()
    cpu = time.process_time()
    more = run(job) or {}
    wall = time.perf_counter() - wall
    cpu = time.process_time() - cpu
    print(json.dumps({'images/s': trained/wall, 'images/CPU s': trained/cpu, 'peak MB': peak() - before, **more}))


def prepare_plain(job):
    "A loop without any framework; options: channels_last"
    import torch.nn.functional as F
    from hrtem_seg.learning.networks import build
    from hrtem_seg.learning.prediction import standardise
    layout = torch.channels_last if job.options['channels_last'] else torch.contiguous_format
    network = build('UNet').to(memory_format=layout)
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-3)
    def tensors(data):
        image = torch.from_numpy(standardise(data[0]))[:, None]
        return image.to(memory_format=layout), torch.from_numpy(data[1].astype('i8'))
    x, y = tensors(job.train)
    valid_x, valid_y = tensors(job.valid)
    def run(job):
        for _ in range(job.epochs):
            network.train()
            for part in torch.randperm(job.images).split(job.batch):
                optimiser.zero_grad()
                F.cross_entropy(network(x[part]), y[part]).backward()
                optimiser.step()
            network.eval()
            with torch.inference_mode(): F.cross_entropy(network(valid_x), valid_y)
    return run


def as_stack(data):
    import xarray as xr
    return xr.Dataset({name: (('sample', 'y', 'x'), values) for name, values in zip(('image', 'mask'), data)})


def prepare_ours(job):
    "`fit`; options: benchmarks (how many stacks), keep_memory"
    from fastai.basics import Callback
    from hrtem_seg.learning import training
    from hrtem_seg.learning.samples import Samples
    train = as_stack(job.train)
    valid = as_stack(job.valid)
    stacks = {f'stack {i}': valid for i in range(job.options.get('benchmarks', 0))}
    if not job.options.get('keep_memory', True): training._keep_freed_memory = lambda: None
    loading = [0.]
    scoring = []
    class Timed(Samples):
        def batch(self, *args):
            start = time.perf_counter()
            out = super().batch(*args)
            loading[0] += time.perf_counter() - start
            return out
    class Spent(Callback):
        def after_fit(self): scoring.append(self.learn.benchmarks.seconds)
    def run(job):
        start = time.perf_counter()
        training.fit('UNet', Timed(train), valid, epochs=job.epochs, batch_size=job.batch, metrics=('dice',) if stacks else (),
                     benchmarks=stacks, callbacks=[Spent()])
        whole = time.perf_counter() - start
        more = {'loading %': 100*loading[0]/whole}
        if not stacks: return more
        per_scored = scoring[0]/(4*len(stacks)*(job.epochs + 1))
        per_trained = (whole - scoring[0])/(job.images*job.epochs)
        return {**more, 'benchmarks %': 100*scoring[0]/whole, 'benchmark image / training image': per_scored/per_trained}
    return run


def prepare_atomai(job):
    "AtomAI's Segmentor with the nearest network that it offers"
    from atomai.models import Segmentor
    model = Segmentor('Unet', nb_classes=1, nb_filters=8, layers=[1, 2, 2, 3], seed=0)
    def standard(data):
        image, mask = data
        return ((image - image.mean())/image.std()).astype('f4'), mask.astype('f4')
    def run(job):
        cycles = job.epochs*job.images//job.batch
        quiet = dict(compute_accuracy=False, plot_training_history=False, filename=os.path.join(tempfile.mkdtemp(), 'm'))
        with open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere):
            model.fit(*standard(job.train), *standard(job.valid), training_cycles=cycles, batch_size=job.batch, **quiet)
    return run


KINDS = {'convolution': ('conv',), 'batch-norm': ('batch_norm',), 'pooling, up-sampling, concatenation': ('max_pool', 'upsample', 'cat'),
         'ReLU, sum, copy, fill': ('threshold', 'clamp', 'add', 'copy', 'fill', 'relu'), 'loss': ('softmax', 'nll')}


def kind_of(kernel):
    for kind, words in KINDS.items():
        if any(word in kernel for word in words): return kind
    return 'rest'


def prepare_profile(job):
    "Which kernels take the time of `fit`"
    from torch.profiler import ProfilerActivity, profile
    run = prepare_ours(job)
    def profiled(job):
        with profile(activities=[ProfilerActivity.CPU]) as found: run(job)
        times = {e.key: e.self_cpu_time_total for e in found.key_averages() if e.key.startswith('aten::')}
        share = dict.fromkeys([*KINDS, 'rest'], 0.)
        for kernel, t in times.items(): share[kind_of(kernel)] += 100*t/sum(times.values())
        return {'share': share}
    return profiled


def warm():
    "Import in a worker what a run needs, and say what it holds then"
    import hrtem_seg.learning.training
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])
    return peak()


def prepare_replicates(job):
    "Several seeds, one after the other and side by side; options: replicas"
    from hrtem_seg.core.work import local_client
    from hrtem_seg.learning.transfer import replicates
    train = as_stack(job.train)
    valid = as_stack(job.valid)
    def run(job):
        measured = {}
        weights = []
        with (client := local_client()).cluster, client:
            before = sum(client.run(warm).values())
            for name, workers in (('one after the other', None), ('side by side', client)):
                start = time.perf_counter()
                mine = peak()
                runs = replicates('UNet', train, valid, job.options['replicas'], client=workers, epochs=job.epochs, batch_size=job.batch, metrics=())
                measured[f'seconds, {name}'] = time.perf_counter() - start
                measured[f'peak MB, {name}'] = peak() - mine if workers is None else sum(client.run(peak).values()) - before
                weights.append([r.network.state_dict() for r in runs])
        measured['same bits'] = all(torch.equal(a[k], b[k]) for a, b in zip(*weights) for k in a)
        return measured
    return run


def grouped(networks):
    "One UNet with a group of channels for each of several"
    import copy
    from torch import nn
    n = len(networks)
    big = copy.deepcopy(networks[0])
    for name, module in list(big.named_modules()):
        if isinstance(module, nn.Conv2d):
            new = nn.Conv2d(n*module.in_channels, n*module.out_channels, module.kernel_size, padding=module.padding, groups=n)
        elif isinstance(module, nn.BatchNorm2d): new = nn.BatchNorm2d(n*module.num_features, momentum=module.momentum)
        else: continue
        own = [network.get_submodule(name) for network in networks]
        for key in ('weight', 'bias'): setattr(new, key, nn.Parameter(torch.cat([getattr(o, key).data for o in own])))
        big.set_submodule(name, new)
    return big


def forward_grouped(network, x, n):
    "As UNet.forward, but each replicate's skip goes beside its own channels"
    import torch.nn.functional as F
    skips = []
    for down in network.downs:
        skips.append(down(x))
        x = F.max_pool2d(skips[-1], 2)
    x = network.bottleneck(x)
    for up in network.ups:
        skip = skips.pop()
        finer = F.interpolate(x, scale_factor=2, mode='nearest')
        x = torch.cat([a.unflatten(1, (n, -1)) for a in (skip, finer)], 2).flatten(1, 2)
        if skip.is_contiguous(memory_format=torch.channels_last): x = x.contiguous(memory_format=torch.channels_last)
        x = up(x)
    return network.final_conv(x).unflatten(1, (n, -1))


def steps_in(layout, job, x, y):
    "CPU seconds of one step of all replicates, done in several ways, and how far their gradients differ"
    import copy
    import torch.nn.functional as F
    from torch.func import functional_call, grad, stack_module_state, vmap
    from hrtem_seg.learning.networks import build
    n = len(x)
    networks = [build('UNet', seed) for seed in range(n)]
    parameters, buffers = stack_module_state(networks)
    base = copy.deepcopy(networks[0]).to('meta')
    def loss_of(p, b, u, v): return F.cross_entropy(functional_call(base, (p, b), (u,)), v)
    stacked_step = vmap(grad(loss_of))
    big = grouped(networks).to(memory_format=layout)
    wide = x[:, :, 0].transpose(0, 1).contiguous(memory_format=layout)
    for network in networks: network.to(memory_format=layout)
    def one_by_one():
        for network, u, v in zip(networks, x, y):
            network.zero_grad()
            F.cross_entropy(network(u.contiguous(memory_format=layout)), v).backward()
    def in_groups():
        big.zero_grad()
        logits = forward_grouped(big, wide, n)
        sum(F.cross_entropy(logits[:, r], y[r]) for r in range(n)).backward()
    in_groups()
    one_by_one()
    worst = 0.
    for network, ours in zip(networks, big.final_conv.weight.grad.chunk(n)):
        theirs = network.final_conv.weight.grad
        worst = max(worst, float((ours - theirs).abs().max()/theirs.abs().max()))
    ways = {'one by one': one_by_one, 'in groups': in_groups}
    if layout == torch.contiguous_format: ways['torch.func'] = lambda: stacked_step(parameters, buffers, x, y)
    return {name: best_of(way) for name, way in ways.items()}, worst


def best_of(way, times=3):
    took = []
    for _ in range(times):
        start = time.process_time()
        way()
        took.append(time.process_time() - start)
    return min(took)


def prepare_stacked(job):
    "Could replicates be one network? options: replicas"
    def run(job):
        n = job.options['replicas']
        x = torch.randn(n, job.batch, 1, job.size, job.size)
        y = torch.randint(0, 2, (n, job.batch, job.size, job.size))
        steps = {}
        worst = 0.
        for name, layout in (('channels-last', torch.channels_last), ('contiguous', torch.contiguous_format)):
            took, differ = steps_in(layout, job, x, y)
            steps |= {f'{way}, {name}': t for way, t in took.items()}
            worst = max(worst, differ)
        return {'steps': {**steps, 'largest relative difference of a gradient': worst}}
    return run


def prepare_layouts(job):
    "Milliseconds an image, forward and backward, by precision and memory layout; options: widths, large"
    import torch.nn.functional as F
    from hrtem_seg.learning.networks import ResNetUNet, UNet
    from hrtem_seg.learning.prediction import autocast
    networks = {f'UNet {f}': UNet(f, 2*f[-1]) for f in job.options['widths']}
    if job.options['large']: networks['ResNetUNet'] = ResNetUNet()
    x = torch.randn(job.batch, 1, job.size, job.size)
    y = torch.randint(0, 2, (job.batch, job.size, job.size))
    def run(job):
        ms = {}
        for name, network in networks.items():
            for how, layout in (('contiguous', torch.contiguous_format), ('channels-last', torch.channels_last)):
                network.to(memory_format=layout)
                image = x.to(memory_format=layout)
                for precision in ('float32', 'bfloat16'):
                    def step():
                        with autocast('cpu', precision): logits = network(image)
                        F.cross_entropy(logits.float(), y).backward()
                    ms[f'{name}|{precision}, {how}'] = 1e3*best_of(step, 2)/job.batch
        return {'ms': ms}
    return run


PREPARE = {name.removeprefix('prepare_'): f for name, f in list(globals().items()) if name.startswith('prepare_')}


def main():
    warnings.filterwarnings('ignore')
    torch.set_num_threads(1)
    torch.optim.Adam([torch.zeros(1, requires_grad=True)])   # the first one of a process imports torch's compiler: seconds and memory
    name, *numbers = sys.argv[1:6]
    options = json.loads(sys.argv[6]) if len(sys.argv) > 6 else {}
    job = Job(*map(int, numbers), options)
    report(PREPARE[name](job), job, job.images*job.epochs*options.get('replicas', 1))


if __name__ == '__main__': main()
