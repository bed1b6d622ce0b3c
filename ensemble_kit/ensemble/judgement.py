"""What is learned from out-of-fold log-probabilities: calibrators, scores and voting weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.base import clone

from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.ensemble.weights import member_weights
from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["Evidence", "Judgement", "calibrated", "judge", "new_calibrators", "rehearse", "vote"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What members said of rows that they had not seen, and what came true.

    Attributes
    ----------
    log_proba : ndarray of float64, shape (M, n, H, K)
        Uncalibrated log-probabilities.
    codes : ndarray of int64, shape (n, H)
        Class numbers of what came true.
    weights : ndarray of float64, shape (n,)
        Row weights; rows of 0 do not count.
    fold : ndarray of int64, shape (n,)
        The fold that tested each row.
    classes : ndarray of shape (K,)
        The labels.
    """

    log_proba: FloatArray
    codes: IntArray
    weights: FloatArray
    fold: IntArray
    classes: NDArray[Any]


@dataclass(frozen=True, eq=False)
class Judgement:
    """How far each member is believed.

    Attributes
    ----------
    calibrators : list of M calibrators or None
        Fitted.
    scores : ndarray of float64, shape (M, H)
        Of calibrated probabilities on all rows.
    fold_scores : ndarray of float64, shape (n_folds, M, H)
        The same by fold, NaN where a fold has no row that counts.
    weights : ndarray of float64, shape (M, H)
        Voting weights.
    """

    calibrators: list[Any]
    scores: FloatArray
    fold_scores: FloatArray
    weights: FloatArray


def judge(
    evidence: Evidence,
    calibrators: Sequence[Any],
    *,
    names: Sequence[str],
    weighting: Any,
    power: float,
    scorer: Callable[..., FloatArray],
    events: Sequence[Any] | None,
) -> Judgement:
    """Fit calibrators, score what they give, and turn scores into weights.

    Parameters
    ----------
    evidence : Evidence
        Out-of-fold log-probabilities.
    calibrators : sequence of M calibrators or None
        Unfitted; None leaves a member as it is.
    names : sequence of str
        The members.
    weighting, power, scorer, events : see `WalkForwardVotingClassifier`
        The same, `scorer` never None.

    Returns
    -------
    Judgement
        All of it.
    """
    y, weights = evidence.classes[evidence.codes], evidence.weights
    y = y[:, 0] if y.shape[1] == 1 else y
    n_folds = int(evidence.fold.max()) + 1
    shape = (len(names), evidence.codes.shape[1])
    scores, fold_scores = np.empty(shape), np.full((n_folds, *shape), np.nan)

    def _score(rows: Any, proba: FloatArray) -> FloatArray:
        given = {"classes": evidence.classes, "events": events, "sample_weight": weights[rows]}
        with _called("scorer", scorer, "None, or take what `metrics.auc_pr` takes"):
            return np.asarray(scorer(y[rows], proba[rows], **given))

    for m, (raw, calibrator) in enumerate(zip(evidence.log_proba, calibrators, strict=True)):
        if calibrator is not None:
            takes = "'temperature', None, or take what `TemperatureScaling` takes"
            with _called("calibrator", calibrator, takes), _warnings_of(names[m]):
                calibrator.fit(raw, y, sample_weight=weights, classes=evidence.classes)
        proba = np.exp(calibrated(calibrator, raw))
        scored = _score(slice(None), proba)
        if scored.shape != shape[1:] or not np.isfinite(scored).all():
            raise EnsembleKitError(
                f"`scorer` must return a finite score for each of {shape[1]} horizon(s); got {scored!r} for member "
                f"{names[m]!r}. Take `metrics.auc_pr`, or a function that returns shape ({shape[1]},)."
            )
        scores[m] = scored
        for k in range(n_folds):
            rows = (evidence.fold == k) & (weights > 0)
            if rows.any():
                with warnings.catch_warnings():
                    # Rare events may well miss a fold, which is no cause to warn.
                    warnings.filterwarnings("ignore", message="no row of class", category=UserWarning)
                    fold_scores[k, m] = _score(rows, proba)
    return Judgement(list(calibrators), scores, fold_scores, member_weights(weighting, scores, names, power=power))


