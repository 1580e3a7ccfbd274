"Whatever a person may type as settings of a stack comes out right, is refused by name, or is warned of"
import json, os, tempfile, warnings
from pathlib import Path
import numpy as np, pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from hrtem_seg.data.generation import generate, regenerate
from hrtem_seg.data.reimaging import Redraw
from hrtem_seg.data.stacks import damaged, open_stack

GOOD = dict(n_structures=1, seed=1, scene=dict(cell=[20., 20.], radius=5., substrate='vacuum', separation=1.), wave=dict(pixel=.3), pixel=.5, optics={}, doses=[400.],
            defocus=-100., images_per_structure=1, crop=None, camera=None, mask={}, labels=[], splits={'train': .7, 'valid': .3}, keep='half', sampling='area')
ODD = st.sampled_from([None, True, 0, -1, 1.5, 1e9, float('nan'), float('inf'), '', 'much', [], {}, [1., 2.], ['uniform', 0., 1.], ['uniform', 'a'], ['normal', 1.],
                       {'a': 1}, np.float32(2.), np.arange(3), Path('x'), b'raw', 1j, {1, 2}, len])

def entries(**of):
    "A dictionary of some of the entries, each with a value that may do or an odd one"
    return st.fixed_dictionaries({}, optional={k: st.one_of(st.sampled_from(v), ODD) for k, v in of.items()})

CHANGES = dict(
    n_structures=st.sampled_from([1, 2]), seed=st.integers(0, 2**40),
    scene=entries(material=['Au', 'CdSe', 'Unobtainium', ['choice', ['Au', 'Si']], 'no.cif'], radius=[4., ['uniform', 3., 6.], 200.], n_particles=[0, 1, 2, ['integers', 0, 2]],
                  cell=[[20., 20.], [20., 30.], [20., 21.37], [20.]], thickness=[0., 5.], substrate=['carbon', 'graphene', 'paper', 'vacuum'], face=['exit', 'side'], overlap=[.5], radus=[3.])
                  .map(lambda d: {**GOOD['scene'], **d}),
    wave=entries(pixel=[.3, .6, 5.], phonons=[0, 2], rms=[.1, 'table', {'Au': .1}], energy=[80e3, 300.], slice_thickness=[2., 500.], beam_tilt=[[0., .3], [0., 9.], 1.],
                 specimen_tilt=[[1., 0.]], absorption=['thermal', .05], slices=[2]).map(lambda d: {'pixel': .3, **d}),
    pixel=st.sampled_from([None, .25, .5, .77, 3., 50.]), sampling=st.sampled_from(['area', 'band', 'wave', 'point']),
    optics=entries(focal_spread=[10., ['uniform', 0., 20.], -1.], aberrations=['TEAM05', {'C3': -1e4}, {'A1': [['uniform', 0., 30.], 10.]}, {'Z9': 1.}, 'TEAM06'], vibration=[.3, 99.],
                   drift=[[.3, .1], .5], aperture=[.5, 1e-3], convergence=[.2], blur=[1.]),
    doses=st.one_of(st.lists(st.floats(1., 1e5), min_size=1, max_size=2), st.sampled_from([100., ['lognormal', 400., .5], [0.], [-5.], [1e9]])),
    defocus=st.one_of(st.floats(-500., 500.), st.sampled_from([['normal', -100., 50.], ['gauss', 0., 1.], -1e9])),
    images_per_structure=st.sampled_from([1, 2]), crop=st.sampled_from([None, 1, 16, 31, 40, 1000]),
    camera=st.one_of(st.sampled_from(['direct', 'scintillator', 'imperfect direct', 'film']),
                     entries(mtf=[[1., .5], [1.]], dqe=[[.9, .2]], gain=[.02, 2.], binning=[2, 3, 64, ['choice', [1, 2]]], read_noise=[1., -1.], illumination=[.2], hot=[.1], sensor=[3], iso=[100])),
    mask=entries(kind=['phase', 'projection', 'smoothed_phase', 'outline'], threshold=[.1, 4.], sigma=[1., -1.], cut=[.5, 2.]),
    labels=st.sampled_from([['instance'], ['grain', 'overlap'], 'instance', ['edges']]), splits=st.sampled_from([{'train': 1.}, {'train': .5}, {'a': .2, 'b': .8}, {'train': 2., 'valid': -1.}]),
    keep=st.sampled_from(['half', 'single', None, 'quarter']), device=st.sampled_from(['cpu', 'gpu']), workers=st.sampled_from([0, -1]))

@st.composite
def asked(draw):
    "Settings that differ from good ones in one to three places, there sometimes oddly"
    names = draw(st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3, unique=True))
    return {k: draw(st.one_of(CHANGES[k], CHANGES[k], CHANGES[k], ODD)) if k not in ('n_structures', 'seed') else draw(CHANGES[k]) for k in names}

COUNT = dict(right=0, refused=0, warned=0)

def names_in(changes):
    "Every word that a refusal may name: what was changed, and what is inside"
    out = set(changes)
    for v in changes.values():
        if isinstance(v, dict): out |= set(map(str, v)) | set(map(str, v.values()))
    return out | {'device', 'particle', 'cell', 'grid', 'pixel', 'dose', 'tilt', 'phonons', 'image', 'substrate', 'C1', 'aberration', 'GiB', 'beam'}

def check_right(ds, job):
    "What any stack promises"
    assert np.isfinite(ds.image.values.astype(float)).all() and ds.image.shape == ds.mask.shape
    assert set(np.unique(ds.mask)) <= {0, 1} and ds.sizes['sample'] >= 1
    px = float(ds.x[1] - ds.x[0]) if ds.sizes['x'] > 1 else float(ds.pixel[0])
    assert px == pytest.approx(float(ds.pixel[0]))
    again = regenerate(ds, 0)
    assert (again.image.values == ds.image.values[0]).all() and (again.mask.values == ds.mask.values[0]).all()

@settings(max_examples=int(os.environ.get('EXAMPLES', 40)), deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(asked())
def test_settings_come_out_right_or_are_refused_by_name(changes):
    job = {**dict(workers=0, progress=False), **GOOD, **changes}
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        path = Path(folder)/'stack'
        try: ds = generate(path, **job)
        except (ValueError, FileNotFoundError, MemoryError) as e:
            COUNT['refused'] += 1
            assert any(n in str(e) for n in names_in(changes)), f'{changes}: {e!r} names nothing that was changed'
            assert not path.exists()
        except RuntimeError as e:
            COUNT['refused'] += 1
            assert 'structure' in str(e) and isinstance(e.__cause__, ValueError), f'{changes}: {e!r}'
        else:
            COUNT['warned' if said else 'right'] += 1
            check_right(ds, job)
            assert damaged(path) == []

def test_all_outcomes_were_met():
    assert COUNT['right'] > 5 and COUNT['refused'] > 5, COUNT
    print(COUNT)
