"Waves against programs and sums that share no code with them, and requests that must be refused"
import importlib.util, json, os, subprocess, sys
from pathlib import Path
import ase, numpy as np, pytest, torch
from ase.cluster import Octahedron
from hrtem_seg.conventions import freqs, interaction, wavelength
from hrtem_seg.multislice import exit_wave, exit_waves, grid, resample, wave_error
from hrtem_seg.potentials import Projector
from hrtem_seg.prismatic import from_prismatic, prismatic_status, prismatic_wave, prismatic_xyz

SHARED = Path(__file__).parents[2]/'shared'/'prismatic'
reference = pytest.mark.skipif(not SHARED.exists(), reason=f'no reference waves of Prismatic 2.0 in {SHARED}')

@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads(); torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def cluster(n=3, cell=(12.8, 12.8, 12.), pbc=True):
    a = Octahedron('Au', n); a.rotate(20, (1, 1, .3)); a.set_cell(cell); a.center(); a.pbc = pbc
    return a

def stored(name):
    "A structure that Prismatic has simulated, turned so that the beam goes along +z"
    lines = (SHARED/f'{name}.xyz').read_text().splitlines()
    cell = np.array(lines[1].split(), float)
    r = np.array([l.split()[:4] for l in lines[2:] if len(l.split()) > 3], float)
    return ase.Atoms(numbers=r[:, 0].astype(int), positions=np.c_[r[:, 1:3], cell[2] - r[:, 3]], cell=cell, pbc=True)

def response(atoms, total, pixel):
    "How Prismatic's gridding weakens the potential, as a function of frequency: from its own projected potential"
    ours = Projector(total.shape, pixel, atoms.numbers)(atoms.positions[:, 1], atoms.positions[:, 0], atoms.numbers).numpy()
    f, g = np.fft.fft2(total), np.fft.fft2(ours)
    k = (np.hypot(*freqs(total.shape, pixel))/.1).astype(int).ravel()
    return (np.arange(k.max() + 1) + .5)*.1, np.bincount(k, (f*g.conj()).real.ravel())/np.maximum(np.bincount(k, (abs(g)**2).ravel()), 1e-9)

@reference
def test_axes_and_beam_direction_agree_with_prismatic():
    a, d = stored('axes_test'), np.load(SHARED/'axes_test_0.1A.npz')
    theirs = from_prismatic(d['wave'], .2, 16., 2., 8.)
    args = dict(pixel=.1, band=.5, aperture='square', projection='finite', plane=8.)
    assert wave_error(exit_wave(a, **args).full[0], theirs) < .03
    flipped = a.copy(); flipped.positions[:, 2] = 16 - flipped.positions[:, 2]
    swapped = a.copy(); swapped.positions[:, 0] = 20 - swapped.positions[:, 0]
    for wrong in (flipped, swapped): assert wave_error(exit_wave(wrong, **args).full[0], theirs) > .2

@reference
def test_wave_in_zone_axis_agrees_with_prismatic(monkeypatch):
    "Same slices, band and 3-D potential, and the response of Prismatic's grid: 1 % in the hardest case there is"
    a, d = stored('au_sphere_3nm'), np.load(SHARED/'au_3nm_finite_0.1A.npz')
    theirs, q = from_prismatic(d['wave'], .2, 51.2, 2., 25.6), response(a, d['projected_potential_sum_VA'].T, .1)
    filter = Projector.filter
    monkeypatch.setattr(Projector, 'filter', lambda self, f: filter(self, f*np.interp(self.q, *q)))
    ours = exit_wave(a, pixel=.1, slice_thickness=2., band=.5, aperture='square', projection='finite', plane=25.6).full[0]
    assert wave_error(ours, theirs) < .01
    assert wave_error(ours, theirs, 2.4) < .03

RECIPROCITY = '''
import json
from pyprismatic import Metadata
from pyprismatic.fileio import readMRC
import numpy as np
Metadata(**json.load(open('settings.json'))).go()
np.save('image.npy', readMRC('out.mrc'))
'''
STEM = prismatic_status()

@pytest.mark.skipif(not STEM['installed'] or STEM['hrtem'] or bool(STEM['error']),
                    reason=f'the package index\'s pyprismatic 1.1.16 is not importable here ({STEM}); it needs the FFTW and Boost headers to be built')
