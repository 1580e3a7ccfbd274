"A network on micrographs of every kind: no seams, nothing lost, nothing overwritten, no wrong scale"
import json, shutil, warnings
from pathlib import Path
import numpy as np, pandas as pd, pytest, tifffile
from skimage.io import imread
from hrtem_seg.imaging.cameras import detect
from hrtem_seg.imaging.images import image
from hrtem_seg.imaging.labels import particle_mask
from hrtem_seg.learning.kept import load_network
from hrtem_seg.learning.prediction import predict
from hrtem_seg.micrographs.cleaning import statistics
from hrtem_seg.micrographs.micrograph import micrograph
from hrtem_seg.segmentation.particles import drop_specks, half_contrast, label_particles, measure_particles
from hrtem_seg.segmentation.files import ENDINGS, Wanted, find_files, result_names, segment_file, segment_files
from hrtem_seg.segmentation.segmentation import newest_network, segment, shipped_network
from hrtem_seg.segmentation.tiles import predict_tiles
from hrtem_seg.structures.scenes import sample_scene
from hrtem_seg.waves.multislice import exit_wave

PIXEL = .6
SMALLEST = 14.1

@pytest.fixture(scope='module')
def network(): return load_network(shipped_network())

@pytest.fixture(scope='module')
def field():
    "Three dark balls, as thick in the middle as wide, on noise, and where they are"
    y, x = np.mgrid[:270, :270]
    away = np.min([np.hypot(y - a, x - b)/29 for a, b in ((70, 70), (120, 190), (200, 90))], axis=0)
    depth = np.sqrt(np.maximum(0, 1 - away**2))
    noise = 14*np.random.default_rng(0).standard_normal(away.shape)
    return (210 - 40*depth + noise).astype('f4'), away < 1

def dice(a, b): return 2*(a & b).sum()/(a.sum() + b.sum())

def count(result): return len(measure_particles(result.labels, PIXEL, SMALLEST, valid=result.valid))

def test_the_newest_network_is_the_shipped_one_where_no_study_ran(tmp_path):
    assert newest_network(tmp_path) == shipped_network() and (shipped_network()/'record.json').is_file()

@pytest.mark.parametrize('value, n', [(65535, 1), (1e7, 20), (-1e5, 3)])
def test_spots_take_no_particle_with_them(network, field, value, n):
    spoilt = field[0].copy()
    spoilt.flat[np.random.default_rng(n).choice(spoilt.size, n, replace=False)] = value
    found = segment(micrograph(spoilt, PIXEL), network, smallest=SMALLEST)
    assert count(found) == 3 and dice(found.mask.values, field[1]) > .93

def upright_disc(seed, cell=150., radius=25., height=28.):
    "A gold crystal with sides along the beam, on carbon: the middle of a ball"
    settings = dict(material='Au', radius=40., n_particles=1, n_defects=0, thickness=30., cell=(cell, cell))
    ball = sample_scene(np.random.default_rng(seed), substrate='quenched_carbon', **settings)
    gold = ball.numbers == 79
    x, y, z = ball.positions.T
    turns = [np.angle(np.exp(2j*np.pi*a[gold]/cell).mean())/(2*np.pi) for a in (x, y)]   # the ball may cross the border
    across, along = [(a - cell*turn + cell/2) % cell - cell/2 for a, turn in zip((x, y), turns)]
    from_middle = np.abs(z - z[gold].mean())
    return ball[~gold | ((np.hypot(across, along) < radius) & (from_middle < height/2))]

@pytest.mark.parametrize('seed, defocus', [(0, -200.), (1, -80.), (3, 40.)])
def test_steep_sides_are_where_they_are(network, seed, defocus):
    "Painted discs come out 2 Å too large a side, since paint has no Fresnel fringe; simulated ones do not"
    scene = upright_disc(seed)
    wave = exit_wave(scene, pixel=.25, slice_thickness=2., rms='table')
    truth = particle_mask(wave.particle, scene, kind='projection', pixel=PIXEL).values
    seen = image(wave.full, defocus=defocus, aberrations={'C3': 1e6}, focal_spread=20., vibration=.5, pixel=PIXEL)
    recorded = np.asarray(detect(seen, 400., np.random.default_rng(1)), 'f4')
    found = segment(micrograph(recorded, PIXEL), network).mask.values
    perimeter = 2*np.sqrt(np.pi*truth.sum())
    too_large = (found.sum() - truth.sum())/perimeter*PIXEL   # Å
    assert dice(found, truth) > .93 and -.8 < too_large < 1.3

@pytest.mark.parametrize('slope', [.2, .8])
def test_uneven_light_costs_nothing(network, field, slope):
    across = 1 + slope*(np.mgrid[:270, :270][1]/270 - .5)
    uneven = micrograph(field[0]*across, PIXEL)
    found = segment(uneven, network, smallest=SMALLEST, cleaning={'largest': 40.})   # so small a field may be one particle
    assert dice(found.mask.values, field[1]) > .93

@pytest.mark.parametrize('width, value', [(1, 0), (10, 255), (30, 0)])
def test_a_border_is_no_particle(network, field, width, value):
    found = segment(micrograph(np.pad(field[0], width, constant_values=value), PIXEL), network, smallest=SMALLEST)
    assert count(found) == 3
    assert not found.valid.values[:width].any() and np.isnan(found.probability.values[:width]).all()
    assert dice(found.mask.values[width:-width, width:-width], field[1]) > .93

def test_a_burnt_in_bar_is_unknown(network, field):
    spoilt = field[0].copy()
    spoilt[245:257, 180:250] = 0
    found = segment(micrograph(spoilt, PIXEL), network, smallest=SMALLEST)
    assert count(found) == 3 and not found.valid.values[245:257, 180:250].any()

