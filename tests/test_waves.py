"Waves against programs and sums that share no code with them, and requests that must be refused"
import importlib.util, json, os, subprocess, sys, tempfile, warnings
from pathlib import Path
import ase, numpy as np, pytest, torch, xarray as xr
from ase.build import bulk, fcc111, surface
from ase.cluster import Octahedron
from hypothesis import given, settings, strategies as st
from scipy.special import erf, k0
from hrtem_seg.waves import potentials
from hrtem_seg.imaging.accuracy import choose_accuracy
from hrtem_seg.core.units import interaction, wavelength
from hrtem_seg.core.fourier import freqs
from hrtem_seg.imaging.labels import phase_mask
from hrtem_seg.waves.multislice import exit_wave, exit_waves, memory_needed, particle_wave, WaveSettings, near_axis, resample, wave_error, wave_pixel
from hrtem_seg.waves.potentials import POTENTIAL, Projector, fit_cell, grid, parameters, scattering_factor
from hrtem_seg.waves.thermal import absorptive_factor, debye_rms, thermal_displacements
from hrtem_seg.waves.prismatic import from_prismatic, prismatic_status, prismatic_wave, prismatic_xyz

SHARED = Path(__file__).parents[2]/'shared'/'prismatic'
reference = pytest.mark.skipif(not SHARED.exists(), reason=f'no reference waves of Prismatic 2.0 in {SHARED}')

@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def cluster(n=3, cell=(12.8, 12.8, 12.), pbc=True):
    a = Octahedron('Au', n)
    a.rotate(20, (1, 1, .3))
    a.set_cell(cell)
    a.center()
    a.pbc = pbc
    return a

def stored(name):
    "A structure that Prismatic has simulated, turned so that the beam goes along +z"
    lines = (SHARED/f'{name}.xyz').read_text().splitlines()
    cell = np.array(lines[1].split(), float)
    r = np.array([l.split()[:4] for l in lines[2:] if len(l.split()) > 3], float)
    return ase.Atoms(numbers=r[:, 0].astype(int), positions=np.c_[r[:, 1:3], cell[2] - r[:, 3]], cell=cell, pbc=True)

def sampled_atom(number, pixel, dz=2/16, bound=3.):
    "Projected potential (V Å) of an atom as Prismatic 2 makes it: sampled at points, those along the beam half a step of `dz` beside the nucleus, summed, softly cut at 0.75 to 0.95 of the band and at 3 Å"
    k = int(np.ceil(bound/pixel - 1e-6))
    x = np.arange(-k, k + 1)*pixel
    p, two = parameters()[number], POTENTIAL*np.pi*dz   # 2π² a₀ e dz
    def v(r2): return two*sum(a*np.exp(-2*np.pi*np.sqrt(b*r2))/np.sqrt(r2) for a, b in p[:6].reshape(3, 2)) + two*np.sqrt(np.pi)*sum(c*d**-1.5*np.exp(-np.pi**2*r2/d) for c, d in p[6:].reshape(3, 2))
    half = (np.arange(int(np.ceil(bound/dz))) + .5)*dz
    out = 2*sum(np.clip(v(x[:, None]**2 + x**2 + z**2) - v(min(x[-1], half[-1])**2), 0, None) for z in half)
    q, m = np.hypot(*freqs(out.shape, 1.)), np.arange(-k, k + 1)/(k + .5)
    out = np.fft.ifft2(np.fft.fft2(out)*np.sin(np.clip((.95 - 2*q)/.2, 0, 1)*np.pi/2)**2).real*(m[:, None]**2 + m**2 <= 1)
    return out, np.arange(-k, k + 1)