def test_image_agrees_with_prismatic_stem_by_reciprocity(tmp_path):
    "A detector that holds only the axis turns STEM into HRTEM of the specimen upside down"
    a, lam, n, pixel, C1, C3, edge = cluster(), wavelength(300e3), 16, .1, -100., 1e7, .0197
    a.positions[:, :2] = np.round(a.positions[:, :2]/pixel)*pixel    # Prismatic 1 snaps atoms to pixels
    (tmp_path/'scene.xyz').write_text(prismatic_xyz(a.numbers, a.positions, (12.8, 12.8, 12.), 2.)[0])
    (tmp_path/'settings.json').write_text(json.dumps(dict(
        filenameAtoms='scene.xyz', filenameOutput='out.mrc', algorithm='multislice', E0=300e3, cellDimX=12.8, cellDimY=12.8, cellDimZ=12.,
        realspacePixelSizeX=pixel, realspacePixelSizeY=pixel, sliceThickness=2., potBound=3., interpolationFactorX=1, interpolationFactorY=1,
        tileX=1, tileY=1, tileZ=1, numFP=1, numThreads=1, numGPUs=0, includeThermalEffects=False, save2DOutput=False, save3DOutput=True, save4DOutput=False,
        probeStepX=12.8/n, probeStepY=12.8/n, probeDefocus=C1, C3=C3, C5=0., probeSemiangle=edge, alphaBeamMax=.03, detectorAngleStep=.5*lam/12.8)))
    subprocess.run([sys.executable, '-c', RECIPROCITY], cwd=tmp_path, env={**os.environ, 'HOME': str(tmp_path)}, check=True, capture_output=True, timeout=300)
    theirs = np.load(tmp_path/'image.npy')[..., 0]
    def image(z, C1=C1):
        b = a.copy(); b.positions[:, 2] = z
        w = exit_wave(b, pixel=pixel, slice_thickness=2., band=.5, aperture='square', plane=11.).full.values[0]  # 12 Å less half a slice
        q2 = np.add(*(k**2 for k in freqs(w.shape, pixel)))
        lens = (np.sqrt(q2)*lam < edge)*np.exp(-1j*(np.pi*lam*C1*q2 + .5*np.pi*lam**3*C3*q2**2))
        return (abs(np.fft.ifft2(np.fft.fft2(w)*lens))**2)[::8, ::8]
    z = a.positions[:, 2]
    def r(i): return np.corrcoef(i.ravel(), theirs.ravel())[0, 1]
    assert r(image(12 - z)) > .998
    assert r(image(z)) < .997 and r(image(12 - z, -C1)) < .9       # and so the beam's direction and the sign of defocus count

@pytest.mark.skipif(importlib.util.find_spec('abtem') is None, reason='abTEM is not installed (it is in the extra `bench`)')
def test_converged_wave_agrees_with_abtem():
    import abtem
    a = cluster(4, (16., 16., 20.))
    potential = abtem.Potential(a, sampling=.04, slice_thickness=.5, projection='infinite', parametrization='kirkland')
    theirs = np.asarray(abtem.PlaneWave(energy=300e3, sampling=.04).multislice(potential, lazy=False).array).T
    ours = exit_wave(a, pixel=.04, slice_thickness=.5, plane=20.25).full[0]     # abTEM propagates after each slice
    assert wave_error(ours, ours.copy(data=theirs)) < .015

def test_double_precision_and_float_agree_at_any_energy():
    for energy in (60e3, 120e3, 300e3):
        single, double = (exit_wave(cluster(), energy=energy, precision=p, seed=3, phonons=1).full[0] for p in ('single', 'double'))
        assert double.dtype == np.complex128 and 0 < wave_error(single, double) < 1e-4

def test_same_record_same_bits_and_other_seed_other_bits():
    a = cluster()
    one, two, other = (exit_wave(a, phonons=3, seed=s) for s in (5, 5, 6))
    assert one.identical(two) and not np.array_equal(one.full, other.full)
    record = json.loads(one.attrs['record'])
    assert record['wave']['seed'] == 5 and record['wave']['rms'] == .1 and record['versions']['numpy'] == np.__version__
    assert exit_waves([cluster(), a], phonons=3, seed=[1, 5]).full[1].identical(exit_waves([a], phonons=3, seed=5).full[0])

