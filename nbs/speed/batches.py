"""The contenders of the benchmark of batches, each for a process of its own

usage: batches.py CONTENDER JOB_AS_JSON

Prints one line of JSON: how many a second, the same at the floor (transforms alone), and the peak memory of the process and of the device (MB).
"""
import json, resource, sys, time
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
import numpy as np, torch, xarray as xr
from hrtem_seg.core.devices import by_torch


@dataclass
class Job:
    "What is computed, where, and how many at once"
    device:str
    batch:int|None    # None: one at a time
    edge:float        # Å, of the cell
    structures:int
    images:int
    epochs:int
    repeats:int

    @property
    def way(self):
        "On a CPU a batch goes through torch, as on a card"
        return by_torch() if self.batch and self.device == 'cpu' else nullcontext()

    def scenes(self):
        from hrtem_seg.structures.scenes import random_scene
        radius = min(15., self.edge/5)
        return [random_scene(np.random.default_rng(k), cell=(self.edge, self.edge), radius=radius, thickness=30.) for k in range(self.structures)]


def wait(device):
    if torch.device(device).type == 'cuda': torch.cuda.synchronize(device)


def best(run, job):
    "The least seconds that a call takes, once all is compiled"
    run()
    times = []
    for _ in range(job.repeats):
        wait(job.device)
        start = time.perf_counter()
        run()
        wait(job.device)
        times.append(time.perf_counter() - start)
    return min(times)


def transforms(shape, job, products=1):
    "Seconds of one transform and some products of an array of this shape, in batches as asked for"
    from hrtem_seg.core.fourier import fft2
    n = job.batch or 1
    a = torch.polar(torch.ones((n, *shape)), torch.rand((n, *shape))).to(job.device)
    def once():
        b = fft2(a)
        for _ in range(products): b.mul_(a)
    return best(once, job)/n


def structures(job):
    "Both exit waves of scenes: 0.2 Å, 2 Å slices, a smeared potential"
    from hrtem_seg.waves.multislice import exit_waves
    from hrtem_seg.waves.slices import slice_planes
    scenes = job.scenes()
    how = dict(pixel=.2, rms=.1, device=job.device)
    groups = [scenes] if job.batch else [[scene] for scene in scenes]
    passed = 0
    for scene in scenes:
        particle = scene.arrays['particle_id'] >= 0
        k, planes = slice_planes(scene.positions[:, 2], particle)
        passed += len(planes) + len(np.intersect1d(k[particle], k[~particle]))
    def run():
        with job.way: return [exit_waves(group, batch=job.batch or 1, **how) for group in groups]
    ny, nx = run()[0].full.shape[-2:]
    n = len(scenes)
    return n/best(run, job), n/(2*passed*transforms((ny, nx), job))


def images(job):
    "Images of the scenes' waves, each through a lens of its own, a focal spread of 10 Å, on a grid that holds the intensity"
    from hrtem_seg.imaging.ctf import focal_points
    from hrtem_seg.imaging.images import View, image, image_views
    from hrtem_seg.waves.multislice import exit_wave, resample, wave_pixel
    waves = [exit_wave(scene, pixel=.2, rms=.1) for scene in job.scenes()]
    full = [resample(w, wave_pixel(w)).full for w in waves]
    rng = np.random.default_rng(0)
    views = []
    for k in range(job.images):
        lens = dict(focal_spread=10., aberrations={'A1': (float(rng.uniform(0, 40)), 20.), 'C3': 1e5})
        views.append(View(full[k % len(full)], float(rng.uniform(-300, 0)), lens))
    def run():
        if not job.batch: return [image(v.wave, defocus=v.defocus, device=job.device, batch=1, **v.optics) for v in views]
        with job.way: return image_views(views, device=job.device, batch=job.batch)
    shape = run()[0].shape
    shifts, _ = focal_points(10.)
    return job.images/best(run, job), 1/(len(shifts)*transforms(shape, job))


def stack(job, side=256):
    "Images of noise and masks that come from memory"
    rng = np.random.default_rng(0)
    counts = rng.poisson(50, (job.images, side, side)).astype('u2')
    dims = ('sample', 'y', 'x')
    return xr.Dataset({'image': (dims, counts), 'mask': (dims, counts > 60)})


AUGMENT = {'dihedral': True, 'rotate': .5, 'crop': 192, 'zoom': (.8, 1.6), 'blur': (0., 1.), 'noise': (0., 1.)}


def samples_of(job):
    from hrtem_seg.learning.samples import Samples
    class Here(Samples):
        "Varied on the CPU, one image after the other, whatever the loader's device is"
        def batch(self, idx, rng, device=None): return super().batch(idx, rng)
    kind = Samples if job.batch else Here
    return kind(stack(job), AUGMENT)


def augmentation(job):
    "Fields that are read, varied and standardised"
    from hrtem_seg.learning.samples import Batches
    loader = Batches(samples_of(job), job.batch or 8, device=torch.device(job.device))
    def run():
        with job.way:
            for x, y in loader: x.to(job.device)
    return job.images/best(run, job), None


def training(job):
    "Steps of `fit`, of eight images each"
    from hrtem_seg.learning.training import fit
    samples = samples_of(job)
    few = stack(job).isel(sample=slice(2))
    def run(epochs):
        with job.way: fit('UNet', samples, few, epochs=epochs, batch_size=8, metrics=(), device=job.device)
    steps = -(-job.images//8)*job.epochs
    return steps/(best(partial(run, 1 + job.epochs), job) - best(partial(run, 1), job)), None


CONTENDERS = {f.__name__: f for f in (structures, images, augmentation, training)}


def main():
    name, text = sys.argv[1:]
    torch.set_num_threads(1)
    job = Job(**json.loads(text))
    rate, floor = CONTENDERS[name](job)
    unit = 1024**2 if sys.platform == 'darwin' else 1024
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/unit
    on_card = torch.cuda.max_memory_allocated()/1e6 if torch.device(job.device).type == 'cuda' else None
    print(json.dumps({'rate': rate, 'floor': floor, 'MB': host, 'device MB': on_card}))


if __name__ == '__main__': main()
