"""Sphinx configuration: ``make docs``."""

import re

import classp_jax

project = "classp_jax"
release = version = classp_jax.__version__
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
]
html_theme = "furo"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # The docstrings say more.
nb_execution_mode = "force"  # A notebook's outputs are those of this build.
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds per cell


def _mend_links(app, *where_and_text):
    """Has links to files outside the site download them; those to README lead here."""
    *_, docname, text = where_and_text
    above = "../" * docname.count("/")
    text[0] = text[0].replace(f"](../{above}README.md", f"]({above}index.md")
    folders = "results|examples|benchmarks|tests"
    file = rf"(?:(?:{folders})/[^)#]+\.(?:jsonl|md|py|txt)|CONTRIBUTING\.md)"
    link = rf"\[([^]]+)\]\((?:\.\./)*({file})\)"
    text[0] = re.sub(link, rf"{{download}}`\1 <../{above}\2>`", text[0])


def setup(app):
    """What Sphinx calls first."""
    app.connect("source-read", _mend_links)
    app.connect("include-read", _mend_links)
