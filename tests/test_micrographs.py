"Files that people have: read right, refused by name, or doubted; and cleaning that touches only what needs it"
import importlib.util, io, random, struct, warnings, zlib
from pathlib import Path
import numpy as np, pytest, tifffile
import microscope_files as files
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter
from hrtem_seg.micrographs.cleaning import clean, find_ink, find_spots, find_unknown, fit_light
from hrtem_seg.micrographs.micrograph import micrograph, rescale
from hrtem_seg.micrographs.readers import READERS, in_angstrom, look, look_closer, read_micrograph

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
    with pytest.raises(ValueError, match='a.tif: it does not say how large a pixel is'): read_micrograph(f)
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
@pytest.mark.parametrize('order', '<>')
@pytest.mark.parametrize('says, dtype, warned', [('signed', 'i1', False), ('unsigned', 'u1', False), ('largest value', 'u1', False), ('nothing', 'i1', True)])
def test_bytes_of_mrc_have_the_sign_that_the_header_says(tmp_path, order, says, dtype, warned, recwarn):
    import mrcfile
    a = np.arange(-128, 128, dtype='i1').repeat(2).reshape(2, 16, 16)
    f = files.write_mrc(tmp_path/'a.mrc', a, order=order)
    with mrcfile.mmap(f, mode='r+') as m:
        if 'signed' in says: m.header.extra2 = np.frombuffer(bytes(40) + struct.pack(f'{order}2i', 1146047817, says == 'signed') + bytes(36), 'V84')[0]
        if says == 'largest value': m.header.dmin, m.header.dmax, m.header.dmean = 0, 255, 127.5
    assert (read_micrograph(f, .6).values == a.view(dtype)).all()
    assert (read_micrograph(f, .6, frame=0).values == a[0].view(dtype)).all()   # the darker half: below 0 where signed
    assert any('read as signed' in str(w.message) for w in recwarn) == warned

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

# Formats of microscopes, written byte by byte

def said_by(work):
    "(what it gives, the warnings it says)"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        found = work()
    return found, ' '.join(str(w.message) for w in said)

@needs('rsciio')
def test_dm3_image_and_stack(tmp_path):
    about = {'Microscope Info': {'Voltage': 300000., 'Indicated Magnification': 500000.},
             'DataBar': {'Exposure Time (s)': .5}}
    one = files.write_dm3(tmp_path/'a.dm3', files.dm_image(COUNTS[0], tags=about))
    (picture,) = look(one)   # the thumbnail is no image of its own
    assert picture.about == {'voltage_kV': 300., 'magnification': 500000., 'exposure_s': .5}
    im = read_micrograph(one)
    assert (im.values == COUNTS[0]).all()
    assert im.attrs['pixel'] == pytest.approx(.6)
    stack = files.write_dm3(tmp_path/'b.dm3', files.dm_image(COUNTS))
    assert (read_micrograph(stack).values == COUNTS).all()
    assert (read_micrograph(stack, frame=3).values == COUNTS[3]).all()

@needs('rsciio')
def test_dm3_of_an_image_its_fft_and_colours(tmp_path):
    fft = files.dm_image(COUNTS[0].astype('c8'), unit='1/nm', name='FFT')
    colours = files.dm_image(COUNTS[0].astype('u4'), kind='rgba', name='RGB')
    f = files.write_dm3(tmp_path/'a.dm3', files.dm_image(COUNTS[0]), fft, colours)
    assert (read_micrograph(f).values == COUNTS[0]).all()
    assert ['complex' in look(f)[1].refused, 'colour' in look(f)[2].refused] == [True, True]
    with pytest.raises(ValueError, match='image 1 .FFT. is refused: its values are complex'):
        read_micrograph(f, image=1)
    two = files.write_dm3(tmp_path/'b.dm3', files.dm_image(COUNTS[0]), files.dm_image(COUNTS[1], name='second'))
    with pytest.raises(ValueError, match='holds 2 images: .* 1 .second.* choose one by image='):
        read_micrograph(two)
    assert (read_micrograph(two, image=1).values == COUNTS[1]).all()

@needs('rsciio')
@pytest.mark.parametrize('unit, says', [('', 'does not say how large'), ('px', 'does not say how large'),
                                        ('1/nm', 'a Fourier transform'), ('1 / nm', 'a Fourier transform'),
                                        (None, 'a tag that its reader needs is missing')])
