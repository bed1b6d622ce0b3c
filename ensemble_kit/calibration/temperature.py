"""Temperature scaling of log-probabilities, fitted as the one-dimensional problem it is."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import log_softmax
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import Targets, check_row_weights, stack_horizons, unstack_horizons

__all__ = ["TemperatureScaling"]

FloatArray = NDArray[np.float64]

#: A slope that is rounding, or saturated: nothing to be gained by any temperature.
_FLAT = 1e-12


class TemperatureScaling(BaseEstimator):
    """Divide log-probabilities by one temperature a horizon, and normalise again.

    Since softmax(log p / T) equals softmax(logits / T), any classifier's log-probabilities
    will do. T > 1 softens an overconfident model, T < 1 sharpens a timid one; the order of
    the classes within a row stays.

    Parameters
    ----------
    bounds : tuple of float, default=(0.1, 8.0)
        The temperatures allowed. Ending at one of them warns: such a model has nothing
        that a temperature can mend.

    Attributes
    ----------
    temperature_ : ndarray of shape (H,)
        The temperature of each horizon.
    bound_hit_ : ndarray of bool, shape (H,)
        Whether it lies on a bound.
    classes_ : ndarray of shape (K,)
        The labels of the columns.

    Notes
    -----
    What it sees: whatever it is fitted on, which must be out of fold. The negative
    log-likelihood is convex in 1/T, so its slope has one root, which Brent's method brackets
    between the bounds. Where the slope is 0 throughout (each row's log-probabilities are
    equal), T is 1.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, On Calibration of Modern Neural
    Networks, ICML 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from scipy.special import log_softmax
    >>> from ensemble_kit.calibration import TemperatureScaling
    >>> rng = np.random.default_rng(0)
    >>> true = log_softmax(rng.normal(size=(20_000, 3)), axis=1)
    >>> y = (np.exp(true).cumsum(axis=1) < rng.uniform(size=(20_000, 1))).sum(axis=1)
    >>> TemperatureScaling().fit(2 * true, y).temperature_.round(1)
    array([2.])
    """

    def __init__(self, *, bounds: tuple[float, float] = (0.1, 8.0)) -> None:
        self.bounds = bounds

    def fit(self, log_proba: Any, y: Any, sample_weight: Any = None, *, classes: Any = None) -> Self:
        """Fit one temperature a horizon.

        Parameters
        ----------
        log_proba : ndarray (n, K), list of H ndarrays (n, K), or ndarray (n, H, K)
            Log-probabilities (or logits) of rows the model was not fitted on.
        y : array-like of shape (n,) or (n, H)
            The labels that came true.
        sample_weight : array-like of shape (n,), default=None
            Rows of weight 0 do not count.
        classes : array-like of shape (K,), default=None
            The labels of the columns, in their order; None for the sorted labels of `y`.

        Returns
        -------
        TemperatureScaling
            Itself.

        Raises
        ------
        EnsembleKitError
            If shapes do not fit, or a number is not finite in a row that counts.
        """
        low, high = self.bounds
        if not 0 < low <= 1 <= high:
            raise EnsembleKitError(f"`bounds` must be 0 < low <= 1 <= high; got {self.bounds!r}. Take (0.1, 8.0).")
        logits = stack_horizons(log_proba)
        labels = None if classes is None else np.array(np.asarray(classes).tolist())
        order = None if labels is None else np.argsort(labels)
        targets = Targets.encode(y, classes=None if labels is None else labels[order])
        self.classes_ = targets.classes if labels is None else labels
        # Class numbers are those of the sorted labels; columns may come in another order.
        codes = targets.codes if order is None else order[targets.codes]
        shape = (*codes.shape, len(self.classes_))
        if logits.shape != shape:
            raise EnsembleKitError(
                f"`log_proba` must have a column for each class and a block for each horizon of `y`, shape {shape}; "
                f"got {logits.shape}. Name the columns with `classes=`."
            )
        weights = check_row_weights(sample_weight, len(logits))
        _check_finite(logits, weights)
        rows = weights > 0
        self.temperature_ = np.array(
            [_fit_one(logits[rows, h], codes[rows, h], weights[rows], self.bounds) for h in range(codes.shape[1])]
        )
        self.bound_hit_ = np.isin(self.temperature_, self.bounds)
        if self.bound_hit_.any():
            warnings.warn(
                f"temperature on its bound {self.temperature_[self.bound_hit_].tolist()} at horizon(s) "
                f"{np.flatnonzero(self.bound_hit_).tolist()}: the log-probabilities carry nothing that a temperature "
                "can calibrate, or separate the classes completely.",
                UserWarning,
                stacklevel=2,
            )
        return self

    def transform(self, log_proba: Any) -> Any:
        """Calibrate log-probabilities.

        Parameters
        ----------
        log_proba : ndarray (n, K), list of H ndarrays (n, K), or ndarray (n, H, K)
            As given to `fit`.

        Returns
        -------
        as given
            Calibrated log-probabilities; each row's probabilities sum to 1.
        """
        check_is_fitted(self)
        logits = stack_horizons(log_proba)
        shape = (len(self.temperature_), len(self.classes_))
        if logits.shape[1:] != shape:
            raise EnsembleKitError(
                f"`log_proba` must have the {shape[0]} horizon(s) and {shape[1]} classes given to `fit`; "
                f"got {logits.shape[1]} and {logits.shape[2]}. Pass what the model's `predict_log_proba` returns."
            )
        calibrated: FloatArray = log_softmax(logits / self.temperature_[:, None], axis=2)
        if isinstance(log_proba, list | tuple):
            return unstack_horizons(calibrated, single=False)
        return calibrated if np.ndim(log_proba) == 3 else calibrated[:, 0]


def _check_finite(logits: FloatArray, weights: FloatArray) -> None:
    wrong = (weights > 0) & ~np.isfinite(logits).all(axis=(1, 2))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EnsembleKitError(
            f"`log_proba` must be finite; row {row} holds {logits[row].tolist()}. "
            "Floor the log of 0 at log(float32 eps), as `targets.LOG_FLOOR` does."
        )


def _fit_one(logits: FloatArray, codes: NDArray[np.int64], weights: FloatArray, bounds: tuple[float, float]) -> float:
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
    if max(abs(steepest), abs(flattest)) < _FLAT:
        return 1.0
    if steepest <= 0:
        return float(low)
    if flattest >= 0:
        return float(high)
    return float(np.exp(brentq(slope, np.log(low), np.log(high), xtol=1e-9)))
