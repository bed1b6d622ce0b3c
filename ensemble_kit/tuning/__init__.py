"""Optuna: search spaces of whole pipelines, a walk-forward objective, studies of several workers."""

from ensemble_kit.tuning.objective import WalkForwardObjective
from ensemble_kit.tuning.space import space, suggest
from ensemble_kit.tuning.study import best_estimator, create_study, tune

__all__ = ["WalkForwardObjective", "best_estimator", "create_study", "space", "suggest", "tune"]
