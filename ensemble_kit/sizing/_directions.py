"""What every sizer asks of its classes and probabilities: which are up and down, and are they probabilities."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import stack_horizons

__all__ = ["check_probabilities", "find_directions"]

FloatArray = NDArray[np.float64]

#: Class names whose direction nobody doubts, in any case: (long, short).
_KNOWN_DIRECTIONS = (("bottom", "peak"), ("buy", "sell"), ("up", "down"))


def find_directions(classes: Any, long: Any, short: Any) -> tuple[int, int]:
    """Return the columns of the classes to be long and short on; None and None for those the names tell."""
    labels = np.asarray(classes).tolist()
    if long is None and short is None:
        # Two that differ in case alone tell nothing.
        lower = [str(label).casefold() for label in labels]
        known = [pair for pair in _KNOWN_DIRECTIONS if all(lower.count(name) == 1 for name in pair)]
        if known:
            long, short = (labels[lower.index(name)] for name in known[0])
        elif np.asarray(labels).dtype.kind in "biuf" and len(labels) > 1:
            long, short = max(labels), min(labels)
    if long not in labels or short not in labels or long == short:
        raise EnsembleKitError(
            f"`long` and `short` must be two of the {len(labels)} class(es) {labels}; got {long!r} and {short!r}. "
            "Say which class means a rise and which a fall: long=..., short=...."
        )
    return labels.index(long), labels.index(short)


def check_probabilities(
    proba: Any, horizon: int, n_classes: int, *, rows_and_horizons: tuple[int, ...] | None = None
) -> FloatArray:
    """Return the probabilities (n, K) of one horizon; rows with NaN are let pass.

    `rows_and_horizons` is the shape of the target, where there is one they must fit.
    """
    if not isinstance(horizon, Integral) or isinstance(horizon, bool | np.bool_) or horizon < 0:
        raise EnsembleKitError(
            f"`horizon` must be an integer of at least 0; got {horizon!r}. The first of the target's columns is 0."
        )
    p = stack_horizons(proba)
    if rows_and_horizons is not None and p.shape[:2] != rows_and_horizons:
        raise EnsembleKitError(
            f"`proba` must have the rows and horizons of `y`, {rows_and_horizons}; got {p.shape[:2]}. "
            "Pass both for the same rows."
        )
    if horizon >= p.shape[1] or p.shape[2] != n_classes:
        raise EnsembleKitError(
            f"`proba` must have horizon {horizon!r} and {n_classes} classes; got {p.shape[1]} "
            f"horizon(s) and {p.shape[2]} classes. Pass what the fitted model's `predict_proba` returns."
        )
    p = p[:, int(horizon)]
    with np.errstate(invalid="ignore"):  # a sum of both infinities
        total = p.sum(axis=1)
    wrong = ~np.isnan(p).any(axis=1) & ((np.abs(total - 1.0) > 1e-3) | (p < -1e-9).any(axis=1))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EnsembleKitError(
            f"`proba` must hold probabilities that sum to 1; row {row} has {p[row].round(4).tolist()}. "
            "Pass `predict_proba`, not logits or log-probabilities."
        )
    return p
