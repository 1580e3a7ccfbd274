"Crystals, shapes and particles: materials by content, symmetry, indices, and what a person may hand over"
import json, math, os, warnings
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111
from ase.spacegroup import Spacegroup
from ase.spacegroup import crystal as with_group
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree
from hrtem_seg.data.samples import describe_scene
from hrtem_seg.core.records import checksum, content_hash, plain, rng_for
from hrtem_seg.structures.crystals import (LATTICES, as_record, crystal, direction_indices, draw_orientation, plane_indices, rotate,
                                           rotation_matrix, settle_materials, shells, symmetry)
from hrtem_seg.structures.particles import Particle, build_particle, draw_particle, stacking, volume_radius
from hrtem_seg.structures.scenes import build_scene, draw_scene
from hrtem_seg.structures.shapes import draw, equivalent_planes, resolve, signed_distance, wulff

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
    asked = dict(material=['choice', [str(platinum)]], radius=8., n_defects=1, thickness=6., cell=[39.2, 39.2], core={'material': str(platinum), 'shell': 3.},
                 substrate={'kind': 'crystalline', 'material': str(platinum), 'angle': 0.})
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

# --- crystals without symmetry, in odd cells and settings

ENERGIES = {'111': 1., '100': 1.15, '110': 1.2}

def rotated(a):
    a.rotate(30, (1, 2, 3), rotate_cell=True)
    return a

@pytest.mark.parametrize('atoms, says', [
    (bulk('Pt', cubic=True), None), (rotated(bulk('Pt', cubic=True)), None), (bulk('Pt'), 'conventional'), (bulk('Pt', orthorhombic=True), 'conventional'),
    (bulk('Pt', cubic=True)*(2, 1, 1), 'conventional'), (rotated(bulk('Pt')*(1, 2, 3)), 'conventional')])
def test_platinum_in_any_cell_is_platinum(tmp_path, atoms, says):
    f = tmp_path/'Pt.cif'
    atoms.write(f)
    for material in (atoms, f):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter('always')
            cell = crystal(material)
        assert [w for w in warned if 'conventional' in str(w.message)] if says else not warned
        assert (cell.info['group'], len(cell)) == (225, 4) and np.allclose(cell.cell.array, 3.92*np.eye(3), atol=1e-4)
        with warnings.catch_warnings(action='ignore'):
            assert len(wulff(material, ENERGIES, 20.)['normals']) == 26
            p = build_particle(draw_particle(rng_for(1), material=material, radius=12., n_defects=1, defect_kinds=['twin']))
        assert (p.arrays['role'] == 3).any()

def test_planes_are_those_of_the_space_group():
    "spglib's rotations of the atoms against ASE's of the group that a lattice was made with"
    for name, lattice in LATTICES.items():
        rotations = Spacegroup(lattice.group, lattice.setting).get_rotations()
        for hkl in ((1, 0, 0), (1, 1, 0), (1, 0, 1), (1, 2, 3)):
            family = {tuple((sign*np.array(hkl) @ r).tolist()) for r in rotations for sign in (1, -1)}
            normals = np.array(sorted(family)) @ crystal(name).cell.reciprocal().array
            normals /= np.linalg.norm(normals, axis=1)[:, None]
            assert np.array_equal(equivalent_planes(name, hkl), normals), (name, hkl)

def test_rhombohedral_axes_have_rhombohedral_planes():
    arsenic = with_group(['As'], [(.227, .227, .227)], spacegroup=166, setting=2, cellpar=[4.13]*3 + [54.1]*3)
    n = equivalent_planes(arsenic, (1, 0, 0))
    cosines = set(np.round(abs(n @ n.T), 3).ravel()) - {1.}
    assert len(n) == 6 and len(cosines) == 1   # three planes at one angle, both sides of each
    hexagonal = with_group(['As'], [(0, 0, .227)], spacegroup=166, cellpar=[3.76, 3.76, 10.55, 90, 90, 120])
    assert [len(equivalent_planes(hexagonal, p)) for p in ('10-11', '01-11')] == [6, 6]   # obverse and reverse are two families
    assert not np.allclose(sorted(equivalent_planes(hexagonal, '10-11').tolist()), sorted(equivalent_planes(hexagonal, '01-11').tolist()))

@pytest.mark.parametrize('sites', [[('Zn', 0, 0), ('O', 0, .382)], [('O', 0, 0), ('Zn', 0, .382)], [('Zn', 0, 0), ('O', 0, .618)], [('Zn', 0, .382), ('O', 0, 0)],
                                   [('Zn', 1, 0), ('O', 1, .382)], [('O', 1, .9), ('Zn', 1, .3)]])
