"""Studies that several processes work on, none of which need live to the end."""

from __future__ import annotations

import hashlib
import time
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.exceptions import ExperimentalWarning, UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.trial import FrozenTrial, TrialState
from sklearn.base import clone

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.tuning._rdb import GRACE, MAX_RETRY, worker_storage
from ensemble_kit.tuning.objective import WalkForwardObjective, keep_error

__all__ = ["best_estimator", "create_study", "tune"]

#: User attributes: of a trial begun beyond the number wanted, which was not run; of a study, its objective.
_SURPLUS, _KEY = "surplus", "objective"
#: Seconds between looks at what other workers do.
_LOOK = 0.5


# --------------------------------------------------------------------------- a study


def create_study(
    name: str,
    *,
    storage: str | None = None,
    objective: WalkForwardObjective | None = None,
    directions: Sequence[str] | None = None,
    seed: int = 0,
    sampler: Any = None,
    pruner: Any = None,
    heartbeat_interval: int = 60,
) -> optuna.Study:
    """Create a study, or join the one of this name.

    Parameters
    ----------
    name : str
        The study's.
    storage : str, default=None
        ``"sqlite:///studies.db"``, ``"postgresql+psycopg://user@host/database"``; None keeps it
        in this process.
    objective : WalkForwardObjective, default=None
        Gives the directions.
    directions : sequence of {"maximize", "minimize"}, default=None
        One an objective, where `objective` does not say so; None for ``["maximize"]``.
    seed : int, default=0
        Each trial is drawn from this and its own number: workers do not repeat each other, and
        one worker that stops and goes on draws what it would have drawn.
    sampler : BaseSampler, default=None
        None for TPE, which takes running trials into account.
    pruner : BasePruner, default=None
        None for `MedianPruner`, after five trials.
    heartbeat_interval : int, default=60
        Seconds between the heartbeats of a running trial. One that misses three is lost, and
        another worker tries it once more.

    Returns
    -------
    Study
        Optuna's.

    Raises
    ------
    EnsembleKitError
        If a study of that name has other directions, or was made for other rows, folds or scores.

    See Also
    --------
    tune : Work on it.

    Examples
    --------
    >>> from ensemble_kit.tuning import create_study
    >>> create_study("spy", directions=["maximize", "minimize"]).directions
    [<StudyDirection.MAXIMIZE: 2>, <StudyDirection.MINIMIZE: 1>]
    """
    wanted = list(directions or ["maximize"]) if objective is None else objective.directions
    study = optuna.create_study(
        study_name=name,
        storage=None if storage is None else worker_storage(storage, heartbeat_interval),
        sampler=_NumberedSampler(seed) if sampler is None else sampler,
        pruner=optuna.pruners.MedianPruner() if pruner is None else pruner,
        directions=wanted,
        load_if_exists=True,
    )
    have = [direction.name.lower() for direction in study.directions]
    if have != wanted:
        raise EnsembleKitError(
            f"`directions` must be those of the study {name!r}, {have}; got {wanted}. Take another name."
        )
    if objective is not None:
        _check_same_objective(study, objective)
    return study


def _check_same_objective(study: optuna.Study, objective: Any) -> None:
    key = getattr(objective, "key", None)
    if key is None:
        return
    known = study.user_attrs.get(_KEY)
    if known is None:
        study.set_user_attr(_KEY, key)
        study.set_user_attr("scoring", objective.names)
    elif known != key:
        raise EnsembleKitError(
            f"`objective` must have the rows, folds and scores that the study {study.study_name!r} was made for, or "
            "its values would not compare; got others. Take another name."
        )


