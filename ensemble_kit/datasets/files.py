"""Bars from a file: common layouts, spellings and clocks in; one checked bar frame out."""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from ensemble_kit.bars import PRICES, check_bars
from ensemble_kit.exceptions import BarsError

__all__ = ["read_bars"]

_SUFFIXES = (".parquet", ".pq", ".feather", ".csv", ".csv.gz", ".csv.bz2", ".csv.xz", ".csv.zip", ".zip")
# Spellings after lower-casing, the best first; the first that is there is taken.
_SPELLINGS = {
    "open": ("open", "o", "open_price"),
    "high": ("high", "h", "high_price"),
    "low": ("low", "l", "low_price"),
    "close": ("close", "c", "close_price"),
    "volume": ("volume", "vol", "v"),
    "instrument": ("instrument", "symbol", "ticker"),
}
_TIMES = ("timestamp", "datetime", "date_time", "open_time", "unix", "epoch", "ts", "date", "time")
_UNNAMED = ("index", "unnamed_0")  # what pandas calls an index that had no name
_NUMBERS = (*PRICES, "volume", "vwap", "bid", "ask", "bid_size", "ask_size")
_ZONE = re.compile(r":\d\d(?:\.\d+)?\s*(?:Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)$", re.IGNORECASE)
# Whole numbers that spell a date, by their length. As epochs they would lie in 1970, 1976 or beyond 2500.
_STAMPS = {8: "%Y%m%d", 12: "%Y%m%d%H%M", 14: "%Y%m%d%H%M%S"}
_UNITS: tuple[tuple[Literal["s", "ms", "us", "ns"], float, float], ...] = (
    ("s", 1e8, 1e11),
    ("ms", 1e11, 1e14),
    ("us", 1e14, 1e17),
    ("ns", 1e17, np.inf),
)


def read_bars(path: str | Path, *, tz: str | None = None) -> pd.DataFrame:
    """Read bars from a parquet, feather or CSV file, and check them.

    Parameters
    ----------
    path : str or Path
        The file: ``.parquet`` (``.pq``), ``.feather`` or ``.csv``, also compressed as
        ``.csv.gz``, ``.csv.bz2``, ``.csv.xz``, ``.csv.zip`` or ``.zip``.
    tz : str, default=None
        Zone of times that come without one. Without it, whole dates stay naive session
        dates (midnights on every row), and any other naive times are read as UTC.

    Returns
    -------
    DataFrame
        Prices (and volume, vwap, bid, ask and their sizes where there are any) as float64,
        indexed by ``datetime`` in UTC, or by (``datetime``, ``instrument``) where the file
        names an instrument. All other columns are kept as they are. Names are lower case,
        with ``_`` for anything but letters and digits.

    Raises
    ------
    BarsError
        If there is no such file, it cannot be read or is empty, has no time or price column,
        a time cannot be understood, or `check_bars` refuses the bars: times that are unsorted
        or repeated are an error, not something to mend silently. One line each.

    See Also
    --------
    ensemble_kit.bars.check_bars : What the result has passed.

    Notes
    -----
    Prices may be called ``Open``, ``O`` or ``open_price`` (``Adj Close`` is a column of its own),
    the volume ``Volume``, ``Vol`` or ``V``, the instrument ``symbol``, ``ticker`` or ``instrument``,
    the time ``timestamp``, ``datetime``, ``open_time``, ``unix``, ``date``, ``time``, or ``date`` and
    ``time`` together. Times are ISO 8601, any one format throughout (month first, unless the first
    row shows otherwise), ``20220103``, or epochs in s, ms, us or ns. A panel may lie in the file
    one instrument after another.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from ensemble_kit.datasets import make_bars, read_bars
    >>> bars = make_bars(100, random_state=0)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     bars.to_csv(Path(folder) / "bars.csv")
    ...     back = read_bars(Path(folder) / "bars.csv")
    >>> back.index.equals(bars.index)
    True
    """
    path = Path(path)
    name = path.name
    frame = _name_columns(_read(path), name)
    times, used = _find_times(frame, name)
    index = _to_utc(_parse_times(times, name), tz, name).rename("datetime")
    if index.hasnans:
        raise BarsError(
            f"`{name}` must have a time on every row; row {int(np.argmax(index.isna()))} has none. Drop it."
        )
    frame = frame.drop(columns=used)
    known = [column for column in _NUMBERS if column in frame.columns]
    for column in known:
        if pd.api.types.is_numeric_dtype(frame[column]):
            frame[column] = frame[column].to_numpy(np.float64, na_value=np.nan)
    frame = _as_panel(frame, index, name) if "instrument" in frame.columns else frame.set_axis(index)
    return check_bars(frame, require=[column for column in known if column not in PRICES], name=name)


# ------------------------------------------------------------------ the file itself


