"""Targets of one or several horizons, and probabilities in one shape: (rows, horizons, classes).

scikit-learn has two shapes for one thing: `(n, K)` for one output, a list of H arrays `(n, K)`
for several. Inside the toolkit there is one, `(n, H, K)`; this module is the door between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import column_or_1d

from ensemble_kit.exceptions import EnsembleKitError

__all__ = [
    "LOG_FLOOR",
    "Targets",
    "check_classes",
    "check_row_weights",
    "one_horizon",
    "place_columns",
    "predict_log_proba",
    "stack_horizons",
    "unstack_horizons",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: The log-probability of the impossible: log(float32 eps), as a float32 softmax would give it.
LOG_FLOOR = float(np.log(np.finfo(np.float32).eps))


@dataclass(frozen=True)
class Targets:
    """Classes and horizons of a target, and the target as class numbers.

    Attributes
    ----------
    codes : ndarray of int64, shape (n, H)
        The class number of each row and horizon.
    classes : ndarray of shape (K,)
        The labels, sorted; all horizons share them.
    single : bool
        Whether the target came as `(n,)`, so that answers go out as `(n,)`, too.
    """

    codes: IntArray
    classes: NDArray[Any]
    single: bool

    @classmethod
    def encode(cls, y: Any, *, classes: NDArray[Any] | None = None) -> Targets:
        """Encode a target.

        Parameters
        ----------
        y : array-like of shape (n,) or (n, H)
            Class labels, one column a horizon, none missing.
        classes : ndarray of shape (K,), default=None
            Known labels, instead of those found in `y`.

        Returns
        -------
        Targets
            Codes, classes and shape.

        Raises
        ------
        EnsembleKitError
            If there is no row, or a label is missing or unknown.
        """
        if y is None:
            raise EnsembleKitError("This classifier requires y to be passed, but the target y is None.")
        values = y.to_numpy() if isinstance(y, pd.DataFrame | pd.Series) else np.asarray(y)
        single = values.ndim != 2 or (values.shape[1] == 1 and not isinstance(y, pd.DataFrame))
        if single:
            values = column_or_1d(values, warn=True).reshape(-1, 1)
        if not len(values):
            raise EnsembleKitError("`y` must have a row at least; got none. Widen the span that was read.")
        if np.asarray(pd.isna(values)).any():
            row = int(np.argmax(np.asarray(pd.isna(values)).any(axis=1)))
            raise EnsembleKitError(
                f"`y` must have no missing label (Input y contains NaN); row {row} has one. "
                "Drop the rows that are not known yet with `labels.align(X)`, and give interior rows "
                "that must not be learned `sample_weight` 0."
            )
        if values.dtype == object:
            # Frames of nullable integers and frames of strings come as objects.
            values = np.array(values.tolist())
        flat = values.ravel()
        if classes is None:
            with np.errstate(invalid="ignore"):  # scikit-learn casts before it says what is infinite
                check_classification_targets(values if not single else values[:, 0])
            classes, codes = np.unique(flat, return_inverse=True)
        else:
            codes = np.clip(np.searchsorted(classes, flat), 0, len(classes) - 1)
            unknown = sorted(set(flat[classes[codes] != flat].tolist()))
            if unknown:
                raise EnsembleKitError(
                    f"`y` must hold only the classes {classes.tolist()}; got {unknown} besides. "
                    "Fit on data that has every class, or drop these rows."
                )
        return cls(codes.reshape(values.shape).astype(np.int64), classes, bool(single))

    @property
    def n_horizons(self) -> int:
        """How many horizons."""
        return self.codes.shape[1]

    def decode(self, codes: IntArray) -> NDArray[Any]:
        """Return labels for class numbers.

        Parameters
        ----------
        codes : ndarray of int64, shape (n, H)
            Class numbers.

        Returns
        -------
        ndarray of shape (n,) or (n, H)
            Labels, in the shape the target came in.
        """
        labels: NDArray[Any] = self.classes[codes]
        return labels[:, 0] if self.single else labels


def check_classes(classes: Any) -> NDArray[Any]:
    """Return the labels of columns, in their order.

    Parameters
    ----------
    classes : sequence of K labels
        As a user gives them; objects become what they hold.

    Returns
    -------
    ndarray of shape (K,)
        The labels.

    Raises
    ------
    EnsembleKitError
        If they are no sequence, or one comes twice.
    """
    try:
        labels = np.array(np.asarray(classes).tolist())
    except ValueError:  # of several horizons, of several lengths
        labels = np.empty((0, 0))
    if labels.ndim != 1 or not len(labels):
        raise EnsembleKitError(
            f"`classes` must be a sequence of labels, one a column; got {classes!r}. "
            "Pass the fitted model's `classes_`, of several horizons one."
        )
    if twice := [label for label in dict.fromkeys(labels.tolist()) if labels.tolist().count(label) > 1]:
        raise EnsembleKitError(
            f"`classes` must name each class once; got {labels.tolist()}, with {twice} repeated. "
            "Pass the fitted model's `classes_`."
        )
    return labels


def one_horizon(values: NDArray[Any], horizon: int) -> NDArray[Any]:
    """Return what is of one horizon.

    Parameters
    ----------
    values : ndarray of shape (n,), (n, H) or (n, H, K)
        Labels, or probabilities; (n,) is the first horizon alone.
    horizon : int
        Which, from 0.

    Returns
    -------
    ndarray of shape (n,) or (n, K)
        Its values.

    Raises
    ------
    EnsembleKitError
        If there is no such horizon.
    """
    values = values[:, None] if values.ndim == 1 else values
    if horizon not in range(values.shape[1]):
        raise EnsembleKitError(f"`horizon` must be from 0 to {values.shape[1] - 1}; got {horizon!r}. Count from 0.")
    of_one: NDArray[Any] = values[:, horizon]
    return of_one


def stack_horizons(proba: Any, *, classes: NDArray[Any] | None = None) -> FloatArray:
    """Bring probabilities (or their logs) to shape (n, H, K).

    Parameters
    ----------
    proba : array-like (n, K), list of H array-likes (n, K), or ndarray (n, H, K)
        As scikit-learn's single-output and multi-output classifiers give them. A list is one of
        horizons where its elements are two-dimensional, and one of rows otherwise.
    classes : ndarray of shape (K,), default=None
        The labels of the columns, in the order wanted: frames are placed by the names of their
        columns. Columns that pandas has numbered from 0 have no names, and are in order.

    Returns
    -------
    ndarray of float64, shape (n, H, K)
        The same numbers.

    Raises
    ------
    EnsembleKitError
        If they are no numbers of such a shape, or a frame's columns are not the classes.
    """
    try:
        if isinstance(proba, list | tuple) and len(proba) and np.ndim(proba[0]) == 2:
            return np.stack([np.asarray(_by_label(p, classes), dtype=np.float64) for p in proba], axis=1)
        array = np.asarray(_by_label(proba, classes), dtype=np.float64)
    except EnsembleKitError:
        raise
    except (TypeError, ValueError) as error:
        raise EnsembleKitError(
            f"`proba` must be numbers, as many in each row and horizon; {error}. Pass what `predict_proba` returns."
        ) from error
    if array.ndim not in (2, 3):
        raise EnsembleKitError(
            f"`proba` must have shape (n, K) or (n, H, K), or be a list of H arrays (n, K); got {array.shape}. "
            "Pass what `predict_proba` returns."
        )
    return array[:, None, :] if array.ndim == 2 else array


def _by_label(proba: Any, classes: NDArray[Any] | None) -> Any:
    """Place a frame's columns in the order of the classes; what has no names is in order."""
    if classes is None or not isinstance(proba, pd.DataFrame):
        return proba
    columns = proba.columns
    if isinstance(columns, pd.RangeIndex) and columns.equals(pd.RangeIndex(len(columns))):
        return proba
    names = columns.astype(str).tolist() if classes.dtype.kind in "UT" else columns.tolist()
    if len(names) != len(classes) or set(names) != set(classes.tolist()):
        raise EnsembleKitError(
            f"`proba` must have a column for each of the classes {classes.tolist()}, and no other; got {names}. "
            "Name them as the model does, or pass `proba.to_numpy()` with its columns in that order."
        )
    return proba.iloc[:, [names.index(label) for label in classes.tolist()]]


