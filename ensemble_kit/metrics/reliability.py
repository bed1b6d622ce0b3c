"""What came against what was said, bin by bin, with intervals for labels that overlap."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics._resamples import Resamples, moments
from ensemble_kit.metrics.calibration import _by_bin, _equal_mass_bins
from ensemble_kit.metrics.classification import _aligned, _chosen, _horizon_names
from ensemble_kit.targets import check_row_weights

__all__ = ["reliability_curve"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def reliability_curve(
    y: Any,
    proba: Any,
    *,
    classes: Sequence[Any] | NDArray[Any],
    events: Sequence[Any] | None = None,
    n_bins: int = 10,
    equal: str = "rows",
    sample_weight: Any = None,
    times: Any = None,
    block: int | None = None,
    level: float = 0.95,
) -> pd.DataFrame:
    """How often each class came against how often it was said to, bin by bin, with intervals.

    Parameters
    ----------
    y, proba, classes, events : see `auc_pr_by_class`
        The same, in time order; probabilities that sum to 1.
    n_bins : int, default=10
        Bins by predicted probability, of equal weight; equal probabilities share a bin.
    equal : {"rows", "events"}, default="rows"
        What bins have equally much of: rows, or rows times their probability, which is how many
        events they promise. With rare events most bins of equally many rows promise none.
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
        A row for each horizon, class and bin, with the columns `probability` (mean of the bin),
        `frequency` (share that came), `low` and `high` (interval of the frequency), `count`
        (rows that count) and `weight` (theirs).

    Raises
    ------
    EnsembleKitError
        If a row that counts holds no probabilities, or times, `block`, `n_bins` or `level` do
        not fit.

    Notes
    -----
    Labels of neighbouring bars overlap, so that rows of a bin come in runs and say less than
    their number. Each interval is Wilson's for the effective number of rows: the bin's own
    (``sum(w)^2 / sum(w^2)``) divided by how many times larger the variance of its
    frequency is under a circular moving-block bootstrap over times. That variance needs no draws:
    it is the variance of all blocks' sums. The larger of the bin's factor and that of all bins
    together is taken, never less than 1. Percentiles of resamples would do as well but where
    nothing came, which is common with rare events: there they are (0, 0).

    In simulations of autocorrelated probabilities and runs of events (2,000 to 20,000 rows, 2 to
    30 % events) 93 to 98 % of the intervals of level 0.95 held the true frequency, and 65 to 88 %
    of Wilson's for independent rows.

    References
    ----------
    E. B. Wilson, Probable Inference, the Law of Succession, and Statistical Inference, 1927.

    D. N. Politis, J. P. Romano, A Circular Block-Resampling Procedure for Stationary Data,
    1992.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.metrics import reliability_curve
    >>> p = np.tile([0.2, 0.6], 50)
    >>> y = np.tile([0, 1, 0, 1, 0, 0, 0, 1, 1, 0], 10)
    >>> curve = reliability_curve(y, np.column_stack([1 - p, p]), classes=[0, 1], events=[1], n_bins=2)
    >>> curve[["probability", "frequency", "count"]].to_numpy().round(2).tolist()
    [[0.2, 0.2, 50.0], [0.6, 0.6, 50.0]]
    """
    moment = moments(times, y, name="y")
    counts = check_row_weights(sample_weight, len(moment)) > 0
    labels, codes, p, weights = _aligned(y, proba, classes, sample_weight, loss_of="proba")
    if not isinstance(level, Real) or not 0 < level < 1:
        raise EnsembleKitError(
            f"`level` must be a number above 0 and below 1; got {level!r}. Of 95 % coverage it is 0.95."
        )
    if equal not in {"rows", "events"}:
        raise EnsembleKitError(f"`equal` must be 'rows' or 'events'; got {equal!r}. Take 'events' where they are rare.")
    runs = _Runs(moment, counts, block)
    frames = {}
    for h, name in enumerate(_horizon_names(codes.shape[1])):
        for event, k in _chosen(labels, events).items():
            said, came = p[:, h, k], codes[:, h] == k
            promised = weights * said if equal == "events" and said.any() else weights
            bins = _equal_mass_bins(said, promised, n_bins)
            mass, mean, seen = _by_bin(bins, weights, said, came)
            low, high = _wilson(seen, runs.effective_rows(bins, weights, came, seen), float(level))
            columns = {"probability": mean, "frequency": seen, "low": low, "high": high}
            frames[name, event] = pd.DataFrame(columns | {"count": np.bincount(bins), "weight": mass})
    return pd.concat(frames, names=["horizon", "class", "bin"])


def _wilson(share: FloatArray, n: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    """Return Wilson's interval of a share of n; rounding must not part it from the share."""
    z2 = float(ndtri((1 + level) / 2)) ** 2
    middle = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * (share * (1 - share) / n + z2 / (4 * n**2))) / (1 + z2 / n)
    return np.clip(middle - half, 0.0, share), np.clip(middle + half, share, 1.0)


class _Runs:
    """How much less than their number rows say that come in runs."""

    def __init__(self, moment: IntArray, counts: BoolArray, block: int | None) -> None:
        self._moment, self._n_times = moment[counts], int(moment.max(initial=-1)) + 1
        self._length = 0
        if self._n_times > 1 or block is not None:
            self._length = Resamples.draw(self._n_times, block, 1, 0, name="y").length

    def effective_rows(self, bins: IntArray, weights: FloatArray, came: BoolArray, seen: FloatArray) -> FloatArray:
        """Return the number of independent rows that would say as much, bin by bin."""
        mass = np.bincount(bins, weights)
        rows = mass**2 / np.bincount(bins, weights**2)
        if self._length == 0:
            return rows
        alone = seen * (1 - seen) / rows
        off = weights * (came - seen[bins]) / mass[bins]
        variance = np.array([self._variance(np.where(bins == b, off, 0.0)) for b in range(len(mass))])
        factor = np.divide(variance, alone, out=np.ones_like(rows), where=alone > 0)
        together = variance.sum() / alone.sum() if alone.any() else 1.0
        return rows / np.maximum(factor, max(together, 1.0))

    def _variance(self, parts: FloatArray) -> float:
        # A resample is the sum of n_times / length blocks, each as likely to begin at any time.
        by_time = np.bincount(self._moment, parts, self._n_times)
        total = np.cumsum(np.concatenate([[0.0], by_time, by_time[: self._length - 1]]))
        sums = total[self._length :] - total[: -self._length]
        return float(sums.var()) * self._n_times / self._length
