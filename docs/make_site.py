"""The documentation site: its sources gathered from the notebooks, built by Sphinx, and checked

    python docs/make_site.py [--out build/site]

Nothing is fetched and no notebook is run. A warning of Sphinx, a link that leads nowhere and a page that would load
something from the network end the build.
"""
import argparse, html.parser, importlib, inspect, json, os, re, shutil, subprocess, sys
from pathlib import Path
from urllib.parse import unquote, urldefrag

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
sys.path.insert(0, str(PROJECT))   # the API is that of this clone

# parts in the order in which a microscopist reads, with what each answers
READING = {
    'structures': 'Which atoms',
    'waves': 'What the specimen does to the beam',
    'imaging': 'What the microscope makes of the wave, and what is true',
    'data': 'Labelled images at scale',
    'learning': 'What learns from it',
    'micrographs': 'What a microscopist brings',
    'segmentation': 'What comes out',
    'experiments': 'What holds in general',
    'core': 'What everyone needs once: checks, units and signs, transforms, files, records, work, pictures',
    'cli': 'All of it from the command line'}


def notebooks(folder):
    "Notebooks of a folder in their order, without what Jupyter keeps beside them"
    return sorted(f for f in folder.glob('*.ipynb') if '.ipynb_checkpoints' not in f.parts)

def first_words(path):
    "(title, what it says in a line) of a notebook"
    first, *_ = json.loads(path.read_text(encoding='utf-8'))['cells']
    lines = ''.join(first['source']).splitlines()
    title = lines[0].lstrip('# ').strip()
    said = [line.lstrip('> ') for line in lines if line.startswith('>')]
    return title, said[0] if said else ''

# ---- notebooks as pages ----------------------------------------------------------------------------------------------

LINK = re.compile(r'(?<=\]\()([^)\s]+)(?=\))')
PAGES = {'CHANGELOG.md': 'changelog.md', 'CONTRIBUTING.md': 'contributing.md', 'README.md': 'index.md',
         'data/README.md': 'data.md', 'data/results': 'data.md', 'nbs/studies': 'studies/index.md',
         'nbs/index.ipynb': 'index.md', 'nbs/contents.ipynb': 'chapters.md'}

def site_link(link, source, out):
    "A link of a file of the project, as a link of the site; what is no page comes along as a file"
    target, mark = urldefrag(link)
    if not target or ':' in target: return link
    path = Path(os.path.normpath(source.parent/target))
    if not path.is_relative_to(PROJECT): raise SystemExit(f'{source}: {link} leads out of the project')
    name = path.relative_to(PROJECT).as_posix()
    anchor = f'#{mark}' if mark else ''
    if name in PAGES: return f'/{PAGES[name]}{anchor}'
    if name.startswith('nbs/') and path.suffix == '.ipynb': return f'/{name[4:]}{anchor}'
    if not path.is_file(): raise SystemExit(f'{source} links to {link}, which is not there')
    to = out/'files'/name
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(path, to)
    return f'/files/{name}{anchor}'

def site_links(text, source, out):
    return LINK.sub(lambda found: site_link(found.group(1), source, out), text)

def shown(cell):
    "Whether a reader of the site sees a cell"
    text = ''.join(cell['source'])
    directives = re.findall(r'^#\|\s*(\w+)', text, re.M)
    hidden = {'hide', 'default_exp'} & set(directives)
    return bool(text.strip()) and not hidden and 'hide' not in cell['metadata'].get('tags', [])

def page_cell(cell, source, out):
    "A cell without what is meant for nbdev, with links of the site"
    text = ''.join(cell['source'])
    if cell['cell_type'] == 'markdown': return cell | {'source': site_links(text, source, out)}
    tags = cell['metadata'].get('tags', [])
    new = ['remove-input'] if 'hide_input' in tags else tags
    lines = [line for line in text.splitlines() if not line.startswith('#|')]
    return cell | {'source': '\n'.join(lines).strip('\n'), 'metadata': {'tags': new}}

def api_note(module):
    text = f'Every public name of this chapter with its parameters: [`hrtem_seg.{module}`](/api/{module}.md).'
    return {'cell_type': 'markdown', 'id': 'api-of-this', 'metadata': {}, 'source': text}

def write_notebook(source, to, out, module=None):
    "The page of a notebook"
    notebook = json.loads(source.read_text(encoding='utf-8'))
    cells = [page_cell(cell, source, out) for cell in notebook['cells'] if shown(cell)]
    if module: cells.append(api_note(module))
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(json.dumps(notebook | {'cells': cells}, ensure_ascii=False), encoding='utf-8')

