"""The contenders of the benchmark of images and stacks, each for a process of its own

usage: images.py CONTENDER JOB_AS_JSON

Prints one line of JSON: seconds, sizes or errors, and the peak memory of the process (MB).
"""
import json, resource, sys, tempfile, threading, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np, torch


@dataclass
class Job:
    "What is imaged, and how"
    field:int     # Side of an image, pixels of 0.2 Å
    phonons:int
    foci:int
    threads:int
    repeats:int
    structures:int

    def __post_init__(self):
        self.cell = [.2*self.field]*2
        self.radius = min(20., self.cell[0]/4)
        self.defocus = np.linspace(-500., 500., self.foci)

    def waves(self):
        "Exit waves of one particle on carbon"
        from hrtem_seg.structures.scenes import random_scene
        from hrtem_seg.waves.multislice import exit_wave
        scene = random_scene(np.random.default_rng(0), cell=self.cell, radius=self.radius)
        return exit_wave(scene, phonons=self.phonons)


def best(run, repeats):
    "The least seconds that a call takes"
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return min(times)


def our_images(job, full, foci, **how):
    from hrtem_seg.imaging.images import image
    return image(full, defocus=foci, focal_spread=10., threads=job.threads, **how)


def time_ours(noise=False, **how):
    "A contender: images by this package, at the points of the wave's grid unless `how` says otherwise"
    def run(job):
        from hrtem_seg.imaging.cameras import expose
        full = job.waves().full
        def once():
            intensity = our_images(job, full, job.defocus, **(how or {'sampling': 'wave'}))
            if noise: expose(intensity, 400., np.random.default_rng(0))
        return {'s': best(once, job.repeats)}
    return run


def abtem_waves(job, full):
    import abtem, dask
    abtem.config.set({'fftw.threads': 1})
    dask.config.set(scheduler='threads', num_workers=job.threads)
    values = np.ascontiguousarray(full.values.transpose(0, 2, 1))   # abTEM's axes are (x, y)
    phonons = abtem.core.axes.FrozenPhononsAxis(_ensemble_mean=True)
    return abtem.Waves(values, energy=300e3, sampling=float(full.x[1]), ensemble_axes_metadata=[phonons])


def abtem_images(waves, foci, steps, noise=False):
    "One focus at a time: with all of them at once abTEM needs tens of GB"
    import abtem
    done = []
    for C1 in foci:
        spread = abtem.distributions.gaussian(10., num_samples=steps, sampling_limit=3, center=-C1, ensemble_mean=True)
        lens = abtem.CTF(energy=300e3, defocus=spread)
        intensity = waves.apply_ctf(lens).intensity().reduce_ensemble()
        if noise: intensity = intensity.poisson_noise(dose_per_area=400.)
        done.append(np.asarray(intensity.compute().array).T)
    return np.array(done)


def time_abtem(steps, noise=False, once=False):
    "A contender: images by abTEM, the focal spread in so many uniform steps over ±3 standard deviations"
    def run(job):
        waves = abtem_waves(job, job.waves().full)
        def images(): abtem_images(waves, job.defocus, steps, noise)
        return {'s': best(images, 1 if once else job.repeats)}
    return run


