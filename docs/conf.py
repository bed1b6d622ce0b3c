"""How the site is built: the pages of this folder, and a reference of every public name."""

import shutil
import sys
from importlib import import_module, metadata
from pathlib import Path
from pkgutil import iter_modules
from typing import Any

from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

import ensemble_kit

project = "ensemble_kit"
author = "The ensemble_kit developers"
release = metadata.version("ensemble-kit")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "numpydoc", "sphinx_copybutton"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
templates_path = ["_templates"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = "ensemble_kit"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_copyright = False

myst_heading_anchors = 3
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # numpydoc's sections say what a parameter is
numpydoc_show_class_members = False
numpydoc_validation_checks: set[str] = set()
default_role = "py:obj"  # a name in single backticks is a link where it is one of ours


def _write_reference() -> None:
    """Write one page a room: its public names, in the order of `__all__`."""
    folder = Path(__file__).parent / "api"
    shutil.rmtree(folder, ignore_errors=True)  # a name that is gone leaves no page behind
    folder.mkdir()
    rooms = []
    for found in iter_modules(ensemble_kit.__path__):
        module = import_module(f"ensemble_kit.{found.name}") if not found.name.startswith("_") else None
        names = [name for name in getattr(module, "__all__", ()) if not name.startswith("_")]
        if not names:
            continue
        rooms.append(found.name)
        title = f"ensemble_kit.{found.name}"
        lines = [title, "=" * len(title), "", f".. automodule:: {title}", "   :no-members:", ""]
        lines += [f".. currentmodule:: {title}", "", ".. autosummary::", "   :toctree: names", ""]
        (folder / f"{found.name}.rst").write_text("\n".join([*lines, *(f"   {name}" for name in names), ""]))
    index = [
        "Reference",
        "=========",
        "",
        "One page a room, one a public name.",
        "",
        ".. toctree::",
        "   :maxdepth: 1",
        "",
    ]
    (folder / "index.rst").write_text("\n".join([*index, *(f"   {room}" for room in rooms), ""]))


def _skip_member(_app: Sphinx, _what: str, name: str, _member: Any, _skip: bool, _options: Any) -> bool | None:
    """Leave out what scikit-learn generates on every estimator; None leaves the choice to others."""
    return True if name.startswith("set_") and name.endswith("_request") else None


def _comment_of_constant(_app: Sphinx, what: str, name: str, _value: Any, _options: Any, lines: list[str]) -> None:
    """Describe a constant by the comment above it, where it is defined, and not by what `str` says of itself."""
    if what == "data":
        room, _, constant = name.rpartition(".")
        modules = sorted(module for module in sys.modules if f"{module}.".startswith(f"{room}."))
        found = (ModuleAnalyzer.for_module(module).find_attr_docs().get(("", constant)) for module in modules)
        lines[:] = next(filter(None, found), [])


def setup(app: Sphinx) -> None:
    """Write the reference, and hear of what is shown in it."""
    _write_reference()
    app.connect("autodoc-skip-member", _skip_member)
    app.connect("autodoc-process-docstring", _comment_of_constant, priority=900)  # after numpydoc
