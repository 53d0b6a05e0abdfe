"""Sphinx's settings; `python .docs/build.py` runs Sphinx."""

import kerascnn

project = "kerascnn"
author = "the authors of kerascnn"
copyright = "the authors of kerascnn, Apache 2.0"
version = release = kerascnn.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["generated/readme", "generated/downloads", "static", "notebooks"]
exclude_patterns += ["README.vi.md"]  # which pages.py moves
# The notebooks, at an address that Colab can be given.
html_extra_path = ["generated/downloads"]
# The docstrings write code in single backticks.
default_role = "code"

myst_enable_extensions = ["colon_fence", "attrs_block"]
myst_heading_anchors = 3
autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_custom_sections = ["Source"]
add_module_names = False
# A signature that is longer has a line for each argument.
maximum_signature_line_length = 88
# References to other libraries are not followed: the build has no network.
nitpick_ignore_regex = [("py:.*", r"(?!kerascnn\.).*")]

html_theme = "furo"
html_title = "kerascnn"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style = "friendly"
pygments_dark_style = "github-dark"
html_theme_options = {
    "light_css_variables": {
        "color-brand-primary": "#1b6ca8",
        "color-brand-content": "#1b6ca8",
        "font-stack": (
            'system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif'
        ),
    },
    "dark_css_variables": {
        "color-brand-primary": "#74b6ea",
        "color-brand-content": "#74b6ea",
    },
}


def code_of(app, what, name, obj, options, lines):
    """Make of an indented block below "...:" code, as its writer meant it."""
    for n, line in enumerate(lines[:-2]):
        if line.endswith(":") and not lines[n + 1] and lines[n + 2].startswith("    "):
            lines[n] = f"{line}:"


def setup(app):
    """Have Sphinx read docstrings so."""
    app.connect("autodoc-process-docstring", code_of, priority=100)