def test_cleaning_can_be_switched_off_and_is_on_record(network, field):
    spoilt = np.pad(field[0], 30)
    spoilt[100, 100] = 65535
    on = segment(micrograph(spoilt, PIXEL), network)
    off = segment(micrograph(spoilt, PIXEL), network, cleaning=False)
    assert len(on.attrs['done']) == 2 and off.attrs['done'] == [] and off.valid.all()

@pytest.mark.parametrize('shape, memory, flips', [((300, 333), 5e7, False), ((97, 401), 6e7, True), ((16, 16), 1e9, False), ((17, 300), 4e7, False)])
def test_tiles_give_what_the_whole_image_gives(network, shape, memory, flips):
    net, _ = network
    a = np.random.default_rng(1).poisson(50, shape).astype('f4')
    known = (a.mean(), a.std())
    padded = np.pad(a, [(0, -n % net.multiple) for n in shape], mode='reflect')
    ways = [(), (0,), (1,), (0, 1)] if flips else [()]
    whole = [np.flip(predict(net, np.ascontiguousarray(np.flip(padded, w)), precision='float32', statistics=known), w) for w in ways]
    tiled = predict_tiles(net, a, known, memory=memory, flips=flips, precision='float32')
    assert np.abs(tiled - np.mean(whole, 0)[:shape[0], :shape[1]]).max() < 1e-4

def test_statistics_of_a_clean_image_are_its_own_and_spots_do_not_move_them(field):
    im = micrograph(field[0], PIXEL)
    assert np.allclose(statistics(im), (field[0].mean(), field[0].std()), rtol=1e-4)
    spoilt = field[0].copy()
    spoilt.flat[::1000] = 65535
    assert np.allclose(statistics(micrograph(spoilt, PIXEL)), (field[0].mean(), field[0].std()), rtol=.03)

def test_specks_are_dropped_by_size_alone_and_it_is_recorded(tmp_path):
    yy, xx = np.mgrid[:160, :160]
    dark = 15*(np.hypot(yy - 60, xx - 60) < 30) + 15*(np.hypot(yy - 120, xx - 120) < 10)
    tifffile.imwrite(tmp_path/'f.tif', np.random.default_rng(0).poisson(40 - dark).astype('u2'))
    segment_file(tmp_path/'f.tif', .57, None, tmp_path/'all', smallest=0.)
    segment_file(tmp_path/'f.tif', .57, None, tmp_path/'big', smallest=25.)
    every, big = (imread(tmp_path/k/'f_labels.tif') for k in ('all', 'big'))
    assert (big == drop_specks(every, .57, 25.)).all() and (big > 0).sum() < (every > 0).sum()
    assert json.loads((tmp_path/'big'/'f.json').read_text())['smallest'] == 25.
    assert (pd.read_csv(tmp_path/'big'/'f_particles.csv').diameter_nm >= 2.5).all()

# Scale

@pytest.fixture
def calibrated(tmp_path, field):
    tifffile.imwrite(tmp_path/'a.tif', field[0].astype('u2'), imagej=True, resolution=(1/.06, 1/.06), metadata={'unit': 'nm'})
    return tmp_path/'a.tif'

def test_the_files_own_calibration_is_used(calibrated):
    done = segment_file(calibrated, out=calibrated.parent/'out')
    assert done.record['pixel'] == pytest.approx(.6) and done.record['calibration'] == 'ImageJ TIFF' and len(done.particles) == 3
    assert done.particles.diameter_nm.mean() == pytest.approx(58*.06, rel=.08)

@pytest.mark.parametrize('pixel, says', [(6., 'contradict'), (.06, 'contradict'), (.66, 'contradict')])
def test_a_pixel_size_that_the_file_contradicts_is_refused(calibrated, pixel, says):
    with pytest.raises(ValueError, match=says): segment_file(calibrated, pixel, out=calibrated.parent/'out')
    assert not (calibrated.parent/'out').exists()

@pytest.mark.parametrize('pixel, says', [(6., '0.6 nm is 10 times that of the network'), (59., 'Is the pixel size right'), (.03, 'field is 0.81 nm wide')])
def test_a_pixel_size_that_cannot_be_is_refused_before_any_work(network, field, pixel, says):
    with pytest.raises(ValueError, match=says): segment(micrograph(field[0], pixel), network)

def test_a_pixel_size_that_may_be_wrong_is_doubted(network, field):
    with pytest.warns(UserWarning, match='no image like that was in its training'): segment(micrograph(field[0][:64, :64], 2.), network)

def test_memory_is_said_in_advance_and_refused(network, field):
    with pytest.raises(MemoryError, match='100 TB of memory are needed'): segment(micrograph(field[0], PIXEL), network, memory=1e14)
    assert segment(micrograph(field[0], PIXEL), network, memory=1e8).attrs['memory_needed'] < 2e8

@pytest.mark.parametrize('times', [.1, 3.])
def test_a_doubt_says_how_many_pixels_a_particle_would_have(network, times):
    from hrtem_seg.segmentation.segmentation import check_scale, trained_on
    pixel = times*trained_on(network[1])[0]
    image = micrograph(np.random.default_rng(0).random((1024, 1024)), pixel)
    with pytest.warns(UserWarning, match=f'is {times:g} times that of the network.* pixels wide. Is the pixel size right'):
        check_scale(image, network[1])

def test_a_field_that_one_particle_may_fill_is_doubted(network, field):
    from hrtem_seg.segmentation.particles import largest_known
    from hrtem_seg.segmentation.segmentation import check_scale
    side = int(.8*largest_known(network[1])/PIXEL)
    with pytest.warns(UserWarning, match='one that fills the field has no film around it'):
        check_scale(micrograph(field[0][:side, :side], PIXEL), network[1])

