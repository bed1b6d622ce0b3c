"""Answer chosen rows from a few earlier rows alone, many at a time where the estimator allows it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import RowKeys
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.validation._audit import quiet
from ensemble_kit.validation._runs import Answer, Run
from ensemble_kit.validation.fold import take_rows
from ensemble_kit.validation.lookback import rows_with_history

__all__ = ["Windows"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_BATCH_ROWS = 50_000


@dataclass(frozen=True)
class Windows:
    """An estimator, all rows, its answer on all of them, and how to ask it on short histories."""

    run: Run
    X: Any
    keys: RowKeys
    full: Answer
    place: IntArray  # of each row among those of its instrument
    rtol: float

    @classmethod
    def of(cls, run: Run, X: Any, keys: RowKeys, rtol: float) -> Self:
        """Ask for the answer on all rows."""
        place: IntArray = pd.Series(keys.instrument).groupby(keys.instrument).cumcount().to_numpy().astype(np.int64)
        return cls(run, X, keys, run(X), place, rtol)

    def choose(self, reach: int, n_rows: int, rng: np.random.Generator) -> IntArray:
        """Return random rows that have more than `reach` earlier ones; of a panel, all of some times."""
        able = np.flatnonzero(self.place > reach)
        if len(able) == 0:
            raise EnsembleKitError(
                f"`bars` must have more than {reach + 1} rows of an instrument for a lookback of {reach}; got "
                f"{int(self.place.max(initial=-1)) + 1}. Give more bars."
            )
        times = np.unique(self.keys.time[able])
        per_time = len(able) / len(times)
        some = rng.permutation(times)[: max(int(np.ceil(n_rows / per_time)), 1)]
        return able[np.isin(self.keys.time[able], some)]

    def change(self, rows: IntArray, reach: int) -> FloatArray:
        """Return how far each of `rows` is from the answer on all rows when `reach` rows precede it."""
        alone = not isinstance(self.keys.index, pd.DatetimeIndex) or not self._take_side_by_side(rows, reach)
        with quiet():
            if alone:
                return np.concatenate([self._one(rows[self.keys.time[rows] == t], reach) for t in self._times(rows)])
            size = max(_BATCH_ROWS // (reach + 1), 1)
            return np.concatenate([self._many(rows[at : at + size], reach) for at in range(0, len(rows), size)])

    def _times(self, rows: IntArray) -> list[int]:
        return np.unique(self.keys.time[rows]).tolist()

    def _one(self, rows: IntArray, reach: int) -> FloatArray:
        """Rows of one time, each instrument with its own history."""
        span = rows_with_history(self.keys, rows, reach)
        return self.full.take(rows).change(self.run(take_rows(self.X, span)).take(np.searchsorted(span, rows)))

    def _many(self, rows: IntArray, reach: int) -> FloatArray:
        answer = self._side_by_side(rows, reach)
        return self.full.take(rows).change(answer.take(np.arange(reach, len(answer.values), reach + 1)))

    def _side_by_side(self, rows: IntArray, reach: int) -> Answer:
        """Answer windows of one instrument as a panel; rows window after window."""
        at = (rows[:, None] - np.arange(reach, -1, -1)).ravel()
        window = np.repeat(np.arange(len(rows)), reach + 1)
        order = np.argsort(at, kind="stable")
        panel = self.X.iloc[at[order]]
        panel.index = pd.MultiIndex.from_arrays([panel.index, window[order]], names=["datetime", "instrument"])
        answer = self.run(panel)
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return answer.take(back)

    def _take_side_by_side(self, rows: IntArray, reach: int) -> bool:
        """Whether windows laid side by side are answered as they are alone, in all their rows."""
        # Neighbours overlap in all but one row: whoever mixes instruments mixes these.
        tried = np.unique(np.concatenate([rows[:2], rows[:2] - 1]))
        try:
            with quiet():
                together = self._side_by_side(tried, reach)
                for number, row in enumerate(tried):
                    mine = slice(number * (reach + 1), (number + 1) * (reach + 1))
                    alone = self.run(take_rows(self.X, np.arange(row - reach, row + 1)))
                    if (alone.change(together.take(mine)) > self.rtol).any():
                        return False
        except Exception:  # noqa: BLE001 - whatever is wrong with a panel, windows go one by one
            return False
        return True
