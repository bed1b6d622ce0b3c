"""ICT: swings, market structure, order blocks, fair value gaps and liquidity, 48 columns that never repaint."""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted

from ensemble_kit.bars import PRICES, check_bars, instrument_codes
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.features._ict_pass import COLUMNS, advance
from ensemble_kit.features._ict_state import State, start
from ensemble_kit.features._newest import FIELDS, NextBars, SessionClock
from ensemble_kit.sessions import Session, session_times

__all__ = ["ICTFeatures", "ICTStream"]

_COUNTS = ("left", "right", "max_zones", "max_pools", "max_age")
_THRESHOLDS = ("fvg_min", "ob_disp", "liq_tol")


class ICTFeatures(TransformerMixin, BaseEstimator):
    """Swings, structure, order blocks, fair value gaps and liquidity of market bars.

    The concepts of discretionary "smart money" traders (ICT: Inner Circle Trader) as 48 columns
    that never repaint: row t is final at the close of bar t. A swing appears `right` bars after
    its pivot, when it is confirmed, and not before.

    Parameters
    ----------
    left, right : int, default=5
        A swing high is a bar strictly above the `left` bars before it and at least as high as
        the `right` bars after it; a swing low likewise.
    max_zones : int, default=8
        Order blocks, and fair value gaps, remembered a side. The oldest is forgotten first.
    max_pools : int, default=16
        Liquidity pools remembered a side. The oldest, which lies furthest away, is forgotten first.
    max_age : int, default=390
        Bars after which an order block or a gap is forgotten. Pools wait until they are taken.
    fvg_min : float, default=0.25
        Smallest fair value gap, in average true ranges.
    ob_disp : float, default=1.0
        Smallest displacement of an order block, in average true ranges.
    liq_tol : float, default=0.25
        Swings this close, in average true ranges, share a pool.
    session : "day", exchange code or Session, default="day"
        Gaps lie within one session, and ``pd_`` columns look at the one before. See
        `ensemble_kit.sessions.session_times`.

    Attributes
    ----------
    feature_names_in_ : ndarray of str, shape (n_features,)
        Columns of the bars seen in `fit`.
    n_features_in_ : int
        How many.

    See Also
    --------
    ensemble_kit.atr.average_true_range : The unit of all distances, Wilder's over 14 bars.

    Notes
    -----
    C is the close, A the average true range. Within bar t, in this order:

    1. **Swings.** A pivot of the same kind as the last one replaces the swing only if it is more
       extreme. Of a bar that is both, the kind opposite to the last is taken first.
    2. **Zones** born on earlier bars age and are met by bar t. An order block is touched when the
       bar first reaches its near edge, and ends when a close lies beyond its far edge. A gap ends
       when its far edge is reached, whether by a wick or (``fvg_invert``) a close beyond it.
    3. **Break.** A close beyond a swing level that none has broken: a CHoCH against the trend, a BOS
       along it. The first break of all, which meets no trend, is a BOS.
    4. **Order block** behind that break. The leg begins at the bar of the broken swing; its extreme
       is the furthest it went away from the level, the latest of equals; the block is the
       full range of the last candle against the break among that bar and the `left` bars before.
       Its displacement is how far the breaking close has left its near edge.
    5. **Fair value gap**: the third bar leaves out part of the range between itself and the first.
    6. **Liquidity.** Bar t takes each pool that it trades beyond: a sweep if it closes back (or on
       the level), else a run. Every confirmed pivot, a less extreme successor too, joins the nearest
       pool within `liq_tol` or begins one; a pool's level is its outermost swing.

    "Nearest" is the level that the price meets first. Distances to zones are negative inside them.
    ``ob_touch``, ``ob_break`` and ``fvg_invert`` have the sign of what a trader expects next: +1 for
    the touch of a bullish block, -1 for a close down through it. ``liq_sweep_depth`` has the sign of its
    sweep, and is the deepest of each side; both sides within a bar cancel. ``pd_swept`` says
    whether this session has traded beyond the extremes of the one before. Distances
    of a break or a sweep are in A of that bar, and held.

    Degenerate bars:

    - no zone, pool, swing, break or earlier session (yet): NaN in what would describe it, 0 in counts
      and events;
    - the first 14 bars have no A: NaN in whatever is measured in it, and in ``fvg_event``; pivots
      and breaks happen all the same;
    - a row without high, low or close is NaN throughout and leaves the state as it was: the bars
      around it are neighbours. Without an open alone, a candle has no direction;
    - prices that stand still: A below 1e-9 of the close counts as none.

    Volume is not read. Scaling prices by a power of two changes no bit, mirroring them (c - p)
    flips signs and swaps sides. The state is recursive, so `lookback` is None; in practice it
    forgets: after some thousand bars no row differs from the full run's.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features.ict import ICTFeatures
    >>> bars = make_bars(500, random_state=0)
    >>> columns = ICTFeatures().set_output(transform="pandas").fit_transform(bars)
    >>> columns.shape
    (500, 48)
    >>> columns.loc[columns["ms_choch"] != 0, ["ms_trend", "ms_choch", "ms_run"]].head(2).to_numpy().tolist()
    [[1.0, 1.0, 0.0], [-1.0, -1.0, 0.0]]

    Live, one bar after the other, with the same bits:

    >>> stream = ICTFeatures().fit(bars).stream()
    >>> _ = stream.update(bars.iloc[:499])
    >>> bool((stream.update(bars.iloc[499:])[0] == columns.to_numpy()[499])[:8].all())
    True
    """

    def __init__(
        self,
        *,
        left: int = 5,
        right: int = 5,
        max_zones: int = 8,
        max_pools: int = 16,
        max_age: int = 390,
        fvg_min: float = 0.25,
        ob_disp: float = 1.0,
        liq_tol: float = 0.25,
        session: str | Session = "day",
    ) -> None:
        self.left = left
        self.right = right
        self.max_zones = max_zones
        self.max_pools = max_pools
        self.max_age = max_age
        self.fvg_min = fvg_min
        self.ob_disp = ob_disp
        self.liq_tol = liq_tol
        self.session = session

    @property
    def lookback(self) -> None:
        """Earlier rows of its instrument that a row can depend on: every one."""
        return

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
        ICTFeatures
            The transformer itself.

        Raises
        ------
        BarsError
            If the bars cannot be used, or the session is unknown or needs a zone.
        EnsembleKitError
            If a parameter is outside its domain.
        """
        self._check_parameters()
        check_bars(X)
        session_times(X.index, self.session)
        self.feature_names_in_ = np.asarray(X.columns, dtype=object)
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X: pd.DataFrame) -> NDArray[np.float32]:
        """Compute the columns of every bar.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            Bars of one instrument or of a panel. Row t sees the rows up to t of its instrument.

        Returns
        -------
        ndarray of float32, shape (n_rows, 48)
            One column after the other in memory, rows in the order given; a DataFrame with
            the bars' index after ``set_output(transform="pandas")``.

        Raises
        ------
        BarsError
            As `fit`.
        """
        check_is_fitted(self, "n_features_in_")
        check_bars(X)
        codes, instruments = instrument_codes(X.index)
        prices, day = _arrays(X, self.session)
        out = np.full((len(COLUMNS), len(X)), np.nan, np.float32)
        order = np.argsort(codes, kind="stable")
        bounds = np.cumsum(np.bincount(codes, minlength=len(instruments)))[:-1]
        for rows in np.split(order, bounds):
            advance(self._start(), prices.take(rows, axis=1), day[rows], rows, out)
        return out.T

    def stream(self, state: Mapping[str, NDArray[Any]] | None = None) -> ICTStream:
        """Begin, or resume, a stream of one instrument's bars.

        Parameters
        ----------
        state : mapping of str to ndarray, default=None
            `ICTStream.state` of an earlier stream with the same parameters.

        Returns
        -------
        ICTStream
            What takes the next bars.

        Raises
        ------
        EnsembleKitError
            If the state was left by other parameters.
        """
        self._check_parameters()
        return ICTStream(self._start(), self.session, state)

    def get_feature_names_out(self, input_features: object = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the columns.

        Parameters
        ----------
        input_features : object, default=None
            Ignored.

        Returns
        -------
        ndarray of str, shape (48,)
            ``sw_high_dist``, ``sw_low_dist``, ..., ``pd_swept``.
        """
        return np.asarray(COLUMNS, dtype=object)

    def _start(self) -> State:
        thresholds = (self.max_age, self.fvg_min, self.ob_disp, self.liq_tol)
        return start(self.left, self.right, self.max_zones, self.max_pools, thresholds)

    def _check_parameters(self) -> None:
        for name in _COUNTS:
            value = getattr(self, name)
            if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
                raise EnsembleKitError(
                    f"`{name}` must be an integer of at least 1; got {value!r}. Leave it out for the default."
                )
        for name in _THRESHOLDS:
            value = getattr(self, name)
            if not isinstance(value, Real) or isinstance(value, bool) or not 0 <= float(value) < np.inf:
                raise EnsembleKitError(
                    f"`{name}` must be a finite number of average true ranges, at least 0; got {value!r}. "
                    "Leave it out for the default."
                )

    def __sklearn_is_fitted__(self) -> bool:
        return hasattr(self, "n_features_in_")

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.requires_fit = True
        return tags