def unstack_horizons(proba: FloatArray, single: bool) -> Any:
    """Bring probabilities of shape (n, H, K) to scikit-learn's shape.

    Parameters
    ----------
    proba : ndarray of shape (n, H, K)
        Probabilities or their logs.
    single : bool
        Whether there is one output.

    Returns
    -------
    ndarray (n, K) or list of H ndarrays (n, K)
        As `predict_proba` returns them.
    """
    return proba[:, 0, :] if single else [proba[:, h, :] for h in range(proba.shape[1])]


def place_columns(log_proba: FloatArray, have: NDArray[Any], want: NDArray[Any]) -> FloatArray:
    """Place log-probability columns by class; a class the model never saw gets the floor.

    Parameters
    ----------
    log_proba : ndarray of shape (n, K)
        Columns in the order of `have`.
    have, want : ndarray of labels
        The model's classes and those wanted (a superset).

    Returns
    -------
    ndarray of shape (n, len(want))
        Log-probabilities, no less than `LOG_FLOOR`.
    """
    placed = np.full((len(log_proba), len(want)), LOG_FLOOR)
    labels = have.astype(str) if want.dtype.kind in "UT" else have
    at = np.searchsorted(want, labels)
    if (at >= len(want)).any() or (want[np.minimum(at, len(want) - 1)] != labels).any():
        raise EnsembleKitError(
            f"`classes_` must be among {want.tolist()}; got {have.tolist()}. Fit the model on the same target."
        )
    placed[:, at] = np.maximum(log_proba, LOG_FLOOR)
    return placed


