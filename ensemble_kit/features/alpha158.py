"""Alpha158: Qlib's 158 price and volume columns, equal to Qlib's own engine bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from numbers import Integral
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ensemble_kit.bars import check_bars, instrument_codes
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features._moments import MOMENTS, fill_moments, lay_out
from ensemble_kit.features._order import (
    COUNTS,
    EXTREMES,
    ORDERS,
    fill_counts,
    fill_extremes,
    fill_orders,
    take_rows,
)
from ensemble_kit.features._rolling import LANES, PAD

__all__ = ["Alpha158"]

WINDOWS = (5, 10, 20, 30, 60)
_KBAR = ("KMID", "KLEN", "KMID2", "KUP", "KUP2", "KLOW", "KLOW2", "KSFT", "KSFT2", "OPEN0", "HIGH0", "LOW0", "VWAP0")
_ROLLING = (
    *("ROC", "MA", "STD", "BETA", "RSQR", "RESI", "MAX", "MIN", "QTLU", "QTLD", "RANK", "RSV", "IMAX", "IMIN", "IMXD"),
    *("CORR", "CORD", "CNTP", "CNTN", "CNTD", "SUMP", "SUMN", "SUMD", "VMA", "VSTD", "WVMA", "VSUMP", "VSUMN", "VSUMD"),
)
_NAMES = (*_KBAR, *(f"{name}{window}" for name in _ROLLING for window in WINDOWS))
_PLACE = {name: place for place, name in enumerate(_NAMES)}

_TINY = np.float32(1e-12)

Float32 = NDArray[np.float32]

_FIELDS = ("open", "high", "low", "close", "volume", "vwap")


class Alpha158(TransformerMixin, BaseEstimator):
    """Qlib's Alpha158 columns of market bars, computed 20 to 40 times faster than by Qlib.

    Row t depends on row t and the `lookback` rows of the same instrument before it.
    Nothing is learned: `fit` only checks the bars and records their columns.

    Parameters
    ----------
    calendar : {"rows", "union"}, default="rows"
        Which bars a window counts. ``"rows"``: the rows given of that instrument. ``"union"``:
        as Qlib does in a panel, every time at which any instrument has a bar, from the
        instrument's first to its last; the bars it lacks are NaN, and not returned.
    n_threads : int, default=1
        Threads that share the columns. Any number gives the same bits.

    Attributes
    ----------
    feature_names_in_ : ndarray of str, shape (n_features,)
        Columns of the bars seen in `fit`.
    n_features_in_ : int
        How many.

    See Also
    --------
    ensemble_kit.bars.check_bars : What bars are, and the errors raised here.

    Notes
    -----
    Values are those of ``Alpha158DL.get_feature_config()`` under pyqlib 0.9.7 and pandas 3.1,
    every float32 bit and every NaN. Degenerate bars:

    - volume that is NaN or absent: NaN in the columns of volume, except where Qlib's are defined;
    - zero volume: VMA and VSTD divide by 1e-12 and are huge, not infinite;
    - an absent ``vwap`` column: VWAP0 is NaN;
    - a row of NaN: NaN in whatever is divided by the newest price or volume; counts, sums,
      places of extremes, correlations and R-squared stay defined;
    - constant prices: RSQR, CORR and CORD are NaN, SUMP, SUMN and SUMD 0. Qlib's threshold on
      the standard deviation is absolute (2e-5), so prices of 1e-5 always count as constant.

    The recurrences run from each instrument's first bar, so a row computed from its last
    `lookback` rows alone can differ in round-off: on BTC 5-minute bars one cell in 500 in the
    last bit or two, 4 of 948,000 by more than 1e-5.

    The first call in a fresh installation compiles for ten to twenty seconds; the result is
    cached on disk beside the package.

    References
    ----------
    .. [1] X. Yang et al., "Qlib: An AI-oriented Quantitative Investment Platform", 2020,
       arXiv:2009.11189.

    Examples
    --------
    >>> import numpy as np
    >>> import pandas as pd
    >>> from ensemble_kit.features.alpha158 import Alpha158
    >>> close = 100 + np.sin(np.arange(200.0))
    >>> bars = pd.DataFrame(
    ...     {"open": close, "high": close + 1, "low": close - 1, "close": close, "volume": 1000.0},
    ...     index=pd.date_range("2024-01-02", periods=200, freq="D"),
    ... )
    >>> columns = Alpha158().set_output(transform="pandas").fit_transform(bars)
    >>> columns.shape, columns.columns[:3].tolist()
    ((200, 158), ['KMID', 'KLEN', 'KMID2'])
    >>> columns.loc["2024-03-01", ["KLEN", "MA5", "RANK60"]].astype(float).round(4).tolist()
    [0.0199, 0.9948, 0.7]
    """

    def __init__(self, *, calendar: str = "rows", n_threads: int = 1) -> None:
        self.calendar = calendar
        self.n_threads = n_threads

    def fit(self, X: pd.DataFrame, y: object = None) -> Self:  # noqa: ARG002
        """Check the bars and record their columns; nothing is learned.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            Bars of one instrument or of a panel, see `ensemble_kit.bars.check_bars`.
        y : object, default=None
            Ignored.

        Returns
        -------
        Alpha158
            The transformer itself.

        Raises
        ------
        BarsError
            If the bars cannot be used.
        EnsembleKitError
            If a parameter is outside its domain.
        """
        if self.calendar not in ("rows", "union"):
            raise EnsembleKitError(
                f"`calendar` must be 'rows' or 'union'; got {self.calendar!r}. Qlib's panels are 'union'."
            )
        if not isinstance(self.n_threads, Integral) or self.n_threads < 1:
            raise EnsembleKitError(
                f"`n_threads` must be an integer of at least 1; got {self.n_threads!r}. 1 always works."
            )
        check_bars(X)
        self.feature_names_in_: NDArray[Any] = np.asarray(X.columns, dtype=object)
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: pd.DataFrame) -> Float32:
        """Compute the columns of every bar.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            Bars of one instrument or of a panel; ``volume`` and ``vwap`` are optional.

        Returns
        -------
        ndarray of float32, shape (n_rows, 158)
            One column after the other in memory, rows in the order given; a DataFrame with
            the bars' index after ``set_output(transform="pandas")``.

        Raises
        ------
        BarsError
            If the bars cannot be used.
        """
        check_is_fitted(self, "n_features_in_")
        check_bars(X)
        if lost := [name for name in ("volume", "vwap") if name in self.feature_names_in_ and name not in X.columns]:
            raise BarsError(
                f"`X` must have the columns given to `fit`; {', '.join(lost)} is missing. What a model learned of it "
                "would read as unknown: add it, as NaN where it is not known."
            )
        codes, instruments = instrument_codes(X.index)
        slots, starts = _slots(X.index, codes, len(instruments), self.calendar)
        block = np.empty((len(_NAMES), int(starts[-1])), np.float32)
        _compute(_Padded(X, slots, starts), block, int(self.n_threads))
        if len(instruments) == 1 and len(X) == starts[-1]:
            return block.T
        out = block if len(X) == starts[-1] else np.empty((len(_NAMES), len(X)), np.float32)
        take_rows(block, slots, out)
        return out.T

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return Qlib's names in Qlib's order.

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        ndarray of str, shape (158,)
            ``KMID``, ``KLEN``, ..., ``VSUMD60``.
        """
        return np.asarray(_NAMES, dtype=object)

    @property
    def cross_sectional(self) -> bool:
        """Whether a row may depend on other instruments: on their calendars, with ``"union"``."""
        return self.calendar == "union"

    @property
    def lookback(self) -> int:
        """How many earlier rows of its instrument a row can depend on."""
        return PAD

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.requires_fit = True
        return tags


