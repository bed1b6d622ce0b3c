"""Where bars come from: made, or read from files."""

from ensemble_kit.datasets.files import read_bars
from ensemble_kit.datasets.synthetic import make_bars

__all__ = ["make_bars", "read_bars"]
