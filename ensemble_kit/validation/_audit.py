"""Hide rows from an answer, note which cells of it change, and measure how far ahead the cause lies."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import RowKeys
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.validation._runs import CUT, NAN, TIMES_1000, Answer, Run, other_labels, spoil

__all__ = ["Audit", "Leak", "Tally", "bisect", "label_columns", "measure", "probes", "quiet", "search"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

_HOLE = 3  # bars without numbers before some borders: a backfill shows only in a gap
_TELLING = 4  # every fourth border stands at a bar that tells more than others: rare leaks are there, if anywhere
_MEASURED = 3  # groups of columns whose reach is bisected, each with two searches
_SEARCH_RUNS = 24


@dataclass
class Tally:
    """Comparisons made and refused."""

    runs: int = 0
    rows: int = 0
    refused: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Audit:
    """The answer on all rows, and how it changes when some of them are hidden."""

    run: Run
    X: Any
    y: Any
    keys: RowKeys
    step: IntArray  # number of each row's time among the distinct times
    index: pd.Index[Any]
    full: Answer
    rtol: dict[str, float]  # by way of hiding
    tally: Tally

    @classmethod
    def of(cls, run: Run, X: Any, y: Any, keys: RowKeys, rtol: dict[str, float], tally: Tally) -> Self:
        X = X if isinstance(X, pd.DataFrame) else np.asarray(X)
        step = np.unique(keys.time, return_inverse=True)[1]
        if len(step) == 0 or step[-1] < 1:
            raise EnsembleKitError(f"`bars` must have at least two times; got {len(step)} row(s). Give more bars.")
        if y is not None and len(y) != len(X):
            raise EnsembleKitError(f"`y` must have a label a row of `bars`; got {len(y)} for {len(X)}. Align them.")
        full = run(X.copy(), y)
        with quiet():
            again = run(X.copy(), y)
        if (full.change(again) > rtol[CUT]).any():
            raise EnsembleKitError(
                "`estimator` must answer the same rows alike; two runs differ. "
                "Set its `random_state`, or pass it fitted."
            )
        index = pd.RangeIndex(len(X)) if keys.index is None else keys.index
        return cls(run, X, y, keys, step, index, full, rtol, tally)

    @property
    def n_times(self) -> int:
        return int(self.step[-1]) + 1

    def frozen(self) -> Audit:
        """Return the same with an estimator fitted once, on all rows."""
        with quiet():
            run = self.run.fitted(self.X, self.y)
            return replace(self, run=run, full=run(self.X.copy(), self.y))

    def with_holes(self, borders: IntArray) -> Audit:
        """Return the same on bars that are NaN just before some borders; itself where that is refused."""
        hidden = np.isin(self.step, (borders[:, None] - np.arange(_HOLE)).ravel())
        try:
            with quiet():
                X = spoil(self.X, hidden, NAN)
                return replace(self, X=X, full=self.run(X.copy(), self.y))
        except Exception as error:  # noqa: BLE001 - a user's code may fail in any way on bars it does not expect
            self.tally.refused["gaps of NaN"] = _first_line(error)
            return self

    def change(self, hidden: BoolArray, how: str) -> FloatArray | None:
        """Return by cell how far the visible rows move; None where the estimator refuses such bars."""
        try:
            with quiet():
                answer = self.run(spoil(self.X, hidden, how), other_labels(self.y, hidden, how))
        except Exception as error:  # noqa: BLE001 - as above; the report tells
            self.tally.refused.setdefault(how, _first_line(error))
            return None
        seen = ~hidden
        self.tally.runs += 1
        self.tally.rows += int(seen.sum())
        change = np.zeros(self.full.values.shape)
        change[seen] = self.full.take(seen).change(answer if how == CUT else answer.take(seen))
        change[change <= self.rtol[how]] = 0.0
        return change

    def describe(self, column: int, kind: str, leak: Leak, learned: bool) -> dict[str, Any]:
        return leak.row(self.full.names[column], kind, leak.first, self.index[leak.first], learned=learned)


def quiet() -> warnings.catch_warnings[None]:
    """Say nothing of what spoilt bars do to arithmetic."""
    return warnings.catch_warnings(action="ignore")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"


@dataclass
class Leak:
    """One column that changes: where, by how much, and the run that shows it best."""

    COLUMNS: ClassVar[list[str]] = [
        *("column", "kind", "learned", "position", "row"),
        *("nearest", "farthest", "n_rows", "change", "shown_by"),
    ]

    first: int = -1
    n_rows: int = 0
    change: float = np.inf
    ways: dict[str, None] = field(default_factory=dict)
    best: tuple[bool, int, int] = (False, -(2**62), 0)  # whether values were spoilt; -row; how far ahead was seen
    shown_in: tuple[Audit, str, int] | None = None
    nearest: int | None = None
    farthest: int | None = None

    def add(self, change: FloatArray, audit: Audit, hidden: BoolArray, how: str) -> None:
        rows = np.flatnonzero(change)
        ahead = int(audit.step[np.argmax(hidden)] - audit.step[rows[0]])
        self.change = max(float(change.max()), self.change if self.ways else 0.0)
        self.first = int(rows[0]) if not self.ways else min(self.first, int(rows[0]))
        self.n_rows = max(self.n_rows, len(rows))
        self.ways[how] = None
        self.farthest = max(ahead, self.farthest or 0)
        key = how != CUT, -int(rows[0]), ahead
        if key > self.best:
            self.best, self.shown_in = key, (audit, how, int(rows[0]))

    def row(self, column: str, kind: str, position: int, row: Any, *, learned: bool) -> dict[str, Any]:
        near, far = (self.nearest, self.farthest) if kind == "future" else (None, None)
        values = (column, kind, learned, position, row, near, far, self.n_rows, self.change, ", ".join(self.ways))
        return dict(zip(self.COLUMNS, values, strict=True))


def _borders(n_times: int, n_prefixes: int, n_telling: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Spread the last visible times, but for the telling; return those on bars as they are and those behind a gap."""
    part = (np.arange(n_prefixes) + rng.random(n_prefixes)) / n_prefixes
    last = n_times - 1
    at = np.where(np.arange(n_prefixes) % 2, part * last, np.exp(part * np.log(last)) - 1)
    gap = np.arange(n_prefixes) // 2 % 2 == 1
    at = np.clip(at.astype(np.int64), 0, last - 1)
    place = np.arange(n_telling)
    left_out = _TELLING * place + 3 - place % 2 * 2  # even ones, in turn behind a gap and on bars as they are
    at, gap = np.delete(at, left_out), np.delete(gap, left_out)
    return np.unique(at[~gap]), np.unique(at[gap])


