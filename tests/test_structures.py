"Structures: what a reader of chapters 02 to 06 should not have to see"
import json, math, subprocess, sys
from pathlib import Path
import numpy as np
import pytest
from scipy.spatial import cKDTree
from ase import Atoms
from ase.spacegroup import crystal as ase_crystal
from hrtem_seg.structures.crystals import LATTICES, crystal, shells, rotation_matrix
from hrtem_seg.structures.particles import FAULTS, build_particle, common_neighbours, draw_particle, stacking, stacking_sequence
from hrtem_seg.core.records import checksum, content_hash, plain, rng_for
from hrtem_seg.structures.scenes import ROLES, build_scene, displace, draw_scene, export_scene, random_scene, regenerate
from hrtem_seg.structures.shapes import SHAPES, resolve, signed_distance
from hrtem_seg.structures.substrates import SUBSTRATES, substrate

RECORDS = {
    'faults': dict(n_particles=2, radius=12., n_defects=2),
    'quenched': dict(substrate='quenched_carbon', radius=12., n_defects=0),
    'nitride': dict(substrate='silicon_nitride', material='Ag', shape='decahedron', radius=12., face='exit'),
    'graphene': dict(substrate={'kind': 'graphene', 'layers': 2}, shape='icosahedron', radius=12.),
    'support': dict(substrate={'kind': 'crystalline', 'material': 'Si', 'miller': [1, 1, 1]}, material='CdSe', radius=12.),
    'wulff': dict(shape={'kind': 'wulff', 'energies': {'111': 1., '100': ('uniform', 1., 1.3)}}, radius=('truncnorm', 12., 2., 10., 14.)),
    'core': dict(core={'material': 'Au', 'shell': 4.}, material='Ag', radius=12.),
    'boundary': dict(boundary={}, radius=12., depth='rest'),
    'spinel': dict(material='Fe3O4', radius=10., adsorbate={'thickness': 4.}),
    'vacuum': dict(substrate='vacuum', radius=10.),
}

@pytest.fixture(scope='module')
def scenes(): return {k: random_scene(rng_for(3, k), cell=(60., 60.), separation=2., **kw) for k, kw in RECORDS.items()}

@pytest.mark.parametrize('kind', RECORDS)
def test_invariants(scenes, kind):
    s = scenes[kind]
    d, result = s.info['record']['drawn'], s.info['record']['result']
    part = s.arrays['particle_id'] >= 0
    assert s.pbc.tolist() == [True, True, False] and np.allclose(s.cell.angles(), 90)
    assert (s.positions >= 0).all() and (s.positions[:, :2] < 60).all()
    z = s.positions[:, 2]
    assert z.min() >= d['vacuum'] - 1e-9 and z.max() <= s.cell[2, 2] - d['vacuum'] + 1e-9
    assert {a: s.arrays[a].dtype.str[1:] for a in ('particle_id', 'grain_id', 'role')} == {'particle_id': 'i2', 'grain_id': 'i2', 'role': 'i1'}
    assert set(np.unique(s.arrays['role'])) <= set(range(len(ROLES)))
    assert (np.isin(s.arrays['role'], [0, 3]) == part).all() and ((s.arrays['grain_id'] >= 0) == part).all()
    assert np.bincount(s.arrays['particle_id'][part]).tolist() == result['n_particle_atoms']
    if part.all(): return
    box = [60, 60, s.cell[2, 2] + 10]
    film = s.arrays['role'] == 1
    assert cKDTree(s.positions[film], boxsize=box).query(s.positions[part])[0].min() >= d['gap'] - 1e-9
    # the particles lie on the side that was asked for
    assert (z[part].mean() < z[film].mean()) == (d['face'] == 'entrance')

