"""Walk-forward folds: training rows whose labels were known before the first test bar."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from datetime import timedelta
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import BaseCrossValidator

from ensemble_kit.bars import RowKeys, pack_index, row_keys, unpack_index
from ensemble_kit.exceptions import EnsembleKitError, LeakageError
from ensemble_kit.validation._known import known_after_bars, known_at_t1
from ensemble_kit.validation._sizes import place_blocks

__all__ = ["WalkForwardSplit", "check_fold"]

IntArray = NDArray[np.int64]


class WalkForwardSplit(BaseCrossValidator):
    """Walk-forward folds, expanding or rolling, purged by when each label was known.

    Parameters
    ----------
    n_splits : int, default=3
        Folds. The test blocks follow one another and end at the last time.
    t1 : Series, default=None
        The time of the last bar each row's label looked at, on X's index (positions for
        arrays), as the label functions give it. A row trains if its `t1` is before the
        first test bar; one whose label was never known (NaT) does not. Rows are looked up
        by index, so the `t1` of all bars serves any rows of them, in any time zone.
    purge : int, default=None
        Instead of `t1`: how many bars of each instrument, the newest before the test block,
        to leave out. Exact for labels that look so many of their own bars ahead, however
        seldom an instrument trades.
    train_size : int, float, str or timedelta, default=None
        None for all rows before the test block (expanding). Else the window (rolling): a
        number of distinct times, their share, or elapsed time such as ``"90D"``. It ends
        right before the first test bar, and purging takes from it.
    test_size : int, float, str or timedelta, default=None
        The same for each test block. None for equal parts: `n_times // (n_splits + 1)`, or,
        behind a rolling window, as many times as let the blocks fill what it leaves.

    See Also
    --------
    ensemble_kit.validation.walk_forward_predict : Out-of-fold predictions on these folds.
    ensemble_kit.reports.plot_folds : A picture of them.

    Notes
    -----
    Panels are split by time, never by instrument. With neither `t1` nor `purge` a warning
    says that labels which look ahead would leak.

    Elapsed time has 24 hours a day, also where clocks change: folds are the same in every
    zone. With T the last time, test blocks are ..., (T - 2d, T - d], (T - d, T], and a
    window is [first test bar - d, first test bar). A block without bars is refused, and so
    is a window that begins before the first bar.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.validation import WalkForwardSplit
    >>> for train, test in WalkForwardSplit(2, purge=1, test_size=2).split(np.zeros((8, 1))):
    ...     print(train, test)
    [0 1 2] [4 5]
    [0 1 2 3 4] [6 7]

    Rolling, in calendar time:

    >>> import pandas as pd
    >>> days = pd.DataFrame({"close": 1.0}, index=pd.date_range("2024-01-01", periods=200))
    >>> WalkForwardSplit(2, purge=5, train_size="90D", test_size="30D").folds(days)
         train_start  train_end  n_train  n_purged test_start   test_end  n_test
    fold
    0     2024-02-20 2024-05-14       85         5 2024-05-20 2024-06-18      30
    1     2024-03-21 2024-06-13       85         5 2024-06-19 2024-07-18      30
    """

    def __init__(
        self,
        n_splits: int = 3,
        *,
        t1: pd.Series[Any] | None = None,
        purge: int | None = None,
        train_size: float | str | timedelta | None = None,
        test_size: float | str | timedelta | None = None,
    ) -> None:
        self.n_splits = n_splits
        self.t1 = t1
        self.purge = purge
        self.train_size = train_size
        self.test_size = test_size

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:  # noqa: ARG002
        """Return the number of folds.

        Parameters
        ----------
        X, y, groups : object
            Not used; scikit-learn's signature.

        Returns
        -------
        int
            `n_splits`.
        """
        return int(self.n_splits)

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[tuple[IntArray, IntArray]]:  # noqa: ARG002
        """Yield the positions of training and test rows, fold by fold in time.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n, ...)
            Rows in time order; a panel carries its (datetime, instrument) index.
        y, groups : object
            Not used.

        Yields
        ------
        train, test : ndarray of int64
            Positions of rows.

        Raises
        ------
        BarsError
            If the times of X are unsorted, repeated or missing.
        EnsembleKitError
            If the folds cannot be filled.
        LeakageError
            If `t1` is on another index, or before its own row.
        """
        for _, train, test in self._folds(row_keys(X), X):
            yield train, test

    def folds(self, X: Any) -> pd.DataFrame:
        """Return when each fold trains and tests, and on how many rows.

        Parameters
        ----------
        X : DataFrame, Series or array of shape (n, ...)
            What `split` would get.

        Returns
        -------
        DataFrame of shape (n_splits, 7)
            By fold, `train_start`, `train_end`, `test_start` and `test_end`: the times of the
            first and last rows (positions for arrays); `n_train` and `n_test`: numbers of
            rows; `n_purged`: rows of the window that do not train.
        """
        keys = row_keys(X)
        axis = keys.axis()
        rows = []
        for first, train, test in self._folds(keys, X):
            row = {"train_start": axis[train[0]], "train_end": axis[train[-1]], "n_train": len(train)}
            row |= {"n_purged": int(test[0]) - first - len(train)}
            row |= {"test_start": axis[test[0]], "test_end": axis[test[-1]], "n_test": len(test)}
            rows.append(row)
        return _FoldTable(rows, index=pd.RangeIndex(len(rows), name="fold"))

    def _folds(self, keys: RowKeys, X: Any) -> Iterator[tuple[int, IntArray, IntArray]]:
        """Yield each fold's first row that might train, training rows and test rows."""
        self._check_parameters()
        times, rows = np.unique(keys.time, return_index=True)
        blocks = place_blocks(
            keys.axis()[rows], int(self.n_splits), train_size=self.train_size, test_size=self.test_size
        )
        bounds = np.append(rows, len(keys.time))[blocks].tolist()
        known = known_after_bars(keys, self.purge or 0) if self.t1 is None else known_at_t1(self.t1, X, keys)
        for fold, (first, start, _) in enumerate(bounds):  # all of them before the first is used
            if not (known[first:start] < keys.time[start]).any():
                raise EnsembleKitError(
                    f"`n_splits`={self.n_splits} must leave training rows to every fold; fold {fold} has none after "
                    f"purging its {start - first} rows before {keys.axis()[start]}. Give more bars ({len(times)} times "
                    "now), fewer folds, a smaller `test_size` or a larger `train_size`."
                )
        for first, start, stop in bounds:
            train = first + np.flatnonzero(known[first:start] < keys.time[start])
            yield first, train, np.arange(start, stop, dtype=np.int64)

    def _check_parameters(self) -> None:
        if not isinstance(self.n_splits, Integral) or self.n_splits < 1:
            raise EnsembleKitError(f"`n_splits` must be an integer of at least 1; got {self.n_splits!r}. Take 3, say.")
        if self.t1 is not None and not isinstance(self.t1, pd.Series):
            raise EnsembleKitError(
                f"`t1` must be a pandas Series on the index of X; got {type(self.t1).__name__}. Pass `labels.t1`."
            )
        if self.t1 is not None and self.purge is not None:
            raise EnsembleKitError("`t1` and `purge` must not both be given; got both. `t1` purges exactly: keep it.")
        if self.purge is not None and (not isinstance(self.purge, Integral) or self.purge < 0):
            raise EnsembleKitError(f"`purge` must be an integer of at least 0; got {self.purge!r}. Count it in bars.")
        if self.t1 is None and self.purge is None:
            warnings.warn(
                "`WalkForwardSplit` has neither `t1` nor `purge`: labels that look ahead leak across fold borders. "
                "Give `t1=labels.t1`, or `purge=0` where labels look at their own bar only.",
                UserWarning,
                stacklevel=4,
            )

    def __repr__(self) -> str:
        given = [str(self.n_splits), *([] if self.t1 is None else [f"t1=<{len(self.t1)} rows>"])]
        others = {"purge": self.purge, "train_size": self.train_size, "test_size": self.test_size}
        given += [f"{name}={value!r}" for name, value in others.items() if value is not None]
        return f"WalkForwardSplit({', '.join(given)})"

    def __getstate__(self) -> dict[str, Any]:
        # A frame's pickle needs pandas' own classes: plain arrays and strings let any safe format store the splitter.
        state = self.__dict__.copy()
        for name in ("train_size", "test_size"):
            if isinstance(state[name], timedelta | np.timedelta64):
                state[name] = str(pd.Timedelta(state[name]))
        if self.t1 is not None:
            values = self.t1
            state["t1"] = {
                "index": pack_index(values.index),
                "value": pack_index(pd.DatetimeIndex(values)) if values.dtype.kind == "M" else values.to_numpy(),
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = state["t1"]
        if isinstance(packed, dict):
            value = packed["value"]
            column = unpack_index(value, 0) if isinstance(value, dict) else value
            state = state | {"t1": pd.Series(column, index=unpack_index(packed["index"], len(column)), name="t1")}
        self.__dict__.update(state)


class _FoldTable(pd.DataFrame):
    """A frame that prints all its columns, below one another where they are too wide."""

    @property
    def _constructor(self) -> Any:
        return pd.DataFrame

    def __repr__(self) -> str:
        return self.to_string(line_width=pd.get_option("display.width"))


def check_fold(keys: RowKeys, train: IntArray, test: IntArray, fold: int) -> None:
    """Refuse a fold whose training rows do not all lie before its test rows.

    Parameters
    ----------
    keys : RowKeys
        Time and instrument of all rows.
    train, test : ndarray of int64
        Positions.
    fold : int
        The fold's number, for the message.

    Raises
    ------
    EnsembleKitError
        If the fold has no training or no test rows.
    LeakageError
        If any training row is as late as the first test row.
    """
    if len(train) == 0 or len(test) == 0:
        raise EnsembleKitError(
            f"`cv` must give rows to every fold; fold {fold} has {len(train)} training rows and "
            f"{len(test)} test rows. Use `WalkForwardSplit` or fewer folds."
        )
    newest, first = keys.time[train].max(), keys.time[test].min()
    if newest >= first:
        where = int(train[np.argmax(keys.time[train])])
        raise LeakageError(
            f"`cv` must train on rows before the test rows only; fold {fold} trains on row {where}, which is not "
            f"before its first test row {int(test[np.argmin(keys.time[test])])}. Use `WalkForwardSplit`."
        )
