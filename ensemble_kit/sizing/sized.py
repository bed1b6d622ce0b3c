"""A classifier with a sizer: from bars to probabilities to positions, one object to register."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, clone
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import Tags, get_tags
from sklearn.utils.metaestimators import available_if
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted

from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.metrics import next_open_return
from ensemble_kit.sizing.kelly import KellySizer
from ensemble_kit.streams.position import PositionStream
from ensemble_kit.targets import Targets, check_row_weights, predict_log_proba
from ensemble_kit.validation import (
    ALL_MEMBERS,
    REFIT,
    RowUsage,
    WalkForwardSplit,
    final_estimator,
    lookback,
    walk_forward_predict,
    weight_parameters,
)

__all__ = ["SizedClassifier"]


def _model_has(name: str) -> Any:
    def check(self: Any) -> bool:
        return hasattr(getattr(self, "model_", self.model), name)

    return check


class SizedClassifier(CallbackSupportMixin, ClassifierMixin, BaseEstimator):
    """A model and the sizer that turns its probabilities into positions.

    Parameters
    ----------
    model : classifier or Pipeline
        Usually features and a `WalkForwardVotingClassifier`; any classifier will do.
    sizer : sizer, default=None
        Fitted on out-of-fold probabilities; None for `KellySizer()`. One whose `needs_returns`
        is True is also given what the bars earned (`ensemble_kit.metrics.next_open_return`).
    cv : splitter, default=None
        For a model that has no out-of-fold probabilities of its own: the folds that give
        them. None for ``WalkForwardSplit(3)``, which warns: give it the labels' `t1`.

    Attributes
    ----------
    model_ : classifier
        The fitted model.
    sizer_ : sizer
        The fitted sizer.
    row_usage_ : RowUsage
        Who saw which rows, the sizer included.
    classes_ : as the model's
        The class labels.

    Notes
    -----
    What it sees: positions at row t depend on rows <= t, as far back as `lookback`.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features import SessionFeatures
    >>> from ensemble_kit.labels import peak_slope_bottom
    >>> from ensemble_kit.sizing import SizedClassifier
    >>> from ensemble_kit.validation import WalkForwardSplit
    >>> bars = make_bars(2000, random_state=0)
    >>> labels = peak_slope_bottom(bars, w=12)
    >>> X, y = labels.align(bars)
    >>> model = make_pipeline(SessionFeatures(), LogisticRegression())
    >>> sized = SizedClassifier(model, cv=WalkForwardSplit(3, t1=labels.t1)).fit(X, y)
    >>> sized.predict_position(X).shape
    (1988,)
    """

    def __init__(self, model: Any, sizer: Any = None, *, cv: Any = None) -> None:
        self.model = model
        self.sizer = sizer
        self.cv = cv

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        inner = get_tags(self.model)
        tags.input_tags = inner.input_tags
        tags.input_tags.sparse = False
        tags.target_tags = inner.target_tags
        return tags

    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit the model, then the sizer on probabilities of rows the model had not seen.

        Parameters
        ----------
        X : DataFrame or array of shape (n, n_features)
            Bars, or columns, in time order.
        y : array-like of shape (n,) or (n, H)
            Class labels, none missing.
        sample_weight : array-like of shape (n,), default=None
            0 for rows that are history only.

        Returns
        -------
        SizedClassifier
            Itself.

        Raises
        ------
        EnsembleKitError
            If model, sizer or `cv` cannot be one, the model takes no weights and some were given, the
            classes have no direction, or the sizer needs returns and X are no bars.
        """
        self._check_parts()
        context = self._init_callback_context(max_subtasks=1)
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        if not isinstance(X, pd.DataFrame):
            X = check_array(X, dtype=None, ensure_all_finite=False, estimator=self)
        targets = Targets.encode(y)
        check_consistent_length(X, targets.codes)
        earned = self._returns(X)
        self._rehearse(targets, earned)
        model = clone(self.model)
        if isinstance(X, pd.DataFrame) and hasattr(model, "set_output"):
            # Columns keep the bars' index on their way to the ensemble, which needs it for panels.
            model.set_output(transform="pandas")
        weights = None if sample_weight is None else check_row_weights(sample_weight, len(X))
        parameters = {} if weights is None else weight_parameters(model, weights)
        if weights is not None and not parameters:
            raise EnsembleKitError(
                f"`model` must take `sample_weight` where rows have weights; {final_estimator(model)!r} does not. "
                "Take a model that does, or leave weights out."
            )
        part = context.subcontext(task_name="model")
        with part.propagate_callback_context(model):
            part.call_on_fit_task_begin(estimator=self, X=X, y=y)
            self.model_ = model.fit(X, y, **parameters)
            part.call_on_fit_task_end(estimator=self, X=X, y=y)
        self._classes, self._n_rows = targets.classes, len(X)
        self._size(targets, earned, weights, *self._out_of_fold(X, y, weights))
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    def recalibrate(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Judge the members anew by what they said out of fold, and fit the sizer to it; no member is fitted again.

        What judges is taken as it is now: set the ensemble's `calibrator`, `weighting`, `power`,
        `scorer` or `events`, or this `sizer`, with `set_params`, and see what that changes.

        Parameters
        ----------
        X : DataFrame or array of shape (n, n_features)
            As given to `fit`: its bars say what a row's decision earned, where the sizer asks.
        y : array-like of shape (n,) or (n, H)
            As given to `fit`.
        sample_weight : array-like of shape (n,), default=None
            As given to `fit`.

        Returns
        -------
        SizedClassifier
            Itself.

        Raises
        ------
        EnsembleKitError
            If the model is no ensemble that keeps its out-of-fold answers, or these are not the
            rows given to `fit`.
        """
        check_is_fitted(self, "sizer_")
        ensemble = final_estimator(self.model_)
        if not (hasattr(ensemble, "recalibrate") and hasattr(ensemble, "out_of_fold")):
            raise EnsembleKitError(
                f"`model` must end in an ensemble, which keeps what its members said out of fold; got {ensemble!r}. "
                "Fit it again."
            )
        targets = Targets.encode(y)
        if len(X) != self._n_rows or targets.codes.shape[0] != self._n_rows:
            raise EnsembleKitError(
                f"`X` and `y` must have the {self._n_rows} rows given to `fit`; got {len(X)} and "
                f"{targets.codes.shape[0]}. Give those."
            )
        earned = self._returns(X)
        self._rehearse(targets, earned)
        weights = None if sample_weight is None else check_row_weights(sample_weight, len(X))
        ensemble.recalibrate()
        rows, proba = ensemble.out_of_fold()
        self._size(targets, earned, weights, rows, proba, ensemble.fold_[rows], ensemble.row_usage_)
        return self

    def _size(
        self, targets: Targets, earned: Any, weights: Any, rows: Any, proba: Any, fold: Any, usage: RowUsage
    ) -> None:
        """Fit the sizer on rows that the model had not seen, and put on record which these are."""
        given = np.ones(len(rows)) if weights is None else weights[rows]
        truth = targets.decode(targets.codes[rows])
        returns = {name: values[rows] for name, values in earned.items()}
        self.sizer_ = self._new_sizer().fit(proba, truth, sample_weight=given, classes=self._classes, **returns)
        for k in np.unique(fold):
            usage.add(int(k), ALL_MEMBERS, "size", rows[(fold == k) & (given > 0)])
        self._usage = usage.check().entries

    def _check_parts(self) -> None:
        # A string has a `split`, and a class the methods of what it makes.
        model, sizer, cv = (
            None if isinstance(part, str | type) else part for part in (self.model, self.sizer, self.cv)
        )
        if not hasattr(model, "fit"):
            raise EnsembleKitError(
                f"`model` must be a classifier or a Pipeline; got {self.model!r}. Pass one that is not fitted yet."
            )
        if self.sizer is not None and not (hasattr(sizer, "fit") and hasattr(sizer, "transform")):
            raise EnsembleKitError(
                f"`sizer` must be None, or have `fit` and `transform`; got {self.sizer!r}. None takes KellySizer()."
            )
        if self.cv is not None and not (hasattr(cv, "split") or isinstance(cv, Iterable)):
            raise EnsembleKitError(
                f"`cv` must be None, a splitter or pairs of train and test rows; got {self.cv!r}. "
                "Pass WalkForwardSplit(3, t1=labels.t1)."
            )

    def _new_sizer(self) -> Any:
        return KellySizer() if self.sizer is None else clone(self.sizer)

    def _returns(self, X: Any) -> dict[str, NDArray[np.float64]]:
        """Return what each row's decision earned, as the sizer takes it; nothing where it does not ask."""
        if not getattr(self._new_sizer(), "needs_returns", False):
            return {}
        try:
            returns = np.asarray(next_open_return(X), dtype=np.float64)
        except BarsError as error:
            raise BarsError(
                f"`X` must be bars where the sizer needs returns (payoffs='estimate'); {error} "
                "Or say what a bet pays: KellySizer(payoffs=...)."
            ) from error
        return {"returns": returns}

    def _rehearse(self, targets: Targets, returns: dict[str, NDArray[np.float64]]) -> None:
        """Fit a sizer to even probabilities: what it refuses, it refuses before the model's work is done."""
        shape = (*targets.codes.shape, len(targets.classes))
        even = np.full(shape, 1.0 / len(targets.classes))
        with warnings.catch_warnings():
            # What it warns of, it warns of when it is fitted in earnest.
            warnings.simplefilter("ignore", UserWarning)
            self._new_sizer().fit(even, targets.decode(targets.codes), classes=targets.classes, **returns)

    def _out_of_fold(self, X: Any, y: Any, weights: Any) -> tuple[Any, Any, Any, RowUsage]:
        """Return rows, probabilities, folds and usage: the ensemble's own, or a walk-forward's."""
        ensemble = final_estimator(self.model_)
        if hasattr(ensemble, "out_of_fold"):
            rows, proba = ensemble.out_of_fold()
            return rows, proba, ensemble.fold_[rows], ensemble.row_usage_
        cv = WalkForwardSplit(3) if self.cv is None else self.cv
        y = y if isinstance(y, pd.DataFrame | pd.Series) else np.asarray(y)
        out = walk_forward_predict(self.model, X, y, cv=cv, method="predict_proba", sample_weight=weights)
        learned = np.arange(len(y)) if weights is None else np.flatnonzero(weights)
        for role, used in getattr(ensemble, "row_usage_", {"fit": learned}).items():
            out.usage.add(REFIT, "model", role, used)
        return np.flatnonzero(out.covered), out.predictions, out.fold[out.covered], out.usage

    def predict_position(self, X: Any) -> NDArray[np.float64]:
        """Return the position to hold after each bar.

        Parameters
        ----------
        X : DataFrame or array of shape (n, n_features)
            As given to `fit`, with `lookback` rows of history in front of those wanted.

        Returns
        -------
        ndarray of float64, shape (n,)
            Fractions of equity, decided at the bar's close.
        """
        check_is_fitted(self, "sizer_")
        # Placed by class, as the sizer was fitted: horizons of a model may know different classes.
        return np.asarray(self.sizer_.transform(np.exp(predict_log_proba(self.model_, X, self._classes))))

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the most probable class.

        Parameters
        ----------
        X : DataFrame or array of shape (n, n_features)
            As given to `fit`.

        Returns
        -------
        ndarray of shape (n,) or (n, H)
            Class labels.
        """
        check_is_fitted(self, "sizer_")
        return np.asarray(self.model_.predict(X))

    @available_if(_model_has("predict_proba"))
    def predict_proba(self, X: Any) -> Any:
        """Return the model's class probabilities.

        Parameters
        ----------
        X : DataFrame or array of shape (n, n_features)
            As given to `fit`.

        Returns
        -------
        ndarray (n, K), or list of H ndarrays (n, K)
            Probabilities.
        """
        check_is_fitted(self, "sizer_")
        return self.model_.predict_proba(X)

    @available_if(_model_has("predict_log_proba"))
    def predict_log_proba(self, X: Any) -> Any:
        """Return the logs of the model's class probabilities.

        Parameters
        ----------
        X : DataFrame or array of shape (n, n_features)
            As given to `fit`.

        Returns
        -------
        ndarray (n, K), or list of H ndarrays (n, K)
            Log-probabilities.
        """
        check_is_fitted(self, "sizer_")
        return self.model_.predict_log_proba(X)

    def stream(self, history: pd.DataFrame) -> PositionStream:
        """Begin to answer bar by bar, at the cost of the newest row.

        Parameters
        ----------
        history : DataFrame of shape (n_bars, n_columns)
            Bars of one instrument up to now, as given to `fit`: `lookback` + 1 of them, or, where
            that is None, all there are.

        Returns
        -------
        PositionStream
            Its `update(bar)` gives what `predict_proba` and `predict_position` say of the newest
            of all bars so far, to 1e-6; its `last` that of the history's newest bar.

        Raises
        ------
        BarsError
            If the history cannot be used.
        EnsembleKitError
            If the model reads several instruments at the same time.

        Warns
        -----
        UserWarning
            If a part of the model must read the whole past again at every bar.

        Examples
        --------
        >>> from sklearn.linear_model import LogisticRegression
        >>> from sklearn.pipeline import make_pipeline
        >>> from ensemble_kit.datasets import make_bars
        >>> from ensemble_kit.features import SessionFeatures
        >>> from ensemble_kit.labels import peak_slope_bottom
        >>> from ensemble_kit.sizing import SizedClassifier
        >>> from ensemble_kit.validation import WalkForwardSplit
        >>> bars = make_bars(2000, random_state=0)
        >>> labels = peak_slope_bottom(bars, w=12)
        >>> model = make_pipeline(SessionFeatures(), LogisticRegression())
        >>> sized = SizedClassifier(model, cv=WalkForwardSplit(3, t1=labels.t1)).fit(*labels.align(bars))
        >>> stream = sized.stream(bars.iloc[:1999])
        >>> answer = stream.update(bars.iloc[[1999]])
        >>> bool(abs(answer.proba - sized.predict_proba(bars)[-1]).max() < 1e-6)
        True
        """
        check_is_fitted(self, "sizer_")
        return PositionStream(self.model_, self.sizer_, history, self._classes)

    @property
    def lookback(self) -> int | None:
        """Earlier rows a position can depend on."""
        return lookback(getattr(self, "model_", self.model))

    @property
    def classes_(self) -> Any:
        """Class labels, as the model has them."""
        return self.model_.classes_

    @property
    def n_features_in_(self) -> int:
        """Columns given to `fit`."""
        return int(self.model_.n_features_in_)

    @property
    def feature_names_in_(self) -> NDArray[Any]:
        """Names of the columns given to `fit`, where they had any."""
        names: NDArray[Any] = self.model_.feature_names_in_
        return names

    @property
    def row_usage_(self) -> RowUsage:
        """Which rows each stage saw."""
        usage = RowUsage(self._n_rows)
        usage.entries = list(self._usage)
        return usage
