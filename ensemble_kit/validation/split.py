"""Walk-forward folds: training rows whose labels were known before the first test bar."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.model_selection import BaseCrossValidator

from ensemble_kit.bars import RowKeys, pack_index, row_keys, unpack_index
from ensemble_kit.exceptions import EnsembleKitError, LeakageError

__all__ = ["WalkForwardSplit", "check_fold"]

IntArray = NDArray[np.int64]

_NEVER = np.iinfo(np.int64).max


class WalkForwardSplit(BaseCrossValidator):
    """Expanding walk-forward folds, purged by when each label was known.

    Parameters
    ----------
    n_splits : int, default=3
        Folds. The test blocks are the newest `n_splits * test_size` times, in order.
    t1 : Series, default=None
        The time of the last bar each row's label looked at, on X's index (positions for
        arrays), as the label functions give it. A training row stays if its `t1` is
        before the first test bar. Rows are looked up by index, so slices of X work.
    purge : int, default=None
        Instead of `t1`: how many times (bars) before the test block to leave out.
    test_size : int or float, default=None
        Times a test block, or their share; None for `n_times // (n_splits + 1)`.

    See Also
    --------
    ensemble_kit.validation.walk_forward_predict : Out-of-fold predictions on these folds.

    Notes
    -----
    Panels are split by time, never by instrument. With neither `t1` nor `purge` a warning
    says that labels which look ahead would leak.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.validation import WalkForwardSplit
    >>> for train, test in WalkForwardSplit(2, purge=1, test_size=2).split(np.zeros((8, 1))):
    ...     print(train, test)
    [0 1 2] [4 5]
    [0 1 2 3 4] [6 7]
    """

    def __init__(
        self,
        n_splits: int = 3,
        *,
        t1: pd.Series[Any] | None = None,
        purge: int | None = None,
        test_size: float | None = None,
    ) -> None:
        self.n_splits = n_splits
        self.t1 = t1
        self.purge = purge
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
        EnsembleKitError
            If the folds cannot be filled.
        LeakageError
            If `t1` is on another index, or before its own row.
        """
        keys = row_keys(X)
        self._check_parameters()
        known = self._label_times(keys)
        times, which = np.unique(keys.time, return_inverse=True)
        size = self._block_size(len(times))
        for fold in range(self.n_splits):
            start = len(times) - (self.n_splits - fold) * size
            test = np.flatnonzero((which >= start) & (which < start + size))
            if known is not None:
                train = np.flatnonzero((which < start) & (known < times[start]))
            else:
                train = np.flatnonzero(which < start - (self.purge or 0))
            if len(train) == 0:
                raise EnsembleKitError(
                    f"`n_splits`={self.n_splits} with test blocks of {size} times must leave training rows; fold "
                    f"{fold} has none after purging. Give more bars ({len(times)} times now), fewer folds or a smaller "
                    "`test_size`."
                )
            yield train, test

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
                stacklevel=3,
            )

    def _block_size(self, n_times: int) -> int:
        size = self.test_size
        if size is None:
            size = n_times // (self.n_splits + 1)
        elif not isinstance(size, Integral) and 0 < size < 1:
            size = int(n_times * size)
        elif not isinstance(size, Integral) or size < 1:
            raise EnsembleKitError(
                f"`test_size` must be a number of bars or a share between 0 and 1; got {self.test_size!r}."
            )
        if size < 1 or self.n_splits * size >= n_times:
            raise EnsembleKitError(
                f"`X` must have more times than {self.n_splits} test blocks of {max(int(size), 1)}; got {n_times}. "
                f"Give more bars, fewer folds or a smaller `test_size` (n_samples={n_times} is too few)."
            )
        return int(size)

    def _label_times(self, keys: RowKeys) -> IntArray | None:
        """Return each row's t1 in the units of `keys.time`; never known is the largest integer."""
        if self.t1 is None:
            return None
        if pd.api.types.is_numeric_dtype(self.t1.dtype) != (keys.index is None):
            raise LeakageError(
                "`t1` must hold times where X has an index of times, positions where it has none; "
                f"got {self.t1.dtype}. Pass X as a frame with the index of the labelled bars; behind a transformer, "
                "call `set_output(transform='pandas')` on it."
            )
        if keys.index is None:
            if len(self.t1) != len(keys.time):
                raise LeakageError(
                    f"`t1` must have a value for each of the {len(keys.time)} rows of an array; got {len(self.t1)}. "
                    "Pass X as a frame with its index, so that rows can be looked up."
                )
            values = self.t1
        else:
            if self.t1.index.has_duplicates:
                raise LeakageError("`t1` must have each row of its index once; got repeated rows. Drop them.")
            at = self.t1.index.get_indexer(keys.index)
            if (at < 0).any():
                row = int(np.argmax(at < 0))
                raise LeakageError(
                    f"`t1` must be on the index of X; {keys.index[row]} (row {row}) is not in it, "
                    f"{int((at < 0).sum())} row(s) in all. Pass the `t1` of the labels made from these very bars."
                )
            values = self.t1.iloc[at]
        known = _as_numbers(values, keys)
        if (known < keys.time).any():
            row = int(np.argmax(known < keys.time))
            raise LeakageError(
                f"`t1` must not lie before its own row; row {row} has {values.iloc[row]}. "
                "It is the time of the last bar that the label looked at."
            )
        return known

    def __repr__(self) -> str:
        t1 = None if self.t1 is None else f"<{len(self.t1)} rows>"
        return f"WalkForwardSplit({self.n_splits}, t1={t1}, purge={self.purge}, test_size={self.test_size})"

    def __getstate__(self) -> dict[str, Any]:
        # A frame's pickle needs pandas' own classes: plain arrays let any safe format store the splitter.
        state = self.__dict__.copy()
        if self.t1 is not None:
            values = self.t1
            times = isinstance(values.dtype, pd.DatetimeTZDtype) or values.dtype.kind == "M"
            state["t1"] = {
                "index": pack_index(values.index),
                "value": pack_index(pd.DatetimeIndex(values)) if times else values.to_numpy(),
            }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        packed = state["t1"]
        if isinstance(packed, dict):
            value = packed["value"]
            column = unpack_index(value, 0) if isinstance(value, dict) else value
            state = state | {"t1": pd.Series(column, index=unpack_index(packed["index"], len(column)), name="t1")}
        self.__dict__.update(state)


def _as_numbers(values: pd.Series[Any], keys: RowKeys) -> IntArray:
    missing = values.isna().to_numpy()
    if keys.index is None:
        numbers = values.fillna(0).to_numpy(np.int64)
    else:
        numbers = pd.DatetimeIndex(values).as_unit("ns").asi8.copy()
    numbers[missing] = _NEVER
    return numbers


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
