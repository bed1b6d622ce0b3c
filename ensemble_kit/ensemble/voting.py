"""The ensemble: members fitted walk-forward, calibrated, weighed out of fold, and refitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self, cast

import joblib
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logsumexp
from sklearn.base import ClassifierMixin
from sklearn.callback import CallbackSupportMixin, with_callbacks
from sklearn.utils import Tags, get_tags
from sklearn.utils.metaestimators import _BaseComposition
from sklearn.utils.validation import check_is_fitted, validate_data

from ensemble_kit.bars import pack_index, row_keys
from ensemble_kit.ensemble._frames import MemberFrames
from ensemble_kit.ensemble._tasks import FoldTasks
from ensemble_kit.ensemble.judgement import Evidence, judge, new_calibrators, rehearse, vote
from ensemble_kit.ensemble.later_rows import last_time_seen, unseen
from ensemble_kit.ensemble.member_folds import MemberFold, read_only, run_member_folds
from ensemble_kit.ensemble.resume import memory_folder
from ensemble_kit.exceptions import EnsembleKitError, LeakageError
from ensemble_kit.metrics import auc_pr
from ensemble_kit.targets import Targets, check_row_weights, predict_log_proba, unstack_horizons
from ensemble_kit.validation import (
    ALL_MEMBERS,
    REFIT,
    FoldData,
    RowUsage,
    WalkForwardSplit,
    check_panel_index,
    checked_folds,
    lookback,
    take_rows,
)

__all__ = ["WalkForwardVotingClassifier"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]
#: What the out-of-fold rows are used for, in this order.
_JUDGING = ("calibrate", "score", "weigh")


class WalkForwardVotingClassifier(MemberFrames, CallbackSupportMixin, ClassifierMixin, _BaseComposition):
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
    weighting : {"squared_auc_pr", "uniform"}, dict or array-like, default="squared_auc_pr"
        By out-of-fold score, all alike, or given: by member's name, of shape (M,), or (M, H).
    power : float, default=2.0
        Of the score in the weights.
    scorer : callable, default=None
        ``scorer(y, proba, classes=, events=, sample_weight=)``: scores (H,), the greater
        the better, of labels (n, H) and calibrated probabilities (n, H, K); None for
        `metrics.auc_pr`.
    events : sequence of labels, default=None
        The classes whose AUC-PR is averaged into the score; None for all.
    calibrator : calibrator or dict of them by member, default="temperature"
        Fitted per member on out-of-fold log-probabilities: ``"temperature"`` for
        `TemperatureScaling`, an object like it, or None.
    refit : {"all", "fold_average"}, default="all"
        What predicts: every member fitted once more on all rows, or the mean probability of
        its models of the folds, none of which saw the newest rows.
    memory : Memory, str or Path, default=None
        Where fitted member-folds and networks' epochs are kept, so that an interrupted `fit`
        resumes. They are found again by values, index, columns, labels, weights, parameters
        and versions; what a member's functions call is not looked at.
    n_jobs : int, default=None
        Member-folds fitted at a time, each in a process of its own; None for one, or what
        `joblib.parallel_config` says (Dask and Ray are reached through it).

    Attributes
    ----------
    classes_ : ndarray of shape (K,), or list of H of them
        The class labels.
    estimators_ : list of fitted members
        Refitted on all rows; lists of one a fold after ``refit="fold_average"``.
    named_estimators_ : dict
        The same by name.
    calibrators_ : list
        One a member, None where there is none.
    weights_, scores_, temperatures_ : DataFrame of shape (M, H)
        By member and horizon. NaN temperature where a calibrator has none.
    fold_scores_ : DataFrame
        Scores by fold (rows: fold and member; columns: horizons).
    oof_log_proba_ : DataFrame
        Uncalibrated out-of-fold log-probabilities: rows are covered rows of X, columns
        (member, horizon, class).
    fold_ : ndarray of int64, shape (n,)
        The fold whose test block covered each row of X, -1 for none.
    row_usage_ : RowUsage
        Who saw which rows, checked.
    recalibrated_ : dict or None
        After `recalibrate` on later rows: their number, first and last time.

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

    Callbacks (`set_callbacks`) hear of folds, of members within them, and, if they propagate
    so deep, of the epochs of networks: ``ProgressBar(max_propagation_depth=2)`` draws them
    where members are Pipelines, in other processes too. What a callback raises ends `fit`;
    with `memory`, nothing that was finished is lost. Pickles go without callbacks.

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
        weighting: Any = "squared_auc_pr",
        power: float = 2.0,
        scorer: Callable[..., FloatArray] | None = None,
        events: Sequence[Any] | None = None,
        calibrator: Any = "temperature",
        refit: str = "all",
        memory: joblib.Memory | str | Path | None = None,
        n_jobs: int | None = None,
    ) -> None:
        self.estimators = estimators
        self.cv = cv
        self.weighting = weighting
        self.power = power
        self.scorer = scorer
        self.events = events
        self.calibrator = calibrator
        self.refit = refit
        self.memory = memory
        self.n_jobs = n_jobs

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
            If a parameter is out of its domain, or members, folds, targets or weights cannot
            be used as they are.
        """
        self._check_members()
        check_panel_index(X, y, sample_weight=sample_weight)
        # A fit that fails leaves nothing that looks fitted.
        self.__dict__.pop("estimators_", None)
        data = FoldData.of(self, self._check_columns(X, reset=True), y, sample_weight)
        targets = cast(Targets, data.targets)
        self._rehearse(targets.classes, targets.n_horizons, list(self._names))
        folds = checked_folds(WalkForwardSplit(3) if self.cv is None else self.cv, data.X, y, data.keys)
        self._remember(data, folds)
        root = self._init_callback_context(max_subtasks=len(folds) + (self.refit == "all"))
        root.call_on_fit_task_begin(estimator=self, X=X, y=y)
        self.estimators_ = self._fit_members(data, folds, root)
        self._judge_out_of_fold()
        root.call_on_fit_task_end(estimator=self, X=X, y=y)
        return self

    def _check_members(self) -> None:
        if not self.estimators:
            raise EnsembleKitError("`estimators` must name at least one member; got none. Give [('name', classifier)].")
        for entry in self.estimators:
            if not (isinstance(entry, tuple) and len(entry) == 2 and isinstance(entry[0], str) and _answers(entry[1])):
                raise EnsembleKitError(
                    f"`estimators` must be (name, classifier) tuples of classifiers with probabilities; got {entry!r}. "
                    "Wrap one without in `sklearn.calibration.CalibratedClassifierCV`."
                )
        self._validate_names(self._names)
        memory_folder(self.memory)
        if self.refit not in ("all", "fold_average"):
            raise EnsembleKitError(
                f"`refit` must be 'all' or 'fold_average'; got {self.refit!r}. Take 'all' to predict with models "
                "fitted on every row."
            )

    def _rehearse(self, classes: NDArray[Any], n_horizons: int, names: list[str]) -> None:
        """Say what cannot be used for judging before any work is done."""
        if self.scorer is not None and not callable(self.scorer):
            raise EnsembleKitError(
                f"`scorer` must be None or a function of labels and probabilities; got {self.scorer!r}. "
                "Take `metrics.auc_pr`, or a function with its parameters."
            )
        rehearse(classes, n_horizons, names=names, calibrator=self.calibrator, **self._how_to_judge())

    def _how_to_judge(self) -> dict[str, Any]:
        scorer = auc_pr if self.scorer is None else self.scorer
        return {"weighting": self.weighting, "power": self.power, "scorer": scorer, "events": self.events}

    def _check_columns(self, X: Any, *, reset: bool) -> Any:
        # Frames go on as they are: members need their index, and say themselves what they cannot take.
        if isinstance(X, pd.DataFrame):
            validate_data(self, X, skip_check_array=True, reset=reset)
            return X
        return read_only(validate_data(self, X, ensure_all_finite=False, reset=reset))

    def _remember(self, data: FoldData, folds: list[tuple[IntArray, IntArray]]) -> None:
        """Keep what later questions need of the rows: not the columns."""
        targets, n = cast(Targets, data.targets), len(data.weights)
        self._classes, self._single, self._fitted_names = targets.classes, targets.single, list(self._names)
        self.classes_ = self._classes if self._single else [self._classes] * targets.n_horizons
        self._index, self._n_rows, self._panel = pack_index(data.keys.index), n, data.keys.panel
        self._learned_until = last_time_seen(data, self.cv)
        self.fold_ = np.full(n, -1, dtype=np.int64)
        for fold, (train, test) in enumerate(folds):
            self.fold_[test] = fold
            if not data.weights[train].any():
                raise EnsembleKitError(
                    f"`sample_weight` must be above 0 on training rows of every fold; fold {fold} has none. Give more "
                    "rows, or larger folds."
                )
        covered = self.fold_ >= 0
        self._oof_codes, self._oof_weights = targets.codes[covered], data.weights[covered]
        if not self._oof_weights.any():
            raise EnsembleKitError(
                "`sample_weight` must be above 0 on some rows that a fold tests; got 0 on all of them. Nothing says "
                "how far members can be believed."
            )

    def _fit_members(self, data: FoldData, folds: list[tuple[IntArray, IntArray]], root: Any) -> list[Any]:
        """Run all member-folds; keep what they say out of fold, and return the members that predict."""
        averaged, every = self.refit == "fold_average", np.arange(self._n_rows)
        blocks = list(enumerate(folds)) + ([] if averaged else [(REFIT, (every, every[:0]))])
        tasks = FoldTasks(self, root, [fold for fold, _ in blocks], self._names)
        jobs = [
            MemberFold(fold, name, member, train, test, averaged or fold == REFIT, tasks.of_member(at, m))
            for at, (fold, (train, test)) in enumerate(blocks)
            for m, (name, member) in enumerate(self.estimators)
        ]
        n_members, usage = len(self.estimators), RowUsage(self._n_rows)
        row_of = np.cumsum(self.fold_ >= 0) - 1  # a covered row's place among them
        self._oof = np.full((n_members, *self._oof_codes.shape, len(self._classes)), np.nan)
        kept: list[list[Any]] = [[] for _ in range(n_members)]
        # Closed whatever happens: workers that nobody listens to any more must not go on.
        with closing(run_member_folds(tasks.begun(jobs), data, memory=self.memory, n_jobs=self.n_jobs)) as results:
            for at, (job, result) in enumerate(zip(jobs, results, strict=True)):
                block, m = divmod(at, n_members)
                if job.fold != REFIT:
                    self._oof[m, row_of[job.test]] = result["log_proba"]
                if job.keep:
                    kept[m].append(result["fitted"])
                for role, rows in result["usage"].items():
                    usage.add(job.fold, job.name, role, rows)
                if m == n_members - 1:
                    tasks.end(block)
        self._usage = usage.entries
        return kept if averaged else [models[0] for models in kept]

    # ------------------------------------------------------------------------ judge

    def recalibrate(self, X: Any = None, y: Any = None, sample_weight: Any = None) -> Self:
        """Fit calibrators, scores and weights anew, and leave the members as they are.

        Parameters
        ----------
        X : DataFrame of shape (n, n_features), default=None
            Later rows, with the members' history in front as rows of weight 0; None for the
            stored out-of-fold log-probabilities, to which `weighting`, `power`, `scorer`,
            `events` and `calibrator` are applied as they are now (see `set_params`).
        y : array-like of shape (n,) or (n, H), default=None
            Their labels. Those of rows of weight 0 are not looked at.
        sample_weight : array-like of shape (n,), default=None
            0 for rows that are history only.

        Returns
        -------
        WalkForwardVotingClassifier
            Itself.

        Raises
        ------
        LeakageError
            If a row of weight above 0 is not later than all that the members were fitted on,
            the rows that its labels looked at included, as far as the `t1` or the `purge` of
            `cv` tells.
        EnsembleKitError
            If rows, labels or parameters cannot be used.

        Notes
        -----
        `row_usage_` speaks of the rows given to `fit`; after later ones, `recalibrated_` says
        which they were. A sizer that was fitted on this ensemble's out-of-fold probabilities
        must be fitted again.
        """
        check_is_fitted(self, "estimators_")
        if (X is None) != (y is None) or (X is None and sample_weight is not None):
            raise EnsembleKitError(
                "`X` and `y` must both be given, or neither, and `sample_weight` with them only; got "
                f"{', '.join(n for n, v in (('X', X), ('y', y), ('sample_weight', sample_weight)) if v is not None)}. "
                "Without rows, the stored out-of-fold answers are judged anew."
            )
        self._rehearse(self._classes, len(self._scores.T), self._fitted_names)
        if X is None:
            self._judge_out_of_fold()
            return self
        rows, evidence = self._later_evidence(X, y, sample_weight)
        self._judge(evidence)
        times = row_keys(X).axis()[rows]
        self.recalibrated_ = {"n_rows": len(rows), "first": str(times[0]), "last": str(times[-1])}
        self._usage = [entry for entry in self._usage if entry["role"] not in _JUDGING]
        return self

    def _judge(self, evidence: Evidence) -> None:
        names = self._fitted_names
        found = judge(evidence, new_calibrators(self.calibrator, names), names=names, **self._how_to_judge())
        self.calibrators_ = found.calibrators
        self._scores, self._fold_scores, self._weights = found.scores, found.fold_scores, found.weights

    def _judge_out_of_fold(self) -> None:
        """Judge by what members said out of fold, and put on record which rows did what."""
        covered = np.flatnonzero(self.fold_ >= 0)
        fold = self.fold_[covered]
        self._judge(Evidence(self._oof, self._oof_codes, self._oof_weights, fold, self._classes))
        by_score = isinstance(self.weighting, str) and self.weighting != "uniform" and self.power != 0
        happened = (any(calibrator is not None for calibrator in self.calibrators_), True, by_score)
        usage = RowUsage(self._n_rows)
        usage.entries = [entry for entry in self._usage if entry["role"] not in _JUDGING]
        for k in range(len(self._fold_scores)):
            for role in (role for role, did in zip(_JUDGING, happened, strict=True) if did):
                usage.add(k, ALL_MEMBERS, role, covered[(fold == k) & (self._oof_weights > 0)])
        self._usage = usage.check().entries
        self.recalibrated_ = None

    def _later_evidence(self, X: Any, y: Any, sample_weight: Any) -> tuple[IntArray, Evidence]:
        """Return what members say of rows that came after all that they were fitted on, and which rows these are."""
        check_panel_index(X, y, sample_weight=sample_weight, fitted_on_panel=self._panel)
        X = self._check_columns(X, reset=False)
        keys = row_keys(X)
        zone = getattr(keys.axis(), "tz", None)
        if keys.index is None or self._learned_until is None or (zone is None) != (self._index["tz"] is None):
            raise EnsembleKitError(
                "`X` must carry its times, and so must the X given to `fit`, both with a time zone or both without: "
                "nothing else says which rows are later; got others. Give frames indexed by time."
            )
        y = y if isinstance(y, pd.DataFrame | pd.Series) else np.asarray(y)
        if len(y) != len(X):
            raise EnsembleKitError(
                f"`y` must have a label for each of the {len(X)} rows of `X`; got {len(y)}. Use `labels.align(X)`."
            )
        weights = check_row_weights(sample_weight, len(X))
        rows = np.flatnonzero(weights)
        early = rows[~unseen(keys, self._learned_until, self.cv)[rows]]
        if len(early):
            raise LeakageError(
                f"`X` must hold rows of weight above 0 after {pd.Timestamp(self._learned_until)} (UTC) only, and after "
                f"what labels up to then looked at; got {len(early)} earlier row(s), the first at "
                f"{keys.axis()[early[0]]}. Give those `sample_weight` 0: they are history."
            )
        targets = Targets.encode(take_rows(y, rows), classes=self._classes)
        if targets.n_horizons != len(self._weights.T):
            raise EnsembleKitError(
                f"`y` must have the {len(self._weights.T)} horizon(s) given to `fit`; got {targets.n_horizons}. "
                "Label the rows as before."
            )
        said = np.stack([self._ask(models, X)[rows] for models in self.estimators_])
        return rows, Evidence(said, targets.codes, weights[rows], np.zeros(len(rows), np.int64), self._classes)

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
        return vote(self._weights, self.calibrators_, (self._ask(models, X) for models in self.estimators_))

    def _ask(self, models: Any, X: Any) -> FloatArray:
        """Return a member's log-probabilities (n, H, K): those of its model, or of its models' mean probability."""
        if not isinstance(models, list):
            return predict_log_proba(models, X, self._classes)
        return _mean([predict_log_proba(model, X, self._classes) for model in models])

    def vote_on(self, said: Iterable[Sequence[FloatArray]]) -> FloatArray:
        """Return the vote on what the members' models say, however they were asked.

        Parameters
        ----------
        said : iterable of M sequences of ndarrays (n, H, K)
            Log-probabilities of each model of each member: one, or one a fold after
            ``refit="fold_average"``.

        Returns
        -------
        ndarray of float64, shape (n, H, K)
            Calibrated, weighted probabilities.
        """
        check_is_fitted(self, "estimators_")
        return vote(self._weights, self.calibrators_, (each[0] if len(each) == 1 else _mean(each) for each in said))

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
        return np.flatnonzero(self.fold_ >= 0), vote(self._weights, self.calibrators_, self._oof)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = dict(super().__getstate__())
        if "estimators_" in state:
            # Callbacks belong to the run that set them: a bar that was drawn, a server that was spoken to. Before it,
            # they travel with the ensemble to the process that fits it.
            state.pop("_skl_callbacks", None)
        return state


def _mean(said: Sequence[FloatArray]) -> FloatArray:
    """Return the logs of the mean probabilities of several models."""
    mean: FloatArray = logsumexp(np.stack(said), axis=0) - np.log(len(said))
    return mean


def _answers(member: Any) -> bool:
    return hasattr(member, "get_params") and (hasattr(member, "predict_log_proba") or hasattr(member, "predict_proba"))