class _NumberedSampler(optuna.samplers.BaseSampler):
    """TPE, seeded by the trial's number: workers of one seed would draw the same otherwise."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._of_trial: dict[int, Any] = {}

    def _for(self, trial: FrozenTrial) -> Any:
        if trial.number not in self._of_trial:
            digest = hashlib.sha256(f"{self._seed} {trial.number}".encode()).digest()
            seed = int.from_bytes(digest[:4])
            self._of_trial[trial.number] = optuna.samplers.TPESampler(seed=seed)
        return self._of_trial[trial.number]

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, Any]:
        return self._for(trial).infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: Any) -> dict[str, Any]:
        return self._for(trial).sample_relative(study, trial, search_space)

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, distribution: Any) -> Any:
        return self._for(trial).sample_independent(study, trial, param_name, distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: Any, values: Any) -> None:
        self._for(trial).after_trial(study, trial, state, values)
        self._of_trial.pop(trial.number, None)


# --------------------------------------------------------------------------- work


def tune(
    objective: Callable[[Any], Any],
    study: optuna.Study,
    *,
    n_trials: int | None = None,
    timeout: float | None = None,
    n_total: bool = True,
) -> optuna.Study:
    """Run trials until there are enough, together with whoever else works on the study.

    Parameters
    ----------
    objective : callable
        A `WalkForwardObjective`, or any objective.
    study : Study
        As `create_study` makes it.
    n_trials : int, default=None
        How many; None for no end but the timeout's.
    timeout : float, default=None
        Seconds after which this worker begins no trial, and waits for no other.
    n_total : bool, default=True
        Whether `n_trials` counts those of all workers, past ones included (a retry is no new
        one), or those that this call begins.

    Returns
    -------
    Study
        The same.

    Raises
    ------
    EnsembleKitError
        If there is no end, or the study was made for another objective.

    Notes
    -----
    A trial that raises one of `WalkForwardObjective.catch` (`ValueError`, `ArithmeticError`) is
    marked as failed, with its message as the user attribute ``error``, and the study goes on.
    Anything else ends this worker.

    A worker that finds nothing left to begin waits for the others while they have heartbeats, so
    that trials of those that were killed are tried once more (with the same parameters) before
    the last worker leaves. A trial that is lost twice has failed. So has one that is interrupted
    (Ctrl-C), until the next worker tries it again.

    Examples
    --------
    >>> import optuna
    >>> from ensemble_kit.tuning import create_study, tune
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> study = create_study("parabola", directions=["minimize"])
    >>> study = tune(lambda trial: (trial.suggest_float("x", -9, 9) - 2) ** 2, study, n_trials=5)
    >>> len(study.trials)
    5
    """
    if n_trials is None and timeout is None:
        raise EnsembleKitError("`n_trials` or `timeout` must be given; got neither. Take n_trials=100.")
    _check_same_objective(study, objective)
    ends = np.inf if timeout is None else time.monotonic() + timeout
    work, begun = _Work(objective, n_trials if n_total else None), 0
    while time.monotonic() < ends:
        _mend(study)
        trials = study.get_trials(deepcopy=False)
        enough = n_trials is not None and (_n_begun(trials) if n_total else begun) >= n_trials
        if not enough or (n_total and any(trial.state == TrialState.WAITING for trial in trials)):
            begun += 1
            work.run_one(study)
        elif n_total and _interval(study) is not None and _unfinished(trials):
            time.sleep(_LOOK)
        else:
            break
    return study


class _Work:
    """An objective, run for trials that are wanted, with the message of those that fail."""

    def __init__(self, objective: Callable[[Any], Any], n_total: int | None) -> None:
        self.objective, self.n_total = objective, n_total
        self.trial: Any = None

    def run_one(self, study: optuna.Study) -> None:
        """Run a trial; one that was taken away meanwhile (a machine that slept) is the other worker's."""
        try:
            study.optimize(self, n_trials=1, catch=WalkForwardObjective.catch)
        except (ValueError, AssertionError, UpdateFinishedTrialError):  # whatever Optuna says of it
            if not self._taken_away(study):
                raise
            warnings.warn(
                f"trial {self.trial.number} had no heartbeat for too long and was given to another worker: its score "
                "here is dropped.",
                UserWarning,
                stacklevel=3,
            )

    def __call__(self, trial: Any) -> Any:
        self.trial = trial
        with keep_error(trial):
            if self._surplus(trial):
                trial.set_user_attr(_SURPLUS, True)
                raise EnsembleKitError("other workers have begun all trials that are wanted: not run.")
            values = self.objective(trial)
            if not np.isfinite(values).all():
                raise EnsembleKitError(f"an objective must give finite numbers; got {values}.")
            return values

    def _surplus(self, trial: Any) -> bool:
        """Whether others took the last one in the same instant: numbers say who was first."""
        trials = trial.study.get_trials(deepcopy=False)
        history = next(_history(each) for each in trials if each.number == trial.number)
        if history and any(_history(each) == history and each.number < trial.number for each in trials):
            return True
        first = history[0] if history else trial.number
        return self.n_total is not None and _n_begun([t for t in trials if t.number < first]) >= self.n_total

    def _taken_away(self, study: optuna.Study) -> bool:
        if self.trial is None:
            return False
        now = next(t for t in study.get_trials(deepcopy=False) if t.number == self.trial.number)
        return now.state == TrialState.FAIL and "error" not in now.user_attrs


def _n_begun(trials: Sequence[FrozenTrial]) -> int:
    return sum(not _history(trial) and _SURPLUS not in trial.user_attrs for trial in trials)


