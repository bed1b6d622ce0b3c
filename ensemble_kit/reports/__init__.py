"""Judgement to read and to look at: holdout tables and pictures."""

from ensemble_kit.reports.album import save_pictures
from ensemble_kit.reports.holdout import HoldoutReport, evaluate_holdout
from ensemble_kit.reports.pictures import plot_equity, plot_reliability, plot_signals, plot_weights, save_figure

__all__ = [
    "HoldoutReport",
    "evaluate_holdout",
    "plot_equity",
    "plot_reliability",
    "plot_signals",
    "plot_weights",
    "save_figure",
    "save_pictures",
]
