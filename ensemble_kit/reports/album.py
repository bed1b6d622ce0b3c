"""The pictures that go with a holdout report."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ensemble_kit.reports.holdout import HoldoutReport
from ensemble_kit.reports.pictures import plot_equity, plot_reliability, plot_signals, plot_weights, save_figure
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
    events = [*report.events.index]
    truth = report.labels.iloc[report.rows]
    drawn = {
        "signals": plot_signals(report.bars, report.position, labels=report.labels),
        "reliability": plot_reliability(report.proba[report.rows, 0], truth, classes=report.classes, events=events),
        "equity": plot_equity(report.backtest),
    }
    ensemble = final_estimator(getattr(model, "model_", model))
    if hasattr(ensemble, "weights_"):
        drawn["weights"] = plot_weights(ensemble.weights_, ensemble.temperatures_)
    return [save_figure(picture, folder / f"{name}.png") for name, picture in drawn.items()]