def module_of(path):
    part = path.parent.name
    return path.stem[3:] if part == 'cli' else f'{part}.{path.stem[3:]}'

def chapters():
    "{part: its notebooks}"
    return {part: notebooks(PROJECT/'nbs'/part) for part in READING}

def write_notebooks(out):
    nbs = PROJECT/'nbs'
    numbered = {path for paths in chapters().values() for path in paths}
    for path in sorted(nbs.rglob('*.ipynb')):
        if '.ipynb_checkpoints' in path.parts: continue
        if path.name in ('index.ipynb', 'contents.ipynb') and path.parent == nbs: continue   # the site has its own
        module = module_of(path) if path in numbered else None
        write_notebook(path, out/path.relative_to(nbs), out, module)

# ---- pages that lead to other pages ----------------------------------------------------------------------------------

def toctree(names, **options):
    "Names of pages as Sphinx' tree"
    given = [f':{key}: {value}'.rstrip() for key, value in options.items()]
    return '\n'.join(['```{toctree}', *given, *names, '```', ''])

def listed(paths, folder):
    "Notebooks as a list: title and what each says"
    lines = []
    for path in paths:
        title, said = first_words(path)
        name = path.relative_to(folder).as_posix()
        lines.append(f'- [{title}]({name}): {said}' if said else f'- [{title}]({name})')
    return '\n'.join(lines)

def write_index(out, folder, title, text, paths, names=None):
    "The first page of a folder: its title, its text, and a line on each page"
    stems = names or [path.stem for path in paths]
    body = f'# {title}\n\n{text}\n\n{listed(paths, PROJECT/"nbs"/folder)}\n\n{toctree(stems, hidden="")}'
    to = out/folder/'index.md'
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(body, encoding='utf-8')

# notebooks beside the parts that the site's own pages lead to
PLACED = ('tour', 'results', 'speed', 'failures', 'glossary', 'index', 'contents')

def part_lines():
    lines = []
    for part, answer in READING.items():
        lines.append(f'## [{part.capitalize()}](/{part}/index.md)\n\n*{answer}.*\n')
        lines.append(listed(chapters()[part], PROJECT/'nbs') + '\n')
    return '\n'.join(lines)

def write_indices(out):
    "Contents, how-tos, chapters, studies, speed"
    nbs = PROJECT/'nbs'
    for part, paths in chapters().items():
        write_index(out, part, part.capitalize(), f'*{READING[part]}.*', paths)
    pages = notebooks(nbs/'how_to')
    others = [path for path in notebooks(nbs) if path.stem not in PLACED]
    text = 'One task each, from the first line to the result.'
    for path in others: text += f'\n\n- [{first_words(path)[0]}](/{path.name}): {first_words(path)[1]}'
    names = [path.stem for path in pages] + [f'/{path.stem}' for path in others]
    write_index(out, 'how_to', 'How-tos', text, pages, names)
    studies = ('Each study is a notebook that asks one question and ends with claims. They stand here without outputs: '
               '`hrtem-seg study NAME` executes them, and the [results](/results.ipynb) show what came out.')
    write_index(out, 'studies', 'Studies', studies, notebooks(nbs/'studies'))
    speed = [path.stem for path in notebooks(nbs/'speed')]
    benchmarks = 'The notebooks behind the [speed page](/speed.ipynb). `make bench` executes them.'
    write_index(out, 'speed', 'Benchmarks', benchmarks, notebooks(nbs/'speed'), speed)
    head = ('# Chapters\n\nThe notebooks are the source of the module: what you read is what runs. '
            'Here they stand in the order in which a microscopist would read them.\n\n')
    tree = toctree([f'{part}/index' for part in READING], hidden='')
    (out/'chapters.md').write_text(head + part_lines() + tree, encoding='utf-8')

def write_pages(out):
    "Pages that are written by hand, and files of the project that are pages here"
    for path in sorted((HERE/'pages').glob('*.md')):
        text = path.read_text(encoding='utf-8')
        (out/path.name).write_text(text, encoding='utf-8')
    for name, page in PAGES.items():
        source = PROJECT/name
        if source.suffix != '.md' or page == 'index.md': continue
        text = site_links(source.read_text(encoding='utf-8'), source, out)
        (out/page).write_text(text, encoding='utf-8')
    shutil.copyfile(next((PROJECT/'data/readme').glob('*.png')), out/'first_picture.png')

