"Particles: what a reader of their chapters should not have to see"
from pathlib import Path
import numpy as np
import pytest
from ase.spacegroup import crystal as ase_crystal
from hrtem_seg.structures.crystals import crystal, rotation_matrix
from hrtem_seg.structures.particles import FAULTS, build_particle, common_neighbours, draw_particle, stacking, stacking_sequence
from hrtem_seg.core.records import rng_for
from hrtem_seg.structures.shapes import SHAPES

def test_every_fault_is_in_the_atoms():
    "Each kind alone and in company, at any place in the particle"
    rng = rng_for(2, 'every fault')
    for material, kinds in (('Cu', ['twin', 'intrinsic', 'extrinsic']), ('ZnS', ['I1', 'I2', 'E'])):
        for kind in kinds:
            r = draw_particle(rng, material=material, radius=14., n_defects=1, defect_kinds=[kind])
            assert [f['kind'] for f in r['faults']] == [kind]
            p, layers = build_particle(r), stacking(crystal(material))
            first = p.numbers == layers.numbers[0]
            found = common_neighbours(p.positions[first], layers.a, .015)
            odd = found == (2 if layers.cubic else 1)
            n = turn_up(r, layers)
            heights = np.unique(np.round((p.positions[first][odd] @ n)/layers.d).astype(int))
            assert len(heights) == len(FAULTS[kind]), (kind, heights)
            assert heights.max() - heights.min() == FAULTS[kind][-1]
            assert sum(c.islower() for c in stacking_sequence(r)) == len(FAULTS[kind])

def turn_up(record, layers):
    from hrtem_seg.structures.crystals import rotate
    from hrtem_seg.structures.particles import _frame
    return rotate(rotate([[0, 0, 1]], _frame(layers, record['variant'])), rotation_matrix(record['orientation']))[0]

def test_hcp_metal_has_basal_faults():
    mg = ase_crystal('Mg', [(1/3, 2/3, 1/4)], spacegroup=194, cellpar=[3.21, 3.21, 5.21, 90, 90, 120])
    assert stacking(crystal(mg)).kind == 'hcp'
    p = build_particle(draw_particle(rng_for(1, 'mg'), material=mg, radius=14., n_defects=1, defect_kinds=['I1']))
    kind = common_neighbours(p.positions, 3.2, .03)
    assert (kind == 1).sum() > 5 and (p.arrays['role'][kind == 1] == 3).all()

def test_defects_keep_distance_and_share():
    rng = rng_for(4, 'spacing')
    for _ in range(40):
        r = draw_particle(rng, radius=20., n_defects=3, min_layers=4, min_share=.15)
        first = sorted((f['layer'], f['layer'] + FAULTS[f['kind']][-1]) for f in r['faults'])
        assert all(b[0] - a[1] >= 4 for a, b in zip(first, first[1:]))
        assert all(min(f['share']) >= .15 for f in build_particle(r).info['faults'])

def test_orientations_of_scenes_are_uniform():
    q = np.array([draw_particle(rng_for(5, i), n_defects=0)['orientation'] for i in range(3000)])
    assert abs(2*np.degrees(np.arccos(np.abs(q[:, 0]))).mean() - 126.5) < 1.5

def test_shapes_of_your_own():
    def capsule(pos, radius, length): return np.hypot(np.maximum(np.abs(pos[:, 2]) - length/2, 0), np.hypot(pos[:, 0], pos[:, 1])) - radius
    SHAPES['capsule'] = capsule
    try:
        p = build_particle(draw_particle(rng_for(1, 'own'), shape={'kind': 'capsule', 'length': 20.}, radius=8., n_defects=0, orientation=[1, 0, 0, 0]))
        assert 32 < np.ptp(p.positions[:, 2]) < 36.1 and np.ptp(p.positions[:, 0]) < 16.1
    finally: del SHAPES['capsule']

def test_sphere_of_the_reference():
    "The gold sphere of the Prismatic reference, made by another program: the same 887 atoms, turned about the beam"
    f = Path(__file__).parents[2]/'shared/prismatic/au_sphere_3nm.xyz'
    if not f.exists(): pytest.skip('the reference structures are not here')
    ref = np.array([l.split()[1:4] for l in f.read_text().splitlines()[2:-1]], float)
    ref -= ref.mean(0)
    r = draw_particle(rng_for(1), radius=15., n_defects=0, orientation={'zone': [1, 1, 0], 'turn': 0.})
    p = build_particle(dict(r, origin=[0, 0, 0], variant=0))
    assert len(p) == len(ref)
    assert np.allclose(np.sort(np.linalg.norm(p.positions, axis=1)), np.sort(np.linalg.norm(ref, axis=1)), atol=1e-3)

def test_cif_that_is_none(tmp_path):
    f = tmp_path/'broken.cif'
    f.write_text('loop_\n_atom_site_label\n')
    with pytest.raises(ValueError, match='broken.cif'): crystal(str(f))
