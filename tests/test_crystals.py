"Crystals, shapes and particles: materials by content, symmetry, indices, and what a person may hand over"
import json, os
import numpy as np
import pytest
from ase.build import bulk
from hrtem_seg.core.records import checksum, content_hash, plain, rng_for
from hrtem_seg.structures.crystals import as_record, crystal, settle_materials
from hrtem_seg.structures.particles import build_particle, draw_particle
from hrtem_seg.structures.scenes import build_scene, draw_scene

@pytest.fixture
def platinum(tmp_path):
    f = tmp_path/'m.cif'
    bulk('Pt', cubic=True).write(f)
    return f

def test_settled_settings_hold_content_and_not_paths(platinum):
    other = platinum.with_name('copy.CIF')
    other.write_bytes(platinum.read_bytes())
    pt = as_record(platinum)
    asked = {'material': ('choice', ['Au', platinum, {**pt}]), 'core': {'material': str(other), 'shell': 3.},
             'substrate': ('choice', [{'kind': 'crystalline', 'material': bulk('Pt', cubic=True)}, 'carbon']), 'radius': 10.}
    assert settle_materials(asked) == {'material': ('choice', ['Au', pt, pt]), 'core': {'material': pt, 'shell': 3.},
                                       'substrate': ('choice', [{'kind': 'crystalline', 'material': pt}, 'carbon']), 'radius': 10.}
    settled = settle_materials(asked)
    assert settle_materials(settled) == settled == settle_materials({**settled})
    assert settle_materials(json.loads(json.dumps(settled))) == plain(settled)
    bulk('Ni', cubic=True).write(platinum)
    assert content_hash(settle_materials(asked)) != content_hash(settled)

def test_relative_paths_mean_the_callers_folder(platinum, monkeypatch):
    monkeypatch.chdir(platinum.parent)
    settled = settle_materials({'material': 'm.cif'})
    monkeypatch.chdir('/')
    with pytest.raises(FileNotFoundError, match=r'm\.cif.*no such CIF file \(looked for /m\.cif'): settle_materials({'material': 'm.cif'})
    assert settled['material']['formula'] == 'Pt'

def test_unreadable_files_are_named(tmp_path):
    f = tmp_path/'x.cif'
    f.mkdir()
    with pytest.raises(FileNotFoundError, match='x.cif'): settle_materials({'material': f})
    if os.geteuid():
        g = tmp_path/'y.cif'
        g.write_text('data_x')
        g.chmod(0)
        with pytest.raises(ValueError, match='y.cif cannot be read'): settle_materials({'material': g})

def test_a_settled_scene_is_the_scene_of_the_file_and_needs_it_no_more(platinum):
    asked = dict(material=['choice', [str(platinum)]], radius=8., n_defects=1, thickness=6., cell=[40., 40.], core={'material': str(platinum), 'shell': 3.},
                 substrate={'kind': 'crystalline', 'material': str(platinum), 'miller': [1, 1, 1]})
    of_file = build_scene(draw_scene(rng_for(1), **asked))
    settled = plain(settle_materials(asked))
    platinum.unlink()
    of_content = build_scene(draw_scene(rng_for(1), **settled))
    assert checksum(of_file.positions) == checksum(of_content.positions)
    record = json.loads(json.dumps(of_content.info['record']))
    assert str(platinum) not in json.dumps(record)
    assert checksum(build_scene({k: v for k, v in record.items() if k != 'result'}).positions) == checksum(of_content.positions)

def test_a_cell_changed_by_hand_is_not_taken_for_the_old_one(platinum):
    pt = as_record(platinum)
    changed = {**pt, 'cell': [[4., 0, 0], [0, 4., 0], [0, 0, 4.]]}
    with pytest.raises(ValueError, match='leave out hash and group'): crystal(changed)
    by_hand = {k: changed[k] for k in ('symbols', 'cell', 'scaled_positions')}
    assert as_record(by_hand)['group'] == 225 and as_record(by_hand)['hash'] != pt['hash']

def test_every_function_takes_the_plain_dictionary(platinum):
    pt = plain(as_record(platinum))
    r = draw_particle(rng_for(1), material=pt, radius=10., n_defects=1, shape={'kind': 'wulff', 'energies': {'111': 1., '100': 1.1}}, orientation={'zone': [1, 1, 0]})
    assert r['material'] == pt and set(build_particle(r).symbols) == {'Pt'}
    ico = draw_particle(rng_for(1), material=pt, shape='icosahedron', radius=10.)
    assert set(build_particle(plain(ico)).symbols) == {'Pt'}
