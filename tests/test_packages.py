"What a network has to say and do outside this project"
import hashlib, json, shutil, zipfile
from io import BytesIO
from pathlib import Path
import numpy as np, pytest, torch, yaml
import hrtem_seg
from hrtem_seg.cli import main
from hrtem_seg.learning.kept import lineage, load_network, save_network
from hrtem_seg.learning.networks import build
from hrtem_seg.learning.packages import check_package, export_bioimageio, model_card, run_package, torchscript, write_card
from hrtem_seg.learning.prediction import predict, standardise
from hrtem_seg.segmentation.segmentation import shipped_network

SMALL = {'name': 'UNet', 'filters': [4, 8], 'bottleneck': 8}
RECORD = dict(data=dict(train=dict(n=3, shape=[64, 64], pixel=.6)))

@pytest.fixture(autouse=True)
def one_thread():
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)

def counts(ny, nx, seed=0):
    "Counting noise on stripes, with an X-ray, a large dark place and a bright line"
    rng = np.random.default_rng(seed)
    image = rng.poisson(60 + 20*np.sin(np.arange(nx)/3), (ny, nx)).astype('f4')
    image[5, 7] = 5000
    image[20:22, 30:34] = 900
    image[40:60, 40:60] = 0
    image[30, 10:50] = 3000
    return image

def kept(folder, spec=SMALL, way='robust', record=RECORD):
    network = build(spec, 1)
    network.standardisation = way
    return save_network(folder, network, record)

@pytest.fixture(scope='module')
def package(tmp_path_factory):
    root = tmp_path_factory.mktemp('package')
    folder = kept(root/'network')
    return dict(folder=folder, path=export_bioimageio(folder, root/'network.zip', image=counts(120, 100)))

def loaded(weights): return torch.jit.load(BytesIO(weights))

def contents(path):
    with zipfile.ZipFile(path) as z: return {name: z.read(name) for name in z.namelist()}

def test_the_validator_takes_it(package, tmp_path):
    pytest.importorskip('bioimageio.spec', reason="the validator is not installed: pip install 'hrtem_seg[zoo]'")
    assert [w for w in check_package(package['path']) if 'maintainers' not in w] == []   # nobody need have a GitHub account
    damaged = contents(package['path'])
    damaged['network.pt'] = damaged['network.pt'][:-9] + b'x'*9
    with zipfile.ZipFile(tmp_path/'damaged.zip', 'w') as z:
        for name, content in damaged.items(): z.writestr(name, content)
    with pytest.raises(ValueError, match='no valid package'): check_package(tmp_path/'damaged.zip')

def test_the_weights_alone_give_the_test_output_and_our_prediction(package):
    files = contents(package['path'])
    script = loaded(files['network.pt'])
    given, expected = (np.load(BytesIO(files[f'test_{which}.npy'])) for which in ('input', 'output'))
    with torch.no_grad(): found = script(torch.from_numpy(given)).numpy()
    network, _ = load_network(package['folder'])
    assert given.shape == expected.shape == found.shape and found.std() > .001
    assert np.abs(found - expected).max() < 1e-5
    assert np.abs(found[0, 0] - predict(network, given[0, 0], precision='float32')).max() < 1e-5
    assert np.abs(standardise(given[0, 0]) - standardise(given[0, 0], 'mean')).max() > .1   # the robust way matters here

@pytest.mark.parametrize('spec, way', [
    ({**SMALL, 'norm': 'instance'}, 'robust'), (SMALL, 'mean'),
    ({'name': 'ResNetUNet', 'filters': [8, 8, 8, 8], 'decoder': [8]*5, 'norm': 'group'}, 'robust')])
def test_every_network_gives_elsewhere_what_it_gives_here(tmp_path, spec, way):
    folder = kept(tmp_path/'n', spec, way)
    path = export_bioimageio(folder, tmp_path/'n.zip', image=counts(300, 310))
    network, _ = load_network(folder)
    image = counts(97, 141, 2)   # of no side that the network halves
    assert np.abs(run_package(path, image) - predict(network, image, precision='float32')).max() < 1e-5
    about = yaml.safe_load(contents(path)['rdf.yaml'])
    assert bool(about['inputs'][0]['preprocessing']) == (way == 'mean')
    assert ('halo' in about['outputs'][0]['axes'][2]) == (spec.get('norm', 'batch') == 'batch')