def sampling_response(number, pixel, dz=2/16, edge=51.2):
    "What that leaves of the potential, at the frequencies of a quarter of the plane"
    (atom, i), n = sampled_atom(number, pixel, dz), round(edge/pixel)
    cell, q = np.zeros((n, n)), np.arange(n//2 + 1)/edge
    cell[np.ix_(i % n, i % n)] = atom
    return np.fft.fft2(cell).real[:n//2 + 1, :n//2 + 1]*pixel**2/POTENTIAL/scattering_factor(np.hypot(q[:, None], q), number)

@pytest.mark.parametrize('pixel, dz, left', [(.1, 2/16, .78), (.05, 2/16, .64), (.1, 1/16, 1.45), (.05, 1/16, .93)])
def test_prismatic_s_sampling_depends_on_both_its_steps(pixel, dz, left):
    "Share of gold's potential at 4/Å (the numbers that the chapter quotes)"
    assert abs(sampling_response(79, pixel, dz)[0, round(4*51.2)] - left) < .01

@reference
def test_axes_and_beam_direction_agree_with_prismatic():
    a, d = stored('axes_test'), np.load(SHARED/'axes_test_0.1A.npz')
    theirs = from_prismatic(d['wave'], .2, 16., 2., 8.)
    args = dict(pixel=.1, band=.5, aperture='square', projection='finite', plane=8.)
    assert wave_error(exit_wave(a, **args).full[0], theirs) < .03
    flipped = a.copy()
    flipped.positions[:, 2] = 16 - flipped.positions[:, 2]
    swapped = a.copy()
    swapped.positions[:, 0] = 20 - swapped.positions[:, 0]
    for wrong in (flipped, swapped): assert wave_error(exit_wave(wrong, **args).full[0], theirs) > .2

@reference
@pytest.mark.parametrize('pixel, otherwise', [(.1, .15), (.05, .3)])
def test_wave_in_zone_axis_agrees_with_prismatic(pixel, otherwise, monkeypatch):
    "Same slices, band and 3-D potential, and atoms sampled as Prismatic does: 1 % in the hardest case there is, and no agreement without that"
    a, d = stored('au_sphere_3nm'), np.load(SHARED/f'au_3nm_finite_{pixel:g}A.npz')
    theirs, args = from_prismatic(d['wave'], 2*pixel, 51.2, 2., 25.6), dict(pixel=pixel, slice_thickness=2., band=.5, aperture='square', projection='finite', plane=25.6)
    assert wave_error(exit_wave(a, **args).full[0], theirs) > otherwise
    response = sampling_response(79, pixel)
    filter = Projector.filter
    monkeypatch.setattr(Projector, 'filter', lambda self, f: filter(self, f*response))
    ours = exit_wave(a, **args).full[0]
    assert wave_error(ours, theirs) < .01 and wave_error(ours, theirs, 2.4) < .012

RECIPROCITY = '''
import json
from pyprismatic import Metadata
from pyprismatic.fileio import readMRC
import numpy as np
Metadata(**json.load(open('settings.json'))).go()
np.save('image.npy', readMRC('out.mrc'))
'''
STEM = prismatic_status(sys.executable)

def gridded_atom(number, pixel, n, bound=3., sub=8):
    "Projected potential (V Å) of an atom as Prismatic 1 grids it: in real space, averaged over each pixel, cut off at a square of ±3 Å where it is made to end at 0"
    k = int(np.ceil(bound/pixel))
    c = np.arange(-k, k + 1)
    x = ((c[:, None] + (np.arange(sub) + .5)/sub - .5)*pixel).ravel()
    r = np.hypot(x[:, None], x)
    p, two = parameters()[number], POTENTIAL*np.pi   # 2π² a₀ e
    v = sum(2*two*a*k0(2*np.pi*np.sqrt(b)*r) for a, b in p[:6].reshape(3, 2)) + sum(two*c/d*np.exp(-(np.pi*r)**2/d) for c, d in p[6:].reshape(3, 2))
    v, d = v.reshape(2*k + 1, sub, 2*k + 1, sub).mean((1, 3)), round(np.sqrt(2*k + 1))
    out = np.zeros((n, n))
    out[np.ix_(c % n, c % n)] = np.clip(v - v[0, [k - d, k + d]].max(), 0, None)
    return out

@pytest.mark.skipif(not STEM['installed'] or STEM['hrtem'] or bool(STEM['error']),
                    reason=f'the package index\'s pyprismatic 1.1.16 is not importable here ({STEM}); `make prismatic` builds it where the FFTW and Boost headers are')
def test_image_agrees_with_prismatic_stem_by_reciprocity(tmp_path, monkeypatch):
    "A detector that holds only the axis turns STEM into HRTEM of the specimen upside down: at equal slices, band, aperture and gridded atoms to 1e-3 of the contrast"
    a, lam, n, pixel, C1, C3, edge, l = cluster(), wavelength(300e3), 16, .1, -100., 1e7, .0197, 12.8
    a.positions[:, :2] = np.round(a.positions[:, :2]/pixel)*pixel    # Prismatic 1 snaps atoms to pixels
    (tmp_path/'scene.xyz').write_text(prismatic_xyz(a.numbers, a.positions, (l, l, 12.), 2.)[0])
    (tmp_path/'settings.json').write_text(json.dumps(dict(
        filenameAtoms='scene.xyz', filenameOutput='out.mrc', algorithm='multislice', E0=300e3, cellDimX=l, cellDimY=l, cellDimZ=12.,
        realspacePixelSizeX=pixel, realspacePixelSizeY=pixel, sliceThickness=2., potBound=3., interpolationFactorX=1, interpolationFactorY=1,
        tileX=1, tileY=1, tileZ=1, numFP=1, numThreads=1, numGPUs=0, includeThermalEffects=False, save2DOutput=False, save3DOutput=True, save4DOutput=False,
        probeStepX=l/n, probeStepY=l/n, probeDefocus=C1, C3=C3, C5=0., probeSemiangle=edge, alphaBeamMax=.03, detectorAngleStep=.5*lam/l)))
    subprocess.run([sys.executable, '-c', RECIPROCITY], cwd=tmp_path, env={**os.environ, 'HOME': str(tmp_path)}, check=True, capture_output=True, timeout=300)
    q2 = np.add(*(k**2 for k in freqs((128, 128), pixel)))
    aperture = .5 + .5*erf((edge/lam - np.sqrt(q2))*2*l)             # its soft edge
    theirs = np.load(tmp_path/'image.npy')[..., 0]*(aperture**2).sum()
    k = np.floor(np.float32(a.positions[:, 2] - a.positions[:, 2].min())/np.float32(2)).astype(int)   # its slices begin at the atom it meets first
    def image(k, C1=C1):
        b = a.copy()
        b.positions[:, 2] = 2*k + 1.
        w = exit_wave(b, pixel=pixel, slice_thickness=2., band=.5, aperture='square', plane=2*k.max() + 1., precision='double').full.values[0]
        return (abs(np.fft.ifft2(np.fft.fft2(w)*aperture*np.exp(-1j*(np.pi*lam*C1*q2 + .5*np.pi*lam**3*C3*q2**2))))**2)[::8, ::8]
    def error(i): return np.linalg.norm(i - theirs)/np.linalg.norm(theirs - theirs.mean())
    turned = k.max() - k
    assert error(image(turned)) < .02                                # with atoms that are not gridded
    monkeypatch.setattr(potentials, 'scattering_factor', lambda q, z, parametrization: np.fft.fft2(gridded_atom(z, pixel, 128)).real[:65, :65]*pixel**2/POTENTIAL)
    same = image(turned)
    assert error(same) < 1.5e-3 and abs(same - theirs).max() < 5e-4
    assert error(image(k)) > .05 and error(image(turned, -C1)) > .5  # and so the beam's direction and the sign of defocus count

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
    au = cluster(3, (12.8, 12.8, 20.))
    au.positions[:, 2] += 3
    rng = np.random.default_rng(0)
    for lo, hi in ((0, 3.), (0, 19.)):
        c = ase.Atoms('C60', positions=rng.uniform([0, 0, lo], [12.8, 12.8, hi], (60, 3)))
        s = c + au
        s.set_cell(au.cell)
        s.pbc = True
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
    (dict(slice_thickness=0), 'slice_thickness=0'), (dict(phonons=-1), 'phonons=-1'), (dict(engine='prism'), "engine='prism'"), (dict(table='doyle'), "parametrization='doyle'"),
    (dict(plane='middle'), "plane='middle'"), (dict(plane=float('nan')), 'plane=nan'), (dict(rms={'C': .1}, phonons=2), 'no displacement for Au'), (dict(band=2), 'band=2'),
    (dict(projection='finite', table='lobato'), "the parametrization 'kirkland'"), (dict(beam_tilt=(0, 40)), 'tilt=40'), (dict(pixel=.4), 'at most 0.333'), (dict(seed=-1, phonons=1), 'seed=-1'),
    (dict(energy=300), 'energy=300'), (dict(pixel=.01, phonons=20000), 'phonons=20000'), (dict(pixel=.005, phonons=4000), 'GiB are free')])
