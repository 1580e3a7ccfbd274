"Simulated beside real: the real images are not part of the project, and what was measured on them is"
from pathlib import Path
import numpy as np, pandas as pd, pytest
from hrtem_seg.data.presets import PRESETS, preset
from hrtem_seg.data.realism import CONDITIONS, condition, distance, real_sets, set_table

REAL = Path(__file__).resolve().parents[2]/'shared'/'real'

@pytest.mark.skipif(not REAL.is_dir(), reason='no folder ../shared/real beside the project')
def test_real_images_measure_as_kept(project):
    kept = pd.read_csv(project/'data/results/realism/appearance.csv', index_col='set')
    sets = real_sets(REAL)
    now = set_table(sets, ['real, 5 nm Au', 'real, 10 nm Au'])
    for name in sets: assert np.allclose(now.loc[name].astype(float), kept.loc[name].astype(float), atol=2e-4), name
    assert distance(sets['real, 5 nm Au'], sets['real, 10 nm Au']) < .2

def test_changes_do_not_reach_the_presets():
    before = repr(PRESETS)
    for name in CONDITIONS:
        settings = condition(name)
        settings['scene']['radius'] = settings['optics']['focal_spread'] = None
    preset('realistic', scene={'radius': 1.})['scene']['cell'][0] = 0.
    assert repr(PRESETS) == before
