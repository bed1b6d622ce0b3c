"""Ask a fitted model by any method, and put what belongs to classes into the columns of all classes."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import predict_log_proba

__all__ = ["PROBABILITIES", "ask"]

FloatArray = NDArray[np.float64]

#: Methods answered as (n, H, K), one column a class.
PROBABILITIES = ("predict_log_proba", "predict_proba")


def ask(fitted: Any, X: Any, method: str, classes: NDArray[Any] | None) -> NDArray[Any]:
    """Return a model's answer on all rows of X, probabilities in shape (n, H, K)."""
    if method == "predict_log_proba" and classes is not None:
        return predict_log_proba(fitted, X, classes)
    if not hasattr(fitted, method):
        raise EnsembleKitError(
            f"`method` must be a method of the fitted model; got {method!r}, and {type(fitted).__name__} has none. "
            "Name another one, or take another model (a fold whose rows have one class only gets a constant instead)."
        )
    if method == "predict_proba" and classes is not None:
        return _placed(fitted.predict_proba(X), fitted.classes_, classes)
    if method == "decision_function" and classes is not None:
        _check_same_classes(fitted, classes)
    answer = np.asarray(getattr(fitted, method)(X))
    if answer.ndim == 0 or len(answer) != len(X):
        raise EnsembleKitError(
            f"`method` must answer a row for a row; {method!r} gave shape {answer.shape} for {len(X)} rows. "
            "Name one that does, like 'predict'."
        )
    return answer


def _placed(answer: Any, have: Any, want: NDArray[Any]) -> FloatArray:
    """Bring probabilities to shape (n, H, K); a class that the model never saw has none."""
    outputs, labels = (answer, have) if isinstance(answer, list) else ([answer], [have])
    placed = np.zeros((len(outputs[0]), len(outputs), len(want)))
    for h, (proba, known) in enumerate(zip(outputs, labels, strict=True)):
        at = {label: k for k, label in enumerate(want.tolist())}
        names = [str(label) if want.dtype.kind in "UT" else label for label in np.asarray(known).tolist()]
        if unknown := [label for label in names if label not in at]:
            raise EnsembleKitError(
                f"`classes_` must be among {want.tolist()}; got {unknown} besides. Fit the model on the same target."
            )
        placed[:, h, [at[label] for label in names]] = proba
    return placed


def _check_same_classes(fitted: Any, classes: NDArray[Any]) -> None:
    """Refuse scores of a model that lacks a class: they have no scale on which to place it."""
    have = getattr(fitted, "classes_", None)
    for known in have if isinstance(have, list) else [] if have is None else [have]:
        if not np.array_equal(np.asarray(known), classes):
            raise EnsembleKitError(
                f"`method` 'decision_function' must find all classes {classes.tolist()} in the training rows of every "
                f"fold; one has {np.asarray(known).tolist()} only, and a score has no value for a class never seen. "
                "Predict 'predict_log_proba', or give more bars or fewer folds."
            )
