"""The holdout report as one HTML file that needs nothing else."""

from __future__ import annotations

import base64
import importlib.metadata
import io
import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports import _sections
from ensemble_kit.reports._cells import Section
from ensemble_kit.reports.album import Picture, draw_beliefs, draw_pictures
from ensemble_kit.reports.holdout import HoldoutReport
from ensemble_kit.reports.interactive import interactive_beliefs, interactive_equity

__all__ = ["write_report"]

#: Twice the pixels of the page, for sharp print and screens.
_DPI = 150
_ENDINGS = {".html", ".htm"}


def write_report(
    report: HoldoutReport,
    model: Any,
    path: str | os.PathLike[str],
    *,
    title: str | None = None,
    card: Mapping[str, Any] | None = None,
) -> Path:
    """Write a holdout report as one self-contained HTML file.

    The verdict stands first, in words; then scores beside their nulls, calibration, trading after
    costs, pictures, trades, who saw which rows, and how to read it.

    Parameters
    ----------
    report : HoldoutReport
        From `evaluate_holdout`.
    model : SizedClassifier
        The model judged.
    path : path-like
        Where to, ending in .html. Its folder is made if it is not there; a file that is there
        is replaced when the new one is whole.
    title : str, default=None
        The page's title; None for "Holdout report".
    card : mapping, default=None
        What the model was trained on, as `tracking.load_card` returns it: printed as it is, and
        `first_training_bar`, `last_training_bar` and `n_training_bars` in the head.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    EnsembleKitError
        If `report` is no HoldoutReport, or the file cannot be written there; nothing is drawn then.

    See Also
    --------
    ensemble_kit.reports.save_pictures : The pictures alone, as files.

    Notes
    -----
    Styles, pictures and scripts lie in the file, and a content security policy in its head
    forbids the browser to ask for anything else. All text is escaped.
    """
    if not isinstance(report, HoldoutReport):
        raise EnsembleKitError(
            f"`report` must be a HoldoutReport; got {type(report).__name__}. Take what `evaluate_holdout` returns."
        )
    file = _check_path(Path(path))
    page = _render(report, model, "Holdout report" if title is None else str(title), dict(card or {}))
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{uuid.uuid4().hex}.part")
    try:
        part.write_text(page, encoding="utf-8")
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)
    return file


def _check_path(file: Path) -> Path:
    if file.suffix.lower() not in _ENDINGS or file.is_dir():
        raise EnsembleKitError(f"`path` must be a file ending in .html; got {str(file)!r}. Name it 'report.html', say.")
    folder = next(folder for folder in file.absolute().parents if folder.exists())
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise EnsembleKitError(
            f"`path` must lie in a folder that can be written to; got {str(file)!r}, and {folder} cannot. "
            "Choose another one."
        )
    return file


def _render(report: HoldoutReport, model: Any, title: str, card: dict[str, Any]) -> str:
    pictures = [_Inline.of(picture) for picture in draw_pictures(report, model).values()]
    panels = _panels(report, model)
    seen = Section("pictures", "Pictures", pictures=pictures, panels=panels)
    template = (files("ensemble_kit.reports") / "_page.html").read_text(encoding="utf-8")
    page = Environment(autoescape=True, undefined=StrictUndefined).from_string(template)
    return page.render(
        title=title,
        version=importlib.metadata.version("ensemble-kit"),
        written=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        facts=_sections.facts(report, model, card),
        verdict=_sections.verdict(report),
        sections=[*_sections.all_sections(report, model, card, seen)],
        plotly_js=Markup(get_plotlyjs()),  # noqa: S704 - the library's own script
    )


def _panels(report: HoldoutReport, model: Any) -> list[_Panel]:
    beliefs = draw_beliefs(interactive_beliefs, report, model)
    return [
        _Panel.of(
            "beliefs",
            "Beliefs, to zoom into",
            "Drag to zoom, double-click to see all; the pointer shows what was believed at a close.",
            beliefs,
        ),
        _Panel.of(
            "equity",
            "Equity, to zoom into",
            "A stretch picked because it looks good says nothing of the next one.",
            interactive_equity(report.backtest),
        ),
    ]


@dataclass(frozen=True)
class _Panel:
    """An interactive picture, its markup without the library."""

    name: str
    title: str
    caption: str
    html: Markup

    @classmethod
    def of(cls, name: str, title: str, caption: str, figure: Any) -> _Panel:
        figure.update_layout(title=None, margin_t=40)  # the page writes the title
        markup = figure.to_html(
            full_html=False,
            include_plotlyjs=False,
            div_id=f"plotly-{name}",
            config={"responsive": True, "displaylogo": False},
        )
        return cls(name, title, caption, Markup(markup))  # noqa: S704 - Plotly writes its data as escaped JSON


@dataclass(frozen=True)
class _Inline:
    """A picture as pixels, with the size at which the page shows it."""

    name: str
    title: str
    caption: str
    alt: str
    png: str
    width: int
    height: int

    @classmethod
    def of(cls, picture: Picture) -> _Inline:
        figure, pixels = picture.ax.figure.figure, io.BytesIO()
        figure.savefig(pixels, format="png", dpi=_DPI)
        # An inch of the figure is 96 pixels of the page.
        width, height = (round(96 * inches) for inches in figure.get_size_inches())
        png = base64.b64encode(pixels.getvalue()).decode("ascii")
        return cls(picture.name, picture.title, picture.caption, picture.alt, png, width, height)
