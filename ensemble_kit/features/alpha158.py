"""Alpha158: Qlib's 158 price and volume columns, equal to Qlib's own engine bit for bit."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from numbers import Integral
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ensemble_kit.bars import check_bars, instrument_codes
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features._alpha158_pass import KEPT, NAMES, Padded, advance, compute, padded_rows, start
from ensemble_kit.features._newest import FIELDS, NextBars
from ensemble_kit.features._order import take_rows
from ensemble_kit.features._rolling import PAD

__all__ = ["Alpha158", "Alpha158Stream"]

Float32 = NDArray[np.float32]


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
    `lookback` rows alone can differ in round-off. Of 6,000 random bars of SPY (5 minutes, 948,000
    cells) 109 cells did, two by more than 1e-5; of BTC 1,826, eleven by more than 1e-5, all of them
    deviations of volume (``VSTD``, ``WVMA``). `stream` carries the recurrences on: no cell differs.

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

    Live, one bar after the other, with the same bits:

    >>> stream = Alpha158().fit(bars).stream()
    >>> _ = stream.update(bars.iloc[:199])
    >>> bool((stream.update(bars.iloc[199:])[0] == columns.to_numpy()[199])[:12].all())
    True
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
        _check_known(X, self._optional())
        codes, instruments = instrument_codes(X.index)
        slots, starts = _slots(X.index, codes, len(instruments), self.calendar)
        block = np.empty((len(NAMES), int(starts[-1])), np.float32)
        compute(_pad(X, slots, starts), block, int(self.n_threads))
        if len(instruments) == 1 and len(X) == starts[-1]:
            return block.T
        out = block if len(X) == starts[-1] else np.empty((len(NAMES), len(X)), np.float32)
        take_rows(block, slots, out)
        return out.T

    def stream(self, state: Mapping[str, NDArray[Any]] | None = None) -> Alpha158Stream:
        """Begin, or resume, a stream of one instrument's bars.

        Its rows are those of `transform` of these bars alone: with ``"union"`` it knows no other
        instrument's calendar.

        Parameters
        ----------
        state : mapping of str to ndarray, default=None
            `Alpha158Stream.state` of an earlier stream.

        Returns
        -------
        Alpha158Stream
            What takes the next bars.

        Raises
        ------
        EnsembleKitError
            If the state is none of such a stream.
        """
        return Alpha158Stream(self._optional(), state)

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
        return np.asarray(NAMES, dtype=object)

    def _optional(self) -> tuple[str, ...]:
        """Return which columns that bars may lack were there in `fit`."""
        return tuple(name for name in ("volume", "vwap") if name in getattr(self, "feature_names_in_", ()))

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


def _pad(bars: pd.DataFrame, slots: NDArray[np.int64], starts: NDArray[np.int64]) -> Padded:
    """Lay the bars out, instrument after instrument."""
    rows = padded_rows(starts)[slots]
    prices = np.full((len(FIELDS), int(starts[-1]) + PAD * (len(starts) - 1)), np.nan, np.float32)
    for column, name in zip(prices, FIELDS, strict=True):
        if name in bars:
            column[rows] = bars[name].to_numpy(np.float32)
    return Padded(prices, starts)


class Alpha158Stream:
    """One instrument's Alpha158 columns, bar after bar, with the bits of the whole.

    `Alpha158.stream` makes one. The last 61 bars are kept and the recurrences are carried on;
    nothing before is read again, and the state does not grow.

    Parameters
    ----------
    known : tuple of str
        Which of ``volume`` and ``vwap`` the bars must have.
    state : mapping of str to ndarray, default=None
        Where to go on.

    Attributes
    ----------
    state : dict of str to ndarray
        All that the past means for the rows to come.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features.alpha158 import Alpha158
    >>> bars = make_bars(300, random_state=0)
    >>> stream = Alpha158().stream()
    >>> stream.update(bars.iloc[:299]).shape
    (299, 158)
    >>> resumed = Alpha158().stream(stream.state)  # after a restart
    >>> resumed.update(bars.iloc[299:]).tobytes() == stream.update(bars.iloc[299:]).tobytes()
    True
    """

    def __init__(self, known: tuple[str, ...] = (), state: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._known = known
        self._next = NextBars()
        self._bars, self._sums = np.empty((len(FIELDS), 0), np.float32), start()
        if state is not None:
            self._resume(state)

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """All that the past means for the rows to come: plain arrays, copies."""
        return {"bars": self._bars.copy(), "sums": self._sums.copy(), "last": np.array(self._next.last)}

    def update(self, bars: pd.DataFrame) -> Float32:
        """Take the next bars and return their rows.

        Parameters
        ----------
        bars : DataFrame of shape (m, n_columns)
            One bar or more of the instrument, after all that came before.

        Returns
        -------
        ndarray of float32, shape (m, 158)
            Their columns.

        Raises
        ------
        BarsError
            If they cannot be used, or do not follow.
        """
        values, times = self._next.read(bars)
        _check_known(bars, self._known)
        new = values.astype(np.float32)
        out = advance(self._bars, new, self._sums)
        self._bars = np.concatenate([self._bars, new[:, -KEPT:]], axis=1)[:, -KEPT:]
        self._next.last = int(times[-1])
        return out.T

    def _resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        same = state.keys() == self.state.keys() and np.shape(state["sums"]) == self._sums.shape
        kept = np.shape(state["bars"]) if same else ()
        if len(kept) != 2 or kept[0] != len(FIELDS) or kept[1] > KEPT:
            raise EnsembleKitError(
                "`state` must be one that a stream of `Alpha158` left; got another. Begin anew with the bars so far."
            )
        self._bars = np.array(state["bars"], np.float32, order="C")
        self._sums = np.array(state["sums"], np.float64, order="C")
        self._next.last = int(state["last"])


def _check_known(bars: pd.DataFrame, known: Iterable[str]) -> None:
    """Refuse bars without a column that a model has learned from."""
    if lost := [name for name in known if name not in bars.columns]:
        raise BarsError(
            f"`X` must have the columns given to `fit`; {', '.join(lost)} is missing. What a model learned of it "
            "would read as unknown: add it, as NaN where it is not known."
        )
