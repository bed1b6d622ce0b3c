"""Where bars come from: made, read from files, or fetched from providers."""

from ensemble_kit.datasets.files import read_bars
from ensemble_kit.datasets.providers.alpaca import Alpaca
from ensemble_kit.datasets.providers.fetch import Patience, fetch_bars
from ensemble_kit.datasets.providers.polygon import Polygon
from ensemble_kit.datasets.providers.qlib_folder import QlibFolder
from ensemble_kit.datasets.providers.report import BarsReport, report_bars
from ensemble_kit.datasets.providers.schwab import Schwab
from ensemble_kit.datasets.providers.yahoo import Yahoo
from ensemble_kit.datasets.synthetic import make_bars
from ensemble_kit.datasets.ticks import make_ticks

__all__ = [
    "Alpaca",
    "BarsReport",
    "Patience",
    "Polygon",
    "QlibFolder",
    "Schwab",
    "Yahoo",
    "fetch_bars",
    "make_bars",
    "make_ticks",
    "read_bars",
    "report_bars",
]
