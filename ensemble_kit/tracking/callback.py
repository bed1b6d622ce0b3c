"""scikit-learn's callback that writes a fit to MLflow: a run a fit, a child run a member."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from sklearn.callback._transport import open_listener, send

from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.exceptions import TrackingError
from ensemble_kit.tracking._record import Figure, Record
from ensemble_kit.tracking.context import (
    data_tags,
    flatten_parameters,
    git_tags,
    metric_name,
    plain_tags,
    split_definition,
    version_tags,
)
from ensemble_kit.tracking.patient import PatientRun
from ensemble_kit.validation import final_estimator

__all__ = ["MLflowCallback", "ensemble_figures"]

_LOG = logging.getLogger(__name__)
#: Tasks of a search, each of which is the fit of one candidate.
_CANDIDATES = {"candidate-split-evaluation", "refit-with-best-params"}
_FOLD = re.compile(r"fold \d+|refit")


class MLflowCallback:
    """Write every fit of an estimator to MLflow.

    Parameters
    ----------
    experiment : str
        The experiment's name, made where it is not there.
    run_name : str, default=None
        The runs' name; None for the estimator's class.
    tracking_uri : str, default=None
        The store; None for `mlflow.get_tracking_uri()`.
    tags : mapping, default=None
        Further tags: texts, or what JSON can say, as ``{"labels": labels.definition}``.
    log_epochs : bool, default=True
        Whether to write each epoch's losses.
    artifacts : path or iterable of paths, default=None
        Files that go with every run, written as it begins, such as the experiment's own.

    Attributes
    ----------
    run_id : str or None
        MLflow's id of the latest fit's run.

    See Also
    --------
    ensemble_kit.tracking.log_report : Files after the fact.
    ensemble_kit.tracking.log_and_register : The fitted model.

    Notes
    -----
    Set it on the outermost estimator (``model.set_callbacks(MLflowCallback("SPY"))``): a
    `SizedClassifier`, an ensemble, a Pipeline, a single estimator, a search. A fit is a run
    with parameters, data, folds, versions and commit; a child run a member has its epochs, its
    scores by fold, weights and temperatures; the run itself has them by member. In a search,
    each candidate's fit is a run under the search's. With an active run of MLflow's (of the
    same store), the fit's is a child of that one.

    Nothing that is fitted depends on it: not a bit, no fingerprint, no key of `memory`. A store
    that is down costs the logging and not the training (see `PatientRun`). Only the process of
    the outermost `fit` speaks to MLflow; other processes of this machine send it their events.

    A fit that raises ends as FAILED, one that is interrupted (or terminated, SIGTERM) as
    KILLED; after SIGKILL or a power cut, the next fit on that machine ends what is left over.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from ensemble_kit.ensemble import WalkForwardVotingClassifier
    >>> from ensemble_kit.tracking.callback import MLflowCallback
    >>> from ensemble_kit.validation import WalkForwardSplit
    >>> rng = np.random.default_rng(0)
    >>> X = rng.normal(size=(200, 2))
    >>> y = (X[:, 0] + rng.normal(size=200) > 0).astype(int)
    >>> vote = WalkForwardVotingClassifier([("lr", LogisticRegression())], cv=WalkForwardSplit(2, purge=0))
    >>> folder = TemporaryDirectory()
    >>> callback = MLflowCallback("demo", tracking_uri=f"sqlite:///{folder.name}/mlflow.db")
    >>> fitted = vote.set_callbacks(callback).fit(X, y)
    >>> from mlflow import MlflowClient
    >>> run = MlflowClient(callback.tracking_uri).get_run(callback.run_id)
    >>> run.info.status, run.data.params["lr__C"], run.data.metrics["weight_lr_H0"]
    ('FINISHED', '1.0', 1.0)
    >>> folder.cleanup()
    """

    #: scikit-learn hands it on to every estimator inside.
    max_propagation_depth = None

    def __init__(
        self,
        experiment: str,
        *,
        run_name: str | None = None,
        tracking_uri: str | None = None,
        tags: Mapping[str, Any] | None = None,
        log_epochs: bool = True,
        artifacts: str | Path | Iterable[str | Path] | None = None,
    ) -> None:
        if not isinstance(experiment, str) or not experiment.strip():
            raise TrackingError(f"`experiment` must be an experiment's name; got {experiment!r}. Name it 'SPY', say.")
        if tags is not None and not isinstance(tags, Mapping):
            raise TrackingError(
                f"`tags` must be a mapping of names to values; got {tags!r}. Write {{'desk': 'rates'}}, say."
            )
        self.experiment = experiment
        self.run_name = run_name
        self.tracking_uri = tracking_uri
        self.tags = tags
        self.log_epochs = log_epochs
        files = [artifacts] if isinstance(artifacts, str | Path) else (artifacts or ())
        self.artifacts = [Path(file) for file in files]
        self.run_id: str | None = None
        self._records: dict[Any, Record] = {}
        self._addresses: dict[Any, Any] = {}
        self._address: Any = None

    # ------------------------------------------------------------- scikit-learn's protocol

    def setup(self, estimator: Any, context: Any) -> None:
        """Begin to listen: the outermost fit begins.

        Parameters
        ----------
        estimator : estimator
            Whose `fit` was called.
        context : CallbackContext
            Its place in the tree of tasks.

        Raises
        ------
        TrackingError
            If a file of `artifacts` is not there.
        """
        if missing := [str(file) for file in self.artifacts if not file.exists()]:
            raise TrackingError(
                f"`artifacts` must be files that exist when the fit begins; got {', '.join(missing)}. "
                "Log later ones with `tracking.log_report`."
            )
        if self._address is None:
            # Workers of this machine send their events there, as to scikit-learn's own callbacks.
            with suppress(OSError):
                self._address = open_listener(partial(_take, self._records), owner=self)
        name = self.run_name or type(estimator).__name__
        self._records[context.root_uuid] = Record(PatientRun(self.tracking_uri), self.experiment, name, self.artifacts)
        self._addresses[context.root_uuid] = self._address

    def on_fit_task_begin(self, estimator: Any, context: Any, *, X: Any = None, y: Any = None) -> None:
        """Open a run where the task is a fit of its own.

        Parameters
        ----------
        estimator : estimator
            Whose task it is.
        context : CallbackContext
            The task.
        X, y : object
            What it is fitted on.
        """
        if not _is_fit(context):
            return
        try:
            event: dict[str, Any] = {
                "name": f"{context.source_task_name} {context.task_id}" if context.parent else None,
                "tags": data_tags(X, y) | version_tags() | git_tags() | {"estimator": type(estimator).__name__},
                "params": flatten_parameters(estimator),
                "split": split_definition(estimator, X),
                "members": _members(estimator),
            }
            # What the user says stands, whatever was found.
            event["tags"] |= plain_tags(self.tags)
        except Exception:  # noqa: BLE001 - of a value that cannot even be described: no reason not to train
            _LOG.warning("A fit's parameters could not be described for MLflow", exc_info=True)
            event = {"name": None, "tags": {}, "params": {}, "split": {}, "members": []}
        self._tell(context, "begin", event)

    def on_fit_task_end(self, estimator: Any, context: Any) -> None:
        """Write what the task has brought.

        Parameters
        ----------
        estimator : estimator
            Whose task it is.
        context : CallbackContext
            The task.
        """
        try:
            figures = list(self._figures(estimator, context))
        except Exception:  # noqa: BLE001 - of an ensemble of another kind: no reason not to train
            _LOG.warning("What a task has brought could not be described for MLflow", exc_info=True)
            figures = []
        if figures:
            self._tell(context, "figures", figures)
        if _is_fit(context):
            self._tell(context, "end", None)

    def teardown(self, estimator: Any, context: Any) -> None:  # noqa: ARG002
        """End what is open: the outermost fit has ended, or was broken off.

        Parameters
        ----------
        estimator : estimator
            Whose `fit` was called.
        context : CallbackContext
            Its place in the tree of tasks.
        """
        self._addresses.pop(context.root_uuid, None)
        record = self._records.pop(context.root_uuid, None)
        if record is not None:
            record.close(sys.exc_info()[1])
            self.run_id = record.run_id

    # ------------------------------------------------------------------------- private

    def _tell(self, context: Any, kind: str, content: Any) -> None:
        """Send an event to the process of the outermost fit, which may be this one."""
        message = (context.root_uuid, kind, _path(context)[0], content)
        if context.root_uuid in self._records:
            _take(self._records, message)
            return
        try:
            send(self._addresses[context.root_uuid], message)
        except (OSError, EOFError, KeyError, AttributeError) as error:  # a worker on another machine
            _LOG.info("an event could not be sent: %r", error)

    def _figures(self, estimator: Any, context: Any) -> Iterator[Figure]:
        path = _path(context)[1]
        if context.task_name == "epoch" and self.log_epochs and getattr(estimator, "epochs_", None):
            yield from _epoch_figures(path, estimator.epochs_[-1:])
        if context.task_name == "fit" and not path and isinstance(estimator, WalkForwardVotingClassifier):
            for member, label, horizon, value, step in ensemble_figures(estimator):
                yield member, metric_name(label, horizon), value, step
                yield None, metric_name(label, member, horizon), value, step
            if self.log_epochs:  # of models that were found in `memory`, and told nothing
                yield from _kept_epochs(estimator)
        if _is_fit(context):
            rounds = np.atleast_1d(getattr(final_estimator(getattr(estimator, "model_", estimator)), "n_iter_", []))
            for h, n in enumerate(rounds):
                yield None, "n_iter" if len(rounds) == 1 else f"n_iter_H{h}", float(n), 0

    def __getstate__(self) -> dict[str, Any]:
        # What is open belongs to this process; where to send events goes along.
        return {**self.__dict__, "_records": {}, "_address": None}


def _take(records: Mapping[Any, Record], message: tuple[Any, ...]) -> None:
    record = records.get(message[0])
    if record is not None:
        try:
            record.hear(*message[1:])
        except Exception:  # noqa: BLE001 - in a thread of scikit-learn's, which a worker waits for
            _LOG.warning("An event could not be written to MLflow", exc_info=True)


# -------------------------------------------------------------------------- where a task is


def _is_fit(context: Any) -> bool:
    """Return whether a task has a run: the outermost fit, and each fit of a search."""
    return context.parent is None or context.source_task_name in _CANDIDATES


def _path(context: Any) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Return the key of the run that a task belongs to, and its folds and members within, the outer ones first."""
    tasks = [context]
    while tasks[0].parent is not None:
        tasks.insert(0, tasks[0].parent)
    key: tuple[int, ...] = ()
    path: tuple[str, ...] = ()
    for at, task in enumerate(tasks):
        if task.source_task_name in _CANDIDATES:
            key, path = tuple(above.task_id for above in tasks[: at + 1]), ()
        elif _is_fold(task) or (at and _is_fold(tasks[at - 1])):
            path += (task.source_task_name or task.task_name,)
    return key, path