def test_dm3_units_that_are_no_length(tmp_path, unit, says):
    f = files.write_dm3(tmp_path/'a.dm3', files.dm_image(COUNTS[0], unit=unit))
    with pytest.raises(ValueError, match=f'a.dm3.*{says}'):
        read_micrograph(f)

@needs('rsciio')
def test_dm3_pixels_of_a_rounding_camera_and_oblong_ones(tmp_path):
    rounded = files.write_dm3(tmp_path/'a.dm3', files.dm_image(COUNTS[0], size=(.05070176, .05071414)))
    assert read_micrograph(rounded).attrs['pixel'] == pytest.approx(.5070795)
    oblong = files.write_dm3(tmp_path/'b.dm3', files.dm_image(COUNTS[0], size=(.06, .0606)))
    with pytest.raises(ValueError, match='0.06 nm high and 0.0606 nm wide: expected square ones'):
        read_micrograph(oblong)

@needs('rsciio')
def test_dm3_of_another_length_than_it_says(tmp_path):
    f = files.write_dm3(tmp_path/'a.dm3', files.dm_image(COUNTS[0]))
    assert said_by(lambda: look(f))[1] == ''
    f.write_bytes(f.read_bytes() + b'more')
    assert 'but the file has' in said_by(lambda: look(f))[1]

@needs('rsciio')
def test_dm3_of_an_older_version_is_not_doubted(tmp_path):
    f = files.write_dm3(tmp_path/'a.dm3', files.dm_image(COUNTS[0]), end=4)
    im, said = said_by(lambda: read_micrograph(f))
    assert (im.values == COUNTS[0]).all()
    assert said == ''

@needs('rsciio')
@pytest.mark.parametrize('shape, leading, says', [((5, 64, 80), 'eV', 'a spectrum image or a scan, no movie'),
                                                  ((5, 64, 80), '1/nm', 'a spectrum image or a scan, no movie'),
                                                  ((2, 3, 64, 80), 's', 'a scan or a spectrum image, no movie')])
def test_planes_that_are_no_frames(tmp_path, shape, leading, says):
    planes = np.random.default_rng(0).poisson(100, shape).astype('u2')
    f = files.write_dm3(tmp_path/'a.dm3', files.dm_image(planes, leading=leading))
    with pytest.raises(ValueError, match=f'a.dm3 is refused: its planes lie along .*{says}'):
        read_micrograph(f)

@needs('rsciio')
def test_what_a_reader_says_goes_to_the_warnings_and_not_to_stdout(tmp_path, capsys):
    f = files.write_ser(tmp_path/'a_1.ser', COUNTS[:1])
    (tmp_path/'a.emi').write_bytes(files.write_emi(tmp_path/'b.emi').read_bytes().replace(b'AcquireDate', b'AcquireXXXX'))
    im, said = said_by(lambda: read_micrograph(f))
    assert im.attrs['pixel'] == pytest.approx(.6)
    assert 'AcquireDate not found' in said
    assert capsys.readouterr() == ('', '')

@needs('rsciio')
def test_an_emi_without_its_ser(tmp_path):
    emi = files.write_emi(tmp_path/'a.emi')
    with pytest.raises(ValueError, match='a.emi .*no SER file lies beside it'):
        read_micrograph(emi)

@needs('rsciio')
@pytest.mark.parametrize('wide', [False, True])
def test_ser_with_and_without_its_emi(tmp_path, wide):
    f = files.write_ser(tmp_path/'a_1.ser', COUNTS, wide=wide)
    with pytest.raises(ValueError, match='a SER file without its EMI, which has the unit'):
        read_micrograph(f)
    assert (read_micrograph(f, .6).values == COUNTS).all()
    emi = files.write_emi(tmp_path/'a.emi')
    for path in (f, emi):
        im = read_micrograph(path)
        assert (im.values == COUNTS).all()
        assert im.attrs['pixel'] == pytest.approx(.6)
        assert im.attrs['voltage_kV'] == 300
    files.write_emi(tmp_path/'a.emi', mode='Diffraction')
    with pytest.raises(ValueError, match='its axes are in 1 / nm'):
        read_micrograph(f)

