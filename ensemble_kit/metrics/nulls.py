"""What a score would be without skill: causal rules, surrogate bars, shifted labels, intervals."""

from __future__ import annotations

import warnings
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from ensemble_kit.bars import PRICES, check_bars, instrument_codes
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels import left_legs
from ensemble_kit.metrics.classification import auc_pr
from ensemble_kit.sessions import Session, session_times
from ensemble_kit.targets import stack_horizons

__all__ = ["block_bootstrap_mean", "shifted_label_scores", "surrogate_bars", "turn_rule"]

FloatArray = NDArray[np.float64]
#: Columns that move with the price; the others (volume, sizes) are taken along as they are.
_PRICE_LIKE = (*PRICES, "vwap", "bid", "ask")
#: With d days a share of about 1/d of the bars stays where it is; beyond this, it is worth a warning.
_FEW_DAYS = 0.2


def turn_rule(bars: pd.DataFrame, *, w: int = 36) -> pd.DataFrame:
    """Score peaks and bottoms by the half of the label that is known at its bar.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel.
    w : int, default=36
        Bars of the label's window.

    Returns
    -------
    DataFrame of shape (n, 2)
        Columns `peak` and `bottom`: the left leg in ATR(14) at a strict new extreme of the
        last `w` bars, 0 elsewhere. Row t sees rows <= t. What a model does not add to the
        AUC-PR of this rule, anyone has for free.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.metrics import turn_rule
    >>> turn_rule(make_bars(200, random_state=0)).columns.tolist()
    ['peak', 'bottom']
    """
    check_bars(bars)
    if not isinstance(w, Integral) or w < 1:
        raise EnsembleKitError(f"`w` must be an integer of at least 1; got {w!r}. Take the `w` of the labels.")
    legs = left_legs(bars, w=w)
    return pd.DataFrame({"peak": legs.peak, "bottom": legs.bottom}, index=bars.index)


def surrogate_bars(bars: pd.DataFrame, *, session: str | Session = "day", random_state: Any = None) -> pd.DataFrame:
    """Shuffle bars across days within their time of day: the same shapes, no memory.

    Each bar's shape (its prices relative to the previous close) and volume are permuted
    among the bars of the same time of day; prices are then chained again from the first
    close. Seasonality by time of day and the distribution of bars stay, and whatever
    the past told about the future goes.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel (instruments are shuffled apart).
    session : "day", exchange code or Session, default="day"
        Whose time of day, as for `sessions.session_times`.
    random_state : int, RandomState or None, default=None
        Seed of the permutation.

    Returns
    -------
    DataFrame
        Of the same shape, index and first row; labels and features are to be made anew. Rows
        with a NaN price stay in their place, at the new level of prices. Warns where days are
        so few that many bars change places with themselves.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.metrics import surrogate_bars
    >>> bars = make_bars(500, random_state=0)
    >>> shuffled = surrogate_bars(bars, random_state=0)
    >>> shuffled.index.equals(bars.index), shuffled["close"].equals(bars["close"])
    (True, False)
    """
    check_bars(bars)
    rng = check_random_state(random_state)
    minute = session_times(bars.index, session).minute
    codes, names = instrument_codes(bars.index)
    moving = [column for column in bars.columns if pd.api.types.is_numeric_dtype(bars[column])]
    values = bars[moving].to_numpy(np.float64, copy=True)
    priced = np.array([column in _PRICE_LIKE for column in moving])
    close = moving.index("close")
    whole = bars[list(PRICES)].notna().all(axis=1).to_numpy()
    stayed = np.zeros(len(bars), dtype=bool)
    for instrument in range(len(names)):
        mine = np.flatnonzero(codes == instrument)
        rows = mine[whole[mine]]
        source = _exchange(minute[rows[1:]], rng)
        stayed[rows[1:]] = source == np.arange(len(source))
        before = values[rows, close]
        values[rows] = _chain(values[rows], source, priced, close)
        # Rows with a price unknown have no shape to move: they stay, at the level of the close before them.
        torn = mine[~whole[mine]]
        last = np.searchsorted(rows, torn) - 1
        level = np.where(last >= 0, values[rows[last], close] / before[last], 1.0)
        values[np.ix_(torn, priced)] *= level[:, None]
    if stayed.mean() > _FEW_DAYS:
        warnings.warn(
            f"{stayed.mean():.0%} of the surrogate bars are the bars themselves: too few days share a time of day, so "
            "the surrogate says little. Give more days, or the `session` whose clock the bars follow.",
            UserWarning,
            stacklevel=2,
        )
    surrogate = bars.copy()
    surrogate[moving] = values
    return surrogate


