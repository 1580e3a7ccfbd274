"Files as microscopes write them, small, written byte by byte from the formats' descriptions"
import json, struct
from pathlib import Path
import numpy as np

# DigitalMicrograph 3

DM_TYPES = {'i2': 1, 'f4': 2, 'c8': 3, 'u1': 6, 'i4': 7, 'rgba': 23, 'u2': 10, 'u4': 11, 'f8': 12, 'c16': 13}
DM_NUMBERS = {'i2': 2, 'u2': 4, 'i4': 3, 'u4': 5, 'f4': 6, 'f8': 7, 'u1': 10}

def _dm_tag(name, value):
    "One entry of a tag group: a group from a dictionary or a list, else a value"
    title = name.encode('latin1')
    if isinstance(value, (dict, list)):
        return struct.pack('>Bh', 20, len(title)) + title + _dm_group(value)
    return struct.pack('>Bh', 21, len(title)) + title + _dm_value(value)

def _dm_group(entries):
    pairs = entries.items() if isinstance(entries, dict) else [('', v) for v in entries]
    return struct.pack('>BBi', 1, 0, len(pairs)) + b''.join(_dm_tag(k, v) for k, v in pairs)

def _dm_value(value):
    if isinstance(value, str):
        return b'%%%%' + struct.pack('>iiii', 3, 20, 4, len(value)) + value.encode('utf-16-le')
    if isinstance(value, float):
        return b'%%%%' + struct.pack('>ii', 1, 6) + struct.pack('<f', value)
    if isinstance(value, int):
        return b'%%%%' + struct.pack('>ii', 1, 5) + struct.pack('<I', value)
    flat = np.ascontiguousarray(value).ravel()
    kind = flat.dtype.str[1:]
    if kind in ('c8', 'c16'):   # an array of structures of two numbers
        part = {'c8': 6, 'c16': 7}[kind]
        head = struct.pack('>iiiiiiiiii', 8, 20, 15, 0, 2, 0, part, 0, part, flat.size)
    else:
        head = struct.pack('>iiii', 3, 20, DM_NUMBERS[kind], flat.size)
    return b'%%%%' + head + flat.tobytes()

def dm_image(a, size=(.06, .06), unit='nm', name='Image', tags=None, kind=None, leading='s'):
    "One entry of an image list: `size` is (y, x), `unit` None leaves the tag out, `leading` is the unit of other axes"
    axes = []
    more = a.ndim - 2
    sizes = (1.,)*more + tuple(size)
    units = (leading,)*more + (unit, unit)
    for n, its_unit in zip(reversed(sizes), reversed(units)):
        axis = {'Origin': 0., 'Scale': float(n)}
        axes.append(axis if its_unit is None else axis | {'Units': its_unit})
    brightness = {'Origin': 0., 'Scale': 1., 'Units': ''}
    shape = [int(n) for n in reversed(a.shape)]
    kind = kind or a.dtype.str[1:]
    data = {'Calibrations': {'Brightness': brightness, 'Dimension': axes}, 'Data': a, 'DataType': DM_TYPES[kind],
            'Dimensions': shape, 'PixelDepth': int(a.dtype.itemsize)}
    return {'ImageData': data, 'ImageTags': tags or {'GMS Version': {'Saved': '3.20'}}, 'Name': name}

def write_dm3(path, *images, thumbnail=True, end=8):
    "A DM3 file of a list of `dm_image`, the first of which is a thumbnail; older versions end after 4 zeros, not 8"
    entries = list(images)
    root = {'ImageList': entries}
    if thumbnail:
        preview = np.zeros((16, 16), 'u4')
        entries.insert(0, dm_image(preview, (1., 1.), '', 'thumbnail', kind='rgba'))
        root['Thumbnails'] = [{'ImageIndex': 0}]
    body = _dm_group(root)
    Path(path).write_bytes(struct.pack('>iii', 3, len(body), 1) + body + bytes(end))
    return Path(path)

# TIA: SER and EMI

TIA_TYPES = {'u1': 1, 'u2': 2, 'u4': 3, 'i1': 4, 'i2': 5, 'i4': 6, 'f4': 7, 'f8': 8, 'c8': 9}

def write_ser(path, frames, size=6e-11, planned=None, wide=False):
    "A TIA series of `frames` (n, ny, nx), pixels of `size` m, of which `planned` were asked for; `wide`: since TIA 4.7"
    n = len(frames)
    planned = planned or n
    dimension = struct.pack('<IddI', planned, 0., 1., 0) + struct.pack('<I', 6) + b'Number' + struct.pack('<I', 0)
    place = 'Q' if wide else 'I'   # places in a file larger than 4 GB
    width = struct.calcsize(f'<{place}')
    start = 26 + width + len(dimension)   # of the table of places, first of the data and then of their tags
    kind = TIA_TYPES[frames.dtype.str[1:]]
    blocks = []
    for frame in frames:
        head = struct.pack('<ddIddIHII', 0., size, 0, 0., size, 0, kind, frame.shape[1], frame.shape[0])
        blocks.append(head + frame[::-1].tobytes())
    tag = struct.pack('<HHI', 0x4152, 0, 0)
    first = start + 2*width*planned
    step = len(blocks[0]) + len(tag)
    places = [first + i*step for i in range(n)] + [0]*(planned - n)
    tag_places = [p + len(blocks[0]) if p else 0 for p in places]
    version = 0x0220 if wide else 0x0210
    head = struct.pack('<HHHIIII', 0x4949, 0x0197, version, 0x4122, 0x4152, planned, n)
    head += struct.pack(f'<{place}I', start, 1) + dimension
    table = struct.pack(f'<{2*planned}{place}', *places, *tag_places)
    Path(path).write_bytes(head + table + b''.join(b + tag for b in blocks))
    return Path(path)

