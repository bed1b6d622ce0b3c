"""What a trial is judged by, a fold at a time: each score with its direction and its cure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin
from sklearn.metrics import get_scorer, get_scorer_names, log_loss

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import auc_pr, brier_score, expected_calibration_error
from ensemble_kit.targets import unstack_horizons

__all__ = ["Fold", "Score", "scores_of"]

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Fold:
    """What a fold's model said of the rows it was tested on, and what came true.

    Attributes
    ----------
    X : DataFrame or ndarray of n rows
        Columns of the test rows.
    y : ndarray of shape (n,) or (n, H)
        What came true.
    weights : ndarray of float64, shape (n,)
        0 for rows that do not count.
    classes : ndarray of shape (K,) or None
        The labels of the columns; None for numbers.
    answer : ndarray
        Probabilities (n, H, K), or predicted numbers.
    null : float or None
        The causal rule's AUC-PR on the same rows.
    events : list or None
        The classes that AUC-PR is about; None for all.
    earned : Series or None
        Position times the next open's return, one value a time of the test block.
    """

    X: Any
    y: NDArray[Any]
    weights: FloatArray
    classes: NDArray[Any] | None
    answer: FloatArray
    null: float | None = None
    events: list[Any] | None = None
    earned: pd.Series[float] | None = None

    def first(self) -> dict[str, Any]:
        """Return labels and probabilities of the horizon that trades, as metrics take them."""
        y = self.y if self.y.ndim == 1 else self.y[:, 0]
        return {"y": y, "proba": self.answer[:, :1], "classes": self.classes, "sample_weight": self.weights}

    def auc_pr(self, scores: FloatArray | None = None) -> float:
        """Return the mean AUC-PR of the events, by the model's or by other scores (n, 1, K)."""
        given = self.first() if scores is None else self.first() | {"proba": scores}
        return float(auc_pr(**given, events=self.events)[0])


@dataclass(frozen=True)
class Score:
    """A score by name.

    Attributes
    ----------
    name : str
        As it is reported.
    direction : {"maximize", "minimize"}
        What is better.
    of_fold : callable
        `Fold` to number.
    so_far : callable or None
        Folds to number; None for the mean of `of_fold`.
    needs : frozenset of str
        ``"rule"``, ``"positions"``, ``"classes"``.
    """

    name: str
    direction: str
    of_fold: Callable[[Fold], float]
    so_far: Callable[[list[Fold]], float] | None = None
    needs: frozenset[str] = field(default_factory=frozenset)


def scores_of(scoring: Any) -> list[Score]:
    """Return the scores that a `scoring` means.

    Parameters
    ----------
    scoring : str, callable or sequence of them
        Ours by name, scikit-learn's by name, or a scorer ``(estimator, X, y) -> float`` whose
        greater is better.

    Returns
    -------
    list of Score
        One or several.

    Raises
    ------
    EnsembleKitError
        If a name is not known, comes twice, or there is none.
    """
    several = isinstance(scoring, Sequence) and not isinstance(scoring, str)
    scores = [_score(one) for one in (scoring if several else [scoring])]
    names = [score.name for score in scores]
    if not names or len(set(names)) < len(names):
        raise EnsembleKitError(
            f"`scoring` must name at least one score, and each once; got {names}. Take 'auc_pr_excess', say."
        )
    return scores


def _score(one: Any) -> Score:
    if isinstance(one, str) and one in _SCORES:
        return _SCORES[one]
    if isinstance(one, str) and one in get_scorer_names():
        scorer = get_scorer(one)
        return Score(one, "maximize", lambda fold: _by_scorer(scorer, fold))
    if not callable(one):
        raise EnsembleKitError(
            f"`scoring` must be one of {', '.join(_SCORES)}, a name of scikit-learn's scorers, or a function "
            f"(estimator, X, y); got {one!r}. `metrics.AUCPRScorer(events=...)` is one."
        )
    name = getattr(one, "__name__", type(one).__name__)
    return Score(name, "maximize", lambda fold: _by_scorer(one, fold))


