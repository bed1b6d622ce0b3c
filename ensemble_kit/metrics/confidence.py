"""What a model is worth where it is sure: accuracy by confidence, and where its beliefs cross a threshold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import row_keys
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics._resamples import moments
from ensemble_kit.metrics.classification import _aligned, _check_probabilities, _chosen
from ensemble_kit.metrics.reliability import _Runs, _wilson
from ensemble_kit.targets import check_classes, check_row_weights, stack_horizons

__all__ = ["belief_crossings", "confidence_curve"]

FloatArray = NDArray[np.float64]


def confidence_curve(
    y: Any,
    proba: Any,
    *,
    classes: Sequence[Any] | NDArray[Any],
    events: Sequence[Any] | None = None,
    thresholds: Any = None,
    sample_weight: Any = None,
    times: Any = None,
    block: int | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """How often the most probable class came, by how probable it was said to be.

    Parameters
    ----------
    y : array-like of shape (n,)
        Labels that came true, in time order.
    proba : array-like of shape (n, K) or (n, 1, K)
        Probabilities of the same rows, of one horizon. The columns of a DataFrame are placed by
        their names, whatever their order.
    classes : sequence of K labels
        The labels of the columns, in the order of those that have no names.
    events : sequence of labels, default=None
        The classes that are called: the call of a row is its most probable event, whatever is
        more probable besides. None for all classes.
    thresholds : sequence of float in [0, 1], default=None
        Least probability of the call; None for 0, and steps of 0.05 from 1 / K to 0.95.
    sample_weight : array-like of shape (n,), default=None
        Rows of weight 0 do not count, but keep their place in time.
    times : array-like of shape (n,), default=None
        The time of each row, as of a panel several may have one. None for the times of `y`'s
        index; without one, each row has its own.
    block : int, default=None
        Distinct times over which rows may depend on each other, at most half of them; None
        for their cube root times 2. It should be no less than the labels' window.
    level : float, default=0.95
        Coverage of the intervals.

    Returns
    -------
    DataFrame
        A row a threshold, ascending, with the columns

        - `n` and `coverage`: rows whose call is at least that probable, and their share by weight;
        - `accuracy`, `low`, `high`: share of these calls that came true, and its interval;
        - `base_rate`: accuracy of always saying the commonest class on the same rows;
        - `chance`: accuracy of the same calls at random rows, the shares of their classes
          in all rows;
        - `mean_confidence`: mean probability of the calls. Above the accuracy, they are
          over-confident.

        All but `n` and `coverage` are NaN where no call is that probable.

    Raises
    ------
    EnsembleKitError
        If there is no row, one that counts holds no probabilities, or classes, thresholds,
        times, `block` or `level` do not fit.

    See Also
    --------
    reliability_curve : The same calibration class by class, in bins.
    auc_pr_by_class : All thresholds in one number.

    Notes
    -----
    Accuracy at high confidence says nothing alone. Where one class is common, saying it
    always is accurate, too (`base_rate`), and both the shares of `chance` and the commonest
    class are those of the rows judged, known in hindsight. What a hindsight label gives
    away at its bar is in neither: compare with `skill_test`. A threshold picked from this
    table is a selection, to be judged on rows it was not picked on.

    Intervals are Wilson's for the effective number of rows under a circular moving-block
    bootstrap, as those of `reliability_curve`, so that a few calls, all of them right, do
    not look certain.

    References
    ----------
    C. K. Chow, On Optimum Recognition Error and Reject Tradeoff, 1970.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.metrics.confidence import confidence_curve
    >>> p = np.tile([0.2, 0.6, 0.9], 50)
    >>> y = (np.random.default_rng(0).uniform(size=150) < p).astype(int)
    >>> curve = confidence_curve(y, np.column_stack([1 - p, p]), classes=[0, 1], thresholds=[0, 0.8, 0.9, 0.99])
    >>> curve[["n", "coverage", "accuracy", "base_rate", "chance", "mean_confidence"]].round(2)
                 n  coverage  accuracy  base_rate  chance  mean_confidence
    threshold
    0.00       150      1.00      0.71       0.51    0.50             0.77
    0.80       100      0.67      0.81       0.51    0.50             0.85
    0.90        50      0.33      0.82       0.82    0.51             0.90
    0.99         0      0.00       NaN        NaN     NaN              NaN
    """
    moment = moments(times, y, name="y")
    counts = check_row_weights(sample_weight, len(moment)) > 0
    labels, codes, p, weights = _aligned(y, proba, classes, sample_weight, loss_of="proba")
    if codes.shape[1] != 1:
        raise EnsembleKitError(
            f"`y` must be of one horizon, shape (n,); got {codes.shape[1]}. Pass `y[:, h]` and `proba[:, h]`."
        )
    if not _within(level, 0, 1) or level in (0, 1):
        raise EnsembleKitError(
            f"`level` must be a number above 0 and below 1; got {level!r}. Of 95 % coverage it is 0.95."
        )
    wanted = check_thresholds(thresholds, len(labels))
    truth, p = codes[:, 0], p[:, 0]
    called = np.array(list(_chosen(labels, events).values()))
    call = called[p[:, called].argmax(axis=1)]
    sure = np.take_along_axis(p, call[:, None], axis=1)[:, 0]
    right, share = call == truth, np.bincount(truth, weights, len(labels)) / weights.sum()
    runs = _Runs(moment, counts, block)
    table = np.full((len(wanted), 8), np.nan)
    for row, least in zip(table, wanted, strict=True):
        in_ = sure >= least
        row[:2] = in_.sum(), weights[in_].sum() / weights.sum()
        if in_.any():
            w = weights[in_]
            mean = np.array([np.average(x[in_], weights=w) for x in (right, share[call], sure)])
            # Two bins, out and in, the latter alone where no row is out.
            bins = in_.astype(np.int64) if not in_.all() else np.zeros(len(in_), dtype=np.int64)
            seen = np.bincount(bins, weights * right) / np.bincount(bins, weights)
            n = runs.effective_rows(bins, weights, right, seen)
            low, high = _wilson(seen[-1:], n[-1:], float(level))
            row[2:] = mean[0], low[0], high[0], np.bincount(truth[in_], w).max() / w.sum(), mean[1], mean[2]
    columns = ["n", "coverage", "accuracy", "low", "high", "base_rate", "chance", "mean_confidence"]
    return pd.DataFrame(table, pd.Index(wanted, name="threshold"), columns).astype({"n": np.int64})


def check_thresholds(thresholds: Any, n_classes: int) -> FloatArray:
    """Return thresholds of a probability, sorted, the usual ones for None.

    Parameters
    ----------
    thresholds : sequence of float in [0, 1] or None
        None for 0, and steps of 0.05 from 1 / K, which the largest of K probabilities reaches.
    n_classes : int
        K.

    Returns
    -------
    ndarray of shape (n_thresholds,)
        Ascending, each once.

    Raises
    ------
    EnsembleKitError
        If there are none, or some are no probabilities.
    """
    if thresholds is None:
        return np.concatenate([[0.0], np.arange(20 // n_classes, 20) / 20])
    values = np.unique(np.atleast_1d(np.asarray(thresholds, dtype=np.float64)))
    if not values.size or not ((values >= 0) & (values <= 1)).all():
        raise EnsembleKitError(
            f"`thresholds` must be numbers in [0, 1], one at least; got {values.tolist()}. Leave it None."
        )
    return values


def belief_crossings(
    proba: Any, *, classes: Sequence[Any] | NDArray[Any], threshold: float | Mapping[Any, float], index: Any = None
) -> pd.DataFrame:
    """Find the rows at which a belief crosses its threshold, upwards or downwards.

    Parameters
    ----------
    proba : DataFrame or array-like of shape (n, K) or (n, 1, K)
        Probabilities in time order, of one horizon. NaN where nothing is known. The columns of
        a DataFrame are placed by their names, whatever their order.
    classes : sequence of K labels
        The labels of the columns, in the order of those that have no names.
    threshold : float or mapping of label to float
        In (0, 1]. A number is that of all classes; a mapping leaves the classes it does not
        name out.
    index : Index of length n, default=None
        The rows' index: times, or (datetime, instrument), whose instruments then cross each
        alone. None for that of `proba`, where it is a frame.

    Returns
    -------
    DataFrame
        One row a crossing, in the order of rows and then of `classes`, on the rows' index (or
        their positions): `row` (position), `class`, `direction` (``"up"``: at least the
        threshold, and below it on the row before; ``"down"``: the opposite), `belief`.

    Raises
    ------
    EnsembleKitError
        If beliefs are no probabilities, or thresholds, classes or index do not fit.

    Notes
    -----
    It sees a row and the one before of the same instrument, so a prefix of the rows gives
    a prefix of the crossings. An instrument's first row, and the first after NaN, cross
    nothing however high they are: what was believed before is not known.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.metrics.confidence import belief_crossings
    >>> proba = np.array([[0.1, 0.9], [0.7, 0.3], [0.8, 0.2], [0.4, 0.6]])
    >>> belief_crossings(proba, classes=["buy", "sell"], threshold={"buy": 0.7})
       row class direction  belief
    1    1   buy        up     0.7
    3    3   buy      down     0.4
    """
    names = check_classes(classes)
    stacked, labels = stack_horizons(proba, classes=names), names.tolist()
    if stacked.shape[1:] != (1, len(labels)):
        raise EnsembleKitError(
            f"`proba` must be of one horizon and {len(labels)} classes, a row a bar; got {stacked.shape}. "
            "Pass what `predict_proba` returns, of several horizons one."
        )
    _check_probabilities(stacked, np.ones(len(stacked), dtype=bool), "proba")
    p = stacked[:, 0]
    if index is None:
        index = proba.index if isinstance(proba, pd.DataFrame) else pd.RangeIndex(len(p))
    # `pd.Index` would make tuples of a panel's index.
    index = index if isinstance(index, pd.Index) else pd.Index(index)
    if len(index) != len(p):
        raise EnsembleKitError(
            f"`index` must have the {len(p)} rows of `proba`; got {len(index)}. Pass that of the rows predicted."
        )
    least = _least(threshold, labels)
    instrument = row_keys(pd.Series(index=index, dtype=np.float64), name="index").instrument
    order = np.argsort(instrument, kind="stable")
    same = instrument[order[1:]] == instrument[order[:-1]]
    before = np.full_like(p, np.nan)
    before[order[1:][same]] = p[order[:-1][same]]
    up = (before < least) & (p >= least)
    row, column = np.nonzero(up | ((before >= least) & (p < least)))
    columns = {
        "row": row,
        "class": names[column],
        "direction": np.where(up[row, column], "up", "down"),
        "belief": p[row, column],
    }
    return pd.DataFrame(columns, index=index.take(row))


def _within(value: Any, low: float, high: float) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and low <= float(value) <= high


def _least(threshold: Any, labels: list[Any]) -> FloatArray:
    """Return the threshold of each class, NaN, which nothing crosses, of those left out."""
    named = threshold if isinstance(threshold, Mapping) else dict.fromkeys(labels, threshold)
    if unknown := [label for label in named if label not in labels]:
        raise EnsembleKitError(
            f"`threshold` must be of the classes {labels}; got {unknown} besides. Write them as the model does."
        )
    wrong = [value for value in named.values() if not _within(value, 0, 1) or value == 0]
    if wrong or not named:
        raise EnsembleKitError(
            f"`threshold` must be in (0, 1], a number or one by class; got {threshold!r}. "
            "Take some multiple of the class's share in the training rows."
        )
    return np.array([named.get(label, np.nan) for label in labels])