@needs('rsciio')
@pytest.mark.parametrize('n', [1, 3])
def test_interrupted_ser(tmp_path, n):
    f = files.write_ser(tmp_path/'a_1.ser', COUNTS[:n], planned=5)
    im = read_micrograph(f, .6)
    assert (im.values == (COUNTS[0] if n == 1 else COUNTS[:n])).all()
    assert n == 1 or 'interrupted: 3 of 5 frames were recorded' in im.attrs['done']

@needs('rsciio')
@needs('h5py')
def test_emd_of_velox_and_of_berkeley(tmp_path):
    for a in (COUNTS[0], COUNTS):
        im = read_micrograph(files.write_velox(tmp_path/'v.emd', a))
        assert (im.values == a).all()
        assert im.attrs['pixel'] == pytest.approx(.6)
        assert (im.attrs['voltage_kV'], im.attrs['exposure_s']) == (300, .5)
    mixed = files.write_velox(tmp_path/'m.emd', COUNTS[0], size=(6e-5, 6e-5), units=('um', 'um'))
    assert read_micrograph(mixed).attrs['pixel'] == pytest.approx(.6)
    for unit in ('[n_m]', 'n_m', 'nm'):
        berkeley = files.write_berkeley(tmp_path/'b.emd', COUNTS[0], unit=unit)
        assert (read_micrograph(berkeley).values == COUNTS[0]).all()
        assert read_micrograph(berkeley).attrs['pixel'] == pytest.approx(.6)
    for f in (files.write_velox(tmp_path/'n.emd', COUNTS[0], size=None),
              files.write_berkeley(tmp_path/'p.emd', COUNTS[0], 1, '')):
        with pytest.raises(ValueError, match='does not say how large a pixel is .*none: EMD gives 1.0'):
            read_micrograph(f)
        assert read_micrograph(f, .6).attrs['pixel'] == .6

@needs('mrcfile')
@pytest.mark.parametrize('mode', [3, 4, 16, 101])
def test_mrc_modes_that_are_no_intensity(tmp_path, mode):
    f = files.write_mrc(tmp_path/'a.mrc', COUNTS[:1].astype('f4'), mode=mode)
    with pytest.raises(ValueError, match=f'a.mrc is refused: its values are of MRC mode {mode}'):
        read_micrograph(f, .6)

@needs('mrcfile')
def test_mrc_without_a_machine_stamp(tmp_path):
    for order in '<>':
        f = files.write_mrc(tmp_path/'a.mrc', COUNTS[:1].astype('f4'), order=order, stamp=False)
        im, said = said_by(lambda: read_micrograph(f))
        assert (im.values == COUNTS[0]).all()
        assert 'machine stamp' in said

@needs('mrcfile')
def test_mrc_stack_volume_and_volumes(tmp_path):
    a = COUNTS[:4].astype('f4')
    stack = files.write_mrc(tmp_path/'stack.mrc', a)
    im, said = said_by(lambda: read_micrograph(stack))
    assert (im.values == a).all()
    assert said == ''
    volume = files.write_mrc(tmp_path/'volume.mrc', a, mz=4, space_group=1)
    im, said = said_by(lambda: read_micrograph(volume))
    assert (im.values == a).all()
    assert 'its 4 sections are one volume' in said
    volumes = files.write_mrc(tmp_path/'volumes.mrc', a, mz=2, space_group=401)
    with pytest.raises(ValueError, match='2 volumes of 2 sections: expected images'):
        read_micrograph(volumes)

@needs('mrcfile')
def test_mrc_whose_values_are_not_what_its_header_says(tmp_path):
    import mrcfile
    with mrcfile.new(tmp_path/'a.mrc') as m:
        m.set_data(COUNTS[0].astype('f4'))
        m.voxel_size = .6
    assert said_by(lambda: read_micrograph(tmp_path/'a.mrc'))[1] == ''
    whole = bytearray((tmp_path/'a.mrc').read_bytes())
    whole[1024 + 4*100:1024 + 4*104] = bytes(16)
    (tmp_path/'a.mrc').write_bytes(whole)
    assert 'its header speaks of values from' in said_by(lambda: read_micrograph(tmp_path/'a.mrc'))[1]