def test_particle_behind_its_substrate():
    "The particle's own wave does not depend on what lies above it or beside it"
    au = cluster(3, (12.8, 12.8, 20.)); au.positions[:, 2] += 3
    rng = np.random.default_rng(0)
    for lo, hi in ((0, 3.), (0, 19.)):
        c = ase.Atoms('C60', positions=rng.uniform([0, 0, lo], [12.8, 12.8, hi], (60, 3)))
        s = c + au; s.set_cell(au.cell); s.pbc = True
        s.arrays['particle_id'] = np.r_[np.full(60, -1), np.zeros(len(au))].astype(np.int16)
        w = exit_wave(s, plane=15.)
        assert abs(w.particle - exit_wave(au, plane=15.).full).max() < 1e-5 < abs(w.particle - w.full).max()
        turned = s[np.argsort(rng.random(len(s)))]
        assert abs(exit_wave(turned, plane=15.).full - w.full).max() < 1e-5

def test_thick_substrate_slices_change_little():
    rng = np.random.default_rng(1)
    c = ase.Atoms('C300', positions=rng.uniform(0, [20., 20., 16.], (300, 3)), cell=(20, 20, 17), pbc=True)
    c.arrays['particle_id'] = np.full(300, -1, np.int16)
    w = exit_wave(c, plane=17.).full[0]
    thick = exit_wave(c, plane=17., substrate_thickness=4.).full[0]
    assert 0 < wave_error(thick, w) < .05
    assert (exit_wave(c).particle == 1).all()

@pytest.mark.parametrize('what, message', [
    (dict(slice_thickness=0), 'slice_thickness=0'), (dict(phonons=-1), 'phonons=-1'), (dict(engine='prism'), "engine='prism'"), (dict(table='doyle'), "table='doyle'"),
    (dict(plane='middle'), "plane='middle'"), (dict(plane=float('nan')), 'plane=nan'), (dict(rms={'C': .1}, phonons=2), 'no displacement for Au'), (dict(band=2), 'band=2'),
    (dict(projection='finite', table='lobato'), "the table 'kirkland'"), (dict(beam_tilt=(0, 40)), 'tilt=40'), (dict(pixel=.4), 'at most 0.333'), (dict(seed=-1, phonons=1), 'seed=-1')])
def test_bad_settings_are_refused(what, message):
    with pytest.raises((ValueError, KeyError), match=message.replace('(', r'\(')): exit_wave(cluster(), **what)

def test_bad_scenes_are_refused():
    skew = cluster(); skew.set_cell([[12.8, 1, 0], [0, 12.8, 0], [0, 0, 12]])
    outside = cluster(pbc=False); outside.positions[0, 0] = -1
    with pytest.raises(ValueError, match='edges along x, y and z'): exit_wave(skew)
    with pytest.raises(ValueError, match=r'moved by 1.0 Å would hold them'): exit_wave(outside)
    with pytest.raises(ValueError, match='no atoms'): exit_wave(ase.Atoms(cell=(10, 10, 10)))
    with pytest.raises(ValueError, match='expected equal cells'): exit_waves([cluster(), cluster(cell=(16., 16., 20.))])
    with pytest.raises(ValueError, match='2 seeds for 1 scenes'): exit_waves([cluster()], seed=[1, 2])

def test_resampling_keeps_what_the_coarse_grid_can_hold():
    w = exit_wave(cluster(), pixel=.1).full
    small = resample(w, .4)
    qy, qx = freqs(small.shape[1:], .4); inside = np.maximum(abs(qy), abs(qx)) < 1.2
    big = np.fft.fft2(w.values)[0]; n = big.shape[0]
    j = np.rint(np.fft.fftfreq(32)*32).astype(int)
    assert np.allclose((np.fft.fft2(small.values)[0]/32**2)[inside], (big[np.ix_(j % n, j % n)]/n**2)[inside], atol=1e-6)

def test_prismatic_that_fails_says_what_it_left(tmp_path):
    a = cluster()
    program = tmp_path/'python'; program.write_text('#!/bin/sh\necho the reason\nexit 3\n'); program.chmod(0o755)
    with pytest.raises(RuntimeError, match=r'(?s)exit status 3.*the reason'):
        prismatic_wave(a.numbers, a.positions, (12.8, 12.8, 12.), .1, 2., 6., python=str(program))
    with pytest.raises(ValueError, match='multiple of 4'): prismatic_wave(a.numbers, a.positions, (12.9, 12.9, 12.), .1, 2., 6.)
