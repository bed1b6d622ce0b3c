"""Windows as Arrow columns: the last `seq_len` rows of every column, without flattening them."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Integral
from typing import Any

import numba
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ensemble_kit.bars import RowKeys
from ensemble_kit.estimators.windows import padded_blocks
from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["LagColumns", "lag_blocks", "lag_names"]

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]

# Five blocks a size: 27 for a window of 205 rows, at 0.016 of log-loss from all 205 lags and a ninth of the cost.
_BLOCKS_A_SIZE = 5
# Rows a run must have on average to be worth an Arrow slice of its own in every column.
_ROWS_A_SLICE = 64
# Rows that block means are made of at once: what they need fits a core's cache.
_ROWS_A_PASS = 1024


def lag_blocks(lags: str | Sequence[int], seq_len: int) -> IntArray:
    """Return which lags each derived column averages.

    Parameters
    ----------
    lags : {"blocks", "all", "last"} or sequence of int
        ``"blocks"`` cuts the window from its newest row on into five blocks of 1 row, five
        of 2, five of 4 and so on; the last is cut where the window ends. Every lag lies
        in exactly one block: 17 blocks for 48 rows, 27 for 205. ``"all"`` is every lag,
        ``"last"`` the newest row alone, and a sequence names single lags.
    seq_len : int
        Rows a window, the row itself included.

    Returns
    -------
    ndarray of int64, shape (n_blocks, 2)
        Newest lag and length of each block, in rows.

    Raises
    ------
    EnsembleKitError
        If `lags` is unknown, or names a lag twice or outside the window.

    Examples
    --------
    >>> from ensemble_kit.estimators.lags import lag_blocks
    >>> lag_blocks("blocks", 10).tolist()
    [[0, 1], [1, 1], [2, 1], [3, 1], [4, 1], [5, 2], [7, 2], [9, 1]]
    >>> len(lag_blocks("blocks", 205))
    27
    """
    if isinstance(lags, str):
        if lags == "blocks":
            return _doubling_blocks(seq_len)
        if lags in {"all", "last"}:
            return _single(range(seq_len if lags == "all" else 1))
    elif np.ndim(lags) == 1 and 0 < len(lags) == len(set(lags)) and all(_is_lag(lag, seq_len) for lag in lags):
        return _single(lags)
    raise EnsembleKitError(
        f"`lags` must be 'blocks', 'all', 'last' or different lags from 0 to seq_len - 1 = {seq_len - 1}; "
        f"got {lags!r}. Name fewer lags, or lengthen `seq_len`."
    )


def _is_lag(lag: Any, seq_len: int) -> bool:
    return isinstance(lag, Integral) and 0 <= int(lag) < seq_len


def _single(lags: Sequence[int]) -> IntArray:
    first = np.asarray(lags, dtype=np.int64)
    return np.column_stack([first, np.ones_like(first)])


def _doubling_blocks(seq_len: int) -> IntArray:
    blocks: list[tuple[int, int]] = []
    first = 0
    while first < seq_len:
        length = min(2 ** (len(blocks) // _BLOCKS_A_SIZE), seq_len - first)
        blocks.append((first, length))
        first += length
    return np.array(blocks, dtype=np.int64)


def lag_names(names: Sequence[str], blocks: IntArray) -> list[str]:
    """Return the names of the derived columns, those of the first base column first.

    Parameters
    ----------
    names : sequence of str
        The F base columns.
    blocks : ndarray of int64, shape (n_blocks, 2)
        What `lag_blocks` returned.

    Returns
    -------
    list of str
        F * n_blocks names.

    Examples
    --------
    >>> from ensemble_kit.estimators.lags import lag_blocks, lag_names
    >>> lag_names(["close"], lag_blocks("blocks", 7))[3:]
    ['close_lag3', 'close_lag4', 'close_mean5_6']
    """
    ends = [f"lag{a}" if length == 1 else f"mean{a}_{a + length - 1}" for a, length in blocks]
    return [f"{name}_{end}" for name in names for end in ends]


class LagColumns:
    """The derived columns of a matrix, as an Arrow table over any of its rows.

    Row t of a derived column depends on rows t - seq_len + 1 to t of the same instrument
    only: bits do not change with what lies before or after. Rows before an instrument's
    first are missing (NaN); a block's mean is that of its known values, NaN without any.

    Parameters
    ----------
    X : ndarray of float32, shape (n, F)
        The base columns, each instrument's rows in time order. NaN is unknown.
    keys : RowKeys
        Time and instrument of the rows.
    seq_len : int
        Rows a window, the row itself included.
    blocks : ndarray of int64, shape (n_blocks, 2)
        What `lag_blocks` returned.

    Attributes
    ----------
    series : ndarray of float32, shape (F, n_lengths, n_padded)
        Each column's means of the last 1, 2, ... rows, the lengths that `blocks` names, each
        once, in increasing order.
    position : ndarray of int64, shape (n,)
        Where the rows of X lie in a series.

    Notes
    -----
    A column is kept once for each block length, padded with `seq_len - 1` missing rows
    before each instrument; a derived column is a zero-copy slice of it. Sums of 1, 2, 4, ...
    rows come by doubling in float64, not from a running sum: one huge value is
    forgotten when it leaves the window.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.bars import row_keys
    >>> from ensemble_kit.estimators.lags import LagColumns, lag_blocks
    >>> X = np.arange(8, dtype=np.float32).reshape(8, 1)
    >>> columns = LagColumns(X, row_keys(X), 7, lag_blocks("blocks", 7))
    >>> columns.table(np.array([1, 7])).column(5).to_pylist()  # the mean of lags 5 and 6
    [nan, 1.5]
    """

    def __init__(self, X: NDArray[np.float32], keys: RowKeys, seq_len: int, blocks: IntArray) -> None:
        self.position, n_padded = padded_blocks(keys, seq_len - 1)
        self._blocks = blocks
        lengths = np.unique(blocks[:, 1])
        self._which = np.searchsorted(lengths, blocks[:, 1])
        # Each series is contiguous, as Arrow wants it.
        self.series = np.empty((X.shape[1], len(lengths), n_padded), dtype=np.float32)
        values = self.series[:, 0]
        values[:] = np.nan
        values[:, self.position] = X.T
        _block_means(self.series, lengths)

    @property
    def offsets(self) -> IntArray:
        """Where in the flattened `series` a derived column would have padded row 0, shape (F * n_blocks,)."""
        n_columns, n_lengths, n_padded = self.series.shape
        of_block = self._which * n_padded - self._blocks[:, 0]
        return (np.arange(n_columns)[:, None] * (n_lengths * n_padded) + of_block).ravel()

    def arrange(self, rows: IntArray) -> IntArray:
        """Return rows in the order that makes `table` cheap: instrument by instrument, in time.

        Parameters
        ----------
        rows : ndarray of int64
            Positions in X.

        Returns
        -------
        ndarray of int64
            The same positions in that order.
        """
        return rows[np.argsort(self.position[rows], kind="stable")]

    def table(self, rows: IntArray) -> pa.Table:
        """Return the derived columns of some rows.

        Parameters
        ----------
        rows : ndarray of int64, shape (m,)
            Positions in X. Slices of the base columns where `rows` are few long runs (whole
            instruments, or all rows before a time), copies where they are scattered.

        Returns
        -------
        pyarrow.Table of float32, shape (m, F * n_blocks)
            Columns in the order of `lag_names`, named by number.
        """
        at = self.position[rows]
        edges = np.flatnonzero(np.diff(at, prepend=-2) != 1)
        runs = list(zip(at[edges].tolist(), np.diff(edges, append=len(at)).tolist(), strict=True))
        scattered = len(runs) > 1 + len(at) // _ROWS_A_SLICE

        columns: list[Any] = []
        for of_column in self.series:
            buffers = [pa.py_buffer(series) for series in of_column]
            arrays = [pa.Array.from_buffers(pa.float32(), of_column.shape[1], [None, buffer]) for buffer in buffers]
            for (lag, _), which in zip(self._blocks.tolist(), self._which.tolist(), strict=True):
                array = arrays[which]
                if scattered:
                    columns.append(array.take(pa.array(at - lag)))
                else:
                    slices = [array.slice(start - lag, length) for start, length in runs]
                    columns.append(pa.chunked_array(slices, type=pa.float32()))
        return pa.Table.from_arrays(columns, names=[str(j) for j in range(len(columns))])


@numba.njit(cache=True, nogil=True)
def _block_means(series: NDArray[np.float32], lengths: IntArray) -> None:
    """Turn the values in `series[:, 0]` into the means, at each row, of the known among the last so many."""
    n_columns, n_lengths, n = series.shape
    longest = lengths[-1]
    size = min(n, _ROWS_A_PASS + longest - 1)
    # Sums and counts of the known among the last 1, 2, 4, ... rows; rows before the first are as if missing.
    power, doubled = np.empty((2, size)), np.empty((2, size))
    parts = np.empty((n_lengths, 2, size))
    for f in range(n_columns):
        stop = n
        while stop > 0:  # the newest rows first: the values behind them are still there
            start = max(stop - _ROWS_A_PASS, 0)
            begin = max(start - longest + 1, 0)
            m = stop - begin
            _split_known(series[f, 0, begin:stop], power[0, :m], power[1, :m])
            bit = 1
            while bit <= longest:
                for k in range(n_lengths):
                    reach = lengths[k] & (bit - 1)
                    for j in range(2):
                        if lengths[k] & bit and reach:
                            _add_delayed(parts[k, j, :m], power[j, :m], reach, parts[k, j, :m])
                        elif lengths[k] & bit:
                            parts[k, j, :m] = power[j, :m]
                    if lengths[k] // bit == 1:
                        _divide(
                            parts[k, 0, start - begin : m], parts[k, 1, start - begin : m], series[f, k, start:stop]
                        )
                for j in range(2):
                    _add_delayed(power[j, :m], power[j, :m], bit, doubled[j, :m])
                power, doubled = doubled, power
                bit *= 2
            stop = start


@numba.njit(cache=True, nogil=True)
def _split_known(x: NDArray[np.float32], value: FloatArray, known: FloatArray) -> None:
    for i in range(len(x)):
        hole = np.isnan(x[i])
        value[i] = 0.0 if hole else x[i]
        known[i] = 0.0 if hole else 1.0


@numba.njit(cache=True, nogil=True)
def _add_delayed(to: FloatArray, what: FloatArray, rows: int, out: FloatArray) -> None:
    head = min(rows, len(to))
    out[:head] = to[:head]
    a, b, c = to[head:], what[: len(to) - head], out[head:]
    for i in range(len(a)):
        c[i] = a[i] + b[i]


@numba.njit(cache=True, nogil=True, error_model="numpy")
def _divide(a: FloatArray, b: FloatArray, out: NDArray[np.float32]) -> None:
    for i in range(len(out)):
        out[i] = np.float32((0.0 + a[i]) / b[i])  # no -0
