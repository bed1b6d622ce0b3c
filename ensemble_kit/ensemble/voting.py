"""The ensemble: members fitted walk-forward, calibrated, weighed out of fold, and refitted."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, clone
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import Tags, get_tags
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from ensemble_kit.bars import RowKeys, pack_index, row_keys, unpack_index
from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.ensemble.resume import cached
from ensemble_kit.ensemble.weights import voting_weights
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.fingerprint import fingerprint, versions
from ensemble_kit.metrics import auc_pr, auc_pr_by_class
from ensemble_kit.targets import Targets, check_row_weights, predict_log_proba, unstack_horizons
from ensemble_kit.validation import (
    ALL_MEMBERS,
    REFIT,
    RowUsage,
    WalkForwardSplit,
    check_panel_index,
    checked_folds,
    fit_on_rows,
    lookback,
    predict_on_rows,
)

__all__ = ["WalkForwardVotingClassifier"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class WalkForwardVotingClassifier(CallbackSupportMixin, ClassifierMixin, _BaseComposition):
    """Vote of calibrated members, weighed by their squared out-of-fold AUC-PR.

    Each member is fitted on each walk-forward fold and predicts the fold's test rows. On
    these out-of-fold log-probabilities a temperature is fitted per member and horizon, the
    calibrated probabilities are scored, and the scores become voting weights. Then every
    member is fitted once more on all rows.

    Parameters
    ----------
    estimators : list of (str, classifier) tuples
        The members: any scikit-learn classifier or Pipeline that ends in one.
    cv : splitter, default=None
        Folds whose training rows lie before their test rows; None for
        ``WalkForwardSplit(3)``, which warns: give it the labels' `t1`.
    events : sequence of labels, default=None
        The classes whose AUC-PR is averaged into the score; None for all.
    power : float, default=2.0
        Of the score in the weights; 0 is a uniform vote.
    calibrator : calibrator, default="temperature"
        Fitted per member on out-of-fold log-probabilities: ``"temperature"`` for
        `TemperatureScaling`, an object like it, or None.
    memory : Memory, str or Path, default=None
        Where fitted member-folds are kept, so that an interrupted `fit` resumes.

    Attributes
    ----------
    classes_ : ndarray of shape (K,), or list of H of them
        The class labels.
    estimators_ : list of fitted members
        Refitted on all rows.
    named_estimators_ : dict
        The same by name.
    calibrators_ : list
        One a member, None where there is none.
    weights_, scores_, temperatures_ : DataFrame of shape (M, H)
        By member and horizon. NaN temperature where a calibrator has none.
    fold_scores_ : DataFrame
        AUC-PR by fold (rows: fold and member; columns: horizons).
    oof_log_proba_ : DataFrame
        Uncalibrated out-of-fold log-probabilities: rows are covered rows of X, columns
        (member, horizon, class).
    fold_ : ndarray of int64, shape (n,)
        The fold whose test block covered each row of X, -1 for none.
    row_usage_ : RowUsage
        Who saw which rows, checked.

    See Also
    --------
    ensemble_kit.sizing.SizedClassifier : Adds positions.
    ensemble_kit.validation.WalkForwardSplit : Folds that purge by `t1`.

    Notes
    -----
    What it sees: `predict` at row t uses rows <= t. Rows of `sample_weight` 0 are history
    only. Score, temperature and weight share the out-of-fold rows by design; no member was
    fitted on a row that judges it. Causal, stateless features belong before the ensemble,
    fitted things (selector, scaler, model) inside a member.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.naive_bayes import GaussianNB
    >>> from ensemble_kit.ensemble import WalkForwardVotingClassifier
    >>> from ensemble_kit.validation import WalkForwardSplit
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(400, 2))
    >>> y = (X[:, 0] + rng.normal(size=400) > 0).astype(int)
    >>> members = [("lr", LogisticRegression()), ("nb", GaussianNB())]
    >>> vote = WalkForwardVotingClassifier(members, cv=WalkForwardSplit(3, purge=0)).fit(X, y)
    >>> vote.weights_.round(1)
         H0
    lr  0.5
    nb  0.5
    """

    def __init__(
        self,
        estimators: list[tuple[str, Any]],
        *,
        cv: Any = None,
        events: Sequence[Any] | None = None,
        power: float = 2.0,
        calibrator: Any = "temperature",
        memory: joblib.Memory | str | Path | None = None,
    ) -> None:
        self.estimators = estimators
        self.cv = cv
        self.events = events
        self.power = power
        self.calibrator = calibrator
        self.memory = memory

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return parameters, those of the members included.

        Parameters
        ----------
        deep : bool, default=True
            Whether to include members' parameters, as ``name__parameter``.

        Returns
        -------
        dict
            Parameters by name.
        """
        return self._get_params("estimators", deep=deep)

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of the members included.

        Parameters
        ----------
        **params : object
            By name; ``name=classifier`` replaces a member.

        Returns
        -------
        WalkForwardVotingClassifier
            Itself.
        """
        self._set_params("estimators", **params)
        return self

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        members = [get_tags(member) for _, member in self.estimators]
        tags.target_tags.multi_output = all(member.target_tags.multi_output for member in members)
        tags.input_tags.allow_nan = all(member.input_tags.allow_nan for member in members)
        tags.input_tags.sparse = False
        return tags

    @property
    def lookback(self) -> int | None:
        """Earlier rows a prediction can depend on: the longest of the members."""
        reaches = [lookback(member) for _, member in self.estimators]
        return None if None in reaches else max((reach for reach in reaches if reach is not None), default=0)

    # ------------------------------------------------------------------------- fit

    @with_callbacks
    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit members on all folds, calibrate and weigh them, and refit them on all rows.

        Parameters
        ----------
        X : DataFrame or array of shape (n, n_features)
            Columns in time order; a panel carries its (datetime, instrument) index.
        y : array-like of shape (n,) or (n, H)
            Class labels, one column a horizon, none missing.
        sample_weight : array-like of shape (n,), default=None
            0 for rows that are history only.

        Returns
        -------
        WalkForwardVotingClassifier
            Itself.

        Raises
        ------
        LeakageError
            If a fold trains on rows that do not precede its test rows, or stages share rows
            that they must not.
        EnsembleKitError
            If members, folds, targets or weights cannot be used as they are.
        """
        data = self._validated(X, y, sample_weight)
        folds = checked_folds(WalkForwardSplit(3) if self.cv is None else self.cv, data.X, data.y, data.keys)
        n, single = len(data.keys.time), data.targets.single
        usage = RowUsage(n)
        self._classes, self._single = data.targets.classes, single
        self.classes_ = self._classes if single else [self._classes] * data.targets.n_horizons
        self._index, self._n_rows, self._panel = pack_index(data.keys.index), n, data.keys.panel
        self.fold_ = np.full(n, -1, dtype=np.int64)
        for fold, (_, test) in enumerate(folds):
            self.fold_[test] = fold
        context = self._init_callback_context(max_subtasks=(len(folds) + 1) * len(self.estimators))
        context.call_on_fit_task_begin(estimator=self, X=X, y=y)
        run = _Runner(self, data, usage, context)
        covered = self.fold_ >= 0
        shape = (len(self.estimators), n, data.targets.n_horizons, len(self._classes))
        oof = np.full(shape, np.nan)
        for fold, (train, test) in enumerate(folds):
            for m, (name, member) in enumerate(self.estimators):
                oof[m, test] = run(fold, name, member, train, test)["log_proba"]
        self._oof = oof[:, covered]
        self._weigh(data, covered, usage)
        every = np.arange(n)
        self.estimators_ = [run(REFIT, name, member, every, every[:0])["fitted"] for name, member in self.estimators]
        self._usage = usage.check().entries
        context.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    def _validated(self, X: Any, y: Any, sample_weight: Any) -> _Data:
        names = [name for name, _ in self.estimators]
        if not names:
            raise EnsembleKitError("`estimators` must name at least one member; got none. Give [('name', classifier)].")
        self._validate_names(names)
        check_panel_index(X, y)
        X = self._check_columns(X, reset=True)
        targets = Targets.encode(y)
        check_consistent_length(X, targets.codes)
        return _Data(X, targets.decode(targets.codes), targets, check_row_weights(sample_weight, len(X)), row_keys(X))

    def _check_columns(self, X: Any, *, reset: bool) -> Any:
        # Frames go on as they are: members need their index, and say themselves what they cannot take.
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, skip_check_array=True, reset=reset)
            return X
        return validate_data(self, X, ensure_all_finite=False, reset=reset)

    def _weigh(self, data: _Data, covered: NDArray[np.bool_], usage: RowUsage) -> None:
        """Fit calibrators on the out-of-fold rows, score what they give, and turn scores to weights."""
        y, weights = data.y[covered], data.weights[covered]
        fold = self.fold_[covered]
        n_folds = int(fold.max()) + 1
        self.calibrators_ = []
        self._scores = np.empty((len(self.estimators), data.targets.n_horizons))
        self._fold_scores = np.full((n_folds, *self._scores.shape), np.nan)
        for m, raw in enumerate(self._oof):
            calibrator = self._new_calibrator()
            if calibrator is not None:
                calibrator.fit(raw, y, sample_weight=weights, classes=self._classes)
            self.calibrators_.append(calibrator)
            proba = np.exp(_calibrated(calibrator, raw))
            self._scores[m] = auc_pr(y, proba, classes=self._classes, events=self.events, sample_weight=weights)
            for k in range(n_folds):
                rows = (fold == k) & (weights > 0)
                if rows.any():
                    self._fold_scores[k, m] = _fold_score(y[rows], proba[rows], self._classes, self.events)
        self._weights = voting_weights(self._scores, power=self.power)
        stages = {"calibrate": self.calibrator is not None, "score": True, "weigh": self.power != 0}
        for k in range(n_folds):
            rows = np.flatnonzero((self.fold_ == k) & (data.weights > 0))
            for role in (role for role, happens in stages.items() if happens):
                usage.add(k, ALL_MEMBERS, role, rows)

    def _new_calibrator(self) -> Any:
        if isinstance(self.calibrator, str):
            if self.calibrator != "temperature":
                raise EnsembleKitError(
                    f"`calibrator` must be 'temperature', a calibrator or None; got {self.calibrator!r}."
                )
            return TemperatureScaling()
        return None if self.calibrator is None else clone(self.calibrator)

    # --------------------------------------------------------------------- predict

    def predict_log_proba(self, X: Any) -> Any:
        """Log of the calibrated, weighted class probabilities.

        Parameters
        ----------
        X : DataFrame or array of shape (n, n_features)
            Rows in time order; rows of an instrument that stand first have no history.

        Returns
        -------
        ndarray (n, K), or list of H ndarrays (n, K)
            One block a horizon if the target had several.
        """
        return unstack_horizons(np.log(self._vote(X)), self._single)

    def predict_proba(self, X: Any) -> Any:
        """Calibrated, weighted class probabilities.

        Parameters
        ----------
        X : DataFrame or array of shape (n, n_features)
            Rows in time order; rows of an instrument that stand first have no history.

        Returns
        -------
        ndarray (n, K), or list of H ndarrays (n, K)
            Each row sums to 1.
        """
        return unstack_horizons(self._vote(X), self._single)

    def predict(self, X: Any) -> NDArray[Any]:
        """Most probable class.

        Parameters
        ----------
        X : DataFrame or array of shape (n, n_features)
            Rows in time order.

        Returns
        -------
        ndarray of shape (n,) or (n, H)
            Class labels.
        """
        labels: NDArray[Any] = self._vote(X).argmax(axis=2)
        labels = self._classes[labels]
        return labels[:, 0] if self._single else labels

    def _vote(self, X: Any) -> FloatArray:
        check_is_fitted(self, "estimators_")
        check_panel_index(X, fitted_on_panel=self._panel)
        X = self._check_columns(X, reset=False)
        members = (predict_log_proba(member, X, self._classes) for member in self.estimators_)
        return self._combine(members)

    def _combine(self, members: Any) -> FloatArray:
        """Calibrate each member's log-probabilities (n, H, K) and add them up by weight."""
        vote: FloatArray = sum(
            weight[:, None] * np.exp(_calibrated(calibrator, log_proba))
            for weight, calibrator, log_proba in zip(self._weights, self.calibrators_, members, strict=True)
        )
        return vote / vote.sum(axis=2, keepdims=True)

    def out_of_fold(self) -> tuple[IntArray, FloatArray]:
        """Return the calibrated vote on the rows that test blocks covered.

        Returns
        -------
        rows : ndarray of int64, shape (n_covered,)
            Positions in the X given to `fit`.
        proba : ndarray of float64, shape (n_covered, H, K)
            What members that had not seen these rows say, calibrated and weighted.
        """
        check_is_fitted(self, "estimators_")
        return np.flatnonzero(self.fold_ >= 0), self._combine(self._oof)

    # -------------------------------------------------------------- labelled frames

    @property
    def named_estimators_(self) -> dict[str, Any]:
        """Refitted members by name."""
        return dict(zip(self._names, self.estimators_, strict=True))

    @property
    def weights_(self) -> pd.DataFrame:
        """Voting weights by member and horizon; each column sums to 1."""
        return self._by_member(self._weights)

    @property
    def scores_(self) -> pd.DataFrame:
        """Out-of-fold AUC-PR, after calibration, by member and horizon."""
        return self._by_member(self._scores)

    @property
    def fold_scores_(self) -> pd.DataFrame:
        """Out-of-fold AUC-PR by fold and member, one column a horizon."""
        frames = [self._by_member(scores) for scores in self._fold_scores]
        return pd.concat(frames, keys=range(len(frames)), names=["fold", "member"])

    @property
    def temperatures_(self) -> pd.DataFrame:
        """Temperatures by member and horizon."""
        nothing = np.full(self._scores.shape[1], np.nan)
        rows = [getattr(calibrator, "temperature_", nothing) for calibrator in self.calibrators_]
        return self._by_member(np.array(rows))

    @property
    def oof_log_proba_(self) -> pd.DataFrame:
        """Uncalibrated out-of-fold log-probabilities on the index of X."""
        index = unpack_index(self._index, self._n_rows)[self.fold_ >= 0]
        columns = pd.MultiIndex.from_product(
            [self._names, self._horizon_names, self._classes], names=["member", "horizon", "class"]
        )
        return pd.DataFrame(np.moveaxis(self._oof, 0, 1).reshape(len(index), -1), index=index, columns=columns)

    @property
    def row_usage_(self) -> RowUsage:
        """Which rows each stage saw."""
        usage = RowUsage(self._n_rows)
        usage.entries = list(self._usage)
        return usage

    @property
    def _names(self) -> list[str]:
        return [name for name, _ in self.estimators]

    @property
    def _horizon_names(self) -> list[str]:
        return [f"H{h}" for h in range(self._scores.shape[1])]

    def _by_member(self, values: FloatArray) -> pd.DataFrame:
        check_is_fitted(self, "estimators_")
        return pd.DataFrame(values, index=self._names, columns=self._horizon_names)