class ICTStream:
    """One instrument's ICT columns, bar after bar, with the bits of the whole.

    `ICTFeatures.stream` makes one. A bar costs what it costs in the whole plus the call; nothing
    before it is read again.

    Parameters
    ----------
    begin : State
        What `ICTFeatures` begins an instrument with.
    session : "day", exchange code or Session
        As in `ICTFeatures`.
    state : mapping of str to ndarray, default=None
        Where to go on.

    Attributes
    ----------
    state : dict of str to ndarray
        All that the past means for the rows to come.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features.ict import ICTFeatures
    >>> bars = make_bars(300, random_state=0)
    >>> features = ICTFeatures()
    >>> stream = features.stream()
    >>> stream.update(bars.iloc[:299]).shape
    (299, 48)
    >>> resumed = features.stream(stream.state)  # after a restart
    >>> resumed.update(bars.iloc[299:]).tobytes() == stream.update(bars.iloc[299:]).tobytes()
    True
    """

    def __init__(self, begin: State, session: str | Session, state: Mapping[str, NDArray[Any]] | None = None) -> None:
        self._next, self._clock = NextBars(FIELDS[:5]), SessionClock(session)
        self._state = begin
        if state is not None:
            self._resume(state)

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """All that the past means for the rows to come: plain arrays, copies."""
        return {name: value.copy() for name, value in self._state._asdict().items()} | {
            "last": np.array(self._next.last)
        }

    def update(self, bars: pd.DataFrame) -> NDArray[np.float32]:
        """Take the next bars and return their rows.

        Parameters
        ----------
        bars : DataFrame of shape (m, n_columns)
            One bar or more of the instrument, after all that came before.

        Returns
        -------
        ndarray of float32, shape (m, 48)
            Their columns.

        Raises
        ------
        BarsError
            If they cannot be used, or do not follow.
        """
        values, times = self._next.read(bars)
        day = self._clock.times(bars.index, times).day
        out = np.full((len(COLUMNS), len(bars)), np.nan, np.float32)
        self._state = advance(self._state, values[:4], day, np.arange(len(bars)), out)
        self._next.last = int(times[-1])
        return out.T

    def _resume(self, state: Mapping[str, NDArray[Any]]) -> None:
        begin = self._state._asdict()
        same = state.keys() == {*begin, "last"} and all(
            np.shape(state[name]) == value.shape for name, value in begin.items()
        )
        if not same or not np.array_equal(state["settings"], begin["settings"]):
            raise EnsembleKitError(
                "`state` must be one left by the same parameters; got another. "
                "Build `ICTFeatures` as it was when the state was stored."
            )
        self._state = State(
            **{name: np.array(state[name], dtype=value.dtype, order="C") for name, value in begin.items()}
        )
        self._next.last = int(state["last"])


def _arrays(bars: pd.DataFrame, session: str | Session) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return open, high, low and close, (4, n), and the number of each row's session."""
    prices = np.stack([bars[column].to_numpy(np.float64) for column in PRICES])
    return prices, session_times(bars.index, session).day