def rehearse(classes: NDArray[Any], n_horizons: int, *, calibrator: Any, names: Sequence[str], **how: Any) -> None:
    """Judge a few made-up rows, so that what cannot be used is said before any member is fitted.

    Parameters
    ----------
    classes : ndarray of shape (K,)
        The labels.
    n_horizons : int
        Horizons of the target.
    calibrator : see `WalkForwardVotingClassifier`
        The same.
    names : sequence of str
        The members.
    **how : object
        The other parameters of `judge`.

    Raises
    ------
    EnsembleKitError
        If calibrator, scorer, events, weighting or power cannot be used.
    """
    rng = np.random.default_rng(0)
    codes = np.tile(np.arange(8 * len(classes))[:, None] % len(classes), n_horizons)
    logits = rng.normal(size=(len(names), *codes.shape, len(classes))) + np.eye(len(classes))[codes]
    made_up = Evidence(log_softmax(logits, axis=3), codes, np.ones(len(codes)), np.zeros(len(codes), np.int64), classes)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        judge(made_up, new_calibrators(calibrator, names), names=names, **how)


@contextmanager
def _called(name: str, value: Any, domain: str) -> Iterator[None]:
    try:
        yield
    except TypeError as error:
        raise EnsembleKitError(
            f"`{name}` must be {domain}; got {value!r}, which says: {error}. Give it the same parameters."
        ) from error


@contextmanager
def _warnings_of(member: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        yield
    for each in caught:
        # Past the generator and contextlib's frame: it points at who judges.
        warnings.warn(f"{each.message} (member {member!r})", each.category, stacklevel=3)


def vote(weights: FloatArray, calibrators: Sequence[Any], members: Iterable[FloatArray]) -> FloatArray:
    """Calibrate each member's log-probabilities and add the probabilities up by weight.

    Parameters
    ----------
    weights : ndarray of shape (M, H)
        Voting weights.
    calibrators : sequence of M calibrators or None
        Fitted.
    members : iterable of M ndarrays (n, H, K)
        Log-probabilities, one member at a time in memory.

    Returns
    -------
    ndarray of float64, shape (n, H, K)
        Probabilities; each row of a horizon sums to 1.
    """
    total: FloatArray = sum(
        weight[:, None] * np.exp(calibrated(calibrator, log_proba))
        for weight, calibrator, log_proba in zip(weights, calibrators, members, strict=True)
    )
    return total / total.sum(axis=2, keepdims=True)


def calibrated(calibrator: Any, log_proba: FloatArray) -> FloatArray:
    """Return calibrated log-probabilities.

    Parameters
    ----------
    calibrator : calibrator or None
        Fitted; None changes nothing.
    log_proba : ndarray of shape (n, H, K)
        What a member says.

    Returns
    -------
    ndarray of float64, shape (n, H, K)
        What it should say.
    """
    return log_proba if calibrator is None else np.asarray(calibrator.transform(log_proba))


def new_calibrators(calibrator: Any, names: Sequence[str]) -> list[Any]:
    """Return an unfitted calibrator for each member.

    Parameters
    ----------
    calibrator : {"temperature"}, calibrator, None, or dict of them by member
        For all members, or for each by name.
    names : sequence of str
        The members.

    Returns
    -------
    list of M calibrators or None
        Clones.

    Raises
    ------
    EnsembleKitError
        If it is none of these, or a dict names other members.
    """
    if not isinstance(calibrator, Mapping):
        return [_new_calibrator(calibrator) for _ in names]
    if set(calibrator) != set(names):
        raise EnsembleKitError(
            f"`calibrator` must name each of the members {list(names)}; got {list(calibrator)}. "
            "Give None to those that need none."
        )
    return [_new_calibrator(calibrator[name]) for name in names]


def _new_calibrator(calibrator: Any) -> Any:
    if calibrator is None:
        return None
    if isinstance(calibrator, str):
        if calibrator == "temperature":
            return TemperatureScaling()
    elif hasattr(calibrator, "fit") and hasattr(calibrator, "transform"):
        return clone(calibrator)
    raise EnsembleKitError(
        "`calibrator` must be 'temperature', an object with `fit` and `transform` like `TemperatureScaling()`, None, "
        f"or a dict of these by member; got {calibrator!r}. Choose one of them."
    )