def write_emi(path, mode='TEM uP SA Zoom Image', voltage=300):
    "What belongs to a SER file: the microscope's settings as XML between other bytes"
    def known(label, value, unit):
        return f'<Data><Label>{label}</Label><Value>{value}</Value><Unit>{unit}</Unit></Data>'
    about = known('High tension', voltage, 'kV') + known('Mode', mode, '') + known('Magnification', 400000, 'x')
    xml = f'<ObjectInfo><AcquireDate>Tue Nov 03 10:00:00 2026</AcquireDate><AcquireInfo><CameraNamePath>Ceta' \
          f'</CameraNamePath></AcquireInfo><ExperimentalDescription><Root>{about}</Root></ExperimentalDescription>' \
          f'</ObjectInfo>'
    Path(path).write_bytes(b'JIDA\0' + xml.encode() + b'\0'*16)
    return Path(path)

# EMD

def write_velox(path, a, size=(6e-11, 6e-11), units=('m', 'm')):
    "A Velox EMD of one image or of frames; `size` None leaves the pixel size out"
    import h5py
    stack = np.atleast_3d(np.moveaxis(a, 0, -1) if a.ndim == 3 else a)
    result = {'DetectorIndex': '0'}
    if size is not None:
        result |= {'PixelSize': {'height': str(size[0]), 'width': str(size[1])},
                   'PixelUnitX': units[1], 'PixelUnitY': units[0], 'Offset': {'x': '0', 'y': '0'}}
    about = {'BinaryResult': result, 'Core': {}, 'Scan': {}, 'Optics': {'AccelerationVoltage': '300000'},
             'Detectors': {'Detector-0': {'DetectorName': 'BM-Ceta', 'ExposureTime': '0.5'}},
             'Acquisition': {'AcquisitionStartDatetime': {'DateTime': '1596041299'}}, 'Instrument': {}}
    text = np.frombuffer(json.dumps(about).encode().ljust(6000, b'\0'), 'u1')
    with h5py.File(path, 'w') as f:
        f.create_dataset('Version', data=[json.dumps({'format': 'Velox', 'version': '1.3'}).encode()],
                         dtype=h5py.string_dtype())
        group = f.create_group('Data/Image/0123456789abcdef')
        group.create_dataset('Data', data=stack, chunks=(*stack.shape[:2], 1))
        columns = np.repeat(text[:, None], stack.shape[2], 1)
        group.create_dataset('Metadata', data=columns)
    return Path(path)

def write_berkeley(path, a, size=.06, unit='[n_m]'):
    "A Berkeley EMD of one image"
    import h5py
    with h5py.File(path, 'w') as f:
        f.attrs['version_major'] = 0
        f.attrs['version_minor'] = 2
        group = f.create_group('data/image')
        group.attrs['emd_group_type'] = 1
        group.create_dataset('data', data=a.T)   # x first, as the format wants it
        for i, (n, name) in enumerate(zip(a.T.shape, 'xy'), start=1):
            axis = group.create_dataset(f'dim{i}', data=np.arange(n)*size)
            axis.attrs['name'] = name
            axis.attrs['units'] = unit
    return Path(path)

# MRC

def write_mrc(path, a, size=.6, mode=None, mz=1, space_group=0, order='<', stamp=True):
    "An MRC file of (nz, ny, nx) values; the header's statistics are undetermined"
    modes = {'i1': 0, 'i2': 1, 'f4': 2, 'c8': 4, 'u2': 6, 'f2': 12}
    mode = modes[a.dtype.str[1:]] if mode is None else mode
    nz, ny, nx = a.shape
    head = struct.pack(order + '10i', nx, ny, nz, mode, 0, 0, 0, nx, ny, mz)
    head += struct.pack(order + '6f', nx*size, ny*size, mz*size, 90, 90, 90)
    head += struct.pack(order + '3i3f', 1, 2, 3, 0, -1, -2)
    head += struct.pack(order + '2i', space_group, 0) + bytes(8) + bytes(4) + struct.pack(order + 'i', 20140)
    head = head.ljust(196, b'\0') + bytes(12) + b'MAP '
    mark = {'<': b'\x44\x44\0\0', '>': b'\x11\x11\0\0'}[order] if stamp else bytes(4)
    head += mark + struct.pack(order + 'fi', -1, 0)
    Path(path).write_bytes(head.ljust(1024, b'\0') + a.astype(a.dtype.newbyteorder(order)).tobytes())
    return Path(path)

# FEI TIFF

def write_fei(path, a, size=6e-11):
    "A TIFF with the settings of an FEI microscope, which are in metres"
    import tifffile
    text = f'[User]\r\nDate=11/03/2026\r\n[Beam]\r\nHV=300000\r\n[Scan]\r\nPixelWidth={size}\r\nPixelHeight={size}\r\n'
    tifffile.imwrite(path, a, metadata=None, extratags=[(34682, 's', 0, text, True)])
    return Path(path)