def test_bad_settings_are_refused(what, message):
    with pytest.raises((ValueError, KeyError, MemoryError), match=message.replace('(', r'\(')): exit_wave(cluster(), **what)

def test_bad_scenes_are_refused():
    skew = cluster()
    skew.set_cell([[12.8, 1, 0], [0, 12.8, 0], [0, 0, 12]])
    outside = cluster(pbc=False)
    outside.positions[0, 0] = -1
    high, nan, odd = (cluster() for _ in range(3))
    high.positions[3, 2] = 13
    nan.positions[5, 0] = np.nan
    odd.numbers[0] = 110
    with pytest.raises(ValueError, match='to 13.000 Å, outside the cell of 12 Å'): exit_wave(high)
    with pytest.raises(ValueError, match='atom 5'): exit_wave(nan)
    with pytest.raises(ValueError, match="element 'Ds'"): exit_wave(odd)
    with pytest.raises(ValueError, match='edges along x, y and z'): exit_wave(skew)
    with pytest.raises(ValueError, match=r'moved by 1.000 Å would hold them'): exit_wave(outside)
    with pytest.raises(ValueError, match='no atoms'): exit_wave(ase.Atoms(cell=(10, 10, 10)))
    with pytest.raises(ValueError, match='expected equal cells'): exit_waves([cluster(), cluster(cell=(16., 16., 20.))])
    with pytest.raises(ValueError, match='2 seeds for 1 scenes'): exit_waves([cluster()], seed=[1, 2])

def test_resampling_keeps_what_the_coarse_grid_can_hold():
    w = exit_wave(cluster(), pixel=.1).full
    small = resample(w, .4)
    qy, qx = freqs(small.shape[1:], .4)
    inside = np.maximum(abs(qy), abs(qx)) < 1.2
    big = np.fft.fft2(w.values)[0]
    n = big.shape[0]
    j = np.rint(np.fft.fftfreq(32)*32).astype(int)
    assert np.allclose((np.fft.fft2(small.values)[0]/32**2)[inside], (big[np.ix_(j % n, j % n)]/n**2)[inside], atol=1e-6)

def test_waves_are_compared_on_coordinates_that_differ_in_the_last_bit():
    w = exit_wave(cluster()).full[0]
    assert wave_error(w, w.assign_coords({d: w[d]*(1 + 1e-15) for d in 'xy'})) < 1e-6

def test_prismatic_that_fails_says_what_it_left(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path))
    a = cluster()
    program = tmp_path/'python'
    program.write_text('#!/bin/sh\necho the reason\nexit 3\n')
    program.chmod(0o755)
    with pytest.raises(RuntimeError, match=r'(?s)exit status 3.*the reason'):
        prismatic_wave(a.numbers, a.positions, (12.8, 12.8, 12.), .1, 2., 6., python=str(program))
    with pytest.raises(ValueError, match='multiple of 4'): prismatic_wave(a.numbers, a.positions, (12.9, 12.9, 12.), .1, 2., 6.)