def _history(trial: Any) -> list[int]:
    """Return the numbers of the trials that were lost before this one was to take their place."""
    history: list[int] = trial.system_attrs.get("retry_history", [])
    return history


def _unfinished(trials: Sequence[FrozenTrial]) -> bool:
    running = any(trial.state == TrialState.RUNNING for trial in trials)
    return running or bool(_not_retried(trials))


def _interval(study: optuna.Study) -> int | None:
    storage: Any = study._storage  # noqa: SLF001 - a study says it in no other way
    interval: int | None = getattr(storage, "get_heartbeat_interval", lambda: None)()
    return interval


def _not_retried(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    """Return lost trials that nobody was told to try again: who marked them was killed, or Ctrl-C ended them."""
    retried = {_history(trial)[-1] for trial in trials if _history(trial)}
    return [
        trial
        for trial in trials
        if trial.state == TrialState.FAIL
        and "error" not in trial.user_attrs
        and trial.number not in retried
        and len(_history(trial)) < MAX_RETRY
    ]


def _mend(study: optuna.Study) -> None:
    """Fail trials whose workers are gone, and have each tried once more."""
    interval = _interval(study)
    if interval is None:
        return
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        fail_stale_trials(study)
    for trial in _not_retried(study.get_trials(deepcopy=False)):
        # Whoever marked it a moment ago is about to add the retry.
        done = trial.datetime_complete
        if done is None or abs(time.time() - done.timestamp()) > GRACE * interval:
            attrs = {"failed_trial": trial.number, **trial.system_attrs, "retry_history": [trial.number]}
            again = {"params": trial.params, "distributions": trial.distributions, "system_attrs": attrs}
            study.add_trial(optuna.create_trial(state=TrialState.WAITING, **again))


# --------------------------------------------------------------------------- the winner


def best_estimator(study: optuna.Study, estimator: Any, *, trial: FrozenTrial | int | None = None) -> Any:
    """Return an unfitted estimator with the best parameters.

    Parameters
    ----------
    study : Study
        With at least one complete trial.
    estimator : estimator or WalkForwardObjective
        What was tuned, or the objective that has it.
    trial : FrozenTrial or int, default=None
        Another trial than the best, or its number.

    Returns
    -------
    estimator
        A clone, with the trial's parameters, and the seeds that it was scored with.

    Raises
    ------
    EnsembleKitError
        If no trial is complete, or this one is not.

    Notes
    -----
    Of several objectives, each is scaled to [0, 1] over the Pareto front, and the trial nearest
    to the best of all of them is taken (Euclidean distance; of equals, the first). Look at
    ``study.best_trials`` before believing it.

    Examples
    --------
    >>> import optuna
    >>> from ensemble_kit.sizing import KellySizer
    >>> from ensemble_kit.tuning import best_estimator, create_study, tune
    >>> optuna.logging.set_verbosity(optuna.logging.WARNING)
    >>> study = create_study("sizer")
    >>> study = tune(lambda trial: -abs(trial.suggest_int("cap", 1, 4) - 3), study, n_trials=15)
    >>> best_estimator(study, KellySizer()).cap
    3
    """
    chosen = _chosen(study, trial)
    template = estimator.estimator if isinstance(estimator, WalkForwardObjective) else estimator
    return clone(template).set_params(**chosen.params).set_params(**chosen.user_attrs.get("random_states", {}))


def _chosen(study: optuna.Study, trial: FrozenTrial | int | None) -> FrozenTrial:
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    if not complete:
        errors = [each.user_attrs["error"] for each in study.get_trials(deepcopy=False) if "error" in each.user_attrs]
        said = f" The last one that failed said: {errors[-1]}" if errors else " Run `tune` first."
        raise EnsembleKitError(f"`study` must have a complete trial; got {len(study.trials)} without one.{said}")
    if trial is not None:
        number = trial if isinstance(trial, int) else trial.number
        found = [each for each in complete if each.number == number]
        if not found:
            raise EnsembleKitError(f"`trial` must be one of the complete trials; got {number}. See `study.trials`.")
        return found[0]
    if len(study.directions) == 1:
        return study.best_trial
    front = sorted(study.best_trials, key=lambda each: each.number)
    losses = _losses(study, front)
    spread = np.ptp(losses, axis=0)
    scaled = (losses - losses.min(axis=0)) / np.where(spread > 0, spread, 1.0)
    return front[int(np.argmin((scaled**2).sum(axis=1)))]


def _losses(study: optuna.Study, trials: Sequence[FrozenTrial]) -> NDArray[np.float64]:
    signs = [-1.0 if direction.name == "MAXIMIZE" else 1.0 for direction in study.directions]
    return np.array([trial.values for trial in trials]) * signs
