"""The formulas of the indicators, one group a function.

TA-Lib's recursions and extremes are taken as they are; not its averages and bands, whose
running sums remember in their last digits what the window has left: where prices stand still,
nothing else is left of a difference from the average.

A formula sees the bars of one instrument that have prices, in order and without a hole
(`InstrumentBars`), and returns its columns over them. Its table entry says how many earlier
ones of these bars each column needs: None where a recursion keeps them all. Recursions are the
bars' own methods, so that a stream can put its carried ones in their place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import talib
from numpy.typing import NDArray

from ensemble_kit.features._indicator_kernels import (
    SPAN,
    deviations,
    session_average,
    slot_average,
    start_session,
    start_slots,
    weighted_deviation,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Columns = list[Floats]

# Of the price (or of a logarithm): what moves less stands still, and rounding is all that is
# left of it. The quietest real bars move ten thousand times as much.
STILL = 1e-9

# Of the logarithmic range's mean square: the variance of the Brownian motion that has it.
PARKINSON = 1 / (4 * np.log(2))

_RETURNS = (1, 2, 3, 5, 10, 20)
_PRICES = (50, 200)

AVERAGES = (10, 20, 50, 200)
"""Bars of the averages."""

PERIODS = (7, 14)
"""Bars of the RSI."""

VOLUMES = 78
"""Known volumes that the newest is measured against, itself included."""

OF_SESSIONS = ("vwap", "volume")
"""Groups that ask for days and time slots."""

SLACK = 2
"""A window of k bars may reach over this many times k rows, those without prices included."""


@dataclass(frozen=True)
class InstrumentBars:
    """One instrument's bars that have prices.

    `price` is what the session's average averages, `atr` Wilder's range over 14 bars, `day` the
    session's number and `slot` the number of the time of day. `volume` may be NaN; `volumes_before`
    are the last ones known before these bars, where they do not begin with the first.
    """

    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    price: Floats
    atr: Floats
    day: Ints
    slot: Ints
    volumes_before: Floats = field(default_factory=lambda: np.empty(0))

    def cmo(self, period: int) -> Floats:
        """Chande's momentum oscillator, -100 to 100."""
        return np.asarray(talib.CMO(self.close, period))

    def ema(self, period: int) -> Floats:
        """Exponential average of the close, begun by the plain one."""
        return np.asarray(talib.EMA(self.close, period))

    def macd_histogram(self) -> Floats:
        """MACD(12, 26) less its exponential average over 9 bars."""
        return np.asarray(talib.MACD(self.close, 12, 26, 9)[2])

    def directional(self) -> Columns:
        """Wilder's ADX, +DI and -DI over 14 bars, 0 to 100."""
        return [np.asarray(f(self.high, self.low, self.close, 14)) for f in (talib.ADX, talib.PLUS_DI, talib.MINUS_DI)]

    def session_average(self) -> tuple[Floats, Floats]:
        """Volume-weighted mean and standard deviation of the session so far."""
        return session_average(self.price, self.volume, self.day, start_session())

    def usual_volume(self) -> Floats:
        """Exponential mean of the time slot's volume on earlier days."""
        n_slots = int(self.slot.max(initial=-1)) + 1
        return slot_average(self.volume, self.day, self.slot, SPAN, start_slots(n_slots))


# Parts of formulas


def _over(x: Floats, unit: Floats, least: Floats | float) -> Floats:
    """Divide; NaN where the unit does not exceed the least that counts."""
    out = np.full(len(x), np.nan)
    np.divide(x, unit, out=out, where=unit > least)
    return out


def _within(close: Floats, low: Floats, high: Floats) -> Floats:
    """Return the place between low (-1) and high (1): 0 where the two are one."""
    reach = high - low
    place = _over(2 * (close - low), reach, 0.0) - 1
    return np.where(reach == 0, 0.0, place)


def _log_return(close: Floats, k: int) -> Floats:
    out = np.full(len(close), np.nan)
    # Of the ratio, not a difference of logarithms: a power of two in the price changes no bit.
    out[k:] = np.log(close[k:] / close[:-k])
    return out


def _mean_of_3(x: Floats) -> Floats:
    out = np.full(len(x), np.nan)
    out[2:] = (x[2:] + x[1:-1] + x[:-2]) / 3
    return out


def _z_score(x: Floats, window: int, least: Floats | float) -> Floats:
    mean, std = deviations(x, window)
    return _over(-mean, std, least)


def _return_std(close: Floats, window: int) -> Floats:
    out = np.full(len(close), np.nan)
    out[1:] = deviations(_log_return(close, 1)[1:], window)[1]
    return out


# Groups


def _rsi(b: InstrumentBars) -> Columns:
    # TA-Lib's CMO smooths as its RSI does, so that CMO / 100 is (RSI - 50) / 50; but where
    # nothing has moved yet it is 0, while an RSI of 0 would say that all moves were losses.
    return [b.cmo(k) / 100 for k in PERIODS]


def _log_returns(b: InstrumentBars, periods: tuple[int, ...]) -> Columns:
    return [_log_return(b.close, k) for k in periods]


def _macd(b: InstrumentBars) -> Columns:
    return [_over(b.macd_histogram(), b.atr, STILL * b.close)]


def _atr(b: InstrumentBars) -> Columns:
    return [b.atr / b.close]