STAND_IN = """
import os
class Metadata:
    fields = ['saveComplexOutputWave']
    def __init__(self, **settings): self.settings = settings
    def go(self):
        import h5py, numpy as np
        s, d = self.settings, np.load(os.environ['STORED_WAVE'])
        assert s['algorithm'] == 'hrtem' and s['E0'] == 300 and s['potential3D'] and s['saveComplexOutputWave'], s
        assert s['realspacePixelSizeX'] == .1 and s['sliceThickness'] == 2 and s['cellDimZ'] == 16, s
        assert os.environ['HOME'] == os.getcwd() and open(s['filenameAtoms']).read().splitlines()[2:4] == os.environ['ATOMS'].splitlines()
        with h5py.File(s['filenameOutput'], 'w') as f: f['4DSTEM_simulation/data/realslices/HRTEM_fp0000/data'] = d['wave'][..., None]
        print('a stored wave')
"""

@reference
def test_whole_path_to_prismatic_with_its_own_stored_wave(tmp_path, monkeypatch):
    "All that lies around Prismatic 2, on a wave that it computed: it is asked in a process, a folder and a home of its own, for the right settings and atoms"
    pytest.importorskip('h5py', reason='h5py, which Prismatic 2 needs, is not installed')
    (tmp_path/'pyprismatic.py').write_text(STAND_IN)
    (tmp_path/'pyprismatic-1.2.0.dist-info').mkdir()
    (tmp_path/'pyprismatic-1.2.0.dist-info'/'METADATA').write_text('Metadata-Version: 2.1\nName: pyprismatic\nVersion: 1.2.0\n')
    a = stored('axes_test')
    lines = prismatic_xyz(a.numbers, a.positions, tuple(np.diag(a.cell)), 2.)[0].splitlines()[2:4]
    for k, v in dict(PYTHONPATH=os.pathsep.join([str(tmp_path), os.environ.get('PYTHONPATH', '')]), STORED_WAVE=str(SHARED/'axes_test_0.1A.npz'), ATOMS='\n'.join(lines)).items(): monkeypatch.setenv(k, v)
    monkeypatch.delenv('PRISMATIC_PYTHON', raising=False)
    args = dict(pixel=.1, projection='finite', plane=8.)
    theirs, ours = exit_wave(a, engine='prismatic', **args), exit_wave(a, band=.5, aperture='square', **args)
    assert 'a stored wave' in theirs.messages and json.loads(theirs.record)['wave']['engine'] == 'prismatic'
    assert theirs.full.shape == ours.full.shape and theirs.full.dtype == np.complex64
    assert wave_error(ours.full[0], theirs.full[0]) < .03

PRISMATIC = prismatic_status()

@pytest.mark.skipif(not PRISMATIC['hrtem'], reason=f'no Prismatic 2 here ({PRISMATIC}); PRISMATIC_PYTHON may name a Python that has it')
def test_prismatic_2_itself():
    "Both waves and each phonon by the real program, beside ours at its slices and band; what is left is its gridding of atoms"
    a, c = cluster(), ase.Atoms('C20', positions=np.random.default_rng(0).uniform([0, 0, 10], [12.8, 12.8, 14], (20, 3)))
    s = a + c
    s.set_cell((12.8, 12.8, 16.))
    s.pbc = True
    s.arrays['particle_id'] = np.r_[np.zeros(len(a)), np.full(20, -1)].astype(np.int16)
    args = dict(pixel=.1, projection='finite', phonons=2, seed=3)
    theirs, ours = exit_wave(s, engine='prismatic', **args), exit_wave(s, band=.5, aperture='square', **args)
    for name in ('full', 'particle'):
        for k in range(2):
            assert wave_error(ours[name][k], theirs[name][k]) < .08 < .2 < wave_error(ours[name][1 - k], theirs[name][k])

def test_accuracy_is_measured_as_it_is_told():
    "`choose_accuracy` for a small cluster: what it chooses meets the error, and its table agrees with the waves themselves"
    a = cluster(cell=(12.8, 12.8, 14.))
    settings, table = choose_accuracy(a, error=.03, phonon_error=.1, rms=.08)
    fine = exit_wave(a, pixel=.05, slice_thickness=1.).full
    assert wave_error(exit_wave(a, pixel=settings['pixel'], slice_thickness=settings['slice_thickness']).full, fine) <= .03
    assert abs(wave_error(exit_wave(a).full, fine) - table.wave_error['default']) < 1e-6
    assert settings['phonons'] % 2 == 0 and settings['rms'] == .08 and np.allclose(table.shot, np.hypot(*table[['grid_shot', 'phonon_shot']].values.T.astype(float)))
    with pytest.raises(ValueError, match='error=0.001: the finest settings tried reach'): choose_accuracy(a, error=.001)

def test_particles_from_their_box_are_those_of_the_whole_cell():
    "Also across the cell's edges, with phonons, and in a cell that is not square; refused where a box cannot do it"
    a = ase.Atoms(cluster(cell=(25.6, 38.4, 14.)))
    a.positions -= [12.8, 12.8, 0]
    a.wrap()
    b = ase.Atoms(cluster(cell=(25.6, 38.4, 14.)))
    b.positions += [2, -5, 0]
    for scene in (a, b):
        whole, box = exit_wave(scene, phonons=2, rms=.08, seed=3).particle, particle_wave(scene, phonons=2, rms=.08, seed=3)
        assert box.dims == whole.dims and box.sizes == whole.sizes and wave_error(box[0], whole[0]) < .02 < wave_error(box[0], whole[1])
    with pytest.raises(ValueError, match=r'beam_tilt=\(0, 1\)'): particle_wave(a, beam_tilt=(0, 1))
    with pytest.raises(ValueError, match='no particles'):
        a.arrays['particle_id'] = np.full(len(a), -1)
        particle_wave(a)

