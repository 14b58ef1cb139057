"""Sphinx's settings: `make docs` builds the pages."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # for docs._ext

project = "hpc_dl"
author = "hpc_dl contributors"
extensions = ["sphinx.ext.autodoc", "sphinx.ext.napoleon", "docs._ext.generated"]

html_theme = "furo"
html_title = "hpc_dl"
html_static_path = ["_static"]
html_css_files = ["hpc_dl.css"]
html_copy_source = False
html_show_copyright = False

# A name that no page has is a warning, and so an error of `make docs`. Types of other packages have no page here.
nitpicky = True
nitpick_ignore_regex = [("py:.*", ".*")]

autodoc_member_order = "bysource"
python_use_unqualified_type_names = True
highlight_language = "none"
smartquotes = False  # -- is an option, and quotes are to be copied
