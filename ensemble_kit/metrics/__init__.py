"""Scores that know horizons and weights, and the nulls without which a score says nothing."""

from ensemble_kit.metrics.classification import (
    auc_pr,
    auc_pr_by_class,
    brier_score,
    brier_skill,
    calibration_slope,
    expected_calibration_error,
)
from ensemble_kit.metrics.economic import next_open_return
from ensemble_kit.metrics.nulls import block_bootstrap_mean, shifted_label_scores, surrogate_bars, turn_rule
from ensemble_kit.metrics.scorers import AUCPRScorer, BrierScorer

__all__ = [
    "AUCPRScorer",
    "BrierScorer",
    "auc_pr",
    "auc_pr_by_class",
    "block_bootstrap_mean",
    "brier_score",
    "brier_skill",
    "calibration_slope",
    "expected_calibration_error",
    "next_open_return",
    "shifted_label_scores",
    "surrogate_bars",
    "turn_rule",
]
