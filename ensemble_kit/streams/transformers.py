"""Fitted transformers row by row: each with as much of the past as it needs, and no more."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.utils import _safe_indexing

from ensemble_kit.streams.rows import Layout, Rows
from ensemble_kit.streams.shortcuts import shortcut
from ensemble_kit.streams.trial import check_reach
from ensemble_kit.validation import lookback

__all__ = ["Chain", "Step", "start_transformer"]


class Step(Protocol):
    """A transformer with its past."""

    def update(self, rows: Rows) -> Rows:
        """Return what the batch would say of the next rows.

        Parameters
        ----------
        rows : Rows
            One row or more of its input.

        Returns
        -------
        Rows
            As many.
        """
        ...


def start_transformer(step: Any, history: Rows, slow: list[str]) -> tuple[Step, Rows]:
    """Give a fitted transformer its past.

    Parameters
    ----------
    step : transformer, "passthrough" or None
        Fitted; a Pipeline, a union, or any other.
    history : Rows
        Its input so far.
    slow : list of str
        Takes the names of those that must read all of it again at every row.

    Returns
    -------
    Step
        What takes the next rows.
    Rows
        Its output so far.
    """
    if step is None or step == "passthrough":
        return _Unchanged(), history
    if isinstance(step, Pipeline):
        return Chain.start([part for _, part in step.steps], history, slow)
    if isinstance(step, FeatureUnion):
        every = np.arange(history.values.shape[1])
        named = [(name, part, every) for name, part in step.transformer_list if part != "drop"]
        return _Union.start(step, named, history, slow)
    if isinstance(step, ColumnTransformer) and (parts := _parts(step, history)) is not None:
        return _Union.start(step, parts, history, slow)
    if hasattr(step, "stream"):
        return _Recursive.start(step, history)
    return _Windowed.start(step, history, slow)


class _Unchanged:
    def update(self, rows: Rows) -> Rows:
        return rows


class Chain:
    """One step after the other.

    Parameters
    ----------
    steps : list of Step
        With their pasts.
    """

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps

    @classmethod
    def start(cls, transformers: list[Any], history: Rows, slow: list[str]) -> tuple[Chain, Rows]:
        """Give fitted transformers their pasts.

        Parameters
        ----------
        transformers : list of transformer
            In their order.
        history : Rows
            Input of the first.
        slow : list of str
            See `start_transformer`.

        Returns
        -------
        Chain
            Of their steps.
        Rows
            Output of the last.
        """
        steps = []
        for transformer in transformers:
            step, history = start_transformer(transformer, history, slow)
            steps.append(step)
        return cls(steps), history

    def update(self, rows: Rows) -> Rows:
        """Return what the last step makes of the next rows.

        Parameters
        ----------
        rows : Rows
            Input of the first.

        Returns
        -------
        Rows
            Output of the last.
        """
        for step in self.steps:
            rows = step.update(rows)
        return rows


class _Union:
    """Several transformers of the same rows, each of its columns, their outputs side by side."""

    def __init__(self, parts: list[tuple[Any, Layout, Step, float | None]], layout: Layout) -> None:
        self._parts, self._layout = parts, layout

    @classmethod
    def start(
        cls, union: Any, named: list[tuple[str, Any, Any]], history: Rows, slow: list[str]
    ) -> tuple[_Union, Rows]:
        weights = union.transformer_weights or {}
        # The names of the columns are scikit-learn's affair: it is asked for one row.
        layout = Layout(union.transform(history.tail(1).table()), union)
        parts, outputs = [], []
        for name, transformer, columns in named:
            if len(columns) == 0:
                continue
            taken = Layout(_of_columns(history.tail(1), columns), transformer)
            step, output = start_transformer(transformer, _take(history, columns, taken), slow)
            parts.append((columns, taken, step, weights.get(name)))
            outputs.append(_weighted(output, weights.get(name)))
        return cls(parts, layout), Rows.beside(outputs, layout)

    def update(self, rows: Rows) -> Rows:
        outputs = [
            _weighted(step.update(_take(rows, columns, layout)), weight)
            for columns, layout, step, weight in self._parts
        ]
        return Rows.beside(outputs, self._layout)


def _parts(step: ColumnTransformer, history: Rows) -> list[tuple[str, Any, Any]] | None:
    """Return names, fitted transformers and positions of columns; None where one takes a single column as such."""
    columns = history.layout.columns
    numbers: Any = np.arange(history.values.shape[1])[None]
    if columns is not None:
        numbers = pd.DataFrame(numbers, columns=columns)
    taken = [
        (name, part, np.asarray(_safe_indexing(numbers, key, axis=1)))
        for name, part, key in step.transformers_
        if part != "drop"
    ]
    if any(positions.ndim != 2 for _, _, positions in taken):
        return None
    return [(name, part, positions[0]) for name, part, positions in taken]


def _of_columns(rows: Rows, columns: Any) -> Any:
    table = rows.table()
    return table.iloc[:, columns] if isinstance(table, pd.DataFrame) else table[:, columns]


def _take(rows: Rows, columns: Any, layout: Layout) -> Rows:
    if len(columns) == rows.values.shape[1] and (np.diff(columns, prepend=-1) == 1).all():
        return rows
    return rows.become(rows.values[:, columns], layout)


def _weighted(rows: Rows, weight: float | None) -> Rows:
    return rows if weight is None else rows.become(rows.values * weight, rows.layout)


class _Recursive:
    """A transformer that carries its past itself."""

    def __init__(self, stream: Any, layout: Layout) -> None:
        self._stream, self._layout = stream, layout

    @classmethod
    def start(cls, step: Any, history: Rows) -> tuple[_Recursive, Rows]:
        layout = Layout(step.transform(history.tail(1).table()), step)
        begun = cls(step.stream(), layout)
        return begun, begun.update(history)

    def update(self, rows: Rows) -> Rows:
        return rows.become(self._stream.update(rows.table()), self._layout)


class _Windowed:
    """A transformer of the last so many rows, or of all where it does not say how many."""

    def __init__(self, step: Any, history: Rows, layout: Layout) -> None:
        self._step, self._layout = step, layout
        self._reach: int | None = lookback(step)
        self._kept = history.tail(self._reach)
        self._shortcut = shortcut(step, history) if self._reach == 0 else None

    @classmethod
    def start(cls, step: Any, history: Rows, slow: list[str]) -> tuple[_Windowed, Rows]:
        output = step.transform(history.table())
        layout = Layout(output, step)
        begun, output = cls(step, history, layout), np.asarray(output)
        if begun._reach is None:
            slow.append(type(step).__name__)
        elif begun._shortcut is None:  # which is arithmetic of single rows
            check_reach(step, begun._reach, history, output, lambda rows: step.transform(rows.table()))
        return begun, history.become(output, layout)

    def update(self, rows: Rows) -> Rows:
        if self._shortcut is not None:
            return rows.become(self._shortcut(rows.values), self._layout)
        seen = self._kept.then(rows) if len(self._kept) else rows
        output = np.asarray(self._step.transform(seen.table()))[len(self._kept) :]
        self._kept = seen.tail(self._reach)
        return rows.become(output, self._layout)
