"""The pictures that go with a holdout report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ensemble_kit.reports._canvas import save_figure
from ensemble_kit.reports.equity import plot_equity
from ensemble_kit.reports.holdout import HoldoutReport
from ensemble_kit.reports.reliability import plot_reliability
from ensemble_kit.reports.signals import plot_signals
from ensemble_kit.reports.votes import plot_weights
from ensemble_kit.validation import final_estimator

__all__ = ["save_pictures"]


def save_pictures(report: HoldoutReport, model: Any, folder: Path) -> list[Path]:
    """Draw signals, reliability, equity and, for an ensemble, weights and temperatures.

    Parameters
    ----------
    report : HoldoutReport
        From `evaluate_holdout`.
    model : SizedClassifier
        The model judged.
    folder : Path
        Where PNG files go; made if it is not there.

    Returns
    -------
    list of Path
        The files.
    """
    judged, truth = report.proba[report.rows, 0], report.labels.iloc[report.rows]
    events = [*report.events.index]
    drawn: dict[str, Any] = {
        "signals": plot_signals(report.bars, report.position, labels=report.labels),
        "reliability": plot_reliability(judged, truth, classes=list(report.classes), events=events),
        "equity": plot_equity(report.backtest),
    }
    ensemble = final_estimator(getattr(model, "model_", model))
    if hasattr(ensemble, "weights_"):
        drawn["weights"] = plot_weights(ensemble.weights_, ensemble.temperatures_)
    return [save_figure(picture, folder / f"{name}.png") for name, picture in drawn.items()]
