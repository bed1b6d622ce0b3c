"""Windows of the last `seq_len` rows of each row, taken from the 2-D matrix when they are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble_kit.bars import RowKeys

__all__ = ["Windows", "padded_blocks"]

IntArray = NDArray[np.int64]


def padded_blocks(keys: RowKeys, pad: int) -> tuple[IntArray, int]:
    """Lay instruments one after another, each with `pad` empty rows in front.

    Parameters
    ----------
    keys : RowKeys
        Time and instrument of the n rows, in time order.
    pad : int
        Empty rows before each instrument: `seq_len - 1`.

    Returns
    -------
    position : ndarray of int64, shape (n,)
        Where each row lies in the padded matrix.
    n_padded : int
        How many rows that matrix has.
    """
    order = np.argsort(keys.instrument, kind="stable")
    # The r-th instrument's rows are shifted by r + 1 pads.
    rank = np.unique(keys.instrument, return_inverse=True)[1]
    position = np.empty(len(order), dtype=np.int64)
    position[order] = np.arange(len(order)) + pad * (rank[order] + 1)
    return position, len(order) + pad * (int(rank.max(initial=0)) + 1)


class Windows:
    """All windows of a matrix as one strided view: taking a batch of them is a memory copy.

    Parameters
    ----------
    X : ndarray of float32, shape (n, F)
        The columns, each instrument's rows in time order.
    keys : RowKeys
        Time and instrument of the rows.
    seq_len : int
        Rows a window, the row itself included. Rows with less history see zeros.

    Notes
    -----
    The left-padded, C-ordered matrix seen as overlapping rows of `seq_len * F` numbers is
    indexed, so no more than one batch of windows exists at a time.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.bars import row_keys
    >>> X = np.arange(4, dtype=np.float32).reshape(4, 1)
    >>> Windows(X, row_keys(X), 3).take(np.array([0, 3]))[..., 0]
    array([[0., 0., 0.],
           [1., 2., 3.]], dtype=float32)
    """

    def __init__(self, X: NDArray[np.float32], keys: RowKeys, seq_len: int) -> None:
        n_features = X.shape[1]
        position, n_padded = padded_blocks(keys, seq_len - 1)
        base = np.zeros((n_padded, n_features), dtype=np.float32)
        base[position] = X
        self.seq_len = seq_len
        self._position, self._n_padded = position, n_padded
        self._first = position - (seq_len - 1)
        self._rows = np.lib.stride_tricks.as_strided(
            base,
            shape=(max(n_padded - seq_len + 1, 0), seq_len * n_features),
            strides=(base.strides[0], base.itemsize),
            writeable=False,
        )

    def __len__(self) -> int:
        return len(self._first)

    def content(self) -> list[NDArray[Any]]:
        """Return all that windows depend on.

        Returns
        -------
        list of ndarray
            The newest row of each window that there could be, not `seq_len` times the matrix,
            and where each row's window begins.
        """
        return [self._rows[:, -(self._rows.shape[1] // self.seq_len) :], self._first]

    def take(self, rows: IntArray) -> NDArray[np.float32]:
        """Return the windows that end at some rows.

        Parameters
        ----------
        rows : ndarray of int64
            Positions in X.

        Returns
        -------
        ndarray of float32, shape (len(rows), seq_len, F)
            A copy; the newest row stands last.
        """
        # Plain indexing copies row by row; `np.take(..., out=)` would copy the whole view first.
        flat = self._rows[self._first[rows]]
        return flat.reshape(len(flat), self.seq_len, -1)

    def scatter(self, rows: IntArray, values: NDArray[Any]) -> NDArray[Any]:
        """Lay values of some rows where `places` finds them, 0 elsewhere.

        Parameters
        ----------
        rows : ndarray of int64, shape (m,)
            Positions in X.
        values : ndarray of shape (m, ...)
            One value a row.

        Returns
        -------
        ndarray of shape (n_padded, ...)
            The padded values.
        """
        padded = np.zeros((self._n_padded, *values.shape[1:]), dtype=values.dtype)
        padded[self._position[rows]] = values
        return padded

    def places(self, rows: IntArray) -> IntArray:
        """Return where the bars of each row's window lie in what `scatter` laid out.

        Parameters
        ----------
        rows : ndarray of int64, shape (m,)
            Positions in X.

        Returns
        -------
        ndarray of int64, shape (m, seq_len)
            The newest bar last.
        """
        return self._first[rows, None] + np.arange(self.seq_len)