def test_fei_tiff_is_in_metres(tmp_path):
    im = read_micrograph(files.write_fei(tmp_path/'a.tif', COUNTS[0]))
    assert im.attrs['pixel'] == pytest.approx(.6)
    assert im.attrs['calibration'] == 'FEI TIFF'
    assert im.attrs['voltage_kV'] == 300

def test_a_pixel_that_is_too_large_is_said_in_nm_and_by_whom(tmp_path):
    f = files.write_fei(tmp_path/'a.tif', COUNTS[0], size=2.7e-8)
    with pytest.raises(ValueError, match=r'a.tif: its pixel is 27 nm large \(FEI TIFF\): expected 0.001 to 10 nm'):
        read_micrograph(f)
    with pytest.raises(ValueError, match='contradict'):
        read_micrograph(f, .6)
    assert said_by(lambda: read_micrograph(f, .6, insist=True))[0].attrs['pixel'] == .6

def test_values_that_hold_nothing_are_known_when_they_are_looked_at(tmp_path):
    nothing = np.full((64, 80), np.nan, 'f4')
    dark_first = np.concatenate([0*COUNTS[:1], COUNTS[1:]])
    cases = {'nan': (nothing, '0.0% of the pixels are known'), 'dark': (0*COUNTS[0], 'every pixel of the micrograph is 0'),
             'tiny': (COUNTS[0, :8, :8], 'it has 8 × 8 pixels: expected at least 16')}
    for name, (a, says) in cases.items():
        f = written(tmp_path, f'{name}.tif', a)
        assert says in look_closer(f, look(f)[0]).refused
    movie = look(written(tmp_path, 'movie.tif', dark_first, photometric='minisblack'))[0]
    closer = look_closer(tmp_path/'movie.tif', movie)
    assert closer.refused == ''
    assert closer.notes[-1] == 'its first frame: every pixel of the micrograph is 0: nothing to segment'

# What a damaged TIFF still tells

def with_tag(path, code, change):
    "Overwrite the values of a tag of a TIFF's first page"
    with tifffile.TiffFile(path) as t:
        tag = t.pages[0].tags[code]
        where, n = tag.valueoffset, tag.valuebytecount
    whole = bytearray(path.read_bytes())
    whole[where:where + n] = change(bytes(whole[where:where + n]))
    path.write_bytes(whole)
    return path

@pytest.mark.parametrize('code, change, says', [
    (257, lambda v: (32).to_bytes(4, 'little'), 'bytes of image data where its size asks for'),    # half as high
    (258, lambda v: (8).to_bytes(2, 'little'), 'bytes of image data where its size asks for'),     # bits a sample
    (278, lambda v: (9).to_bytes(4, 'little'), 'pieces of image data where its size asks for'),    # rows a strip
    (273, lambda v: v[4:8] + v[4:], 'uses the same image data twice'),
    (273, lambda v: (int.from_bytes(v[:4], 'little') + 40).to_bytes(4, 'little') + v[4:], 'of its pieces overlap'),
    (273, lambda v: (4).to_bytes(4, 'little') + v[4:], 'lies on its header')])
def test_directories_that_contradict_themselves(tmp_path, code, change, says):
    f = with_tag(written(tmp_path, 'a.tif', COUNTS[0], rowsperstrip=7), code, change)
    try:
        assert says in said_by(lambda: read_micrograph(f, .6))[1]
    except ValueError as e:
        assert 'a.tif' in str(e)

def test_a_tiff_that_was_sent_as_text_is_doubted(tmp_path):
    f = written(tmp_path, 'a.tif', COUNTS[0])
    assert said_by(lambda: read_micrograph(f, .6))[1] == ''
    f.write_bytes(f.read_bytes().replace(b'd\0', b'd\0\r'))   # as line ends grow
    assert 'belong to nothing' in said_by(lambda: read_micrograph(f, .6))[1]

def test_an_orientation_that_is_not_heeded_is_said(tmp_path):
    f = written(tmp_path, 'a.tif', COUNTS[0], extratags=[(274, 'H', 1, 3, True)])
    im, said = said_by(lambda: read_micrograph(f, .6))
    assert 'orientation tag (3) is not heeded' in said

