"""Temperature scaling of log-probabilities, fitted as the one-dimensional problem it is."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import log_softmax
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import Targets, check_row_weights, stack_horizons, unstack_horizons

__all__ = ["TemperatureScaling"]

FloatArray = NDArray[np.float64]


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
    log-likelihood is minimised in log T by bounded L-BFGS with the analytic gradient
    (it is convex in 1/T, so the minimum is the only one).

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
            If shapes do not fit, a number is not finite, or the optimiser fails.
        """
        low, high = self.bounds
        if not 0 < low <= 1 <= high:
            raise EnsembleKitError(f"`bounds` must be 0 < low <= 1 <= high; got {self.bounds!r}. Take (0.1, 8.0).")
        logits = _finite(stack_horizons(log_proba))
        targets = Targets.encode(y, classes=None if classes is None else np.asarray(classes))
        shape = (*targets.codes.shape, len(targets.classes))
        if logits.shape != shape:
            raise EnsembleKitError(
                f"`log_proba` must have a column for each class and a block for each horizon of `y`, shape {shape}; "
                f"got {logits.shape}. Name the columns with `classes=`."
            )
        weights = check_row_weights(sample_weight, len(logits))
        self.classes_ = targets.classes
        rows = weights > 0
        fits = [
            _fit_one(logits[rows, h], targets.codes[rows, h], weights[rows], self.bounds)
            for h in range(targets.n_horizons)
        ]
        self.temperature_ = np.array(fits)
        edges = np.log(np.array(self.bounds))
        self.bound_hit_ = (np.abs(np.log(self.temperature_)[:, None] - edges) < 1e-6).any(axis=1)
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
        calibrated: FloatArray = log_softmax(logits / self.temperature_[:, None], axis=2)
        if isinstance(log_proba, list | tuple):
            return unstack_horizons(calibrated, single=False)
        return calibrated if np.ndim(log_proba) == 3 else calibrated[:, 0]


def _finite(logits: FloatArray) -> FloatArray:
    if not np.isfinite(logits).all():
        row = int(np.argmax(~np.isfinite(logits).all(axis=(1, 2))))
        raise EnsembleKitError(
            f"`log_proba` must be finite; row {row} holds {logits[row].tolist()}. "
            "Floor the log of 0 at log(float32 eps), as `targets.LOG_FLOOR` does."
        )
    return logits


def _fit_one(logits: FloatArray, codes: NDArray[np.int64], weights: FloatArray, bounds: tuple[float, float]) -> float:
    """Minimise the weighted mean negative log-likelihood over log T."""
    chosen = logits[np.arange(len(codes)), codes]
    share = weights / weights.sum()

    def loss(log_t: FloatArray) -> tuple[float, FloatArray]:
        inverse = np.exp(-log_t[0])
        log_p = log_softmax(logits * inverse, axis=1)
        expected = (np.exp(log_p) * logits).sum(axis=1)
        value = -(share * log_p[np.arange(len(codes)), codes]).sum()
        # d/d(1/T) of the loss is E[expected - chosen]; d(1/T)/d(log T) is -1/T.
        slope = (share * (expected - chosen)).sum() * -inverse
        return float(value), np.array([slope])

    edges = [(float(np.log(bounds[0])), float(np.log(bounds[1])))]
    best = minimize(loss, [0.0], jac=True, method="L-BFGS-B", bounds=edges, tol=1e-12)
    if not np.isfinite(best.fun):
        raise EnsembleKitError(
            f"`log_proba` must let a temperature be fitted; the optimiser stopped with {best.message!r}. "
            "Look for extreme log-probabilities."
        )
    return float(np.exp(best.x[0]))
