"""Sphinx configuration: ``make docs``."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import generate

project = "face-align-env"
author = "The face-align-env authors"
copyright = "The face-align-env authors"
release = version = installed("face-align-env")

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
exclude_patterns = ["_build", "_generated/*.md", "jupyter_execute", ".jupyter_cache", "**/.ipynb_checkpoints"]

html_theme = "furo"
html_title = "face-align-env"
html_static_path = ["_static"]
html_css_files = ["wide.css"]

myst_enable_extensions = ["colon_fence", "dollarmath", "deflist", "attrs_inline"]
myst_heading_anchors = 3
# Notebooks are run by the build; a cell that fails, fails the build.
nb_execution_mode = "cache"
nb_execution_raise_on_error = True
nb_execution_timeout = 900  # seconds a cell: PPO takes a minute of an idle machine, and several of a busy one
nb_execution_in_temp = True
os.environ["PYTHONWARNINGS"] = "ignore:IProgress not found"  # of tqdm in a kernel without widgets

autosummary_generate = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_default_options = {"members": True, "show-inheritance": True}
# Offline builds have no inventories of other projects: links to them are left as text.
intersphinx_mapping: dict[str, Any] = {}


def _from_markdown(app: Any, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """The docstring of an environment is Markdown, as in Gymnasium: its page is environment.md."""
    if name.endswith(("FaceAlignEnv",)) and lines and "## Description" in "\n".join(lines):
        lines[:] = ["The environment of one face; see :doc:`/environment`.", ""]


def setup(app: Any) -> None:
    app.connect("autodoc-process-docstring", _from_markdown)
    generate.write_pages(Path(__file__).parent)
