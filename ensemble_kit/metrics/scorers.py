"""Scorers for `cross_validate`, searches and studies that know horizons and row weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils.metadata_routing import MetadataRequest

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics.classification import auc_pr, brier_score
from ensemble_kit.targets import Targets

__all__ = ["AUCPRScorer", "BrierScorer"]

FloatArray = NDArray[np.float64]


class _ProbabilityScorer:
    """A scorer callable: `(estimator, X, y) -> float`, greater is better.

    Weights may come with the call, as scikit-learn routes them, or as a Series on X's index,
    which is looked up row by row and so survives slicing without any routing.
    """

    horizon: int | None
    sample_weight: pd.Series[Any] | None

    def __call__(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score a fitted classifier.

        A class of `y` that the model never saw has probability 0.

        Parameters
        ----------
        estimator : classifier
            With `predict_proba` and `classes_`.
        X : DataFrame or array of shape (n, n_features)
            Rows to predict.
        y : array-like of shape (n,) or (n, H)
            Labels that came true.
        sample_weight : array-like of shape (n,), default=None
            Rows of weight 0 do not count.

        Returns
        -------
        float
            The score; greater is better.
        """
        classes, proba = _placed(estimator, X, y)
        n_horizons = proba.shape[1]
        if self.horizon is not None and not 0 <= self.horizon < n_horizons:
            raise EnsembleKitError(
                f"`horizon` must be below the {n_horizons} of the model, or None for all; got {self.horizon}."
            )
        scores = self._score(y, proba, classes, self._weights(X, sample_weight))
        return float(scores.mean() if self.horizon is None else scores[self.horizon])

    def _score(self, y: Any, proba: Any, classes: Any, weights: Any) -> Any:
        raise NotImplementedError  # each scorer has its own

    def _weights(self, X: Any, sample_weight: Any) -> Any:
        if sample_weight is not None or self.sample_weight is None:
            return sample_weight
        if not isinstance(X, pd.DataFrame | pd.Series):
            raise EnsembleKitError(
                "`sample_weight` of a scorer is looked up by index; got X without one. Pass a frame."
            )
        weights = self.sample_weight.reindex(X.index)
        if weights.isna().any():
            raise EnsembleKitError(
                f"`sample_weight` of a scorer must have a weight for each row of X; {weights.index[weights.isna()][0]} "
                "has none. Pass the `sample_weight` of the labels made from these very bars."
            )
        return weights.to_numpy(np.float64)

    def get_metadata_routing(self) -> MetadataRequest:
        """Say that this scorer takes `sample_weight` where scikit-learn routes it.

        Returns
        -------
        MetadataRequest
            The request.
        """
        request = MetadataRequest(owner=self)
        request.score.add_request(param="sample_weight", alias=True)
        return request

    def __repr__(self) -> str:
        return f"{type(self).__name__}(horizon={self.horizon})"


def _placed(estimator: Any, X: Any, y: Any) -> tuple[NDArray[Any], FloatArray]:
    """Return the classes of model and rows together, and probabilities of shape (n, H, K) placed by them."""
    answer = estimator.predict_proba(X)
    several = isinstance(answer, list)
    outputs = [np.asarray(p, np.float64) for p in (answer if several else [answer])]
    # Objects become what they hold, as in `Targets`.
    have = [np.array(labels.tolist()) for labels in (estimator.classes_ if several else [estimator.classes_])]
    classes = np.unique(np.concatenate([*have, Targets.encode(y).classes]))
    placed = np.zeros((len(outputs[0]), len(outputs), len(classes)))
    for h, (labels, proba) in enumerate(zip(have, outputs, strict=True)):
        placed[:, h, np.searchsorted(classes, labels)] = proba
    return classes, placed


class AUCPRScorer(_ProbabilityScorer):
    """Mean AUC-PR of the event classes that occur in the scored rows.

    Parameters
    ----------
    events : sequence of labels, default=None
        The classes to average over; None for all.
    horizon : int or None, default=0
        Which horizon; None for the mean over all.
    sample_weight : Series, default=None
        Row weights on X's index.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.model_selection import cross_val_score
    >>> from ensemble_kit.metrics import AUCPRScorer
    >>> from ensemble_kit.validation import WalkForwardSplit
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = np.where(X[:, 0] > 1, "peak", "slope")
    >>> cv, scoring = WalkForwardSplit(2, purge=0), AUCPRScorer(events=["peak"])
    >>> cross_val_score(LogisticRegression(), X, y, cv=cv, scoring=scoring).round(1)
    array([1., 1.])
    """

    def __init__(
        self,
        *,
        events: Sequence[Any] | None = None,
        horizon: int | None = 0,
        sample_weight: pd.Series[Any] | None = None,
    ) -> None:
        self.events = events
        self.horizon = horizon
        self.sample_weight = sample_weight

    def _score(self, y: Any, proba: Any, classes: Any, weights: Any) -> Any:
        events = None if self.events is None else np.atleast_1d(np.asarray(self.events))
        if events is not None and np.isin(events, classes).any():
            # An event that neither the model nor these rows know is absent like any other.
            more = np.setdiff1d(events, classes)
            classes = np.concatenate([classes, more])
            proba = np.concatenate([proba, np.zeros((*proba.shape[:2], len(more)))], axis=2)
        return auc_pr(y, proba, classes=classes, events=self.events, sample_weight=weights)


class BrierScorer(_ProbabilityScorer):
    """Minus the Brier score, so that greater is better.

    Parameters
    ----------
    horizon : int or None, default=0
        Which horizon; None for the mean over all.
    sample_weight : Series, default=None
        Row weights on X's index.
    """

    def __init__(self, *, horizon: int | None = 0, sample_weight: pd.Series[Any] | None = None) -> None:
        self.horizon = horizon
        self.sample_weight = sample_weight

    def _score(self, y: Any, proba: Any, classes: Any, weights: Any) -> Any:
        return -brier_score(y, proba, classes=classes, sample_weight=weights)
