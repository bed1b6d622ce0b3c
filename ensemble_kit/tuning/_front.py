"""The part of a pipeline that no trial changes: causal, stateless features, computed once a study."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import joblib
from sklearn.base import clone
from sklearn.pipeline import FeatureUnion, Pipeline

from ensemble_kit.ensemble.resume import memory_folder, remembered
from ensemble_kit.features import (
    Alpha158,
    CrossSectionalScaler,
    ExternalFeatures,
    ICTFeatures,
    IndicatorFeatures,
    MicrostructureFeatures,
    SessionFeatures,
)
from ensemble_kit.fingerprint import fingerprint, versions
from ensemble_kit.sizing import SizedClassifier

__all__ = ["features_of", "split_front"]

#: They learn nothing in `fit`, and row t sees rows <= t: a fold gets the same columns from all bars as from its own.
#: Of these very classes only: what a subclass or a user's transformer learns, nobody can tell.
_STATELESS = {
    Alpha158,
    CrossSectionalScaler,
    ExternalFeatures,
    ICTFeatures,
    IndicatorFeatures,
    MicrostructureFeatures,
    SessionFeatures,
}


def split_front(estimator: Any, tuned: Iterable[str]) -> tuple[Pipeline | None, Any]:
    """Part an estimator into features that are the same in all folds and trials, and the rest.

    Parameters
    ----------
    estimator : estimator
        A Pipeline, or a `SizedClassifier` of one; anything else has no such part. A
        `SizedClassifier` is changed in place.
    tuned : iterable of str
        Names of the parameters that trials change: a step that has one is none of them.

    Returns
    -------
    front : Pipeline or None
        The first steps, or None.
    rest : estimator
        What is fitted on their columns.
    """
    names = list(tuned)
    if isinstance(estimator, SizedClassifier):
        inner = [name.removeprefix("model__") for name in names if name.startswith("model__")]
        front, rest = split_front(estimator.model, inner)
        return front, estimator if front is None else estimator.set_params(model=rest)
    if not isinstance(estimator, Pipeline):
        return None, estimator
    n = 0
    for name, step in estimator.steps[:-1]:
        if not _stateless(step) or any(each == name or each.startswith(f"{name}__") for each in names):
            break
        n += 1
    return (estimator[:n], estimator[n:]) if n else (None, estimator)


def _stateless(step: Any) -> bool:
    if step in (None, "passthrough", "drop"):
        return True
    if isinstance(step, Pipeline):
        return all(_stateless(each) for _, each in step.steps)
    if isinstance(step, FeatureUnion):
        return all(_stateless(each) for _, each in step.transformer_list)
    return type(step) in _STATELESS


def features_of(front: Pipeline, X: Any, memory: joblib.Memory | str | Path | None) -> Any:
    """Compute the columns of all bars, or find them where another worker has kept them.

    Parameters
    ----------
    front : Pipeline
        As `split_front` parts it.
    X : DataFrame
        Bars.
    memory : Memory, str, Path or None
        Where columns are kept.

    Returns
    -------
    DataFrame
        Columns on the bars' index.
    """
    front = clone(front).set_output(transform="pandas")
    key = "features-" + fingerprint(front, X, versions())
    return remembered(memory_folder(memory), key, lambda: {"columns": front.fit_transform(X)})["columns"]
