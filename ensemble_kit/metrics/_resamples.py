"""Resamples made of blocks of time: whole timestamps, in runs, each time equally often."""

from __future__ import annotations

from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from ensemble_kit.bars import row_keys
from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["Resamples", "moments", "percentiles"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def percentiles(draws: FloatArray, level: float) -> tuple[float, float]:
    """Return the interval that holds a share of the draws, NaN left out."""
    if not isinstance(level, Real) or not 0 < level < 1:
        raise EnsembleKitError(
            f"`level` must be a number above 0 and below 1; got {level!r}. Of 95 % coverage it is 0.95."
        )
    known = draws[~np.isnan(draws)]
    tail = (1 - level) / 2
    low, high = np.quantile(known, [tail, 1 - tail]) if len(known) else (np.nan, np.nan)
    return float(low), float(high)


def moments(times: Any, rows: Any, *, name: str) -> IntArray:
    """Return the number of each row's time, that of the rows' own index where none is given."""
    if times is None:
        return np.unique(row_keys(rows, name=name).time, return_inverse=True)[1]
    codes, _ = pd.factorize(pd.Index(times), sort=True)
    missing = int((codes < 0).sum())
    if len(codes) != len(rows) or missing:
        raise EnsembleKitError(
            f"`times` must have a time for each of the {len(rows)} rows of `{name}`; got {len(codes)}, {missing} of "
            "them missing. Pass the level `datetime` of the rows' index."
        )
    return codes.astype(np.int64)


@dataclass(frozen=True)
class Resamples:
    """Which blocks of times each resample is made of: `starts` (n_resamples, n_blocks) of `length` each."""

    starts: IntArray
    length: int
    n_times: int

    @classmethod
    def draw(cls, n_times: int, block: int | None, n_resamples: int, random_state: Any, *, name: str) -> Resamples:
        """Draw them at random; `name` is what messages call the rows."""
        if n_times < 2:
            raise EnsembleKitError(
                f"`{name}` must be known at 2 times at least, to make blocks of; got {n_times}. Give more rows."
            )
        if not isinstance(n_resamples, Integral) or n_resamples < 1:
            raise EnsembleKitError(
                f"`n_resamples` must be an integer of at least 1; got {n_resamples!r}. Intervals need some 1000."
            )
        if block is not None and (not isinstance(block, Integral) or not 1 <= block <= n_times // 2):
            raise EnsembleKitError(
                f"`block` must be an integer in [1, {n_times // 2}] for {n_times} times; got {block!r}. Leave it None."
            )
        length = min(n_times // 2, round(2 * n_times ** (1 / 3))) if block is None else int(block)
        shape = n_resamples, -(-n_times // length)
        return cls(check_random_state(random_state).randint(0, n_times, size=shape), length, n_times)

    @classmethod
    def whole(cls, n_times: int) -> Resamples:
        """Return the one resample that is the sample."""
        return cls(np.zeros((1, 1), dtype=np.int64), n_times, n_times)

    def mean(self, values: FloatArray, weights: FloatArray, moment: IntArray) -> FloatArray:
        """Return the weighted mean of each resample; NaN without weight."""
        total = self._sums(np.bincount(moment, weights * values, self.n_times))
        weight = self._sums(np.bincount(moment, weights, self.n_times))
        return np.divide(total, weight, out=np.full(len(total), np.nan), where=weight > 0)

    def _sums(self, by_time: NDArray[Any]) -> FloatArray:
        # Sums of all blocks, wrapped round the end so that each time counts alike.
        total = np.concatenate([[0.0], np.cumsum(np.concatenate([by_time, by_time[: self.length - 1]]))])
        return (total[self.length :] - total[: -self.length])[self.starts].sum(axis=1)
