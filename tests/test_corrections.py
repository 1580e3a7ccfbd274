"Corrections: labels that fit or are refused by name, files that are whole or refused, masks of other programs"
import warnings
import numpy as np, pytest, tifffile
from PIL import Image
from hrtem_seg.micrographs.micrograph import micrograph
from hrtem_seg.segmentation.corrections import (as_labels, as_stack, correct, field_corners, read_correction,
                                                read_corrections, read_labels, what_changed, write_correction)
from hrtem_seg.segmentation.exports import write_rois

SHAPE = (90, 120)

def picture(seed=0, shape=SHAPE, **attrs):
    return micrograph(np.random.default_rng(seed).poisson(50, shape).astype('f4'), .6, **attrs)

def two(shape=SHAPE):
    a = np.zeros(shape, int)
    a[10:40, 10:40] = 1
    a[50:80, 60:110] = 2
    return a

@pytest.mark.parametrize('labels, why', [
    (two().T, 'turned by 90°'), (two()[:-1], 'the micrograph'), (two() + .5, 'hold 0.5'), (two() - 1, 'hold -1'),
    (np.full(SHAPE, np.nan), 'hold nan'), (two()*2**31, 'expected numbers up to'), (two().astype(str), 'of type'),
    (two()[None], 'shape')])
def test_labels_that_are_none_are_refused_by_name(labels, why):
    with pytest.raises(ValueError, match=why):
        correct(picture(), labels)

def test_only_one_image_is_corrected_at_a_time():
    movie = micrograph(np.random.default_rng(0).poisson(50, (3, 40, 40)).astype('f4'), .6)
    with pytest.raises(ValueError, match='take a frame'):
        correct(movie, np.zeros((40, 40), int))

def test_a_file_says_again_what_was_written(tmp_path):
    known = np.ones(SHAPE, bool)
    known[:5] = False
    image = picture(valid=known, source='a.tif', defocus=-30.)
    made = correct(image, two(), two() > 0, by='Ada', group='movie 3')
    read = read_correction(write_correction(tmp_path, made))
    assert read.key == made.key and read.structure == 'movie 3' and read.image.identical(made.image)
    assert (read.before == made.before).all() and read.after.dtype == np.int32

def test_values_that_are_no_counts_stay_to_the_bit(tmp_path):
    image = micrograph(np.random.default_rng(0).normal(0, 1, SHAPE).astype('f4'), .6)
    read = read_correction(write_correction(tmp_path/'a.nc', correct(image, two())))
    assert (read.image.values == image.values).all()

