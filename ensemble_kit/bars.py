"""The bar frame: what one is, whose bar each row is, and when."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import BarsError

__all__ = [
    "PRICES",
    "RowKeys",
    "check_bars",
    "instrument_codes",
    "pack_index",
    "row_keys",
    "unpack_index",
]

#: The columns of prices that every bar has.
PRICES = ("open", "high", "low", "close")

IntArray = NDArray[np.int64]


def check_bars(bars: pd.DataFrame, *, require: Sequence[str] = (), name: str = "bars") -> pd.DataFrame:
    """Check a bar frame and say exactly what is wrong, where, and how to mend it.

    Parameters
    ----------
    bars : DataFrame of shape (n_rows, n_columns)
        Columns ``open high low close`` and whatever else (``volume``, ``vwap``, ...).
        The index is a sorted, unique ``DatetimeIndex`` (each bar's open) or, for a
        panel, a sorted, unique ``MultiIndex`` (datetime, instrument).
    require : sequence of str, default=()
        Further columns that must be there.
    name : str, default="bars"
        How messages call the frame.

    Returns
    -------
    DataFrame
        The same object, untouched.

    Raises
    ------
    BarsError
        If a column is missing or not numeric, if times are unsorted, repeated or
        missing, if a high lies under a low, or if a price is infinite or not positive.
        NaN prices and volumes are allowed: they are not known, nor is what is made of them.

    Examples
    --------
    >>> from ensemble_kit.bars import check_bars
    >>> from ensemble_kit.datasets import make_bars
    >>> check_bars(make_bars(100, random_state=0)).shape
    (100, 5)
    """
    if not isinstance(bars, pd.DataFrame):
        raise BarsError(
            f"`{name}` must be a pandas DataFrame with columns {' '.join(PRICES)}; "
            f"got {type(bars).__name__}. Read a file with `ensemble_kit.datasets.read_bars`."
        )
    if bars.empty:
        raise BarsError(f"`{name}` must have at least one row; got {len(bars)} x {bars.shape[1]}. Widen what was read.")
    _check_columns(bars, [*PRICES, *require], name)
    _check_index(bars.index, name)
    _check_prices(bars, name)
    return bars


def _check_columns(bars: pd.DataFrame, wanted: Sequence[str], name: str) -> None:
    if bars.columns.has_duplicates:
        twice = sorted({str(column) for column in bars.columns[bars.columns.duplicated()]})
        raise BarsError(f"`{name}` must have each column once; got {', '.join(twice)} more often. Drop or rename one.")
    missing = [column for column in wanted if column not in bars.columns]
    if missing:
        lower = {str(column).strip().lower(): column for column in bars.columns}
        near = {column: lower[column] for column in missing if column in lower}
        cure = (
            f"Rename {', '.join(f'{old!r} to {new!r}' for new, old in near.items())}"
            if near
            else "`ensemble_kit.datasets.read_bars` knows the common spellings"
        )
        raise BarsError(
            f"`{name}` must have the columns {', '.join(wanted)}; "
            f"missing {', '.join(missing)}, got {', '.join(map(str, bars.columns))}. {cure}."
        )
    numbers = [*wanted, *(["volume"] if "volume" in bars.columns else [])]
    text = [column for column in numbers if not pd.api.types.is_numeric_dtype(bars[column])]
    if text:
        raise BarsError(
            f"`{name}` must have numeric prices and volumes; got {', '.join(f'{c} of {bars[c].dtype}' for c in text)}. "
            "Convert with `pandas.to_numeric`."
        )


def _check_index(index: pd.Index[Any], name: str) -> None:
    panel = isinstance(index, pd.MultiIndex)
    times = index.get_level_values(0) if isinstance(index, pd.MultiIndex) else index
    if (panel and index.nlevels != 2) or not isinstance(times, pd.DatetimeIndex):
        raise BarsError(
            f"`{name}` must be indexed by time (DatetimeIndex) or by (datetime, instrument); got "
            f"{type(index).__name__} with {index.nlevels} level(s) of {times.dtype}. "
            "Set it with `.set_index(...)` after `pandas.to_datetime`."
        )
    if times.hasnans:
        raise BarsError(
            f"`{name}` must have a time on every row; row {int(np.argmax(times.isna()))} has none. Drop it."
        )
    if isinstance(index, pd.MultiIndex) and (nameless := np.asarray(index.codes[1]) < 0).any():
        raise BarsError(
            f"`{name}` must have an instrument on every row; row {int(np.argmax(nameless))} has none. "
            "Name it, or drop it."
        )
    if index.has_duplicates:
        where = int(np.argmax(index.duplicated()))
        raise BarsError(
            f"`{name}` must have unique times; {index[where]} stands {int((index == index[where]).sum())} times "
            f"({int(index.duplicated().sum())} repeated rows in all, first at row {where}). "
            "Keep one of each with `bars[~bars.index.duplicated(keep='last')]`, or, if several instruments are "
            "mixed, index by (datetime, instrument)."
        )
    if not times.is_monotonic_increasing:
        step = np.flatnonzero(times[1:] < times[:-1])
        raise BarsError(
            f"`{name}` must be sorted by time; row {int(step[0]) + 1} ({times[step[0] + 1]}) comes after "
            f"{times[step[0]]}. Sort with `bars.sort_index()`."
        )


def _check_prices(bars: pd.DataFrame, name: str) -> None:
    prices = bars[list(PRICES)].to_numpy(np.float64)
    o, h, l, c = prices.T
    faults: list[tuple[Any, str, str]] = [
        (np.isinf(prices).any(axis=1), "finite prices", "Set them to NaN or drop the rows"),
        ((prices <= 0).any(axis=1), "prices above 0", "Add a constant to a spread, or drop the rows"),
        (h < l, "high >= low", "Swap the two columns, or drop the rows"),
        (
            (h < np.fmax(o, c)) | (l > np.fmin(o, c)),
            "open and close between low and high",
            "Rebuild high and low as the maximum and minimum of the row, or drop the rows",
        ),
    ]
    if "volume" in bars:
        volume = bars["volume"].to_numpy(np.float64)
        faults.append(((volume < 0) | np.isinf(volume), "finite volume of at least 0", "Set it to NaN where unknown"))
    for flags, domain, cure in faults:
        wrong = np.asarray(flags)
        if wrong.any():
            row = int(np.argmax(wrong))
            shown = ", ".join(f"{column}={float(value):g}" for column, value in zip(PRICES, prices[row], strict=True))
            if "volume" in domain:
                shown = f"volume={float(bars['volume'].iloc[row]):g}"
            raise BarsError(
                f"`{name}` must have {domain}; got {shown} at {bars.index[row]} (row {row}; "
                f"{int(wrong.sum())} such row(s)). {cure}."
            )


@dataclass(frozen=True)
class RowKeys:
    """Whose each row is, and when: what windows, folds and purges go by.

    Attributes
    ----------
    time : ndarray of int64, shape (n,)
        Nanoseconds for an index of times, positions otherwise. Never decreasing.
    instrument : ndarray of int64, shape (n,)
        The instrument's number, 0 throughout for a single one.
    index : Index or None
        The frame's index, None for an array.
    """

    time: IntArray
    instrument: IntArray
    index: pd.Index[Any] | None

    @property
    def panel(self) -> bool:
        """Whether rows carry an instrument."""
        return isinstance(self.index, pd.MultiIndex)

    def axis(self) -> pd.Index[Any]:
        """Return the time of each row as pandas knows it (positions where there is none)."""
        if self.index is None:
            return pd.RangeIndex(len(self.time))
        return self.index.get_level_values(0) if self.panel else self.index


def row_keys(X: Any, *, name: str = "X") -> RowKeys:
    """Return time and instrument of each row of a frame or an array.

    Parameters
    ----------
    X : DataFrame, Series or array-like of shape (n, ...)
        A frame indexed by time or by (datetime, instrument). Anything else is one
        instrument whose rows are in order.
    name : str, default="X"
        How messages call it.

    Returns
    -------
    RowKeys
        Time, instrument and index.

    Raises
    ------
    BarsError
        If an index of times is unsorted, repeated or has holes.
    """
    index = X.index if isinstance(X, pd.DataFrame | pd.Series) else None
    if not isinstance(index, pd.MultiIndex | pd.DatetimeIndex):
        n = len(X)
        return RowKeys(np.arange(n, dtype=np.int64), np.zeros(n, dtype=np.int64), None)
    _check_index(index, name)
    times = index.get_level_values(0)
    nanoseconds = pd.DatetimeIndex(times).as_unit("ns").asi8.copy()
    return RowKeys(nanoseconds, instrument_codes(index)[0], index)


def instrument_codes(index: pd.Index[Any]) -> tuple[IntArray, list[Hashable]]:
    """Return the instrument number of each row and the instruments' names.

    Parameters
    ----------
    index : Index
        A ``MultiIndex`` (datetime, instrument), or the index of a single instrument.

    Returns
    -------
    codes : ndarray of int64, shape (n,)
        Numbers in order of name; 0 throughout for a single instrument.
    names : list
        One name a number; ``[None]`` for a single instrument.
    """
    if not isinstance(index, pd.MultiIndex):
        return np.zeros(len(index), dtype=np.int64), [None]
    codes, names = pd.factorize(index.get_level_values(1), sort=True)
    return codes.astype(np.int64), list(names)


def pack_index(index: pd.Index[Any] | None) -> dict[str, Any]:
    """Turn an index of times into plain arrays and strings, which any safe format can store.

    Parameters
    ----------
    index : DatetimeIndex, MultiIndex (datetime, instrument) or None
        None stands for positions.

    Returns
    -------
    dict
        What `unpack_index` takes.
    """
    if not isinstance(index, pd.DatetimeIndex | pd.MultiIndex):
        return {}
    times = pd.DatetimeIndex(index.get_level_values(0))
    packed: dict[str, Any] = {
        "time": times.as_unit("ns").asi8.copy(),
        "tz": None if times.tz is None else _zone_name(times.tz),
        "names": [None if label is None else str(label) for label in index.names],
    }
    if isinstance(index, pd.MultiIndex):
        codes, instruments = instrument_codes(index)
        plain = [label.item() if isinstance(label, np.generic) else label for label in instruments]
        packed |= {"instrument": codes, "instruments": plain}
    return packed


def _zone_name(zone: Any) -> str:
    """Return a name that pandas finds the zone by: UTC for those without one (dateutil's, say), the same instants."""
    try:
        pd.Timestamp(0, tz=str(zone))
    except (KeyError, ValueError, TypeError):
        return "UTC"
    return str(zone)


def unpack_index(packed: Mapping[str, Any], n: int) -> pd.Index[Any]:
    """Rebuild the index that `pack_index` took apart (positions for an empty one).

    Parameters
    ----------
    packed : mapping
        What `pack_index` returned.
    n : int
        How many rows, for positions.

    Returns
    -------
    Index
        The index.
    """
    if not packed:
        return pd.RangeIndex(n)
    times = pd.DatetimeIndex(np.asarray(packed["time"]).view("M8[ns]"))
    if packed["tz"] is not None:
        times = times.tz_localize("UTC").tz_convert(packed["tz"])
    if "instrument" not in packed:
        return times.rename(packed["names"][0])
    labels = pd.Index(packed["instruments"])[packed["instrument"]]
    return pd.MultiIndex.from_arrays([times, labels], names=packed["names"])