# ---- results to explore ----------------------------------------------------------------------------------------------

def all_scores():
    "The committed scores of every run, a row a network and test set"
    import pandas as pd
    tables = []
    for path in sorted((PROJECT/'data/results').glob('*/table.csv')):
        named = {'train': str, 'tested': str}   # '30', not 30.0
        table = pd.read_csv(path, dtype=named)[['phase', 'replicate', *named, 'metric', 'value']]
        tables.append(table.assign(run=path.parent.name))
    rows = pd.concat(tables, ignore_index=True)
    return rows.assign(value=rows.value.round(4))

WIDE = 520   # px, of the charts; on a phone they scroll

def choice(name, options, first):
    "A list to choose from, below the chart"
    import altair as alt
    return alt.param(name=name, value=first, bind=alt.binding_select(options=list(options), name=f'{name} '))

def explorer(rows):
    "Matrix of a run by metric and reduction; the networks behind a cell that is clicked"
    import altair as alt
    alt.data_transformers.disable_max_rows()
    run = choice('run', rows.run.unique(), 'dose-default')
    phase = choice('phase', rows.phase.unique(), 'pretrain')
    metric = choice('metric', rows.metric.unique(), 'dice')
    reduction = choice('reduction', ('mean', 'median', 'min', 'max'), 'mean')
    cell = alt.selection_point(name='cell', fields=['train', 'tested'])
    asked = alt.Chart(rows).transform_filter('datum.run == run && datum.phase == phase && datum.metric == metric')
    statistics = dict(mean='mean(value)', median='median(value)', min='min(value)', max='max(value)', networks='count()')
    cells = asked.transform_aggregate(**statistics, groupby=['train', 'tested']).transform_calculate(shown='datum[reduction]')
    places = dict(x=alt.X('tested:N', title='tested on', sort=None, axis=alt.Axis(labelAngle=-40, labelLimit=140, minExtent=110)),
                  y=alt.Y('train:N', title='trained on', sort=None, axis=alt.Axis(labelLimit=140, minExtent=110)))
    colour = alt.Color('shown:Q', scale=alt.Scale(scheme='viridis'), title=None)
    told = ['train:N', 'tested:N', *[alt.Tooltip(f'{name}:Q', format='.3f') for name in ('mean', 'median', 'min', 'max')], 'networks:Q']
    faint = alt.condition(cell, alt.value(1), alt.value(.35))
    matrix = cells.mark_rect().encode(**places, color=colour, opacity=faint, tooltip=told).add_params(cell)
    numbers = cells.mark_text(fontSize=10).encode(**places, text=alt.Text('shown:Q', format='.2f'),
                                                  color=alt.condition('datum.shown < .55', alt.value('white'), alt.value('black')))
    networks = asked.transform_filter(cell).mark_circle(size=60, opacity=.7).encode(
        x=alt.X('value:Q', title='value, one circle a network', scale=alt.Scale(zero=False)),
        y=alt.Y('train:N', title='trained on', sort=None, axis=alt.Axis(labelLimit=140, minExtent=110)), color=alt.value('#1f77b4'), tooltip=['train:N', 'tested:N', 'replicate:Q', 'value:Q'])
    upper = (matrix + numbers).properties(width=WIDE, height=300)
    both = alt.vconcat(upper, networks.properties(width=WIDE, height=160))
    return both.add_params(run, phase, metric, reduction).configure_view(stroke=None)

def write_explorer(site):
    "A page of its own, with all that it needs in it, so that it works without a network"
    chart = explorer(all_scores())
    chart.save(str(site/'_static/explorer.html'), inline=True, embed_options={'actions': False})

# ---- API -------------------------------------------------------------------------------------------------------------

# what a comment on a parameter may begin or end with, where it is a unit
UNITS = ('1/Å²', '1/Å', 'e/Å²', 'Å²', 'Å³', 'Å', 'nm', 'eV', 'keV', 'V·Å', 'V', 'rad', 'mrad', 'degrees', 'degree', '°', 'K', 'pixels',
         'px', 'seconds', 's', 'bytes', 'e', 'hours', '%')
UNIT = re.compile(r'(?:^|[\s(])(' + '|'.join(map(re.escape, UNITS)) + r')(?=$|[\s,;:.)])')

def unit_in(text):
    "The unit that a comment names first, or nothing"
    found = UNIT.search(text)
    if not found: return ''
    return found.group(1)

