"""Intervals of means of dependent values: the circular moving-block bootstrap."""

from __future__ import annotations

from typing import Any

import numpy as np

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics._resamples import Resamples, moments, percentiles

__all__ = ["block_bootstrap_mean"]


def block_bootstrap_mean(
    values: Any,
    *,
    times: Any = None,
    block: int | None = None,
    n_resamples: int = 2000,
    level: float = 0.95,
    random_state: Any = None,
) -> tuple[float, float, float]:
    """Mean of a dependent series and its circular moving-block bootstrap interval.

    Parameters
    ----------
    values : array-like of shape (n,)
        In time order; NaN left out.
    times : array-like of shape (n,), default=None
        The time of each value: those of one time are drawn together, as a panel's must be.
        None for the times of a Series' index; without one, each value has its own.
    block : int, default=None
        Length of the blocks in distinct times, at most half of them (one block of all would
        always give the same mean); None for their cube root times 2, within that. It should
        be no less than what the values reach over: a label's window, a holding period.
    n_resamples : int, default=2000
        Resamples.
    level : float, default=0.95
        Coverage of the interval.
    random_state : int, RandomState or None, default=None
        Seed of the blocks.

    Returns
    -------
    mean, low, high : float
        The mean and the percentile interval.

    Raises
    ------
    EnsembleKitError
        If there are fewer than 2 times, an infinite value, blocks of another length, no
        resamples, or a level outside (0, 1).

    See Also
    --------
    score_interval : The same of a score.
    compare_scores : The same of a difference of scores.

    References
    ----------
    D. N. Politis, J. P. Romano, A Circular Block-Resampling Procedure for Stationary Data,
    1992.
    """
    x = np.asarray(values, dtype=np.float64)
    known = ~np.isnan(x)
    moment = moments(times, values, name="values")[known]
    x = x[known]
    if np.isinf(x).any():
        raise EnsembleKitError(
            f"`values` must be finite or NaN; got {int(np.isinf(x).sum())} of {len(x)} infinite. "
            "Set them to NaN where nothing is known."
        )
    moment = np.unique(moment, return_inverse=True)[1]
    blocks = Resamples.draw(int(moment.max(initial=-1)) + 1, block, n_resamples, random_state, name="values")
    means = blocks.mean(x, np.ones(len(x)), moment)
    return (float(x.mean()), *percentiles(means, level))
