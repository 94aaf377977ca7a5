"""Sphinx's settings for the documentation site; `make docs` builds it into docs/_build/html."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS.parent), str(DOCS / "tools")]

project = "selfcluster"
copyright = "the selfcluster developers, Apache-2.0"
exclude_patterns = ["_build"]
highlight_language = "sh"
html_theme = "furo"
html_title = "selfcluster"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "links", "mathml"]
myst_heading_anchors = 3
myst_enable_extensions = ["dollarmath"]