def test_a_box_as_large_as_a_cell_without_neighbours_is_the_cell():
    a = ase.Atoms(cluster(cell=(12.8, 12.8, 14.), pbc=False))
    assert wave_error(particle_wave(a, pixel=.1)[0], exit_wave(a, pixel=.1).particle[0]) < 1e-6

PEAK = """
import ase, torch
from ase.cluster import Octahedron
from pathlib import Path
from hrtem_seg.waves.multislice import exit_wave
torch.set_num_threads(1)
a = Octahedron('Au', 7); a.rotate(37, (1, 2, .5)); a.set_cell((51.2, 51.2, 40.)); a.center(); a.pbc = True
def peak(): return int(Path('/proc/self/status').read_text().split('VmHWM:')[1].split()[0])*1024
exit_wave(a, pixel=.4, q_max=.8, projection='finite'); before = peak(); exit_wave(a, pixel=.05, projection='finite'); print(peak() - before)
"""

@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='the peak of a process is read from /proc')
def test_the_memory_of_finite_potentials_is_foreseen():
    "To a fifth below and a factor of three above: it does not know how the atoms lie along the beam"
    taken = int(subprocess.run([sys.executable, '-c', PEAK], check=True, capture_output=True, text=True).stdout)
    assert .8*taken < memory_needed((1024, 1024), finite=2.) < 3*taken

def test_both_fourier_transforms_give_the_same_wave(monkeypatch):
    pytest.importorskip('ducc0')
    waves = []
    for here in (True, False):
        monkeypatch.setattr('hrtem_seg.core.fourier.HAS_DUCC', here)
        waves.append(exit_wave(cluster(), pixel=.2))
    assert (waves[0].full != waves[1].full).any()   # so two libraries did it
    assert abs(waves[0].full - waves[1].full).max() < 1e-5
    assert wave_error(waves[0].full[0], waves[1].full[0]) < 1e-5

def test_a_wave_out_of_its_dataset_knows_what_it_is():
    "Energy, pixel, band, plane and tilts: without the tilt, the slope of phase would be taken for particle everywhere"
    a = cluster(6, cell=(25.6, 25.6, 26.))
    level, tilted = exit_wave(a), exit_wave(a, beam_tilt=(.3, -.5), specimen_tilt=(0., 1.))
    used = json.loads(tilted.record)['wave']
    for name in ('full', 'particle'):
        attrs = tilted[name].attrs
        assert attrs['energy'] == 300e3 and attrs['pixel'] == .2 and attrs['plane_z'] == tilted.plane_z
        assert attrs['q_max'] == pytest.approx(2/3/.4) and attrs['beam_tilt'] == used['beam_tilt'] and attrs['specimen_tilt'] == [0., 1.]
    assert particle_wave(a).attrs == level.particle.attrs
    a, b = phase_mask(tilted.particle), phase_mask(level.particle)
    assert (a & b).sum()/(a | b).sum() > .8 and a.mean() < .5
    assert phase_mask(tilted.particle.drop_attrs()).mean() > .8

def test_a_wave_kept_at_the_pixel_that_its_band_needs_loses_nothing():
    w = exit_wave(cluster(), pixel=.1)
    for name in ('full', 'particle'):
        kept = resample(w[name], wave_pixel(w[name]))
        assert kept.attrs['pixel'] > .14 and kept.attrs['q_max'] == w[name].attrs['q_max']
        assert abs(resample(kept, .1) - w[name]).max() < 1e-5
    both = resample(exit_waves([cluster(), cluster()]), .25)
    assert both.full.sizes['x'] == 54 and both.particle.attrs['q_max'] == pytest.approx(5/3) and 'record' in both

def test_a_grid_that_cannot_hold_a_tilted_beam_is_refused():
    w = exit_wave(cluster(), beam_tilt=(0., 1.))
    with pytest.raises(ValueError, match=r'pixel=0.71.* tilted by .*expected less than 0.58'): resample(w.full, .75)

@pytest.mark.parametrize('pixel, largest', [(.2, 1.88), (.32, 1.18)])
def test_a_beam_tilted_beyond_the_band_is_refused_with_the_largest_tilt(pixel, largest):
    "It gave an empty wave"
    a = cluster(cell=(25.6, 25.6, 12.))
    with pytest.raises(ValueError, match=rf'beam_tilt=.*hold tilts below {largest:.2f} degrees'): exit_wave(a, pixel=pixel, beam_tilt=(0., largest + .1))
    with pytest.warns(UserWarning, match=r'the band ends before q_max=1/Å'):
        assert exit_wave(a, pixel=pixel, beam_tilt=(0., largest - .1)).full.kept > .9

def test_an_aliased_beam_is_refused():
    with pytest.raises(ValueError, match='hold tilts below 0.59 degrees'): exit_wave(cluster(cell=(25.6, 25.6, 12.)), pixel=.64, q_max=.5, beam_tilt=(1., 0.))

