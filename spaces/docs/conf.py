"""The documentation site: `make docs` builds it into `site/`, which is a static Space as it stands."""

import dataclasses
from importlib.metadata import version as installed

default_role = "code"  # docstrings write names in single backticks
project = "stablerep_hf"
author = copyright = "The stablerep_hf authors"
version = release = installed("stablerep_hf")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
exclude_patterns = ["README.md", "site"]
html_extra_path = ["README.md"]  # the Space's card
html_theme = "furo"
html_title = "stablerep_hf"
html_show_sphinx = False
html_show_sourcelink = False  # the repository has them

myst_heading_anchors = 4
nitpicky = False  # types of other projects have no target here
suppress_warnings = ["autodoc.mocked_object"]

autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False


def add_help(app, what, name, obj, options, lines):
    """Write the help of a settings dataclass's fields, which are flags too, below its docstring."""
    if what == "class" and dataclasses.is_dataclass(obj):
        helps = {entry.name: entry.metadata["help"] for entry in dataclasses.fields(obj) if "help" in entry.metadata}
        lines += ["", *(f"- ``{name}``: {text}" for name, text in helps.items()), ""]


def setup(app):
    """Let Sphinx call the above."""
    app.connect("autodoc-process-docstring", add_help)