def type_name(kind):
    if kind is inspect.Parameter.empty or kind is None: return ''
    return getattr(kind, '__name__', None) or str(kind)

def table_cell(text):
    "Text that may stand in a cell of a table"
    return ' '.join(str(text).split()).replace('|', '\\|').replace('<', '&lt;')

def short(value):
    "A default as it is written in the source, if it is short"
    if callable(value) and hasattr(value, '__name__'): return value.__name__
    text = repr(value)
    return text if len(text) <= 60 else f'{text[:57]}…'

def parameter_rows(function):
    "(name, type, default, unit, meaning) of each parameter, from its docment"
    from fastcore.docments import docments
    try: about = docments(function, full=True)
    except (OSError, TypeError, SyntaxError, ValueError): return []
    rows = []
    for name, one in about.items():
        text = one.docment or ''
        kind = type_name(one.anno)
        if name == 'self' or (name == 'return' and not text and not kind): continue
        missing = name == 'return' or one.default is inspect.Parameter.empty
        default = '' if missing else f'`{short(one.default)}`'
        label = '*returns*' if name == 'return' else f'`{name}`'
        rows.append((label, f'`{kind}`' if kind else '', default, unit_in(text), text))
    return rows

def parameter_table(function):
    rows = parameter_rows(function)
    if not rows: return ''
    head = ('name', 'type', 'default', 'unit', 'meaning')
    lines = [head, ('---',)*len(head), *rows]
    return '\n'.join('| ' + ' | '.join(map(table_cell, line)) + ' |' for line in lines) + '\n'

def signature(obj):
    "Names of the parameters, those that may be left out in brackets"
    try: parameters = inspect.signature(obj).parameters.values()
    except (TypeError, ValueError): return ''
    marks = {inspect.Parameter.VAR_POSITIONAL: '*', inspect.Parameter.VAR_KEYWORD: '**'}
    names = []
    for one in parameters:
        if one.name == 'self': continue
        left_out = one.default is not inspect.Parameter.empty
        names.append(marks.get(one.kind, '') + one.name + ('=…' if left_out else ''))
    return f'({", ".join(names)})'

def described(kind, name, obj, signed=True):
    "A function, class or method: what it does, and its parameters"
    doc = (inspect.getdoc(obj) or '').split('\nParameters:')[0].strip()
    if inspect.isclass(obj) and doc.startswith(f'{obj.__name__}('): doc = ''   # what dataclass wrote
    shown_as = name + (signature(obj) if signed else '')
    return '\n'.join([f'::::{{py:{kind}}} {shown_as}', '', table_text(doc), '', parameter_table(obj), '::::', ''])

def table_text(doc):
    "A docstring as Markdown: braces and stars mean themselves"
    return re.sub(r'(?<!`)([{}*_<])(?!`)', r'\\\1', doc) if '`' not in doc else doc

def own_methods(cls, package='hrtem_seg'):
    "Public methods that a class defines itself and explains"
    for name, member in vars(cls).items():
        if name.startswith('_') or not inspect.isfunction(member): continue
        if (member.__module__ or '').startswith(package) and member.__doc__: yield name, member

def described_class(name, cls):
    methods = [described('method', f'{name}.{method}', function) for method, function in own_methods(cls)]
    return described('class', name, cls) + '\n'.join(methods)

def described_value(name, value):
    "A constant; long ones by their kind and their names"
    text = repr(value)
    if isinstance(value, dict): text = ', '.join(map(str, value))
    if len(text) > 300: text = f'{text[:297]}…'
    fence = f'```text\n{text}\n```'
    return '\n'.join([f'::::{{py:data}} {name}', '', fence, '::::', ''])

def described_name(name, obj):
    if inspect.isclass(obj): return described_class(name, obj)
    if callable(obj): return described('function', name, obj)
    return described_value(name, obj)

def api_page(module, chapter):
    "The page of a module; without public names, one sentence"
    code = importlib.import_module(f'hrtem_seg.{module}')
    title, said = first_words(chapter)
    lines = [f'# {module}', '', f'*{title}: {said}*' if said else f'*{title}*', '',
             f'Explained and shown at work in [{title}](/{chapter.relative_to(PROJECT/"nbs").as_posix()}).', '',
             f'```{{py:currentmodule}} hrtem_seg.{module}', '```', '']
    names = [name for name in getattr(code, '__all__', ()) if hasattr(code, name)]
    if not names: lines.append('This chapter has no public names.')
    return '\n'.join(lines + [described_name(name, getattr(code, name)) for name in names])