@pytest.mark.parametrize('spoil', ['cut', 'empty', 'other', 'edited'])
def test_a_file_that_is_not_whole_is_refused_by_name(tmp_path, spoil):
    import netCDF4
    file = write_correction(tmp_path/'a.nc', correct(picture(), two()))
    if spoil == 'cut': file.write_bytes(file.read_bytes()[:len(file.read_bytes())//2])
    if spoil == 'empty': file.write_bytes(b'')
    if spoil == 'other':
        with netCDF4.Dataset(file, 'w') as ds: ds.createDimension('y', 3)
    if spoil == 'edited':
        with netCDF4.Dataset(file, 'a') as ds: ds['after'][0, 0] = 7
    with pytest.raises(ValueError, match=r'a\.nc'):
        read_correction(file)

def test_the_newest_correction_of_a_picture_counts(tmp_path):
    old = correct(picture(), two(), when='2026-01-01T00:00:00+00:00')
    new = correct(picture(), two() > 1, when='2026-01-02T00:00:00+00:00', parent=old.key)
    other = correct(picture(1), two())
    for i, c in enumerate((new, old, other)): write_correction(tmp_path/f'{i}_correction.nc', c)
    assert {c.key for c in read_corrections(tmp_path)} == {new.key, other.key}

def test_splitting_and_merging_are_told_apart_from_drawing():
    one = np.zeros(SHAPE, int)
    one[20:60, 20:80] = 1
    parts = one.copy()
    parts[20:60, 50:80] = 2
    assert (what_changed(correct(picture(), parts, one)).split, what_changed(correct(picture(), one, parts)).merged) == (1, 1)
    nothing = what_changed(correct(picture(), one, one))
    assert nothing.pixels == 0 and nothing.dice == 1
    drawn = what_changed(correct(picture(), parts))
    assert (drawn.added, drawn.removed) == (2, 0)

def test_masks_of_other_programs(tmp_path):
    mask = two() > 0
    Image.fromarray((mask*255).astype('u1')).save(tmp_path/'a.png')
    Image.fromarray(mask.astype('u1')).save(tmp_path/'b.png')
    Image.fromarray(np.stack([mask*255]*3, -1).astype('u1')).save(tmp_path/'c.png')
    Image.fromarray(np.stack([mask*200, mask*10, mask*0, mask*255], -1).astype('u1')).save(tmp_path/'d.png')
    tifffile.imwrite(tmp_path/'e.tif', two().astype('u2'))
    for name in 'abcd': assert (as_labels(read_labels(tmp_path/f'{name}.png', SHAPE), SHAPE) > 0).sum() == mask.sum()
    assert (read_labels(tmp_path/'e.tif') == two()).all()

def test_a_soft_edge_is_cut_at_half_and_said(tmp_path):
    from scipy.ndimage import gaussian_filter
    Image.fromarray(gaussian_filter((two() > 0)*255., 1).round().astype('u1')).save(tmp_path/'soft.png')
    with pytest.warns(UserWarning, match='soft edge'):
        found = read_labels(tmp_path/'soft.png')
    assert ((found > 0) != (two() > 0)).mean() < .01

def test_a_picture_is_no_label_map(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (120, 120, 3)).astype('u1')
    Image.fromarray(noise).save(tmp_path/'p.png')
    with pytest.raises(ValueError, match='this is a picture'): read_labels(tmp_path/'p.png')
    (tmp_path/'text.png').write_text('hello')
    with pytest.raises(ValueError, match='text.png'): read_labels(tmp_path/'text.png')
    with pytest.raises(ValueError, match='expected labels as'): read_labels(tmp_path/'p.jpg')

def test_regions_of_imagej(tmp_path):
    import roifile
    write_rois(tmp_path/'r.zip', two())
    assert (read_labels(tmp_path/'r.zip', SHAPE) == two()).all()
    box = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, top=10, left=10, bottom=40, right=40, name='box')
    oval = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.OVAL, top=50, left=60, bottom=80, right=110, name='oval')
    roifile.roiwrite(tmp_path/'s.zip', [box, oval])
    found = read_labels(tmp_path/'s.zip', SHAPE)
    assert ((found == 1) == (two() == 1)).all() and abs((found == 2).sum()/(np.pi*15*25) - 1) < .02
    line = roifile.ImagejRoi.frompoints([[200, 300], [210, 300], [210, 310]], name='outside')
    roifile.roiwrite(tmp_path/'t.zip', [box, line])
    with pytest.warns(UserWarning, match='outside'): read_labels(tmp_path/'t.zip', SHAPE)
    roifile.roiwrite(tmp_path/'u.zip', [line])
    with pytest.raises(ValueError, match='none of its 1'): read_labels(tmp_path/'u.zip', SHAPE)
    (tmp_path/'v.zip').write_bytes(b'PK not a zip')
    with pytest.raises(ValueError, match='v.zip'): read_labels(tmp_path/'v.zip', SHAPE)

def test_fields_cover_a_micrograph_and_know_where_they_are_from():
    covered = np.zeros((100, 170), int)
    for y, x in field_corners(covered.shape, 64): covered[y:y + 64, x:x + 64] += 1
    assert covered.min() == 1
    stack = as_stack([correct(picture(0), two()), correct(picture(1), two(), group='b')], .6, 64)
    assert set(stack.structure.values) == {correct(picture(0), two()).picture[:12], 'b'}
    for i in range(stack.sizes['sample']):
        one = stack.isel(sample=i)
        y, x = (round(float(one[k])/.6) for k in ('y0', 'x0'))
        whole = picture(0) if one.structure != 'b' else picture(1)
        assert (one.image.values == whole.values[y:y + 64, x:x + 64]).all()
        assert (one.mask.values == (two() > 0)[y:y + 64, x:x + 64]).all()

def test_what_is_unknown_is_no_particle_and_no_field():
    known = np.ones(SHAPE, bool)
    known[:, :60] = False
    stack = as_stack([correct(picture(valid=known), two())], .6, 48, cleaning=False)
    assert (stack.x0.values >= 36 - 1e-6).all()

def test_a_coarser_network_sees_the_mask_at_its_pixel():
    shape = (180, 240)
    labels = np.kron(two(), np.ones((2, 2), int))
    stack = as_stack([correct(picture(shape=shape), labels)], 1.2, 64, cleaning=False)
    assert abs(stack.mask.isel(sample=0).mean().item() - (two() > 0)[:64, :64].mean()) < .02
    assert np.allclose(np.diff(stack.y), 1.2)

def test_a_stack_names_its_corrections_whatever_their_order():
    a = correct(picture(0), two())
    b = correct(picture(1), two())
    import json
    records = [json.loads(as_stack(c, .6, 64).attrs['record'])['settings'] for c in ([a, b], [b, a])]
    assert records[0] == records[1] and sorted(records[0]['corrections']) == sorted([a.key, b.key])
    assert 8 < records[0]['scene']['radius'][1] < records[0]['scene']['radius'][2] < 16

