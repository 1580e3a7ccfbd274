"Files that people have: read right, refused by name, or doubted; and cleaning that touches only what needs it"
import importlib.util, io, random, struct, warnings, zlib
from pathlib import Path
import numpy as np, pytest, tifffile
from PIL import Image
from hrtem_seg.micrographs.cleaning import clean, find_spots, find_unknown, fit_light
from hrtem_seg.micrographs.micrograph import micrograph, rescale
from hrtem_seg.micrographs.readers import READERS, in_angstrom, look, read_micrograph

COUNTS = np.random.default_rng(0).poisson(100, (5, 64, 80)).astype('u2')
FORMATS = Path(__file__).resolve().parents[2]/'shared'/'real'/'formats'

def needs(package): return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f'{package} is not installed')
needs_formats = pytest.mark.skipif(not FORMATS.is_dir(), reason='sample files of microscopes are not beside the project')

def written(folder, name, a, **kwargs):
    tifffile.imwrite(folder/name, a, **kwargs)
    return folder/name

# TIFF

@pytest.mark.parametrize('unit, per_unit', [('nm', .06), ('pm', 60), ('A', .6), ('Angstrom', .6), ('um', 6e-5), ('micron', 6e-5), ('\\u00B5m', 6e-5)])
def test_units_of_imagej(tmp_path, unit, per_unit):
    f = written(tmp_path, 'a.tif', COUNTS[0], imagej=True, resolution=(1/per_unit, 1/per_unit), metadata={'unit': unit})
    im = read_micrograph(f)
    assert im.attrs['pixel'] == pytest.approx(.6, rel=1e-4) and (im.values == COUNTS[0]).all()

@pytest.mark.parametrize('unit', ['', 'px', 'pixel', 'inch'])
def test_no_calibration_is_guessed(tmp_path, unit):
    f = written(tmp_path, 'a.tif', COUNTS[0], imagej=True, resolution=(72, 72), metadata={'unit': unit})
    with pytest.raises(ValueError, match='a.tif does not say how large a pixel is'): read_micrograph(f)
    plain = written(tmp_path, 'b.tif', COUNTS[0], resolution=(72, 72), resolutionunit='INCH')
    with pytest.raises(ValueError, match='a resolution for printers is not used'): read_micrograph(plain)

def test_oblong_pixels_are_refused_and_rounding_is_not(tmp_path):
    def sized(x, y): return written(tmp_path, 'a.tif', COUNTS[0], imagej=True, resolution=(x, y), metadata={'unit': 'nm'})
    with pytest.raises(ValueError, match='nm high and .* nm wide: expected square ones'): read_micrograph(sized(20, 10))
    assert read_micrograph(sized(20000/1000, 20005/1000)).attrs['pixel'] == pytest.approx(.5, rel=1e-3)

def test_a_reciprocal_unit_is_no_image(tmp_path):
    f = written(tmp_path, 'a.tif', COUNTS[0], imagej=True, resolution=(10, 10), metadata={'unit': '1/nm'})
    with pytest.raises(ValueError, match='a Fourier transform or a spectrum'): read_micrograph(f, .6)

@pytest.mark.parametrize('n', [2, 3, 4, 5])
def test_frames_are_frames_and_not_colours(tmp_path, n):
    f = written(tmp_path, 'a.tif', COUNTS[:n], photometric='minisblack')
    im = read_micrograph(f, .6)
    assert im.dims == ('frame', 'y', 'x') and (im.values == COUNTS[:n]).all()
    assert (read_micrograph(f, .6, frame=n - 1).values == COUNTS[n - 1]).all()

@pytest.mark.parametrize('how', [dict(byteorder='>'), dict(compression='zlib'), dict(tile=(16, 16)), dict(bigtiff=True), dict(rowsperstrip=7)])
def test_every_way_of_storing_a_tiff(tmp_path, how):
    assert (read_micrograph(written(tmp_path, 'a.tif', COUNTS[0], **how), .6).values == COUNTS[0]).all()

def test_ome_default_unit_is_a_micrometre(tmp_path):
    f = written(tmp_path, 'a.ome.tif', COUNTS[0], metadata={'axes': 'YX', 'PhysicalSizeX': 6e-5, 'PhysicalSizeY': 6e-5})
    assert read_micrograph(f).attrs['pixel'] == pytest.approx(.6)

