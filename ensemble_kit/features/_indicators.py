"""The formulas of the indicators, one group a function.

TA-Lib's recursions and extremes are taken as they are; not its averages and bands, whose
running sums remember in their last digits what the window has left: where prices stand still,
nothing else is left of a difference from the average.

A formula sees the bars of one instrument that have prices, in order and without a hole
(`InstrumentBars`), and returns its columns over them. Its table entry says how many earlier
ones of these bars each column needs: None where a recursion keeps them all.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import talib
from numpy.typing import NDArray

from ensemble_kit.features._indicator_kernels import deviations, session_average, slot_average, weighted_deviation

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Columns = list[Floats]

# Of the price (or of a logarithm): what moves less stands still, and rounding is all that is
# left of it. The quietest real bars move ten thousand times as much.
STILL = 1e-9

# Of the logarithmic range's mean square: the variance of the Brownian motion that has it.
PARKINSON = 1 / (4 * np.log(2))

_AVERAGES = (10, 20, 50, 200)
_RETURNS = (1, 2, 3, 5, 10, 20)
_PRICES = (50, 200)


@dataclass(frozen=True)
class InstrumentBars:
    """One instrument's bars that have prices.

    `price` is what the session's average averages, `atr` Wilder's range over 14 bars, `day` the
    session's number and `slot` the number of the time of day. `volume` may be NaN.
    """

    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    price: Floats
    atr: Floats
    day: Ints
    slot: Ints


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
    return [talib.CMO(b.close, k) / 100 for k in (7, 14)]


def _log_returns(b: InstrumentBars, periods: tuple[int, ...]) -> Columns:
    return [_log_return(b.close, k) for k in periods]


def _macd(b: InstrumentBars) -> Columns:
    return [_over(talib.MACD(b.close, 12, 26, 9)[2], b.atr, STILL * b.close)]


def _atr(b: InstrumentBars) -> Columns:
    return [b.atr / b.close]


def _volatility(b: InstrumentBars) -> Columns:
    short, long = _return_std(b.close, 12), _return_std(b.close, 78)
    squares = np.log(b.high / b.low) ** 2
    parkinson = np.sqrt(PARKINSON * np.maximum(squares + deviations(squares, 24)[0], 0))
    return [short, _over(short, long, STILL), parkinson]


def _vwap(b: InstrumentBars) -> Columns:
    mean, std = session_average(b.price, b.volume, b.day)
    away, least = b.close - mean, STILL * b.close
    return [_over(away, b.atr, least), _over(away, std, least)]


def _volume(b: InstrumentBars) -> Columns:
    usual = slot_average(b.volume, b.day, b.slot, 20)
    times = _over(b.volume, usual, 0.0)
    relative = np.full(len(times), np.nan)
    np.log(times, out=relative, where=times > 0)
    z, known = np.full(len(times), np.nan), ~np.isnan(b.volume)
    z[known] = _z_score(np.log1p(b.volume[known]), 78, STILL)
    return [relative, z]


def _sma(b: InstrumentBars) -> Columns:
    return [_from_average(b.close, deviations(b.close, k)[0]) for k in _AVERAGES]


def _wma(b: InstrumentBars) -> Columns:
    return [_from_average(b.close, weighted_deviation(b.close, k)) for k in _AVERAGES]


def _ema(b: InstrumentBars) -> Columns:
    return [b.close / talib.EMA(b.close, k) - 1 for k in _AVERAGES]


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
    return [f(b.high, b.low, b.close, 14) / 100 for f in (talib.ADX, talib.PLUS_DI, talib.MINUS_DI)]


def _keltner(b: InstrumentBars) -> Columns:
    middle = talib.EMA(b.close, 20)
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
    return {f"{name}_{k}": k - 1 for k in _AVERAGES}


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