def _slots(
    index: pd.Index[Any], codes: NDArray[np.int64], n_instruments: int, calendar: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return each row's place among the bars instrument after instrument, and where each of these starts."""
    if calendar == "union" and n_instruments > 1:
        times = index.get_level_values(0)
        time = np.concatenate([[0], np.cumsum(times[1:] != times[:-1])])
        first, last = np.full(n_instruments, len(time)), np.full(n_instruments, -1)
        np.minimum.at(first, codes, time)
        np.maximum.at(last, codes, time)
        starts = np.concatenate([[0], np.cumsum(last - first + 1)])
        return starts[codes] + time - first[codes], starts
    starts = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=n_instruments))])
    slots = np.empty(len(codes), np.int64)
    slots[np.argsort(codes, kind="stable")] = np.arange(len(codes))
    return slots, starts


class _Padded:
    """What the kernels read: float32 bars, instrument after instrument, each behind `PAD` rows of NaN."""

    def __init__(self, bars: pd.DataFrame, slots: NDArray[np.int64], starts: NDArray[np.int64]) -> None:
        self.starts = starts
        n, n_instruments = int(starts[-1]), len(starts) - 1
        self.rows = np.arange(n) + PAD * np.repeat(np.arange(1, n_instruments + 1), np.diff(starts))
        rows = self.rows[slots]
        prices = np.full((len(_FIELDS), n + PAD * n_instruments), np.nan, np.float32)
        for column, name in zip(prices, _FIELDS, strict=True):
            if name in bars:
                column[rows] = bars[name].to_numpy(np.float32)
        self.open, self.high, self.low, self.close, self.volume, self.vwap = prices
        close, volume, one = self.close, self.volume, np.float32(1)
        with np.errstate(all="ignore"):
            # numpy's float32 logarithm of whole arrays is the one Qlib has: numba's may differ in the last bit.
            log_volume, log_growth = np.log(volume + one), np.log(volume / np.roll(volume, 1) + one)
        self.levels, self.changes = np.empty((2, len(close), LANES), np.float32)
        self.pairs = np.empty((4, len(close)), np.float32)
        lay_out(close, volume, log_volume, log_growth, self.levels, self.changes, self.pairs)


