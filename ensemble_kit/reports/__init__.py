"""Judgement to read and to look at: holdout tables and pictures."""

from ensemble_kit.reports._canvas import save_figure
from ensemble_kit.reports.album import save_pictures
from ensemble_kit.reports.equity import plot_equity
from ensemble_kit.reports.folds import plot_folds
from ensemble_kit.reports.holdout import HoldoutReport, evaluate_holdout
from ensemble_kit.reports.labels import plot_labels
from ensemble_kit.reports.lag_importance import plot_lag_importance
from ensemble_kit.reports.reliability import plot_reliability
from ensemble_kit.reports.signals import plot_signals
from ensemble_kit.reports.votes import plot_weights

__all__ = [
    "HoldoutReport",
    "evaluate_holdout",
    "plot_equity",
    "plot_folds",
    "plot_labels",
    "plot_lag_importance",
    "plot_reliability",
    "plot_signals",
    "plot_weights",
    "save_figure",
    "save_pictures",
]
