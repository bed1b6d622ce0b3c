"""A walk-forward as Optuna's objective: one fold at a time, so that hopeless trials end early."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from optuna.exceptions import TrialPruned
from sklearn.base import clone

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.fingerprint import fingerprint
from ensemble_kit.metrics import causal_rule, next_open_return
from ensemble_kit.tuning import _track
from ensemble_kit.tuning._front import features_of, split_front
from ensemble_kit.tuning._scores import Fold, Score, scores_of
from ensemble_kit.tuning.space import space as space_of
from ensemble_kit.tuning.space import suggest
from ensemble_kit.validation import FoldData, RowUsage, checked_folds, predict_on_rows, take_rows

__all__ = ["WalkForwardObjective"]


class WalkForwardObjective:
    """Score parameters out of fold, a fold at a time: callable by `study.optimize`.

    Parameters
    ----------
    estimator : classifier, regressor, Pipeline or SizedClassifier
        What is tuned; cloned for every trial and fold.
    X : DataFrame or array of shape (n, n_features)
        Bars (or columns) in time order, as the estimator takes them.
    y : array-like of shape (n,) or (n, H)
        Targets, none missing. Scores of ours are of horizon 0, the one that trades.
    cv : splitter or iterable of (train, test)
        Usually ``WalkForwardSplit(t1=labels.t1)``. These rows choose the parameters: keep a
        holdout that no trial sees.
    space : mapping of str to Distribution, default=None
        What to draw; None for `tuning.space` of the estimator.
    scoring : str, callable or sequence of them, default="auc_pr"
        ``"auc_pr"``, ``"auc_pr_excess"`` (AUC-PR less the causal rule's on the same rows),
        ``"brier"``, ``"log_loss"``, ``"calibration"`` (expected calibration error, the mean of
        the events), ``"total_return"`` and ``"max_drawdown"`` (of positions times the next
        open's return, before costs; the estimator must be a `SizedClassifier` and X bars),
        a name or an object of scikit-learn's scorers. Several make several objectives.
    sample_weight : array-like of shape (n,), default=None
        0 for rows that are history only.
    features : DataFrame or array of n rows, default=None
        Columns computed already, causal and stateless: the estimator is fitted on these, and X
        is bars for the rule and the returns.
    definition : mapping, default=None
        ``labels.definition``: makes the causal rule, the null that is reported beside each
        AUC-PR, and says which classes are events; needed by ``"auc_pr_excess"``.
    random_state : int, default=0
        Seeds of all parts whose `random_state` is None are made from this and the trial's
        parameters: the same parameters have the same score, in any process.
    track : str, default=None
        An MLflow experiment: one run a trial, under one run a study.
    memory : Memory, str or Path, default=None
        Where computed features are kept, so that workers share them.

    Attributes
    ----------
    directions : list of str
        ``"maximize"`` or ``"minimize"``, one a score.
    names : list of str
        Names of the scores.
    space : dict of str to Distribution
        What is drawn.
    catch : tuple of exception types
        For ``study.optimize(objective, catch=objective.catch)``.
    key : str
        A fingerprint of rows, folds and scores: values of another key do not compare.

    Raises
    ------
    LeakageError
        If a fold's training rows do not all precede its test rows.
    EnsembleKitError
        If a parameter is out of its domain, or a score lacks what it needs. All of this is said
        here, before any trial.

    See Also
    --------
    create_study : A study that several processes can work on.
    best_estimator : The winner, unfitted.

    Notes
    -----
    The first steps of a Pipeline (of a `SizedClassifier`, too) that are our own causal,
    stateless transformers, and of which nothing is drawn, are computed once, here; what is
    fitted stays in every fold. Windows have the real bars in front of each test block.

    After each fold of a single objective the score so far is reported (the mean over folds;
    total return and drawdown of all folds so far together), and the trial is pruned where the
    pruner says so. Optuna has no pruning of several objectives.

    User attributes of each trial: ``fold_scores`` (by name), ``null`` (the rule's AUC-PR by
    fold), ``prevalence`` (by class, of the tested rows), ``seconds`` (by fold), ``parameters``
    (all of the estimator's, numbers and words as they are, others as text), ``random_states``,
    and ``error`` where it failed. A calibration error of about 0 is what a constant prior has,
    too: it is an objective beside another, not alone. The best of many trials is flattered by
    its being the best: judge it on rows that no trial saw.

    Data and parameters that do not fit raise, and Optuna marks the trial as failed and raises
    on. With ``catch=objective.catch``, which `tune` passes by itself, the study goes on. What
    is no `ValueError` or `ArithmeticError` (a bug, a full memory) always ends it.

    Examples
    --------
    >>> import numpy as np, optuna
    >>> from ensemble_kit.tuning import WalkForwardObjective
    >>> from ensemble_kit.validation import WalkForwardSplit
    >>> from sklearn.linear_model import LogisticRegression
    >>> X = np.random.default_rng(0).normal(size=(200, 2))
    >>> y = X[:, 0] + X[:, 1] > 1
    >>> C = {"C": optuna.distributions.FloatDistribution(0.01, 10.0, log=True)}
    >>> cv = WalkForwardSplit(2, purge=0)
    >>> objective = WalkForwardObjective(LogisticRegression(), X, y, cv=cv, space=C, scoring="log_loss")
    >>> round(objective(optuna.trial.FixedTrial({"C": 1.0})), 2), objective.directions
    (0.12, ['minimize'])
    """

    catch = (ValueError, ArithmeticError)

    def __init__(
        self,
        estimator: Any,
        X: Any,
        y: Any,
        *,
        cv: Any,
        space: Mapping[str, Any] | None = None,
        scoring: Any = "auc_pr",
        sample_weight: Any = None,
        features: Any = None,
        definition: Mapping[str, Any] | None = None,
        random_state: int = 0,
        track: str | None = None,
        memory: joblib.Memory | str | Path | None = None,
    ) -> None:
        self.estimator = estimator
        self.space = space_of(estimator) if space is None else dict(space)
        self.random_state = random_state
        self.track = track
        self._scores = scores_of(scoring)
        self._check_space()
        columns = X if features is None else features
        _check_same_rows(X, columns)
        data = FoldData.of(estimator, columns, y, sample_weight)
        self._check_scores(data, definition)
        self._folds = checked_folds(cv, columns, y, data.keys)
        self._earned = next_open_return(X) if self._needs("positions") else None
        self._front_is_done = features is not None
        front = None if self._front_is_done else split_front(clone(estimator), self.space)[0]
        self._data = data if front is None else replace(data, X=features_of(front, columns, memory))
        self._ask(X, definition)
        self.key = fingerprint(columns, data.y, data.weights, self._folds, self.names, definition)

    @property
    def directions(self) -> list[str]:
        """What is better, one a score."""
        return [score.direction for score in self._scores]

    @property
    def names(self) -> list[str]:
        """Names of the scores."""
        return [score.name for score in self._scores]

    def __repr__(self) -> str:
        return (
            f"<WalkForwardObjective of {type(self.estimator).__name__}: {', '.join(self.names)} on "
            f"{len(self._folds)} fold(s), {len(self.space)} parameter(s)>"
        )

    def __call__(self, trial: Any) -> float | tuple[float, ...]:
        """Score a trial's parameters.

        Parameters
        ----------
        trial : Trial or FixedTrial
            Optuna's.

        Returns
        -------
        float or tuple of float
            The score, or the scores, over all folds.

        Raises
        ------
        TrialPruned
            If the pruner says so.
        EnsembleKitError
            If a score is no number.
        """
        with keep_error(trial), _track.trial_run(self.track, trial) as run:
            params = suggest(trial, self.space)
            estimator = clone(self.estimator).set_params(**params)
            seeds = self._seeds(estimator, params)
            estimator.set_params(**seeds)
            parameters = {name: _plain(value) for name, value in estimator.get_params(deep=True).items()}
            trial.set_user_attr("random_states", seeds)
            trial.set_user_attr("parameters", parameters)
            if run is not None:
                run.log_params(parameters)
            rest = estimator if self._front_is_done else split_front(estimator, self.space)[1]
            return self._run_folds(trial, rest, run)

    # ------------------------------------------------------------------------- a trial

    def _run_folds(self, trial: Any, estimator: Any, run: _track.Run | None) -> float | tuple[float, ...]:
        data, done, values = self._data, list[Fold](), list[float]()
        marks: dict[str, list[float]] = {name: [] for name in [*self.names, "seconds"]}
        usage, started = RowUsage(len(data.weights)), time.perf_counter()
        try:
            for k, (fitted, used) in enumerate(data.fits(estimator, self._folds)):
                test = self._folds[k][1]
                for role, rows in used.items():
                    usage.add(k, "model", role, rows)
                usage.add(k, "model", "score", test[data.weights[test] > 0])
                usage.check()
                done.append(self._judged(fitted, k))
                values = [self._so_far(score, done, marks[score.name]) for score in self._scores]
                marks["seconds"].append(round(time.perf_counter() - started - sum(marks["seconds"]), 6))
                if run is not None:
                    run.log_metrics(dict(zip(self.names, values, strict=True)), step=k)
                self._report(trial, values, k)
        finally:  # of a trial that was pruned or failed, too
            trial.set_user_attr("seconds", marks.pop("seconds"))
            trial.set_user_attr("fold_scores", marks)
            for name, known in self._known.items():
                trial.set_user_attr(name, known)
        return values[0] if len(values) == 1 else tuple(values)

    def _judged(self, fitted: Any, fold: int) -> Fold:
        data, test = self._data, self._folds[fold][1]
        classes = None if data.targets is None else data.targets.classes
        method = "predict" if classes is None else "predict_proba"
        answer = predict_on_rows(fitted, data.X, test, data.keys, classes, method=method)
        earned = None
        if self._earned is not None:
            position = predict_on_rows(fitted, data.X, test, data.keys, classes, method="predict_position")
            earned = (self._earned.iloc[test] * position).fillna(0.0)
            if isinstance(earned.index, pd.MultiIndex):  # equal parts of the equity
                earned = earned.groupby(level=0).mean()
        return replace(self._asked[fold], answer=answer, earned=earned)

    def _so_far(self, score: Score, done: list[Fold], marks: list[float]) -> float:
        marks.append(score.of_fold(done[-1]))
        value = float(np.mean(marks)) if score.so_far is None else score.so_far(done)
        if not np.isfinite(value):
            raise EnsembleKitError(
                f"`scoring` must be a number on every fold; {score.name} is {value} on fold {len(done) - 1}. "
                "Give larger folds, or another score."
            )
        return value

    def _report(self, trial: Any, values: list[float], fold: int) -> None:
        if len(values) > 1:
            return
        trial.report(values[0], fold)
        if fold + 1 < len(self._folds) and trial.should_prune():
            raise TrialPruned(f"{self.names[0]} {values[0]:.4g} after fold {fold}")

    def _ask(self, X: Any, definition: Any) -> None:
        """Make what is the same in all trials: the rows of each fold, the rule's score on them, the prevalence."""
        data, targets = self._data, self._data.targets
        rule, events = _rule_of(X, definition, data)
        nothing = np.empty((0, 1, 1))
        self._asked, self._known = [], dict[str, Any]()
        for _, test in self._folds:
            classes = None if targets is None else targets.classes
            rows = take_rows(data.X, test)
            fold = Fold(rows, data.y[test], data.weights[test], classes, nothing, events=events)
            null = None if rule is None else fold.auc_pr(rule[test])
            self._asked.append(replace(fold, null=null))
        if rule is not None:
            self._known["null"] = [fold.null for fold in self._asked]
        if targets is not None:
            tested = np.concatenate([test for _, test in self._folds])
            mass = np.bincount(targets.codes[tested, 0], data.weights[tested], len(targets.classes))
            shares = zip(targets.classes, mass / mass.sum(), strict=True)
            self._known["prevalence"] = {str(label): float(share) for label, share in shares}

    def _seeds(self, estimator: Any, params: Mapping[str, Any]) -> dict[str, int]:
        said = json.dumps(params, sort_keys=True, default=str)
        return {
            name: int.from_bytes(hashlib.sha256(f"{self.random_state} {said} {name}".encode()).digest()[:4]) >> 1
            for name, value in sorted(estimator.get_params(deep=True).items())
            if value is None and name.rpartition("__")[2] == "random_state"
        }

    # ------------------------------------------------------------------------- checks

    def _needs(self, what: str) -> bool:
        return any(what in score.needs for score in self._scores)

    def _check_space(self) -> None:
        known = self.estimator.get_params(deep=True)
        if unknown := [name for name in self.space if name not in known]:
            raise EnsembleKitError(
                f"`space` must name parameters of the estimator; got {', '.join(map(repr, unknown))}. "
                "`tuning.space(estimator)` makes one."
            )

    def _check_scores(self, data: FoldData, definition: Any) -> None:
        names = ", ".join(score.name for score in self._scores)
        if data.targets is None and self._needs("classes"):
            raise EnsembleKitError(
                f"`scoring` must fit an estimator of numbers; got {names}. Take 'neg_mean_squared_error', say."
            )
        if definition is None and self._needs("rule"):
            raise EnsembleKitError(
                "`definition` must be given for 'auc_pr_excess', which needs the causal rule; got None. "
                "Pass `labels.definition`."
            )
        if self._needs("positions") and not hasattr(self.estimator, "predict_position"):
            raise EnsembleKitError(
                f"`estimator` must have `predict_position` for {names}; {type(self.estimator).__name__} has none. "
                "Wrap it in a `SizedClassifier`."
            )


@contextmanager
def keep_error(trial: Any) -> Iterator[None]:
    """Keep the message of what ends a trial as its user attribute ``error``.

    Parameters
    ----------
    trial : Trial
        Optuna's.

    Yields
    ------
    None
        Nothing.
    """
    try:
        yield
    except TrialPruned:
        raise
    except Exception as error:
        trial.set_user_attr("error", f"{type(error).__name__}: {error}")
        raise


def _rule_of(X: Any, definition: Any, data: FoldData) -> tuple[Any, list[Any] | None]:
    """Return the causal rule's scores (n, 1, K), and the events it has."""
    if definition is None or data.targets is None:
        return None, None
    scores = causal_rule(X, definition)
    labels = data.targets.classes.tolist()
    events = [event for event in scores.columns.tolist() if event in labels]
    if not events:
        raise EnsembleKitError(
            f"`definition` must be of the labels in `y`, {labels}; its events are {scores.columns.tolist()}. "
            "Pass the `definition` of these labels."
        )
    placed = np.zeros((len(scores), 1, len(labels)))
    placed[:, 0, [labels.index(event) for event in events]] = scores[events].to_numpy()
    return placed, events


def _check_same_rows(X: Any, columns: Any) -> None:
    same = len(X) == len(columns)
    if same and isinstance(X, pd.DataFrame) and isinstance(columns, pd.DataFrame):
        same = X.index.equals(columns.index)
    if not same:
        raise EnsembleKitError(
            f"`features` must have the rows of `X`, in their order; got {len(columns)} rows for {len(X)}. "
            "Compute them on these very bars."
        )


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)[:500]
