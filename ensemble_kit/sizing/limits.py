"""Limits on positions: risk held steady, exposure held down, nothing held from one session to the next."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import RowKeys, check_bars, instrument_codes, row_keys
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.sessions import Session, session_times
from ensemble_kit.sizing._payoffs import is_number, shown

__all__ = ["flatten_before_close", "limit_exposure", "target_volatility"]

FloatArray = NDArray[np.float64]

_YEAR = 365.25 * 86_400e9  # nanoseconds
_MINUTE = 60e9


def target_volatility(
    position: pd.Series[float],
    bars: pd.DataFrame,
    *,
    target: float,
    window: int = 100,
    cap: float = 1.0,
    periods_per_year: float | None = None,
) -> pd.Series[float]:
    """Scale positions so that a full one would vary by `target` a year.

    Parameters
    ----------
    position : Series of shape (n,)
        Fractions of equity, on the bars' index.
    bars : DataFrame of shape (n, n_columns)
        A bar frame, of one instrument or a panel.
    target : float
        Standard deviation of a year's return, as a fraction: 0.1 for 10 %.
    window : int, default=100
        Returns that the volatility is measured on, at least 2.
    cap : float, default=1.0
        Largest position either way, after scaling.
    periods_per_year : float, default=None
        Bars a year, which make a year's volatility of a bar's. None counts the instrument's bars
        up to each row over the time that they span: a session's bars seem more frequent than
        they are until the first night and weekend have passed, and positions are the smaller.

    Returns
    -------
    Series of shape (n,)
        ``position * target / volatility`` within [-cap, cap]; 0 while fewer than `window` returns
        are known, and where prices did not move over the window.

    Raises
    ------
    BarsError
        If the bars are not usable as they are.
    EnsembleKitError
        If positions are not finite numbers on the bars' index, or a number is out of its range.

    Notes
    -----
    The volatility at row t is the standard deviation of the instrument's last `window` returns
    from close to close, up to and including row t. Bars without a close have the volatility
    known before them. Instruments are scaled each by its own: what they have in common is not
    looked at.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.sizing.limits import target_volatility
    >>> bars = make_bars(2000, random_state=0)
    >>> steady = target_volatility(pd.Series(1.0, bars.index), bars, target=0.05)
    >>> bool((steady[:100] == 0).all()), bool(steady[100:].between(0.01, 1).all())
    (True, True)
    """
    keys = row_keys(check_bars(bars), name="bars")
    weights, _ = _checked(position)
    if not position.index.equals(bars.index):
        raise EnsembleKitError(
            f"`position` must have the index of `bars` ({len(bars)} rows); got another one of {len(position)}. "
            "Size the very bars that are traded."
        )
    _check_numbers(
        [
            ("target", target, "above 0, and finite", is_number(target) and target > 0),
            ("window", window, "an integer of at least 2", isinstance(window, int | np.integer) and window >= 2),
            ("cap", cap, "above 0, and finite", is_number(cap) and cap > 0),
            (
                "periods_per_year",
                periods_per_year,
                "None, or above 0 and finite",
                periods_per_year is None or (is_number(periods_per_year) and periods_per_year > 0),
            ),
        ],
        "Ten percent a year is target=0.1",
    )
    close = bars["close"].to_numpy(np.float64)
    scale = np.zeros(len(bars))
    for instrument in range(int(keys.instrument.max()) + 1):
        rows = np.flatnonzero(keys.instrument == instrument)
        yearly = _yearly_volatility(close[rows], keys.time[rows], int(window), periods_per_year)
        scale[rows] = np.divide(target, yearly, out=np.zeros(len(rows)), where=yearly > 0)
    return _like(position, np.clip(weights * scale, -cap, cap))


def _yearly_volatility(close: FloatArray, time: NDArray[np.int64], window: int, periods: float | None) -> FloatArray:
    known = np.flatnonzero(~np.isnan(close))
    changes = np.diff(close[known]) / close[known][:-1]
    deviation = np.full(len(close), np.nan)
    deviation[known[1:]] = pd.Series(changes).rolling(window).std().to_numpy()
    deviation = pd.Series(deviation).ffill().to_numpy()
    if periods is None:
        years = np.maximum(time - time[0], 1) / _YEAR
        return deviation * np.sqrt(np.arange(len(close)) / years)
    return deviation * np.sqrt(periods)


def limit_exposure(
    position: pd.Series[float],
    *,
    gross: float | None = None,
    net: float | None = None,
    instrument: float | Mapping[Any, float] | None = None,
) -> pd.Series[float]:
    """Hold each instrument's position, and all of a time together, within limits.

    Parameters
    ----------
    position : Series of shape (n,)
        Fractions of equity, indexed by time or by (datetime, instrument).
    gross : float, default=None
        Largest sum of absolute positions at one time.
    net : float, default=None
        Largest absolute sum of positions at one time.
    instrument : float or mapping, default=None
        Largest absolute position of every instrument, or of those named.

    Returns
    -------
    Series of shape (n,)
        Positions clipped to their instrument's limit, then those of each time scaled by one
        factor, at most 1, to meet the other two.

    Raises
    ------
    EnsembleKitError
        If positions are not finite numbers indexed by time, a limit is not above 0, or the
        instruments named are not those of a panel.

    Notes
    -----
    Each row depends on the rows of its own time alone. Where an instrument has no bar at a time,
    what is still held of it since its last one is not counted.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.sizing.limits import limit_exposure
    >>> index = pd.MultiIndex.from_product([pd.date_range("2024-01-01", periods=2), ["A", "B"]])
    >>> limit_exposure(pd.Series([1.0, 0.5, 0.2, -0.9], index), gross=1, instrument={"A": 0.75}).round(2).tolist()
    [0.6, 0.4, 0.18, -0.82]
    """
    weights, keys = _checked(position)
    limits = instrument if isinstance(instrument, Mapping) else {None: instrument}
    _check_numbers(
        [
            (name, value, "None, or above 0 and finite", value is None or (is_number(value) and value > 0))
            for name, value in [("gross", gross), ("net", net), *(("instrument", limit) for limit in limits.values())]
        ],
        "Equity is 1, so 0.5 holds half of it at most",
    )
    if isinstance(instrument, Mapping):
        codes, names = instrument_codes(position.index)
        if not keys.panel or set(instrument) - set(names):
            raise EnsembleKitError(
                f"`instrument` must name instruments of `position`; got {list(instrument)}, where it has "
                f"{names if keys.panel else 'no names'}. Give one number for all."
            )
        largest = np.array([_or_infinite(instrument.get(name)) for name in names])[codes]
        weights = np.clip(weights, -largest, largest)
    else:
        weights = np.clip(weights, -_or_infinite(instrument), _or_infinite(instrument))
    _, moment = np.unique(keys.time, return_inverse=True)
    scale = np.ones(len(weights))
    for limit, parts in ((gross, np.abs(weights)), (net, weights)):
        if limit is not None:
            total = np.abs(np.bincount(moment, parts))[moment]
            scale = np.minimum(scale, np.divide(limit, total, out=np.ones(len(total)), where=total > limit))
    return _like(position, weights * scale)


def flatten_before_close(
    position: pd.Series[float], *, session: str | Session = "day", bar: str | pd.Timedelta | None = None
) -> pd.Series[float]:
    """Set positions to 0 that would be held outside a session, or over its end.

    A position decided on a row is filled at the next bar's open and held until the one after.
    Both moments must lie in the row's session, from its open on and before its close: so the
    last two rows of a session are 0 (the last but one is filled at the last open, and would
    be held over the close; the last has no open left), and the rows outside of sessions,
    but for the one whose next bar opens with the session. Nothing is then held before a session's
    second open.

    Parameters
    ----------
    position : Series of shape (n,)
        Fractions of equity, indexed by time or by (datetime, instrument).
    session : "day", exchange code or Session, default="day"
        As in `session_times`: half days and holidays are known for exchange codes.
    bar : str or Timedelta, default=None
        The time a bar takes. None takes the shortest step between the instrument's bars up to
        each row; the first row, before which there is none, is 0.

    Returns
    -------
    Series of shape (n,)
        The positions, 0 on those rows.

    Raises
    ------
    BarsError
        If the exchange is unknown, or the times are naive where a zone is needed.
    EnsembleKitError
        If positions are not finite numbers indexed by time, or `bar` is no positive time.

    Notes
    -----
    Decided from the schedule, never from later rows, so it holds where bars come every
    `bar`: where a session's last bar is missing, the position before it stays on.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.sizing.limits import flatten_before_close
    >>> index = pd.date_range("2022-11-25 14:30", periods=4, freq="1h", tz="UTC")  # New York closes at 18:00
    >>> flatten_before_close(pd.Series(1.0, index), session="XNYS", bar="1h").tolist()
    [1.0, 1.0, 0.0, 0.0]
    """
    weights, keys = _checked(position)
    step = _shortest_steps(keys) if bar is None else np.full(len(weights), _minutes(bar))
    times = session_times(position.index, session)
    filled, left = times.minute + step, times.minute + 2.0 * step
    # Without a step yet both are NaN, and no comparison holds.
    held = (filled >= 0) & (left < times.length) & ~times.holiday
    return _like(position, np.where(held, weights, 0.0))


def _minutes(bar: str | pd.Timedelta) -> float:
    try:
        length = pd.Timedelta(bar)
    except ValueError:
        length = pd.Timedelta(0)
    if not length > pd.Timedelta(0):  # NaT fails, too
        raise EnsembleKitError(f"`bar` must be a time above 0; got {bar!r}. Write '5min', say.")
    return length.value / _MINUTE


def _shortest_steps(keys: RowKeys) -> FloatArray:
    """Return the shortest step so far between the bars of each row's instrument, in minutes; NaN at its first."""
    times = pd.Series(keys.time).groupby(keys.instrument)
    return times.diff().groupby(keys.instrument).cummin().to_numpy(np.float64) / _MINUTE


