"""Sphinx's settings for the documentation site; `make docs` builds it into docs/_build/html."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "tools")]

from links import REPOSITORY  # noqa: E402

project = "selfcluster"
copyright = "the selfcluster developers, Apache-2.0"
exclude_patterns = ["_build"]
highlight_language = "sh"
smartquotes_action = "D"  # dashes, no quotes: these are of code
default_role = "code"  # docstrings have code in single backquotes
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = "selfcluster"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
extensions += ["docstrings", "links", "mathml", "reference"]  # in docs/tools
myst_enable_extensions = ["deflist", "dollarmath", "fieldlist"]
myst_heading_anchors = 3