SEGTRACK = Path(__file__).resolve().parents[2]/'shared'/'real'/'segtrack'

@pytest.mark.skipif(not SEGTRACK.is_dir(), reason='real images are not beside the project')
def test_bright_particles_are_doubted_and_dark_ones_are_not(network):
    from hrtem_seg.micrographs.readers import read_micrograph
    real = read_micrograph(SEGTRACK/'frame_00.png', .587)
    turned = micrograph(255 - real.values, .587)
    for image, doubted in ((real, False), (turned, True)):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            segment(image, network, smallest=SMALLEST)
        assert any('if the particles are bright' in str(w.message) for w in said) == doubted
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        segment(turned, network, smallest=SMALLEST, cleaning={'bright': True})
    assert not said

# Files

def test_two_files_of_one_name_keep_both_results(tmp_path, field):
    for day in ('monday', 'tuesday'):
        (tmp_path/day).mkdir()
        tifffile.imwrite(tmp_path/day/'0001.tif', field[0].astype('u2'))
    done = dict(segment_files([tmp_path/'monday/0001.tif', tmp_path/'tuesday/0001.tif'], PIXEL, out=tmp_path/'out'))
    assert sorted(f.name for f in (tmp_path/'out').glob('*.json')) == ['monday_0001.json', 'tuesday_0001.json'] and len(done) == 2

def test_names_differ_whatever_the_files_are_called():
    paths = ['a/x.tif', 'a/X.tif', 'b/x.png', 'b/x.tif', 'c/b_x.tif', 'x.tif', './x.tif']
    names = result_names(paths)
    assert len({n.casefold() for n in names.values()}) == len(names) == 6

def test_what_exists_is_not_overwritten(tmp_path, field):
    tifffile.imwrite(tmp_path/'a.tif', field[0].astype('u2'))
    (tmp_path/'out').mkdir()
    (tmp_path/'out/a_mask.png').write_text('drawn by hand')
    with pytest.raises(FileExistsError, match='a_mask.png is there already'): segment_file(tmp_path/'a.tif', PIXEL, out=tmp_path/'out')
    assert (tmp_path/'out/a_mask.png').read_text() == 'drawn by hand' and len(list((tmp_path/'out').iterdir())) == 1
    segment_file(tmp_path/'a.tif', PIXEL, out=tmp_path/'out', overwrite=True)
    assert len(list((tmp_path/'out').iterdir())) == len(ENDINGS) + 1

def test_a_lost_result_is_made_again_and_the_others_are_left_alone(tmp_path, field):
    tifffile.imwrite(tmp_path/'a.tif', field[0].astype('u2'))
    first = segment_file(tmp_path/'a.tif', PIXEL, out=tmp_path/'out')
    (tmp_path/'out/a_labels.tif').unlink()
    (tmp_path/'out/a_mask.png').write_text('drawn by hand')
    again = segment_file(tmp_path/'a.tif', PIXEL, out=tmp_path/'out')
    assert imread(tmp_path/'out/a_labels.tif').max() == len(first.particles) == len(again.particles) == 3
    assert (tmp_path/'out/a_mask.png').read_text() == 'drawn by hand'
    (tmp_path/'out/a.json').unlink()
    with pytest.raises(FileExistsError, match='no record is beside it'): segment_file(tmp_path/'a.tif', PIXEL, out=tmp_path/'out')

def test_what_was_warned_of_is_said_again(tmp_path, field):
    bright = field[0].max() - field[0] + 50
    tifffile.imwrite(tmp_path/'a.tif', bright.astype('u2'))
    first, again = [segment_file(tmp_path/'a.tif', PIXEL, out=tmp_path/'out') for _ in range(2)]
    assert again.again and any('bright' in text for text in first.warnings) and again.warnings == first.warnings

def test_results_of_another_calibration_are_not_taken_for_done(tmp_path, field):
    from hrtem_seg.core.records import read_json, write_json
    from hrtem_seg.learning.kept import amend_record, read_network_record
    own = Path(shutil.copytree(shipped_network(), tmp_path/'own'))
    tifffile.imwrite(tmp_path/'a.tif', field[0].astype('u2'))
    segment_file(tmp_path/'a.tif', PIXEL, own, tmp_path/'out')
    trust = read_network_record(own)['trust']
    amend_record(own, replace=True, trust={**trust, 'noted': 'measured anew'})
    with pytest.raises(FileExistsError, match='another calibration'): segment_file(tmp_path/'a.tif', PIXEL, own, tmp_path/'out')
    record = read_json(tmp_path/'out/a.json')
    del record['calibrated']   # as earlier versions wrote it
    write_json(tmp_path/'out/a.json', record)
    assert segment_file(tmp_path/'a.tif', PIXEL, own, tmp_path/'out').again

def test_a_calibration_of_other_passes_is_doubted(tmp_path, field):
    tifffile.imwrite(tmp_path/'a.tif', field[0].astype('u2'))
    said = {flips: segment_file(tmp_path/'a.tif', PIXEL, out=tmp_path/str(flips), flips=flips).warnings for flips in (False, True)}
    assert not any('calibrated' in text for text in said[False])
    assert any('was calibrated without its mirror images' in text for text in said[True])

def test_an_emi_is_known_by_its_images(tmp_path):
    from hrtem_seg.segmentation.files import _digest
    for name, text in {'a.emi': 'header', 'a_1.ser': 'image', 'b_1.ser': 'another'}.items(): (tmp_path/name).write_text(text)
    before = _digest(tmp_path/'a.emi')
    (tmp_path/'b_1.ser').write_text('changed')
    assert _digest(tmp_path/'a.emi') == before
    (tmp_path/'a_1.ser').write_text('changed')
    assert _digest(tmp_path/'a.emi') != before

