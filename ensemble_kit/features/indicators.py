"""Technical indicators: 14 scale-free columns by default, the usual others on request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data

from ensemble_kit.atr import average_true_range
from ensemble_kit.bars import check_bars, instrument_codes
from ensemble_kit.features._groups import check_include
from ensemble_kit.features._indicator_stream import IndicatorStream
from ensemble_kit.features._indicators import INDICATORS, OF_SESSIONS, SLACK, Group, InstrumentBars, fill
from ensemble_kit.sessions import Session, check_daily_times, session_times

__all__ = ["IndicatorFeatures", "IndicatorStream"]

_DEFAULT = ("rsi", "momentum", "macd", "atr", "volatility", "vwap", "volume")


class IndicatorFeatures(TransformerMixin, BaseEstimator):
    """Momentum, volatility, volume and the place of the price, each free of the price's scale.

    C is the close, A Wilder's average true range over 14 bars (`ensemble_kit.atr`), V the
    volume. Row t depends on rows <= t of its own instrument. Nothing is learned.

    Parameters
    ----------
    include : tuple of str, default=None
        Groups of columns, in the order wanted. None stands for the first seven:

        - ``"rsi"``: ``rsi_7``, ``rsi_14`` = (RSI - 50) / 50
        - ``"momentum"``: ``mom_6``, ``mom_12``, ``mom_78`` = ln(C / C of k bars ago)
        - ``"macd"``: ``macd_hist_atr`` = histogram of MACD(12, 26, 9) / A
        - ``"atr"``: ``natr_14`` = A / C
        - ``"volatility"``: ``rv_12`` = standard deviation (n - 1) of 12 log returns,
          ``rv_ratio`` = rv_12 / rv_78, ``pk_24`` = Parkinson's volatility over 24 bars [1]_
        - ``"vwap"``: ``vwap_dev_atr`` = (C - session VWAP) / A, ``vwap_z`` = (C - session VWAP)
          / volume-weighted standard deviation of the session
        - ``"volume"``: ``rvol_tod`` = ln(V / exponential mean, span 20, of the same time slot on
          earlier days), ``vol_z`` = z-score (n - 1) of ln(1 + V) over 78 bars
        - ``"log_return"``: ``logret_k`` = ln(C / C of k bars ago), k = 1, 2, 3, 5, 10, 20
        - ``"sma"``, ``"ema"``, ``"wma"``: ``sma_k`` = C / simple (exponential, linearly weighted)
          average - 1, k = 10, 20, 50, 200
        - ``"bollinger"`` (20, 2): ``bb_pos`` = place between the bands, -1 lower, 1 upper;
          ``bb_width`` = (upper - lower) / middle
        - ``"keltner"`` (EMA 20, 2 A): ``kc_pos``, ``kc_width``, likewise
        - ``"stochastic"`` (14, 3, 3): ``stoch_k``, ``stoch_d`` = slow %K and %D, from -1 to 1
        - ``"williams"``: ``willr_14`` = place in the range of 14 bars, -1 low, 1 high
        - ``"adx"``: ``adx_14``, ``plus_di_14``, ``minus_di_14``, from 0 to 1
        - ``"price"``: ``price_z_k`` = z-score (n - 1) of C over k bars, ``price_pos_k`` = place
          between the lowest (-1) and the highest (1) close of k bars, k = 50, 200
    session : "day", exchange code or Session, default="day"
        Whose days and times of day ``"vwap"`` and ``"volume"`` mean, as in
        `sessions.session_times`. Name the exchange of bars in UTC: its time slots move with
        daylight saving, those of ``"day"`` do not. A bar before the open or after the close
        belongs to that day.

    Attributes
    ----------
    n_features_in_ : int
        Columns of the bars seen by `fit`.
    feature_names_in_ : ndarray of str
        Their names, where all are strings.

    See Also
    --------
    SessionFeatures : Where a bar lies in its session.
    Alpha158 : 158 columns of price and volume.

    Notes
    -----
    The session's VWAP averages the ``vwap`` of each bar where that is known, (high + low +
    close) / 3 elsewhere, and holds the bar itself. ``volume`` and ``vwap`` are optional.

    What is not known is NaN, nothing is infinite:

    - warm-up: NaN until a window is full (TA-Lib's own for its indicators);
    - a bar without high, low or close: NaN throughout. Indicators go on over the other bars as
      if it were not there; of windows without recursion, those that would reach over more
      rows than twice their length are NaN;
    - a bar whose volume is not known: NaN in ``"vwap"`` and ``"volume"``, it weighs nothing. A
      bar of volume 0 weighs nothing in the VWAP, counts as 0 in averages of volume, and its
      ``rvol_tod`` is NaN;
    - prices that stand still: what is divided by A or a standard deviation is NaN once that is
      1e-9 of the price or less (``rv_ratio``: rv_78, ``vol_z``: that of ln(1 + V)), so at a
      session's first bar ``vwap_z``, too. The place in a range of zero is 0. RSI and the
      directional indicators stay as they were, 0 before anything has moved; ``rv_12``,
      ``pk_24``, returns and widths are 0.

    RSI, MACD, EMA, extremes and directional indicators are TA-Lib's.

    References
    ----------
    .. [1] M. Parkinson, "The Extreme Value Method for Estimating the Variance of the Rate of
       Return", Journal of Business 53(1), 1980: the square root of the mean squared
       ln(high / low) over 4 ln 2.
    .. [2] J. Welles Wilder, New Concepts in Technical Trading Systems, 1978 (RSI, ATR, ADX).

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features.indicators import IndicatorFeatures
    >>> bars = make_bars(500, random_state=0)
    >>> columns = IndicatorFeatures(session="XNYS").set_output(transform="pandas").fit_transform(bars)
    >>> columns.shape
    (500, 14)
    >>> columns[["rsi_14", "rv_ratio", "vwap_z"]].iloc[-1].astype(float).round(2).tolist()
    [0.35, 0.81, 2.4]
    >>> IndicatorFeatures(("williams", "bollinger")).fit(bars).get_feature_names_out().tolist()
    ['willr_14', 'bb_pos', 'bb_width']

    Live, one bar after the other:

    >>> stream = IndicatorFeatures(session="XNYS").stream()
    >>> _ = stream.update(bars.iloc[:499])
    >>> bool((stream.update(bars.iloc[499:])[0] == columns.to_numpy()[499]).all())
    True
    """

    def __init__(self, include: Sequence[str] | None = None, *, session: str | Session = "day") -> None:
        self.include = include
        self.session = session

    @property
    def lookback(self) -> int | None:
        """Earlier rows of its instrument that a row can depend on.

        Twice the largest window, as windows go over rows without prices; None (all of them)
        where a group is recursive: all of the default but momentum and volatility.
        """
        needs = [need for group in self._groups().values() for need in group.columns.values()]
        known = [need for need in needs if need is not None]
        return None if len(known) < len(needs) else SLACK * max(known)

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:  # noqa: ARG002
        """Check the bars and the parameters; there is nothing to learn.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            Bars of one instrument or of a panel, see `ensemble_kit.bars.check_bars`.
        y : ignored, default=None
            Not used.

        Returns
        -------
        IndicatorFeatures
            The transformer itself.

        Raises
        ------
        BarsError
            If the bars cannot be used, the session is unknown or needs a zone, or daily bars lie
            outside of it (midnight in UTC).
        EnsembleKitError
            If there is no such group.
        """
        groups = self._groups()
        _check(X)
        if any(name in groups for name in OF_SESSIONS):
            check_daily_times(X.index, self.session)
        validate_data(self, X, skip_check_array=True)
        return self

    def transform(self, X: pd.DataFrame) -> NDArray[np.float32]:
        """Compute the columns of every bar.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            Bars of one instrument or of a panel; ``volume`` and ``vwap`` are optional.

        Returns
        -------
        ndarray of float32, shape (n_rows, n_out), or DataFrame after ``set_output``
            One row a row of X, in its order.

        Raises
        ------
        BarsError, EnsembleKitError
            As `fit`.
        """
        groups = self._groups()
        _check(X)
        names = self.get_feature_names_out()
        # Fortran order: pandas wraps the block without a copy.
        out = np.full((len(X), len(names)), np.nan, dtype=np.float32, order="F")
        fields = _fields(X, *_clock(X.index, groups, self.session))
        priced = ~np.isnan(fields["high"] + fields["low"] + fields["close"])
        for rows in _rows_of_instruments(X.index):
            place = np.flatnonzero(priced[rows])
            if len(place):
                rows = rows[place]
                bars = InstrumentBars(**{name: values[rows] for name, values in fields.items()})
                fill(out, rows, place, bars, groups)
        return out

    def stream(self, state: Mapping[str, NDArray[Any]] | None = None) -> IndicatorStream:
        """Begin, or resume, a stream of one instrument's bars.

        Parameters
        ----------
        state : mapping of str to ndarray, default=None
            `IndicatorStream.state` of an earlier stream with the same parameters.

        Returns
        -------
        IndicatorStream
            What takes the next bars.

        Raises
        ------
        EnsembleKitError
            If there is no such group, or the state was left by other parameters.
        """
        return IndicatorStream(self._groups(), self.session, state)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the columns.

        Parameters
        ----------
        input_features : ignored, default=None
            Not used.

        Returns
        -------
        ndarray of str, shape (n_out,)
            Group after group as in `include`.
        """
        return np.array([name for group in self._groups().values() for name in group.columns], dtype=object)

    def _groups(self) -> dict[str, Group]:
        return {name: INDICATORS[name] for name in check_include(self.include, INDICATORS, _DEFAULT)}

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.requires_fit = False
        return tags


def _check(X: pd.DataFrame) -> None:
    check_bars(X, require=["vwap"] if isinstance(X, pd.DataFrame) and "vwap" in X else [])


def _clock(
    index: pd.Index[Any], groups: dict[str, Group], session: str | Session
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the session's day and the time slot of each row; zeros where no group asks."""
    if not any(name in groups for name in OF_SESSIONS):
        return np.zeros(len(index), np.int64), np.zeros(len(index), np.int64)
    times = session_times(index, session)
    # Which number a slot gets depends on all rows; what is made of it does not.
    return times.day, np.unique(times.minute, return_inverse=True)[1].astype(np.int64)


def _fields(X: pd.DataFrame, day: NDArray[np.int64], slot: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    unknown = np.full(len(X), np.nan)
    high, low, close, volume, vwap = (
        X[name].to_numpy(np.float64) if name in X else unknown for name in ("high", "low", "close", "volume", "vwap")
    )
    price = np.where(np.isfinite(vwap), vwap, (high + low + close) / 3)
    atr = average_true_range(X)
    return {
        "high": high, "low": low, "close": close, "volume": volume, "price": price, "atr": atr, "day": day, "slot": slot
    }  # fmt: skip


def _rows_of_instruments(index: pd.Index[Any]) -> list[NDArray[np.int64]]:
    codes, instruments = instrument_codes(index)
    order = np.argsort(codes, kind="stable")
    return np.split(order, np.cumsum(np.bincount(codes, minlength=len(instruments)))[:-1])
