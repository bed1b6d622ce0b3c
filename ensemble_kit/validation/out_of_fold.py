"""Predictions on time-ordered folds, each by a model fitted on the rows before it."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import LOG_FLOOR
from ensemble_kit.validation._answers import PROBABILITIES
from ensemble_kit.validation.fold import predict_on_rows
from ensemble_kit.validation.fold_data import FoldData, checked_folds
from ensemble_kit.validation.usage import RowUsage

__all__ = ["OutOfFold", "walk_forward_predict"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class OutOfFold:
    """Out-of-fold predictions, the rows they cover, and who saw what.

    Attributes
    ----------
    predictions : ndarray of shape (n_covered, ...)
        Of the covered rows, in their order: (n_covered, H, K) for probabilities and their
        logs, otherwise as the model gives them.
    fold : ndarray of int64, shape (n,)
        The fold that predicted each row of X, -1 for none.
    method : str
        What the models were asked.
    classes : ndarray of shape (K,) or None
        All class labels of the target, sorted: those of the columns of probabilities. None
        for a target of numbers.
    horizons : list of str
        Names of the target's columns, `H0`, `H1`, ... where they have none.
    index : Index
        X's, positions for an array.
    usage : RowUsage
        Rows fitted on, stopped on and scored, by fold.
    """

    predictions: NDArray[Any]
    fold: IntArray
    method: str
    classes: NDArray[Any] | None
    horizons: list[str]
    index: pd.Index[Any]
    usage: RowUsage

    @property
    def covered(self) -> NDArray[np.bool_]:
        """Which rows of X a test block covered, shape (n,)."""
        return self.fold >= 0

    @property
    def values(self) -> NDArray[Any]:
        """Predictions of all rows of X, shape (n, ...); numbers as floats, NaN (None for labels) where not covered."""
        kind = self.predictions.dtype.kind
        numbers = kind in "fiub"
        dtype = self.predictions.dtype if kind == "f" else np.float64 if numbers else object
        values = np.full((len(self.fold), *self.predictions.shape[1:]), np.nan if numbers else None, dtype)
        values[self.covered] = self.predictions
        return values

    @property
    def log_proba(self) -> FloatArray:
        """Log-probabilities, shape (n, H, K), no less than `LOG_FLOOR`; NaN where not covered."""
        if self._of_probabilities() == "predict_log_proba":
            return self.values
        with np.errstate(divide="ignore"):
            return np.maximum(np.log(self.values), LOG_FLOOR)

    @property
    def proba(self) -> FloatArray:
        """Probabilities, shape (n, H, K); NaN where not covered."""
        return np.exp(self.values) if self._of_probabilities() == "predict_log_proba" else self.values

    def _of_probabilities(self) -> str:
        if self.method not in PROBABILITIES:
            raise EnsembleKitError(
                f"`method` must be one of {', '.join(PROBABILITIES)} for probabilities; got {self.method!r}. "
                "Predict again with it."
            )
        return self.method

    def to_frame(self) -> pd.DataFrame:
        """Return the covered rows on X's index.

        Returns
        -------
        DataFrame of shape (n_covered, n_columns)
            Columns are classes, (horizon, class) for several horizons, horizons where each has
            one prediction, the method's name for one prediction in all, or numbers.
        """
        rows = len(self.predictions)
        columns = self._columns()
        return pd.DataFrame(self.predictions.reshape(rows, len(columns)), self.index[self.covered], columns)

    def _columns(self) -> pd.Index[Any]:
        shape = self.predictions.shape[1:]
        if self.method in PROBABILITIES and self.classes is not None:
            if len(self.horizons) > 1:
                return pd.MultiIndex.from_product([self.horizons, self.classes], names=["horizon", "class"])
            return pd.Index(self.classes, name="class")
        if shape == ():
            return pd.Index([self.method])
        if self.method == "decision_function" and self.classes is not None and shape == (len(self.classes),):
            return pd.Index(self.classes, name="class")
        if self.method.startswith("predict") and shape == (len(self.horizons),):
            return pd.Index(self.horizons, name="horizon")
        return pd.RangeIndex(int(np.prod(shape)))

    def _headline(self) -> str:
        shown = "" if self.classes is None else f"; classes {', '.join(map(str, self.classes))}"
        return (
            f"OutOfFold {self.method}: {len(self.predictions)} of {len(self.fold)} rows covered by "
            f"{self.fold.max() + 1} fold(s){shown}"
        )

    def __repr__(self) -> str:
        return f"<{self._headline()}>"

    def _repr_html_(self) -> str:
        return f"<p>{html.escape(self._headline())}</p>{self.to_frame()._repr_html_()}"  # type: ignore[operator]


def walk_forward_predict(
    estimator: Any, X: Any, y: Any, *, cv: Any, method: str = "predict_log_proba", sample_weight: Any = None
) -> OutOfFold:
    """Predict each test block of a walk-forward with a model fitted on the rows before it.

    What `sklearn.model_selection.cross_val_predict` does for folds that cover every row and
    rows that stand alone: here the oldest rows have no prediction, and windows hold the
    real bars in front of each test block.

    Parameters
    ----------
    estimator : classifier, regressor or Pipeline
        Cloned for each fold.
    X : DataFrame or array of shape (n, n_features)
        Columns (or bars, for a Pipeline that begins with features), in time order.
    y : array-like of shape (n,) or (n, H)
        Targets, one column a horizon, none missing: labels for a classifier, otherwise
        numbers.
    cv : splitter or iterable of (train, test)
        Usually `WalkForwardSplit`; each fold must train on the past of its test rows, and no
        row be tested twice. Of a splitter without a purge (`TimeSeriesSplit`, say) only that
        order is checked: labels that look ahead leak across its borders. Use
        ``WalkForwardSplit(t1=labels.t1)`` for them.
    method : str, default="predict_log_proba"
        What to ask each model: ``"predict_proba"``, ``"predict"``, ``"decision_function"``,
        ``"predict_position"``, or any other method that answers a row for a row.
    sample_weight : array-like of shape (n,), default=None
        0 for rows that are history only. Of a Pipeline, every step that takes weights gets
        them, not the last one alone.

    Returns
    -------
    OutOfFold
        Predictions with a mask of covered rows.

    Raises
    ------
    LeakageError
        If a fold's training rows do not all precede its test rows.
    EnsembleKitError
        If rows have weights that the estimator does not take, if test blocks overlap, or if
        the models cannot be asked by `method`.

    See Also
    --------
    ensemble_kit.metrics.permutation_importance : What each column adds to the score of these folds.

    Notes
    -----
    `validation.lookback` rows stand in front of every fold, and rows that a purge left out
    between training rows stay there as history of weight 0: windows hold the real bars. A
    fold whose training rows have one class only predicts it, and warns.

    Columns of probabilities are placed by class: one that a fold's training lacked has
    probability 0, and the log floor. Scores of `decision_function` have no such value, and
    such a fold is refused.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from ensemble_kit.validation import WalkForwardSplit, walk_forward_predict
    >>> X = np.random.default_rng(0).normal(size=(80, 2))
    >>> y, cv = X[:, 0] > 0, WalkForwardSplit(3, purge=0)
    >>> out = walk_forward_predict(LogisticRegression(), X, y, cv=cv, method="predict_proba")
    >>> out
    <OutOfFold predict_proba: 60 of 80 rows covered by 3 fold(s); classes False, True>
    >>> out.to_frame().round(2).head(2)
    class  False  True
    20      0.92   0.08
    21      0.08   0.92
    """
    data = FoldData.of(estimator, X, y, sample_weight)
    if data.targets is None and method in PROBABILITIES:
        raise EnsembleKitError(
            f"`method` must be one that {type(estimator).__name__} has; got {method!r}, which needs classes. "
            "Pass method='predict'."
        )
    folds = checked_folds(cv, data.X, y, data.keys)
    classes = None if data.targets is None else data.targets.classes
    which = np.full(len(data.weights), -1, dtype=np.int64)
    usage = RowUsage(len(which))
    answers = []
    for fold, (fitted, used) in enumerate(data.fits(estimator, folds)):
        test = folds[fold][1]
        answers.append(predict_on_rows(fitted, data.X, test, data.keys, classes, method=method))
        if answers[fold].shape[1:] != answers[0].shape[1:]:
            raise EnsembleKitError(
                f"`method` must answer alike in every fold; {method!r} gave {answers[0].shape[1:]} a row in fold 0 and "
                f"{answers[fold].shape[1:]} in fold {fold}. Predict 'predict_log_proba', or give more bars."
            )
        which[test] = fold
        for role, rows in used.items():
            usage.add(fold, "model", role, rows)
        usage.add(fold, "model", "score", test[data.weights[test] > 0])
    order = np.argsort(np.concatenate([test for _, test in folds]))
    predictions = np.concatenate(answers)[order]
    return OutOfFold(predictions, which, method, classes, data.horizons, data.index, usage.check())