def test_a_mask_is_what_is_shown(tmp_path, field):
    from hrtem_seg.micrographs.cleaning import clean
    from hrtem_seg.micrographs.readers import read_mask
    bar = np.zeros(field[0].shape, bool)
    bar[-20:] = True
    def known(file):
        cleaned = clean(micrograph(field[0], PIXEL), unknown=file, spots=False, light='never')
        return cleaned.valid.values
    tifffile.imwrite(tmp_path/'black.tif', 255*bar.astype('u1'))
    tifffile.imwrite(tmp_path/'white.tif', 255*(~bar).astype('u1'), photometric='miniswhite')
    for name in ('black', 'white'): assert (known(tmp_path/f'{name}.tif') == ~bar).all()
    assert (read_mask(tmp_path/'white.tif') == ~bar).all()   # labels count by their values

def test_a_movie_of_two_pixel_sizes_is_refused(tmp_path, field):
    from hrtem_seg.micrographs.readers import DM_TAGS, read_micrograph
    def page(tif, image, size):
        values = dict(zip((code for pair in DM_TAGS for code in pair), ('nm', 'nm', size, size)))
        extra = [(code, 's' if isinstance(v, str) else 'd', 0 if isinstance(v, str) else 1, v, True) for code, v in values.items()]
        tif.write(image.astype('u2'), extratags=extra, metadata=None, contiguous=False)
    for name, sizes in {'same': (.02, .02), 'other': (.02, .04)}.items():
        with tifffile.TiffWriter(tmp_path/f'{name}.tif') as tif:
            for size in sizes: page(tif, field[0], size)
    assert read_micrograph(tmp_path/'same.tif').attrs['pixel'] == pytest.approx(.2)
    with pytest.raises(ValueError, match='2 pixel sizes'): read_micrograph(tmp_path/'other.tif')

def test_a_bad_file_is_named_and_stops_nothing(tmp_path, field):
    good = field[0][:64, :64]
    nan = good.copy()
    nan[:60] = np.nan
    bad = {'nan': nan, 'constant': 0*good, 'planes': np.stack([good, good + 1, good + 2], -1), 'complex': good.astype('c8'), 'tiny': good[:5, :7]}
    for name, a in {'good1': good, 'good2': good + 1, **bad}.items(): tifffile.imwrite(tmp_path/f'{name}.tif', a)
    (tmp_path/'empty.tif').write_bytes(b'')
    (tmp_path/'short.tif').write_bytes((tmp_path/'good1.tif').read_bytes()[:-999])
    outcome = {p.stem: r for p, r in segment_files([tmp_path], PIXEL, out=tmp_path/'out')}
    failed = {k: str(r) for k, r in outcome.items() if isinstance(r, Exception)}
    assert set(outcome) - set(failed) == {'good1', 'good2'}
    assert all(f'{k}.tif' in text for k, text in failed.items())

def test_a_folder_gives_its_files_but_not_its_results(tmp_path, field):
    tifffile.imwrite(tmp_path/'a.tif', field[0].astype('u2'))
    (tmp_path/'.hidden.tif').write_bytes(b'')
    (tmp_path/'notes.txt').write_text('')
    segment_file(tmp_path/'a.tif', PIXEL, out=tmp_path)
    assert find_files([tmp_path]) == [tmp_path/'a.tif']
    (tmp_path/'none').mkdir()
    with pytest.raises(FileNotFoundError, match='without a file that can be read'): find_files([tmp_path/'none'])

def test_folders_patterns_and_what_an_in_situ_camera_records(tmp_path, field):
    small = field[0][:64, :64].astype('u2')
    second = tmp_path/'day'/'run'/'Hour_00'/'Minute_00'/'Second_00'
    second.mkdir(parents=True)
    for i in range(3):
        tifffile.imwrite(second/f'frame_{i}.tif', small)
    tifffile.imwrite(tmp_path/'day'/'a.tif', small)
    (tmp_path/'day'/'notes.txt').write_text('')
    day, run = tmp_path/'day', tmp_path/'day'/'run'
    assert find_files([day]) == [day/'a.tif']
    assert find_files([day], recursive=True) == [day/'a.tif', run]
    assert find_files([run]) == find_files([run], movies=True) == [run]
    assert len(find_files([day], recursive=True, movies=False)) == 4
    assert find_files([day], movies=True) == [day]
    assert find_files([str(day/'*')], movies=False, recursive=True)[0] == day/'a.tif'
    assert find_files([str(day/'?.tif'), day]) == [day/'a.tif']
    assert find_files([str(day/'**'/'*_1.tif')]) == [second/'frame_1.tif']
    with pytest.raises(FileNotFoundError, match='no file that can be read is called like that'): find_files([day/'*.dm4'])
    with pytest.raises(FileNotFoundError, match='folders below are found by --recursive'): find_files([run], movies=False)
    [(path, one)] = segment_files([run], PIXEL, out=tmp_path/'out', smallest=SMALLEST)
    assert path == run and tifffile.imread(tmp_path/'out/run_labels.tif').shape == (3, 64, 64)
    assert '3 files, from frame_0.tif to frame_2.tif' in one.record['done']

def test_an_emi_beside_its_ser_is_not_a_second_file(tmp_path):
    for name in ('a.emi', 'a_1.ser', 'a_2.ser', 'alone.emi'):
        (tmp_path/name).write_bytes(b'')
    named = [f.name for f in find_files([tmp_path])]
    assert named == ['a_1.ser', 'a_2.ser', 'alone.emi']