def test_wurtzite_given_either_way_up_has_its_bonds(sites):
    "The oxygen above or below the zinc, either of them first: layers that took the wrong one put atoms 0.6 Å apart"
    places = [((1/3, 2/3, z), (2/3, 1/3, z))[which] for _, which, z in sites]
    cell = crystal(with_group([s for s, *_ in sites], places, spacegroup=186, cellpar=[3.25, 3.25, 5.2, 90, 90, 120]))
    assert stacking(cell).kind == 'wurtzite'
    p = build_particle(draw_particle(rng_for(1), material=cell, radius=11., n_defects=2, orientation=[1, 0, 0, 0]))
    bulk_bonds, bonds = shells(cell, 2.3)[0], shells(p, 2.3)[0]
    assert np.allclose(bonds[1:], bulk_bonds[1:], atol=1e-6) and bonds[0] > 3
    # polarity: along c, the same element is the upper one of a bond in the particle and in the cell
    up = [0, 0, stacking(cell).heights[1]]
    def upper(a): return {a.numbers[j] for i in range(min(len(a), 300)) for j in np.flatnonzero(np.linalg.norm(a.positions - a.positions[i] - up, axis=1) < .05)}
    assert upper(p) == upper(cell*(1, 1, 2)) == {stacking(cell).numbers[1]}

def test_zincblende_keeps_its_polarity():
    for offset, numbers in ((1/4, (31, 33)), (3/4, (33, 31))):
        cell = crystal(with_group(['Ga', 'As'], [(0, 0, 0), (offset,)*3], spacegroup=216, cellpar=[5.65]*3 + [90]*3))
        assert stacking(cell).numbers == numbers

CIF = """data_{name}
_cell_length_a 5.9
_cell_length_b 5.9
_cell_length_c 5.9
_cell_angle_alpha 90
_cell_angle_beta 90
_cell_angle_gamma 90
_space_group_IT_number 225
loop_
_atom_site_label
_atom_site_type_symbol
_atom_site_fract_x
_atom_site_fract_y
_atom_site_fract_z
_atom_site_occupancy
Pb1 Pb 0 0 0 {share}
{more}S1 S .5 .5 .5 1
"""

@pytest.mark.parametrize('share, says', [('?', "occupancy of site 1 is '?'"), ('1.2', '1.2'), ('-.5', '-0.5'), ('full', "'full'")])
def test_unknown_occupancies_are_refused(tmp_path, share, says):
    f = tmp_path/'PbS.cif'
    f.write_text(CIF.format(name='a', share=share, more=''))
    with pytest.raises(ValueError, match='PbS.cif') as e: as_record(f)
    assert says in str(e.value)

def test_files_of_several_crystals_need_a_name(tmp_path):
    f = tmp_path/'two.cif'
    f.write_text(CIF.format(name='full', share='.', more='') + CIF.format(name='mixed', share='.6', more='Sn1 Sn 0 0 0 .3\n'))
    with pytest.raises(ValueError, match=r"two.cif holds 2 crystals, \['full', 'mixed'\]"): as_record(f)
    with pytest.raises(ValueError, match=r"two.cif#none: expected one of \['full', 'mixed'\]"): as_record(f'{f}#none')
    assert as_record(f'{f}#full')['formula'] == 'PbS'
    mixed = as_record(f'{f}#mixed')
    assert mixed['occupancies'][0] == {'Pb': .6, 'Sn': .3} and mixed['group'] == 225
    p = build_particle(draw_particle(rng_for(1), material=mixed, radius=20.))
    sulphur = (p.numbers == 16).sum()
    assert abs((p.numbers == 82).sum()/sulphur - .6) < .06 and abs((p.numbers == 50).sum()/sulphur - .3) < .06
    with pytest.raises(ValueError, match='only a particle'): crystal(mixed)

def test_sites_that_exclude_each_other_are_refused(tmp_path):
    "Partly occupied sites next to each other: which of them go together is not in the file"
    f = tmp_path/'split.cif'
    f.write_text(CIF.format(name='a', share='.5', more='Pb2 Pb .05 0 0 .08\n'))
    with pytest.raises(ValueError, match='split.cif.* Å apart'): as_record(f)

