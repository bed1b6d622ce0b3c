"""Temperature scaling of log-probabilities, with or without an offset a class."""

from __future__ import annotations

import warnings
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ensemble_kit.calibration._fits import fit_temperature, fit_temperature_and_bias
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import Targets, check_row_weights, stack_horizons, unstack_horizons

__all__ = ["TemperatureScaling"]

FloatArray = NDArray[np.float64]

#: How far from 1 the probabilities of a row may add up, as those of 16 bits do (bfloat16 rounds at 2^-8).
_SUM_TOLERANCE = 0.01
#: Fewer rows of raw logits than this may look like probabilities by chance.
_TOO_FEW = 8


class TemperatureScaling(BaseEstimator):
    """Divide log-probabilities by one temperature a horizon, and normalise again.

    Since softmax(log p / T) equals softmax(logits / T), any classifier's log-probabilities
    will do. T > 1 softens an overconfident model, T < 1 sharpens a timid one; the order of
    the classes within a row stays.

    With ``bias=True`` each class gets an offset besides: softmax(log p / T + b). It undoes
    training by costs or class weights, which moves whole classes.

    Parameters
    ----------
    bounds : tuple of float, default=(0.1, 8.0)
        The temperatures allowed. Ending at one of them warns: such a model has nothing
        that a temperature can mend.
    bias : bool, default=False
        Whether to fit an offset a class and horizon, jointly with the temperature.

    Attributes
    ----------
    temperature_ : ndarray of shape (H,)
        The temperature of each horizon.
    bias_ : ndarray of shape (H, K)
        The offsets, in the order of `classes_`; 0 where none is fitted. Those of the classes
        that came have sum 0, since only their differences matter.
    bound_hit_ : ndarray of bool, shape (H,)
        Whether the temperature lies on a bound.
    classes_ : ndarray of shape (K,)
        The labels of the columns.

    Notes
    -----
    What it sees: whatever it is fitted on, which must be out of fold. The negative
    log-likelihood is convex in 1/T and the offsets. Alone, 1/T is the one root of its slope,
    which Brent's method brackets between the bounds; together they are found by bounded
    L-BFGS-B with the analytic gradient. Where nothing depends on the temperature (each row's
    log-probabilities are equal; with offsets, all rows are), T is 1.

    A class that no counted row has pulls at its offset without end. With ``bias=True`` its column
    is left out of the fit, and its offset is 0, or as far below as it takes for the fitted
    rows to promise no more than one row of it. Offsets of classes that came are finite as
    long as T is, and need no penalty.

    References
    ----------
    C. Guo, G. Pleiss, Y. Sun, K. Q. Weinberger, On Calibration of Modern Neural
    Networks, ICML 2017.

    A. Alexandari, A. Kundaje, A. Shrikumar, Maximum Likelihood with Bias-Corrected
    Calibration is Hard-To-Beat at Label Shift Adaptation, ICML 2020.

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

    A model trained with one class weighing ten times as much:

    >>> weighted = log_softmax(true + [0, np.log(10), 0], axis=1)
    >>> TemperatureScaling(bias=True).fit(weighted, y).bias_.round(1)
    array([[ 0.8, -1.6,  0.8]])
    """

    def __init__(self, *, bounds: tuple[float, float] = (0.1, 8.0), bias: bool = False) -> None:
        self.bounds = bounds
        self.bias = bias

    def fit(self, log_proba: Any, y: Any, sample_weight: Any = None, *, classes: Any = None) -> Self:
        """Fit one temperature a horizon, and offsets where they are wanted.

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
            If shapes do not fit, a number is not finite in a row that counts, or these rows
            hold probabilities in place of their logs.
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
        if not (weights > 0).all():
            logits, codes, weights = logits[weights > 0], codes[weights > 0], weights[weights > 0]
        _check_logs(logits, fewest=1)
        self._raw = bool(logits.max() > _SUM_TOLERANCE)
        self.temperature_, self.bias_ = np.empty(codes.shape[1]), np.zeros(shape[1:])
        for h in range(codes.shape[1]):
            problem = logits[:, h], codes[:, h], weights, self.bounds
            if self.bias:
                self.temperature_[h], self.bias_[h] = fit_temperature_and_bias(*problem)
            else:
                self.temperature_[h] = fit_temperature(*problem)
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
            Calibrated log-probabilities; each row's probabilities sum to 1. A row with NaN is NaN.

        Raises
        ------
        EnsembleKitError
            If horizons or classes are other than in `fit`, or all rows hold probabilities in
            place of their logs. (Fewer than 8 rows of raw logits may look so by chance: they
            pass, if `fit` had raw logits, too.)
        """
        check_is_fitted(self)
        logits = stack_horizons(log_proba)
        shape = (len(self.temperature_), len(self.classes_))
        if logits.shape[1:] != shape:
            raise EnsembleKitError(
                f"`log_proba` must have the {shape[0]} horizon(s) and {shape[1]} classes given to `fit`; "
                f"got {logits.shape[1]} and {logits.shape[2]}. Pass what the model's `predict_log_proba` returns."
            )
        _check_logs(logits, fewest=_TOO_FEW if self._raw else 1)
        calibrated: FloatArray = log_softmax(logits / self.temperature_[:, None] + self.bias_, axis=2)
        if isinstance(log_proba, list | tuple):
            return unstack_horizons(calibrated, single=False)
        return calibrated if np.ndim(log_proba) == 3 else calibrated[:, 0]


def _check_finite(logits: FloatArray, weights: FloatArray) -> None:
    finite = np.isfinite(logits)
    if finite.all():
        return
    wrong = (weights > 0) & ~finite.all(axis=(1, 2))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise EnsembleKitError(
            f"`log_proba` must be finite; row {row} holds {logits[row].tolist()}. "
            "Floor the log of 0 at log(float32 eps), as `targets.LOG_FLOOR` does."
        )


def _check_logs(logits: FloatArray, *, fewest: int) -> None:
    """Refuse a horizon of probabilities; logs of them have no row that adds up to more than 0."""
    if not (logits > 0).any():
        return
    known = logits[np.isfinite(logits).all(axis=(1, 2))]
    if len(known) < fewest:
        return
    near = np.abs(known.sum(axis=2) - 1).max(axis=0) <= _SUM_TOLERANCE
    wrong = near & (known.min(axis=(0, 2)) >= 0)
    if wrong.any():
        raise EnsembleKitError(
            f"`log_proba` must hold log-probabilities, which are at most 0, or logits; got probabilities: at horizon "
            f"{int(np.argmax(wrong))} all {len(known)} row(s) are in [0, 1] and add up to 1. "
            "Pass what `predict_log_proba` returns, or `np.log` of them."
        )
