"""Scores of class probabilities that know horizons, row weights and absent classes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics._precision import average_precision
from ensemble_kit.targets import Targets, check_classes, check_row_weights, stack_horizons

__all__ = [
    "auc_pr",
    "auc_pr_by_class",
    "brier_score",
    "brier_skill",
]

FloatArray = NDArray[np.float64]

#: How far from [0, 1], and their sum from 1, probabilities may be, as those of float32 are.
_ROUNDING, _SUM_TOLERANCE = 1e-6, 1e-3


def auc_pr_by_class(
    y: Any,
    proba: Any,
    *,
    classes: Sequence[Any] | NDArray[Any],
    events: Sequence[Any] | None = None,
    sample_weight: Any = None,
) -> pd.DataFrame:
    """Area under the precision-recall curve (average precision) of each class and horizon.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, H)
        Labels that came true.
    proba : array-like (n, K), list of H array-likes (n, K), or ndarray (n, H, K)
        Probabilities or any scores of the classes. The columns of a DataFrame are placed by
        their names, whatever their order.
    classes : sequence of K labels
        The labels of the columns, in the order of those that have no names.
    events : sequence of labels, default=None
        The classes to score; None for all.
    sample_weight : array-like of shape (n,), default=None
        Rows of weight 0 do not count.

    Returns
    -------
    DataFrame of shape (H, n_events)
        NaN, and a warning, where a class does not occur: there is nothing to find.

    Raises
    ------
    EnsembleKitError
        If rows, columns and classes do not fit each other.

    Notes
    -----
    A score proves nothing beside its prevalence: compare with `turn_rule` and with
    `surrogate_bars`, which know what a hindsight label gives away at its bar.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.metrics import auc_pr_by_class
    >>> proba = np.array([[0.8, 0.2], [0.1, 0.9], [0.7, 0.3], [0.6, 0.4]])
    >>> auc_pr_by_class([0, 1, 1, 0], proba, classes=[0, 1])
               0         1
    H0  0.833333  0.833333
    """
    labels, codes, scores, weights = _aligned(y, proba, classes, sample_weight)
    chosen = _chosen(labels, events)
    table = np.full((codes.shape[1], len(chosen)), np.nan)
    for j, k in enumerate(chosen.values()):
        for h in range(codes.shape[1]):
            hit = codes[:, h] == k
            if hit.any():
                table[h, j] = average_precision(hit, scores[:, h, k], weights)
    absent = np.isnan(table)
    if absent.any():
        missing = [str(label) for label, gone in zip(chosen, absent.any(axis=0), strict=True) if gone]
        warnings.warn(
            f"no row of class {', '.join(missing)} at some horizon: left out of the average of AUC-PR.",
            UserWarning,
            stacklevel=2,
        )
    return pd.DataFrame(table, index=_horizon_names(codes.shape[1]), columns=list(chosen))


def auc_pr(
    y: Any,
    proba: Any,
    *,
    classes: Sequence[Any] | NDArray[Any],
    events: Sequence[Any] | None = None,
    sample_weight: Any = None,
) -> FloatArray:
    """Mean AUC-PR over the classes that occur, one number a horizon.

    Parameters
    ----------
    y, proba, classes, events, sample_weight : see `auc_pr_by_class`
        The same.

    Returns
    -------
    ndarray of shape (H,)
        0 at a horizon where none of the classes occurs.
    """
    table = auc_pr_by_class(y, proba, classes=classes, events=events, sample_weight=sample_weight)
    return table.mean(axis=1).fillna(0.0).to_numpy(np.float64)


def brier_score(y: Any, proba: Any, *, classes: Sequence[Any] | NDArray[Any], sample_weight: Any = None) -> FloatArray:
    """Mean squared distance of the probabilities from what came true, summed over classes.

    Parameters
    ----------
    y, proba, classes, sample_weight : see `auc_pr_by_class`
        The same; probabilities that sum to 1.

    Returns
    -------
    ndarray of shape (H,)
        In [0, 2]; 0 is perfect.

    Raises
    ------
    EnsembleKitError
        If a row that counts holds no probabilities: values outside [0, 1], or of another sum
        than 1 (by more than 0.001).

    References
    ----------
    G. W. Brier, Verification of Forecasts Expressed in Terms of Probability, 1950.
    """
    return _brier(y, proba, classes, sample_weight, "proba")


def _brier(y: Any, proba: Any, classes: Any, sample_weight: Any, name: str) -> FloatArray:
    labels, codes, p, weights = _aligned(y, proba, classes, sample_weight, loss_of=name)
    truth = codes[:, :, None] == np.arange(len(labels))
    return np.average(((p - truth) ** 2).sum(axis=2), axis=0, weights=weights)


def brier_skill(
    y: Any, proba: Any, prior: Any, *, classes: Sequence[Any] | NDArray[Any], sample_weight: Any = None
) -> FloatArray:
    """Share of the prior's Brier score that the probabilities save.

    Parameters
    ----------
    y, proba : see `auc_pr_by_class`
        The same; probabilities that sum to 1.
    prior : array-like of shape (K,) or (H, K)
        Class shares of the training rows, placed by the names of a Series or of a frame's columns.
    classes, sample_weight : see `auc_pr_by_class`
        The same.

    Returns
    -------
    ndarray of shape (H,)
        1 is perfect, 0 is the prior, below 0 is worse than knowing nothing. NaN where the
        prior is perfect: there is nothing to save.

    Raises
    ------
    EnsembleKitError
        If `proba` or `prior` holds no probabilities, as `brier_score` does.
    """
    labels = check_classes(classes)
    p = stack_horizons(proba, classes=labels)
    shares = prior.to_frame().T if isinstance(prior, pd.Series) else prior
    if not isinstance(shares, pd.DataFrame):
        shares = np.atleast_2d(shares)
    constant = np.broadcast_to(stack_horizons(shares, classes=labels)[:, 0], p.shape)
    score = _brier(y, p, classes, sample_weight, "proba")
    least = _brier(y, constant, classes, sample_weight, "prior")
    return 1.0 - score / np.where(least > 0, least, np.nan)


def _horizon_names(n_horizons: int) -> list[str]:
    return [f"H{h}" for h in range(n_horizons)]


def _chosen(labels: NDArray[Any], events: Sequence[Any] | None) -> dict[Any, int]:
    """Return the class number of each event, all classes for None."""
    number = {label: k for k, label in enumerate(labels.tolist())}
    if events is None:
        return number
    wanted = [events] if isinstance(events, str) else list(events)
    if not wanted:
        raise EnsembleKitError(f"`events` must name at least one of the classes {list(number)}; got none.")
    names = [str(event) if labels.dtype.kind in "UT" else event for event in wanted]
    if unknown := [name for name in names if name not in number]:
        raise EnsembleKitError(
            f"`events` must be among the classes {list(number)}; got {unknown}. Write them as the target does."
        )
    return {name: number[name] for name in names}


def _aligned(
    y: Any, proba: Any, classes: Any, sample_weight: Any, *, loss_of: str | None = None
) -> tuple[NDArray[Any], NDArray[np.int64], FloatArray, FloatArray]:
    """Return labels, class numbers, probabilities and weights of the rows that count.

    `loss_of` is what messages call them where they must be probabilities; None for any scores.
    """
    labels = check_classes(classes)
    # Columns may come in any order of classes; class numbers need the sorted one.
    order = np.argsort(labels)
    targets = Targets.encode(y, classes=labels[order])
    p = stack_horizons(proba, classes=labels)
    if p.shape != (*targets.codes.shape, len(labels)):
        raise EnsembleKitError(
            f"`proba` must have shape {(*targets.codes.shape, len(labels))} to fit `y` and `classes`; got {p.shape}."
        )
    weights = check_row_weights(sample_weight, len(p))
    rows = weights > 0
    if loss_of is not None:
        _check_probabilities(p, rows, loss_of)
    if not np.isfinite(p[rows]).all():
        row = int(np.argmax(rows & ~np.isfinite(p).all(axis=(1, 2))))
        raise EnsembleKitError(
            f"`proba` must be finite where rows count; row {row} has {p[row].tolist()}. "
            "Give rows that cannot be predicted `sample_weight` 0."
        )
    return labels[order], targets.codes[rows], p[rows][:, :, order], weights[rows]


def _check_probabilities(p: FloatArray, rows: NDArray[np.bool_], name: str) -> None:
    """Refuse what is no probability, of the rows that count; NaN and infinity are another matter."""
    with np.errstate(invalid="ignore"):  # a sum of both infinities
        total = p.sum(axis=2)
    known = np.isfinite(total)
    high = (p > 1 + _ROUNDING).any(axis=2) | (np.abs(total - 1) > _SUM_TOLERANCE)
    wrong = rows & ((p < -_ROUNDING).any(axis=2) | (known & high)).any(axis=1)
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EnsembleKitError(
            f"`{name}` must hold probabilities, in [0, 1] and of sum 1 over the classes; row {row} has "
            f"{p[row].tolist()} ({int(wrong.sum())} such row(s)). "
            'Predict with `method="predict_proba"`, or take `np.exp` of log-probabilities.'
        )
