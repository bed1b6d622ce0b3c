"""One size wherever a direction is believed enough, nothing elsewhere."""

from __future__ import annotations

from numbers import Real
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.sizing._directions import check_probabilities, find_directions
from ensemble_kit.targets import Targets, check_classes, check_row_weights, stack_horizons

__all__ = ["ThresholdSizer"]

FloatArray = NDArray[np.float64]


class ThresholdSizer(BaseEstimator):
    """A fixed position where the probability of a direction reaches a threshold.

    Parameters
    ----------
    threshold : float, default=0.5
        Least probability of the direction, in [0, 1]; 0 always trades the likelier one.
    size : float, default=1.0
        The position, as a fraction of equity, above 0.
    horizon : int, default=0
        The horizon that trades.
    long, short : label, default=None
        The classes to be long and short on. None for bottom/peak, buy/sell, up/down, or,
        of numbers, the largest and the smallest.

    Attributes
    ----------
    classes_ : ndarray of shape (K,)
        The labels of the columns.
    long_, short_ : int
        The columns of the two directions.

    See Also
    --------
    KellySizer : A position that grows with the edge, and shrinks with what was wrong out of fold.
    trade_at_thresholds : What each of many thresholds would have earned.

    Notes
    -----
    The position at row t depends on the probabilities of that row alone; it is not held on
    until the other side is called. Nothing but the classes is fitted: a threshold that was
    chosen on the rows it is judged on is a selection (`deflated_sharpe_ratio`).

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.sizing.threshold import ThresholdSizer
    >>> proba = np.array([[0.7, 0.3], [0.45, 0.55], [0.2, 0.8], [np.nan, np.nan]])
    >>> sizer = ThresholdSizer(threshold=0.6, size=0.5).fit(proba, ["buy", "sell", "sell", "buy"])
    >>> sizer.transform(proba)
    array([ 0.5,  0. , -0.5,  0. ])
    """

    def __init__(
        self, *, threshold: float = 0.5, size: float = 1.0, horizon: int = 0, long: Any = None, short: Any = None
    ) -> None:
        self.threshold = threshold
        self.size = size
        self.horizon = horizon
        self.long = long
        self.short = short

    def fit(
        self,
        proba: Any,
        y: Any,
        sample_weight: Any = None,
        *,
        classes: Any = None,
        returns: Any = None,  # noqa: ARG002
    ) -> Self:
        """Find the directions; probabilities are only checked.

        Parameters
        ----------
        proba : array-like (n, K), list of H array-likes (n, K), or ndarray (n, H, K)
            Probabilities.
        y : array-like of shape (n,) or (n, H)
            The labels that came true.
        sample_weight : array-like of shape (n,), default=None
            Only checked.
        classes : array-like of shape (K,), default=None
            The labels of the columns, in the order of those that have no names; None for the
            sorted labels of `y`.
        returns : array-like of shape (n, ) or (n, H), default=None
            Not used: sizers share one signature.

        Returns
        -------
        ThresholdSizer
            Itself.

        Raises
        ------
        EnsembleKitError
            If a parameter is out of its domain, the directions are not clear from the
            classes, or probabilities are not probabilities.
        """
        if not _is_number(self.threshold) or not 0 <= self.threshold <= 1:
            raise EnsembleKitError(f"`threshold` must be in [0, 1]; got {self.threshold!r}. It is a probability.")
        if not _is_number(self.size) or not 0 < self.size < np.inf:
            raise EnsembleKitError(f"`size` must be a number above 0; got {self.size!r}. All equity is 1.")
        labels = None if classes is None else check_classes(classes)
        targets = Targets.encode(y, classes=None if labels is None else np.sort(labels))
        self.classes_ = targets.classes if labels is None else labels
        self.long_, self.short_ = find_directions(self.classes_, self.long, self.short)
        placed = stack_horizons(proba, classes=self.classes_)
        p = check_probabilities(placed, self.horizon, len(self.classes_), rows_and_horizons=targets.codes.shape)
        check_row_weights(sample_weight, len(p))
        return self

    def transform(self, proba: Any) -> FloatArray:
        """Return positions.

        Parameters
        ----------
        proba : array-like (n, K), list of H array-likes (n, K), or ndarray (n, H, K)
            Probabilities, columns as fitted; those of a DataFrame are placed by their names.

        Returns
        -------
        ndarray of float64, shape (n,)
            `size`, minus it, or 0; 0 where a probability is NaN or both directions are as likely.
        """
        check_is_fitted(self)
        placed = stack_horizons(proba, classes=self.classes_)
        p = check_probabilities(placed, self.horizon, len(self.classes_))
        known = ~np.isnan(p).any(axis=1)
        long, short = p[:, self.long_], p[:, self.short_]
        reached = known & (np.maximum(long, short) >= self.threshold)
        return np.where(reached, self.size * np.sign(long - short), 0.0)


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_)
