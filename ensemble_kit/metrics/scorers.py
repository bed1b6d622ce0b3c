"""Scorers for `cross_validate`, searches and studies that know horizons and row weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.utils.metadata_routing import MetadataRequest

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics.classification import auc_pr, brier_score
from ensemble_kit.targets import stack_horizons, unstack_horizons

__all__ = ["AUCPRScorer", "BrierScorer"]


class _ProbabilityScorer:
    """A scorer callable: `(estimator, X, y) -> float`, greater is better.

    Weights may come with the call, as scikit-learn routes them, or as a Series on X's index,
    which is looked up row by row and so survives slicing without any routing.
    """

    def __init__(self, *, horizon: int | None = 0, sample_weight: pd.Series[Any] | None = None) -> None:
        self.horizon = horizon
        self.sample_weight = sample_weight

    def __call__(self, estimator: Any, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Score a fitted classifier.

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
        answer = estimator.predict_proba(X)
        classes = estimator.classes_[0] if isinstance(answer, list) else estimator.classes_
        scores = self._score(
            y,
            unstack_horizons(stack_horizons(answer), not isinstance(answer, list)),
            classes,
            self._weights(X, sample_weight),
        )
        if self.horizon is None:
            return float(scores.mean())
        if self.horizon >= len(scores):
            raise EnsembleKitError(f"`horizon` must be below {len(scores)}; got {self.horizon}.")
        return float(scores[self.horizon])

    def _score(self, y: Any, proba: Any, classes: Any, weights: Any) -> Any:
        raise NotImplementedError  # each scorer has its own

    def _weights(self, X: Any, sample_weight: Any) -> Any:
        if sample_weight is not None or self.sample_weight is None:
            return sample_weight
        if not isinstance(X, pd.DataFrame | pd.Series):
            raise EnsembleKitError(
                "`sample_weight` of a scorer is looked up by index; got X without one. Pass a frame."
            )
        return self.sample_weight.reindex(X.index).to_numpy(np.float64)

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
        super().__init__(horizon=horizon, sample_weight=sample_weight)
        self.events = events

    def _score(self, y: Any, proba: Any, classes: Any, weights: Any) -> Any:
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

    def _score(self, y: Any, proba: Any, classes: Any, weights: Any) -> Any:
        return -brier_score(y, proba, classes=classes, sample_weight=weights)