def test_any_part_of_a_particle_may_be_chosen():
    asked = dict(shape=('choice', ['sphere', {'kind': 'rod', 'aspect': ('uniform', 2., 3.)}]), core=('choice', [None, {'material': 'Ag', 'shell': 3.}]), radius=9., n_defects=0,
                 orientation=('choice', ['random', {'zone': '110', 'tilt': ('uniform', 0., 2.)}]), material=('choice', ['Au', 'Au0.5Cu0.5']))
    made = [draw_particle(rng_for(4, i), **asked) for i in range(30)]
    assert {r['shape']['kind'] for r in made} == {'sphere', 'rod'} and {'core' in r for r in made} == {True, False} and {'seed' in r for r in made} == {True, False}
    assert all(2 <= r['shape']['aspect'] <= 3 for r in made if r['shape']['kind'] == 'rod')

def test_alloys_are_random_and_reproducible():
    records = [draw_particle(rng_for(1, i), material='Au0.7Ag0.3', radius=20., n_defects=1, core=core) for i, core in ((0, None), (1, None), (0, {'material': 'Pt0.5Ni0.5'}))]
    a, b, shell = map(build_particle, records)
    assert abs((a.numbers == 79).mean() - .7) < .03 and np.array_equal(a.numbers, build_particle(json.loads(json.dumps(records[0]))).numbers)
    # no order: like pairs as often as chance has them
    pairs = cKDTree(a.positions).query_pairs(3., output_type='ndarray')
    assert abs((a.numbers[pairs] == 79).all(1).mean() - .49) < .03
    assert set(shell.numbers) == {79, 47, 78, 28}
    assert math.isclose(crystal('Au0.7Ag0.3', mixed=True).cell.lengths()[0], .7*4.0782 + .3*4.0853)
    for shape in ('icosahedron', 'decahedron'): assert len(set(build_particle(draw_particle(rng_for(2), material='Au0.5Ag0.5', shape=shape)).numbers)) == 2

# --- planes and zone axes

@pytest.mark.parametrize('zone', ['11-20', [1, 1, -2, 0], (1, 1, -2, 0), '[1 1 -2 0]', '110', np.array([1, 1, 0])])
def test_zone_axes_in_three_indices_or_four(zone):
    axis = rotate([crystal('CdSe').cell.cartesian_positions([1, 1, 0])], rotation_matrix(draw_orientation(rng_for(1), {'zone': zone}, 'CdSe')))[0]
    assert np.allclose(axis[:2], 0, atol=1e-9) and axis[2] > 4

@pytest.mark.parametrize('material, zone, says', [('Au', '11-20', 'four indices'), ('CdSe', [1, 1, 1, 0], 'add up to zero'), ('Au', [1, 1], r'\[1, 1\]'), ('Au', 'abc', "'abc'"),
                                                  ('Au', [0, 0, 0], 'three indices'), ('Au', [1, 1, math.nan], 'nan'), ('Au', 110, '110'), ('Au', None, 'None'), ('Au', [True, False, False], 'True')])
def test_what_is_no_zone_axis_is_said(material, zone, says):
    with pytest.raises(ValueError, match=says): draw_orientation(rng_for(1), {'zone': zone}, material)

def test_facets_in_four_indices():
    assert len(wulff('CdSe', {'0001': 1., '10-10': 1.1}, 15.)['normals']) == 8
    with pytest.raises(ValueError, match='whole numbers'): equivalent_planes('Au', (1.5, 0, 0))


@pytest.mark.parametrize('shell, core, strain', [('MgO', 'Ag', '+22%'), ('Fe3O4', 'Au', '+17%'), ('Au', 'Cu', '-11%')])
def test_a_shell_strained_beyond_reason_is_warned_of(shell, core, strain):
    "A coherent shell takes the core's volume of an atom, which crystals of different structures need not share"
    how = dict(material=shell, radius=9., n_defects=0)
    with pytest.warns(UserWarning) as said: record = draw_particle(rng_for(1), core={'material': core, 'shell': 3.}, **how)
    message, = [str(w.message) for w in said]
    assert strain in message and repr(core) in message and repr(shell) in message and "{…, 'coherency': 0}" in message
    assert said[0].filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        own = draw_particle(rng_for(1), core={'material': core, 'shell': 3., 'coherency': 0}, **how)
        draw_particle(rng_for(1), core={'material': core, 'shell': 3., 'coherency': .2}, **how)
        draw_particle(rng_for(1), core={'material': 'Au', 'shell': 3.}, **{**how, 'material': 'Ag'})
    assert own['core']['scale'] == 1 and {**record, 'core': None} == {**own, 'core': None}   # nothing else depends on it


