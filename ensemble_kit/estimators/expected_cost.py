"""Decide by least expected cost, and leave the probabilities alone."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, MetaEstimatorMixin, clone
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from ensemble_kit.estimators.costs import cost_table
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import stack_horizons
from ensemble_kit.validation import lookback

__all__ = ["ExpectedCostClassifier"]


def _has_log_proba(model: ExpectedCostClassifier) -> bool:
    return hasattr(getattr(model, "estimator_", model.estimator), "predict_log_proba")


class ExpectedCostClassifier(ClassifierMixin, MetaEstimatorMixin, BaseEstimator):
    """Answer the class whose expected cost is least.

    Training stays what it was, and so do the probabilities, which can be calibrated and bet on;
    only `predict` weighs what each mistake would cost. It is as good as the probabilities are
    calibrated.

    Parameters
    ----------
    estimator : classifier
        With `predict_proba`; one horizon or several.
    cost_matrix : dict, DataFrame or array-like of shape (K, K), default=None
        What it costs to say the row's class where the column's comes true; by label (a dict of
        dicts, or a frame), or in sorted order of the labels. None is `costs.PEAK_SLOPE_BOTTOM`.

    Attributes
    ----------
    estimator_ : classifier
        The fitted one.
    classes_ : ndarray of shape (K,), or list of H such arrays
        Its labels.

    References
    ----------
    C. Elkan, The Foundations of Cost-Sensitive Learning, IJCAI 2001.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from ensemble_kit.estimators import ExpectedCostClassifier
    >>> X = np.arange(40.0)[:, None]
    >>> y = np.where(X[:, 0] + np.tile([-4, 4], 20) > 19.5, "rain", "sun")
    >>> costs = {"rain": {"rain": 0, "sun": 1}, "sun": {"rain": 9, "sun": 0}}  # to be caught without an umbrella
    >>> careful = ExpectedCostClassifier(LogisticRegression(), cost_matrix=costs).fit(X, y)
    >>> [int((model.predict(X) == "rain").sum()) for model in (careful.estimator_, careful)]
    [20, 24]
    """

    def __init__(self, estimator: Any, *, cost_matrix: Any = None) -> None:
        self.estimator = estimator
        self.cost_matrix = cost_matrix

    @property
    def lookback(self) -> int | None:
        """How many earlier rows an answer depends on."""
        return lookback(getattr(self, "estimator_", self.estimator))

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the classifier.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            As the classifier takes it.
        y : array-like of shape (n,) or (n, H)
            Labels.
        sample_weight : array-like of shape (n,), default=None
            Row weights, where the classifier takes them.

        Returns
        -------
        ExpectedCostClassifier
            The model itself.

        Raises
        ------
        EnsembleKitError
            If costs do not fit the labels, or weights come where the classifier takes none.
        """
        weights = {} if sample_weight is None else {"sample_weight": sample_weight}
        if weights and not has_fit_parameter(self.estimator, "sample_weight"):
            raise EnsembleKitError(
                f"`estimator` must take `sample_weight` where it is given; got {self.estimator!r}. "
                "Take a model that does, or leave the weights out."
            )
        self.estimator_ = clone(self.estimator).fit(X, y, **weights)
        self.classes_ = self.estimator_.classes_
        for labels in self._labels():
            cost_table(self.cost_matrix, labels)
        if hasattr(self.estimator_, "n_features_in_"):
            self.n_features_in_ = self.estimator_.n_features_in_
        if hasattr(self.estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.estimator_.feature_names_in_
        if hasattr(self.estimator_, "row_usage_"):
            self.row_usage_ = self.estimator_.row_usage_
        return self

    def _labels(self) -> list[NDArray[Any]]:
        return self.classes_ if isinstance(self.classes_, list) else [self.classes_]

    def predict_proba(self, X: Any) -> Any:
        """Return the classifier's probabilities.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n, K), or list of H such arrays
            In the order of `classes_`.
        """
        check_is_fitted(self)
        return self.estimator_.predict_proba(X)

    @available_if(_has_log_proba)
    def predict_log_proba(self, X: Any) -> Any:
        """Return the classifier's log-probabilities.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n, K), or list of H such arrays
            In the order of `classes_`.
        """
        check_is_fitted(self)
        return self.estimator_.predict_log_proba(X)

    def expected_cost(self, X: Any) -> Any:
        """Return what each answer would cost on average.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n, K), or list of H such arrays
            Columns are answers, in the order of `classes_`.
        """
        costs = self._costs(X)
        return costs if isinstance(self.classes_, list) else costs[0]

    def _costs(self, X: Any) -> list[NDArray[np.float64]]:
        proba = stack_horizons(self.predict_proba(X))
        return [proba[:, h] @ cost_table(self.cost_matrix, labels).T for h, labels in enumerate(self._labels())]

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the cheapest answers.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            As in `fit`.

        Returns
        -------
        ndarray of shape (n,) or (n, H)
            Labels.
        """
        costs = self._costs(X)
        answers = [labels[cost.argmin(axis=1)] for labels, cost in zip(self._labels(), costs, strict=True)]
        return np.column_stack(answers) if isinstance(self.classes_, list) else answers[0]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        inner = self.estimator.__sklearn_tags__()
        tags.input_tags = inner.input_tags
        tags.target_tags = inner.target_tags
        tags.classifier_tags = inner.classifier_tags
        return tags