def _fold_score(y: Any, proba: FloatArray, classes: NDArray[Any], events: Sequence[Any] | None) -> FloatArray:
    """AUC-PR by horizon, NaN where no event occurs: rare ones may well miss a fold, which is no cause to warn."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="no row of class", category=UserWarning)
        table = auc_pr_by_class(y, proba, classes=classes, events=events)
    return table.mean(axis=1).to_numpy(np.float64)


@dataclass(frozen=True)
class _Data:
    """What `fit` was given, checked."""

    X: Any
    y: NDArray[Any]
    targets: Targets
    weights: FloatArray
    keys: RowKeys


@dataclass(frozen=True)
class _Task:
    """One member on one fold: all that its result depends on."""

    estimator: Any
    data: _Data
    train: IntArray
    test: IntArray


class _Runner:
    """Runs member-folds one by one, remembers them, and tells callbacks and the row record."""

    def __init__(self, ensemble: WalkForwardVotingClassifier, data: _Data, usage: RowUsage, context: Any) -> None:
        self._ensemble, self._data, self._usage, self._context = ensemble, data, usage, context
        self._run = cached(_fit_member, ensemble.memory)
        self._seen = fingerprint(versions(), data.X, data.y, data.weights) if ensemble.memory is not None else ""

    def __call__(self, fold: int, name: str, member: Any, train: IntArray, test: IntArray) -> dict[str, Any]:
        where = "refit" if fold == REFIT else f"fold {fold}"
        context = self._context.subcontext(task_name=f"{name}, {where}")
        context.call_on_fit_task_begin(estimator=self._ensemble)
        key = fingerprint(self._seen, member, train, test) if self._seen else ""
        result: dict[str, Any] = self._run(key, _Task(member, self._data, train, test))
        for role, rows in result["usage"].items():
            self._usage.add(fold, name, role, rows)
        context.call_on_fit_task_end(estimator=self._ensemble)
        return result


def _fit_member(key: str, task: _Task) -> dict[str, Any]:  # noqa: ARG001 - the key is what results are found by
    """Fit a member on a fold's training rows and predict its test rows; without test rows, keep the model."""
    data = task.data
    fitted, usage = fit_on_rows(task.estimator, data.X, data.y, data.weights, task.train, data.keys)
    if len(task.test) == 0:
        return {"fitted": fitted, "usage": usage}
    return {
        "log_proba": predict_on_rows(fitted, data.X, task.test, data.keys, data.targets.classes),
        "usage": usage,
    }


def _calibrated(calibrator: Any, log_proba: FloatArray) -> FloatArray:
    return log_proba if calibrator is None else np.asarray(calibrator.transform(log_proba))