def test_electrons_that_leave_the_band_are_counted_and_said():
    "Twenty nanometres of gold along [100]"
    a = bulk('Au', cubic=True)*(3, 3, 49)
    a.cell[2, 2] += 2
    a.positions += .01
    with pytest.warns(UserWarning, match=r'% of the electrons have left the band of 1.7'):
        w = exit_wave(a, pixel=.2)
    assert .6 < w.full.kept < .8 and w.full.kept == pytest.approx(float((abs(w.full)**2).mean()), abs=1e-4)
    assert json.loads(w.record)['kept']['full'] == w.full.kept
    thin = exit_wave(cluster())
    assert thin.full.kept > .99 and resample(thin, wave_pixel(thin)).full.kept == thin.full.kept

def aligned(axis, degrees=0., symbol='Au', radius=8.):
    a = bulk(symbol, cubic=True)*(6, 6, 6)
    a.rotate(axis, 'z')
    a.rotate(degrees, (1, .3, 0))
    a.positions -= a.positions.mean(0)
    a = a[(a.positions**2).sum(1) < radius**2]
    a.set_cell([25.6, 25.6, 20])
    a.positions += [12.8, 12.8, 10]
    return a

@pytest.mark.parametrize('axis, degrees, symbol, pixel, warned', [
    ((1, 1, 0), 0, 'Au', .2, True), ((1, 0, 0), 1.5, 'Au', .25, True), ((1, 1, 0), 0, 'Ag', .2, True), ((1, 1, 0), 0, 'Au', .1, False),
    ((1, 1, 0), 4, 'Au', .2, False), ((3, 5, 11), 0, 'Au', .2, False), ((1, 1, 0), 0, 'Al', .2, False)])
def test_heavy_columns_along_the_beam_on_a_coarse_grid_are_warned_of(axis, degrees, symbol, pixel, warned):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        exit_wave(aligned(axis, degrees, symbol), pixel=pixel)
    assert any('heavy columns' in str(w.message) for w in said) == warned

def test_one_aligned_particle_among_others_is_named():
    a, b = aligned((3, 5, 11)), aligned((1, 1, 0))
    b.positions[:, 0] += 25.6
    both = a + b
    both.set_cell([51.2, 25.6, 20])
    both.set_array('particle_id', np.repeat([0, 1], [len(a), len(b)]))
    assert near_axis(both) == [1]

def test_rounding_below_the_cell_is_no_reason_to_refuse():
    a = bulk('Au', cubic=True)*(3, 3, 3)
    whole = exit_wave(a, pixel=.2)
    a.positions[a.positions[:, 2] < 1e-6, 2] = -1e-7
    assert abs(exit_wave(a, pixel=.2, plane=whole.plane_z).full - whole.full).max() < 1e-5
    a.positions[0, 2] = -.02
    with pytest.raises(ValueError, match=r'z=-0.020 to .*a cell of 12.260 Å with the atoms moved by 0.020 Å'): exit_wave(a)

@pytest.mark.parametrize('crystal', [fcc111('Ag', (2, 2, 3), vacuum=5., orthogonal=True), surface(bulk('Au', cubic=True), (1, 1, 0), 3, vacuum=4.)*(2, 2, 1)], ids=['Ag [111]', 'Au [110]'])
def test_a_crystal_that_fits_no_square_pixel_is_repeated_and_strained_little(crystal):
    cell = np.diag(crystal.cell)[:2]
    with pytest.raises(ValueError, match=r'A crystal that fills the cell would be torn.*repeated \d+ × \d+ times and strained by [+-]0.\d\d %'): grid(cell, .2)
    fitted = fit_cell(crystal)
    ratio = np.diag(fitted.cell)[:2]/cell
    shape, pixel = grid(np.diag(fitted.cell)[:2], .2)
    assert pixel <= .2 and abs(ratio - np.rint(ratio)).max() < .005*ratio.max() and len(fitted) == len(crystal)*np.prod(np.rint(ratio))
    assert abs(fitted.info['strain_y']) <= .005 and fitted.get_all_distances(mic=True)[0, 1:].min() > .99*crystal.get_all_distances(mic=True)[0, 1:].min()
    exit_wave(fitted, pixel=.25)

@pytest.mark.parametrize('ny, nx', [(65, 64), (63, 81), (64, 65)])
def test_waves_of_odd_sizes(ny, nx):
    "They are resampled as even ones: onto a finer grid and back nothing changes"
    rng = np.random.default_rng(0)
    f = np.zeros((ny, nx), complex)
    few = [(j, i) for j in range(-9, 10) for i in range(-9, 10)]
    for j, i in few: f[j, i] = rng.normal() + 1j*rng.normal()
    w = xr.DataArray(np.fft.ifft2(f), dims=('y', 'x'), coords={'y': np.arange(ny)*.3, 'x': np.arange(nx)*.3})
    try: fine = resample(w, .2)
    except ValueError as e:
        assert 'no square pixel' in str(e)
        return
    g = np.fft.fft2(fine.values)*np.prod(w.shape)/np.prod(fine.shape)
    assert max(abs(g[j, i] - f[j, i]) for j, i in few) < 1e-9
    assert abs(g).sum() == pytest.approx(abs(f).sum())