def test_a_movie_has_its_frames_in_the_table(tmp_path, field):
    tifffile.imwrite(tmp_path/'m.tif', np.stack([field[0], field[0][::-1]]).astype('u2'), photometric='minisblack')
    done = segment_file(tmp_path/'m.tif', PIXEL, out=tmp_path/'out')
    assert done.particles.groupby('frame').size().to_dict() == {0: 3, 1: 3}
    assert imread(tmp_path/'out/m_labels.tif').shape == (2, 270, 270)
    one = segment_file(tmp_path/'m.tif', PIXEL, out=tmp_path/'one', frame=1)
    assert len(one.particles) == 3 and 'frame 1 of 2' in one.record['done'][1]

# Particles

def test_touching_particles_are_split_and_others_are_not():
    "Pairs of discs at every overlap, ellipses and rods at every angle: over- and under-segmentation"
    y, x = np.mgrid[:140, :200]
    split = {d: label_particles((np.hypot(y - 70, x - 70) < 25) | (np.hypot(y - 70, x - 70 - d*25) < 25)).max() for d in (.5, .7, 1.2, 1.8)}
    assert split == {.5: 1, .7: 1, 1.2: 2, 1.8: 2}
    for angle in np.radians(range(0, 180, 15)):
        along, across = (x - 100)*np.cos(angle) + (y - 70)*np.sin(angle), (y - 70)*np.cos(angle) - (x - 100)*np.sin(angle)
        assert label_particles(np.hypot(along/50, across/20) < 1).max() == 1
        assert label_particles((abs(along) < 50) & (abs(across) < 12)).max() == 1

def test_measures_of_shapes_that_are_known():
    y, x = np.mgrid[:200, :200]
    square = (abs(y - 100) < 30) & (abs(x - 100) < 30)
    s = measure_particles(square, 10.).iloc[0]
    assert (s.feret_max_nm, s.feret_min_nm, s.area_nm2) == pytest.approx((59*2**.5, 59, 59**2), rel=1e-6)
    assert s.solidity == pytest.approx(1) and s.circularity == pytest.approx(np.pi/4, rel=.13)
    for degrees in (-60, -20, 0, 35, 80):
        a = np.radians(degrees)
        long, short = (x - 100)*np.cos(a) + (y - 100)*np.sin(a), (y - 100)*np.cos(a) - (x - 100)*np.sin(a)
        p = measure_particles(np.hypot(long/60, short/20) < 1, 10.).iloc[0]
        assert p.orientation_deg == pytest.approx(degrees, abs=1.5)
        assert (p.feret_max_nm, p.feret_min_nm) == pytest.approx((120, 40), abs=1.6)   # a pixel's diagonal

# What else is written

@pytest.fixture
def written(calibrated):
    "A file with every export that can be had here, and its folder"
    kinds = ('roi', 'coco', 'netcdf', 'zarr')
    return segment_file(calibrated, out=calibrated.parent/'all', wanted=Wanted(exports=kinds))

def test_imagej_rois_hold_the_pixels_of_the_labels(written):
    roifile = pytest.importorskip('roifile')
    from skimage.draw import polygon2mask
    labels = imread(written.out/'a_labels.tif')
    for roi in roifile.roiread(written.out/'a_rois.zip'):
        corners = roi.coordinates()[:, ::-1] - .5   # from corners of pixels to their centres
        assert (polygon2mask(labels.shape, corners) == (labels == int(roi.name))).all()

def test_coco_boxes_and_areas_are_those_of_the_labels(written):
    labels = imread(written.out/'a_labels.tif')
    told = json.loads((written.out/'a_coco.json').read_text())
    assert [a['label'] for a in told['annotations']] == list(range(1, labels.max() + 1))
    for a in told['annotations']:
        x, y, width, height = a['bbox']
        inside = labels == a['label']
        assert a['area'] == inside.sum() == inside[y:y + height, x:x + width].sum()
    assert told['images'][0]['file_name'] == 'a.tif' and told['images'][0]['pixel_nm'] == pytest.approx(.06)

@pytest.mark.parametrize('holes', [False, True])
def test_outlines_of_random_blobs_hold_their_area(holes):
    from scipy import ndimage
    from hrtem_seg.segmentation.exports import coco_record, outline
    from skimage.measure import label
    rough = ndimage.gaussian_filter(np.random.default_rng(3).standard_normal((120, 120)), 2) > .02
    labels = label(rough if holes else ndimage.binary_fill_holes(rough))
    for a in coco_record(labels, 'x', 5.)['annotations']:
        region = labels == a['label']
        shape = a['segmentation']
        if isinstance(shape, dict):
            filled = np.repeat(np.arange(len(shape['counts'])) % 2, shape['counts']).reshape(shape['size'], order='F')
            assert (filled == region).all()
        else:
            x, y = np.reshape(shape[0], (-1, 2)).T
            assert abs(np.sum(y*np.roll(x, -1) - x*np.roll(y, -1)))/2 == region.sum() == a['area']
        corners = outline(region)
        y, x = corners.T
        assert abs(np.sum(y*np.roll(x, -1) - x*np.roll(y, -1)))/2 == ndimage.binary_fill_holes(region).sum()

def test_one_file_holds_everything_and_its_record(written):
    import xarray as xr
    labels = imread(written.out/'a_labels.tif')
    for ds in (xr.load_dataset(written.out/'a.nc'), xr.open_zarr(written.out/'a.zarr', consolidated=False)):
        assert (ds.labels.values == labels).all() and json.loads(ds.attrs['record'])['weights'] == written.record['weights']
        assert ds.particle_diameter_nm.values == pytest.approx(written.particles.diameter_nm.values)
        assert ds.image.shape == labels.shape and ds.y.attrs['units'] == 'Å'