# --------------------------------------------------------------------------- people's scorers


class _Said(BaseEstimator):
    """A fitted model's answers on the very rows that are scored: windows had their history."""

    def __init__(self, fold: Fold) -> None:
        self.fold = fold

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def _rows(self, X: Any) -> FloatArray:
        if len(X) != len(self.fold.answer):
            raise EnsembleKitError(
                f"a scorer must ask for the {len(self.fold.answer)} rows it was given; it asked for {len(X)}. "
                "Score the rows as they come."
            )
        return self.fold.answer


class _SaidClass(ClassifierMixin, _Said):
    @property
    def classes_(self) -> Any:
        classes = self.fold.classes
        return classes if self.fold.y.ndim == 1 else [classes] * self.fold.y.shape[1]

    def predict_proba(self, X: Any) -> Any:
        proba = self._rows(X)
        # Those of float32 add up to 1 by its own precision only, and metrics of float64 complain.
        return unstack_horizons(proba / proba.sum(axis=2, keepdims=True), self.fold.y.ndim == 1)

    def predict(self, X: Any) -> Any:
        classes: Any = self.fold.classes
        said = classes[self._rows(X).argmax(axis=2)]
        return said[:, 0] if self.fold.y.ndim == 1 else said


class _SaidNumber(RegressorMixin, _Said):
    def predict(self, X: Any) -> Any:
        return self._rows(X)


def _by_scorer(scorer: Any, fold: Fold) -> float:
    counted = np.flatnonzero(fold.weights > 0)
    X = fold.X.iloc[counted] if hasattr(fold.X, "iloc") else fold.X[counted]
    part = Fold(X, fold.y[counted], fold.weights[counted], fold.classes, fold.answer[counted])
    said = _SaidNumber(part) if fold.classes is None else _SaidClass(part)
    weights = {} if (part.weights == 1).all() else {"sample_weight": part.weights}
    return float(scorer(said, X, part.y, **weights))


# --------------------------------------------------------------------------- ours


def _excess(fold: Fold) -> float:
    return fold.auc_pr() - (fold.null or 0.0)


def _calibration(fold: Fold) -> float:
    return float(expected_calibration_error(**fold.first(), events=fold.events).to_numpy().mean())


def _brier(fold: Fold) -> float:
    return float(brier_score(**fold.first())[0])


def _log_loss(fold: Fold) -> float:
    given = fold.first()
    proba = np.clip(given["proba"][:, 0], np.finfo(np.float32).eps, 1.0)
    proba /= proba.sum(axis=1, keepdims=True)
    return float(log_loss(given["y"], proba, labels=fold.classes, sample_weight=fold.weights))


def _equity(folds: list[Fold]) -> FloatArray:
    steps = [fold.earned for fold in folds if fold.earned is not None]
    return np.concatenate([[1.0], np.cumprod(1.0 + np.concatenate(steps))])


def _total_return(folds: list[Fold]) -> float:
    return float(_equity(folds)[-1] - 1.0)


def _max_drawdown(folds: list[Fold]) -> float:
    equity = _equity(folds)
    return float((equity / np.maximum.accumulate(equity) - 1.0).min())


_CLASSES, _POSITIONS = frozenset({"classes"}), frozenset({"classes", "positions"})
_SCORES = {
    score.name: score
    for score in [
        Score("auc_pr", "maximize", Fold.auc_pr, needs=_CLASSES),
        Score("auc_pr_excess", "maximize", _excess, needs=frozenset({"classes", "rule"})),
        Score("brier", "minimize", _brier, needs=_CLASSES),
        Score("log_loss", "minimize", _log_loss, needs=_CLASSES),
        Score("calibration", "minimize", _calibration, needs=_CLASSES),
        Score("total_return", "maximize", lambda fold: _total_return([fold]), _total_return, _POSITIONS),
        # At most 0: the nearer to it, the better.
        Score("max_drawdown", "maximize", lambda fold: _max_drawdown([fold]), _max_drawdown, _POSITIONS),
    ]
}
