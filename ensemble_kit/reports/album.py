"""The pictures of a holdout report, each with a sentence that says how to read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics.confidence import confidence_curve
from ensemble_kit.reports._canvas import save_figure
from ensemble_kit.reports.beliefs import plot_beliefs
from ensemble_kit.reports.confidence import plot_confidence_curve
from ensemble_kit.reports.confidence_histogram import plot_confidence
from ensemble_kit.reports.equity import plot_equity
from ensemble_kit.reports.holdout import HoldoutReport
from ensemble_kit.reports.importance import plot_importance
from ensemble_kit.reports.lag_importance import plot_lag_importance
from ensemble_kit.reports.reliability import plot_reliability
from ensemble_kit.reports.signals import plot_signals
from ensemble_kit.reports.structure import plot_structure
from ensemble_kit.reports.trades import plot_pnl
from ensemble_kit.reports.training import plot_training
from ensemble_kit.reports.votes import plot_weights
from ensemble_kit.reports.waves import plot_waves
from ensemble_kit.validation import final_estimator
from ensemble_kit.waves import extract_waves

__all__ = ["Picture", "draw_pictures", "save_pictures"]

_FORMATS = ("png", "pdf")
#: More probable than not: where beliefs are marked if the sizer has no threshold of its own.
_BELIEF = 0.5
#: Of the most probable event, which may be improbable itself.
_THRESHOLDS = np.arange(20) / 20


@dataclass(frozen=True, eq=False)
class Picture:
    """One picture of a report.

    Attributes
    ----------
    name : str
        Short name, as a file is called.
    title : str
        What it shows.
    caption : str
        One sentence: how to read it, and what it does not say.
    ax : Axes
        Its (first) axes; ``ax.figure`` is the picture.
    """

    name: str
    title: str
    caption: str
    ax: Axes

    @property
    def alt(self) -> str:
        """The picture in words, for those who do not see it."""
        said = self.ax.get_title(loc="left")
        return f"{self.title.rstrip('?')}: {said}" if said else self.title


def draw_pictures(report: HoldoutReport, model: Any) -> dict[str, Picture]:
    """Draw what a holdout report tells: beliefs, positions, calibration, confidence, equity, trades, votes.

    Parameters
    ----------
    report : HoldoutReport
        From `evaluate_holdout`.
    model : SizedClassifier
        The model judged.

    Returns
    -------
    dict of str to Picture
        By name, in the order of reading: `beliefs`, `signals`, `reliability`, `confidence_curve`,
        `confidence`, `equity`, `pnl` where there are trades; of the model, `weights` of an ensemble,
        `importance` of trees and `training` of networks; of the market, `structure` and `waves`.

    Raises
    ------
    EnsembleKitError
        If `report` is no HoldoutReport.
    """
    if not isinstance(report, HoldoutReport):
        raise EnsembleKitError(
            f"`report` must be a HoldoutReport; got {type(report).__name__}. Take what `evaluate_holdout` returns."
        )
    return {picture.name: picture for picture in _pictures(report, model)}


def draw_beliefs(draw: Callable[..., Any], report: HoldoutReport, model: Any) -> Any:
    """Draw a report's beliefs.

    Parameters
    ----------
    draw : callable
        `plot_beliefs`, or its interactive twin.
    report : HoldoutReport
        From `evaluate_holdout`.
    model : SizedClassifier
        The model judged: its sizer's threshold is marked, or 0.5 where it has none.

    Returns
    -------
    Axes or plotly.graph_objects.Figure
        What `draw` returns.
    """
    sizer, known = getattr(model, "sizer_", None), dict[str, Any]()
    if hasattr(sizer, "long_"):
        known = {side: report.classes[getattr(sizer, f"{side}_")] for side in ("long", "short")}
    threshold = getattr(sizer, "threshold", _BELIEF) or None
    return draw(
        report.bars, report.proba, classes=report.classes.tolist(), labels=report.labels, threshold=threshold, **known
    )


def _pictures(report: HoldoutReport, model: Any) -> Iterator[Picture]:
    judged, truth = report.proba[report.rows, 0], report.labels.iloc[report.rows]
    known: dict[str, Any] = {"classes": report.classes.tolist(), "events": [*report.events.index]}
    yield Picture(
        "beliefs",
        "What the model believed",
        "Shades and lines are what was believed at each close, with nothing later known; the triangles are hindsight, "
        "which half gives itself away, so that beliefs beside them are no skill yet.",
        draw_beliefs(plot_beliefs, report, model),
    )
    yield Picture(
        "signals",
        "Positions on the newest bars",
        "A shade begins at the open that filled it; the hollow triangles were known only bars later, so that a "
        "position beside one proves nothing by itself.",
        plot_signals(report.bars, report.position, labels=report.labels),
    )
    yield Picture(
        "reliability",
        "Do probabilities come true?",
        "On the dashed line, what was said came true as often as said; an interval that crosses it cannot be told from "
        "it, and a constant guess at the prevalence lies on it, too.",
        plot_reliability(judged, truth, **known),
    )
    yield Picture(
        "confidence_curve",
        "Is it right where it is sure?",
        "Each row's most probable event, right or wrong, among the rows at least that sure; to the right few rows are "
        "left, and a threshold picked here is a look at the holdout.",
        plot_confidence_curve(confidence_curve(truth, judged, thresholds=_THRESHOLDS, **known), calls="event calls"),
    )
    yield Picture(
        "confidence",
        "How sure it was when right and when wrong",
        "Of the most probable class: where one class is common, saying it always is right as often as the dashed line, "
        "and only what lies above that was learned.",
        plot_confidence(judged, truth, classes=known["classes"]),
    )
    yield Picture(
        "equity",
        "Equity after costs",
        "One path through one holdout is one draw: read it beside buy and hold and with the intervals of the trading "
        "table, never alone.",
        plot_equity(report.backtest),
    )
    if len(report.backtest.trades):
        yield Picture(
            "pnl",
            "What trades earned",
            "Where a few trades carry the sum, or the mean is small beside the spread, the next ones may as well lose.",
            plot_pnl(report.backtest),
        )
    yield from _of_the_model(model)
    yield from _of_the_market(report)


def _of_the_model(model: Any) -> Iterator[Picture]:
    ensemble = final_estimator(getattr(model, "model_", model))
    if hasattr(ensemble, "weights_"):
        yield Picture(
            "weights",
            "What each member's vote weighs",
            "Both were fitted out of fold, before the holdout began; a temperature above 1 says that the member was "
            "too sure of itself.",
            plot_weights(ensemble.weights_, ensemble.temperatures_)[0],
        )
    members = [(name, one) for name, one in _members(ensemble) if hasattr(one, "lag_importance")]
    for name, one in members:
        shares, ending = one.lag_importance(), "" if len(members) == 1 else f"_{name}"
        several = shares.shape[1] > 1
        yield Picture(
            f"importance{ending}",
            f"What {name} looks at",
            "How much its splits gained on the rows it was fitted on: what was used, not what helps on new rows.",
            plot_lag_importance(shares) if several else plot_importance(shares.iloc[:, 0].rename("Gain of splits")),
        )
    if any(hasattr(one, "history_") for _, one in _members(ensemble)):
        yield Picture(
            "training",
            "How the networks learned",
            "The weights kept are those of the ring; a gap that widens between the two lines is memory, not learning.",
            plot_training(ensemble),
        )


def _members(ensemble: Any) -> Iterator[tuple[str, Any]]:
    """Give each member's (newest) fitted model; a model that is no ensemble is its own member."""
    named = getattr(ensemble, "named_estimators_", {"the model": ensemble})
    for name, models in named.items():
        yield name, final_estimator(models[-1] if isinstance(models, list) else models)


