"""The bars that a belief chart shows, and what was believed at their closes: the same for both of its twins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import to_rgb
from numpy.typing import NDArray

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.labels import Labels
from ensemble_kit.metrics.confidence import belief_crossings
from ensemble_kit.reports._canvas import GREEN, VERMILION, one_a_row, span_of
from ensemble_kit.sizing._directions import _KNOWN_DIRECTIONS, check_probabilities, find_directions

__all__ = ["Beliefs", "mix_shades", "read_beliefs"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Shades of full belief: the palette's colours, half way to white so that candles stand out on them. Doing
#: nothing is nearly white, not white: that is left to bars whose belief is not known.
_SHADES = np.array([0.5 + 0.5 * np.array(to_rgb(GREEN)), 0.5 + 0.5 * np.array(to_rgb(VERMILION)), [0.955] * 3])
#: Turns are marked on every bar that is one; of other labels, where a stretch begins.
_TURNS = {"bottom", "peak"}


@dataclass(frozen=True)
class Beliefs:
    """What a belief chart shows: rows `first` to the last of `bars`, n_shown of them.

    `belief` has shape (n_shown, 3): long, short and neither, NaN where not known. Pairs are of long and short:
    names, thresholds (NaN for none), row numbers of crossings and of turns, and what a turn is called. `other` says
    whether there is a class that is neither.
    """

    bars: pd.DataFrame
    first: int
    belief: FloatArray
    names: tuple[str, str]
    other: bool
    thresholds: tuple[float, float]
    crossings: tuple[IntArray, IntArray]
    turns: tuple[IntArray, IntArray]
    marks: tuple[str, str]

    @property
    def times(self) -> pd.DatetimeIndex:
        return pd.DatetimeIndex(self.bars.index[self.first :])

    @property
    def title(self) -> str:
        n = len(self.belief)
        return f"Beliefs at the close, {n:,} bar{'' if n == 1 else 's'}, {span_of(self.times)}"

    def legend_of(self, side: int) -> str:
        name = f"{('Long', 'Short')[side]} ({self.names[side]})"
        if np.isnan(self.thresholds[side]):
            return name
        n = len(self.crossings[side])
        return f"{name}: {n:,} crossing{'' if n == 1 else 's'}"


def mix_shades(belief: FloatArray) -> FloatArray:
    """Return the mix of the three colours by their beliefs (n, 3), red, green and blue in [0, 1]; NaN where NaN."""
    return belief @ _SHADES


def read_beliefs(
    bars: pd.DataFrame,
    proba: Any,
    *,
    classes: Sequence[Any],
    threshold: float | Mapping[Any, float] | None,
    labels: Any,
    last: int | None,
    long: Any,
    short: Any,
) -> Beliefs:
    """Check what a belief chart is to be drawn of, and cut it to the bars shown."""
    check_bars(bars)
    if isinstance(bars.index, pd.MultiIndex):
        raise BarsError("`bars` must be of one instrument; got a panel. Draw `bars.xs(instrument, level=1)`.")
    if last is not None and (not isinstance(last, Integral) or last < 1):
        raise EnsembleKitError(f"`last` must be None or an integer of at least 1; got {last!r}. Count it in bars.")
    names = np.asarray(classes).tolist()
    sides = find_directions(names, long, short)
    p = _read_proba(proba, bars.index, names)
    first = 0 if last is None else max(len(bars) - int(last), 0)
    pair = p[:, list(sides)]
    thresholds, crossings = _find_crossings(p, names, sides, threshold, first)
    neither = np.clip(1.0 - pair.sum(axis=1), 0.0, 1.0)
    both = (str(names[sides[0]]), str(names[sides[1]]))
    turns, marks = _find_turns(labels, bars.index, first, names, sides)
    belief = np.column_stack([pair, neither])[first:]
    return Beliefs(bars, first, belief, both, len(names) > 2, thresholds, crossings, turns, marks)


def _read_proba(proba: Any, index: pd.Index[Any], classes: list[Any]) -> FloatArray:
    """Return the probabilities of the first horizon, shape (n, K), all NaN where one is."""
    if isinstance(proba, pd.DataFrame):
        if not proba.index.equals(index):
            raise EnsembleKitError(
                f"`proba` must be on the index of `bars` ({len(index)} rows); got another index of {len(proba)}. "
                "Align it first: `proba.reindex(bars.index)`."
            )
        if set(proba.columns) == set(classes):  # columns that carry their names are placed by them
            proba = proba[classes]
    p = check_probabilities(proba, 0, len(classes))
    if len(p) != len(index):
        raise EnsembleKitError(
            f"`proba` must have one row a bar, {len(index)} in all; got {len(p)}. "
            "Predict the very bars to draw, with NaN where nothing is known."
        )
    return np.where(np.isnan(p).any(axis=1, keepdims=True), np.nan, p)


def _find_crossings(
    p: FloatArray, classes: list[Any], sides: tuple[int, int], threshold: Any, first: int
) -> tuple[tuple[float, float], tuple[IntArray, IntArray]]:
    """Return the thresholds, and the shown rows at which the beliefs reach them; long and short."""
    if threshold is None:
        none = np.empty(0, np.int64)
        return (np.nan, np.nan), (none, none)
    found = belief_crossings(p, classes=classes, threshold=threshold)
    found = found[(found["direction"] == "up") & (found["row"] >= first)]
    named = threshold if isinstance(threshold, Mapping) else dict.fromkeys(classes, threshold)
    long, short = (classes[side] for side in sides)
    rows = [found.loc[found["class"] == label, "row"].to_numpy(np.int64) for label in (long, short)]
    return (float(named.get(long, np.nan)), float(named.get(short, np.nan))), (rows[0], rows[1])


def _find_turns(
    labels: Any, index: pd.Index[Any], first: int, classes: list[Any], sides: tuple[int, int]
) -> tuple[tuple[IntArray, IntArray], tuple[str, str]]:
    """Return the shown rows of the hindsight turns, long and short, and what they are called."""
    none = np.empty(0, np.int64)
    if labels is None:
        return (none, none), ("", "")
    found = pd.Series(one_a_row(labels.labels if isinstance(labels, Labels) else labels, index, "labels"))
    names = found.map(_plain, na_action="ignore")
    # Hindsight may be of other classes than the beliefs, turns of a model of trends, say.
    pairs = [(_plain(classes[sides[0]]), _plain(classes[sides[1]])), *_KNOWN_DIRECTIONS]
    present = set(names.dropna())
    pair = next((pair for pair in pairs if present & set(pair)), pairs[0])
    strange = present - {_plain(label) for label in classes} - set(pair)
    if strange and not present & set(pair):
        raise EnsembleKitError(
            f"`labels` must be of the classes {classes}, or of turns or trends; got {sorted(map(str, strange))}. "
            "Pass what the beliefs are to be compared with."
        )
    turns = []
    for side in pair:
        rows = (names == side).to_numpy(bool)
        if side not in _TURNS:
            rows = rows & ~np.r_[False, rows[:-1]]
        at = np.flatnonzero(rows)
        turns.append(at[at >= first])
    begins = ["" if side in _TURNS else " begins," for side in pair]
    marks = [f"{str(side).capitalize()}{verb} in hindsight" for side, verb in zip(pair, begins, strict=True)]
    return (turns[0], turns[1]), (marks[0], marks[1])


def _plain(label: Any) -> Any:
    return label.lower() if isinstance(label, str) else label
