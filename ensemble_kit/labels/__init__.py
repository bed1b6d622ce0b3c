"""Bars to targets: what each bar turned out to be, and when that was known."""

from ensemble_kit.labels.definition import label_bars
from ensemble_kit.labels.result import Labels
from ensemble_kit.labels.turns import TurnLegs, left_legs, peak_slope_bottom

__all__ = ["Labels", "TurnLegs", "label_bars", "left_legs", "peak_slope_bottom"]
