"""Fitted classifiers row by row: the log-probabilities of the newest row."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import validate_data

from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.streams.rows import SPARE, Rows
from ensemble_kit.streams.transformers import Chain
from ensemble_kit.streams.trial import check_reach
from ensemble_kit.targets import LOG_FLOOR, place_columns, predict_log_proba
from ensemble_kit.validation import lookback

__all__ = ["Model", "start_model"]

FloatArray = NDArray[np.float64]


class Model(Protocol):
    """A classifier with its past."""

    def update(self, rows: Rows | None) -> FloatArray:
        """Return what the batch would say of the newest row.

        Parameters
        ----------
        rows : Rows or None
            One row of its input, the next; None asks again for the newest of the past.

        Returns
        -------
        ndarray of float64, shape (1, H, K)
            Log-probabilities, placed by class.
        """
        ...


def start_model(estimator: Any, history: Rows, classes: NDArray[Any], slow: list[str]) -> Model:
    """Give a fitted classifier its past.

    Parameters
    ----------
    estimator : classifier
        Fitted; a Pipeline, an ensemble, or any other.
    history : Rows
        Its input so far.
    classes : ndarray of shape (K,)
        The labels wanted.
    slow : list of str
        Takes the names of parts that must read all of the past again at every row.

    Returns
    -------
    Model
        What takes the next row.
    """
    if isinstance(estimator, Pipeline):
        return _Piped(estimator, history, classes, slow)
    if isinstance(estimator, WalkForwardVotingClassifier):
        return _Voting(estimator, history, classes, slow)
    if hasattr(estimator, "newest_log_proba"):
        return _Newest(estimator, history, classes)
    return _Asked(estimator, history, classes, slow)


class _Piped:
    """Transformers and a classifier of what they make."""

    def __init__(self, pipeline: Pipeline, history: Rows, classes: NDArray[Any], slow: list[str]) -> None:
        self._chain, made = Chain.start([step for _, step in pipeline.steps[:-1]], history, slow)
        self._model = start_model(pipeline.steps[-1][1], made, classes, slow)

    def update(self, rows: Rows | None) -> FloatArray:
        return self._model.update(None if rows is None else self._chain.update(rows))


class _Voting:
    """The ensemble's members, its calibrators and weights."""

    def __init__(
        self, ensemble: WalkForwardVotingClassifier, history: Rows, classes: NDArray[Any], slow: list[str]
    ) -> None:
        validate_data(ensemble, history.tail(1).table(), skip_check_array=True, reset=False)
        self._vote, self._classes = ensemble.vote_on, classes
        self._own = ensemble.classes_[0] if isinstance(ensemble.classes_, list) else ensemble.classes_
        self._members = [
            [start_model(model, _needed(model, history), self._own, slow) for model in models]
            for models in (one if isinstance(one, list) else [one] for one in ensemble.estimators_)
        ]

    def update(self, rows: Rows | None) -> FloatArray:
        said = ([model.update(rows) for model in models] for models in self._members)
        with np.errstate(divide="ignore"):
            log_proba = np.log(self._vote(said))
        placed = [place_columns(of_horizon, self._own, self._classes) for of_horizon in log_proba.swapaxes(0, 1)]
        return np.stack(placed, axis=1)


def _needed(model: Any, history: Rows) -> Rows:
    reach = lookback(model)
    return history if reach is None else history.tail(reach + SPARE)


class _Newest:
    """A classifier that answers for the newest row of an array alone, or carries what it has seen itself."""

    def __init__(self, estimator: Any, history: Rows, classes: NDArray[Any]) -> None:
        validate_data(estimator, history.tail(1).table(), skip_check_array=True, reset=False)
        own = estimator.classes_
        self._classes, self._own = classes, own if isinstance(own, list) else [own]
        self._in_place = all(np.array_equal(labels, classes) for labels in self._own)
        self._keeps = int(estimator.lookback) + 1
        self._window = np.asarray(history.tail(self._keeps).values, np.float32)
        self._ask = estimator.newest_log_proba
        self._stream = estimator.stream(self._window) if hasattr(estimator, "stream") else None

    def update(self, rows: Rows | None) -> FloatArray:
        answer = self._newest(rows).reshape(1, len(self._own), -1)
        if self._in_place:
            return np.maximum(answer, LOG_FLOOR)
        return np.stack([place_columns(answer[:, h], have, self._classes) for h, have in enumerate(self._own)], axis=1)

    def _newest(self, rows: Rows | None) -> FloatArray:
        if self._stream is not None:
            return np.asarray(self._stream.last if rows is None else self._stream.update(rows.values[0]))
        if rows is not None:
            seen = np.concatenate([self._window, rows.values], dtype=np.float32)
            self._window = seen[-self._keeps :]
        return np.asarray(self._ask(self._window))


class _Asked:
    """Any other classifier: it is asked for its last so many rows, and the newest answer is taken."""

    def __init__(self, estimator: Any, history: Rows, classes: NDArray[Any], slow: list[str]) -> None:
        self._estimator, self._classes = estimator, classes
        self._reach = lookback(estimator)
        self._seen = history.tail(None if self._reach is None else self._reach + 1)
        self._panel = _fitted_on_panel(estimator)
        if self._reach is None:
            slow.append(type(estimator).__name__)
        else:
            tried = history.tail(self._reach + SPARE)
            check_reach(estimator, self._reach, tried, self._proba(tried), self._proba)

    def update(self, rows: Rows | None) -> FloatArray:
        if rows is not None:
            seen = self._seen.then(rows) if self._reach != 0 else rows
            self._seen = seen.tail(None if self._reach is None else self._reach + 1)
        return self._ask(self._seen)[-1:]

    def _proba(self, rows: Rows) -> FloatArray:
        return np.exp(self._ask(rows))

    def _ask(self, rows: Rows) -> FloatArray:
        table = rows.table()
        if self._panel and isinstance(table, pd.DataFrame):
            # One instrument's rows as the panel that the model was fitted on would have them.
            table = table.set_axis(pd.MultiIndex.from_product([table.index, ["one"]]), axis=0)
        return predict_log_proba(self._estimator, table, self._classes)


def _fitted_on_panel(estimator: Any) -> bool:
    """Whether an estimator, or the fitted one inside it, was fitted on a panel and wants its index."""
    inside = [part for name, part in vars(estimator).items() if name.endswith("_") and hasattr(part, "predict_proba")]
    return bool(getattr(estimator, "panel_", False)) or any(_fitted_on_panel(part) for part in inside)
