"""The parts of a page, and numbers, times and settings as its words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ensemble_kit.reports._canvas import MINUS

__all__: list[str] = []

#: What stands where nothing is known.
NOTHING = "–"
#: Of a longer list, only so many are written.
_MOST = 12


@dataclass(frozen=True)
class Table:
    """Cells as text; the first of a row is its head."""

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    total: str = ""  # head of the row that sums up
    text: frozenset[str] = frozenset()  # columns of words, not of numbers
    tall: bool = False


@dataclass(frozen=True)
class Section:
    """One part of the page."""

    id: str
    heading: str
    words: Sequence[str] = ()
    facts: Mapping[str, str] = field(default_factory=dict)
    tables: Sequence[Table] = ()
    pictures: Sequence[Any] = ()
    panels: Sequence[Any] = ()
    code: str = ""


def number(pattern: str, *, unit: str = "", scale: float = 1.0) -> Callable[[Any], str]:
    """Return what writes a number by a format, with a true minus and no minus before a zero."""

    def write(value: Any) -> str:
        if not np.isfinite(value):
            return NOTHING
        text = format(scale * value, pattern)
        bare = not any(digit in text for digit in "123456789")
        return (text.lstrip("-+") if bare else text.replace("-", MINUS)) + unit

    return write


count, score, signed = number(",.0f"), number(".3f"), number("+.3f")
ratio, percent, points = number(",.2f"), number(".2%"), number("+.3f", unit=" bp", scale=1e4)
p_value = number(".3g")

#: Columns of trades that are not as their type says.
_TRADES: dict[str, Callable[[Any], str]] = {"return": number("+.3%"), "costs": ratio, "pnl": number("+,.2f")}


def time(value: Any) -> str:
    """Write a time without its zone, and without its hour where bars are days."""
    whole = value == value.normalize() and value.tz is None
    return f"{value:%Y-%m-%d}" if whole else f"{value:%Y-%m-%d %H:%M}"


def span(first: Any, last: Any) -> str:
    """Write from when to when, with the zone once; of times written as text, too."""
    both = [pd.to_datetime(one, errors="coerce") for one in (first, last)]
    if any(one is pd.NaT for one in both):
        return f"{first} to {last}"
    return f"{time(both[0])} to {time(both[1])} {both[1].tz or ''}".strip()


def value(given: Any) -> str:
    """Write any setting on one line."""
    if isinstance(given, Mapping):
        return ", ".join(f"{key} {value(one)}" for key, one in given.items())
    if isinstance(given, list | tuple | np.ndarray):
        some = [value(one) for one in given[:_MOST]] + [f"… ({len(given):,} in all)"] * (len(given) > _MOST)
        return ", ".join(some) or "none"
    if isinstance(given, pd.Timedelta):
        parts = zip(given.components, ("day", "hour", "minute", "second"), strict=False)
        return " ".join(f"{n} {unit}{'' if n == 1 else 's'}" for n, unit in parts if n) or str(given)
    if isinstance(given, bool | np.bool_):
        return "yes" if given else "no"
    if isinstance(given, int | np.integer):
        return f"{given:,}".replace("-", MINUS)
    return f"{given:.4g}".replace("-", MINUS) if isinstance(given, float | np.floating) else str(given)


def trade(column: str, given: Any) -> str:
    """Write one cell of the trades."""
    if isinstance(given, pd.Timestamp):
        return time(given)
    if isinstance(given, bool | np.bool_):
        return "open" if given else ""
    if given is pd.NaT:
        return NOTHING
    if isinstance(given, int | np.integer):
        return count(given)
    return _TRADES.get(column, ratio)(given) if isinstance(given, float | np.floating) else str(given)


def words(name: str) -> str:
    """Write a name from code as words."""
    return name.replace("_", " ").strip().capitalize()
