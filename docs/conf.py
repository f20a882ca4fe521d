"""Sphinx configuration: ``make docs``."""

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
