"""How much of a good backtest is selection: the Sharpe ratio of the best of many, and its rank elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr, ndtri

from ensemble_kit.exceptions import EnsembleKitError

__all__ = [
    "OverfittingResult",
    "deflated_sharpe_ratio",
    "expected_maximum_sharpe",
    "probabilistic_sharpe_ratio",
    "probability_of_backtest_overfitting",
]

FloatArray = NDArray[np.float64]

#: Numbers of one chunk of splits by trials: 8 MiB an array, whatever the study's size.
_CHUNK = 2**20
#: Variance below this share of the mean square is what rounding leaves of a constant.
_ROUNDING = 1e-12


def probabilistic_sharpe_ratio(returns: Any, *, benchmark: float = 0.0) -> float:
    """Probability that the true Sharpe ratio exceeds a benchmark, of one strategy that was not selected.

    Parameters
    ----------
    returns : array-like of shape (T,)
        Simple returns a period, none missing, as `BacktestResult.returns` without its first.
    benchmark : float, default=0.0
        Sharpe ratio a period (not annualised) to exceed.

    Returns
    -------
    float
        From 0 to 1.

    Raises
    ------
    EnsembleKitError
        If there are fewer than 3 returns, or they are missing, infinite or all equal.

    See Also
    --------
    deflated_sharpe_ratio : For the best of many trials.

    Notes
    -----
    The estimate SR (standard deviation with T - 1) is about normal with variance
    ``(1 - g3 SR + (g4 - 1) / 4 SR^2) / (T - 1)``, where g3 is the skewness and g4 the kurtosis
    (3 of a normal) of the returns. Periods are taken for independent: returns that trend
    make it too sure, so add up those of fine bars to days.

    References
    ----------
    D. H. Bailey, M. Lopez de Prado, The Sharpe Ratio Efficient Frontier, 2012.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.metrics.overfitting import probabilistic_sharpe_ratio
    >>> returns = np.random.default_rng(0).normal(0.001, 0.01, size=1000)
    >>> round(probabilistic_sharpe_ratio(returns), 3)
    0.953
    """
    x = _columns(returns, "returns", 1)[:, 0]
    if not _is_number(benchmark, -np.inf):
        raise EnsembleKitError(
            f"`benchmark` must be a finite number; got {benchmark!r}. It is a Sharpe ratio a period."
        )
    sharpe, z = x.mean() / x.std(ddof=1), (x - x.mean()) / x.std()
    variance = 1 - (z**3).mean() * sharpe + ((z**4).mean() - 1) / 4 * sharpe**2
    # Of returns with two values only it can be 0, but for rounding.
    return float(ndtr((sharpe - benchmark) * np.sqrt((len(x) - 1) / max(variance, _ROUNDING))))


def expected_maximum_sharpe(
    trial_sharpes: Any = None, *, n_trials: float | None = None, sharpe_variance: float | None = None
) -> float:
    """Sharpe ratio that the best of many trials without any skill is expected to show.

    Parameters
    ----------
    trial_sharpes : array-like of shape (N,), default=None
        Sharpe ratio a period of every trial that was made, the discarded ones included.
    n_trials : float, default=None
        How many trials, at least 1; None for the number of `trial_sharpes`.
    sharpe_variance : float, default=None
        Variance of the Sharpe ratio across trials; None for that of `trial_sharpes`. Of trials
        without skill and with returns of their own, about 1 / T.

    Returns
    -------
    float
        At least 0; 0 of one trial.

    Raises
    ------
    EnsembleKitError
        If numbers are out of their domain, or neither form is complete.

    Notes
    -----
    ``sqrt(V) ((1 - g) z(1 - 1 / N) + g z(1 - 1 / (N e)))``, where z is the normal quantile and
    g is Euler's constant. Trials that resemble each other vary less: take the variance
    across them with their full number. A smaller effective number on top would count the
    resemblance twice.

    References
    ----------
    D. H. Bailey, M. Lopez de Prado, The Deflated Sharpe Ratio, 2014.

    Examples
    --------
    >>> from ensemble_kit.metrics.overfitting import expected_maximum_sharpe
    >>> round(expected_maximum_sharpe(n_trials=100, sharpe_variance=1 / 500), 4)
    0.1132
    """
    if trial_sharpes is not None:
        sharpes = np.asarray(trial_sharpes, dtype=np.float64)
        if sharpes.ndim != 1 or not len(sharpes) or not np.isfinite(sharpes).all():
            raise EnsembleKitError(
                f"`trial_sharpes` must be finite numbers, one a trial; got shape {sharpes.shape}, "
                f"{int((~np.isfinite(sharpes)).sum())} of them not finite. Leave out trials that never traded."
            )
        n_trials = len(sharpes) if n_trials is None else n_trials
        if sharpe_variance is None:
            sharpe_variance = float(sharpes.var(ddof=1)) if len(sharpes) > 1 else 0.0
    if n_trials is None or not _is_number(n_trials, 1):
        raise EnsembleKitError(
            f"`n_trials` must be a number of at least 1; got {n_trials!r}. Count all trials, or pass `trial_sharpes`."
        )
    if sharpe_variance is None or not _is_number(sharpe_variance, 0):
        raise EnsembleKitError(
            f"`sharpe_variance` must be a finite number of at least 0; got {sharpe_variance!r}. "
            "Pass `trial_sharpes`, and it is taken from them."
        )
    if n_trials == 1:
        return 0.0
    quantiles = ndtri([1 - 1 / n_trials, 1 - np.exp(-1) / n_trials])
    # Between one trial and two the approximation would be negative.
    return float(max(np.sqrt(sharpe_variance) * np.dot([1 - np.euler_gamma, np.euler_gamma], quantiles), 0.0))


def deflated_sharpe_ratio(
    returns: Any,
    *,
    trial_sharpes: Any = None,
    n_trials: float | None = None,
    sharpe_variance: float | None = None,
) -> float:
    """Probability that the true Sharpe ratio is above 0, of the best of many trials.

    Parameters
    ----------
    returns : array-like of shape (T,)
        Simple returns a period of the trial that was selected, none missing.
    trial_sharpes, n_trials, sharpe_variance : see `expected_maximum_sharpe`
        What was tried: the Sharpe ratios of all trials, or their number and variance, of the
        same periods as `returns` and not annualised.

    Returns
    -------
    float
        From 0 to 1: `probabilistic_sharpe_ratio` against `expected_maximum_sharpe`. Above 0.95
        is evidence of skill. With the best of pure noise that happens less often than in 5 %.

    Raises
    ------
    EnsembleKitError
        If returns or trials are not usable.

    See Also
    --------
    probability_of_backtest_overfitting : The same question without a formula's assumptions.

    References
    ----------
    D. H. Bailey, M. Lopez de Prado, The Deflated Sharpe Ratio: Correcting for Selection Bias,
    Backtest Overfitting and Non-Normality, 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.metrics.overfitting import deflated_sharpe_ratio, probabilistic_sharpe_ratio
    >>> trials = np.random.default_rng(0).normal(0, 0.01, size=(1000, 50))  # no skill anywhere
    >>> sharpes = trials.mean(axis=0) / trials.std(axis=0, ddof=1)
    >>> best = trials[:, sharpes.argmax()]
    >>> print(f"{probabilistic_sharpe_ratio(best):.2f} {deflated_sharpe_ratio(best, trial_sharpes=sharpes):.2f}")
    0.99 0.46
    """
    null = expected_maximum_sharpe(trial_sharpes, n_trials=n_trials, sharpe_variance=sharpe_variance)
    return probabilistic_sharpe_ratio(returns, benchmark=null)


@dataclass(frozen=True, eq=False)
class OverfittingResult:
    """What selecting the best trial was worth on the other half of the time, split by split.

    Attributes
    ----------
    pbo : float
        Probability of backtest overfitting: share of splits in which the trial that was best in
        sample is worse than the median trial out of sample; where it is the median, half a
        split. About 0.5 of pure noise and of equal trials, 0 where the best is the best everywhere.
    splits : DataFrame of shape (n_splits, 4)
        Of each split the selected `trial`, its Sharpe ratio a period `in_sample` and
        `out_of_sample`, and the `logit` of its relative rank out of sample (below 0 where
        it is worse than the median, 0 where it is the median).
    slope : float
        Performance degradation: slope of out-of-sample over in-sample Sharpe ratios; NaN
        where the latter are all equal. Not above 0: better there says nothing, or worse, here.
    probability_of_loss : float
        Share of splits in which the selected trial loses out of sample.
    """

    pbo: float
    splits: pd.DataFrame
    slope: float
    probability_of_loss: float


def probability_of_backtest_overfitting(returns: Any, *, n_blocks: int = 16) -> OverfittingResult:
    """Select the best trial on each half of the blocks of time, and see how it ranks on the other half.

    Combinatorially symmetric cross-validation (CSCV) of the selection, not of a model.

    Parameters
    ----------
    returns : DataFrame or array-like of shape (T, N)
        Simple returns a period in time order, one column a trial: every trial that was made, on
        the same rows, none missing.
    n_blocks : int, default=16
        Blocks of consecutive rows, even and from 4 to 20: 12,870 splits for 16. A block
        should be much longer than a position is held.

    Returns
    -------
    OverfittingResult
        `pbo`, `splits`, `slope`, `probability_of_loss`.

    Raises
    ------
    EnsembleKitError
        If there are fewer than 2 trials or 2 rows a block, a trial has missing, infinite or
        only equal returns, or `n_blocks` is out of its domain.

    Notes
    -----
    Blocks differ by one row at most where T is no multiple. A trial whose returns are all equal
    in a half, as those of one that did not trade then, has a Sharpe ratio of 0 there. Of
    equal trials the first is selected, and ranks are averaged. Splits share their rows, so
    their number is no measure of how sure `pbo` is: over studies of pure noise it has its
    mean at 0.5 and a standard deviation that depends on the number of trials: with 10 blocks
    0.31 of 2, 0.24 of 3, 0.2 of 20 and 0.15 of 100 independent ones.

    References
    ----------
    D. H. Bailey, J. M. Borwein, M. Lopez de Prado, Q. J. Zhu, The Probability of Backtest
    Overfitting, 2017.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.metrics.overfitting import probability_of_backtest_overfitting
    >>> trials = np.random.default_rng(0).normal(0, 0.01, size=(2000, 20))
    >>> trials[:, 7] += 0.002  # one is good
    >>> result = probability_of_backtest_overfitting(trials, n_blocks=8)
    >>> len(result.splits), result.pbo < 0.05
    (70, True)
    """
    x = _columns(returns, "returns", 2)
    names = returns.columns if isinstance(returns, pd.DataFrame) else pd.RangeIndex(x.shape[1])
    if not isinstance(n_blocks, Integral) or n_blocks % 2 or not 4 <= n_blocks <= 20:
        raise EnsembleKitError(f"`n_blocks` must be an even integer from 4 to 20; got {n_blocks!r}. Take 16.")
    if len(x) < 2 * n_blocks:
        raise EnsembleKitError(
            f"`returns` must have 2 rows a block at least, {2 * n_blocks}; got {len(x)}. Give more, or fewer blocks."
        )
    selected, inside, outside, rank = (np.concatenate(part) for part in zip(*_splits(x, int(n_blocks)), strict=True))
    relative = rank / (x.shape[1] + 1)
    logit = np.log(relative / (1 - relative))
    columns = {"trial": names.take(selected), "in_sample": inside, "out_of_sample": outside, "logit": logit}
    off = inside - inside.mean()
    return OverfittingResult(
        # Were a median rank a loss, noise would seem overfit: by 1 / (2 N) for an odd number of trials.
        pbo=float(((logit < 0) + (logit == 0) / 2).mean()),
        splits=pd.DataFrame(columns).rename_axis("split"),
        slope=float(off @ outside / (off @ off)) if np.ptp(inside) > 0 else float("nan"),
        probability_of_loss=float((outside < 0).mean()),
    )


def _splits(x: FloatArray, n_blocks: int) -> Iterator[tuple[Any, FloatArray, FloatArray, FloatArray]]:
    """Yield, for chunks of splits, the selected trial, its two Sharpe ratios, and its rank out of sample."""
    # Sums about each trial's mean lose nothing to cancellation; those of a union are sums of the blocks'.
    mean = x.mean(axis=0)
    rows = np.empty(n_blocks)
    first, second = np.empty((2, n_blocks, x.shape[1]))
    for b, block in enumerate(np.array_split(x, n_blocks)):
        off = block - mean
        rows[b], first[b], second[b] = len(off), off.sum(axis=0), np.einsum("ij,ij->j", off, off)
    halves = np.array(list(combinations(range(n_blocks), n_blocks // 2)))
    for chunk in np.array_split(halves, -(-len(halves) * x.shape[1] // _CHUNK)):
        taken = np.zeros((len(chunk), n_blocks))
        np.put_along_axis(taken, chunk, 1.0, axis=1)
        inside, outside = (
            _sharpe(mean, (half @ rows)[:, None], half @ first, half @ second) for half in (taken, 1.0 - taken)
        )
        selected = inside.argmax(axis=1)
        best = np.take_along_axis(outside, selected[:, None], axis=1)
        rank = (outside < best).sum(axis=1) + ((outside == best).sum(axis=1) + 1) / 2
        yield selected, inside.max(axis=1), best[:, 0], rank


def _sharpe(mean: FloatArray, n: FloatArray, first: FloatArray, second: FloatArray) -> FloatArray:
    """Return Sharpe ratios (splits, N) by sums about the mean; 0 without variance."""
    centre = first / n
    variance = (second - first * centre) / (n - 1)
    varies = variance > _ROUNDING * second / n
    return np.divide(mean + centre, np.sqrt(np.where(varies, variance, 1.0)), out=np.zeros_like(centre), where=varies)


def _is_number(value: Any, least: float) -> bool:
    return isinstance(value, Real) and bool(np.isfinite(float(value))) and float(value) >= least


def _columns(returns: Any, name: str, ndim: int) -> FloatArray:
    """Return returns of shape (T, N), known and not constant in any column."""
    x = np.asarray(returns, dtype=np.float64)
    if x.ndim != ndim or len(x) < 3 or x.shape[-1] < 2:
        shape = "(T,), T at least 3" if ndim == 1 else "(T, N), T at least 3 and N at least 2"
        raise EnsembleKitError(
            f"`{name}` must have shape {shape}; got {x.shape}. Give returns a period, in time order."
        )
    x = x.reshape(len(x), -1)
    labels = returns.columns if isinstance(returns, pd.DataFrame) else range(x.shape[1])
    unknown = np.logical_not(np.isfinite(x).all(axis=0))
    _refuse(unknown, labels, ndim, f"`{name}` must be finite; got missing or infinite values", "Use 0 where flat.")
    constant = x.max(axis=0) == x.min(axis=0)
    _refuse(constant, labels, ndim, f"`{name}` must vary; got equal values only", "Leave out what never traded.")
    return x


def _refuse(wrong: NDArray[np.bool_], labels: Any, ndim: int, says: str, cure: str) -> None:
    if wrong.any():
        named = [str(label) for label, bad in zip(labels, wrong, strict=True) if bad]
        shown = ", ".join(named[:5]) + (", ..." if len(named) > 5 else "")
        where = "" if ndim == 1 else f" in {len(named)} trial(s): {shown}"
        raise EnsembleKitError(f"{says}{where}. {cure}")
