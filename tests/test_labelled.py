"Published preprocessing: equal to the published code in result, without its slips"
import importlib.util
import numpy as np, pytest
from PIL import Image
import tifffile
from hrtem_seg.data.published import read_metadata
from hrtem_seg.data.stacks import select
from hrtem_seg.experiments.conditions import _resized
from hrtem_seg.learning.samples import Samples
from hrtem_seg.learning.transfer import fold_sides, folds
from hrtem_seg.micrographs.cleaning import remove_xrays
from hrtem_seg.micrographs.labelled import Recipe, patches, prepared, read_images, read_pair

SMALL = Recipe(side=32, least=20)
HEAD = ('File name,Date,Material,Nanoparticle Size (nm),Nanoparticle Shape,Support,Instrument,Dosage (e/A2),'
        'Pixel Scale (nm),Folder\n')

def field(seed, shape=(100, 96)):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:shape[0], :shape[1]]
    mask = np.hypot(y - 45, x - 45) < 30
    return rng.poisson(300*(1 + .3*y/shape[0])*(1 - .3*mask)).astype('f4'), mask

def test_patches_are_row_by_row_and_hold_the_label_to_the_pixel():
    image, mask = field(0)
    cut = patches(image, mask, SMALL)
    assert all((m == mask[y:y + 32, x:x + 32]).all() and (a == image[y:y + 32, x:x + 32]).all() for y, x, a, m in cut)
    places = [(y, x) for y, x, *_ in cut]
    assert places == sorted(places) and all(m.sum() > 20 for *_, m in cut)
    assert {m.dtype for *_, m in cut} == {np.dtype(bool)}, 'a label that is interpolated has other values than 0 and 1'

def test_the_whole_image_is_standardised_before_it_is_cut():
    image, mask = field(0)
    whole = prepared(image, SMALL)
    assert abs(whole.mean()) < 1e-4 and abs(whole.std() - 1) < 1e-4
    assert np.std([a.mean() for *_, a, m in patches(whole, mask, SMALL)]) > .05, 'patches keep what sets them apart'

def test_counts_below_zero_and_xrays_go_before_the_light_is_fitted():
    image, _ = field(0)
    image[3, 3] = 50_000
    image[10, 10] = -40
    assert abs(prepared(image, SMALL)[3, 3]) < 5

@pytest.fixture
def published(tmp_path):
    "A small set laid out like the raw one"
    rows = []
    for session, dose in (('day 1/UTC', 80), ('day 2', 884)):
        (tmp_path/session/'Labels').mkdir(parents=True)
        for i in range(3):
            image, mask = field(i + dose)
            tifffile.imwrite(tmp_path/session/f'Au_{i}.tif', image.astype('u2'))
            Image.fromarray((mask*255).astype('u1')).save(tmp_path/session/'Labels'/f'Au_{i}_label.png')
            rows.append(f'Au_{i}.tif,08/26/21,Au,5,Sphere,UT Carbon,Team05,{dose},0.02,{session}\n')
    (tmp_path/'table.csv').write_text(HEAD + ''.join(rows))
    return tmp_path

def test_no_fold_divides_an_image_of_the_same_name_in_two_folders(published):
    stack = read_images(read_metadata(published/'table.csv'), published, SMALL)
    assert len(set(stack.structure.values)) == 6
    fold = folds(stack.structure.values, 5)
    for name in set(stack.structure.values): assert len(set(fold[stack.structure.values == name])) == 1
    assert set(select(stack, dose=80.).session.values) == {'day 1/UTC'}

def test_images_of_two_pixels_are_no_stack(published):
    table = read_metadata(published/'table.csv')
    table.loc[0, 'pixel'] = .4
    with pytest.raises(ValueError, match='2 pixel sizes'): read_images(table, published, SMALL)

def test_a_pair_that_is_none_is_refused_by_name(tmp_path):
    h5py = pytest.importorskip('h5py')
    def write(name, key, values):
        with h5py.File(tmp_path/name, 'w') as f: f[key] = values
        return tmp_path/name
    images = write('a_Images.h5', 'images', np.random.default_rng(0).normal(size=(6, 16, 16)))
    labels = write('a_Labels.h5', 'labels', np.ones((6, 16, 16), 'f4'))
    two = write('b.h5', 'maps', np.stack([np.zeros((6, 16, 16)), np.ones((6, 16, 16))], -1))
    assert (read_pair(images, labels, .2).mask == 1).all() and (read_pair(images, two, .2).mask == 1).all()
    half = write('c.h5', 'labels', np.full((6, 16, 16), .5))
    with pytest.raises(ValueError, match='holds 0.5'): read_pair(images, half, .2)
    short = write('d.h5', 'labels', np.ones((5, 16, 16)))
    with pytest.raises(ValueError, match='expected the same'): read_pair(images, short, .2)
    with pytest.raises(FileNotFoundError, match='e.h5'): read_pair(tmp_path/'e.h5', labels, .2)