def test_images_of_a_batch_do_not_meet(package):
    network, _ = load_network(package['folder'])
    both = np.stack([counts(64, 64), np.full((64, 64), 7.1, 'f4')])
    script = loaded(torchscript(network))
    with torch.no_grad(): found = script(torch.from_numpy(both)[:, None])[:, 0].numpy()
    assert np.abs(found - predict(network, both, precision='float32')).max() < 1e-5

def test_the_description_says_sizes_pixel_and_checksums(package):
    files = contents(package['path'])
    about = yaml.safe_load(files['rdf.yaml'])
    y = about['inputs'][0]['axes'][2]
    assert abs(y['scale'] - .06) < 1e-8 and y['unit'] == 'nanometer' and y['size']['step'] == 4
    sides = np.load(BytesIO(files['test_input.npy'])).shape[2:]
    assert all((n - y['size']['min']) % 4 == 0 and n >= y['size']['min'] for n in sides)
    entries = [about['weights']['torchscript'], *about['covers'], *about['attachments'], about['documentation']]
    assert all(hashlib.sha256(files[e['source']]).hexdigest() == e['sha256'] for e in entries)
    assert about['license'] == 'Apache-2.0' and about['authors'][0]['name']

def test_a_package_names_no_folder_of_who_made_it(package):
    here = str(Path(hrtem_seg.__file__).parents[1]).encode()
    files = contents(package['path'])
    with zipfile.ZipFile(BytesIO(files['network.pt'])) as z: inside = [z.read(n) for n in z.namelist()]
    assert not [content for content in [*files.values(), *inside] if here in content]

def test_an_unpacked_package_is_the_kept_network(package, tmp_path):
    with zipfile.ZipFile(package['path']) as z: z.extractall(tmp_path)
    (a, record), (b, same) = load_network(tmp_path), load_network(package['folder'])
    assert record == same and np.array_equal(predict(a, counts(64, 64)), predict(b, counts(64, 64)))

def test_what_cannot_be_packed_is_refused_before_anything_is_written(package, tmp_path):
    folder, out = package['folder'], tmp_path/'a.zip'
    two = kept(tmp_path/'two', {**SMALL, 'n_in': 2})
    silent = kept(tmp_path/'silent', record={})
    for message, job in {
        "ends in .zip": lambda: export_bioimageio(folder, tmp_path/'a.tar'),
        "n_in=2: expected": lambda: export_bioimageio(two, out),
        "pass pixel= in Å": lambda: export_bioimageio(silent, out),
        "image of shape \\(8, 80\\)": lambda: export_bioimageio(folder, out, image=np.ones((8, 80))),
        "cover .*a.doc: expected": lambda: export_bioimageio(folder, out, image=counts(120, 100), covers='a.doc'),
        "notes=\\[1\\]": lambda: export_bioimageio(folder, out, notes=[1]),
        "not a kept network": lambda: export_bioimageio(tmp_path, out)}.items():
        with pytest.raises(ValueError, match=message): job()
    with pytest.raises(FileExistsError, match='overwrite=True'): export_bioimageio(folder, package['path'])
    assert not list(tmp_path.glob('*.zip')) and not list(tmp_path.glob('*.tmp*'))

def test_the_shipped_card_is_what_the_shipped_record_says():
    folder = shipped_network()
    record = json.loads((folder/'record.json').read_text(encoding='utf-8'))
    card = (folder/'README.md').read_text(encoding='utf-8')
    assert card == model_card(folder), 'write it again: write_card(shipped_network())'
    for said in (record['weights'], f"{record['n_parameters']:,}", record['versions']['torch'], 'bring other images'):
        assert said in card

def test_a_card_of_a_record_that_says_nothing(tmp_path):
    folder = kept(tmp_path/'n', record={})
    card = model_card(folder)
    assert 'does not say what the network was trained on' in card and 'None is recorded' in card
    assert 'Misses 2 nm gold.' in write_card(folder, 'Misses 2 nm gold.').read_text(encoding='utf-8')
    assert '- Misses 2 nm gold.' in model_card(folder)
    assert load_network(folder)[1]['notes'] == ['Misses 2 nm gold.']

