"""Calibrated Kelly sizing: the position shrinks where the probabilities were wrong out of fold."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import Targets, check_row_weights, stack_horizons

__all__ = ["KellySizer"]

FloatArray = NDArray[np.float64]

#: Class names whose direction nobody doubts: (long, short).
_KNOWN_DIRECTIONS = (("bottom", "peak"), ("buy", "sell"), ("up", "down"))


class KellySizer(BaseEstimator):
    """Position from class probabilities by Kelly's rule, shrunk by their out-of-fold error.

    Parameters
    ----------
    fraction : float, default=0.5
        Share of the Kelly bet taken, in (0, 1]: 0.5 is half Kelly.
    conservatism : float, default=1.0
        c of the formula, at least 0: how much of the probabilities' error counts.
    cap : float, default=1.0
        Largest position either way, as a fraction of equity.
    horizon : int, default=0
        The horizon that trades.
    long, short : label, default=None
        The classes to be long and short on. None for bottom/peak, buy/sell, up/down, or,
        of numbers, the largest and the smallest.

    Attributes
    ----------
    rmse_ : float
        Root of the Brier score of p = (1 + f*)/2 on the rows fitted on.
    classes_ : ndarray of shape (K,)
        The labels of the columns.
    long_, short_ : int
        The columns of the two directions.

    Notes
    -----
    With f* = P(long) - P(short), alpha = max(0, 1 - c RMSE / abs(f*)) and
    f = fraction alpha f*, held within the cap. RMSE is measured against 1 for the long
    class, 0 for the short one, 0.5 for any other. It holds what no model can know, too:
    with even, known bets at p it trades only above p = 0.72. It is fitted on
    out-of-fold probabilities; the position at row t depends on that row alone. A NaN
    probability gives 0.

    References
    ----------
    J. L. Kelly, A New Interpretation of Information Rate, 1956.
    R. D. Baker, I. G. McHale, Optimal Betting Under Parameter Uncertainty: Improving the
    Kelly Criterion, 2013.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.sizing import KellySizer
    >>> rng = np.random.default_rng(0)
    >>> p = rng.choice([0.02, 0.98], size=2000)
    >>> y = np.where(rng.uniform(size=2000) < p, "up", "down")
    >>> proba = np.column_stack([1 - p, p])  # columns down, up
    >>> KellySizer().fit(proba, y).transform(np.array([[0.02, 0.98], [0.5, 0.5]])).round(1)
    array([0.4, 0. ])
    """

    def __init__(
        self,
        *,
        fraction: float = 0.5,
        conservatism: float = 1.0,
        cap: float = 1.0,
        horizon: int = 0,
        long: Any = None,
        short: Any = None,
    ) -> None:
        self.fraction = fraction
        self.conservatism = conservatism
        self.cap = cap
        self.horizon = horizon
        self.long = long
        self.short = short

    def fit(self, proba: Any, y: Any, sample_weight: Any = None, *, classes: Any = None) -> Self:
        """Measure how wrong the probabilities were.

        Parameters
        ----------
        proba : ndarray (n, K), list of H ndarrays (n, K), or ndarray (n, H, K)
            Probabilities of rows the model was not fitted on.
        y : array-like of shape (n,) or (n, H)
            The labels that came true.
        sample_weight : array-like of shape (n,), default=None
            Rows of weight 0 do not count.
        classes : array-like of shape (K,), default=None
            The labels of the columns, in their order; None for the sorted labels of `y`.

        Returns
        -------
        KellySizer
            Itself.

        Raises
        ------
        EnsembleKitError
            If a parameter is out of its domain, the directions are not clear from the
            classes, or probabilities are not probabilities.
        """
        self._check_parameters()
        labels = None if classes is None else np.array(np.asarray(classes).tolist())
        order = None if labels is None else np.argsort(labels)
        targets = Targets.encode(y, classes=None if labels is None else labels[order])
        self.classes_ = targets.classes if labels is None else labels
        self.long_, self.short_ = self._directions()
        p = self._probabilities(proba, targets.codes.shape)
        weights = check_row_weights(sample_weight, len(p))
        unknown = (weights > 0) & np.isnan(p).any(axis=1)
        if unknown.any():
            raise EnsembleKitError(
                f"`proba` must not be NaN in `fit`; row {int(np.argmax(unknown))} is, {int(unknown.sum())} row(s) in "
                "all. Leave such rows out, or give them `sample_weight` 0."
            )
        codes = targets.codes[:, self.horizon]
        codes = codes if order is None else order[codes]
        truth = np.where(codes == self.long_, 1.0, np.where(codes == self.short_, 0.0, 0.5))
        bet = (1.0 + p[:, self.long_] - p[:, self.short_]) / 2.0
        error = np.where(weights > 0, bet - truth, 0.0)
        self.rmse_ = float(np.sqrt(np.average(error**2, weights=weights)))
        return self

    def transform(self, proba: Any) -> FloatArray:
        """Return positions.

        Parameters
        ----------
        proba : ndarray (n, K), list of H ndarrays (n, K), or ndarray (n, H, K)
            Probabilities, columns as fitted.

        Returns
        -------
        ndarray of float64, shape (n,)
            Fractions of equity in [-cap, cap]; 0 where a probability is NaN.
        """
        check_is_fitted(self)
        p = self._probabilities(proba)
        edge = p[:, self.long_] - p[:, self.short_]
        size = np.maximum(0.0, np.abs(edge) - self.conservatism * self.rmse_)
        position = np.clip(self.fraction * size * np.sign(edge), -self.cap, self.cap)
        # A row whose probabilities are not all known has no position.
        return np.where(np.isnan(p).any(axis=1), 0.0, position) + 0.0  # flat is 0, never -0

    def _check_parameters(self) -> None:
        domains = [
            ("fraction", "in (0, 1]", 0 < self.fraction <= 1),
            ("conservatism", "at least 0", self.conservatism >= 0),
            ("cap", "above 0", self.cap > 0),
        ]
        if wrong := [
            f"`{name}` must be {domain}; got {getattr(self, name)!r}" for name, domain, ok in domains if not ok
        ]:
            raise EnsembleKitError(". ".join(wrong) + ". Half Kelly is fraction=0.5, conservatism=1, cap=1.")

    def _directions(self) -> tuple[int, int]:
        labels = self.classes_.tolist()
        long, short = self.long, self.short
        if long is None and short is None:
            known = [pair for pair in _KNOWN_DIRECTIONS if set(pair) <= set(labels)]
            if known:
                long, short = known[0]
            elif self.classes_.dtype.kind in "biuf" and len(labels) > 1:
                long, short = labels[-1], labels[0]
        if long not in labels or short not in labels or long == short:
            raise EnsembleKitError(
                f"`long` and `short` must be two of the {len(labels)} class(es) {labels}; got {long!r} and {short!r}. "
                "Say which class means a rise and which a fall: KellySizer(long=..., short=...)."
            )
        return labels.index(long), labels.index(short)

    def _probabilities(self, proba: Any, rows_and_horizons: tuple[int, ...] | None = None) -> FloatArray:
        p = stack_horizons(proba)
        if rows_and_horizons is not None and p.shape[:2] != rows_and_horizons:
            raise EnsembleKitError(
                f"`proba` must have the rows and horizons of `y`, {rows_and_horizons}; got {p.shape[:2]}. "
                "Pass both for the same rows."
            )
        if not 0 <= self.horizon < p.shape[1] or p.shape[2] != len(self.classes_):
            raise EnsembleKitError(
                f"`proba` must have horizon {self.horizon} and {len(self.classes_)} classes; got {p.shape[1]} "
                f"horizon(s) and {p.shape[2]} classes. Pass what the fitted model's `predict_proba` returns."
            )
        p = p[:, self.horizon]
        known = ~np.isnan(p).any(axis=1)
        wrong = known & ((np.abs(p.sum(axis=1) - 1.0) > 1e-3) | (p < -1e-9).any(axis=1))
        if wrong.any():
            row = int(np.argmax(wrong))
            raise EnsembleKitError(
                f"`proba` must hold probabilities that sum to 1; row {row} has {p[row].round(4).tolist()}. "
                "Pass `predict_proba`, not logits or log-probabilities."
            )
        return p