def _is_fold(task: Any) -> bool:
    # Known by what it does: a subclass of the ensemble has another name.
    return bool(_FOLD.fullmatch(task.task_name)) and not task.sequential_subtasks


# ---------------------------------------------------------------------------- what is written


def ensemble_figures(ensemble: Any) -> Iterator[tuple[str, str, str, float, int]]:
    """Yield what an ensemble measured.

    Parameters
    ----------
    ensemble : WalkForwardVotingClassifier
        Fitted.

    Yields
    ------
    member : str
        Whose figure it is.
    label : str
        ``auc_pr`` (or the scorer's own name) by fold; ``oof_auc_pr``, ``weight`` and
        ``temperature`` of all folds.
    horizon : str
        As ``H0``.
    value : float
        Never NaN.
    step : int
        The fold, or 0.
    """
    score = "auc_pr" if ensemble.scorer is None else getattr(ensemble.scorer, "__name__", "score")
    for (fold, member), row in ensemble.fold_scores_.iterrows():
        step = fold if isinstance(fold, int) else 0
        yield from ((str(member), score, str(h), float(value), step) for h, value in row.items() if pd.notna(value))
    frames = {f"oof_{score}": ensemble.scores_, "weight": ensemble.weights_, "temperature": ensemble.temperatures_}
    for label, frame in frames.items():
        for member, row in frame.iterrows():
            yield from ((str(member), label, str(h), float(value), 0) for h, value in row.items() if pd.notna(value))


def _members(estimator: Any) -> list[str]:
    ensemble = final_estimator(getattr(estimator, "model", estimator))
    return [name for name, _ in ensemble.estimators] if isinstance(ensemble, WalkForwardVotingClassifier) else []


def _epoch_figures(path: tuple[str, ...], epochs: Iterable[Mapping[str, Any]]) -> list[Figure]:
    member, inside = (path[1], (path[0], *path[2:])) if len(path) > 1 else (None, path)
    return [
        (member, metric_name(*inside, name), float(epoch[name]), int(epoch["epoch"]))
        for epoch in epochs
        for name in ("train_loss", "valid_loss", "learning_rate")
        if epoch[name] is not None
    ]


def _kept_epochs(ensemble: Any) -> Iterator[Figure]:
    for member, kept in ensemble.named_estimators_.items():
        models = {f"fold {k}": model for k, model in enumerate(kept)} if isinstance(kept, list) else {"refit": kept}
        for fold, model in models.items():
            yield from _epoch_figures((fold, member), getattr(final_estimator(model), "epochs_", ()))