def test_greys_that_a_file_hides(tmp_path):
    small = COUNTS[0].astype('u1')
    inverted = written(tmp_path, 'inverted.tif', COUNTS[0], photometric='miniswhite')
    assert (read_micrograph(inverted, .6).values == 65535. - COUNTS[0]).all()
    ramp = np.stack([np.arange(256)[::-1]*257]*3).astype('u2')
    palette = written(tmp_path, 'palette.tif', small, photometric='palette', colormap=ramp)
    assert (read_micrograph(palette, .6).values == 255 - small.astype(int)).all()
    alpha = np.stack([small]*3 + [np.full_like(small, 255)], -1)
    assert (read_micrograph(written(tmp_path, 'alpha.tif', alpha, photometric='rgb', extrasamples=['unassalpha']), .6).values == small).all()

def png(path, a, colour):
    "A PNG of 16 bits as microscopes and ImageJ write them and Pillow does not"
    def chunk(kind, data): return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))
    head = struct.pack('>IIBBBBB', a.shape[1], a.shape[0], 16, colour, 0, 0, 0)
    rows = b''.join(b'\0' + row.astype('>u2').tobytes() for row in a)
    path.write_bytes(b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(rows)) + chunk(b'IEND', b''))

def test_a_png_of_16_bits_is_read_whole_or_refused(tmp_path):
    grey = COUNTS[0]
    opaque = np.full_like(grey, 65535)
    png(tmp_path/'grey.png', grey, 0)
    assert (read_micrograph(tmp_path/'grey.png', .6).values == grey).all()
    for name, planes, colour in (('alpha', [grey, opaque], 4), ('rgb', [grey]*3, 2), ('rgba', [grey]*3 + [opaque], 6)):
        png(tmp_path/f'{name}.png', np.stack(planes, -1), colour)
        with pytest.raises(ValueError, match=f'{name}.png is refused: it has 16 bits and colours or transparency'):
            read_micrograph(tmp_path/f'{name}.png', .6)

def test_what_is_no_micrograph_is_refused_in_a_sentence(tmp_path):
    rainbow = np.random.default_rng(1).integers(0, 2**16, (3, 256)).astype('u2')
    cases = {'mask': (dict(data=COUNTS[0] > 100), 'a mask'), 'wave': (dict(data=COUNTS[0].astype('c8')), 'complex64'),
             'rgb': (dict(data=np.moveaxis(COUNTS[:3], 0, -1), photometric='rgb'), 'in colour'),
             'palette': (dict(data=COUNTS[0].astype('u1'), photometric='palette', colormap=rainbow), 'palette of colours'),
             'planes': (dict(data=COUNTS[:3], photometric='rgb', planarconfig='separate'), 'in colour'),
             'tiny': (dict(data=COUNTS[0, :5, :7]), 'at least 16 pixels'), 'constant': (dict(data=COUNTS[0]*0), 'nothing to segment')}
    for name, (how, says) in cases.items():
        f = written(tmp_path, f'{name}.tif', how.pop('data'), **how)
        with pytest.raises(ValueError, match=says) as e: read_micrograph(f, .6)
        assert f'{name}.tif' in str(e.value)

def test_several_images_are_listed_and_one_is_chosen(tmp_path):
    with tifffile.TiffWriter(tmp_path/'a.tif') as t:
        t.write(COUNTS[0], metadata=None)
        t.write(COUNTS[1, :32, :32], metadata=None)
        t.write(COUNTS[2, ::2, ::2], subfiletype=1, metadata=None)   # a preview
    with pytest.raises(ValueError, match='holds 2 images: 0 .*64 × 80.*, 1 .*32 × 32'): read_micrograph(tmp_path/'a.tif', .6)
    assert (read_micrograph(tmp_path/'a.tif', .6, image=1).values == COUNTS[1, :32, :32]).all()
    assert len(look(tmp_path/'a.tif')) == 2

def test_nan_is_unknown_and_said_to_be(tmp_path):
    torn = COUNTS[0].astype('f4')
    torn[:3] = np.nan
    with pytest.warns(UserWarning, match='240 of 5120 pixels hold no finite number'): im = read_micrograph(written(tmp_path, 'a.tif', torn), .6)
    assert np.isfinite(im).all() and not im.valid[:3].any() and im.valid[3:].all()