def test_what_is_drawn_anew_counts_more_than_the_stack(tmp_path):
    stack = dict(scene=dict(material='Au', radius=20.), wave=dict(energy=3e5), sampling='area', doses=[75.], defocus=0.,
                 mask={'kind': 'projection'}, optics={'focal_spread': 15.})
    taught = dict(n=2, shape=[64, 64], pixel=.6, doses=[75.], settings=stack)
    imaging = dict(dose=['uniform', 50., 900.], defocus=['uniform', -700., 200.], camera={'binning': 2}, optics={})
    record = dict(data=dict(train=taught), settings=dict(augment=dict(imaging=imaging, crop=48, zoom=[.75, 1.5]), epochs=3))
    card = model_card(kept(tmp_path/'n', record=record))
    for said in ('50 to 900 e/Å²', '-70 to 20 nm', '| diameter | 4 nm |', 'binning 2', 'imaged anew', 'whole outline', '0.04 to 0.08 nm'):
        assert said in card, said
    assert 'focal spread' not in card and '75 e/Å²' not in card

def test_on_the_command_line(package, tmp_path, capsys):
    out = tmp_path/'n.zip'
    argv = ['export', str(package['folder']), str(out), '--author', 'Ada Lovelace', '--note', 'Misses 2 nm gold.']
    assert main(argv) == 0 and str(out) in capsys.readouterr().out
    files = contents(out)
    assert b'Misses 2 nm gold.' in files['README.md'] and b'Ada Lovelace' in files['rdf.yaml']
    assert main(argv) == 2 and 'already' in capsys.readouterr().err
    assert main(['export', str(tmp_path), str(tmp_path/'b.zip')]) == 2 and not (tmp_path/'b.zip').exists()

def test_the_shipped_network_knows_its_parent_wherever_it_lies(tmp_path):
    copy = shutil.copytree(shipped_network(), tmp_path/'elsewhere')
    first, last = lineage(copy)
    assert last['parent']['run'] == first['run'] and not first.get('missing')
    assert not Path(last['parent']['folder']).is_absolute()

def descent(folder, parent, child):
    "Two kept networks, the second of which names the first by a path"
    kept(folder/'first', record=dict(run=parent))
    return kept(folder/'second', record=dict(run=child, parent=dict(run=parent, folder=str(folder/'first'))))

def runs_at_hand(folder): return [r['run'] for r in lineage(folder) if not r.get('missing')]

def test_a_parent_that_was_moved_with_its_child_is_found_beside_it(tmp_path):
    descent(tmp_path/'tasks', 'a', 'b')
    (tmp_path/'tasks').rename(tmp_path/'archive')
    assert runs_at_hand(tmp_path/'archive/second') == ['a', 'b']

def test_a_parent_is_found_by_its_bare_name_from_any_folder(tmp_path, monkeypatch):
    child = descent(tmp_path/'tasks', 'a', 'b')
    record = json.loads((child/'record.json').read_text(encoding='utf-8'))
    record['parent']['folder'] = 'first'
    (child/'record.json').write_text(json.dumps(record), encoding='utf-8')
    for here, name in ((tmp_path, 'tasks/second'), (child, '.'), (child.parent, 'second')):
        monkeypatch.chdir(here)
        assert runs_at_hand(name) == ['a', 'b']

def test_another_network_beside_a_child_is_not_its_parent(tmp_path):
    child = descent(tmp_path/'tasks', 'a', 'b')
    (tmp_path/'tasks').rename(tmp_path/'archive')
    kept(tmp_path/'archive/first', record=dict(run='of another study'))
    lost, last = lineage(tmp_path/'archive/second')
    assert lost == dict(run='a', folder=str(child.with_name('first')), missing=True) and last['run'] == 'b'

def test_a_child_is_never_its_own_parent(tmp_path):
    for run in ('a', None):
        child = kept(tmp_path/'net', record=dict(run=run, parent=dict(run=run, folder='/gone/net')))
        assert lineage(child)[0]['missing']

def test_a_set_that_is_called_none_keeps_its_name(tmp_path):
    from hrtem_seg.learning.packages import _score_rows
    rows = 'kept,dataset,metric,value', 'True,None,dice,.5', 'True,train,loss,.1'
    (tmp_path/'history.csv').write_text('\n'.join(rows))
    assert _score_rows(tmp_path) == [('None', 'dice', '0.500')]