def test_same_bits_in_another_process(scenes):
    "Build every record in a fresh interpreter"
    records = {k: s.info['record'] for k, s in scenes.items()}
    code = ('import json, sys; from hrtem_seg.structures.scenes import build_scene\n'
            'r = json.load(sys.stdin)\n'
            'print(json.dumps({k: build_scene(v).info["record"]["result"]["checksum"] for k, v in r.items()}))')
    out = subprocess.run([sys.executable, '-c', code], input=json.dumps(records), capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == {k: r['result']['checksum'] for k, r in records.items()}

def test_draw_is_reproducible_and_plain():
    for k, kw in RECORDS.items():
        a, b = (draw_scene(rng_for(3, k), cell=(60., 60.), separation=2., **kw) for _ in range(2))
        assert content_hash(a) == content_hash(b) == content_hash(json.loads(json.dumps(a))) and a == plain(a)

def test_regenerate_refuses_other_atoms(scenes):
    r = json.loads(json.dumps(scenes['faults'].info['record']))
    assert checksum(regenerate(r).positions) == checksum(scenes['faults'].positions)
    r['drawn']['substrate']['seed'] += 1
    with pytest.raises(ValueError, match='checksum'): regenerate(r)

def test_substrates_differ_by_seed_alone():
    for kind in ('carbon', 'quenched_carbon', 'silicon_nitride'):
        make = lambda seed: checksum(substrate(dict(kind=kind, thickness=20., seed=seed), (50., 50.))[1])
        assert make(1) == make(1) != make(2)

@pytest.mark.parametrize('density', [1.0, 2.0, 2.4])
def test_density_is_reached(density):
    s = random_scene(rng_for(1, 'density'), n_particles=0, substrate={'kind': 'carbon', 'density': density}, cell=(50., 50.))
    assert abs(s.info['record']['result']['density'] - density) < .005

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

def test_displacements_differ_between_configurations(scenes):
    "The published reader loaded one configuration eight times"
    s = scenes['faults']
    steps = [displace(s, .1, rng_for(1, 'phonon', i)).positions - s.positions for i in range(8)]
    c = np.corrcoef([x.ravel() for x in steps])
    assert np.abs(c - np.eye(8)).max() < .03 and np.allclose([x.std() for x in steps], .1, rtol=.02)
    assert np.array_equal(displace(s, .1, rng_for(1, 'phonon', 0)).positions - s.positions, steps[0])

def test_exit_face_mirrors_the_order():
    s = random_scene(rng_for(6, 'exit'), face='exit', radius=12., thickness=40., cell=(60., 60.))
    part, z, surface = s.arrays['particle_id'] >= 0, s.positions[:, 2], s.info['record']['result']['surface']
    assert z[part].min() < surface < z[part].max()
    assert abs((surface - z[~part].min()) - 40) < .5

@pytest.mark.parametrize('wrong, says', [
    (dict(radius=60.), 'does not fit a cell of 60 × 60 Å'), (dict(n_particles=30, radius=10.), 'found no place'),
    (dict(radius=-2.), 'radius=-2.0'), (dict(radius=('gauss', 1, 2)), "'gauss'"), (dict(material='Kryptonite'), "'Kryptonite'"),
    (dict(material='nowhere.cif'), 'nowhere.cif'), (dict(thickness=-1.), 'thickness=-1.0'), (dict(cell=5.), 'cell=5.0'),
    (dict(depth=2.), 'depth=2.0'), (dict(shape='blob'), "'blob'"), (dict(shape={'kind': 'rod', 'width': 2.}), "'width'"),
    (dict(n_defects=-1), 'n_defects=-1'), (dict(material='Fe', n_defects=2), 'not known'), (dict(orientation='north'), "'north'"),
    (dict(substrate={'kind': 'carbon', 'density': 30.}), 'density=30'), (dict(substrate={'kind': 'carbon', 'min_distance': 2.4}), 'min_distance may be at most'),
    (dict(boundary={'plane': 1}), "'plane'"), (dict(core={'material': 'Xx'}), "'Xx'"), (dict(colour='red'), 'colour')])
def test_bad_input_is_named(wrong, says):
    with pytest.raises((ValueError, TypeError, FileNotFoundError)) as e:
        random_scene(rng_for(1, 'bad'), **{'cell': (60., 60.), 'radius': 12., **wrong})
    assert says in str(e.value)

def test_published_fields_are_filled():
    "Five particles of 3 to 5 nm, 1 nm apart, in 12.8 × 12.8 nm: always placed, seldom drawn again"
    redrawn = [draw_scene(rng_for(8, i), n_particles=5, radius=('uniform', 15., 25.), n_defects=0, cell=(128., 128.))['drawn']['redrawn'] for i in range(60)]
    assert sum(redrawn) < 60

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
    f = tmp_path/'broken.cif'; f.write_text('loop_\n_atom_site_label\n')
    with pytest.raises(ValueError, match='broken.cif'): crystal(str(f))
