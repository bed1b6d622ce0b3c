"""Calibrated Kelly sizing: the position shrinks where the probabilities were wrong out of fold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils.validation import check_is_fitted

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.sizing._directions import check_probabilities, find_directions
from ensemble_kit.sizing._growth import N_BLOCKS, brier_error, growth_optimal, move_mass, reliability_error
from ensemble_kit.sizing._payoffs import estimated_payoffs, is_number, shown, stated_payoffs
from ensemble_kit.targets import Targets, check_classes, check_row_weights, stack_horizons

__all__ = ["KellySizer"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class KellySizer(BaseEstimator):
    """Position from class probabilities by Kelly's rule, shrunk by their out-of-fold error.

    Parameters
    ----------
    fraction : float, default=0.5
        Share of the Kelly bet taken, in (0, 1]: 0.5 is half Kelly.
    conservatism : float, default=1.0
        c of the formula: how much of the probabilities' error counts. 1 to 2 is usual, 0 trusts
        them.
    penalty : {"brier", "reliability"}, default="brier"
        What the error is: the root of the Brier score, as published, or of its reliability part
        alone, which is about 0 for probabilities that mean what they say.
    payoffs : float, mapping or "estimate", default=1.0
        What comes of a unit long position (a short one earns the opposite):

        - a number b: b where the long class comes, -1 where the short one does, either, equally
          likely, where another does
        - a mapping of each class to its return, or to several that are equally likely
        - ``"estimate"``: the returns given to `fit`, class by class
    cost : float, default=0.0
        What a unit position costs from entry to exit, in units of the payoffs.
    cap : float, default=1.0
        Largest position either way, as a fraction of equity.
    long_only : bool, default=False
        Whether nothing is sold short.
    horizon : int, default=0
        The horizon that trades.
    long, short : label, default=None
        The classes to be long and short on. None for bottom/peak, buy/sell, up/down, or,
        of numbers, the largest and the smallest.

    Attributes
    ----------
    error_ : float
        The error that `penalty` names, of p = (1 + P(long) - P(short)) / 2 on the rows
        fitted on, against 1 for the long class, 0 for the short one, 0.5 for any other.
    rmse_ : float
        Root of the Brier score of the same, whatever the penalty.
    payoffs_ : list of K ndarrays
        The returns of each class that count, equally likely within it.
    classes_ : ndarray of shape (K,)
        The labels of the columns.
    long_, short_ : int
        The columns of the two directions.

    See Also
    --------
    SizedClassifier : Fits a model and its sizer on the right rows.
    ensemble_kit.sizing.limits : Limits on positions.

    Notes
    -----
    Half of c times the error is taken from the probability of the class that speaks for the
    bet (all of it, if it has less) and given to the opposite one. Then f is the fraction of
    equity with the largest expected log growth, and the position ``fraction f`` within the
    cap. With a number b and q = 1 - p that is f = p - q / b (both returns less the cost where
    there is one), and with b = 1 without a cost the published
    ``fraction sign(f*) max(0, |f*| - c RMSE)``, f* = P(long) - P(short). Otherwise f solves
    ``sum_k p_k mean_j r_kj / (1 + f r_kj) = 0``. A bet whose expected return, after error
    and cost, is not above 0 is not made, and none can lose more than all by the returns
    it knows.

    The Brier score holds what no model can know, too: with even bets at a known p it trades
    only above p = 0.72. The reliability part is cross-fitted: a bin's miscalibration on one
    of 5 blocks of rows counts as far as the other blocks have it, too. Up to 10 bins hold
    100 rows and more; with a few hundred rows it sees coarse errors only.

    Estimated payoffs are the means of up to 16 equally heavy parts of each class's returns,
    which keep its mean and most of its variance (its mean alone would ask for absurd
    leverage). The extremes are milder than those seen: that is what the cap is for. Where
    every return of the long class lies above its like of the short one, positions grow with
    P(long) at the expense of P(short); a class of wide returns may lower them instead.

    It is fitted on out-of-fold probabilities; the position at row t depends on that row
    alone. A NaN probability gives 0.

    References
    ----------
    J. L. Kelly, A New Interpretation of Information Rate, 1956.

    R. D. Baker, I. G. McHale, Optimal Betting Under Parameter Uncertainty: Improving the
    Kelly Criterion, 2013.

    E. O. Thorp, The Kelly Criterion in Blackjack, Sports Betting, and the Stock Market, 2006.

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
    >>> payoffs = {"up": [0.02, 0.01], "down": -0.03}
    >>> KellySizer(payoffs=payoffs, cost=0.001, cap=5).fit(proba, y).transform(np.array([[0.2, 0.8]])).round(2)
    array([2.11])
    """

    def __init__(
        self,
        *,
        fraction: float = 0.5,
        conservatism: float = 1.0,
        penalty: str = "brier",
        payoffs: Any = 1.0,
        cost: float = 0.0,
        cap: float = 1.0,
        long_only: bool = False,
        horizon: int = 0,
        long: Any = None,
        short: Any = None,
    ) -> None:
        self.fraction = fraction
        self.conservatism = conservatism
        self.penalty = penalty
        self.payoffs = payoffs
        self.cost = cost
        self.cap = cap
        self.long_only = long_only
        self.horizon = horizon
        self.long = long
        self.short = short

    @property
    def needs_returns(self) -> bool:
        """Whether `fit` must be given returns."""
        return isinstance(self.payoffs, str) and self.payoffs == "estimate"

    def fit(self, proba: Any, y: Any, sample_weight: Any = None, *, classes: Any = None, returns: Any = None) -> Self:
        """Measure how wrong the probabilities were, and, where asked to, what the classes paid.

        Parameters
        ----------
        proba : array-like (n, K), list of H array-likes (n, K), or ndarray (n, H, K)
            Probabilities of rows the model was not fitted on, in time order.
        y : array-like of shape (n,) or (n, H)
            The labels that came true.
        sample_weight : array-like of shape (n,), default=None
            Rows of weight 0 do not count.
        classes : array-like of shape (K,), default=None
            The labels of the columns, in the order of those that have no names; None for the
            sorted labels of `y`.
        returns : array-like of shape (n,), default=None
            What a unit long position decided on each row earned
            (`ensemble_kit.metrics.next_open_return`), NaN where that is not known. For
            ``payoffs="estimate"``, which needs them; not looked at otherwise.

        Returns
        -------
        KellySizer
            Itself.

        Raises
        ------
        EnsembleKitError
            If a parameter is out of its domain, the directions are not clear from the
            classes, or probabilities or returns are not what they should be.

        Warns
        -----
        UserWarning
            If a class has no known return, and gets those of all rows, or the long class
            earned no more than the short one.
        """
        self._check_parameters()
        labels = None if classes is None else check_classes(classes)
        order = None if labels is None else np.argsort(labels)
        targets = Targets.encode(y, classes=None if labels is None else labels[order])
        self.classes_ = targets.classes if labels is None else labels
        self.long_, self.short_ = find_directions(self.classes_, self.long, self.short)
        placed = stack_horizons(proba, classes=self.classes_)
        p = check_probabilities(placed, self.horizon, len(self.classes_), rows_and_horizons=targets.codes.shape)
        weights = check_row_weights(sample_weight, len(p))
        counts = weights > 0
        unknown = counts & np.isnan(p).any(axis=1)
        if unknown.any():
            raise EnsembleKitError(
                f"`proba` must not be NaN in `fit`; row {int(np.argmax(unknown))} is, {int(unknown.sum())} row(s) in "
                "all. Leave such rows out, or give them `sample_weight` 0."
            )
        codes = targets.codes[:, self.horizon]
        codes = codes if order is None else order[codes]
        self.payoffs_ = self._payoffs(codes, weights, returns)
        truth = np.where(codes == self.long_, 1.0, np.where(codes == self.short_, 0.0, 0.5))
        bet = (1.0 + p[:, self.long_] - p[:, self.short_]) / 2.0
        judged = bet[counts], truth[counts], weights[counts]
        self.rmse_ = brier_error(*judged)
        self.error_ = self.rmse_ if self.penalty == "brier" else self._reliability(*judged)
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
            Fractions of equity in [-cap, cap]; 0 where a probability is NaN.
        """
        check_is_fitted(self)
        placed = stack_horizons(proba, classes=self.classes_)
        p = check_probabilities(placed, self.horizon, len(self.classes_))
        position = np.zeros(len(p))
        # A row whose probabilities are not all known has no position.
        known = np.flatnonzero(~np.isnan(p).any(axis=1))
        p = np.maximum(p[known], 0.0)  # rounding may have left a little less
        bet = self._bet(p, self.payoffs_)
        if not self.long_only:
            bet -= self._bet(p, [-paid for paid in self.payoffs_])
        position[known] = np.clip(self.fraction * bet, -self.cap, self.cap)
        return position

    def _bet(self, p: FloatArray, payoffs: Sequence[FloatArray]) -> FloatArray:
        """Return the full Kelly bet, at least 0, on these payoffs."""
        up, down = self.long_, self.short_
        if payoffs[up].mean() < payoffs[down].mean():
            up, down = down, up
        doubted = move_mass(p, up, down, self.conservatism * self.error_ / 2.0)
        bet = growth_optimal(doubted, payoffs, cost=self.cost, limit=self.cap / self.fraction)
        # Doubt only makes smaller: not so by itself where the opposite class is the calmer one.
        return growth_optimal(p, payoffs, cost=self.cost, limit=bet)

    def _check_parameters(self) -> None:
        penalties = ("brier", "reliability")
        domains = [
            ("fraction", "in (0, 1]", is_number(self.fraction) and 0 < self.fraction <= 1),
            ("conservatism", "at least 0, and finite", is_number(self.conservatism) and self.conservatism >= 0),
            ("penalty", "'brier' or 'reliability'", isinstance(self.penalty, str) and self.penalty in penalties),
            (
                "payoffs",
                "a number above 0, a mapping of classes to returns, or 'estimate'",
                self.needs_returns
                or isinstance(self.payoffs, Mapping)
                or (is_number(self.payoffs) and self.payoffs > 0),
            ),
            ("cost", "at least 0, and finite", is_number(self.cost) and self.cost >= 0),
            ("cap", "above 0, and finite", is_number(self.cap) and self.cap > 0),
            ("long_only", "True or False", isinstance(self.long_only, bool | np.bool_)),
        ]
        if wrong := [
            f"`{name}` must be {domain}; got {shown(getattr(self, name))}" for name, domain, ok in domains if not ok
        ]:
            raise EnsembleKitError(". ".join(wrong) + ". Half Kelly is fraction=0.5, conservatism=1, cap=1.")

    def _reliability(self, bet: FloatArray, truth: FloatArray, weights: FloatArray) -> float:
        if len(bet) < N_BLOCKS:
            raise EnsembleKitError(
                f"`penalty`='reliability' must have at least {N_BLOCKS} rows of weight to judge; got {len(bet)}. "
                "Give it some hundreds, or take penalty='brier'."
            )
        return reliability_error(bet, truth, weights)

    def _payoffs(self, codes: IntArray, weights: FloatArray, returns: Any) -> list[FloatArray]:
        """Return the returns of each class that a bet is made on."""
        labels = self.classes_.tolist()
        if self.needs_returns:
            return estimated_payoffs(returns, codes, weights, labels, self.long_, self.short_)
        if isinstance(self.payoffs, Mapping):
            return stated_payoffs(self.payoffs, labels, self.long_, self.short_)
        b = float(self.payoffs)
        sides = {self.long_: [b], self.short_: [-1.0]}
        return [np.array(sides.get(k, [b, -1.0])) for k in range(len(labels))]