def front_lines():
    "The names of `import hrtem_seg as hs`, with what each does"
    front = importlib.import_module('hrtem_seg.front')
    lines = ['| name | what it does |', '|---|---|']
    for name, module in front.NAMES.items():
        obj = getattr(importlib.import_module(f'hrtem_seg.{module}'), name)
        first = (inspect.getdoc(obj) or '').split('\n')[0]
        lines.append(f'| {{py:obj}}`hs.{name} <hrtem_seg.{module}.{name}>` | {table_cell(first)} |')
    return lines

def write_api(out):
    "A page a module, and the first page with the front door"
    folder = out/'api'
    folder.mkdir(parents=True)
    lines = ['# API', '', 'Units stand in the comments that the source has on each parameter, and from there come here. '
             'Lengths are in Å, doses in e/Å², underfocus is negative.', '',
             '## `import hrtem_seg as hs`', '', 'The names that a newcomer needs, loaded when they are used.', '',
             *front_lines(), '', '## By chapter', '']
    tree = []
    for part, paths in chapters().items():
        lines += [f'**{part.capitalize()}.** *{READING[part]}.*', '']
        for path in paths:
            module = module_of(path)
            (folder/f'{module}.md').write_text(api_page(module, path), encoding='utf-8')
            lines.append(f'- [{module}]({module}.md): {first_words(path)[1] or first_words(path)[0]}')
            tree.append(module)
        lines.append('')
    (folder/'index.md').write_text('\n'.join(lines) + '\n' + toctree(tree, hidden=''), encoding='utf-8')

# ---- what was built, looked through ----------------------------------------------------------------------------------

class Links(html.parser.HTMLParser):
    "What a page links to, what it loads, and the places in it that can be linked to"
    def __init__(self):
        super().__init__()
        self.links = []
        self.loads = []
        self.ids = set()

    def handle_starttag(self, tag, attrs):
        given = dict(attrs)
        if given.get('id'): self.ids.add(given['id'])
        if tag == 'a' and given.get('href'): self.links.append(given['href'])
        if tag in ('script', 'img', 'iframe') and given.get('src'): self.loads.append(given['src'])
        if tag == 'link' and given.get('rel') in ('stylesheet', 'preload', 'icon'): self.loads.append(given['href'])

def read_page(path):
    page = Links()
    page.feed(path.read_text(encoding='utf-8'))
    return page

def is_elsewhere(link): return bool(re.match(r'(\w+:|//)', link))

def leads_nowhere(link, path, pages):
    "Whether a link of a page has no target in the site"
    target, mark = urldefrag(link)
    target = target.split('?')[0]   # behind it stands a version
    where = Path(os.path.normpath(path.parent/unquote(target))) if target else path
    if not where.exists(): return True
    return bool(mark) and where in pages and unquote(mark) not in pages[where].ids

def check(site):
    "Raise where a link leads nowhere or a page would load something from the network"
    pages = {path: read_page(path) for path in sorted(site.rglob('*.html')) if '_static' not in path.parts}   # the theme's
    wrong = []
    for path, page in pages.items():
        name = path.relative_to(site)
        wrong += [f'{name} loads {what} from the network' for what in page.loads if re.match('(https?:)?//', what)]
        here = [link for link in [*page.links, *page.loads] if not is_elsewhere(link)]
        wrong += [f'{name}: {link} leads nowhere' for link in here if leads_nowhere(link, path, pages)]
    if wrong: raise SystemExit('\n'.join(sorted(set(wrong))))
    return len(pages)

# ---- all of it -------------------------------------------------------------------------------------------------------

def gather(out):
    "The sources of the site in a folder"
    out.mkdir(parents=True)
    write_notebooks(out)
    write_indices(out)
    write_pages(out)
    write_api(out)

def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument('--out', default=str(PROJECT/'build/site'), help='folder of the site')
    to = Path(arguments.parse_args().out).absolute()
    source, trees = (to.with_name(f'{to.name}-{name}') for name in ('source', 'trees'))
    for old in (to, source, trees): shutil.rmtree(old, ignore_errors=True)
    gather(source)
    built = subprocess.run([sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html', '-c', str(HERE),
                            '-d', str(trees), str(source), str(to)])
    if built.returncode: raise SystemExit(built.returncode)
    write_explorer(to)
    print(f'{check(to)} pages in {to}/index.html')


if __name__ == '__main__': main()
