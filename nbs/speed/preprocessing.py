"""The published preprocessing written out plainly, step by step: what ours is held against

The recipe is that of arXiv 2306.11853: X-rays, flat field, standardisation, patches. Nothing here is meant to be fast.
"""
import math
import numpy as np
from skimage.transform import rescale


def without_xrays(image, threshold):
    "Pixels far above the median become the mean of their eight neighbours, the brightest first, twice"
    image = np.array(image, dtype=np.float64)
    image[image < 0] = 0
    ny, nx = image.shape
    for _ in range(2):
        limit = np.median(image) + threshold
        found = []
        for y, x in np.argwhere(image > limit):
            found.append((image[y, x], y, x))
        for _, y, x in sorted(found, key=lambda one: -one[0]):
            at_border = y in (0, ny - 1) or x in (0, nx - 1)
            if at_border:
                image[y, x] = image.mean()
                continue
            total = 0.
            for down in (-1, 0, 1):
                for across in (-1, 0, 1):
                    if down or across:
                        total += image[y + down, x + across]
            image[y, x] = total/8
    return image


def basis(shape, order):
    "Products of Bernstein polynomials, (ny, nx, (order + 1)²)"
    v, u = np.meshgrid(np.linspace(0, 1, shape[1]), np.linspace(0, 1, shape[0]))
    products = np.zeros((*shape, (order + 1)**2))
    for i in range(order + 1):
        for j in range(order + 1):
            down = math.comb(order, i)*u**i*(1 - u)**(order - i)
            across = math.comb(order, j)*v**j*(1 - v)**(order - j)
            products[:, :, j + i*(order + 1)] = down*across
    return products


def flat(image, order=2, scale=.25):
    "The image divided by a Bézier surface, fitted to a smaller one, then once more with less weight on what is far off"
    whole = basis(image.shape, order)
    n = whole.shape[-1]
    seen = rescale(image, scale).reshape(-1, 1)
    few = rescale(whole, scale, channel_axis=2).reshape(-1, n)
    weight = np.ones((len(few), 1))
    for _ in range(2):
        found = np.linalg.lstsq(weight*few, weight*seen, rcond=None)[0]
        error = (seen - few@found)**2
        weight = np.exp(-3*error/(2*error.mean()))
    light = (whole.reshape(-1, n)@found).reshape(image.shape)
    return image/light


def prepared(image, threshold):
    "An image ready to be cut"
    even = flat(without_xrays(image, threshold))
    return (even - even.mean())/even.std()


def patches(image, mask, side, least):
    "Pairs of patches with more particle pixels than `least`, row by row"
    kept = []
    for i in range(image.shape[0]//side):
        for j in range(image.shape[1]//side):
            rows = slice(i*side, (i + 1)*side)
            columns = slice(j*side, (j + 1)*side)
            drawn = mask[rows, columns]
            if drawn.sum() > least:
                kept.append((image[rows, columns], drawn))
    return kept
