"""Fit and predict on chosen rows, so that windows see the real bars before and between them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import clone, is_classifier
from sklearn.dummy import DummyClassifier
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import has_fit_parameter

from ensemble_kit.bars import RowKeys
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.validation._answers import PROBABILITIES, ask
from ensemble_kit.validation.lookback import lookback, rows_with_history

__all__ = [
    "check_panel_index",
    "final_estimator",
    "fit_on_rows",
    "learns_classes",
    "predict_on_rows",
    "take_rows",
    "weight_parameters",
]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def fit_on_rows(
    estimator: Any,
    X: Any,
    y: Any,
    weights: FloatArray,
    rows: IntArray,
    keys: RowKeys,
    *,
    around: Callable[[Any], AbstractContextManager[Any]] = nullcontext,
) -> tuple[Any, dict[str, IntArray]]:
    """Fit a clone on some rows; for windows, other rows between and before them are history.

    Parameters
    ----------
    estimator : estimator or Pipeline
        What to clone and fit: a classifier, a regressor, or anything fitted on X and y.
    X : frame or array of n rows
        All rows.
    y : ndarray of shape (n,) or (n, H)
        Labels (or numbers) of all rows. Those of `rows` alone are used: history rows in between get the
        label of a learned row before them, since a step may learn from y but take no weights.
    weights : ndarray of shape (n,)
        0 for rows that are history only.
    rows : ndarray of int64
        Positions to learn from.
    keys : RowKeys
        Time and instrument of all rows.
    around : callable, default=nullcontext
        Called with the clone; what it returns is entered around its `fit`.

    Returns
    -------
    fitted : estimator
        The clone.
    usage : dict
        Positions by role: `fit`, and `stop` where the model stops early.

    Raises
    ------
    EnsembleKitError
        If no row has a weight, or if rows have weights that the model does not take.
    """
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]  # one horizon is one output, as scikit-learn has it
    model = clone(estimator)
    if isinstance(X, pd.DataFrame):
        # The model at the end of a pipeline reads the panel's index.
        _hand_frames_on(model)
    reach = lookback(model)
    learned = np.zeros(len(weights))
    learned[rows] = weights[rows]
    fit = np.flatnonzero(learned > 0)
    if len(fit) == 0:
        raise EnsembleKitError(
            "`sample_weight` must be above 0 on some training rows of every fold; one fold has none. "
            "Give more rows, or larger folds."
        )
    if learns_classes(model) and _is_constant(y[fit]) and not _is_constant(y[weights > 0]):
        warnings.warn(
            f"Training rows before {keys.axis()[fit.max()]} have the class {y[fit[0]]} only: they teach nothing, and "
            "a constant stands in for the model. Give more bars, or fewer folds.",
            UserWarning,
            stacklevel=2,
        )
        return DummyClassifier(strategy="prior").fit(take_rows(X, fit), y[fit]), {"fit": fit}
    span = fit if reach == 0 else rows_with_history(keys, fit, reach)
    given = learned[span]
    parameters = weight_parameters(model, given) if (given != 1).any() else {}
    if not parameters and (given != 1).any():
        raise EnsembleKitError(
            f"`estimator` must take `sample_weight` where rows have weights; {final_estimator(model)!r} does not. "
            "Take a model that does, or leave weights out."
        )
    before = np.maximum(np.searchsorted(fit, span, side="right") - 1, 0)
    with around(model):
        model.fit(take_rows(X, span), y[fit[before]], **parameters)
    usage = getattr(final_estimator(model), "row_usage_", None)
    if not isinstance(usage, dict):
        usage = {"fit": np.flatnonzero(given > 0)}
    return model, {role: span[positions] for role, positions in usage.items() if len(positions)}


def _hand_frames_on(model: Any) -> None:
    if hasattr(model, "set_output"):
        model.set_output(transform="pandas")
    if isinstance(model, Pipeline):
        # scikit-learn leaves out a step that only predicts, as a pipeline within one may be.
        _hand_frames_on(model.steps[-1][1])


def _is_constant(y: NDArray[Any]) -> bool:
    return bool((y == y.flat[0]).all())


def learns_classes(estimator: Any) -> bool:
    """Return whether an estimator's targets are classes, which folds may lack, and not numbers.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Any. A classifier says so by scikit-learn's tag, or by having probabilities.

    Returns
    -------
    bool
        Whether they are.
    """
    return bool(is_classifier(estimator)) or any(hasattr(estimator, method) for method in PROBABILITIES)


def predict_on_rows(
    fitted: Any,
    X: Any,
    rows: IntArray,
    keys: RowKeys,
    classes: NDArray[Any] | None = None,
    *,
    method: str = "predict_log_proba",
) -> NDArray[Any]:
    """Predict some rows, with the model's history in front of them.

    Parameters
    ----------
    fitted : estimator or Pipeline
        A fitted model.
    X : frame or array of n rows
        All rows.
    rows : ndarray of int64
        Positions to predict.
    keys : RowKeys
        Time and instrument of all rows.
    classes : ndarray of shape (K,), default=None
        Labels of the columns wanted; None for a model without classes.
    method : str, default="predict_log_proba"
        What to ask the model.

    Returns
    -------
    ndarray of shape (len(rows), ...)
        Probabilities or their logs in the shape (len(rows), H, K), placed by class: one
        that the model never saw has probability 0, or the log floor. The answer of any
        other method is as the model gives it.

    Raises
    ------
    EnsembleKitError
        If the model has no such method, answers other rows than those it was given, or
        scores other classes by `decision_function` than those wanted.
    """
    span = rows_with_history(keys, rows, lookback(fitted))
    return ask(fitted, take_rows(X, span), method, classes)[np.searchsorted(span, rows)]


def weight_parameters(estimator: Any, weights: FloatArray) -> dict[str, Any]:
    """Return the fit parameters that carry row weights to every step that takes them.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Nested pipelines are walked through.
    weights : ndarray of shape (n,)
        One weight a row.

    Returns
    -------
    dict
        Empty where the model takes no weights.
    """
    if not has_fit_parameter(final_estimator(estimator), "sample_weight"):
        return {}
    return {f"{path}sample_weight": weights for path in _steps_with_weights(estimator)}


def _steps_with_weights(estimator: Any) -> list[str]:
    """Prefixes (`step__`, `step__inner__`) of all steps whose fit takes weights."""
    if isinstance(estimator, Pipeline):
        return [f"{name}__{path}" for name, step in estimator.steps for path in _steps_with_weights(step)]
    takes = hasattr(estimator, "fit") and has_fit_parameter(estimator, "sample_weight")
    return [""] if takes else []


def final_estimator(estimator: Any) -> Any:
    """Return the model at the end of a (nested) Pipeline.

    Parameters
    ----------
    estimator : estimator or Pipeline
        Any estimator.

    Returns
    -------
    estimator
        The last step that is no Pipeline.
    """
    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[-1][1]
    return estimator


def take_rows(data: Any, rows: IntArray) -> Any:
    """Take rows of a frame or an array; a run without gaps is a view.

    Parameters
    ----------
    data : DataFrame, Series or ndarray
        n rows.
    rows : ndarray of int64
        Sorted positions.

    Returns
    -------
    as given
        The rows.
    """
    run: Any = rows
    if len(rows) and rows[-1] - rows[0] == len(rows) - 1:
        run = slice(int(rows[0]), int(rows[-1]) + 1)
    return data.iloc[run] if isinstance(data, pd.DataFrame | pd.Series) else data[run]


def check_panel_index(X: Any, y: Any = None, *, sample_weight: Any = None, fitted_on_panel: bool = False) -> None:
    """Refuse a panel that lost its (datetime, instrument) index on the way.

    Parameters
    ----------
    X : DataFrame or array
        Columns.
    y : DataFrame, Series or array, default=None
        Targets; their index betrays a panel, or other rows than those of `X`.
    sample_weight : Series or array, default=None
        Weights, whose index must be that of `X`, too.
    fitted_on_panel : bool, default=False
        Whether the model was fitted on a panel.

    Raises
    ------
    BarsError
        If `X` has no such index and should, or if `y` or weights have other times than `X`.
    """
    columns_index = X.index if isinstance(X, pd.DataFrame | pd.Series) else None
    target_index = y.index if isinstance(y, pd.DataFrame | pd.Series) else None
    is_panel, from_panel = isinstance(columns_index, pd.MultiIndex), isinstance(target_index, pd.MultiIndex)
    if (fitted_on_panel or from_panel) and not is_panel:
        raise BarsError(
            "`X` must keep the panel's (datetime, instrument) index, or windows would mix instruments; got "
            f"{type(X).__name__} without it. Call `set_output(transform='pandas')` on the steps before the model."
        )
    timed = pd.DatetimeIndex | pd.MultiIndex  # an index of numbers may have been reset: it says nothing
    for name, given in (("y", y), ("sample_weight", sample_weight)):
        index = given.index if isinstance(given, pd.DataFrame | pd.Series) else None
        if isinstance(columns_index, timed) and isinstance(index, timed) and not columns_index.equals(index):
            raise BarsError(f"`{name}` must have the index of `X`; got another one. Use `X, y = labels.align(X)`.")