def test_a_radius_that_is_given_is_the_one_that_was_made():
    "Of clusters, by their atoms, and of half-spaces, by their planes; of all others the recorded one to the bit, and records stay as they are"
    faces = [[2, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]]   # of any length
    box = {'kind': 'halfspaces', 'normals': faces, 'distances': [10., 8., 9., 9., 7., 11.]}
    def drawn(**asked): return draw_particle(rng_for(1), **{'n_defects': 0, **asked})
    assert volume_radius(drawn(shape=box, radius=12.)) == pytest.approx((18**3*3/4/math.pi)**(1/3))
    for kind, radius in (('icosahedron', 12.), ('decahedron', 8.), ('decahedron', 20.)):
        r = drawn(shape=kind, radius=radius)
        atoms = len(build_particle(r))
        assert r['radius'] == radius and volume_radius(r) == pytest.approx((3*atoms*4.0782**3/16/math.pi)**(1/3))
    for shape in ('sphere', 'rod', 'ellipsoid', 'plate', {'kind': 'wulff', 'energies': {'111': 1., '100': 1.2}}):
        r = drawn(shape=shape, radius=('uniform', 8., 30.))
        assert volume_radius(r) == r['radius']
    by_hand = {k: v for k, v in drawn(radius=9.).items() if k != 'radius'}
    assert volume_radius(by_hand) == 9.
    open_side = {**drawn(shape=box, radius=12.), 'shape': {**box, 'normals': faces[:5], 'distances': box['distances'][:5]}}
    assert volume_radius(open_side) == 12.   # no volume, so what the record says
    scene = draw_scene(rng_for(1), material='Au', shape='icosahedron', radius=12., cell=(60., 60.), substrate='vacuum')
    assert describe_scene(scene)['radius'] == volume_radius(scene['drawn']['particles'][0]) == pytest.approx(10.77, abs=.01)

# --- arguments of the wrong kind

@pytest.mark.parametrize('wrong, says', [
    (dict(radius=math.nan), 'radius=nan'), (dict(radius=math.inf), 'radius=inf'), (dict(radius='12'), "radius='12'"), (dict(radius=('uniform', 20, 10)), '20 is above 10'),
    (dict(radius=('normal', 10, math.nan)), 'finite'), (dict(radius=('choice', [])), 'nothing to choose'), (dict(material=('choice', 'Au')), 'list of options'),
    (dict(shape=None), 'shape=None'), (dict(shape={'aspect': 2.}), 'shape='), (dict(shape={'kind': 'sphere', 'radius': 5.}), 'setting of its own'),
    (dict(shape={'kind': 'rod', 'aspect': math.nan}), 'aspect=nan'), (dict(shape={'kind': 'ellipsoid', 'axis': [0, 0, 0]}), 'axis=[0, 0, 0]'),
    (dict(shape={'kind': 'ellipsoid', 'axis': 'z'}), "axis='z'"), (dict(shape={'kind': 'plate', 'sides': 3.5}), 'sides=3.5'), (dict(shape={'kind': 'wulff', 'energies': [1, 2]}), 'energies=[1, 2]'),
    (dict(shape={'kind': 'wulff', 'energies': {'111': math.nan}}), 'nan'), (dict(shape={'kind': 'wulff', 'energies': {'111': 1., '-1-1-1': 2.}}), 'one family'),
    (dict(n_defects=1.5), 'n_defects=1.5'), (dict(n_defects='two'), "n_defects='two'"), (dict(n_defects=1, defect_kinds='kink'), "'kink'"), (dict(n_defects=1, min_layers=2.5), 'min_layers=2.5'), (dict(n_defects=1, defect_kinds=1), 'defect_kinds=1'),
    (dict(orientation=[1, 0, 0]), 'orientation=[1, 0, 0]'), (dict(orientation='110'), "orientation='110'"), (dict(orientation={'tilt': 2.}), 'zone axis'), (dict(orientation=[0, 0, 0, 0]), 'orientation=[0, 0, 0, 0]'),
    (dict(orientation={'zone': '110', 'turn': 'left'}), "turn='left'"), (dict(orientation=math.nan), 'orientation=nan'), (dict(boundary=True), 'boundary=True'), (dict(boundary={'normal': [0, 0, 0]}), 'normal'),
    (dict(core={}), 'core={}'), (dict(core='Ag'), "core='Ag'"), (dict(core={'material': 'Ag', 'shell': math.nan}), "core['shell']=nan"), (dict(material=fcc111('Pt', (1, 1, 3), vacuum=5.)), 'slab'),
    (dict(material=Atoms('Au2', positions=[[0, 0, 0], [0, 0, .1]], cell=[4, 4, 4])), '0.100 Å apart'), (dict(material='cdse'), "did you mean 'CdSe'"), (dict(material='Au0.5Ag0.6'), 'add up to one')])
