"The review widget, in a real browser where there is one: brush, cut, merge, undo, keys, and what Python gets of it"
import base64, shutil
import numpy as np, pytest
from hrtem_seg.micrographs.micrograph import micrograph
from hrtem_seg.segmentation.review import picture_of, review

HEIGHT, WIDTH = 60, 80
BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')

def two():
    labels = np.zeros((HEIGHT, WIDTH), np.int32)
    labels[10:30, 10:30] = 1
    labels[10:30, 50:70] = 2
    return labels

PAGE = """<body style="margin:0"><div id="el" style="width: 800px"></div><script>
window.state = {}; window.sent = 0;
const bytes = text => new DataView(Uint8Array.from(atob(text), c => c.charCodeAt(0)).buffer);
window.begin = async (code, labels, picture, shape) => {
  const url = URL.createObjectURL(new Blob([code], {type: 'text/javascript'}));
  const module = (await import(url)).default;
  window.state = {labels: bytes(labels), picture: bytes(picture), shape};
  const model = {get: k => window.state[k], set: (k, v) => { window.state[k] = v; }, save_changes: () => { window.sent += 1; }};
  module.render({model, el: document.getElementById('el')});
};
window.labels = () => btoa(String.fromCharCode(...new Uint8Array(window.state.labels.buffer)));
</script></body>"""

class Page:
    "A browser's page with the widget in it"
    def __init__(self, page, widget):
        self.page = page
        page.set_content(PAGE)
        code = [base64.b64encode(b).decode() for b in (widget.labels, widget.picture)]
        page.evaluate('([code, labels, picture, shape]) => window.begin(code, labels, picture, shape)',
                      [type(widget)._esm if isinstance(type(widget)._esm, str) else str(widget._esm), *code, list(widget.shape)])
        self.box = page.locator('canvas').bounding_box()
        page.locator('canvas').hover()   # keys go to what the mouse is over

    def at(self, y, x):
        scale = self.box['width']/WIDTH
        return self.box['x'] + (x + .5)*scale, self.box['y'] + (y + .5)*scale

    def drag(self, *places):
        self.page.mouse.move(*self.at(*places[0]))
        self.page.mouse.down()
        for p in places[1:]: self.page.mouse.move(*self.at(*p), steps=4)
        self.page.mouse.up()

    def press(self, *keys):
        for k in keys: self.page.keyboard.press(k)

    def labels(self): return np.frombuffer(base64.b64decode(self.page.evaluate('window.labels()')), np.int32).reshape(HEIGHT, WIDTH)

@pytest.fixture(scope='module')
def browser():
    pytest.importorskip('anywidget', reason="anywidget is not installed: pip install 'hrtem_seg[review]'")
    sync = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install playwright')
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None: pytest.skip('no Chromium on this machine: apt install chromium')
    with sync.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=program, args=['--no-sandbox'])
        yield opened
        opened.close()

@pytest.fixture
def page(browser):
    image = micrograph(np.random.default_rng(0).poisson(50, (HEIGHT, WIDTH)).astype('f4'), .6)
    opened = browser.new_page()
    yield Page(opened, review(image, two()))
    opened.close()

def test_the_brush_adds_a_particle_and_undo_takes_it_back(page):
    page.drag((45, 20), (45, 40))
    drawn = page.labels()
    assert set(np.unique(drawn)) == {0, 1, 2, 3} and drawn[45, 30] == 3 and (drawn[:30] == two()[:30]).all()
    page.press('z')
    assert (page.labels() == two()).all()
    page.press('y')
    assert (page.labels() == drawn).all()

def test_a_stroke_that_begins_on_a_particle_makes_it_larger(page):
    page.drag((20, 20), (20, 36))
    assert page.labels()[20, 36] == 1 and page.labels().max() == 2

def test_the_rubber_erases_within_its_size(page):
    page.press('e', ']', ']')
    page.drag((20, 60), (20, 60))
    gone = two() - page.labels()
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    assert ((gone > 0) == (((y - 20)**2 + (x - 60)**2 <= 49) & (two() == 2))).all()

def test_a_cut_splits_and_a_stroke_merges(page):
    page.press('s')
    page.drag((5, 20), (35, 20))
    cut = page.labels()
    assert cut[20, 12] != cut[20, 28] and 0 not in (cut[20, 12], cut[20, 28]) and set(np.unique(cut)) == {0, 1, 2, 3}
    page.press('m')
    page.drag((20, 12), (20, 60))
    merged = page.labels()
    assert merged[20, 12] == merged[20, 28] == merged[20, 60]
    page.press('z', 'z')
    assert (page.labels() == two()).all()

def test_nothing_is_sent_where_nothing_was_drawn(page):
    page.press('e')
    page.drag((50, 10), (50, 14))
    assert page.page.evaluate('window.sent') == 0

def test_buttons_say_what_is_chosen(page):
    page.page.get_by_text('merge', exact=True).click()
    assert page.page.locator('button[aria-pressed=true]').inner_text() == 'merge'
    assert '2 particles' in page.page.locator('span').inner_text()

def test_napari_gives_a_correction(tmp_path):
    components = pytest.importorskip('napari.components', reason="napari is not installed: pip install 'hrtem_seg[napari]'")
    from hrtem_seg.segmentation.review import LAYER, correct_in_napari, show_in_napari
    image = micrograph(np.random.default_rng(0).poisson(50, (HEIGHT, WIDTH)).astype('f4'), .6)
    viewer = show_in_napari(image, two(), components.ViewerModel())
    viewer.layers[LAYER].paint((45, 30), 5)
    drawn = correct_in_napari(image, two(), viewer, by='Ada')
    assert (drawn.after > 0).sum() > (two() > 0).sum() and drawn.tool == 'napari'
