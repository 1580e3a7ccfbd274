"""Simulate HRTEM images of nanoparticles, train networks on them, and segment micrographs

    import numpy as np, hrtem_seg as hs

    scene = hs.sample_scene(np.random.default_rng(1))      # atoms: a particle on a film
    wave = hs.exit_wave(scene)                             # the electrons behind them
    picture = hs.image(wave.full, defocus=-100.)           # what the lens makes of that, defocus in Å
    found = hs.segment(hs.read_micrograph('frame.tif'))    # the particles of a micrograph

`dir(hs)` lists the names, `help(hs.image)` explains one, with units and shapes, and `hrtem-seg --help` the commands.
"""

__version__ = "0.0.1"

from .front import NAMES, load as _load, settle_numba_cache as _settle_numba_cache

_settle_numba_cache(__path__[0])


def __getattr__(name):
    if name.startswith('__'): raise AttributeError(name)
    found = _load(name)
    globals()[name] = found
    return found


def __dir__():
    return sorted({*globals(), *NAMES})