@pytest.fixture(scope='module')
def plain(project):
    "The published recipe written out step by step"
    spec = importlib.util.spec_from_file_location('plain_preprocessing', project/'nbs/speed/preprocessing.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

def dirty(seed, shape):
    "A camera image with X-rays inside, side by side and at the border, and a count below zero"
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:shape[0], :shape[1]]
    mask = np.hypot(y - 90, x - 120) < 45
    counts = rng.poisson(900*(1 + .4*x/shape[1] - .2*(y/shape[0])**2)*(1 - .25*mask)).astype('f4')
    for k, (a, b) in enumerate(zip(rng.integers(0, shape[0], 40), rng.integers(0, shape[1], 40))):
        counts[a, b] += 2000 + 150*k
        if k % 3 == 0: counts[a, (b + 1) % shape[1]] += 4000
    counts[0, 5], counts[7, 0], counts[3, 3] = 20_000, 9000, -50
    return counts, mask

@pytest.mark.parametrize('seed, shape', [(0, (512, 512)), (1, (384, 512))])
def test_preprocessing_is_that_of_the_plain_loops(plain, seed, shape):
    counts, mask = dirty(seed, shape)
    assert np.abs(plain.without_xrays(counts, 1500.) - remove_xrays(np.maximum(counts, 0), 1500.)).max() < 1e-2, 'X-rays alone, in counts'
    expected, found = plain.prepared(counts, 1500.), prepared(counts, Recipe())
    assert np.abs(expected - found).max() < 5e-3, 'of a standard deviation'
    recipe = Recipe(side=64, least=100)
    theirs, ours = plain.patches(expected, mask, 64, 100), patches(found, mask, recipe)
    assert 0 < len(theirs) == len(ours) < 64
    for (image, label), (_, _, own, drawn) in zip(theirs, ours): assert (label == drawn).all() and np.abs(image - own).max() < 5e-3

def test_a_label_that_is_turned_keeps_its_area_and_its_two_values():
    "The published code interpolates labels and cuts what is left to whole numbers, which takes their rim away"
    from scipy import ndimage
    y, x = np.mgrid[:96, :96]
    mask = (np.hypot(y - 48, x - 48) < 12)
    stack = read_stack(np.where(mask, 1., 2.)[None], mask[None])
    _, turned = Samples(stack, {'rotate': 1.}).batch([0]*8, np.random.default_rng(0))
    assert set(np.unique(turned)) == {0, 1} and all(abs(int(t.sum())/mask.sum() - 1) < .03 for t in turned)
    eroded = ndimage.rotate(mask.astype('f4'), 30., reshape=False, order=1).astype(int)
    assert eroded.sum() < .93*mask.sum()

def read_stack(images, masks):
    import xarray as xr
    dims = ('sample', 'y', 'x')
    return xr.Dataset({'image': (dims, images), 'mask': (dims, masks.astype('u1'))})

def test_a_label_on_another_pixel_is_inside_where_it_covers_more_than_half():
    y, x = np.mgrid[:120, :120]
    mask = np.hypot(y - 60, x - 60) < 30
    for n in (60, 90, 200):
        smaller = _resized(mask, (n, n))
        assert set(np.unique(smaller)) == {0, 1} and abs(smaller.mean()/mask.mean() - 1) < .02

def test_a_fifth_of_the_patches_in_their_order_divides_images_and_our_folds_do_not():
    images = np.repeat([f'image {i}' for i in range(14)], 31)   # 430 patches and four more
    theirs = np.zeros(len(images), int)
    for i, part in enumerate(np.array_split(np.arange(len(images)), 5)): theirs[part] = i
    assert any(len(set(theirs[images == name])) > 1 for name in set(images))
    for side in fold_sides(images, 5):
        assert all(len(set(side[images == name])) == 1 for name in set(images)) and {'train', 'valid', 'test'} == set(side)

def test_what_is_left_must_be_two_images_at_least():
    with pytest.raises(ValueError, match='expected at least 2'): fold_sides(['a', 'a', 'b'], 2)