# PNG and JPEG

def test_png_of_every_mode(tmp_path):
    small = COUNTS[0].astype('u1')
    images = {'L': Image.fromarray(small), 'I;16': Image.fromarray(COUNTS[0]), 'RGB': Image.fromarray(small).convert('RGB'), 'LA': Image.fromarray(small).convert('LA'),
              'P': Image.fromarray(small).convert('P')}
    for mode, im in images.items():
        im.save(tmp_path/'a.png')
        assert (read_micrograph(tmp_path/'a.png', .6).values == (COUNTS[0] if mode == 'I;16' else small)).all(), mode
    Image.fromarray(small > 100).save(tmp_path/'a.png')
    with pytest.raises(ValueError, match='one bit a pixel'): read_micrograph(tmp_path/'a.png', .6)
    clear = np.stack([small, np.where(np.arange(80) < 8, 0, 255) + 0*small], -1).astype('u1')
    Image.fromarray(clear, 'LA').save(tmp_path/'a.png')
    with pytest.warns(UserWarning, match='unknown'): assert not read_micrograph(tmp_path/'a.png', .6).valid[:, :8].any()

def test_one_flipped_bit_of_a_png_is_found(tmp_path):
    b = io.BytesIO()
    Image.fromarray(COUNTS[0].astype('u1')).save(b, 'PNG')
    whole, wrong = b.getvalue(), 0
    for i in range(40, len(whole), 97):
        (tmp_path/'a.png').write_bytes(whole[:i] + bytes([whole[i] ^ 4]) + whole[i+1:])
        try: wrong += not (read_micrograph(tmp_path/'a.png', .6).values == COUNTS[0].astype('u1')).all()
        except ValueError as e: assert 'a.png' in str(e)
    assert wrong == 0

# Other formats

@needs('mrcfile')
@pytest.mark.parametrize('order', ['<', '>'])
@pytest.mark.parametrize('dtype', ['i1', 'i2', 'u2', 'f4'])
def test_mrc_of_both_byte_orders(tmp_path, order, dtype):
    import mrcfile
    a = (COUNTS[0] % 100).astype(dtype)
    with mrcfile.new(tmp_path/'a.mrc') as m:
        m.set_data(a.astype(order + dtype))
        m.voxel_size = .6
    im = read_micrograph(tmp_path/'a.mrc')
    assert (im.values == a).all() and im.attrs['pixel'] == pytest.approx(.6)

@needs('mrcfile')
def test_mrc_without_calibration_stacks_and_waves(tmp_path):
    import mrcfile
    for size in (0, 1):
        with mrcfile.new(tmp_path/'a.mrc', overwrite=True) as m:
            m.set_data(COUNTS.astype('f4'))
            m.voxel_size = size
        with pytest.raises(ValueError, match='as it does where nobody knew'): read_micrograph(tmp_path/'a.mrc')
    assert read_micrograph(tmp_path/'a.mrc', .6).shape == COUNTS.shape
    with mrcfile.new(tmp_path/'w.mrc') as m: m.set_data(COUNTS[0].astype('c8'))
    with pytest.raises(ValueError, match='MRC mode 4'): read_micrograph(tmp_path/'w.mrc', .6)

@needs('rsciio')
@needs_formats
def test_files_of_real_microscopes():
    ceta = read_micrograph(FORMATS/'Camera Ceta Imaging Micro.emd', image=0)
    assert ceta.shape == (512, 512) and ceta.attrs['pixel'] == pytest.approx(31.388, rel=1e-4) and ceta.attrs['calibration'] == 'EMD'
    for ending in ('dm3', 'dm4'):
        with pytest.raises(ValueError, match='0.2 nm high and 1 nm wide'): read_micrograph(FORMATS/f'dmTest_float32_nonSquare_diffPixelSize.{ending}', .6)

def test_a_reader_that_is_missing_is_named_with_the_line_that_brings_it(tmp_path, monkeypatch):
    (tmp_path/'a.dm4').write_bytes(b'x')
    monkeypatch.setitem(READERS, '.dm4', (None, 'no_such_package'))
    with pytest.raises(ValueError, match=r'needs no_such_package, .* pip install "hrtem_seg\[microscope\]"'): read_micrograph(tmp_path/'a.dm4', .6)

