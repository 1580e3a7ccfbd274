"""One way to segment one image, for the benchmark of segmentation: each run in a process of its own

usage: segmentation.py WAY IMAGE.npz

Prints one line of JSON: CPU seconds, seconds by the clock, the memory (MB) beyond the imports, Dice with the truth, and how
many particles were found.
"""
import json, sys, time, warnings
from pathlib import Path
import numpy as np, torch
from scipy import ndimage as ndi
from skimage.feature import peak_local_max
from skimage.filters import gaussian, threshold_otsu
from skimage.segmentation import watershed
from hrtem_seg.learning.prediction import predict
from hrtem_seg.micrographs.cleaning import statistics
from hrtem_seg.micrographs.micrograph import micrograph
from hrtem_seg.segmentation.segmentation import as_loaded, segment, shipped_network

PIECE = 1024     # Pixels: what one pass of the plain contender takes
SMOOTH = 5.      # Å, standard deviation of the Gaussian before the threshold
APART = 10.      # Å, least distance between two maxima of the distance to the background


def peak(): # MB
    "Most memory that this process has had"
    _, rest = Path('/proc/self/status').read_text().split('VmHWM:')
    return int(rest.split()[0])/1024


def one_pass(counts, pixel):
    "The network over pieces side by side, with no rim, and a threshold: nothing that a user would need beside it"
    network, *_ = as_loaded(shipped_network())
    known = statistics(micrograph(counts, pixel=pixel))
    found = np.empty(counts.shape, bool)
    for y in range(0, len(counts), PIECE):
        for x in range(0, len(counts), PIECE):
            here = np.s_[y:y + PIECE, x:x + PIECE]
            found[here] = predict(network, counts[here], statistics=known) > .5
    return found, None


def ours(counts, pixel, **settings):
    "`segment` with what it does beside: cleaning, tiles with rims, particles split at necks"
    made = segment(micrograph(counts, pixel=pixel), **settings)
    return made['mask'].values, made['labels'].values


def otsu_watershed(counts, pixel):
    "Gaussian, Otsu's threshold and a watershed of the distance to the background, as is done without a network"
    smooth = gaussian(counts.astype(np.float32), SMOOTH/pixel)
    dark = smooth < threshold_otsu(smooth)
    distance = ndi.distance_transform_edt(dark)
    tops = peak_local_max(distance, min_distance=round(APART/pixel), labels=ndi.label(dark)[0])
    marks = np.zeros(dark.shape, int)
    marks[tuple(tops.T)] = np.arange(1, len(tops) + 1)
    return dark, watershed(-distance, marks, mask=dark)


WAYS = {'one pass': one_pass, 'ours': ours, 'watershed': otsu_watershed,
        'ours, not split': lambda *image: ours(*image, neck=0.),
        'ours, not cleaned': lambda *image: ours(*image, cleaning=False),
        'ours, flips': lambda *image: ours(*image, flips=True)}


def overlap(found, truth):
    "Dice"
    both = np.count_nonzero(found & truth)
    return 2*both/(np.count_nonzero(found) + np.count_nonzero(truth))


def main():
    way, file = sys.argv[1:]
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    image = np.load(file)
    counts = image['counts']
    truth = image['mask'] > 0
    pixel = float(image['pixel'])
    WAYS[way](counts[:256, :256], pixel)   # compiled and loaded
    before = peak()
    clock = time.perf_counter()
    cpu = time.process_time()
    found, labels = WAYS[way](counts, pixel)
    cpu = time.process_time() - cpu
    clock = time.perf_counter() - clock
    said = {'CPU s': cpu, 's': clock, 'MB': peak() - before, 'Dice': overlap(found, truth)}
    if labels is not None: said['particles'] = int(labels.max())
    print(json.dumps(said))


if __name__ == '__main__': main()