@needs('rsciio')
@needs('mrcfile')
def test_damaged_headers_are_never_read_as_something_else_by_a_bare_exception(tmp_path):
    "Every damage ends in values, in a warning or in one of three errors that name the file"
    seeds = [files.write_dm3(tmp_path/'a.dm3', files.dm_image(COUNTS[0])), files.write_ser(tmp_path/'b_1.ser', COUNTS[:2]),
             files.write_mrc(tmp_path/'c.mrc', COUNTS[:2].astype('f4')), files.write_fei(tmp_path/'d.tif', COUNTS[0]),
             files.write_velox(tmp_path/'e.emd', COUNTS[0])]
    rng = random.Random(1)
    for i in range(150):
        f = seeds[i % len(seeds)]
        whole = f.read_bytes()
        at = rng.randrange(600)
        bad = tmp_path/f'x_{f.name}'
        bad.write_bytes(whole[:at] + rng.randbytes(2) + whole[at + 2:])
        try:
            said_by(lambda: read_micrograph(bad, .6))
        except (ValueError, OSError, MemoryError) as e:
            assert bad.name in str(e)

# Movies

def test_a_folder_of_frames_is_a_movie_in_the_order_of_counting(tmp_path):
    for i, plane in enumerate(COUNTS):
        second = tmp_path/'Hour_00'/'Minute_00'/f'Second_{i//2:02d}'
        second.mkdir(parents=True, exist_ok=True)
        written(second, f'frame_{i + 8}.tif', plane)   # 8, 9, 10, 11, 12
    (picture,) = look(tmp_path)
    assert (picture.frames, picture.shape) == (5, (64, 80))
    assert (read_micrograph(tmp_path, .6).values == COUNTS).all()
    assert (read_micrograph(tmp_path, .6, frame=2).values == COUNTS[2]).all()

@needs('rsciio')
def test_a_folder_of_dm_frames(tmp_path):
    second = tmp_path/'Hour_00'/'Minute_00'/'Second_00'
    second.mkdir(parents=True)
    for i, plane in enumerate(COUNTS):
        files.write_dm3(second/f'in_situ_{i:04d}.dm3', files.dm_image(plane))
    im = read_micrograph(tmp_path, lazy=True)
    assert im.attrs['pixel'] == pytest.approx(.6)
    assert im.chunks[0] == (1,)*5
    assert (im.values == COUNTS).all()

def test_frames_that_are_not_of_one_movie(tmp_path):
    for i in range(3):
        written(tmp_path, f'f{i}.tif', COUNTS[i])
    written(tmp_path, 'f1.tif', COUNTS[1, :32])
    with pytest.raises(ValueError, match='f1.tif has 32 × 80 pixels .* but the first frame 64 × 80'):
        read_micrograph(tmp_path, .6)
    written(tmp_path, 'f1.tif', COUNTS[:2], photometric='minisblack')
    with pytest.raises(ValueError, match='f1.tif holds 2 frames: expected one frame a file'):
        read_micrograph(tmp_path, .6)
    Image.fromarray(COUNTS[0]).save(tmp_path/'f1.png')
    with pytest.raises(ValueError, match=r'several formats \(.png, .tif\)'):
        read_micrograph(tmp_path, .6)
    (tmp_path/'empty').mkdir()
    with pytest.raises(ValueError, match='a folder without a file that can be read'):
        read_micrograph(tmp_path/'empty', .6)

def test_averaging_and_binning_of_a_movie(tmp_path):
    f = written(tmp_path, 'a.tif', COUNTS, photometric='minisblack')
    im = read_micrograph(f, .6, average=2, bin=2)
    expected = COUNTS[:4].reshape(2, 2, 32, 2, 40, 2).mean((1, 3, 5))
    assert np.allclose(im.values, expected)
    assert im.attrs['pixel'] == pytest.approx(1.2)
    assert im.attrs['done'][-2:] == ['means of 2 frames one after another, the last 1 left out', 'means of 2 × 2 pixels']
    lazy = read_micrograph(f, .6, average=2, bin=2, lazy=True)
    assert lazy.chunks[0] == (1, 1)
    assert (lazy.values == im.values).all()
    for wrong in (dict(average=6), dict(average=0), dict(bin=5), dict(bin=True), dict(average=2, frame=1)):
        with pytest.raises(ValueError, match='a.tif: (average|bin)='):
            read_micrograph(f, .6, **wrong)