def _read(path: Path) -> pd.DataFrame:
    """Return the file's table with whatever its index held as columns."""
    if not path.exists():
        raise BarsError(f"`path` must be an existing file; got '{path}'. {_nearest(path)}")
    if not path.name.lower().endswith(_SUFFIXES):
        raise BarsError(f"`path` must end in {', '.join(_SUFFIXES)}; got '{path.name}'. Convert or rename the file.")
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            frame = pd.read_parquet(path)
        elif path.suffix.lower() == ".feather":
            frame = pd.read_feather(path)
        else:
            frame = pd.read_csv(path, low_memory=False)
    except Exception as error:  # noqa: BLE001 - readers raise whatever their decoders do: all mean an unreadable file
        why = " ".join(str(error).split()) or type(error).__name__
        raise BarsError(
            f"`{path.name}` must be a readable {path.suffix[1:]} file; got: {why}. Fetch or write it anew."
        ) from None
    if frame.empty:
        raise BarsError(f"`{path.name}` must hold at least one bar; got {len(frame)} rows. Write it anew.")
    return _index_to_columns(frame)


def _index_to_columns(frame: pd.DataFrame) -> pd.DataFrame:
    index = frame.index
    if not isinstance(index, pd.DatetimeIndex | pd.MultiIndex):
        # Row numbers say nothing; an index with a name, or of anything else, may be the time.
        drop = index.name is None and pd.api.types.is_numeric_dtype(index)
        return frame.reset_index(drop=drop, allow_duplicates=True)
    usual = ["datetime", "instrument", *map(str, range(2, index.nlevels))]
    names = [label or at for label, at in zip(index.names, usual, strict=False)]
    return frame.reset_index(names=names, allow_duplicates=True)


def _nearest(path: Path) -> str:
    if not path.parent.is_dir():
        return f"There is no folder '{path.parent}', either."
    names = sorted(entry.name for entry in path.parent.iterdir())
    near = difflib.get_close_matches(path.name, names, n=3, cutoff=0.4)
    near = near or [entry for entry in names if entry.lower().endswith(_SUFFIXES)][:3]
    return f"Nearest in its folder: {', '.join(near)}." if near else "Its folder holds no file of bars."


# -------------------------------------------------------------------------- columns