def _of_the_market(report: HoldoutReport) -> Iterator[Picture]:
    bars = report.bars.dropna(subset=["open", "high", "low", "close"])
    yield Picture(
        "structure",
        "Market structure of the newest bars",
        "A zone is filled from the close that made it known, and dashed before: nobody could trade it there.",
        plot_structure(bars),
    )
    waves = extract_waves(bars)
    if len(waves):
        yield Picture(
            "waves",
            "Waves of the newest bars",
            "A wave is known to have ended at the diamond, which is after its last bar.",
            plot_waves(bars, waves),
        )


def save_pictures(report: HoldoutReport, model: Any, folder: Path, *, format: str = "png") -> list[Path]:  # noqa: A002 - as `Figure.savefig` has it
    """Draw the pictures of a holdout report as files.

    Parameters
    ----------
    report : HoldoutReport
        From `evaluate_holdout`.
    model : SizedClassifier
        The model judged.
    folder : Path
        Where the files go; made if it is not there.
    format : "png" or "pdf", default="png"
        Pixels, or vectors.

    Returns
    -------
    list of Path
        The files, as `draw_pictures` names them.

    Raises
    ------
    EnsembleKitError
        If the format is another one, or `report` is no HoldoutReport.
    """
    if format not in _FORMATS:
        raise EnsembleKitError(f"`format` must be one of {', '.join(_FORMATS)}; got {format!r}.")
    drawn = draw_pictures(report, model)
    return [save_figure(picture.ax, Path(folder) / f"{name}.{format}") for name, picture in drawn.items()]
