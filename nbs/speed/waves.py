"""One program's exit waves of one scene, for the benchmark of waves: each run in a process of its own

usage: waves.py SCENE.pickle PROGRAM PIXEL SLICE CONFIGURATIONS CARBON_SLICE

Prints one line of JSON: CPU seconds, seconds by the clock, and the memory (GiB) of the libraries and at the peak.
PROGRAM is 'abTEM', or a way of ours: 'pair' (antithetic pairs, or a smeared potential without configurations),
'random' (configurations at random), or 'carbon' (as 'pair', with thicker slices where there is only carbon).
"""
import json, pickle, resource, sys, time
from dataclasses import dataclass
from pathlib import Path
import numpy as np, torch
from hrtem_seg.core.fourier import freqs
from hrtem_seg.core.units import wavelength
from hrtem_seg.waves.multislice import configurations, exit_wave
from hrtem_seg.waves.potentials import grid

ENERGY = 300e3   # eV
RMS = .1         # Å, thermal displacement per axis


def by_abtem(atoms, pixel, slice, plane):
    "The wave (y, x) of all atoms by abTEM in its best configuration here, at the plane (Å)"
    import abtem   # here, as ours does without it
    abtem.config.set({'local_diagnostics.progress_bar': False, 'diagnostics.progress_bar': False})
    a = atoms.copy()
    a.pbc = True
    a.cell[2, 2] = np.ceil(a.cell[2, 2]/slice)*slice
    shape, px = grid(np.diag(a.cell)[:2], pixel)
    potential = abtem.Potential(a, gpts=shape, slice_thickness=slice, projection='infinite', parametrization='kirkland')
    wave = abtem.PlaneWave(energy=ENERGY).multislice(potential, lazy=False)
    psi = np.asarray(wave.array).T
    # it propagates after each slice, so its wave belongs half a slice beyond the end of its cell
    dz = plane - a.cell[2, 2] - slice/2
    qy, qx = freqs(psi.shape, px)
    propagator = np.exp(-1j*np.pi*wavelength(ENERGY)*dz*(qy**2 + qx**2))
    return np.fft.ifft2(np.fft.fft2(psi)*propagator).astype('c8')


@dataclass
class Product:
    "Both waves of every configuration, as a study needs them"
    program:str
    pixel:float          # Å
    slice:float          # Å
    configurations:int   # Frozen-phonon configurations; 0: the Debye–Waller potential
    carbon_slice:float   # Å, where there is only carbon

    def make(self, scene):
        if self.program == 'abTEM': self.with_abtem(scene)
        else: self.with_ours(scene)

    def with_abtem(self, scene):
        particle = scene.arrays['particle_id'] >= 0
        for positions in configurations(scene, self.configurations, RMS, 0, False):
            moved = scene.copy()
            moved.positions = positions
            for atoms in (moved, moved[particle]): by_abtem(atoms, self.pixel, self.slice, 20.)

    def with_ours(self, scene):
        thick = self.carbon_slice if self.program == 'carbon' else None
        exit_wave(scene, pixel=self.pixel, slice_thickness=self.slice, substrate_thickness=thick,
                  phonons=self.configurations, rms=RMS, pairs=self.program != 'random')


def peak(): # GiB
    "Most memory that this process has had; on Linux ru_maxrss would count the process that started it"
    status = Path('/proc/self/status')
    if not status.exists(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**20
    _, rest = status.read_text().split('VmHWM:')
    return int(rest.split()[0])/2**20


def corner(scene, edge=20.):
    "A small part of a scene"
    part = scene[(scene.positions[:, :2] < edge).all(1)]
    part.set_cell([edge, edge, scene.cell[2, 2]])
    return part


def main():
    torch.set_num_threads(1)
    path, program, *numbers = sys.argv[1:]
    pixel, slice, n, carbon_slice = map(float, numbers)
    product = Product(program, pixel, slice, int(n), carbon_slice)
    scene = pickle.loads(Path(path).read_bytes())
    Product(program, .25, 2., 1, carbon_slice).make(corner(scene))   # to import and compile
    libraries = peak()
    cpu = time.process_time()
    wall = time.perf_counter()
    product.make(scene)
    took = dict(cpu=time.process_time() - cpu, wall=time.perf_counter() - wall)
    print(json.dumps(dict(took, libraries=libraries, peak=peak())))


if __name__ == '__main__': main()
