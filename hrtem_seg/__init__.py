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
