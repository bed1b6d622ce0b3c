"""The mathematics of Kelly's rule: bets that grow fastest, what classes paid, how wrong probabilities were."""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["N_BLOCKS", "brier_error", "equal_weight_means", "growth_optimal", "move_mass", "reliability_error"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Blocks of rows that judge each other's miscalibration.
N_BLOCKS = 5
#: Most bins of probabilities, and rows that one more must be worth.
_N_BINS, _ROWS_A_BIN = 10, 100


# --------------------------------------------------------------------------- bets


def growth_optimal(
    proba: FloatArray, payoffs: Sequence[FloatArray], *, cost: float, limit: float | FloatArray
) -> FloatArray:
    """Return the fraction of equity, in [0, limit], whose expected log growth is largest, row by row.

    Parameters
    ----------
    proba : ndarray of shape (n, K)
        Probabilities, none below 0.
    payoffs : K ndarrays
        Returns of a unit bet where each class comes, those of one class equally likely.
    cost : float
        What a unit bet costs, whatever comes.
    limit : float or ndarray of shape (n,)
        The largest fraction. The worst return, however improbable, is a second one: no bet
        loses more than all.

    Returns
    -------
    ndarray of shape (n,)
        0 where the expected return after costs is not above 0.
    """
    net = np.concatenate(payoffs) - cost
    starts = np.cumsum([0, *map(len, payoffs)])
    limits = np.full(len(proba), limit, dtype=np.float64)
    values = np.unique(net)
    if len(values) == 2 and values[0] < 0 < values[1]:
        shares = np.add.reduceat(net == values[1], starts[:-1], dtype=np.float64) / np.diff(starts)
        return _two_outcomes(proba @ shares, proba @ (1.0 - shares), values[1], -values[0], limits)
    return _many_outcomes(np.ascontiguousarray(proba), net, starts, limits)


def _two_outcomes(won: FloatArray, lost: FloatArray, gain: float, loss: float, limits: FloatArray) -> FloatArray:
    """Kelly's own case: p / loss - (1 - p) / gain, so p - (1 - p) / b where a unit is lost."""
    best = (won / loss - lost / gain) / (won + lost)
    return np.clip(best, 0.0, limits)  # never above 1 / loss, where p is 1


@numba.njit(cache=True)
def _slope(p: FloatArray, net: FloatArray, starts: IntArray, f: float) -> tuple[float, float]:
    """First and second derivative of the expected log growth at f; minus infinity where it may ruin."""
    slope, curve = 0.0, 0.0
    for k in range(len(p)):
        if p[k] == 0.0:
            continue
        share = p[k] / (starts[k + 1] - starts[k])
        for j in range(starts[k], starts[k + 1]):
            wealth = 1.0 + f * net[j]
            if wealth <= 0.0:
                return -np.inf, -np.inf
            gain = net[j] / wealth
            slope += share * gain
            curve -= share * gain * gain
    return slope, curve


@numba.njit(cache=True)
def _many_outcomes(proba: FloatArray, net: FloatArray, starts: IntArray, limits: FloatArray) -> FloatArray:
    """Newton's steps on the slope, which falls all the way, halved where one leaves the bracket."""
    best = np.zeros(len(proba))
    worst = net.min()
    ruin = -1.0 / worst if worst < 0.0 else np.inf
    for i in range(len(proba)):
        p = proba[i]
        low, high = 0.0, min(limits[i], ruin)
        slope, curve = _slope(p, net, starts, 0.0)
        if slope <= 0.0 or high <= 0.0:
            continue
        if _slope(p, net, starts, high)[0] >= 0.0:
            best[i] = high
            continue
        f = -slope / curve
        for _ in range(200):  # of which halving alone needs 60, and Newton 6
            if not low < f < high:
                f = low + (high - low) / 2.0
            slope, curve = _slope(p, net, starts, f)
            if slope > 0.0:
                low = f
            else:
                high = f
            step = slope / curve
            if abs(step) <= 1e-15 * f or high - low <= 1e-15 * high:
                break
            f -= step
        best[i] = f
    return best


def move_mass(proba: FloatArray, origin: int, target: int, mass: float) -> FloatArray:
    """Return probabilities with that much of one class, or all it has, moved to another."""
    moved = np.minimum(mass, proba[:, origin])
    shrunk = proba.copy()
    shrunk[:, origin] -= moved
    shrunk[:, target] += moved
    return shrunk


def equal_weight_means(returns: FloatArray, weights: FloatArray, n: int) -> FloatArray:
    """Return the means of up to n equally heavy parts of the sorted returns; their mean is the returns' own."""
    order = np.argsort(returns, kind="stable")
    n = min(n, len(order))
    share = weights[order] / weights.sum()
    # The quantile function, integrated: a row on a border belongs to both sides by its weight.
    reached = np.concatenate([[0.0], np.cumsum(share)])
    total = np.concatenate([[0.0], np.cumsum(share * returns[order])])
    means: FloatArray = np.diff(np.interp(np.linspace(0.0, reached[-1], n + 1), reached, total)) * n
    return means


# --------------------------------------------------------------------------- errors


def brier_error(bet: FloatArray, truth: FloatArray, weights: FloatArray) -> float:
    """Return the root of the Brier score of p(win)."""
    return float(np.sqrt(np.average((bet - truth) ** 2, weights=weights)))


def reliability_error(bet: FloatArray, truth: FloatArray, weights: FloatArray) -> float:
    """Return the root of the Brier score's reliability part, without what chance adds to it.

    A bin's miscalibration in one block of rows is multiplied with its miscalibration in the
    others: chance has no sign in common, what is truly miscalibrated has.
    """
    n_bins = int(np.clip(len(bet) // _ROWS_A_BIN, 1, _N_BINS))
    quantiles = np.arange(1, n_bins) / n_bins
    borders = np.unique(np.quantile(bet, quantiles, weights=weights, method="inverted_cdf"))
    cell = np.arange(len(bet)) * N_BLOCKS // len(bet) * n_bins + np.searchsorted(borders, bet)
    mass, gap = (
        np.bincount(cell, part, N_BLOCKS * n_bins).reshape(N_BLOCKS, n_bins)
        for part in (weights, weights * (bet - truth))
    )
    others = 1.0 - np.eye(N_BLOCKS)
    elsewhere = np.divide(others @ gap, others @ mass, out=np.zeros_like(gap), where=others @ mass > 0)
    return float(np.sqrt(max(0.0, (gap * elsewhere).sum() / mass.sum())))
