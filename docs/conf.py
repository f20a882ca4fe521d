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
autodoc_typehints = "none"  # The docstrings say more.


def _mend_links(app, *where_and_text):
    """Has links to results and examples download them; those to README lead here."""
    text = where_and_text[-1]
    text[0] = text[0].replace("](../README.md", "](index.md")
    link = r"\[([^]]+)\]\((?:\.\./)?((?:results|examples)/[^)]+\.(?:md|txt|py))\)"
    text[0] = re.sub(link, r"{download}`\1 <../\2>`", text[0])


def setup(app):
    """What Sphinx calls first."""
    app.connect("source-read", _mend_links)
    app.connect("include-read", _mend_links)
