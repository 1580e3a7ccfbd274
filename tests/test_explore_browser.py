"The page for results in JupyterLab, in a real browser: what is chosen there is what is drawn there"
import json, os, re, shutil, subprocess, sys, time
import pytest

BROWSERS = ('chromium', 'chromium-browser', 'google-chrome', 'chrome')
PATIENCE = 300   # s: on a machine with much else to do, Lab alone takes a minute
CELL = 'from hrtem_seg.experiments.explore import Explorer\nExplorer({folder!r})'

def notebook(folder):
    cell = dict(cell_type='code', id='page', metadata={}, execution_count=None, outputs=[], source=CELL.format(folder=str(folder)))
    about = {'kernelspec': {'display_name': 'Python 3', 'language': 'python', 'name': 'python3'}}
    return json.dumps(dict(cells=[cell], metadata=about, nbformat=4, nbformat_minor=5))

@pytest.fixture(scope='module')
def lab(project, tmp_path_factory):
    "Address of a JupyterLab with one notebook"
    for name in ('jupyterlab', 'ipywidgets'): pytest.importorskip(name)
    root = tmp_path_factory.mktemp('lab')
    (root/'page.ipynb').write_text(notebook(project/'data/results'))
    own = {name: str(root/name) for name in ('JUPYTER_CONFIG_DIR', 'JUPYTER_DATA_DIR', 'JUPYTER_RUNTIME_DIR')}
    options = ['--no-browser', '--allow-root', '--ip=127.0.0.1', '--port=0', '--ServerApp.token=', '--ServerApp.password=', '--LabApp.news_url=None']
    log = root/'lab.log'
    with log.open('w') as said:
        server = subprocess.Popen([sys.executable, '-m', 'jupyterlab', *options], cwd=root, stdout=said, stderr=said, env={**os.environ, **own})
    try:
        end = time.monotonic() + PATIENCE
        while not (found := re.search(r'http://127\.0\.0\.1:(\d+)/lab', log.read_text())):
            assert server.poll() is None and time.monotonic() < end, log.read_text()[-2000:]
            time.sleep(.3)
        yield found.group(0)
    finally:
        server.terminate()
        server.wait(60)

def accept_what_lab_asks(page):
    "Keys that come before the kernel make Lab ask for one, in a dialog that covers the page: take what it proposes"
    asked = page.locator('.jp-Dialog')
    page.add_locator_handler(asked, lambda: asked.locator('.jp-mod-accept').click(), no_wait_after=True)

def run_first_cell(page):
    "Press the keys until the cell has a number or waits for one: Lab forgets keys that come before it is ready"
    prompt = page.locator('.jp-Cell .jp-InputPrompt').first
    end = time.monotonic() + PATIENCE
    while prompt.text_content().strip() in ('', '[ ]:'):
        assert time.monotonic() < end, 'the cell does not run'
        page.locator('.jp-Cell .cm-content').first.click()
        page.keyboard.press('Shift+Enter')
        time.sleep(2)

@pytest.fixture(scope='module')
def page(lab):
    sync = pytest.importorskip('playwright.sync_api', reason='playwright is not installed: pip install playwright')
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None: pytest.skip('no Chromium on this machine: apt install chromium')
    with sync.sync_playwright() as p:
        opened = p.chromium.launch(executable_path=program, args=['--no-sandbox'])
        page = opened.new_page(viewport=dict(width=1400, height=1000))
        page.set_default_timeout(1000*PATIENCE)
        accept_what_lab_asks(page)
        page.goto(f'{lab}/tree/page.ipynb')
        run_first_cell(page)
        page.locator('.widget-dropdown select').first.wait_for()
        yield page
        opened.close()

def chosen(page, name):
    "The list with a label"
    return page.locator('.widget-dropdown', has=page.get_by_text(name, exact=True)).locator('select')

def picture(page):
    images = page.locator('.jp-OutputArea-output img')
    images.first.wait_for()
    return [images.nth(i).get_attribute('src') for i in range(images.count())]

def offered(page, name):
    "What a list offers; its spaces do not break"
    labels = chosen(page, name).locator('option').all_text_contents()
    return [label.replace('\xa0', ' ') for label in labels]

def choose(page, name, label):
    "Choose in a list, and wait for another picture"
    before = picture(page)
    chosen(page, name).select_option(label=label)
    end = time.monotonic() + PATIENCE
    while picture(page) == before:
        assert time.monotonic() < end, f'nothing was drawn for {name} = {label}'
        time.sleep(.2)
    return picture(page)

def test_each_choice_draws_anew_and_offers_what_there_is(page):
    choose(page, 'run', 'dose-default')
    mean = picture(page)
    least = choose(page, 'reduction', 'min')
    assert len(least) == 1 and least != mean
    options = offered(page, 'cell')
    assert options[0] == 'all' and '600 → 30' in options
