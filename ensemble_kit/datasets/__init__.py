"""Where bars come from: made, or read from files."""

from ensemble_kit.datasets.files import read_bars
from ensemble_kit.datasets.synthetic import make_bars
from ensemble_kit.datasets.ticks import make_ticks

__all__ = ["make_bars", "make_ticks", "read_bars"]
