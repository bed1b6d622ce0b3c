"""How the site is built: the pages of this folder, and a reference of every public name."""

from importlib import import_module, metadata
from pathlib import Path
from pkgutil import iter_modules

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
html_show_sourcelink = False
html_copy_source = False

myst_heading_anchors = 3
suppress_warnings = [
    "myst.xref_missing",  # links to files outside this folder (examples, benchmarks) are for readers of the repository
]
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # numpydoc's sections say what a parameter is
numpydoc_show_class_members = False
numpydoc_validation_checks: set[str] = set()
nitpicky = False


def _write_reference() -> None:
    """Write one page a room: its modules' public names, in the order of `__all__`."""
    folder = Path(__file__).parent / "api"
    folder.mkdir(exist_ok=True)
    rooms = [room.name for room in iter_modules(ensemble_kit.__path__) if not room.name.startswith("_")]
    for room in rooms:
        module = import_module(f"ensemble_kit.{room}")
        names = [name for name in getattr(module, "__all__", ()) if not name.startswith("_")]
        title = f"ensemble_kit.{room}"
        lines = [title, "=" * len(title), "", f".. automodule:: {title}", "   :no-members:", ""]
        lines += [f".. currentmodule:: {title}", "", ".. autosummary::", "   :toctree: names", ""]
        (folder / f"{room}.rst").write_text("\n".join([*lines, *(f"   {name}" for name in names), ""]))
    index = ["Reference", "=========", "", ".. toctree::", "   :maxdepth: 1", ""]
    (folder / "index.rst").write_text("\n".join([*index, *(f"   {room}" for room in rooms), ""]))


_write_reference()