def _exchange(minute: FloatArray, rng: np.random.RandomState) -> NDArray[np.int64]:
    """Return which bar takes each bar's place, of those at the same time of day."""
    source = np.arange(len(minute))
    for slot in np.unique(minute):
        mine = np.flatnonzero(minute == slot)
        source[mine] = rng.permutation(mine)
    return source


def _chain(values: FloatArray, source: NDArray[np.int64], priced: NDArray[np.bool_], close: int) -> FloatArray:
    """Chain the bars' shapes in another order from the first close on."""
    shapes = values[1:].copy()
    shapes[:, priced] /= values[:-1, [close]]
    shapes = shapes[source]
    chained = values[0, close] * np.concatenate([[1.0], np.cumprod(shapes[:, close])])
    shapes[:, priced] *= chained[:-1, None]
    return np.vstack([values[:1], shapes])


def shifted_label_scores(
    y: Any,
    proba: Any,
    *,
    classes: Any,
    min_shift: int,
    events: Any = None,
    horizon: int = 0,
    n_shifts: int = 200,
    random_state: Any = None,
) -> FloatArray:
    """Score the same probabilities against labels shifted circularly: the score's null distribution.

    Parameters
    ----------
    y : array-like of shape (n,) or (n, H)
        Labels in time order, of one instrument.
    proba : ndarray (n, K), list of H ndarrays (n, K), or ndarray (n, H, K)
        Probabilities of the same rows.
    classes : sequence of K labels
        The labels of the columns.
    min_shift : int
        Every shift is larger than this, and than this from the other end: more than the
        label's window.
    events : sequence of labels, default=None
        Classes whose AUC-PR is averaged.
    horizon : int, default=0
        Which horizon.
    n_shifts : int, default=200
        How many shifts.
    random_state : int, RandomState or None, default=None
        Seed of the shifts.

    Returns
    -------
    ndarray of shape (n_shifts,)
        Mean AUC-PR of each shift. Average precision is biased upwards when positives are
        few: compare with this, not with the prevalence.
    """
    labels = np.asarray(y)
    labels = labels if labels.ndim == 1 else labels[:, horizon]
    p = stack_horizons(proba)[:, horizon]
    n = len(labels)
    if not isinstance(min_shift, Integral) or min_shift < 0:
        raise EnsembleKitError(
            f"`min_shift` must be an integer of at least 0; got {min_shift!r}. Take what the label looks ahead."
        )
    if n <= 2 * min_shift + 1:
        raise EnsembleKitError(
            f"`y` must have more than {2 * min_shift + 1} rows for min_shift={min_shift}; got {n}. Give more bars."
        )
    shifts = check_random_state(random_state).randint(min_shift + 1, n - min_shift, size=n_shifts)
    return np.array([auc_pr(np.roll(labels, s), p, classes=classes, events=events)[0] for s in shifts])


def block_bootstrap_mean(
    values: Any, *, block: int | None = None, n_resamples: int = 2000, level: float = 0.95, random_state: Any = None
) -> tuple[float, float, float]:
    """Mean of a dependent series and its circular moving-block bootstrap interval.

    Parameters
    ----------
    values : array-like of shape (n,)
        In time order; NaN left out.
    block : int, default=None
        Length of the blocks, at most n // 2 (one block of all would always give the same
        mean); None for the cube root of n times 2, within that.
    n_resamples : int, default=2000
        Resamples.
    level : float, default=0.95
        Coverage of the interval.
    random_state : int, RandomState or None, default=None
        Seed of the blocks.

    Returns
    -------
    mean, low, high : float
        The mean and the percentile interval.

    Raises
    ------
    EnsembleKitError
        If there are fewer than 2 numbers, an infinite one, or blocks of another length.

    References
    ----------
    D. N. Politis, J. P. Romano, A Circular Block-Resampling Procedure for Stationary Data,
    1992.
    """
    x = np.asarray(values, dtype=np.float64)
    x = x[~np.isnan(x)]
    n = len(x)
    if n < 2 or np.isinf(x).any():
        raise EnsembleKitError(
            f"`values` must have at least 2 numbers, all finite; got {n}, {int(np.isinf(x).sum())} of them infinite. "
            "Give more rows, and NaN where nothing is known."
        )
    if block is not None and not 1 <= block <= n // 2:
        raise EnsembleKitError(f"`block` must be in [1, {n // 2}] for {n} values; got {block}. Leave it None.")
    length = min(n // 2, round(2 * n ** (1 / 3))) if block is None else int(block)
    # Sums of all blocks, wrapped round the end so that each value counts alike.
    total = np.concatenate([[0.0], np.cumsum(np.concatenate([x, x[: length - 1]]))])
    sums = total[length:] - total[:-length]
    n_blocks = -(-n // length)
    starts = check_random_state(random_state).randint(0, n, size=(n_resamples, n_blocks))
    means = sums[starts].sum(axis=1) / (n_blocks * length)
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(x.mean()), float(low), float(high)
