"""Scores that know horizons and weights, and the nulls without which a score says nothing."""

from ensemble_kit.metrics.bootstrap import block_bootstrap_mean
from ensemble_kit.metrics.calibration import brier_decomposition, calibration_slope, expected_calibration_error
from ensemble_kit.metrics.classification import auc_pr, auc_pr_by_class, brier_score, brier_skill
from ensemble_kit.metrics.comparison import compare_scores, score_interval
from ensemble_kit.metrics.confidence import belief_crossings, confidence_curve
from ensemble_kit.metrics.economic import next_open_return
from ensemble_kit.metrics.importance import permutation_importance
from ensemble_kit.metrics.information import ic_summary, information_coefficient
from ensemble_kit.metrics.nulls import shift_labels, shifted_label_scores
from ensemble_kit.metrics.overfitting import (
    OverfittingResult,
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    probabilistic_sharpe_ratio,
    probability_of_backtest_overfitting,
)
from ensemble_kit.metrics.reliability import reliability_curve
from ensemble_kit.metrics.rules import causal_rule, turn_rule
from ensemble_kit.metrics.scorers import AUCPRScorer, BrierScorer
from ensemble_kit.metrics.skill import SkillReport, skill_test
from ensemble_kit.metrics.surrogates import random_walk_bars, surrogate_bars
from ensemble_kit.metrics.waves import (
    direction_of,
    loss_rate,
    sideways_precision,
    slope_threshold,
    up_down_ratio,
    wave_scores,
)

__all__ = [
    "AUCPRScorer",
    "BrierScorer",
    "OverfittingResult",
    "SkillReport",
    "auc_pr",
    "auc_pr_by_class",
    "belief_crossings",
    "block_bootstrap_mean",
    "brier_decomposition",
    "brier_score",
    "brier_skill",
    "calibration_slope",
    "causal_rule",
    "compare_scores",
    "confidence_curve",
    "deflated_sharpe_ratio",
    "direction_of",
    "expected_calibration_error",
    "expected_maximum_sharpe",
    "ic_summary",
    "information_coefficient",
    "loss_rate",
    "next_open_return",
    "permutation_importance",
    "probabilistic_sharpe_ratio",
    "probability_of_backtest_overfitting",
    "random_walk_bars",
    "reliability_curve",
    "score_interval",
    "shift_labels",
    "shifted_label_scores",
    "sideways_precision",
    "skill_test",
    "slope_threshold",
    "surrogate_bars",
    "turn_rule",
    "up_down_ratio",
    "wave_scores",
]