def _volatility(b: InstrumentBars) -> Columns:
    short, long = _return_std(b.close, 12), _return_std(b.close, 78)
    squares = np.log(b.high / b.low) ** 2
    parkinson = np.sqrt(PARKINSON * np.maximum(squares + deviations(squares, 24)[0], 0))
    return [short, _over(short, long, STILL), parkinson]


def _vwap(b: InstrumentBars) -> Columns:
    mean, std = b.session_average()
    away, least = b.close - mean, STILL * b.close
    return [_over(away, b.atr, least), _over(away, std, least)]


def _volume(b: InstrumentBars) -> Columns:
    times = _over(b.volume, b.usual_volume(), 0.0)
    relative = np.full(len(times), np.nan)
    np.log(times, out=relative, where=times > 0)
    z, known = np.full(len(times), np.nan), ~np.isnan(b.volume)
    before = b.volumes_before
    z[known] = _z_score(np.log1p(np.concatenate([before, b.volume[known]])), VOLUMES, STILL)[len(before) :]
    return [relative, z]


def _sma(b: InstrumentBars) -> Columns:
    return [_from_average(b.close, deviations(b.close, k)[0]) for k in AVERAGES]


def _wma(b: InstrumentBars) -> Columns:
    return [_from_average(b.close, weighted_deviation(b.close, k)) for k in AVERAGES]


def _ema(b: InstrumentBars) -> Columns:
    return [b.close / b.ema(k) - 1 for k in AVERAGES]


def _from_average(close: Floats, deviation: Floats) -> Floats:
    """Return close / average - 1 of the average's deviation from the close."""
    return -deviation / (close + deviation)


def _bollinger(b: InstrumentBars) -> Columns:
    mean, std = deviations(b.close, 20)
    two = 2 * std * np.sqrt(19 / 20)  # Bollinger divides by n
    return [_over(-mean, two, STILL * b.close), 2 * two / (b.close + mean)]


def _stochastic(b: InstrumentBars) -> Columns:
    # TA-Lib's own STOCH and WILLR call a close in a range of zero its low and its high.
    slow = _mean_of_3(_williams(b)[0])
    return [slow, _mean_of_3(slow)]


def _williams(b: InstrumentBars) -> Columns:
    return [_within(b.close, talib.MIN(b.low, 14), talib.MAX(b.high, 14))]


def _adx(b: InstrumentBars) -> Columns:
    return [values / 100 for values in b.directional()]


def _keltner(b: InstrumentBars) -> Columns:
    middle = b.ema(20)
    return [_over(b.close - middle, 2 * b.atr, STILL * b.close), 4 * b.atr / middle]


def _price(b: InstrumentBars) -> Columns:
    scores = [_z_score(b.close, k, STILL * b.close) for k in _PRICES]
    places = [_within(b.close, talib.MIN(b.close, k), talib.MAX(b.close, k)) for k in _PRICES]
    return scores + places


@dataclass(frozen=True)
class Group:
    """Columns that come together: names with the earlier bars each needs, and the formula."""

    columns: dict[str, int | None]
    formula: Callable[[InstrumentBars], Columns]


def _averages(name: str) -> dict[str, int | None]:
    return {f"{name}_{k}": k - 1 for k in AVERAGES}


INDICATORS = {
    "rsi": Group({"rsi_7": None, "rsi_14": None}, _rsi),
    "momentum": Group({"mom_6": 6, "mom_12": 12, "mom_78": 78}, partial(_log_returns, periods=(6, 12, 78))),
    "macd": Group({"macd_hist_atr": None}, _macd),
    "atr": Group({"natr_14": None}, _atr),
    "volatility": Group({"rv_12": 12, "rv_ratio": 78, "pk_24": 23}, _volatility),
    "vwap": Group({"vwap_dev_atr": None, "vwap_z": None}, _vwap),
    "volume": Group({"rvol_tod": None, "vol_z": None}, _volume),
    "log_return": Group({f"logret_{k}": k for k in _RETURNS}, partial(_log_returns, periods=_RETURNS)),
    "sma": Group(_averages("sma"), _sma),
    "ema": Group(dict.fromkeys(_averages("ema")), _ema),
    "wma": Group(_averages("wma"), _wma),
    "bollinger": Group({"bb_pos": 19, "bb_width": 19}, _bollinger),
    "keltner": Group({"kc_pos": None, "kc_width": None}, _keltner),
    "stochastic": Group({"stoch_k": 15, "stoch_d": 17}, _stochastic),
    "williams": Group({"willr_14": 13}, _williams),
    "adx": Group({"adx_14": None, "plus_di_14": None, "minus_di_14": None}, _adx),
    "price": Group(
        {f"price_{what}_{k}": k - 1 for what in ("z", "pos") for k in _PRICES},
        _price,
    ),
}


def fill(out: NDArray[np.float32], rows: Ints, place: Ints, bars: InstrumentBars, groups: Mapping[str, Group]) -> None:
    """Write an instrument's columns to these rows of ``out``.

    `place` says which of the instrument's own rows the bars are. There may be more bars than rows:
    the first are only there for the windows of the others.
    """
    at, before = 0, len(place) - len(rows)
    for group in groups.values():
        for values, need in zip(group.formula(bars), group.columns.values(), strict=True):
            if need is not None and len(place) <= need:
                values = np.full(len(place), np.nan)
            elif need is not None:
                values[need:][place[need:] - place[: len(place) - need] > SLACK * need] = np.nan
            out[rows, at] = values[before:]
            at += 1