def test_a_folder_is_made_and_nobodys_correction_is_written_over(tmp_path):
    image = picture()
    folder = tmp_path/'new'/'corrections'
    first = correct(image, two(), by='Ada', when='2026-01-01T00:00:00+00:00')
    second = correct(image, two() > 0, by='Bob', when='2026-01-02T00:00:00+00:00')
    files = [write_correction(folder, c) for c in (first, second, first)]
    assert files[0] == files[2] != files[1] and all(f.parent == folder for f in files)
    assert [read_correction(f).by for f in files[:2]] == ['Ada', 'Bob'] and [c.by for c in read_corrections(folder)] == ['Bob']
    files[0].write_bytes(b'damaged')
    assert write_correction(folder, first) not in files[:2], 'what cannot be read is left alone'

def test_what_is_no_correction_is_told_how_one_is_made(tmp_path):
    (tmp_path/'a.png').write_bytes(b'x')
    with pytest.raises(ValueError, match='`hrtem-seg correct a.png` makes one'): read_corrections(tmp_path/'a.png')

def composite(*boxes, **where):
    "A region of several parts, as ImageJ stores it: the rectangle around them, and their outlines as a path"
    import roifile
    path = []
    for top, left, bottom, right in boxes:
        corners = [(left, top), (right, top), (right, bottom), (left, bottom)]
        for number, (x, y) in enumerate(corners): path += [min(number, 1), x, y]
        path.append(4)
    path = np.array(path, 'f4')
    tops, lefts, bottoms, rights = zip(*boxes)
    return roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, top=min(tops), left=min(lefts), bottom=max(bottoms),
                             right=max(rights), shape_roi_size=len(path), multi_coordinates=path, **where)

def test_a_region_of_several_parts_is_not_the_rectangle_around_them(tmp_path):
    import roifile
    roifile.roiwrite(tmp_path/'two.zip', [composite((10, 10, 20, 20), (50, 60, 70, 80))])
    found = read_labels(tmp_path/'two.zip', SHAPE) > 0
    assert found.sum() == 100 + 400 and not found[30, 30]
    roifile.roiwrite(tmp_path/'ring.zip', [composite((10, 10, 40, 40), (20, 20, 30, 30))])
    ring = read_labels(tmp_path/'ring.zip', SHAPE) > 0
    assert ring.sum() == 900 - 100 and not ring[25, 25]

def test_text_on_an_image_is_no_particle(tmp_path):
    import roifile
    text = roifile.ImagejRoi(roitype=roifile.ROI_TYPE.RECT, subtype=roifile.ROI_SUBTYPE.TEXT, top=5, left=5, bottom=15,
                             right=60, name='10 nm')
    roifile.roiwrite(tmp_path/'t.zip', [composite((10, 10, 20, 20)), text])
    with pytest.warns(UserWarning, match='10 nm'): found = read_labels(tmp_path/'t.zip', SHAPE)
    assert (found > 0).sum() == 100

def test_regions_belong_to_their_frames(tmp_path):
    import roifile
    movie = np.stack([two(), np.roll(two(), 3, axis=0), 0*two()])
    write_rois(tmp_path/'movie.zip', movie)
    for frame in (0, 1): assert (read_labels(tmp_path/'movie.zip', SHAPE, frame) == movie[frame]).all()
    with pytest.raises(ValueError, match='no region on frame 2, only on 0, 1'): read_labels(tmp_path/'movie.zip', SHAPE, 2)
    with pytest.raises(ValueError, match='regions of 2 frames and frame=None'): read_labels(tmp_path/'movie.zip', SHAPE)
    slices = [composite((10, 10, 20, 20), name=f'at {t}', c_position=1, z_position=1, t_position=t) for t in (1, 2)]
    roifile.roiwrite(tmp_path/'hyperstack.zip', slices)
    assert (read_labels(tmp_path/'hyperstack.zip', SHAPE, 1) > 0).sum() == 100

def test_labels_that_look_inverted_are_doubted(tmp_path):
    Image.fromarray((255*(two() == 0)).astype('u1')).save(tmp_path/'inverted.png')
    with pytest.warns(UserWarning, match='inverted'): read_labels(tmp_path/'inverted.png', SHAPE)
    tifffile.imwrite(tmp_path/'film_is_one.tif', (1 + two()).astype('u1'))
    with pytest.warns(UserWarning, match='a label of its own'): read_labels(tmp_path/'film_is_one.tif', SHAPE)

def test_a_bar_does_not_change_the_greys_of_a_field():
    from hrtem_seg.learning.prediction import standardise
    whole = picture(0)
    barred = whole.copy(data=whole.values.copy())
    barred.values[-8:] = 0
    def film(image):
        stack = as_stack([correct(image, two())], .6, 90)
        greys = standardise(stack.image.values[0])[:80]
        return greys[two()[:80, :90] == 0].std()
    assert film(barred) == pytest.approx(film(whole), rel=.06)
