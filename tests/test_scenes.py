"Scenes and substrates: what a reader of their chapters should not have to see"
import json, math, subprocess, sys, warnings
from pathlib import Path
import numpy as np
import pytest
from ase.build import bulk
from hypothesis import HealthCheck, given, settings as hypothesis_settings, strategies as st
from scipy.spatial import cKDTree
from scipy.stats import chisquare
from hrtem_seg.core.records import checksum, content_hash, plain, rng_for
from hrtem_seg.structures.scenes import (PLACEMENTS, _place, build_scene, displace, draw_scene, export_scene, name_defaults,
                                         random_scene, regenerate, sample_scene)
from hrtem_seg.structures.shapes import bound
from hrtem_seg.structures.substrates import AMORPHOUS, SUBSTRATES, substrate
from hrtem_seg.waves.prismatic import prismatic_xyz

RECORDS = {
    'faults': dict(n_particles=2, radius=12., n_defects=2),
    'random': dict(substrate='carbon', radius=12., n_defects=0),
    'nitride': dict(substrate='quenched_silicon_nitride', material='Ag', shape='decahedron', radius=12., face='exit'),
    'graphene': dict(substrate={'kind': 'graphene', 'layers': 2}, shape='icosahedron', radius=12.),
    'support': dict(substrate={'kind': 'crystalline', 'material': 'Si', 'miller': [1, 1, 1]}, material='CdSe', radius=12.),
    'wulff': dict(shape={'kind': 'wulff', 'energies': {'111': 1., '100': ('uniform', 1., 1.3)}}, radius=('truncnorm', 12., 2., 10., 14.)),
    'core': dict(core={'material': 'Au', 'shell': 4.}, material='Ag', radius=12.),
    'boundary': dict(boundary={}, radius=12., depth='rest'),
    'spinel': dict(material='Fe3O4', radius=10., adsorbate={'thickness': 4.}, face='exit'),
    'vacuum': dict(substrate='vacuum', radius=10.),
    'heap': dict(n_particles=5, overlap=1., radius=9., separation=0., face='exit', placement='inside'),
    'pushed': dict(n_particles=3, radius=10., placement='pushed', substrate={'kind': ('choice', ['carbon', 'silicon_nitride'])}),
}

def settings_of(kind): return {'cell': (60., 60.), 'separation': 2., **RECORDS[kind]}

@pytest.fixture(scope='module')
def scenes(): return {kind: sample_scene(rng_for(3, kind), **settings_of(kind)) for kind in RECORDS}

def check(s):
    "What holds in every scene"
    drawn = s.info['record']['drawn']
    result = s.info['record']['result']
    lx, ly = drawn['cell']
    owner, role, z = s.arrays['particle_id'], s.arrays['role'], s.positions[:, 2]
    of_particle = owner >= 0
    assert s.pbc.tolist() == [True, True, False] and np.allclose(s.cell.lengths()[:2], [lx, ly])
    assert np.isfinite(s.positions).all() and (s.positions[:, :2] >= 0).all() and (s.positions[:, :2] < [lx, ly]).all()
    if len(s): assert z.min() >= drawn['vacuum'] - 1e-9 and z.max() <= s.cell[2, 2] - drawn['vacuum'] + 1e-9
    assert {a: s.arrays[a].dtype.str[1:] for a in ('particle_id', 'grain_id', 'role')} == {'particle_id': 'i2', 'grain_id': 'i2', 'role': 'i1'}
    assert (np.isin(role, [0, 3]) == of_particle).all() and ((s.arrays['grain_id'] >= 0) == of_particle).all()
    assert np.bincount(owner[of_particle], minlength=len(drawn['particles'])).tolist() == result['n_particle_atoms']
    box = [lx, ly, s.cell[2, 2] + 30]
    def gap(a, b): return cKDTree(s.positions[a], boxsize=box).query(s.positions[b])[0].min() if a.any() and b.any() else np.inf
    assert gap(role == 1, of_particle) >= drawn['gap'] - 1e-9
    for n in range(len(drawn['particles'])): assert gap(owner == n, of_particle & (owner != n)) >= min(drawn['gap'], 2.) - 1e-9
    assert gap(role == 2, role == 1) >= ((drawn['adsorbate'] or {}).get('min_distance') or 0)
    assert gap(role == 2, of_particle) >= drawn['gap'] - 1e-9
    assert regenerate(json.loads(json.dumps(s.info['record']))).info['record'] == s.info['record']