def _compute(bars: _Padded, out: Float32, n_threads: int) -> None:
    """Fill ``out`` (158, n), rows in the order of the padded bars."""
    windows, close, starts = np.asarray(WINDOWS), bars.close, bars.starts
    tasks: list[Callable[[], None]] = [
        lambda: _shapes(bars, out),
        lambda: fill_orders(close, starts, windows, _columns(ORDERS), out),
        lambda: fill_extremes(bars.high, bars.low, close, starts, windows, _columns(EXTREMES), out),
        lambda: fill_counts(close, starts, windows, _columns(COUNTS), out),
    ]
    # Threads share columns, never time: any number of them gives the same bits.
    parts = np.array_split(np.arange(len(windows)), min(n_threads, len(windows)))
    tasks += [partial(_moments, bars, part, out) for part in parts]
    if n_threads == 1:
        for task in tasks:
            task()
        return
    with ThreadPoolExecutor(n_threads) as pool:
        for done in [pool.submit(task) for task in reversed(tasks)]:
            done.result()


def _columns(names: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the numbers of the columns of these names, one row a window."""
    return np.array([[_PLACE[f"{name}{window}"] for name in names] for window in WINDOWS])


def _moments(bars: _Padded, part: NDArray[np.int64], out: Float32) -> None:
    """Fill the columns of sums, deviations, regressions and correlations of some windows."""
    series = bars.levels, bars.changes, bars.close, bars.pairs, bars.volume + _TINY
    fill_moments(*series, bars.starts, np.asarray(WINDOWS)[part], _columns(MOMENTS)[part], out)


def _shapes(bars: _Padded, out: Float32) -> None:
    """Fill the columns of single bars and the rates of change, all in float32 as Qlib has them."""
    column = dict(zip(_NAMES, out, strict=True))
    o, h, l, c, w = (x[bars.rows] for x in (bars.open, bars.high, bars.low, bars.close, bars.vwap))
    with np.errstate(all="ignore"):
        spread, top, bottom = h - l + _TINY, h - np.maximum(o, c), np.minimum(o, c) - l
        shift = np.float32(2) * c - h - l
        column["KMID"][:], column["KLEN"][:], column["KMID2"][:] = (c - o) / o, (h - l) / o, (c - o) / spread
        column["KUP"][:], column["KUP2"][:] = top / o, top / spread
        column["KLOW"][:], column["KLOW2"][:] = bottom / o, bottom / spread
        column["KSFT"][:], column["KSFT2"][:] = shift / o, shift / spread
        for name, x in (("OPEN0", o), ("HIGH0", h), ("LOW0", l), ("VWAP0", w)):
            np.divide(x, c, out=column[name])
        for window in WINDOWS:
            np.divide(bars.close[bars.rows - window], c, out=column[f"ROC{window}"])
