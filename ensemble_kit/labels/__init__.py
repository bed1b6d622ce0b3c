"""Bars to targets: what each bar turned out to be, and when that was known."""

from ensemble_kit.labels.buy_sell_hold import buy_sell_hold
from ensemble_kit.labels.definition import label_bars
from ensemble_kit.labels.events import average_uniqueness, cusum_events, ewm_volatility
from ensemble_kit.labels.next_direction import next_direction
from ensemble_kit.labels.result import Labels
from ensemble_kit.labels.triple_barrier import triple_barrier
from ensemble_kit.labels.turns import peak_slope_bottom

__all__ = [
    "Labels",
    "average_uniqueness",
    "buy_sell_hold",
    "cusum_events",
    "ewm_volatility",
    "label_bars",
    "next_direction",
    "peak_slope_bottom",
    "triple_barrier",
]