@pytest.mark.parametrize('wrong, message', [
    (lambda: exit_wave('scene.xyz'), "scene='scene.xyz' is of type str: expected ASE Atoms"), (lambda: exit_wave(None), 'expected ASE Atoms'),
    (lambda: exit_wave([cluster()]), 'of type list: expected ASE Atoms'), (lambda: exit_waves(cluster()), '`exit_wave` takes one'), (lambda: exit_waves([]), 'no scenes'),
    (lambda: exit_wave(cluster(), pixel='0.2'), "pixel='0.2': expected a number"), (lambda: exit_wave(cluster(), pixel=None), 'pixel=None: expected a number'),
    (lambda: exit_wave(cluster(), beam_tilt=.5), r'beam_tilt=0.5: expected \(y, x\) in degrees'), (lambda: exit_wave(cluster(), beam_tilt='ab'), 'beam_tilt='),
    (lambda: exit_wave(cluster(), rms='tables'), "rms='tables': expected one of 'table'"), (lambda: exit_wave(cluster(), rms=[.1]), r'rms=\[0.1\]'),
    (lambda: exit_wave(cluster(), slices=3), 'slices=3: exit waves have no such setting; expected one of pixel'), (lambda: exit_wave(cluster(), plane=[3]), r'plane=\[3\]'),
    (lambda: exit_wave(cluster(), absorption='inelastic'), "absorption='inelastic'"), (lambda: exit_wave(cluster(), absorption='thermal'), 'expected a Debye–Waller potential'),
    (lambda: exit_wave(cluster(), acceptance=1.), "expected absorption='thermal'"), (lambda: exit_wave(cluster(), pairs='no'), "pairs='no'"),
    (lambda: resample(None, .2), 'of type NoneType: expected what `exit_wave` gives'), (lambda: resample(np.ones((8, 8)), .2), 'of type ndarray'),
    (lambda: wave_error(exit_wave(cluster()), exit_wave(cluster())), 'of type Dataset: expected'), (lambda: wave_pixel(xr.DataArray(np.ones((4, 4)))), 'q_max')])
def test_wrong_kinds_of_argument_are_named(wrong, message):
    with pytest.raises((TypeError, ValueError), match=message): wrong()

def test_the_former_name_of_the_parametrization_still_works():
    a, b = (exit_wave(cluster(), **{k: 'lobato'}) for k in ('table', 'parametrization'))
    assert (a.full == b.full).all() and (a.full != exit_wave(cluster()).full).any()

def test_displacements_from_the_table():
    "Per element, apart for particles and what is around them, into the record; diamond 0.042 to 0.044, gold 0.09"
    assert thermal_displacements('C')['C'] == pytest.approx(.043, abs=.0015) and thermal_displacements('Au')['Au'] == pytest.approx(.0898, abs=.0005)
    assert thermal_displacements('GaAs')['Ga'] != thermal_displacements('Ga')['Ga']
    a = cluster() + ase.Atoms('C3', positions=[[1, 1, 10.9], [5, 5, 11.], [9, 9, 11.]])
    a.set_cell((12.8, 12.8, 12.))
    a.pbc = True
    a.set_array('particle_id', np.repeat([0, -1], [len(a) - 3, 3]))
    w = exit_wave(a, rms='table')
    used = json.loads(w.record)['wave']['rms']
    assert used == thermal_displacements(a) and set(used) == {'Au', 'C'}
    assert (exit_wave(a, rms=used).full == w.full).all()
    moved = exit_wave(a, rms='table', phonons=2, seed=1)
    assert (moved.full == exit_wave(a, rms=used, phonons=2, seed=1).full).all()
    lead = ase.Atoms('PbS', positions=[[1, 1, 1], [3, 3, 3]], cell=(12.8, 12.8, 6), pbc=True)
    with pytest.raises(ValueError, match='no displacement is known for Pb beside S'): exit_wave(lead, rms='table')

def test_debye_s_model_against_its_limits():
    "3ħ²T/(mkΘ²) when hot, 3ħ²/(4mkΘ) when cold"
    assert debye_rms(100., 50., 2000.)**2 == pytest.approx(145.526*2000/(50*100**2), rel=1e-3)
    assert debye_rms(1000., 50., 2.)**2 == pytest.approx(145.526/(4*50*1000), rel=1e-3)

