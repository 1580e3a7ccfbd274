"The same settings have the same bits and the same keys in every process, whatever order its sets have"
import json, os, subprocess, sys

# scenes of a compound, an alloy and carbon, with thermal displacements from the table; every kind of thing that has a key
WORK = '''
import json, tempfile
from pathlib import Path
import numpy as np
from hrtem_seg.core.records import content_hash, rng_for
from hrtem_seg.data.generation import generate
from hrtem_seg.data.presets import preset
from hrtem_seg.experiments import conditions
from hrtem_seg.experiments.tasks import task_key
from hrtem_seg.structures.crystals import LATTICES
from hrtem_seg.structures.scenes import build_scene, draw_scene
from hrtem_seg.waves.multislice import exit_wave
from hrtem_seg.waves.thermal import thermal_displacements

SCENE = {'cell': [36., 36.], 'radius': ['uniform', 6., 7.], 'thickness': 6., 'n_particles': 2, 'separation': 2.,
         'material': ['choice', ['CdSe', 'Au0.7Ag0.3', 'Pt0.5Ni0.5']]}
WAVE = {'pixel': .3, 'phonons': 2, 'rms': 'table'}
def bits(ds): return {name: content_hash(np.asarray(ds[name]).tobytes().hex()) for name in sorted(ds.data_vars)}
found = {}
with tempfile.TemporaryDirectory() as folder:
    made = generate(Path(folder)/'s', n_structures=2, seed=3, scene=SCENE, wave=WAVE, crop=32, labels=['instance', 'grain'],
                    doses=[200.], optics={'focal_spread': 15.}, camera='scintillator', workers=0, progress=False).load()
    found['stack'] = bits(made)
    settings = json.loads(made.attrs['record'])['settings']
    found['record'] = content_hash(settings)
    found['key'] = task_key(conditions.make_stack, {k: v for k, v in settings.items() if v is not None})
for seed in (1, 2, 5):
    atoms = build_scene(draw_scene(rng_for(seed, 'structure', 0), **SCENE))
    found[f'scene {seed}'] = content_hash([atoms.positions.tolist(), atoms.numbers.tolist()])
    found[f'displacements {seed}'] = list(thermal_displacements(atoms).items())
found['wave'] = content_hash(np.asarray(exit_wave(atoms, seed=1, **WAVE).full).tobytes().hex())
found['preset'] = content_hash(preset('universal'))
found['lattices'] = list(LATTICES)
print(json.dumps(found))
'''

def test_nothing_depends_on_the_order_of_a_set():
    said = []
    for seed in ('1', '2'):
        env = {**os.environ, 'PYTHONHASHSEED': seed}
        done = subprocess.run([sys.executable, '-W', 'ignore', '-c', WORK], env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        said.append(json.loads(done.stdout.splitlines()[-1]))
    one, other = said
    assert one.keys() == other.keys()
    assert {k: (one[k], other[k]) for k in one if one[k] != other[k]} == {}