def predict_log_proba(estimator: Any, X: Any, targets_classes: NDArray[Any]) -> FloatArray:
    """Ask any fitted classifier for log-probabilities of shape (n, H, K), placed by class.

    Parameters
    ----------
    estimator : classifier
        With `predict_log_proba` or `predict_proba`; one output or several.
    X : array-like of shape (n, n_features)
        Rows to predict.
    targets_classes : ndarray of shape (K,)
        The classes wanted, sorted.

    Returns
    -------
    ndarray of float64, shape (n, H, K)
        Log-probabilities, floored at `LOG_FLOOR`.

    Raises
    ------
    EnsembleKitError
        If the estimator has no probabilities, gives NaN, or has classes that are not wanted.
    """
    # Foreign classifiers take the log of an exact 0; the floor mends it below.
    with np.errstate(divide="ignore"):
        if hasattr(estimator, "predict_log_proba"):
            answer = estimator.predict_log_proba(X)
        elif hasattr(estimator, "predict_proba"):
            proba = estimator.predict_proba(X)
            answer = [np.log(p) for p in proba] if isinstance(proba, list) else np.log(proba)
        else:
            raise EnsembleKitError(
                f"`estimator` must give probabilities; got {type(estimator).__name__}, which has no `predict_proba`. "
                "Wrap it in `sklearn.calibration.CalibratedClassifierCV`, or take another model."
            )
    outputs: Sequence[Any] = answer if isinstance(answer, list) else [answer]
    have = estimator.classes_ if isinstance(answer, list) else [estimator.classes_]
    said = np.stack(
        [
            place_columns(np.asarray(p, np.float64), np.asarray(c), targets_classes)
            for p, c in zip(outputs, have, strict=True)
        ],
        axis=1,
    )
    if np.isnan(said).any():
        raise EnsembleKitError(
            f"`estimator` must give every row a probability; {type(estimator).__name__} gave NaN, the first at row "
            f"{int(np.isnan(said).any(axis=(1, 2)).argmax())}. Impute or drop columns that it cannot take."
        )
    return said


def check_row_weights(sample_weight: Any, n: int) -> FloatArray:
    """Check row weights: one a row, none negative, not all 0.

    Parameters
    ----------
    sample_weight : array-like of shape (n,) or None
        None weighs every row 1. A row of weight 0 is history only.
    n : int
        How many rows.

    Returns
    -------
    ndarray of float64, shape (n,)
        The weights.

    Raises
    ------
    EnsembleKitError
        If they do not fit the rows, are negative, not finite, or all 0.
    """
    if sample_weight is None:
        return np.ones(n)
    if np.isscalar(sample_weight):
        sample_weight = np.full(n, sample_weight)
    weights = np.asarray(sample_weight, dtype=np.float64)
    if weights.shape != (n,):
        raise EnsembleKitError(
            f"`sample_weight` must have one weight a row, shape ({n},); got shape {weights.shape}. "
            "Align it with the rows of `X` (sample_weight.shape == (n_samples,))."
        )
    if not np.isfinite(weights).all() or (weights < 0).any():
        row = int(np.argmax(~np.isfinite(weights) | (weights < 0)))
        raise EnsembleKitError(
            f"`sample_weight` must be finite and at least 0; got {float(weights[row]):g} at row {row}. "
            "Use 0 for rows that are history only."
        )
    if not weights.any():
        raise EnsembleKitError(
            "`sample_weight` must be above zero somewhere; got zero on every row. Nothing can be learned."
        )
    return weights
