"""Sphinx configuration: ``make docs``."""

import re

import classp_jax

project = "classp_jax"
release = version = classp_jax.__version__
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 2
# The README links to files of the repository, which are no pages here.
suppress_warnings = ["myst.xref_missing"]
autodoc_typehints = "none"  # The docstrings say more.


def _download_tables(app, *where_and_text):
    """Has links to the results' tables, which are no pages here, download them."""
    text = where_and_text[-1]
    link = r"\[([^]]+)\]\((?:\.\./)?(results/[^)]+\.md)\)"
    text[0] = re.sub(link, r"{download}`\1 <../\2>`", text[0])


def setup(app):
    """What Sphinx calls first."""
    app.connect("source-read", _download_tables)
    app.connect("include-read", _download_tables)
