"""The two convex problems of calibration: one temperature alone, and with an offset a class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize
from scipy.special import logsumexp

from ensemble_kit.exceptions import EnsembleKitError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: A difference of logits that is rounding: no temperature changes anything.
_FLAT = 1e-12
#: A gradient at which the optimiser may stop: sums of floats allow no less. One at which it has failed.
_STOP, _FAILED = 1e-8, 1e-5
_ROUNDS = 10
#: How near a bound the optimiser is on it.
_NEAR = 1e-9


def fit_temperature(logits: FloatArray, codes: IntArray, weights: FloatArray, bounds: tuple[float, float]) -> float:
    """Find the root of the slope of the weighted mean negative log-likelihood in 1/T."""
    share = weights / weights.sum()
    # Relative to the class that came true, the slope in 1/T is the expected logit.
    # Classes lie first, since sums over a short last axis cost more than the exponentials.
    ahead = np.ascontiguousarray((logits - logits[np.arange(len(codes)), codes][:, None]).T)  # (K, n)
    under = ahead - ahead.max(axis=0)
    e = np.empty_like(under)

    def slope(log_t: float) -> float:
        np.exp(np.multiply(under, np.exp(-log_t), out=e), out=e)
        return float(share @ (np.einsum("kn,kn->n", e, ahead) / e.sum(axis=0)))

    low, high = bounds
    # The slope in 1/T falls as T grows: of one sign throughout, a bound is as far as it goes.
    steepest, flattest = slope(np.log(low)), slope(np.log(high))
    if np.abs(ahead).max() < _FLAT:
        return 1.0
    if steepest <= 0:
        return float(low)
    if flattest >= 0:
        return float(high)
    return float(np.exp(brentq(slope, np.log(low), np.log(high), xtol=1e-9)))


def fit_temperature_and_bias(
    logits: FloatArray, codes: IntArray, weights: FloatArray, bounds: tuple[float, float]
) -> tuple[float, FloatArray]:
    """Find temperature and offsets of the classes that came, then offsets of those that did not."""
    share = weights / weights.sum()
    present, hit = np.unique(codes, return_inverse=True)
    z = np.ascontiguousarray(logits[:, present].T)  # (P, n)
    z -= z.mean(axis=0)  # a row's level means nothing to a softmax
    # Centred and of unit size, the two kinds of parameters hardly disturb each other.
    centre = z @ share
    z -= centre[:, None]
    spread = float(share @ np.abs(z).mean(axis=0))
    if spread <= _FLAT * (1 + np.abs(centre).max()):  # no row says other than the next
        temperature, offsets = 1.0, np.log(np.bincount(hit, share))
    else:
        temperature, offsets = _minimise(z / spread, hit, share, centre / spread, spread, bounds)
    offsets -= centre / temperature
    bias = np.zeros(logits.shape[1])
    bias[present] = offsets - offsets.mean()
    absent = np.setdiff1d(np.arange(len(bias)), present)
    if len(absent):
        scores = logits / temperature + bias
        odds = scores[:, absent] - logsumexp(scores[:, present], axis=1, keepdims=True)
        expected = np.log(len(codes)) + logsumexp(odds, axis=0, b=share[:, None])  # log of how many rows
        bias[absent] = np.minimum(0.0, -expected)
    return temperature, bias


def _minimise(
    z: FloatArray, hit: IntArray, share: FloatArray, centre: FloatArray, spread: float, bounds: tuple[float, float]
) -> tuple[float, FloatArray]:
    """Minimise the negative log-likelihood in `spread` / T, which is bounded, and the offsets."""
    frequency = np.bincount(hit, share)
    true = z[hit, np.arange(len(hit))]
    came = float(share @ true)
    # Offsets of rare classes in units as long as they are flat.
    unit = 1 / np.sqrt(frequency)

    def loss(x: FloatArray) -> tuple[float, FloatArray]:
        offsets = unit * x[1:]
        e = x[0] * z + offsets[:, None]
        top = e.max(axis=0)
        np.exp(np.subtract(e, top, out=e), out=e)
        total = e.sum(axis=0)
        # Row by row the score of what came is taken off: sums would leave the rounding of large scores.
        value = share @ (top - (x[0] * true + offsets[hit]) + np.log(total))
        e *= share / total
        return float(value), np.append(np.vdot(e, z) - came, unit * (e.sum(axis=1) - frequency))

    low, high = bounds
    least, most = spread / high, spread / low
    start = np.append(spread, np.log(frequency) / unit)
    # Far from the minimum the loss is nearly made of planes, where the steps remembered may mislead: begin anew.
    for _ in range(_ROUNDS):
        found = minimize(
            loss,
            start,
            jac=True,
            method="L-BFGS-B",
            bounds=[(least, most), *[(None, None)] * len(frequency)],
            options={"ftol": 0.0, "gtol": _STOP, "maxiter": 1000},
        )
        start, gradient = np.array(found.x), np.array(found.jac)
        gradient[0] = start[0] - np.clip(start[0] - gradient[0], least, most)
        if np.abs(gradient).max() < _FAILED:
            break
    x, gradient = np.array(found.x), np.array(found.jac)
    # Where the classes part completely, the loss is 0 long before the bound: go on to it, without offsets if they
    # are not needed.
    for further in (np.append(most, most * centre / unit), x * most / x[0]):
        with np.errstate(over="ignore", invalid="ignore"):
            value, slope = loss(further)
        if value <= found.fun:
            x, gradient = further, slope
            break
    # The optimiser ends within some units in the last place of its bounds.
    flattest = x[0] <= least * (1 + _NEAR) and gradient[0] > 0
    sharpest = x[0] >= most * (1 - _NEAR) and gradient[0] <= 0
    if not np.abs(gradient[int(flattest or sharpest) :]).max() < _FAILED:
        raise EnsembleKitError(
            "`log_proba` must have a temperature and offsets that can be found; got none for log-probabilities that "
            f"differ by {spread:.3g} on average ({found.message}). Take `bias=False`, or floor them at "
            "`targets.LOG_FLOOR`."
        )
    temperature = high if flattest else low if sharpest else float(np.clip(spread / x[0], low, high))
    return float(temperature), unit * x[1:]
