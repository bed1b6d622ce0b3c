"""Sequence models of quantities: windows to numbers."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import column_or_1d

from ensemble_kit.estimators._parameters import ONE_OF, Domain
from ensemble_kit.estimators.networks.losses import Huber, Loss, SquaredError
from ensemble_kit.estimators.sequence import SequenceEstimator
from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["SequenceRegressor"]

FloatArray = NDArray[np.float64]


class SequenceRegressor(RegressorMixin, SequenceEstimator):
    """Base of regressors that see the last `seq_len` rows of every row.

    Each target column is learned in units of its own deviation on the rows that are fitted, so
    that columns of different size weigh alike.

    Parameters
    ----------
    seq_len : int, default=48
        Rows a window, the row itself included.
    loss : {"squared_error", "huber"}, default="squared_error"
        Huber's grows linearly beyond one deviation of the target.
    **shared : dict
        The other parameters of `SequenceEstimator`.

    Attributes
    ----------
    target_mean_, target_scale_ : ndarray of shape (H,)
        Mean and deviation of each column on the rows that were fitted.
    single_ : bool
        Whether `y` came as (n,), so that answers go out as (n,), too.

    See Also
    --------
    ensemble_kit.estimators.sequence.SequenceEstimator : Parameters, attributes and rules of
        time that all sequence models share.
    """

    _domains: ClassVar[dict[str, Domain]] = {"loss": ONE_OF("squared_error", "huber")}

    target_mean_: FloatArray

    def __init__(self, seq_len: int = 48, *, loss: str = "squared_error", **shared: Any) -> None:
        super().__init__(seq_len, **shared)
        self.loss = loss

    def _encode(self, y: Any, counted: FloatArray, *, again: bool) -> tuple[NDArray[Any], FloatArray]:
        values, single = _quantities(y)
        if again and len(self.target_mean_) != values.shape[1]:
            raise EnsembleKitError(
                f"`y` must have the {len(self.target_mean_)} column(s) of the fit that `warm_start` goes on from; got "
                f"{values.shape[1]}. Set `warm_start=False`."
            )
        if not again:
            self.target_mean_ = np.average(values, axis=0, weights=counted)
            spread = np.sqrt(np.average((values - self.target_mean_) ** 2, axis=0, weights=counted))
            # A constant column is answered by its mean.
            self.target_scale_ = np.where(spread > 0, spread, 1.0)
            self.single_ = single
        return ((values - self.target_mean_) / self.target_scale_).astype(np.float32), np.ones(values.shape)

    def _loss(self) -> Loss:
        return SquaredError() if self.loss == "squared_error" else Huber()

    def _answers(self) -> tuple[int, int]:
        return len(self.target_mean_), 1

    def predict(self, X: Any) -> FloatArray:
        """Return the quantities.

        Parameters
        ----------
        X : DataFrame or array-like of shape (n, F)
            Columns as in `fit`, the rows of history in front (`lookback` of them).

        Returns
        -------
        ndarray of float64, shape (n,) or (n, H)
            In the units of `y`.
        """
        values: FloatArray = self._outputs(X)[:, :, 0] * self.target_scale_ + self.target_mean_
        return values[:, 0] if self.single_ else values


def _quantities(y: Any) -> tuple[FloatArray, bool]:
    """Return a target as floats of shape (n, H), and whether it came as (n,)."""
    if y is None:
        raise EnsembleKitError("This regressor requires y to be passed, but the target y is None.")
    values = np.asarray(y)
    single = values.ndim != 2 or (values.shape[1] == 1 and not isinstance(y, pd.DataFrame))
    if single:
        values = column_or_1d(values, warn=True)[:, None]
    try:
        values = values.astype(np.float64)
    except (TypeError, ValueError):
        raise EnsembleKitError(f"`y` must hold numbers; got {values.dtype}. Take a classifier for labels.") from None
    if not np.isfinite(values).all():
        row = int(np.argmax(~np.isfinite(values).all(axis=1)))
        raise EnsembleKitError(
            f"`y` must be finite (Input y contains NaN or infinity); row {row} of those with a weight has "
            f"{values[row].tolist()}. Drop the rows that are not known yet with `labels.align(X)`, and give interior "
            "rows that must not be learned `sample_weight` 0."
        )
    return values, bool(single)
