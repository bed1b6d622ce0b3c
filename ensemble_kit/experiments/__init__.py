"""Experiments: one readable file that says which model is trained, on what, and how."""

from ensemble_kit.experiments.experiment import Experiment
from ensemble_kit.experiments.presets import PRESETS

__all__ = ["PRESETS", "Experiment"]