def test_a_hyperspy_signal_has_axes_in_nm(calibrated):
    pytest.importorskip('hyperspy.api', exc_type=ImportError)
    from hyperspy.api import load
    done = segment_file(calibrated, out=calibrated.parent/'hs', wanted=Wanted(exports=('hyperspy',)))
    signal = load(done.out/'a.hspy')
    assert signal.axes_manager['x'].scale == pytest.approx(.06) and signal.axes_manager['x'].units == 'nm'
    assert (signal.original_metadata.hrtem_seg.labels == imread(done.out/'a_labels.tif')).all()

def test_the_overlay_has_a_bar_of_the_right_length(written):
    picture = imread(written.out/'a_overlay.png')
    black = max((row == 0).all(-1).sum() for row in picture)
    assert black*.06 == pytest.approx(5, abs=.06)   # a third of 16.2 nm is at least 5 nm

def test_sizes_with_and_without_particles_at_the_border():
    from hrtem_seg.segmentation.particles import size_distribution
    y, x = np.mgrid[:200, :200]
    mask = (np.hypot(y - 60, x - 60) < 20) | (np.hypot(y - 140, x - 140) < 30) | (np.hypot(y, x - 190) < 25)
    table = measure_particles(mask, 10.)
    left_out = size_distribution(table)
    kept = size_distribution(table, border=True)
    assert (left_out.n, left_out.cut, kept.n) == (2, 1, 3)
    assert left_out.mean_nm == pytest.approx(50, abs=.6) and left_out.std_nm == pytest.approx(14.1, abs=.5)
    assert left_out.sem_nm == pytest.approx(left_out.std_nm/2**.5)

def test_frames_over_workers_are_the_same(tmp_path, field):
    movie = np.stack([field[0], field[0][::-1]]).astype('u2')
    tifffile.imwrite(tmp_path/'m.tif', movie, photometric='minisblack')
    tables = [next(iter(segment_files([tmp_path/'m.tif'], PIXEL, out=tmp_path/f'm{n}', workers=n)))[1].particles for n in (0, 1)]
    pd.testing.assert_frame_equal(*tables, rtol=1e-5)

# Splitting, lattice and tracks

def test_splitting_on_a_simulated_stack(tmp_path, network):
    "Labels of the realistic preset: split masks agree better with them than unsplit ones, and no particle is cut in two"
    from hrtem_seg.data.generation import generate
    from hrtem_seg.data.presets import preset
    from hrtem_seg.segmentation.splitting import NOTHING, compare_labels, seen_particles
    small = dict(cell=[96., 96.], substrate='vacuum', thickness=0., n_particles=5, radius=['uniform', 9., 14.], overlap=.2)
    settings = preset('realistic', scene=small, n_structures=3, seed=2, crop=120, keep=None, labels=['instance', 'overlap'],
                      wave=dict(pixel=.2), doses=[800.], camera=None, pixel=.6)
    ds = generate(tmp_path/'stack', workers=0, progress=False, **settings)
    pixel = float(ds.x[1] - ds.x[0])
    split = unsplit = NOTHING
    for i in range(ds.sizes['sample']):
        one = ds.isel(sample=i)
        assert ((one.overlap.values > 0) == one.mask.values.astype(bool)).all()
        truth = drop_specks(seen_particles(one.instance.values), pixel, 10.)
        mask = one.mask.values.astype(bool)
        split = split + compare_labels(drop_specks(label_particles(mask), pixel, 10.), truth)
        unsplit = unsplit + compare_labels(drop_specks(label_particles(mask, 0), pixel, 10.), truth)
    assert split.true >= 10 and split.f1 >= unsplit.f1 and split.under <= unsplit.under and split.over <= 1, (split, unsplit)

@pytest.mark.parametrize('zone, expected', [('110', {(1, 1, 1), (0, 0, 2), (0, 2, 2)}), ('100', {(0, 0, 2), (0, 2, 2)})])
def test_planes_of_a_lattice_drawn_by_hand(zone, expected):
    "Cosines of known spacing and direction, in noise: every one is found within half a percent, and indexed"
    from hrtem_seg.segmentation.lattice import crystal_planes, fit_planes, reflections
    planes = crystal_planes('Au', 1.3)
    axis = np.array([int(i) for i in zone])
    hkl = planes[['h', 'k', 'l']].values
    inside = planes[(hkl@axis == 0)]
    e1 = inside[['gx', 'gy', 'gz']].values[0]
    e1 = e1/np.linalg.norm(e1)
    e2 = np.cross(axis/np.linalg.norm(axis), e1)
    turn = np.radians(17)
    y, x = np.mgrid[:160, :160]*.5
    image = 300*np.ones(y.shape)
    for g in inside[['gx', 'gy', 'gz']].values:
        u, v = g@e1, g@e2
        gx, gy = np.cos(turn)*u - np.sin(turn)*v, np.sin(turn)*u + np.cos(turn)*v
        image += 6*np.cos(2*np.pi*(gx*x + gy*y) + 1)
    counts = np.random.default_rng(0).poisson(image)
    disc = np.hypot(y - 40, x - 40) < 30
    found = fit_planes(reflections(counts, disc, .5), 'Au')
    assert sorted(abs(i) for i in found.attrs['zone']) == sorted(int(i) for i in zone)
    assert found.error.max() < .01 and found.h.notna().all()
    got = {tuple(sorted(abs(int(i)) for i in row)) for row in found[['h', 'k', 'l']].values}
    assert got == expected
    other = fit_planes(reflections(counts, disc, .5), 'CeO2')
    assert other.attrs['explained'] < len(found)

