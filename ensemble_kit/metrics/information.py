"""Information coefficients: how well predictions rank or fit returns across instruments, time by time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics.bootstrap import block_bootstrap_mean

__all__ = ["ic_summary", "information_coefficient"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Two points always lie on a line.
_FEWEST = 3


def information_coefficient(
    prediction: pd.Series[Any], forward_return: pd.Series[Any], *, method: str = "pearson"
) -> pd.Series[float]:
    """Correlate predictions and the returns that followed across instruments, at each time.

    Parameters
    ----------
    prediction : Series on a MultiIndex (datetime, instrument), shape (n,)
        Any score that should grow with the return.
    forward_return : Series on the same index, shape (n,)
        What came after each row, such as `next_open_return`. It lies in the future of its row.
    method : {"pearson", "spearman"}, default="pearson"
        The IC, or the RankIC: the same of ranks, ties at their average.

    Returns
    -------
    Series of shape (n_times,)
        `ic` or `rank_ic` in [-1, 1] by time, sorted. Rows where either is NaN are left out; NaN
        at times with fewer than 3 instruments, or where predictions or returns are all equal.

    Raises
    ------
    EnsembleKitError
        If the index is no panel's, the two differ in theirs, or a value is infinite.

    See Also
    --------
    ic_summary : Mean, ratio and interval of these.

    References
    ----------
    R. C. Grinold, R. N. Kahn, Active Portfolio Management, 2000.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.metrics import information_coefficient, next_open_return
    >>> panel = make_bars(50, instruments=list("ABCDE"), random_state=0)
    >>> earned = next_open_return(panel)
    >>> information_coefficient(2 * earned, earned, method="spearman").round(3).tail(4).tolist()
    [1.0, 1.0, nan, nan]
    """
    if method not in {"pearson", "spearman"}:
        raise EnsembleKitError(f"`method` must be 'pearson' or 'spearman'; got {method!r}. 'spearman' is the RankIC.")
    pair = _checked(prediction, forward_return)
    codes, times = pd.factorize(pair.index.get_level_values(0), sort=True)
    known = pair.notna().all(axis=1).to_numpy()
    moment = codes[known].astype(np.int64)
    values = pair[known]
    if method == "spearman":
        values = values.groupby(moment).rank()
    count = np.bincount(moment, minlength=len(times))
    x, y = (_centred(column, moment, count) for column in values.to_numpy(np.float64).T)
    covariance, x2, y2 = (np.bincount(moment, product, len(times)) for product in (x * y, x * x, y * y))
    enough = (count >= _FEWEST) & (x2 > 0) & (y2 > 0)
    ic = np.full(len(times), np.nan)
    # Rounding may carry a perfect correlation past 1.
    ic[enough] = np.clip(covariance[enough] / np.sqrt(x2[enough]) / np.sqrt(y2[enough]), -1.0, 1.0)
    return pd.Series(ic, index=times, name="ic" if method == "pearson" else "rank_ic")


def _checked(prediction: pd.Series[Any], forward_return: pd.Series[Any]) -> pd.DataFrame:
    for name, series in (("prediction", prediction), ("forward_return", forward_return)):
        if not isinstance(series, pd.Series) or not isinstance(series.index, pd.MultiIndex):
            raise EnsembleKitError(
                f"`{name}` must be a Series on a panel's index (datetime, instrument); got {type(series).__name__}"
                f"{f' on a {type(series.index).__name__}' if isinstance(series, pd.Series) else ''}. "
                "Of a single instrument, correlate over time instead."
            )
        if (endless := np.isinf(series.to_numpy(np.float64))).any():
            row = int(np.argmax(endless))
            raise EnsembleKitError(
                f"`{name}` must be finite or NaN; got {float(series.iloc[row]):g} at {series.index[row]} (row {row}). "
                "Set it to NaN where nothing is known."
            )
    if not prediction.index.equals(forward_return.index):
        raise EnsembleKitError(
            f"`forward_return` must have the index of `prediction` ({len(prediction)} rows); got another one of "
            f"{len(forward_return)}. Bring it there with `forward_return.reindex(prediction.index)`."
        )
    return pd.DataFrame({"prediction": prediction, "forward_return": forward_return}, dtype=np.float64)


def _centred(values: FloatArray, moment: IntArray, count: IntArray) -> FloatArray:
    """Return each value less the mean of its time, exactly 0 where all of a time are equal."""
    total = np.bincount(moment, values, len(count))
    centred = values - (total / np.maximum(count, 1))[moment]
    # Rounding leaves a mean that is not the value that all of them have, and so a variance.
    groups = pd.Series(values).groupby(moment)
    centred[(groups.transform("max") == groups.transform("min")).to_numpy()] = 0.0
    return np.asarray(centred, np.float64)


def ic_summary(
    ic: Any,
    *,
    periods_per_year: float | None = None,
    block: int | None = None,
    n_resamples: int = 2000,
    level: float = 0.95,
    random_state: Any = None,
) -> pd.Series[float]:
    """Summarise information coefficients over time.

    Parameters
    ----------
    ic : Series or array-like of shape (n_times,)
        In time order, as `information_coefficient` gives them; NaN left out.
    periods_per_year : float, default=None
        If given, how many of these make a year: adds `icir_annual`.
    block, n_resamples, level, random_state : see `block_bootstrap_mean`
        Of the interval of the mean.

    Returns
    -------
    Series
        `n`, `mean`, `low` and `high` (the mean's block-bootstrap interval), `std` (of a sample), `icir`
        (mean / std; NaN where nothing varies), `icir_annual` (that times the root of
        `periods_per_year`) and `positive` (share above 0).

    Raises
    ------
    EnsembleKitError
        If fewer than 2 are known, `periods_per_year` is not above 0, or as `block_bootstrap_mean`
        does.

    Notes
    -----
    Returns over several bars overlap, and so do their coefficients: the interval knows it
    (with a `block` of at least that many), the annual ratio does not.

    Examples
    --------
    >>> from ensemble_kit.metrics import ic_summary
    >>> ic_summary([0.1, 0.3, 0.0, 0.2], random_state=0)[["mean", "positive"]].round(2).to_dict()
    {'mean': 0.15, 'positive': 0.75}
    """
    if periods_per_year is not None and not periods_per_year > 0:
        raise EnsembleKitError(
            f"`periods_per_year` must be above 0; got {periods_per_year}. Daily bars have about 252."
        )
    x = np.asarray(ic, dtype=np.float64)
    x = x[~np.isnan(x)]
    mean, low, high = block_bootstrap_mean(
        x, block=block, n_resamples=n_resamples, level=level, random_state=random_state
    )
    std = float(x.std(ddof=1)) if x.min() < x.max() else 0.0
    icir = mean / std if std > 0 else float("nan")
    summary = {"n": float(len(x)), "mean": mean, "low": low, "high": high, "std": std, "icir": icir}
    if periods_per_year is not None:
        summary["icir_annual"] = icir * float(np.sqrt(periods_per_year))
    return pd.Series(summary | {"positive": float((x > 0).mean())}, name=getattr(ic, "name", None))