def test_wrong_kinds_of_argument_are_named(wrong, says):
    with pytest.raises(ValueError) as e: draw_particle(rng_for(1), **{'radius': 10., **wrong})
    assert says in str(e.value)

def test_what_is_no_generator_or_record_is_named():
    with pytest.raises(ValueError, match='rng=1'): draw_particle(1)
    with pytest.raises(ValueError, match='draw_particle'): build_particle('Au')
    with pytest.raises(ValueError, match='lacks'): build_particle({})
    with pytest.raises(ValueError, match=r'\(n, 3\)'): signed_distance({'kind': 'sphere', 'radius': 1.}, [1, 2, 3])
    with pytest.raises(ValueError, match="shape='sphere'"): signed_distance('sphere', np.zeros((1, 3)))

# --- the same particles as ever

MADE_BEFORE = {   # settings, then fingerprints of the record and of the atoms, from before records had fields inside
    'Au': (dict(material='Au', radius=9.), '099bd08531464364', '3500e3267b8a826a'),
    'Fe3O4': (dict(material='Fe3O4', radius=9.), '63dd9c95183f39f2', '912d5d619c580daf'),
    'shape decahedron': (dict(shape='decahedron', radius=11.), 'dabe003b0c78aa53', 'cef8fbaca887b3b8'),
    'boundary': (dict(boundary={}, radius=11.), '37eacd1c9119d365', '012ecc40bd03ebc7'),
    'core3': (dict(core={'material': 'CdSe', 'shell': 4., 'coherency': 0.}, material='ZnS', radius=12., n_defects=1), 'b9f8714780a59047', '075629e09463d4fb'),
    'f E': (dict(n_defects=1, defect_kinds=['E'], radius=13., material='CdSe'), '279827031dd7eaf0', 'f1b8454e08b1fec7'),
    'many': (dict(n_defects=6, radius=9.), '5532b03f177bdee8', '0a869e3d5ed099b8'),
}

@pytest.mark.parametrize('kind', MADE_BEFORE)
def test_the_same_bits_as_before(kind):
    asked, of_record, of_atoms = MADE_BEFORE[kind]
    record = draw_particle(rng_for(11, kind, 0), **asked)
    p = build_particle(record)
    atoms = np.column_stack([p.positions, p.numbers, p.arrays['grain_id'], p.arrays['role']])
    assert (content_hash(record), checksum(atoms)[:16]) == (of_record, of_atoms)
    assert Particle.from_record(json.loads(json.dumps(record))).to_record() == plain(record)

def test_records_of_older_crystals_still_build():
    "A dictionary as it was before content had a hash: taken at its word, whatever its symmetry"
    old = dict(symbols=['Pt']*4, cell=[[3.92, 0, 0], [0, 3.92, 0], [0, 0, 3.92]], group=1, scaled_positions=[[0, 0, 0], [0, .5, .5], [.5, 0, .5], [.5, .5, 0]])
    r = draw_particle(rng_for(1), material=old, radius=10.)
    assert r['material'] == old and r['faults'] == [] and len(build_particle(r)) > 200

# --- what a person may type or hand over

few = settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
numbers = st.one_of(st.integers(-5, 40), st.floats(-5, 40), st.sampled_from([math.nan, math.inf, True, None, '12', 1e300]))
words = st.one_of(st.sampled_from(['Au', 'CdSe', 'TiO2-rutile', 'Au0.5Ag0.5', 'sphere', 'rod', 'wulff', 'random', '110', '11-20', 'choice', 'uniform']), st.text(max_size=6))
anything = st.recursive(st.one_of(numbers, words), lambda inner: st.one_of(st.lists(inner, max_size=5), st.dictionaries(words, inner, max_size=3),
                        st.tuples(st.sampled_from(['choice', 'uniform', 'normal', 'truncnorm', 'integers', 'lognormal']), inner, inner)), max_leaves=8)

@few
@given(anything)
def test_any_material_is_a_crystal_or_refused(material):
    try: cell = crystal(material, mixed=True)
    except (ValueError, FileNotFoundError) as e: assert str(e)
    else: assert len(cell) and cell.info['group']

