"""The documentation as a site: ``sphinx-build -W docs build/docs`` (``pip install -e ".[docs]"``).

Pages are Markdown that a code host shows, too. ``_ext/pages.py`` makes those that follow from files
(committed runs, reference of the code), leads links that leave this folder to their pages, and sets
equations as MathML, so that the site needs no network.
"""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent)]

from pages import runs  # noqa: E402  (found by the line above)

from dd import __version__  # noqa: E402

project = "Dataset distillation, reproduced"
author = "The maintainers of this project"
release = version = __version__
language = "en-GB"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "pages"]
exclude_patterns = ["generated/papers", *(f"{folder.name}/*.md" for folder in runs())]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # as code hosts make them

autodoc_default_options = {"members": True, "show-inheritance": True, "member-order": "bysource"}
autodoc_typehints = "signature"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
python_maximum_signature_line_length = 88
toc_object_entries = False  # in the sidebar of every page they take a third of the time

highlight_language = "none"  # a block says which language it is in

html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"{project} {release}"
html_copy_source = False
html_show_sourcelink = False
html_show_copyright = False
html_show_search_summary = False  # browsers do not let a page that is a file fetch another