def _name_columns(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Give columns their lower-case names, and the known ones their usual name."""
    columns = pd.Index([re.sub(r"[^a-z0-9]+", "_", str(column).lower()).strip("_") for column in frame.columns])
    twice = columns[columns.duplicated()]
    if len(twice):
        raise BarsError(
            f"`{name}` must have column names that differ in more than case; got {', '.join(map(str, frame.columns))} "
            f"({', '.join(twice.unique())} twice). Drop or rename one."
        )
    rename: dict[str, str] = {}
    for usual, spellings in _SPELLINGS.items():
        found = [spelling for spelling in spellings if spelling in columns]
        if found and found[0] != usual:
            rename[found[0]] = usual
    frame = frame.set_axis(columns, axis=1).rename(columns=rename)
    missing = [column for column in PRICES if column not in frame.columns]
    if missing:
        raise BarsError(
            f"`{name}` must have the price columns {', '.join(PRICES)}; missing {', '.join(missing)}, "
            f"got {', '.join(columns)}. Rename them, or build bars from ticks first."
        )
    return frame


def _find_times(frame: pd.DataFrame, name: str) -> tuple[pd.Series[Any], list[str]]:
    """Return the times as the file gives them, and the columns they came from."""
    found = next((column for column in _TIMES if column in frame.columns), None)
    if found == "date" and "time" in frame.columns:
        clock = frame["time"]
        if pd.api.types.is_integer_dtype(clock):  # 930 or 93000, which lost a leading 0
            clock = clock.astype(str).str.zfill(4 if clock.max() < 2400 else 6)
        return frame["date"].astype(str) + " " + clock.astype(str), ["date", "time"]
    # A column without a name may as well be a row number.
    found = found or next((c for c in _UNNAMED if c in frame and not pd.api.types.is_numeric_dtype(frame[c])), None)
    if found is None:
        raise BarsError(
            f"`{name}` must have a time column; got {', '.join(frame.columns)}. "
            f"Name it one of {', '.join(_TIMES)} (or give date and time)."
        )
    return frame[found], [found]


def _as_panel(frame: pd.DataFrame, times: pd.DatetimeIndex, name: str) -> pd.DataFrame:
    """Index by (datetime, instrument); each instrument must be in order of time as it came."""
    labels = frame["instrument"]
    if labels.isna().any():
        row = int(np.argmax(labels.isna()))
        raise BarsError(f"`{name}` must name an instrument on every row; row {row} has none. Drop it.")
    labels = labels.astype(str)
    order = np.argsort(pd.factorize(labels)[0], kind="stable")
    same = labels.to_numpy()[order][1:] == labels.to_numpy()[order][:-1]
    back = np.flatnonzero(same & (times[order][1:] < times[order][:-1]))
    if len(back):
        row = int(order[back[0] + 1])
        raise BarsError(
            f"`{name}` must be sorted by time within each instrument; row {row} ({labels.iloc[row]}, {times[row]}) "
            f"comes after {times[order[back[0]]]}. Sort the file."
        )
    index = pd.MultiIndex.from_arrays([times, labels], names=["datetime", "instrument"])
    return frame.drop(columns="instrument").set_axis(index).sort_index(kind="stable")


# ---------------------------------------------------------------------------- times


def _parse_times(times: pd.Series[Any], name: str) -> pd.DatetimeIndex:
    if isinstance(times.dtype, np.dtype | pd.DatetimeTZDtype) and times.dtype.kind == "M":
        return pd.DatetimeIndex(times)
    if pd.api.types.is_numeric_dtype(times):
        return _parse_numbers(times, name)
    return _parse_text(times.astype(str).str.strip().where(times.notna()), name)


def _parse_numbers(times: pd.Series[Any], name: str) -> pd.DatetimeIndex:
    numbers = times.to_numpy(np.float64, na_value=np.nan)
    if np.isnan(numbers).any():
        raise BarsError(
            f"`{name}` must have a time on every row; row {int(np.argmax(np.isnan(numbers)))} has none. Drop it."
        )
    first, top = f"{numbers[0]:.0f}", float(np.abs(numbers).max())
    stamp = _STAMPS.get(len(first)) if first[:2] in {"19", "20"} and pd.api.types.is_integer_dtype(times) else None
    if stamp:
        return _parse_text(times.astype(str), name, stamp)
    unit = next((unit for unit, low, high in _UNITS if low <= top < high), None)
    if unit is None:
        raise BarsError(
            f"`{name}` must have epoch times in s, ms, us or ns, or numbers such as 20220103; "
            f"got {first} at row 0. Write times as ISO 8601, say."
        )
    return pd.DatetimeIndex(pd.to_datetime(times, unit=unit, utc=True))


def _parse_text(text: pd.Series[Any], name: str, stamp: str | None = None) -> pd.DatetimeIndex:
    given = text.notna().to_numpy()
    zoned = text.str.contains(_ZONE, na=False).to_numpy(np.bool_)
    parsed = _in_one_format(text, [stamp] if stamp else ["ISO8601", None], utc=bool(zoned.any()))
    bad = given & parsed.isna()
    if bad.any():
        row = int(np.argmax(bad))
        raise BarsError(
            f"`{name}` must have times in one known format; got {text.iloc[row]!r} at row {row} "
            f"({int(bad.sum())} such row(s)). Write times as ISO 8601, such as 2022-01-03 14:30."
        )
    if zoned.any() and (given & ~zoned).any():
        row, other = int(np.argmax(given & ~zoned)), int(np.argmax(zoned))
        raise BarsError(
            f"`{name}` must have a zone on every time or on none; got {text.iloc[row]!r} at row {row} and "
            f"{text.iloc[other]!r} at row {other}. Write all of them in UTC."
        )
    return parsed


def _in_one_format(text: pd.Series[Any], forms: Sequence[str | None], *, utc: bool) -> pd.DatetimeIndex:
    """Parse by the format that understands most rows; NaT where it does not."""
    best = pd.DatetimeIndex(np.full(len(text), "NaT", dtype="M8[ns]"))
    for form in forms:
        with warnings.catch_warnings():
            # Day first, said by the first row, is fine; guessing row by row is not.
            warnings.filterwarnings("ignore", "Parsing dates in", UserWarning)
            warnings.filterwarnings("error", "Could not infer format", UserWarning)
            try:
                parsed = pd.DatetimeIndex(pd.to_datetime(text, format=form, errors="coerce", utc=utc))
            except UserWarning:
                continue
        if np.count_nonzero(parsed.isna()) < np.count_nonzero(best.isna()):
            best = parsed
        if np.count_nonzero(best.isna()) == np.count_nonzero(text.isna()):
            break
    return best


def _to_utc(times: pd.DatetimeIndex, tz: str | None, name: str) -> pd.DatetimeIndex:
    if times.tz is not None:
        return times.tz_convert("UTC")
    if tz is None:
        known = times.dropna()
        return times if (known == known.normalize()).all() else times.tz_localize("UTC")
    try:
        # The hour that comes twice in autumn is told apart by order.
        return times.tz_localize(tz, ambiguous="infer").tz_convert("UTC")
    except (ValueError, KeyError) as error:
        why = " ".join(str(error.args[0] if error.args else error).split())
        raise BarsError(
            f"`tz` must be the zone of the times in `{name}`, such as 'America/New_York'; got {tz!r}: {why}. "
            "Where a clock change leaves doubt, write the file in UTC."
        ) from None
