"""What a model sees of a wave: 39 columns, all known when the wave is."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd
import talib
from numpy.typing import NDArray

from ensemble_kit.atr import average_true_range
from ensemble_kit.bars import check_bars, row_keys
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.waves.extraction import check_waves, wave_unit

__all__ = ["wave_features"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_SLOPES = ("slope_high", "slope_low")
_PRICES = ("high", "low")
#: The indicator columns and what each is measured in: a price, a difference of prices, or neither.
_INDICATORS = {
    "macd": "difference",
    "macd_signal": "difference",
    "macd_hist": "difference",
    "ema": "price",
    "sma": "price",
    "adx": "",
    "adx_pos": "",
    "adx_neg": "",
    "rsi": "",
    "stoch_k": "",
    "stoch_d": "",
    "williams_r": "",
    "bb_high": "price",
    "bb_low": "price",
    "kc_high": "price",
    "kc_low": "price",
}
_MEASURES = {"high": "price", "low": "price"} | _INDICATORS
_NAMES = (
    *("n", *(f"{of}_{name}" for of in ("last", "mean") for name in _PRICES), *_SLOPES),
    *(f"{of}_{name}" for of in ("last", "mean") for name in _INDICATORS),
)


def wave_features(bars: pd.DataFrame, waves: pd.DataFrame, *, units: Literal["atr", "price"] = "atr") -> pd.DataFrame:
    """Describe each wave in 39 columns: its length, highs, lows and slopes, and 16 indicators.

    Parameters
    ----------
    bars : DataFrame of shape (n_bars, n_columns)
        The bars that the waves were made of.
    waves : DataFrame of shape (n_waves, n_columns)
        What `extract_waves` made of them, or a part of its rows.
    units : {"atr", "price"}, default="atr"
        In what prices are told. Of ``"atr"``, the unit is the ATR(14) at the wave's first
        bar, and prices are distances from that bar's close: nothing drifts with the level
        of prices, and instruments compare. ``"price"`` is what the paper has.

    Returns
    -------
    DataFrame of float64, shape (n_waves, 39)
        On the waves' index. ``n``, ``last_high``, ``last_low``, ``mean_high``, ``mean_low``,
        ``slope_high``, ``slope_low``, then ``last_X`` for each indicator X in the order
        below, then ``mean_X``: the value at the wave's last bar, and the mean over its bars.

    Raises
    ------
    BarsError
        If the bars are not a bar frame.
    EnsembleKitError
        If the waves are not of these bars, or `units` is unknown.

    Notes
    -----
    What it sees: a wave's columns depend on bars up to its ``end`` only, and that it has
    ended is known at ``known_at``, the row's own time. Sequences of 24 waves are 24 rows of
    this table: give it to a sequence estimator of ``seq_len=24``.

    A function, not a transformer: it does not give a row for a bar, so it stands before a
    pipeline of waves, not in a pipeline of bars.

    The indicators are computed on the bars that have prices, each instrument apart. Their
    lengths are the usual ones:

    - ``macd``, ``macd_signal``, ``macd_hist``: MACD(12, 26, 9) of closes;
    - ``ema``, ``sma``: exponential and simple average of 14 closes;
    - ``adx``, ``adx_pos``, ``adx_neg``: Wilder's ADX, +DI and -DI over 14 bars, 0 to 100;
    - ``rsi``: Wilder's RSI over 14 closes, 0 to 100, 50 where nothing has moved yet;
    - ``stoch_k``, ``stoch_d``: slow stochastic (14, 3, 3), 0 to 100;
    - ``williams_r``: Williams' %R over 14 bars, -100 to 0. It and the stochastic are in the
      middle where the range is 0;
    - ``bb_high``, ``bb_low``: Bollinger's bands, average of 20 closes +- 2 deviations;
    - ``kc_high``, ``kc_low``: Keltner's channel, exponential average of 20 closes +- 2 ATR(14).

    NaN is what is not known: indicators whose warm-up (33 bars for MACD's signal) reaches
    into the wave, and in ATR units what has no unit, since prices stood still where the wave
    began.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.waves import extract_waves, wave_features
    >>> bars = make_bars(1000, random_state=0)
    >>> columns = wave_features(bars, extract_waves(bars))
    >>> columns.shape
    (48, 39)
    >>> columns[["n", "slope_high", "slope_low", "last_rsi"]].iloc[-1].round(2).tolist()
    [43.0, 0.0, 0.0, 59.39]
    """
    check_bars(bars)
    check_waves(waves)
    if units not in ("atr", "price"):
        raise EnsembleKitError(f'`units` must be "atr" or "price"; got {units!r}. "price" is what the paper has.')
    _check_same_bars(bars, waves)
    table = {"n": waves["n"]} | {name: waves[name] for name in _SLOPES} | _last_and_mean(bars, waves)
    columns = pd.DataFrame(table, index=waves.index, columns=list(_NAMES), dtype=np.float64)
    return _in_atr(columns, bars, waves) if units == "atr" else columns


def _check_same_bars(bars: pd.DataFrame, waves: pd.DataFrame) -> None:
    panel = isinstance(bars.index, pd.MultiIndex)
    there = np.full(len(waves), panel == isinstance(waves.index, pd.MultiIndex))
    if there.all():
        first, last = (np.minimum(waves[name], len(bars) - 1) for name in ("first", "last"))
        times = bars.index.get_level_values(0)
        there = (times[first] == waves["start"]) & (times[last] == waves["end"])
        there &= bars.index.get_indexer(waves.index) >= 0
        if panel:
            names = bars.index.get_level_values(1)
            there &= names[first] == waves.index.get_level_values(1)
    if not there.all():
        raise EnsembleKitError(
            f"`waves` must be made of `bars`; {waves.index[int(np.argmin(there))]} is no wave of theirs. "
            "Pass the very bars that `extract_waves` was given."
        )


def _last_and_mean(bars: pd.DataFrame, waves: pd.DataFrame) -> dict[str, FloatArray]:
    """Return last value and mean over the wave of highs, lows and indicators."""
    fields = {name: bars[name].to_numpy(np.float64) for name in ("high", "low", "close")}
    fields["atr"] = average_true_range(bars)
    instrument = row_keys(bars, name="bars").instrument
    order = np.argsort(instrument, kind="stable")
    order = order[~np.isnan(fields["high"] + fields["low"] + fields["close"])[order]]
    first, last = waves["first"].to_numpy(), waves["last"].to_numpy()
    out = {f"{of}_{name}": np.full(len(waves), np.nan) for of in ("last", "mean") for name in _MEASURES}
    for number in np.unique(instrument[first]):
        rows = order[slice(*np.searchsorted(instrument[order], [number, number + 1]))]
        own = np.flatnonzero(instrument[first] == number)
        begin, end = np.searchsorted(rows, first[own]), np.searchsorted(rows, last[own])
        # Behind the last bar of a wave comes the one that ended it, so each sum has an end.
        edges = np.column_stack([begin, end + 1]).ravel()
        for name, values in _series(**{name: values[rows] for name, values in fields.items()}).items():
            out[f"last_{name}"][own] = values[end]
            out[f"mean_{name}"][own] = np.add.reduceat(values, edges)[::2] / (end + 1 - begin)
    return out


def _series(*, high: FloatArray, low: FloatArray, close: FloatArray, atr: FloatArray) -> dict[str, FloatArray]:
    """Return highs, lows and indicators of one instrument's bars that have prices."""
    lowest, highest = talib.MIN(low, 14), talib.MAX(high, 14)
    reach = highest - lowest
    # TA-Lib's own STOCH and WILLR call a close in a range of zero its low and its high.
    place = np.full(len(close), 50.0)
    np.divide(100 * (close - lowest), reach, out=place, where=reach != 0)
    slow = _mean_of_3(place)
    band, middle = talib.BBANDS(close, 20, 2, 2), talib.EMA(close, 20)
    indicators = (
        *talib.MACD(close, 12, 26, 9),
        *(talib.EMA(close, 14), talib.SMA(close, 14)),
        *(indicator(high, low, close, 14) for indicator in (talib.ADX, talib.PLUS_DI, talib.MINUS_DI)),
        # Of the same averages as its RSI, but 0 where nothing has moved: an RSI of 0 would say that all fell.
        50 + talib.CMO(close, 14) / 2,
        *(slow, _mean_of_3(slow)),
        place - 100,
        *(band[0], band[2]),
        *(middle + 2 * atr, middle - 2 * atr),
    )
    return {"high": high, "low": low} | dict(zip(_INDICATORS, indicators, strict=True))


def _mean_of_3(x: FloatArray) -> FloatArray:
    # TA-Lib's running sum remembers what has left the window, and passes 0 and 100 by its rounding.
    return np.concatenate([np.full(2, np.nan), (x[2:] + x[1:-1] + x[:-2]) / 3])


def _in_atr(columns: pd.DataFrame, bars: pd.DataFrame, waves: pd.DataFrame) -> pd.DataFrame:
    """Return the table with prices as distances from the first bar's close, in ATR."""
    unit = wave_unit(waves)[:, None]
    close = bars["close"].to_numpy(np.float64)[waves["first"]][:, None]

    def of(measure: str) -> list[Any]:
        return [f"{when}_{name}" for when in ("last", "mean") for name, kind in _MEASURES.items() if kind == measure]

    prices, differences = of("price"), [*_SLOPES, *of("difference")]
    columns[prices] = (columns[prices] - close) / unit
    columns[differences] /= unit
    return columns