def test_absorption_of_a_weak_scatterer_is_that_of_bird_and_king():
    "Born's amplitude, integrated on a plain grid"
    u, n, step = .1, 801, .03
    k = (np.arange(n) - n//2)*step
    ky, kx = np.meshgrid(k, k, indexing='ij')
    for q in (0., .7):
        f = scattering_factor(np.hypot(ky, kx + q/2), 6)*scattering_factor(np.hypot(ky, kx - q/2), 6)
        plain = (f*(1 - np.exp(-4*(np.pi*u)**2*(kx**2 + ky**2 - q*q/4)))).sum()*step**2
        plain *= interaction(300e3)*POTENTIAL/2*np.exp(-2*(np.pi*u*q)**2)
        assert float(absorptive_factor(q, 6, u)) == pytest.approx(plain, rel=.03)

def test_absorption_takes_electrons_only_where_it_is_asked_for():
    a = cluster()
    plain, thermal, share = (exit_wave(a, rms=.09, **kw) for kw in ({}, dict(absorption='thermal', acceptance=0.), dict(absorption=.1)))
    assert plain.full.kept > thermal.full.kept > share.full.kept > .9
    assert 'absorption' not in json.loads(plain.record)['wave'] and json.loads(thermal.record)['wave']['acceptance'] == 0.
    lost = [1 - exit_wave(a, rms=.09, absorption='thermal', acceptance=q).full.kept for q in (0., 1., 1.6)]
    assert lost[0] > lost[1] > lost[2] > 1 - plain.full.kept
    batched = exit_waves([a, a[::-1]], rms=.09, absorption='thermal', acceptance=0., batch=2)
    assert abs(batched.full[0] - thermal.full).max() < 1e-5

FORKED = """
import multiprocessing as mp, numpy as np, ase, torch
from hrtem_seg.waves.multislice import exit_wave
torch.set_num_threads(2)
def job(seed):
    a = ase.Atoms('Au20', positions=np.random.default_rng(seed).random((20, 3))*[12.8, 12.8, 8], cell=(12.8, 12.8, 8), pbc=True)
    return float(abs(exit_wave(a, pixel=.1).full).mean())
if __name__ == '__main__':
    first = job(0)
    with mp.get_context('fork').Pool(2) as pool: print(pool.map_async(job, [0, 1]).get(timeout=60)[0] == first)
"""

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='this system does not fork')
def test_processes_forked_after_a_wave_do_not_hang(tmp_path):
    (tmp_path/'forked.py').write_text(FORKED)
    env = {k: v for k, v in os.environ.items() if k != 'OMP_NUM_THREADS'}
    done = subprocess.run([sys.executable, tmp_path/'forked.py'], capture_output=True, text=True, timeout=120, env=env)
    assert done.stdout.strip().endswith('True'), done.stderr[-1000:]

def test_thicker_slices_of_the_substrate_are_refused_where_they_would_not_be_used(monkeypatch):
    "Finite projections and Prismatic have slices of one thickness: a record that names another would be wrong"
    monkeypatch.setattr('hrtem_seg.waves.multislice.prismatic_status', lambda: dict(installed='1.2.0', hrtem=True, error=None))
    a = ase.Atoms('AuC2', positions=[[2, 2, 1], [3, 5, 4], [1, 4, 5]], cell=(6.4, 6.4, 6), pbc=True)
    for other in (dict(projection='finite'), dict(engine='prismatic')):
        with pytest.raises(ValueError, match='substrate_thickness=6.0 with projection=.*slice_thickness=2.0'): exit_wave(a, substrate_thickness=6., **other)
    plain, same = (exit_wave(a, projection='finite', substrate_thickness=t) for t in (None, 2.))   # the same thickness is no other
    assert (plain.full.values == same.full.values).all()

numbers = st.one_of(st.floats(allow_nan=True, allow_infinity=True), st.integers(-3, 10**6), st.none(), st.booleans(), st.text(max_size=3))
def mostly(good, other=numbers): return st.integers(0, 19).flatmap(lambda k: good if k else other)
def sensible(lo, hi): return mostly(st.floats(lo, hi))
def one_of(*names): return mostly(st.sampled_from(names), st.text(max_size=8))
SETTINGS = dict(
    pixel=sensible(.15, .3), slice_thickness=sensible(.5, 4), substrate_thickness=mostly(st.one_of(st.none(), st.floats(4, 20))), energy=sensible(6e4, 3e5), phonons=mostly(st.integers(0, 2)),
    rms=mostly(st.one_of(st.just('table'), st.floats(0, .2), st.fixed_dictionaries(dict(Au=st.floats(0, .2)), optional=dict(C=st.floats(0, .2))))), pairs=mostly(st.booleans()),
    projection=one_of('infinite', 'infinite', 'finite'), plane=mostly(st.one_of(st.sampled_from(['particle', 'exit']), st.floats(-10, 20))),
    beam_tilt=mostly(st.tuples(sensible(-1, 1), sensible(-1, 1))), specimen_tilt=mostly(st.tuples(sensible(-3, 3), sensible(-3, 3))),
    band=sensible(.6, 1), aperture=one_of('circle', 'square'), q_max=sensible(0, 1), precision=one_of('single', 'double'),
    absorption=mostly(st.one_of(st.just('thermal'), st.floats(0, .3))), parametrization=one_of('kirkland', 'kirkland', 'lobato'))

@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.fixed_dictionaries({}, optional=SETTINGS))
def test_any_settings_give_a_wave_or_an_error_that_names_them(asked):
    "A wave is finite, on a pixel no larger than asked for, knows its band and holds no more electrons than came in"
    a = ase.Atoms('AuC2', positions=[[2, 2, 1], [3, 5, 4], [1, 4, 5]], cell=(6.4, 6.4, 6), pbc=True)
    a.set_array('particle_id', np.array([0, -1, -1]))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        try: w = exit_wave(a, **asked)
        except (ValueError, TypeError) as e:
            names = [*asked, 'tilt', 'rms of', 'pixel', 'grid of', 'acceptance']
            assert any(n in str(e) for n in names), e
            return
        except MemoryError as e:
            assert 'GiB are free' in str(e)
            return
    assert np.isfinite(w.full).all() and np.isfinite(w.particle).all()
    assert w.pixel <= asked.get('pixel', .2)*(1 + 1e-6) and w.full.q_max >= asked.get('q_max', 1.)*(1 - 1e-6)
    assert 0 < w.full.kept < 1.01 and json.loads(w.record)['wave']['pixel'] == w.pixel
    assert w.full.sizes['phonon'] == max(1, asked.get('phonons', 0))