# --------------------------------------------------------------------------- checks


def _checked(position: Any) -> tuple[FloatArray, RowKeys]:
    if not isinstance(position, pd.Series) or not isinstance(position.index, pd.DatetimeIndex | pd.MultiIndex):
        raise EnsembleKitError(
            f"`position` must be a Series indexed by time, or by (datetime, instrument); got "
            f"{type(position).__name__}. Write pd.Series(model.predict_position(bars), bars.index)."
        )
    keys = row_keys(position, name="position")
    weights = position.to_numpy(np.float64)
    wrong = ~np.isfinite(weights)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EnsembleKitError(
            f"`position` must be finite; got {weights[row]:g} at {position.index[row]} (row {row}; {int(wrong.sum())} "
            "such row(s)). Use 0 where nothing is known."
        )
    return weights, keys


def _check_numbers(checks: list[tuple[str, Any, str, bool]], cure: str) -> None:
    if wrong := [f"`{name}` must be {domain}; got {shown(value)}" for name, value, domain, ok in checks if not ok]:
        raise EnsembleKitError(". ".join(wrong) + f". {cure}.")


def _or_infinite(limit: float | None) -> float:
    return np.inf if limit is None else float(limit)


def _like(position: pd.Series[float], weights: FloatArray) -> pd.Series[float]:
    return pd.Series(weights + 0.0, position.index, name=position.name)  # flat is 0, never -0
