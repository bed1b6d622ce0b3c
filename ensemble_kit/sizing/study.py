"""The high-confidence study: what trading only where the model is sure would have earned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import block_bootstrap_mean, next_open_return
from ensemble_kit.metrics.confidence import check_thresholds
from ensemble_kit.metrics.overfitting import deflated_sharpe_ratio
from ensemble_kit.sizing.backtest import backtest
from ensemble_kit.sizing.costs import Costs
from ensemble_kit.sizing.threshold import ThresholdSizer
from ensemble_kit.targets import check_classes, stack_horizons

__all__ = ["trade_at_thresholds"]

FloatArray = NDArray[np.float64]

_METRICS = ["trades", "win_rate", "total_return", "sharpe", "max_drawdown", "exposure", "matched_return"]


def trade_at_thresholds(
    bars: pd.DataFrame,
    proba: Any,
    *,
    classes: Sequence[Any] | NDArray[Any],
    thresholds: Any = None,
    costs: float | Costs = 1.0,
    long: Any = None,
    short: Any = None,
    block: int | None = None,
    random_state: Any = None,
) -> pd.DataFrame:
    """Backtest a fixed position held wherever a direction's probability reaches a threshold.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        A bar frame, of one instrument or a panel, that the model was not fitted on.
    proba : DataFrame or array-like of shape (n, K) or (n, 1, K)
        Probabilities at each bar's close, of one horizon; NaN, where nothing is known, is flat.
        The columns of a DataFrame are placed by their names, whatever their order.
    classes : sequence of K labels
        The labels of the columns, in the order of those that have no names.
    thresholds : sequence of float in [0, 1], default=None
        Least probability of the direction; None for 0, and steps of 0.05 from 1 / K to 0.95.
    costs : float or Costs, default=1.0
        Costs of trading; a number is a commission in basis points.
    long, short : label, default=None
        The classes to be long and short on, as of `ThresholdSizer`.
    block : int, default=None
        Distinct times over which gains may depend on each other, as of `block_bootstrap_mean`.
    random_state : int, RandomState or None, default=None
        Seed of the intervals.

    Returns
    -------
    DataFrame
        A row a threshold, ascending, with the columns

        - `coverage`: share of bars at which there is a position to take;
        - `edge`, `low`, `high`: mean product of the side (1, 0, -1) and the return from the next
          open to the one after, over all bars, before costs, and its 95 % interval. Its null is 0.
          NaN where there is never a position;
        - `trades`, `win_rate`, `total_return`, `sharpe` (a year), `max_drawdown`, `exposure`, after
          costs, and `matched_return`, that of a constant position as large, see `backtest`;
        - `deflated_sharpe`: were this threshold the one selected, the probability that it has
          skill: that its true Sharpe ratio is above what the best of as many, that differ as
          these do, shows without any. NaN where it did not trade.

    Raises
    ------
    BarsError
        If the bars are not usable as they are.
    EnsembleKitError
        If probabilities are of other rows or no probabilities, the directions are not clear from
        the classes, or a number is out of its domain.

    See Also
    --------
    ensemble_kit.metrics.confidence.confidence_curve : How often the calls were right.
    ensemble_kit.metrics.overfitting.probability_of_backtest_overfitting : Selecting among thresholds, judged.

    Notes
    -----
    All equity is taken on one instrument; on each of M instruments of a panel 1 / M of it.
    `deflated_sharpe` knows of these thresholds alone: models, labels and features that were tried
    before are trials, too. Rows of this table are the same bets over and over, and no
    independent evidence.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.sizing.study import trade_at_thresholds
    >>> bars = make_bars(2000, random_state=0)
    >>> up = np.random.default_rng(0).uniform(size=2000)  # beliefs about nothing
    >>> study = trade_at_thresholds(bars, np.column_stack([1 - up, up]), classes=["down", "up"],
    ...                             thresholds=[0.5, 0.9], costs=0, random_state=0)
    >>> study["coverage"].round(2).tolist(), bool((study["low"] < 0).all() and (study["high"] > 0).all())
    ([1.0, 0.2], True)
    """
    check_bars(bars)
    if isinstance(proba, pd.DataFrame) and not proba.index.equals(bars.index):
        raise EnsembleKitError(
            f"`proba` must have the index of `bars` ({len(bars)} rows); got another one of {len(proba)}. "
            "Predict the very bars that are traded, or pass an array."
        )
    labels = check_classes(classes)
    p = stack_horizons(proba, classes=labels)
    if p.shape != (len(bars), 1, len(labels)):
        raise EnsembleKitError(
            f"`proba` must be of {len(bars)} rows, one horizon and {len(labels)} classes; got {p.shape}. "
            "Predict the very bars that are traded, and pass one horizon."
        )
    earned = next_open_return(bars)
    if earned.notna().sum() < 4:
        raise EnsembleKitError(
            f"`bars` must be some more: opens two bars on are known on {int(earned.notna().sum())} of {len(bars)} "
            "row(s), and 4 is least. Widen the span that was read."
        )
    wanted = check_thresholds(thresholds, len(labels))
    sides = [_side(p, labels, least, long, short) for least in wanted]
    share = 1.0 / (len(bars.index.unique(level=1)) if isinstance(bars.index, pd.MultiIndex) else 1)
    results = [backtest(bars, share * side, costs=costs) for side in sides]
    gains = [
        block_bootstrap_mean(side * earned, block=block, random_state=random_state) if side.any() else (np.nan,) * 3
        for side in sides
    ]
    table = pd.DataFrame([result.metrics for result in results], pd.Index(wanted, name="threshold"))[_METRICS]
    before = pd.DataFrame(gains, table.index, ["edge", "low", "high"])
    before.insert(0, "coverage", [float((side != 0).mean()) for side in sides])
    table["deflated_sharpe"] = _deflated([result.returns.to_numpy(np.float64)[1:] for result in results])
    return before.join(table)


def _side(p: FloatArray, labels: NDArray[Any], least: float, long: Any, short: Any) -> FloatArray:
    sizer = ThresholdSizer(threshold=float(least), long=long, short=short)
    # The directions are in the classes alone; any labels will do to fit.
    return sizer.fit(p[:1], labels[:1], classes=labels).transform(p)


def _deflated(returns: list[NDArray[Any]]) -> FloatArray:
    """Return each trial's deflated Sharpe ratio among all of them, NaN of those that never traded."""
    traded = np.array([x.max() > x.min() for x in returns])
    sharpe = np.full(len(returns), np.nan)
    for at in np.flatnonzero(traded):
        sharpe[at] = returns[at].mean() / returns[at].std(ddof=1)
    # Two thresholds between which no probability lies are one trial.
    trials = np.unique(sharpe[traded])
    deflated = np.full(len(returns), np.nan)
    for at in np.flatnonzero(traded):
        deflated[at] = deflated_sharpe_ratio(returns[at], trial_sharpes=trials)
    return deflated
