"Sphinx' settings for the site. `docs/make_site.py` gathers its sources and calls Sphinx on them."
import re
from pathlib import Path

project = 'hrtem_seg'
author = 'the hrtem_seg developers'
copyright = author
PROJECT = Path(__file__).parents[1]
found = re.search(r'__version__ = "(.+)"', (PROJECT/'hrtem_seg/__init__.py').read_text(encoding='utf-8'))
version = release = found.group(1)

extensions = ['myst_nb', 'sphinx_design']
exclude_patterns = ['jupyter_execute', '**/.ipynb_checkpoints']
nitpicky = True

# what a reader sees is what was committed: nothing runs here
nb_execution_mode = 'off'
nb_output_stderr = 'remove'
nb_merge_streams = True
myst_enable_extensions = ['colon_fence', 'attrs_block', 'deflist']
myst_heading_anchors = 3
python_display_short_literal_types = True
add_module_names = False
highlight_language = 'python'

html_theme = 'pydata_sphinx_theme'
html_static_path = [str(PROJECT/'docs/_static')]
html_css_files = ['site.css']
html_title = 'hrtem_seg'
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_last_updated_fmt = None   # the same sources give the same pages
html_theme_options = {
    'logo': {'text': 'hrtem_seg'},
    'navbar_align': 'left',
    'header_links_before_dropdown': 7,
    'navbar_end': ['theme-switcher'],
    'navbar_persistent': ['search-button-field'],
    'secondary_sidebar_items': ['page-toc'],
    'show_nav_level': 1,
    'show_toc_level': 2,
    'navigation_with_keys': False,
    'footer_start': ['copyright'],
    'footer_end': [],
    'pygments_light_style': 'a11y-high-contrast-light',
    'pygments_dark_style': 'a11y-high-contrast-dark',
    'back_to_top_button': True,
}
html_sidebars = {'index': [], 'tour': [], 'glossary': [], 'failures': []}
html_context = {'default_mode': 'auto'}