def test_a_lazy_movie_with_holes(tmp_path):
    torn = COUNTS.astype('f4')
    torn[3, :2] = np.nan
    f = written(tmp_path, 'a.tif', torn, photometric='minisblack')
    im, said = said_by(lambda: read_micrograph(f, .6, lazy=True))
    assert '160 of 5120 pixels hold no finite number' in said
    assert im.chunks is not None
    assert not im.valid[:2].any()
    assert np.isfinite(im.values).all()

# Bars, text and masks

@pytest.mark.parametrize('value', [0, 255])
@pytest.mark.parametrize('size', [14, 24])
def test_burnt_in_text_counts_as_unknown(value, size):
    a = np.random.default_rng(0).normal(130, 14, (256, 320)).clip(1, 254).astype('u1')
    im = Image.fromarray(a)
    draw = ImageDraw.Draw(im)
    draw.text((20, 205), '5 nm', fill=value, font_size=size)
    draw.line((20, 240, 90, 240), fill=value, width=3)
    burnt = np.asarray(im)
    cleaned = clean(micrograph(burnt, .6))
    unknown = ~cleaned.valid.values
    assert unknown[burnt != a].mean() > .9
    assert unknown.mean() < .1
    assert 'text of one value marked as unknown' in cleaned.attrs['done'][0]

def test_clipped_noise_is_no_text():
    a = gaussian_filter(np.random.default_rng(0).normal(0, 1, (256, 256)), 1.5)
    for share in (.01, .35, 2, 10):
        low, high = np.percentile(a, (share, 100 - share))
        stretched = (255*(a - low)/(high - low)).clip(0, 255).astype('u1')
        assert not find_ink(stretched).any()

def test_a_drawn_mask_counts_as_unknown(tmp_path):
    drawn = np.zeros((64, 80), bool)
    drawn[50:, :30] = True
    Image.fromarray(drawn).save(tmp_path/'unknown.png')
    im = micrograph(COUNTS[0], .6)
    for mask in (drawn, tmp_path/'unknown.png', str(tmp_path/'unknown.png')):
        assert (clean(im, unknown=mask).valid.values == ~drawn).all()
    with pytest.raises(ValueError, match='expected the same'):
        clean(im, unknown=drawn[:-1])
    with pytest.raises(ValueError, match='the mask leaves 0.0%'):
        clean(im, unknown=np.ones((64, 80), bool))
    with pytest.raises(FileNotFoundError, match='none.png'):
        clean(im, unknown=tmp_path/'none.png')

def test_ome_movies_and_what_pillow_writes_are_not_doubted(tmp_path):
    movie = written(tmp_path, 'a.ome.tif', COUNTS, metadata={'axes': 'TYX'})
    im, said = said_by(lambda: read_micrograph(movie, .6))
    assert (im.values == COUNTS).all()
    assert said == ''
    for compression in (None, 'tiff_deflate', 'packbits'):
        Image.fromarray(COUNTS[0]).save(tmp_path/'b.tif', compression=compression)
        im, said = said_by(lambda: read_micrograph(tmp_path/'b.tif', .6))
        assert (im.values == COUNTS[0]).all()
        assert said == ''

@pytest.mark.skipif(importlib.util.find_spec('imagecodecs') is not None, reason='imagecodecs is installed')
def test_a_compression_that_needs_a_package_names_it(tmp_path):
    Image.fromarray(COUNTS[0]).save(tmp_path/'a.tif', compression='tiff_lzw')
    with pytest.raises(ValueError, match='a.tif .* pip install imagecodecs'):
        read_micrograph(tmp_path/'a.tif', .6)

def test_one_bit_palette_and_alpha_of_a_png_in_colour(tmp_path):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (64, 80, 4)).astype('u1'), 'RGBA').save(tmp_path/'a.png')
    with pytest.raises(ValueError, match='a.png is refused: it is in colour'):
        read_micrograph(tmp_path/'a.png', .6)
    Image.fromarray(rng.integers(0, 255, (64, 80, 3)).astype('u1')).convert('P').save(tmp_path/'b.png')
    with pytest.raises(ValueError, match='b.png is refused: it has a palette of colours'):
        read_micrograph(tmp_path/'b.png', .6)
