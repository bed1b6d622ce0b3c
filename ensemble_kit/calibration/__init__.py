"""Log-probabilities to calibrated probabilities."""

from ensemble_kit.calibration.temperature import TemperatureScaling

__all__ = ["TemperatureScaling"]
