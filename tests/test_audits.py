"Audits find what is wrong with a labelled set, and nothing where nothing is wrong"
import numpy as np, pytest
from hrtem_seg.segmentation.audits import Pair, audit, label_fit, labelled_pairs, shared_pixels, threshold_agreement, _turned
from hrtem_seg.segmentation.corrections import correct, write_correction
from hrtem_seg.micrographs.micrograph import gaussian_otsu, micrograph

def noise(seed=0, shape=(200, 220)): return np.random.default_rng(seed).poisson(30, shape).astype('f4')

@pytest.mark.parametrize('way', range(8))
def test_a_turned_crop_is_found_where_it_is_from(way):
    whole = noise()
    crop = np.ascontiguousarray(_turned(whole[40:120, 60:150], way))
    found, = shared_pixels([whole, crop])
    assert (found.one, found.other) == (0, 1)

def test_neighbours_and_strangers_share_nothing():
    whole = noise()
    assert shared_pixels([whole[:100], whole[100:], noise(1)]) == []
    assert shared_pixels([np.zeros((64, 64)), np.zeros((64, 64))]) == [], 'constant images are no twins'
    assert shared_pixels([whole]) == [] and shared_pixels([np.ones((8, 8))]*2) == []

def test_an_overlap_of_a_few_rows_is_found():
    whole = noise()
    assert len(shared_pixels([whole[:110], whole[70:]])) == 1

def test_few_counts_are_alike_by_chance_and_share_nothing():
    for mean in (.1, .3, 1.):
        one, other = np.random.default_rng(0).poisson(mean, (2, 128, 128))
        assert shared_pixels([one, other]) == []
        marked = one.copy()
        marked[110:] = 0   # an info bar
        found, = shared_pixels([one, marked])
        assert found.offset == (0, 0)

def pairs(n=5):
    made = []
    y, x = np.mgrid[:96, :96]
    for i in range(n):
        rng = np.random.default_rng(i)
        mask = np.hypot(y - rng.uniform(25, 70), x - rng.uniform(25, 70)) < 14
        ripple = 6*np.sin(x/9 + i)*np.cos(y/11)
        made.append(Pair(str(i), rng.poisson(40 - 6*mask + ripple).astype('f4'), mask, f's{i}', 'train'))
    return made

def test_labels_of_a_threshold_are_told_from_drawn_ones():
    drawn = pairs()
    assert max(threshold_agreement(drawn).values()) < .9
    made = [Pair(p.name, p.image, ~gaussian_otsu(p.image, 2.)) for p in drawn]
    assert threshold_agreement(made)[2., 'bright'] == 1
    assert threshold_agreement([Pair('', noise(), np.zeros((200, 220), bool))])[2., 'dark'] == 0

def test_a_label_without_particles_has_no_place():
    assert label_fit(noise(), np.zeros((200, 220), bool)).own == 0

def test_corrections_of_one_structure_on_two_sides_leak(tmp_path):
    for side, seed in (('train', 0), ('test', 1)):
        (tmp_path/side).mkdir()
        p = pairs()[seed]
        write_correction(tmp_path/side, correct(micrograph(p.image, .6, source='a.tif'), p.mask, group='movie'))
    report = audit({'train': tmp_path/'train', 'test': tmp_path/'test'})
    assert [f.kind for f in report.findings] == ['leak'] and 'movie' in str(report)
    assert report.to_record()['pairs'] == 2

def test_nothing_to_look_at_is_refused_by_name(tmp_path):
    with pytest.raises(FileNotFoundError, match='no stack'): labelled_pairs(tmp_path)
    with pytest.raises(FileNotFoundError, match='nowhere'): labelled_pairs(tmp_path/'nowhere')

def test_images_without_labels_are_counted(tmp_path):
    from PIL import Image
    rng = np.random.default_rng(0)
    label = np.zeros((64, 64), 'u1')
    label[20:40, 20:40] = 255
    for name in 'abc': Image.fromarray(rng.integers(0, 255, (64, 64)).astype('u1')).save(tmp_path/f'{name}_img.png')
    Image.fromarray(label).save(tmp_path/'b_label.png')
    with pytest.warns(UserWarning, match='2 of 3 images have no label'): pairs = labelled_pairs(tmp_path)
    assert [p.name for p in pairs] == ['b_img.png']
