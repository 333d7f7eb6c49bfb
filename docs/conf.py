"""Settings of the site: `make docs` builds it into build/site."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, str(Path(__file__).parent))  # for extension/

import keras  # noqa: F401  # before tfprune, as the docstrings' examples have it

import tfprune

project = "tfprune"
author = "The tfprune authors"
project_copyright = author
version = release = tfprune.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "extension.docstrings",
    "extension.folded_sidebar",
    "extension.notebook_links",
    "extension.outside_links",
    "extension.name_links",
    "extension.command_help",
    "extension.llms_txt",
    "extension.moved_pages",
]
exclude_patterns = ["_build"]
templates_path = ["_templates"]

# Pages are Markdown. Headings can be linked to as on GitHub, `page.md#its-heading`.
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
myst_links_external_new_tab = False
suppress_warnings = ["myst.header"]  # a page may begin with a heading of the second level, as an included one does

# The reference comes from docstrings: Google's sections, and code in single backticks.
default_role = "code"
autosummary_generate = True
autodoc_mock_imports = [] if find_spec("flwr") else ["flwr"]  # the extra `docs` does not bring Flower
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Reference"]
python_maximum_signature_line_length = 70
python_use_unqualified_type_names = True
add_module_names = True
trim_doctest_flags = True

# Links inside of the site have to resolve. Types of others, and private ones of tfprune, have no page.
nitpicky = True
nitpick_ignore_regex = [("py:.*", r"(?!tfprune\.).*"), ("py:.*", r"tfprune\.[a-z_]+\.[a-z_]+\..*")]

html_theme = "furo"
html_title = f"tfprune {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_show_sphinx = False
html_theme_options = {"navigation_with_keys": False}
pygments_style = "tango"
pygments_dark_style = "monokai"

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