@few
@given(st.recursive(st.one_of(anything, st.fixed_dictionaries({'material': st.one_of(anything, st.sampled_from(['Au', bulk('Pt', cubic=True)]))})),
                    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)), max_leaves=6))
def test_any_settings_settle_once_or_are_refused(asked):
    try: settled = settle_materials(asked)
    except (ValueError, FileNotFoundError) as e: assert str(e)
    else: assert repr(settle_materials(settled)) == repr(settled) and 'Atoms' not in repr(settled)

@few
@given(st.one_of(st.text(alphabet='0123456789-−[](){} ,.<>x\u0304', max_size=9), st.lists(numbers, max_size=5)))
def test_any_indices_are_read_or_refused(given_indices):
    for material in ('Au', 'CdSe'):
        for read in (plane_indices, direction_indices):
            try: found = read(given_indices, crystal(material))
            except ValueError as e: assert repr(given_indices) in str(e)
            else: assert len(found) == 3 and any(found)

@few
@given(anything)
def test_any_distribution_gives_a_value_or_is_refused(dist):
    try: value = draw(rng_for(1), dist)
    except ValueError as e: assert str(e)
    else: assert not isinstance(value, np.generic)

@few
@given(st.fixed_dictionaries({}, optional=dict(shape=anything, radius=st.one_of(numbers, anything), n_defects=anything, defect_kinds=anything, orientation=anything, boundary=anything,
                                               core=anything, min_layers=numbers, min_share=numbers)))
def test_any_setting_gives_a_particle_or_is_refused(asked):
    asked = {'radius': 9., **asked}
    try: record = draw_particle(rng_for(1), **asked)
    except ValueError as e: assert str(e)
    else:
        same = json.loads(json.dumps(plain(record)))
        try: built = build_particle(record)
        except ValueError as e: assert 'holds no atom' in str(e) and record['radius'] < 3
        else: assert checksum(built.positions) == checksum(build_particle(same).positions)

KINDS = [dict(n_defects=2), dict(core={'material': 'Ag', 'shell': 3.}), dict(boundary={}), dict(shape='icosahedron'), dict(material='Au0.5Ag0.5')]
RECORDS = [plain(draw_particle(rng_for(1, i), radius=9., **asked)) for i, asked in enumerate(KINDS)]

@few
@given(st.sampled_from(RECORDS), st.data())
def test_a_changed_record_builds_or_is_refused(record, data):
    record = json.loads(json.dumps(record))
    place = data.draw(st.sampled_from([record, *(v for v in record.values() if isinstance(v, dict))]))
    place[data.draw(st.sampled_from(sorted(place)))] = data.draw(anything)
    try: assert len(build_particle(record))
    except ValueError as e: assert str(e)

@settings(few, max_examples=25)
@given(st.sampled_from(sorted(LATTICES)), st.tuples(*[st.integers(1, 2)]*3), st.tuples(*[st.floats(-1, 1)]*3), st.integers(0, 2**31))
def test_a_crystal_in_any_cell_has_its_symmetry(name, repeats, moved, seed):
    "Supercells, moved and rotated at will, in another order of atoms"
    rng = np.random.default_rng(seed)
    a = crystal(name)*repeats
    a.positions += moved
    a = a[rng.permutation(len(a))]
    a.rotate(360*rng.random(), rng.standard_normal(3), rotate_cell=True)
    with warnings.catch_warnings(action='ignore'): found = crystal(a)
    assert found.info['group'] == LATTICES[name].group and len(found) == len(crystal(name))
    assert np.allclose(found.cell.cellpar(), crystal(name).cell.cellpar(), atol=1e-4)
    assert np.allclose(shells(found, 3.2), shells(crystal(name), 3.2), atol=1e-4)
    assert len(equivalent_planes(found, (1, 0, 1))) == len(equivalent_planes(name, (1, 0, 1)))

@few
@given(st.data())
def test_a_damaged_cif_is_right_or_refused_by_name(tmp_path_factory, data):
    text = CIF.format(name='a', share='1', more='')
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text = text[:at] + data.draw(st.sampled_from(['', '?', '.', 'x', '9', '-', '\n', ' ', '_', "'", ';', '\0', 'é'])) + text[at + data.draw(st.integers(0, 3)):]
    f = tmp_path_factory.mktemp('damaged')/'a.cif'
    f.write_text(text)
    with warnings.catch_warnings(action='ignore'):
        try: found = as_record(f)
        except ValueError as e: assert 'a.cif' in str(e)
        else: assert found['symbols'] and symmetry(crystal(found, mixed=True)).number == found['group']