@pytest.mark.parametrize('kind', RECORDS)
def test_invariants(scenes, kind):
    s = scenes[kind]
    check(s)
    z, film, part = s.positions[:, 2], s.arrays['role'] == 1, s.arrays['particle_id'] >= 0
    if film.any():   # the particles lie on the side that was asked for
        assert (z[part].mean() < z[film].mean()) == (s.info['record']['drawn']['face'] == 'entrance')

def test_same_bits_in_another_process(scenes):
    "Build every record in a fresh interpreter"
    records = {k: s.info['record'] for k, s in scenes.items()}
    code = ('import json, sys; from hrtem_seg.structures.scenes import build_scene\n'
            'r = json.load(sys.stdin)\n'
            'print(json.dumps({k: build_scene(v).info["record"]["result"]["checksum"] for k, v in r.items()}))')
    out = subprocess.run([sys.executable, '-c', code], input=json.dumps(records), capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == {k: r['result']['checksum'] for k, r in records.items()}

def test_draw_is_reproducible_and_plain():
    for kind in RECORDS:
        a, b = (draw_scene(rng_for(3, kind), **settings_of(kind)) for _ in range(2))
        assert content_hash(a) == content_hash(b) == content_hash(json.loads(json.dumps(a))) and a == plain(a)
        assert draw_scene(rng_for(3, kind), **a['asked'])['drawn'] == a['drawn']

BEFORE = json.loads((Path(__file__).parent/'data/scenes_before_placements.json').read_text())

@pytest.mark.parametrize('kind', BEFORE)
def test_records_and_settings_of_before_placements(kind):
    "Made by the code of that time: the record builds the same atoms, and its settings draw the same record"
    old = BEFORE[kind]
    s = build_scene({'drawn': old['drawn']})
    assert s.info['record']['result']['checksum'] == old['checksum']
    assert checksum(np.stack([s.arrays[a].astype('i4') for a in ('particle_id', 'grain_id', 'role')])) == old['labels']
    again = draw_scene(rng_for(3, kind), **name_defaults(old['settings'], before=True))
    assert {k: v or None for k, v in again['drawn'].items()} == {k: v or None for k, v in old['drawn'].items()}

def test_named_defaults_stay_named():
    for settings in ({}, {'substrate': 'vacuum'}, {'adsorbate': {'thickness': 3.}}, {'placement': 'inside', 'adsorbate': {}}):
        now, before = name_defaults(settings), name_defaults(settings, before=True)
        assert name_defaults(now, before=True) == now and name_defaults(before) == before
        assert draw_scene(rng_for(1), **now)['drawn'] == draw_scene(rng_for(1), **settings)['drawn']

def test_regenerate_refuses_other_atoms(scenes):
    r = json.loads(json.dumps(scenes['random'].info['record']))
    r['drawn']['substrate']['seed'] += 1
    with pytest.raises(ValueError, match='checksum'): regenerate(r)

def test_former_name(): assert random_scene is sample_scene

# placement

@pytest.mark.parametrize('n, radius', [(1, 20.), (4, 10.), (12, 10.)])
def test_centres_are_uniform(n, radius):
    "Over a thousand fields, thin and so full that discs must be pushed apart"
    at = np.concatenate([_place(rng_for(5, n, i), [radius]*n, (100., 80.), 2., 'anywhere') for i in range(1000)])
    counts = np.histogram2d(*at.T, 5, [[0, 100], [0, 80]])[0].ravel()
    assert chisquare(counts).pvalue > 1e-3
    outer = np.histogram2d(*at.T, 10, [[0, 100], [0, 80]])[0]
    outer[1:-1, 1:-1] = 0
    assert abs(outer.sum()/(.36*len(at)) - 1) < .06

@pytest.mark.parametrize('placement', PLACEMENTS)
def test_discs_keep_their_distance(placement):
    for i in range(40):
        radii = rng_for(1, i).uniform(6, 14, 9)
        at = _place(rng_for(2, i), radii, (100., 90.), 3., placement)
        away = np.abs(at[:, None] - at[None])
        away = np.hypot(*np.moveaxis(np.minimum(away, [100., 90.] - away), -1, 0)) + 1e3*np.eye(9)
        assert (away >= radii[:, None] + radii[None] + 3 - 1e-9).all()
        if placement != 'anywhere': assert (at >= radii[:, None] - 1e-9).all() and (at <= [100., 90.] - radii[:, None] + 1e-9).all()

def test_inside_leaves_no_pile_at_the_limit():
    "A full field: a third of the pushed discs lay exactly on the limit"
    def on_the_limit(placement):
        at = np.concatenate([_place(rng_for(3, i), [12.]*9, (100., 100.), 4., placement) for i in range(20)])
        return np.mean(((np.abs(at - 12) < 1e-6) | (np.abs(at - 88) < 1e-6)).any(1))
    assert on_the_limit('pushed') > .2 and on_the_limit('inside') < .01

def test_particles_cross_the_frame_and_stay_whole():
    cut = 0
    for i in range(12):
        s = sample_scene(rng_for(4, i), radius=12., n_defects=0, cell=(60., 60.), substrate='vacuum')
        x = s.positions[:, 0] - s.info['record']['drawn']['particles'][0]['centre'][0]
        x -= 60*np.round(x/60)
        assert 20 < np.ptp(x) < 24.1
        cut += np.ptp(s.positions[:, :2], axis=0).max() > 40
    assert cut >= 4

def test_overlaps_are_stacked_and_labelled(scenes):
    "Every particle but the first lies over another one, atoms apart, and knows its own number"
    s = scenes['heap']
    particles = s.info['record']['drawn']['particles']
    assert [('over' in p) for p in particles] == [False, True, True, True, True]
    surface = s.info['record']['result']['surface']
    ids = s.arrays['particle_id']
    assert (ids >= 0).sum() == sum(s.info['record']['result']['n_particle_atoms'])
    nearest = []
    for n in range(1, 5):
        mine = s.positions[ids == n]
        others = cKDTree(s.positions[(ids >= 0) & (ids != n)], boxsize=[60, 60, 1e3])
        nearest.append(others.query(mine)[0].min())
        assert mine[:, 2].min() > surface
    assert min(nearest) >= 2.2 - 1e-9 and np.sum(np.less(nearest, 2.3)) >= 3   # on others, but for one that slipped off to the film

def test_overlap_is_a_share():
    n = [sum('over' in p for p in draw_scene(rng_for(6, i), n_particles=6, overlap=.4, radius=6., n_defects=0, substrate='vacuum')['drawn']['particles'])
         for i in range(60)]
    assert abs(np.mean(n)/5 - .4) < .1

def test_published_fields_are_filled():
    "Five particles of 3 to 5 nm, 1 nm apart, in 12.8 × 12.8 nm: always placed, seldom drawn again"
    for placement in PLACEMENTS:
        redrawn = [draw_scene(rng_for(8, i), n_particles=5, radius=('uniform', 15., 25.), n_defects=0, cell=(128., 128.), substrate='vacuum',
                              placement=placement)['drawn']['redrawn'] for i in range(40)]
        assert sum(redrawn) < 40

def test_exit_face_mirrors_the_order():
    s = sample_scene(rng_for(6, 'exit'), face='exit', radius=12., thickness=40., cell=(60., 60.))
    part, z, surface = s.arrays['particle_id'] >= 0, s.positions[:, 2], s.info['record']['result']['surface']
    assert z[part].min() < surface < z[part].max()
    assert abs((surface - z[~part].min()) - 40) < .5

# substrates

def test_substrates_differ_by_seed_alone():
    for kind in AMORPHOUS:
        def make(seed): return checksum(substrate(dict(kind=kind, thickness=20., seed=seed), (50., 50.))[1])
        assert make(1) == make(1) != make(2)

@pytest.mark.parametrize('density', [1.0, 2.0, 2.4])
def test_density_is_reached(density):
    s = sample_scene(rng_for(1, 'density'), n_particles=0, substrate={'kind': 'carbon', 'density': density}, cell=(50., 50.))
    assert abs(s.info['record']['result']['density'] - density) < .005

def test_bonds_of_silicon_nitride():
    "Four and three neighbours of the other element, and hardly a bond between like atoms"
    cell = (70., 70.)
    numbers, pos = substrate(dict(kind='quenched_silicon_nitride', thickness=40., seed=4), cell)
    tree = {z: cKDTree(pos[numbers == z], boxsize=(*cell, 80)) for z in (7, 14)}
    inner = (pos[:, 2] > 3) & (pos[:, 2] < 37)
    def around(z, of): return tree[of].query_ball_point(pos[inner & (numbers == z)], 2.3, return_length=True) - (z == of)
    assert 3.65 < around(14, 7).mean() < 4.02 and 2.74 < around(7, 14).mean() < 3.02
    assert around(14, 14).mean() < .06 and around(7, 7).mean() < .12
    assert abs((numbers == 7).sum()/(numbers == 14).sum() - 4/3) < .02

def test_supports_are_strained_less_than_a_percent_or_warn():
    for i, material in enumerate(('Si', 'Au', 'Fe3O4', 'C')):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            s = sample_scene(rng_for(2, i), substrate={'kind': 'crystalline', 'material': material}, n_particles=0, cell=(110., 110.), thickness=8.)
        assert s.info['record']['result']['strain'] < .01
    with pytest.warns(UserWarning, match='a cell of .* would strain it by'):
        s = sample_scene(rng_for(1), substrate={'kind': 'graphene', 'angle': 17.}, n_particles=0, cell=(64., 60.))
    assert .01 < s.info['record']['result']['strain'] < .03
    old = sample_scene(rng_for(1), substrate='graphene', n_particles=0, cell=(64., 60.), max_strain=None)
    assert 'angle' not in old.info['record']['drawn']['substrate'] and old.info['record']['result']['strain'] > 0

def test_substrates_of_your_own():
    def wire(size, seed, spacing=3.):
        "A row of iron atoms"
        x = np.arange(0, size[0], spacing)
        return np.full(len(x), 26), np.column_stack([x, 0*x + size[1]/2, 0*x + size[2]/2])
    SUBSTRATES['wire'] = wire
    try:
        s = sample_scene(rng_for(1), substrate={'kind': 'wire', 'spacing': 2.5}, radius=9., cell=(60., 60.))
        assert (s.numbers == 26).sum() > 10
        with pytest.raises(ValueError, match="has no 'colour'; expected 'spacing'"): draw_scene(rng_for(1), substrate={'kind': 'wire', 'colour': 1})
    finally: del SUBSTRATES['wire']

# thermal displacements and files

def test_displacements_differ_between_configurations(scenes):
    "The published reader loaded one configuration eight times"
    s = scenes['faults']
    steps = [displace(s, .1, rng_for(1, 'phonon', i)).positions - s.positions for i in range(8)]
    c = np.corrcoef([x.ravel() for x in steps])
    assert np.abs(c - np.eye(8)).max() < .03 and np.allclose([x.std() for x in steps], .1, rtol=.02)
    assert np.array_equal(displace(s, .1, rng_for(1, 'phonon', 0)).positions - s.positions, steps[0])

# what is wrong is named

@pytest.mark.parametrize('wrong, says', [
    (dict(radius=60.), 'does not fit a cell of 60 × 60 Å'), (dict(n_particles=30, radius=10.), 'found no place'),
    (dict(radius=29.999, separation=0.), 'must be at least 62.2'),   # never a cell that is refused in turn
    (dict(radius=-2.), 'radius=-2.0'), (dict(radius=('gauss', 1, 2)), "'gauss'"), (dict(material='Kryptonite'), "'Kryptonite'"),
    (dict(material='nowhere.cif'), 'nowhere.cif'), (dict(thickness=-1.), 'thickness=-1.0'), (dict(thickness=math.nan), 'thickness=nan'),
    (dict(cell=5.), 'cell=5.0'), (dict(cell=(60., 'wide')), "cell[1]='wide'"), (dict(cell=(60., math.inf)), 'cell[1]=inf'),
    (dict(cell=(9e3, 9e3), thickness=90.), 'million atoms'), (dict(n_particles=1.5), 'n_particles=1.5'), (dict(n_particles=True), 'n_particles=True'),
    (dict(n_particles='many'), "n_particles='many'"), (dict(gap=0.), 'gap=0.0'), (dict(vacuum='none'), "vacuum='none'"), (dict(separation=math.nan), 'separation=nan'),
    (dict(depth=2.), 'depth=2.0'), (dict(shape='blob'), "'blob'"), (dict(shape={'kind': 'rod', 'width': 2.}), "'width'"),
    (dict(n_defects=-1), 'n_defects=-1'), (dict(material='Fe', n_defects=2), 'not known'), (dict(orientation='north'), "'north'"),
    (dict(substrate={'kind': 'carbon', 'density': 30.}), 'density=30'), (dict(substrate={'kind': 'carbon', 'min_distance': 2.4}), 'min_distance may be at most'),
    (dict(substrate={'kind': 'crystalline'}), 'expected a material too'), (dict(substrate={'kind': 'crystalline', 'material': 'Si', 'miller': [0, 0, 0]}), 'miller=[0, 0, 0]'),
    (dict(substrate={'kind': 'crystalline', 'material': 'Si', 'miller': [1, 1]}), 'miller=[1, 1]'), (dict(substrate={'kind': 'graphene', 'layers': 0}), 'layers=0'),
    (dict(substrate={'kind': 'graphene', 'angle': math.nan}), 'angle=nan'), (dict(substrate={'kind': 'carbon', 'seed': 3}), 'its seed is drawn'),
    (dict(substrate=['carbon']), "substrate=['carbon']"), (dict(substrate=None), 'substrate=None'), (dict(substrate=bulk('Si')), 'substrate='),
    (dict(placement='heaped'), "placement='heaped'"), (dict(overlap=2.), 'overlap=2.0'), (dict(overlap=.2, placement='pushed'), 'overlap=0.2'),
    (dict(max_strain=.5), 'max_strain=0.5'), (dict(adsorbate=4.), 'adsorbate=4.0'), (dict(adsorbate={'density': 20.}), "adsorbate['density']=20.0"),
    (dict(boundary={'plane': 1}), "'plane'"), (dict(core={'material': 'Xx'}), "'Xx'"), (dict(colour='red'), 'colour')])
def test_bad_input_is_named(wrong, says):
    "When the scene is drawn, before anything is built"
    with pytest.raises((ValueError, FileNotFoundError)) as e:
        draw_scene(rng_for(1, 'bad'), **{'cell': (60., 60.), 'radius': 12., **wrong})
    assert says in str(e.value)

def test_wrong_kinds_of_argument_are_named(tmp_path, scenes):
    s = scenes['vacuum']
    for says, call in (
            ('rng=7', lambda: draw_scene(7)), ('rng=None', lambda: sample_scene(None)),
            ('record=', lambda: build_scene(s)), ("record='scene.json'", lambda: regenerate('scene.json')), ("lacks ['adsorbate'", lambda: build_scene({'drawn': {}})),
            ("scene='a.xyz'", lambda: displace('a.xyz', .1, rng_for(1))), ('rms[Au]=nan', lambda: displace(s, math.nan, rng_for(1))),
            ('has no entry for Au', lambda: export_scene(tmp_path/'s.xyz', s, {'C': .1})), ('a.strange', lambda: export_scene(tmp_path/'a.strange', s))):
        with pytest.raises(ValueError) as e: call()
        assert says in str(e.value)

@pytest.mark.parametrize('radius', [('uniform', 8., 14.), ('choice', [6., 38.])])
def test_particles_over_others_are_whole_where_all_are(radius):
    "Also where those that lie over others are much the larger ones, which fit near the middle only; the first draw counts where it fits"
    def drawn(i, **more): return draw_scene(rng_for(5, i), n_particles=3, overlap=.6, radius=radius, cell=(80., 90.), n_defects=0, substrate='vacuum', **more)['drawn']
    n_over = 0
    for i in range(40):
        made = drawn(i, placement='inside')
        for p in made['particles']:
            margin = bound(p['shape'])
            host = made['particles'][p['over']] if 'over' in p else p
            assert all(margin - 1e-9 <= x <= edge - margin + 1e-9 for x, edge in zip(p['centre'], made['cell']))
            assert math.dist(p['centre'], host['centre']) <= margin + bound(host['shape']) + 1e-9
            n_over += host is not p
    assert n_over > 30

def test_prismatic_gets_an_exported_scene_the_right_way_up(tmp_path):
    "Its beam comes from z = c: atoms and cell are where the engine of this project writes them for the same program"
    scene = sample_scene(rng_for(2, 'export'), radius=10., cell=(50., 60.), material='Au')
    moved = displace(scene, .3, rng_for(1))
    for slice_thickness in (2., 1.7):
        own, _ = prismatic_xyz(moved.numbers, moved.positions, tuple(moved.cell.lengths()), slice_thickness)
        out = export_scene(tmp_path/'scene.xyz', moved, {'Au': .085, 'C': .1}, slice_thickness).read_text()
        said, wanted = (text.splitlines() for text in (out, own))
        assert len(said) == len(wanted) == len(moved) + 3 and said[1].split() == wanted[1].split()
        c = float(said[1].split()[2])
        assert abs(c/slice_thickness - round(c/slice_thickness)) < 1e-6 and 0 <= c - moved.cell[2, 2] < slice_thickness
        assert [line.split()[:4] for line in said[2:-1]] == [line.split()[:4] for line in wanted[2:-1]]
    of_particle = moved.arrays['particle_id'] >= 0
    height = np.array([float(line.split()[3]) for line in said[2:-1]])
    assert height[of_particle].mean() > height[~of_particle].mean()   # on the entrance face: nearer to where the beam comes from
    with pytest.raises(ValueError, match='slice_thickness=0.0'): export_scene(tmp_path/'s.xyz', moved, slice_thickness=0.)

def test_atoms_are_a_material_wherever_one_is():
    silicon = bulk('Si', cubic=True)
    for settings in (dict(material=silicon), dict(material=('choice', [silicon])), dict(substrate={'kind': 'crystalline', 'material': silicon}),
                     dict(core={'material': bulk('Ag', cubic=True), 'shell': 4.})):
        r = draw_scene(rng_for(1), **{'cell': (110., 110.), 'radius': 10., 'n_defects': 0, **settings})
        assert json.loads(json.dumps(r)) == r
        check(build_scene(r))

def numbers(lo, hi):
    "Mostly fair, now and then not"
    fair = st.floats(lo, hi)
    return st.one_of(*[fair]*19, st.sampled_from([0, -1, math.nan, math.inf, None, '3', True, 1e300, [1.]]))

SETTINGS = st.fixed_dictionaries({}, optional=dict(
    n_particles=st.one_of(st.integers(0, 5), st.integers(0, 5), st.just(['integers', 1, 3]), st.sampled_from([2.5, None, 'two', -1])),
    substrate=st.one_of(*[st.sampled_from([*AMORPHOUS, 'graphene', 'vacuum'])]*5, st.sampled_from(['glass', None, 3]), st.fixed_dictionaries(
        {'kind': st.sampled_from([*SUBSTRATES, 'x'])},
        optional=dict(density=numbers(.1, 5), layers=st.integers(-1, 4), angle=numbers(-400, 400), material=st.sampled_from(['Si', 'Au', 'none', 7]),
                      miller=st.lists(st.integers(-2, 2), min_size=2, max_size=4)))),
    thickness=st.one_of(numbers(0, 40), st.just(['uniform', 3., 9.])), cell=st.one_of(*[st.tuples(numbers(30, 70), numbers(30, 70))]*5, st.sampled_from([50, (40.,), None, (3., 60.)])),
    depth=st.one_of(numbers(0, 1), st.sampled_from(['rest', 'deep'])), face=st.sampled_from(['entrance', 'exit']*5 + ['side', None]),
    placement=st.sampled_from([*PLACEMENTS*4, 'x', None]), separation=numbers(0, 30), overlap=numbers(0, 1.2), vacuum=numbers(0, 20), gap=numbers(.5, 5),
    adsorbate=st.one_of(st.none(), st.sampled_from([{}, 'yes', {'x': 1}]), st.fixed_dictionaries({}, optional=dict(thickness=numbers(.1, 8), density=numbers(.1, 4)))),
    max_strain=numbers(0, .06), radius=numbers(2, 14), material=st.sampled_from(['Au', 'CdSe', 'Fe3O4']*5 + ['Uo', 5, None]), n_defects=st.sampled_from([0, 1, None]*5 + ['x']),
    shape=st.sampled_from(['sphere', 'rod', {'kind': 'wulff', 'energies': {'111': 1., '100': 1.2}}]*4 + ['icosahedron', 'x', None])))

def outcome(settings, seed=1):
    "'right', 'warned' or 'refused'; anything else raises"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        try:
            record = draw_scene(rng_for(seed), **{'cell': (50., 50.), 'radius': 9., **settings})
            scene = build_scene(json.loads(json.dumps(record)))
        except (ValueError, FileNotFoundError) as e:
            named = (*settings, *(repr(v) for v in settings.values()), 'particle', 'film')
            assert any(word in str(e) for word in named), f'{e} names none of {settings}'
            return 'refused'
        check(scene)
    assert all(issubclass(w.category, UserWarning) for w in said)
    return 'warned' if said else 'right'

@given(SETTINGS)
@hypothesis_settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
def test_settings_are_right_or_refused_by_name_or_warned_of(settings): outcome(settings)