def test_damaged_files_are_right_refused_by_name_or_doubted(tmp_path):
    "Files with checksums or compression: no damage gives other values without a word"
    rng = random.Random(0)
    seeds = {}
    for name, im in (('a.png', COUNTS[0].astype('u1')), ('b.png', COUNTS[0])): Image.fromarray(im).save(tmp_path/name)
    written(tmp_path, 'c.tif', COUNTS[0], compression='zlib')
    for f in list(tmp_path.iterdir()): seeds[f.name] = (f.read_bytes(), read_micrograph(f, .6).values)
    silent = []
    for i in range(150):
        name = rng.choice(sorted(seeds))
        whole, values = seeds[name]
        at = rng.randrange(len(whole))
        kind = rng.choice(('cut', 'flip', 'zero'))
        bad = {'cut': whole[:at], 'flip': whole[:at] + bytes([whole[at] ^ 1 << rng.randrange(8)]) + whole[at+1:], 'zero': whole[:at] + bytes(8) + whole[at+8:]}[kind]
        (tmp_path/f'x_{name}').write_bytes(bad)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter('always')
            try: found = read_micrograph(tmp_path/f'x_{name}', .6).values
            except (ValueError, OSError) as e:
                assert f'x_{name}' in str(e)
                continue
        if not said and name.endswith('png') and not np.array_equal(found, values): silent.append((name, kind, at))
    assert silent == []

# Cleaning

def test_cleaning_leaves_a_clean_image_to_the_bit_whatever_its_dose():
    for mean in (.2, 2, 50, 1000):
        a = np.random.default_rng(0).poisson(mean, (300, 300)).astype('f4')
        assert (clean(micrograph(a, .6)).values == a).all() or mean < 1

def test_a_particle_that_fills_the_field_is_not_taken_for_light():
    y, x = np.mgrid[:160, :160]
    a = 200 - 80*(np.hypot(y - 90, x - 60) < 50) + np.random.default_rng(0).normal(0, 10, (160, 160))
    assert clean(micrograph(a, .77), largest=50.).attrs['done'] == []

def test_light_is_found_whatever_share_of_the_field_is_particle():
    y, x = np.mgrid[:512, :512]
    rng = np.random.default_rng(0)
    light = 1 + .3*(x/512 - .5) - .4*(y/512 - .5)**2
    for n in (0, 10, 30):
        places = rng.uniform(0, 512, (n, 2))
        discs = np.any([np.hypot(y - a, x - b) < 30 for a, b in places], axis=0) if n else np.zeros(x.shape, bool)
        found, _ = fit_light((200 - 50*discs)*light + rng.normal(0, 15, x.shape))
        ratio = found/light
        assert np.ptp(ratio)/ratio.mean() < .05, n

def test_clipped_contrast_is_doubted_and_a_wedge_is_a_border():
    y, x = np.mgrid[:256, :256]
    a = np.random.default_rng(0).normal(200, 10, (256, 256)).astype('f4')
    wedge = np.where(x + y < 60, 0, a)
    assert find_unknown(wedge)[0][x + y < 60].all()
    clipped = micrograph(np.where(np.hypot(y - 128, x - 128) < 30, 0, a), .6)
    with pytest.warns(UserWarning, match='its contrast is clipped'): assert clean(clipped).valid.all()

def test_spots_are_few_pixels_that_stand_alone():
    a = np.random.default_rng(0).normal(200, 10, (128, 128)).astype('f4')
    assert not find_spots(a).any()
    a[5, 5] = 900
    a[0, 0] = 900
    a[60:63, 60:63] = 900
    a[100:110, 100:110] = 900    # too large for an X-ray
    assert find_spots(a).sum() == 11

def test_resampling_keeps_what_is_known():
    valid = np.ones((64, 80), bool)
    valid[:16] = False
    im = rescale(micrograph(COUNTS[0], .5, valid), 1.)
    assert im.shape == (32, 40) and not im.valid[:8].any() and im.valid[8:].all() and 'resampled' in im.attrs['done'][0]

@pytest.mark.parametrize('size, unit', [(float('nan'), 'nm'), (-1, 'nm'), ('x', 'nm'), (None, 'nm'), (float('inf'), 'nm'), (1, 5)])
def test_odd_sizes_are_no_calibration(size, unit): assert in_angstrom(size, unit) is None
