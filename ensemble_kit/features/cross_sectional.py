"""Each instrument among all instruments of its time: z-scores and ranks over a panel."""

from __future__ import annotations

from typing import Any, Self

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from ensemble_kit.bars import row_keys
from ensemble_kit.exceptions import BarsError, EnsembleKitError

__all__ = ["CrossSectionalScaler"]

# Qlib's constant: 1 / the standard deviation of a uniform share, sqrt(12), cut after two digits.
_UNIFORM = 3.46

Float32 = NDArray[np.float32]
FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class CrossSectionalScaler(OneToOneFeatureMixin, TransformerMixin, BaseEstimator):
    """Scale each column over the instruments of one time, as Qlib's CSZScoreNorm and CSRankNorm.

    Parameters
    ----------
    method : {"zscore", "rank"}, default="zscore"
        ``"zscore"``: (x - mean) / standard deviation (``ddof=1``) over the instruments that
        have a value at that time. ``"rank"``: (rank / their number - 0.5) * 3.46, ties sharing
        their mean rank; above -1.73, at most 1.73, and about of unit variance.

    Attributes
    ----------
    cross_sectional : bool
        True: a row depends on the other instruments' rows of the same time, and on no others.
    n_features_in_ : int
        Columns seen by `fit`.
    feature_names_in_ : ndarray of str
        Their names, where all are strings.

    See Also
    --------
    sklearn.preprocessing.RobustScaler : Scales over time, with what it learned in `fit`.

    Notes
    -----
    Nothing is learned and no earlier row is read. Yet a row's numbers change with the
    instruments beside it: give all of a time together, when serving too, and put the scaler
    in front of whatever leaves out rows.

    - NaN stays NaN and counts for nothing.
    - A value that is the only one at its time gives NaN. (Qlib's rank is then always the top, 1.73.)
    - Values that are all the same give z-scores of 0 (Qlib's are NaN), and ranks just above 0,
      since they share the mean rank (m + 1) / 2 of m.

    References
    ----------
    .. [1] X. Yang et al., "Qlib: An AI-oriented Quantitative Investment Platform", 2020,
       arXiv:2009.11189; ``qlib.data.dataset.processor``.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.features.cross_sectional import CrossSectionalScaler
    >>> index = pd.MultiIndex.from_product([pd.date_range("2024-01-02", periods=2), ["A", "B", "C"]])
    >>> X = pd.DataFrame({"x": [1.0, 2.0, 3.0, 100.0, 700.0, 400.0]}, index=index)
    >>> CrossSectionalScaler().fit_transform(X).ravel().tolist()
    [-1.0, 0.0, 1.0, -1.0, 1.0, 0.0]
    >>> CrossSectionalScaler("rank").fit_transform(X).ravel().astype(float).round(2).tolist()
    [-0.58, 0.58, 1.73, -0.58, 1.73, 0.58]
    """

    cross_sectional = True

    def __init__(self, method: str = "zscore") -> None:
        self.method = method

    @property
    def lookback(self) -> int:
        """Earlier rows that a row depends on: none."""
        return 0

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:  # noqa: ARG002
        """Check the panel and its columns; there is nothing to learn.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            Numbers indexed by (datetime, instrument), sorted and unique. NaN is allowed.
        y : ignored, default=None
            Not used.

        Returns
        -------
        CrossSectionalScaler
            The transformer itself.

        Raises
        ------
        BarsError
            If X is not a panel.
        EnsembleKitError
            If `method` is unknown.
        """
        if self.method not in _KERNELS:
            raise EnsembleKitError(
                f"`method` must be 'zscore' or 'rank'; got {self.method!r}. Ranks bear outliers better."
            )
        self._table(X, reset=True)
        return self

    def transform(self, X: pd.DataFrame) -> Float32:
        """Scale each row among the instruments of its time.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            As for `fit`.

        Returns
        -------
        ndarray of float32, shape (n_rows, n_columns), or DataFrame after ``set_output``
            One row a row of X, in its order.

        Raises
        ------
        BarsError
            If X is not a panel.
        """
        check_is_fitted(self, "n_features_in_")
        table, time = self._table(X, reset=False)
        starts = np.append(np.flatnonzero(np.diff(time, prepend=time[0] - 1)), len(time))
        out = np.empty((table.shape[1], len(time)), dtype=np.float32)
        for column, scaled in zip(table.T, out, strict=True):
            _KERNELS[self.method](column.astype(np.float64, copy=False), starts, scaled)
        return out.T

    def _table(self, X: Any, *, reset: bool) -> tuple[NDArray[Any], IntArray]:
        """Return the numbers, column after column in memory, and the time of each row."""
        keys = row_keys(X)
        if not keys.panel:
            kind = f"index {type(X.index).__name__}" if isinstance(X, pd.DataFrame) else type(X).__name__
            raise BarsError(
                f"`X` must be a DataFrame indexed by (datetime, instrument); got {kind}. A single instrument has "
                "no cross-section; in a pipeline, `set_output(transform='pandas')` hands the index on."
            )
        table = validate_data(
            self, X, reset=reset, dtype=[np.float64, np.float32], order="F", ensure_all_finite="allow-nan"
        )
        return table, keys.time

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


@numba.njit(cache=True, error_model="numpy")
def _zscores(column: FloatArray, starts: IntArray, out: Float32) -> None:
    for g in range(len(starts) - 1):
        first, last = starts[g], starts[g + 1]
        # Distances from one of the values: values that are all the same then give 0 exactly.
        origin, n, total = np.nan, 0, 0.0
        for i in range(first, last):
            if not np.isnan(column[i]):
                origin = column[i] if n == 0 else origin
                total += column[i] - origin
                n += 1
        mean, squares = total / n, 0.0
        for i in range(first, last):
            d = column[i] - origin - mean
            squares += 0.0 if np.isnan(d) else d * d
        deviation = np.sqrt(squares / (n - 1)) if n > 1 else np.nan
        for i in range(first, last):
            d = column[i] - origin - mean
            out[i] = d if deviation == 0.0 else d / deviation


@numba.njit(cache=True, error_model="numpy")
def _ranks(column: FloatArray, starts: IntArray, out: Float32) -> None:
    widest = np.max(np.diff(starts))
    values, rows = np.empty(widest), np.empty(widest, np.int64)
    for g in range(len(starts) - 1):
        n = 0
        for i in range(starts[g], starts[g + 1]):
            out[i] = np.nan
            if not np.isnan(column[i]):
                values[n], rows[n] = column[i], i
                n += 1
        if n < 2:
            continue
        order = np.argsort(values[:n], kind="mergesort")  # as fast as numba's default, compiled in half the time
        low = 0
        while low < n:
            high = low + 1
            while high < n and values[order[high]] == values[order[low]]:
                high += 1
            # Ranks low + 1 to high are tied.
            scaled = ((low + 1 + high) / 2 / n - 0.5) * _UNIFORM
            for k in range(low, high):
                out[rows[order[k]]] = scaled
            low = high


_KERNELS = {"zscore": _zscores, "rank": _ranks}