def test_noise_has_no_lattice():
    from hrtem_seg.segmentation.lattice import reflections
    y, x = np.mgrid[:96, :96]
    disc = np.hypot(y - 48, x - 48) < 40
    rng = np.random.default_rng(0)
    found = [len(reflections(rng.poisson(100, disc.shape), disc, .6)) for _ in range(60)]
    assert sum(found) <= 2

def test_reflections_of_simulated_particles_are_those_of_gold_and_of_film_there_are_none():
    "The expected number of false ones: at most CHANCE a particle on film, and few that no plane explains on gold"
    from hrtem_seg.core.records import rng_for
    from hrtem_seg.imaging.cameras import expose
    from hrtem_seg.imaging.images import image as image_of
    from hrtem_seg.imaging.labels import particle_mask
    from hrtem_seg.segmentation.lattice import fit_planes, reflections
    from hrtem_seg.structures.scenes import sample_scene
    from hrtem_seg.waves.multislice import exit_wave
    unexplained = false = discs = 0
    for zone, turn in (('110', 70.), ('100', 10.)):
        scene = sample_scene(rng_for(4, zone), material='Au', n_particles=1, radius=16., n_defects=0, cell=(60., 60.),
                             thickness=20., orientation={'zone': zone, 'tilt': 0., 'turn': turn})
        wave = exit_wave(scene, pixel=.25, rms='table')
        picture = expose(image_of(wave.full, defocus=-300., focal_spread=15., pixel=.4), 600., rng_for(0, zone))
        pixel = float(picture.x[1] - picture.x[0])
        inside = particle_mask(wave.particle, scene, pixel=.4, kind='projection').values
        found = fit_planes(reflections(picture.values, inside, pixel), 'Au')
        assert found.attrs['explained'] >= 4
        unexplained += len(found) - found.attrs['explained']
    film = exit_wave(sample_scene(rng_for(0, 'film'), n_particles=0, cell=(100., 100.), thickness=30.), pixel=.25)
    disc = np.hypot(*(np.mgrid[:53, :53] - 26)) < 25
    for defocus in (-200., -500.):
        bare = expose(image_of(film.full, defocus=defocus, focal_spread=15., pixel=.4), 600., rng_for(1, 'film'))
        for y in range(0, 190, 49):
            for x in range(0, 190, 49):
                false += len(reflections(bare.values[y:y + 53, x:x + 53], disc, .4))
                discs += 1
    assert unexplained <= 2
    assert false == 0 and discs == 32

def test_two_particles_that_pass_each_other_keep_their_tracks():
    pytest.importorskip('laptrack')
    from hrtem_seg.segmentation.tracks import link_particles, track_table
    t = np.arange(10)
    rows = [dict(frame=f, label=1 + i, y_nm=5. + 2*i, x_nm=x, diameter_nm=3., at_border=False) for f in t for i, x in enumerate((f, 9. - f))]
    linked = link_particles(pd.DataFrame(rows), farthest=1.5)
    assert linked.groupby('track').y_nm.nunique().tolist() == [1, 1]
    assert track_table(linked).displacement_nm.tolist() == pytest.approx([9, 9])
    assert link_particles(pd.DataFrame(rows), farthest=.5).track.nunique() == 20   # farther than a particle can go

def ball(radius, n=200):
    "Thickness over its diameter, of a ball in the middle (pixels)"
    y, x = np.mgrid[:n, :n] - n/2
    return np.sqrt(np.maximum(0, 1 - (y**2 + x**2)/radius**2))

@pytest.mark.parametrize('radius, least, most', [(15., .80, .87), (30., .83, .88), (60., .85, .88)])
def test_half_contrast_of_a_ball_lies_where_half_of_it_is(radius, least, most):
    "sqrt(3)/2 of the radius, less what the smoothing takes"
    noise = 10*np.random.default_rng(1).standard_normal((200, 200))
    for contrast, of_noise in ((40, 0), (40, 1), (200, 1)):
        labels, moved = half_contrast(200 - contrast*ball(radius) + of_noise*noise, ball(radius) > 0, PIXEL)
        assert moved.tolist() == [True] and least < np.sqrt((labels > 0).mean()/(ball(radius) > 0).mean()) < most

def test_half_contrast_leaves_a_disc_as_large_as_it_is():
    disc = ball(40.) > 0
    noise = 10*np.random.default_rng(1).standard_normal(disc.shape)
    for shrunk in (0, 3):   # whatever outline it had before
        given = ball(40. - shrunk) > 0
        labels, moved = half_contrast(200 - 40*disc + noise, given, PIXEL)
        assert moved.all() and (labels > 0).sum() == pytest.approx(disc.sum(), rel=.03)

def test_half_contrast_leaves_noise_and_what_has_no_film_around_alone():
    rng = np.random.default_rng(2)
    for radius in rng.uniform(12, 60, 20):
        given = (ball(radius) > 0).astype(int)
        labels, moved = half_contrast(200 + 10*rng.standard_normal(given.shape), given, PIXEL)
        assert not moved.any() and (labels == given).all()
    crowded = np.ones((80, 80), int)
    crowded[:, 40:] = 2
    assert not half_contrast(100 - 40*(crowded == 1.), crowded, PIXEL)[1].any()
    brighter = 200 + 40*ball(40.)
    assert not half_contrast(brighter, ball(40.) > 0, PIXEL)[1].any()

