"""Whether probabilities mean what they say: in bins, as a line, and within the Brier score."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import logit
from sklearn.linear_model import LogisticRegression

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics.classification import _aligned, _chosen, _horizon_names
from ensemble_kit.targets import one_horizon

__all__ = [
    "brier_decomposition",
    "calibration_slope",
    "expected_calibration_error",
]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: Logits that differ by no more are one probability, rounded as float32 rounds.
_SAME_LOGIT = 1e-6


def expected_calibration_error(
    y: Any,
    proba: Any,
    *,
    classes: Sequence[Any] | NDArray[Any],
    events: Sequence[Any] | None = None,
    kind: str = "class",
    n_bins: int = 15,
    sample_weight: Any = None,
) -> pd.DataFrame:
    """Mean distance of predicted and observed shares over bins of equal mass.

    Parameters
    ----------
    y, proba, classes, events : see `auc_pr_by_class`
        The same; probabilities that sum to 1.
    kind : {"class", "top_label"}, default="class"
        Whether each class is judged by its own probability, or, in one number, the most
        probable class of each row by its.
    n_bins : int, default=15
        Bins by predicted probability, of equal weight; equal probabilities share a bin.
    sample_weight : array-like of shape (n,), default=None
        Rows of weight 0 do not count.

    Returns
    -------
    DataFrame of shape (H, n_events), or (H, 1) for `top_label`
        In [0, 1].

    Raises
    ------
    EnsembleKitError
        If `kind` is unknown, `events` are given to `top_label`, which knows none, or a row
        that counts holds no probabilities.

    See Also
    --------
    calibration_slope : Tells overconfident from constant.
    reliability_curve : The bins themselves, with intervals.
    brier_decomposition : Calibration beside what the probabilities tell apart.

    Notes
    -----
    A constant prior has about 0, too, and calibrated probabilities have more than it: about
    0.8 standard errors of a bin's frequency. With rare events the most probable class is nearly
    always the common one, and `top_label` says nothing of the events. Read it beside slope and
    skill.

    References
    ----------
    M. P. Naeini, G. F. Cooper, M. Hauskrecht, Obtaining Well Calibrated Probabilities
    Using Bayesian Binning, AAAI 2015.

    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, On Calibration of Modern Neural
    Networks, ICML 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.metrics import expected_calibration_error
    >>> p = np.repeat([0.2, 0.6], 5)
    >>> y = [0, 0, 0, 0, 1, 0, 0, 1, 1, 1]
    >>> expected_calibration_error(y, np.column_stack([1 - p, p]), classes=[0, 1], n_bins=2).round(2)
          0    1
    H0  0.0  0.0
    """
    labels, codes, p, weights = _aligned(y, proba, classes, sample_weight, loss_of="proba")
    if kind not in {"class", "top_label"} or (kind == "top_label" and events is not None):
        raise EnsembleKitError(
            f"`kind` must be 'class', or 'top_label' with `events=None`; got {kind!r} with events={events}. "
            "The most probable class may be any of them."
        )
    if kind == "top_label":
        top = p.argmax(axis=2)[:, :, None]
        names, said, came = ["top_label"], np.take_along_axis(p, top, axis=2), codes[:, :, None] == top
    else:
        chosen = _chosen(labels, events)
        columns = [*chosen.values()]
        names, said, came = list(chosen), p[:, :, columns], codes[:, :, None] == columns
    table = np.empty(said.shape[1:])
    for h, j in np.ndindex(*table.shape):
        bins = _equal_mass_bins(said[:, h, j], weights, n_bins)
        gap = np.bincount(bins, weights * (said[:, h, j] - came[:, h, j]))
        table[h, j] = np.abs(gap).sum() / weights.sum()
    return pd.DataFrame(table, index=_horizon_names(codes.shape[1]), columns=names)


def calibration_slope(
    y: Any,
    proba: Any,
    *,
    classes: Sequence[Any] | NDArray[Any],
    event: Any,
    horizon: int = 0,
    sample_weight: Any = None,
) -> tuple[float, float]:
    """Slope and intercept of what came true on the logit of its probability.

    Parameters
    ----------
    y, proba, classes : see `auc_pr_by_class`
        The same; probabilities that sum to 1.
    event : label
        The class whose probability is judged.
    horizon : int, default=0
        Which horizon.
    sample_weight : array-like of shape (n,), default=None
        Rows of weight 0 do not count.

    Returns
    -------
    slope, intercept : float
        (1, 0) is calibrated; a slope below 1 is overconfident. NaN where there is no finite
        answer: the class does not occur, occurs always, its probability never varies (by
        more than rounding), or parts its rows from the others completely.

    References
    ----------
    D. R. Cox, Two Further Applications of a Model for Binary Regression, 1958.
    """
    labels, codes, p, weights = _aligned(y, proba, classes, sample_weight, loss_of="proba")
    (k,) = _chosen(labels, [event]).values()
    hit = one_horizon(codes, horizon) == k
    score = logit(np.clip(one_horizon(p, horizon)[:, k], 1e-12, 1 - 1e-12))
    yes, no = score[hit], score[~hit]
    if len(yes) == 0 or len(no) == 0 or yes.min() >= no.max() or yes.max() <= no.min() or np.ptp(score) < _SAME_LOGIT:
        return float("nan"), float("nan")
    # Newton's steps are exact where the default solver stops at three digits.
    newton = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8)
    fit = newton.fit(score[:, None], hit, sample_weight=weights)
    return float(fit.coef_[0, 0]), float(fit.intercept_[0])


def brier_decomposition(
    y: Any,
    proba: Any,
    *,
    classes: Sequence[Any] | NDArray[Any],
    events: Sequence[Any] | None = None,
    n_bins: int = 15,
    sample_weight: Any = None,
) -> pd.DataFrame:
    """Part the Brier score into calibration, what is told apart, and what cannot be known.

    ``brier = reliability - resolution + uncertainty + within_variance - within_covariance``,
    exactly. The last two are what bins leave out: they vanish where each holds one probability.

    Parameters
    ----------
    y, proba, classes, events : see `auc_pr_by_class`
        The same; probabilities that sum to 1.
    n_bins : int, default=15
        Bins by predicted probability, of equal weight; equal probabilities share a bin.
    sample_weight : array-like of shape (n,), default=None
        Rows of weight 0 do not count.

    Returns
    -------
    DataFrame
        A row for each horizon and class, with the columns `brier` (of that class alone; those
        of all classes add up to `brier_score`), `reliability` (smaller is better), `resolution`
        (greater is better), `uncertainty` (of the labels, whatever the model says),
        `within_variance` and `within_covariance`.

    Raises
    ------
    EnsembleKitError
        If a row that counts holds no probabilities, or `n_bins` is no count.

    Notes
    -----
    A constant prior has reliability 0 and resolution 0: the one alone proves nothing. Chance adds
    to both about ``n_bins / n`` times the uncertainty that is left within bins (more where labels
    overlap).

    References
    ----------
    A. H. Murphy, A New Vector Partition of the Probability Score, 1973.

    D. B. Stephenson, C. A. S. Coelho, I. T. Jolliffe, Two Extra Components in the Brier Score
    Decomposition, 2008.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.metrics import brier_decomposition
    >>> p = np.repeat([0.2, 0.6], 5)
    >>> y = [0, 0, 0, 0, 1, 0, 0, 1, 1, 1]
    >>> parts = brier_decomposition(y, np.column_stack([1 - p, p]), classes=[0, 1], events=[1], n_bins=2)
    >>> parts.loc[("H0", 1), ["brier", "reliability", "resolution", "uncertainty"]].round(2).tolist()
    [0.2, 0.0, 0.04, 0.24]
    """
    labels, codes, p, weights = _aligned(y, proba, classes, sample_weight, loss_of="proba")
    share = weights / weights.sum()
    rows = {}
    for h, name in enumerate(_horizon_names(codes.shape[1])):
        for event, k in _chosen(labels, events).items():
            said, came = p[:, h, k], codes[:, h] == k
            bins = _equal_mass_bins(said, weights, n_bins)
            mass, mean, seen = _by_bin(bins, share, said, came)
            apart, base = said - mean[bins], float(share @ came)
            rows[name, event] = {
                "brier": share @ (said - came) ** 2,
                "reliability": mass @ (mean - seen) ** 2,
                "resolution": mass @ (seen - base) ** 2,
                "uncertainty": base * (1 - base),
                "within_variance": share @ apart**2,
                "within_covariance": 2 * share @ (apart * (came - seen[bins])),
            }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis(["horizon", "class"])


def _equal_mass_bins(p: FloatArray, weights: FloatArray, n_bins: int) -> IntArray:
    """Return the bin of each row, numbered from 0 without gaps; the middle of a tie decides on all of it."""
    if not isinstance(n_bins, Integral) or n_bins < 1:
        raise EnsembleKitError(f"`n_bins` must be an integer of at least 1; got {n_bins!r}. Take 10 or 15.")
    # Values, not rows, are parted: a tie that bins cut would be called miscalibrated.
    _, value = np.unique(p, return_inverse=True)
    mass = np.bincount(value, weights)
    bins = ((np.cumsum(mass) - mass / 2) / mass.sum() * n_bins).astype(np.int64)
    return np.append(0, np.cumsum(bins[1:] != bins[:-1]))[value]


def _by_bin(
    bins: IntArray, weights: FloatArray, said: FloatArray, came: BoolArray
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return weight, mean probability and frequency of each bin."""
    mass: FloatArray = np.bincount(bins, weights).astype(np.float64)
    return mass, np.bincount(bins, weights * said) / mass, np.bincount(bins, weights * came) / mass