def _telling(audit: Audit, n: int) -> IntArray:
    """Return up to n times: in turn before a long step, at a large move and before one, none by another of its kind."""
    length = np.diff(np.unique(audit.keys.time))
    moves = _moves(audit)
    scores = np.stack([length - length.min(), moves[:-1], moves[1:]])
    last = len(length)
    scores[:, : math.isqrt(last)] = 0.0  # warm-up, mostly without answers: half of the log scale stands there
    apart = last // (2 * n) if n else 0
    found: list[int] = []
    for turn in range(len(scores) * n):
        score = scores[turn % len(scores)]
        best = np.flatnonzero(score == score.max())
        t = int(best[np.abs(best - last // 2).argmin()])  # one weekend is as long as another
        if score[t] > 0 and len(found) < n:
            found.append(t)
            score[max(t - apart, 0) : t + apart + 1] = 0.0
            scores[:, t] = 0.0
    return np.array(found, np.int64)


def _moves(audit: Audit) -> FloatArray:
    """Return by time the largest relative change of a price since its instrument's bar before; 0 where unknown."""
    price, instrument = _price(audit.X), audit.keys.instrument
    order = np.argsort(instrument, kind="stable")
    before, now = order[:-1], order[1:]
    with quiet():
        move = np.abs(price[now] / price[before] - 1)
    move[(instrument[before] != instrument[now]) | ~np.isfinite(move)] = 0.0
    largest = np.zeros(audit.n_times)
    np.maximum.at(largest, audit.step[now], move)
    return largest


def _price(X: Any) -> FloatArray:
    """Return the close, without one the first column of numbers, without any NaN."""
    columns = X if isinstance(X, pd.DataFrame) else pd.DataFrame(X.reshape(len(X), -1))
    numbers = [place for place, dtype in enumerate(columns.dtypes) if pd.api.types.is_any_real_numeric_dtype(dtype)]
    places = [place for place in numbers if columns.columns[place] == "close"] or numbers
    if not places:
        return np.full(len(X), np.nan)
    return columns.iloc[:, places[0]].to_numpy(np.float64, na_value=np.nan)


def probes(plain: Audit, n_prefixes: int, rng: np.random.Generator) -> list[tuple[Audit, BoolArray]]:
    """Return what to hide: the rows after some times, on bars as they are and on bars with gaps."""
    telling = _telling(plain, n_prefixes // _TELLING)
    spread, gaps = _borders(plain.n_times, n_prefixes, len(telling), rng)
    holed = plain.with_holes(gaps) if len(gaps) else plain
    pairs = [(plain, t) for t in np.union1d(telling, spread)] + [(holed, t) for t in gaps]
    return [(audit, audit.step > t) for audit, t in pairs]


def search(probes: list[tuple[Audit, BoolArray]]) -> dict[int, Leak]:
    """Hide rows in every way; return what changes, by column."""
    found: dict[int, Leak] = {}
    for audit, hidden in probes:
        for how in (CUT, NAN, TIMES_1000):
            change = audit.change(hidden, how)
            if change is not None:
                for column in np.flatnonzero(change.any(axis=0)).tolist():
                    found.setdefault(column, Leak()).add(change[:, column], audit, hidden, how)
    return found


def measure(found: dict[int, Leak]) -> None:
    """Bisect how near and how far ahead the bars lie that change a row, columns of one row together."""
    groups: dict[tuple[Audit, str, int], list[int]] = {}
    for column, leak in found.items():
        if leak.shown_in is not None:
            groups.setdefault(leak.shown_in, []).append(column)
    for (audit, how, row), columns in sorted(groups.items(), key=lambda group: -len(group[1]))[:_MEASURED]:
        _measure_at(audit, how, row, columns, found)


def _measure_at(audit: Audit, how: str, row: int, columns: list[int], found: dict[int, Leak]) -> None:
    ahead = audit.step - audit.step[row]
    beyond = int(ahead[-1]) + 1

    def hit(hidden: BoolArray) -> BoolArray:
        change = audit.change(hidden, how)
        return np.zeros(len(columns), bool) if change is None else change[row, columns] > 0

    seen = np.array([found[column].best[2] for column in columns])
    for column, k in zip(columns, bisect(lambda k: hit(ahead >= k), seen, beyond), strict=True):
        found[column].farthest = int(k)
    if how != CUT:  # bars cut out of the middle move all later ones: they do not say which one counts
        every = np.full(len(columns), beyond - 1)
        for column, k in zip(columns, bisect(lambda k: hit((ahead > 0) & (ahead <= k)), every, 0), strict=True):
            found[column].nearest = int(k)


def bisect(hit: Callable[[int], BoolArray], yes: IntArray, no: int) -> IntArray:
    """Move each `yes`, a number that hits, as close as it gets to `no`, one that does not."""
    yes, bound = yes.copy(), np.full(len(yes), no)
    for _ in range(_SEARCH_RUNS):
        open_ = np.flatnonzero(np.abs(yes - bound) > 1)
        if len(open_) == 0:
            break
        k = int(yes[open_[0]] + bound[open_[0]]) // 2
        between = (k - yes) * (k - bound) < 0
        hits = hit(k)
        yes, bound = np.where(between & hits, k, yes), np.where(between & ~hits, k, bound)
    return yes


def label_columns(X: Any, y: Any) -> list[str]:
    """Return the columns of X that are a label: its numbers, or its classes under other names."""
    if y is None:
        return []
    columns = X if isinstance(X, pd.DataFrame) else pd.DataFrame(np.asarray(X).reshape(len(X), -1))
    labels = np.asarray(y).reshape(len(columns), -1)
    found: dict[str, None] = {}
    for label in labels.T:
        codes, classes = pd.factorize(label)
        few = 1 < len(classes) <= len(codes) // 10
        for place, name in enumerate(columns.columns):
            values = columns.iloc[:, place]
            # Numbered in order of appearance, two names for one thing have the same numbers.
            same = few and np.array_equal(pd.factorize(values)[0], codes)
            if same or (len(classes) > 1 and np.array_equal(values.to_numpy(), label)):
                found[str(name)] = None
    return list(found)