def test_half_contrast_keeps_numbers_and_never_enters_another_particle():
    pair = np.zeros((200, 200), int)
    y, x = np.mgrid[:200, :200]
    pair[np.hypot(y - 100, x - 70) < 31] = 4
    pair[np.hypot(y - 100, x - 130) < 31] = 2
    thick = sum(np.sqrt(np.maximum(0, 1 - ((y - 100)**2 + (x - a)**2)/31**2)) for a in (70, 130))
    labels, moved = half_contrast(200 - 40*thick, pair, PIXEL)
    assert moved.tolist() == [False, True, False, True] and set(np.unique(labels)) == {0, 2, 4}
    assert not ((labels == 2) & (pair == 4)).any() and not ((labels == 4) & (pair == 2)).any()
    with pytest.raises(ValueError, match='one shape'): half_contrast(thick[1:], pair, PIXEL)

def test_half_contrast_of_a_simulated_dark_particle():
    "Behind a small aperture a gold ball is dark as it is thick; its diffraction contrast comes on top"
    from hrtem_seg.core.records import rng_for
    from hrtem_seg.imaging.cameras import expose
    from hrtem_seg.imaging.images import image as image_of
    from hrtem_seg.imaging.labels import particle_mask
    from hrtem_seg.structures.scenes import sample_scene
    from hrtem_seg.waves.multislice import exit_wave
    scene = sample_scene(rng_for(0, 'dark ball'), material='Au', n_particles=1, radius=22., cell=(84., 84.))
    wave = exit_wave(scene, pixel=.25, rms='table')
    truth = particle_mask(wave.particle, scene, 'projection', pixel=.5).values > 0
    counts = expose(image_of(wave.full, defocus=-100., focal_spread=15., pixel=.5, aperture=.2), 300., rng_for(1, 'dark ball'))
    labels, moved = half_contrast(counts.values, truth, float(counts.x[1] - counts.x[0]))
    assert moved.all() and .65 < (labels > 0).sum()/truth.sum() < .9

def test_bright_particles_have_their_half_contrast_as_dark_ones(network):
    y, x = np.mgrid[:270, :270]
    away = np.min([np.hypot(y - a, x - b)/29 for a, b in ((70, 70), (120, 190), (200, 90))], axis=0)
    dark = (210 - 60*np.sqrt(np.maximum(0, 1 - away**2)) + 14*np.random.default_rng(0).standard_normal(away.shape)).astype('f4')
    found = segment(micrograph(dark, PIXEL), network, outline='half')
    turned = segment(micrograph(420 - dark, PIXEL), network, outline='half', cleaning={'bright': True})
    assert found.half.all() and turned.half.all() and (found.labels != turned.labels).mean() < .005
    assert (found.labels > 0).sum() == pytest.approx(.75*(away < 1).sum(), rel=.1)

def test_the_outline_of_a_movie_is_told_frame_by_frame(field, network):
    ball_of = np.where(field[1], 1, 0)
    frames = np.stack([field[0] - 30*ball_of, 200 + 0*field[0] + np.random.default_rng(3).normal(0, 14, field[0].shape)])
    found = segment(micrograph(frames.astype('f4'), PIXEL), network, outline='half', assess=False)
    assert found.half.dims == ('frame', 'particle') and found.half.values[0].sum() == 3 and not found.half.values[1].any()
    assert found.edge_labels.dims == found.labels.dims

def test_specks_are_taken_out_and_counted(network):
    noisy = 200 + 14*np.random.default_rng(0).standard_normal((400, 400)).astype('f4')
    every = segment(micrograph(noisy, PIXEL), network, threshold=.02, smallest=0, assess=False)
    some = segment(micrograph(noisy, PIXEL), network, threshold=.02, assess=False)
    n = len(np.unique(every.labels)) - 1
    assert every.specks == 0 and some.attrs['smallest'] == 10 and some.specks == n - (len(np.unique(some.labels)) - 1)
    assert len(measure_particles(some.labels, PIXEL, 0)) == len(measure_particles(every.labels, PIXEL, 10))

def test_python_warns_of_an_image_that_the_network_does_not_know(field, network, tmp_path):
    stripes = (200 + 40*np.sin(np.arange(270)/2.) + np.random.default_rng(0).normal(0, 3, (270, 270))).astype('f4')
    with pytest.warns(UserWarning, match='OUTSIDE what the network knows.*distance'): segment(micrograph(stripes, PIXEL), network)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*OUTSIDE')
        segment(micrograph(field[0], PIXEL), network)
        segment(micrograph(stripes, PIXEL), network, assess=False)
    tifffile.imwrite(tmp_path/'stripes.tif', stripes)
    done = segment_file(tmp_path/'stripes.tif', PIXEL, out=tmp_path/'out')
    assert 'OUTSIDE' in done.record['trust']['line'] and not any('OUTSIDE' in w for w in done.warnings)   # said once

def test_a_crystal_counts_by_what_it_holds(tmp_path):
    "A CIF that changed under its name is another one, Atoms are taken, and a name stays a name"
    from ase.build import bulk
    from hrtem_seg.segmentation.files import _settings_of
    def key(crystal): return _settings_of({}, 'weights', 1., 10., {}, Wanted(crystal=crystal))
    cif = tmp_path/'own.cif'
    bulk('Au', cubic=True).write(cif)
    gold = key(str(cif))
    assert key(cif) == gold
    bulk('Cu', cubic=True).write(cif)
    assert key(str(cif)) != gold
    assert key(bulk('Au', cubic=True)) != key(bulk('Cu', cubic=True))
    assert key('Au')['crystal'] == 'Au'

def test_small_values_are_not_rounded_away():
    from hrtem_seg.segmentation.files import _rounded
    table = pd.DataFrame({'diameter_nm': [3.123456], 'growth_nm_per_frame': [4.1234567e-5], 'mean_intensity': [np.nan]})
    written = _rounded(table)
    assert written.diameter_nm[0] == 3.1235 and written.growth_nm_per_frame[0] == 4.12346e-5
    assert written.mean_intensity.isna().all()
    assert _rounded(table[:0]).empty