def errors(job):
    "Standard deviation of the difference from 61 steps, % of that of the image"
    from hrtem_seg.imaging.images import image
    full = job.waves().full
    middle = job.defocus[(len(job.defocus) - 1)//2:][:1]
    t = np.linspace(-5, 5, 61)
    weights = np.exp(-t**2/2)
    steps = image(full, defocus=middle + 10*t, threads=job.threads, sampling='wave').values.astype('f8')
    reference = np.tensordot(weights/weights.sum(), steps, 1)
    found = {'ours': our_images(job, full, middle, sampling='wave').values[0]}
    try: waves = abtem_waves(job, full)
    except ImportError: waves = None
    if waves is not None:
        found['abtem'] = abtem_images(waves, middle, 6)[0]
        found['papers'] = abtem_images(waves, middle, 25)[0]
    return {name: float(100*np.std(im - reference)/reference.std()) for name, im in found.items()}


def labels(job):
    from hrtem_seg.imaging.images import minimum_contrast_defocus
    from hrtem_seg.imaging.labels import phase_mask
    particle = job.waves().particle
    return {'focus': best(lambda: minimum_contrast_defocus(particle), job.repeats),
            'mask': best(lambda: phase_mask(particle), job.repeats)}


def bytes_of(folder): return sum(f.stat().st_size for f in folder.rglob('*') if f.is_file())


def stack(job):
    "From structure to disk on one core, and read at random"
    from hrtem_seg.data.generation import generate
    with tempfile.TemporaryDirectory() as d:
        folder = Path(d)/'stack'
        start = time.perf_counter()
        made = generate(folder, n_structures=job.structures, seed=0, scene=dict(cell=job.cell, radius=job.radius),
                        wave=dict(phonons=job.phonons), optics=dict(focal_spread=10.), doses=[400.], images_per_structure=job.foci,
                        defocus=['uniform', -500., 500.], workers=0, progress=False)
        seconds = time.perf_counter() - start
        n = made.sizes['sample']
        order = np.random.default_rng(0).permutation(n)
        def read():
            for i in range(0, n, 8):
                part = made.isel(sample=order[i:i + 8])
                for name in ('image', 'mask'): part[name].values
        sizes = {name: bytes_of(folder/name)/n for name in ('image', 'mask')}
        waves = bytes_of(folder/'waves')/job.structures
        return {**sizes, 's': seconds/n, 'waves': waves, 'read': best(read, job.repeats)/n}


def training(job):
    "Whether reading keeps up with training"
    from hrtem_seg.data.generation import generate
    from hrtem_seg.data.reimaging import Redraw
    from hrtem_seg.learning.samples import Batches, Samples
    from hrtem_seg.learning.training import fit
    with tempfile.TemporaryDirectory() as d:
        folder = Path(d)/'stack'
        foci = ['uniform', -300., 100.]
        optics = dict(focal_spread=10.)
        made = generate(folder, n_structures=max(2, job.structures), seed=0, scene=dict(cell=[40., 40.], radius=['uniform', 7., 12.], separation=2.),
                        wave=dict(pixel=.2), optics=optics, images_per_structure=16, defocus=foci, crop=128, workers=0, progress=False)
        n = made.sizes['sample']
        def read(source):
            for _ in Batches(Samples(source, {'dihedral': True}), 8, True): pass
        anew = Redraw(folder, made, defocus=foci, optics=optics)
        anew.read(range(n), np.random.default_rng(0))
        rates = {name: n/best(lambda: read(source), job.repeats) for name, source in (('disk', made), ('anew', anew))}
        few = made.isel(sample=slice(8)).load()
        def train(epochs):
            start = time.perf_counter()
            fit({'name': 'UNet'}, made.load(), few, epochs=epochs)
            return time.perf_counter() - start
        train(1)
        two_epochs = train(3) - train(1)
        seen = 2*(n + 8/3)   # a validation image costs about a third of a trained one
        return {**rates, 'train': seen/two_epochs}


def memory(process):
    "MB of a process and its children: the sum of their proportional set sizes, where the system tells them"
    import psutil
    total = 0
    for p in [process, *process.children(recursive=True)]:
        try: total += getattr(p.memory_full_info(), 'pss', p.memory_info().rss)
        except psutil.Error: pass
    return total/1e6


def large_stack(job):
    "Images of 256² pixels by two worker processes, and the memory of all of them together, every second"
    import psutil
    from hrtem_seg.data.generation import generate
    seen = [0.]
    done = threading.Event()
    def watch():
        while not done.wait(1.): seen.append(memory(psutil.Process()))
    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        with tempfile.TemporaryDirectory() as d:
            folder = Path(d)/'stack'
            start = time.perf_counter()
            scene = dict(cell=[51.2, 51.2], radius=['uniform', 8., 18.], thickness=['uniform', 20., 40.])
            made = generate(folder, n_structures=job.structures, seed=0, scene=scene, wave=dict(phonons=4), optics=dict(focal_spread=10.),
                            images_per_structure=40, defocus=['uniform', -300., 100.], workers=2, progress=False)
            seconds = time.perf_counter() - start
            n = made.sizes['sample']
            size = sum(bytes_of(folder/name) for name in ('image', 'mask', 'finished'))
    finally:
        done.set()
        watcher.join()
    return {'images': n, 'all MB': max(seen), 'rate': n/seconds, 'kB': size/n/1e3}


CONTENDERS = {'images': time_ours(), 'noisy': time_ours(noise=True), 'pixels': time_ours(pixel=.2),
              'abtem images': time_abtem(6), 'abtem papers': time_abtem(25, once=True), 'abtem noisy': time_abtem(6, noise=True),
              'errors': errors, 'labels': labels, 'stack': stack, 'training': training, 'large stack': large_stack}


def main():
    contender = CONTENDERS[sys.argv[1]]
    job = Job(**json.loads(sys.argv[2]))
    torch.set_num_threads(1)
    try: measured = contender(job)
    except ModuleNotFoundError as e:
        if e.name != 'abtem': raise
        measured = {}   # it is not here: its columns stay empty
    unit = 1024**2 if sys.platform == 'darwin' else 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/unit
    print(json.dumps({**measured, 'MB': peak}))


if __name__ == '__main__': main()
