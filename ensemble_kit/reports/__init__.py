"""Judgement to read and to look at: holdout tables, pictures and the one-file report."""

from ensemble_kit.reports._canvas import save_figure
from ensemble_kit.reports.album import Picture, draw_pictures, save_pictures
from ensemble_kit.reports.beliefs import plot_beliefs
from ensemble_kit.reports.confidence import plot_confidence_curve
from ensemble_kit.reports.confidence_histogram import plot_confidence
from ensemble_kit.reports.displays import BeliefDisplay, ConfidenceDisplay, EquityDisplay, ReliabilityDisplay
from ensemble_kit.reports.equity import plot_equity
from ensemble_kit.reports.folds import plot_folds
from ensemble_kit.reports.holdout import HoldoutReport, evaluate_holdout
from ensemble_kit.reports.html import write_report
from ensemble_kit.reports.importance import plot_importance
from ensemble_kit.reports.interactive import interactive_beliefs, interactive_equity
from ensemble_kit.reports.labels import plot_labels
from ensemble_kit.reports.lag_importance import plot_lag_importance
from ensemble_kit.reports.reliability import plot_reliability
from ensemble_kit.reports.signals import plot_signals
from ensemble_kit.reports.structure import plot_structure
from ensemble_kit.reports.trades import plot_pnl
from ensemble_kit.reports.training import plot_training
from ensemble_kit.reports.votes import plot_weights
from ensemble_kit.reports.waves import plot_wave_forecasts, plot_waves

__all__ = [
    "BeliefDisplay",
    "ConfidenceDisplay",
    "EquityDisplay",
    "HoldoutReport",
    "Picture",
    "ReliabilityDisplay",
    "draw_pictures",
    "evaluate_holdout",
    "interactive_beliefs",
    "interactive_equity",
    "plot_beliefs",
    "plot_confidence",
    "plot_confidence_curve",
    "plot_equity",
    "plot_folds",
    "plot_importance",
    "plot_labels",
    "plot_lag_importance",
    "plot_pnl",
    "plot_reliability",
    "plot_signals",
    "plot_structure",
    "plot_training",
    "plot_wave_forecasts",
    "plot_waves",
    "plot_weights",
    "save_figure",
    "save_pictures",
    "write_report",
]
