"""How the documentation is built: ``make docs`` (offline; the demos run, and their pictures are shown)."""

import sys
import warnings
from pathlib import Path

from matplotlib.sphinxext import mathmpl

sys.path.insert(0, str(Path(__file__).parent))  # the two files beside this one

from docstrings import as_rest

import nnkernels

QUICK = tags.has("quick")  # noqa: F821  (Sphinx puts it there: sphinx-build -t quick)

project = "nnkernels"
author = "the nnkernels authors"
release = version = nnkernels.__version__
extensions = [
    "sphinx.ext.autodoc",
    "sphinx_gallery.gen_gallery",
    "myst_parser",
    "matplotlib.sphinxext.mathmpl",
]
exclude_patterns = ["_build", "README.md"]
suppress_warnings = ["config.cache"]  # the gallery's settings hold functions
highlight_language = "python"
default_role = "code"  # docstrings put code between single backticks

html_theme = "pydata_sphinx_theme"
html_title = "nnkernels"
html_static_path = ["_static"]
html_css_files = ["gallery.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": False,
    "navbar_align": "left",
    "secondary_sidebar_items": [],  # lines of code are up to 110 characters long
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_context = {"default_mode": "light"}  # pictures are drawn on white
html_sidebars = {"index": [], "install": [], "read_a_kernel": [], "add_an_op": [], "benchmarks": []}
copyright = "the nnkernels authors, MIT licence"  # noqa: A001  (Sphinx's name)

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature's types are long; docstrings give shapes and dtypes
autodoc_default_options = {"members": True, "imported-members": True}
myst_heading_anchors = 2
mathmpl_fontsize = 13.0
mathmpl_srcset = ["2x"]

sphinx_gallery_conf = {
    "examples_dirs": "../demos",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_\d\d_",
    "ignore_pattern": r"first_steps\.py|ones_hide_faults\.py",
    "within_subsection_order": "FileNameSortKey",
    "image_scrapers": ("demo_pictures.pictures",),
    "reset_argv": f"demo_pictures.{'quick' if QUICK else 'full'}",
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "notebook_extensions": set(),  # demos are programs: they read a command line
    "show_signature": False,
    "show_memory": False,
    "write_computation_times": False,  # their page loads scripts from elsewhere
    "thumbnail_size": (400, 280),
}


def formula(role, rawtext, text, *rest, **options):
    """Draw a formula in a line of text, which may have been broken inside it."""
    return mathmpl.math_role(role, " ".join(rawtext.split()), " ".join(text.split()), *rest, **options)


def setup(app) -> None:
    """Let matplotlib draw the formulas: pictures in the page, no script from elsewhere."""
    warnings.filterwarnings("error", "Could not render math")  # else the picture would be missing
    app.add_role("math", formula, override=True)
    app.add_directive("math", mathmpl.MathDirective, override=True)
    app.connect("autodoc-process-docstring", as_rest)
