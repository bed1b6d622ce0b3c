"""What models of folds are fitted on: columns, targets, weights and folds, checked before any work."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import check_cv
from sklearn.utils.validation import check_consistent_length

from ensemble_kit.bars import RowKeys, row_keys
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import Targets, check_row_weights
from ensemble_kit.validation.fold import check_panel_index, fit_on_rows, learns_classes
from ensemble_kit.validation.split import check_fold
from ensemble_kit.validation.usage import check_positions

__all__ = ["FoldData", "checked_folds"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class FoldData:
    """Columns, targets and weights that belong together: what models of folds are fitted on.

    Attributes
    ----------
    X : DataFrame or ndarray of n rows
        Columns.
    y : ndarray of shape (n,) or (n, H)
        Labels, or numbers.
    weights : ndarray of float64, shape (n,)
        0 for rows that are history only.
    keys : RowKeys
        Time and instrument of each row.
    targets : Targets or None
        The labels' classes; None for numbers.
    horizons : list of str
        Names of the target's columns.
    """

    X: Any
    y: NDArray[Any]
    weights: FloatArray
    keys: RowKeys
    targets: Targets | None
    horizons: list[str]

    @classmethod
    def of(cls, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Check what a walk-forward is given.

        Parameters
        ----------
        estimator : estimator
            Says whether targets are classes.
        X, y, sample_weight : see `walk_forward_predict`
            The same.

        Returns
        -------
        FoldData
            The same, checked.
        """
        check_panel_index(X, y, sample_weight=sample_weight)
        X = X if isinstance(X, pd.DataFrame) else np.asarray(X)
        keys = row_keys(X)
        targets = Targets.encode(y) if learns_classes(estimator) else None
        values = _numbers(y) if targets is None else targets.decode(targets.codes)
        check_consistent_length(X, values)
        names = list(y.columns) if isinstance(y, pd.DataFrame) else [f"H{h}" for h in range(values[:1].size)]
        return cls(X, values, check_row_weights(sample_weight, len(X)), keys, targets, [str(name) for name in names])

    @property
    def index(self) -> pd.Index[Any]:
        """X's index, positions for an array."""
        return self.X.index if isinstance(self.X, pd.DataFrame) else pd.RangeIndex(len(self.X))

    def fits(self, estimator: Any, folds: list[tuple[IntArray, IntArray]]) -> Iterator[tuple[Any, dict[str, IntArray]]]:
        """Yield a clone fitted on each fold's training rows, and the rows it used by role.

        Parameters
        ----------
        estimator : estimator
            Cloned for each fold.
        folds : list of (train, test)
            As `checked_folds` gives them.

        Yields
        ------
        fitted : estimator
            The clone.
        usage : dict
            Positions by role.
        """
        for train, _ in folds:
            yield fit_on_rows(estimator, self.X, self.y, self.weights, train, self.keys)


def _numbers(y: Any) -> FloatArray:
    try:
        values: FloatArray = np.asarray(y, dtype=np.float64)
    except (TypeError, ValueError):
        raise EnsembleKitError(
            "`y` must hold numbers for an estimator that is no classifier; got something else. Take a classifier "
            "(its class derives from `ClassifierMixin` first, `BaseEstimator` second)."
        ) from None
    finite = np.isfinite(values).reshape(len(values), -1).all(axis=1)
    if not finite.all():
        raise EnsembleKitError(
            f"`y` must be finite; got {values[np.argmin(finite)]} at row {int(np.argmin(finite))}. Drop the rows that "
            "are not known yet with `labels.align(X)`, and give interior rows that must not be learned "
            "`sample_weight` 0."
        )
    return values


def checked_folds(cv: Any, X: Any, y: Any, keys: RowKeys) -> list[tuple[IntArray, IntArray]]:
    """Return all folds of a splitter, each training on the past of rows that no other fold tests.

    Parameters
    ----------
    cv : splitter or iterable of (train, test)
        Usually `WalkForwardSplit`.
    X, y : see `walk_forward_predict`
        The same.
    keys : RowKeys
        Time and instrument of X's rows.

    Returns
    -------
    list of (train, test)
        Sorted positions.

    Raises
    ------
    LeakageError
        If a fold's training rows do not all precede its test rows.
    EnsembleKitError
        If a fold is empty, names rows that are not there, or tests rows that another one
        tests, too.
    """
    n = len(keys.time)
    tested = np.full(n, -1)
    folds = []
    for fold, (train, test) in enumerate(check_cv(cv).split(X, y)):
        train, test = (check_positions(rows, n, name="cv") for rows in (train, test))
        check_fold(keys, train, test, fold)
        again = test[tested[test] >= 0]
        if len(again):
            raise EnsembleKitError(
                f"`cv` must test each row once; fold {fold} tests {len(again)} row(s) again, the first is row "
                f"{again[0]}, tested by fold {tested[again[0]]}. Use `WalkForwardSplit`, or test blocks apart."
            )
        tested[test] = fold
        folds.append((train, test))
    if not folds:
        raise EnsembleKitError("`cv` must give at least one fold; got none. Use `WalkForwardSplit`.")
    return folds
