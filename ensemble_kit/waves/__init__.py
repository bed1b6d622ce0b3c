"""Bars to waves: stretches of bars of any length that two straight lines describe."""

from ensemble_kit.waves.extraction import extract_waves, fit_cut
from ensemble_kit.waves.table import wave_features
from ensemble_kit.waves.targets import wave_targets

__all__ = ["extract_waves", "fit_cut", "wave_features", "wave_targets"]
