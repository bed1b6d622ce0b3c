"""Ticks and quotes to columns: returns, averages, volatility, volume, spread and order imbalance."""

from __future__ import annotations

from typing import Any, Self

import numba
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from ensemble_kit.bars import row_keys
from ensemble_kit.exceptions import BarsError

__all__ = ["MicrostructureFeatures"]

_STEPS = (1, 5, 10)
_WINDOWS = (5, 10, 20, 50)
_LONG, _SHORT = 20, 10
_NAMES = (
    *(f"ret_{step}" for step in _STEPS),
    *(f"ma_ratio_{window}" for window in _WINDOWS),
    *(f"vol_{window}" for window in _WINDOWS),
    *(f"volume_ratio_{_LONG}", f"volume_cv_{_LONG}"),
    *("spread", "spread_rel", f"spread_ratio_{_LONG}"),
    *("imbalance", f"imbalance_mean_{_SHORT}"),
)
#: What each input is made of, the best first; the first whose columns are all there is taken.
_SOURCES: dict[str, tuple[tuple[str, ...], ...]] = {
    "price": (("price",), ("bid", "ask"), ("close",)),
    "volume": (("volume",),),
    "spread": (("spread",), ("bid", "ask")),
    "imbalance": (("imbalance",), ("bid_size", "ask_size")),
}

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


class MicrostructureFeatures(TransformerMixin, BaseEstimator):
    """Columns of ticks, quotes or bars with quotes, over the last 1 to 50 rows.

    With P the price, V the volume, S the spread, and the mean and the standard deviation
    (``ddof=1``) taken over the last `w` rows, this one included:

    =====================  ===========================================  ===================
    column                 formula                                      rows
    =====================  ===========================================  ===================
    ``ret_k``              ln(P / P k rows before)                      k = 1, 5, 10
    ``ma_ratio_w``         P / mean of P - 1                            w = 5, 10, 20, 50
    ``vol_w``              standard deviation of ``ret_1``              w = 5, 10, 20, 50
    ``volume_ratio_20``    V / mean of V, from 0 to 20                  20
    ``volume_cv_20``       standard deviation of V / mean of V          20
    ``spread``             S, in units of price                         1
    ``spread_rel``         S / P                                        1
    ``spread_ratio_20``    S / mean of S, from 0 to 20                  20
    ``imbalance``          (bid size - ask size) / (their sum)          1
    ``imbalance_mean_10``  mean of ``imbalance``                        10
    =====================  ===========================================  ===================

    The inputs are columns of these names; where one is absent it is made of others:

    - ``price``, else the middle of ``bid`` and ``ask``, else ``close``;
    - ``volume``: what was traded since the row before;
    - ``spread``, else ``ask - bid``;
    - ``imbalance``, else made of ``bid_size`` and ``ask_size``.

    Only a price is needed. The columns of an input that cannot be made are NaN.

    Attributes
    ----------
    inputs_ : dict of str to list of str
        The columns each input is made of, as `fit` found them; empty where there are none.
    n_features_in_ : int
        Columns of the frame seen by `fit`.
    feature_names_in_ : ndarray of str
        Their names, where all are strings.

    See Also
    --------
    ensemble_kit.features.Alpha158 : Columns of bars.

    Notes
    -----
    Windows count rows, whatever time lies between them: events are a clock of their own. A
    row sees itself and the 50 rows of its instrument before it, in the order given, so events
    at one time must stand in the order in which they arrived. Every window is summed anew:
    a row computed from its last 51 rows alone has the same bits as in the whole.

    Unknown, that is NaN, is never filled, and a window that holds an unknown value is unknown:

    - the first rows: a window is known when all its rows are there;
    - prices, bids and asks that are missing, infinite or not above 0 (a side without orders);
    - volumes and sizes that are missing, infinite or below 0;
    - the imbalance of a book with both sizes 0; one side empty gives +1 or -1;
    - the ratios of volume and spread where the mean is 0.

    A crossed book (bid above ask) has a negative spread: it is shown as it is, and left out of
    ``spread_ratio_20``. Constant prices give 0, exactly, in returns, averages and volatilities.
    Nothing is ever infinite. Sums are float64, what comes out is float32.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.features.microstructure import MicrostructureFeatures
    >>> quotes = pd.DataFrame(
    ...     {"bid": [99.0, 99.0, 100.0], "ask": [101.0, 101.0, 102.0], "bid_size": [3, 1, 0], "ask_size": [1, 1, 5]}
    ... )
    >>> features = MicrostructureFeatures().set_output(transform="pandas")
    >>> columns = features.fit_transform(quotes).astype(float)
    >>> columns[["ret_1", "spread", "spread_rel", "imbalance"]].iloc[1:].round(4).to_numpy().tolist()
    [[0.0, 2.0, 0.02, 0.0], [0.01, 2.0, 0.0198, -1.0]]
    """

    @property
    def lookback(self) -> int:
        """Earlier rows that a row depends on: 50."""
        return max(_WINDOWS)

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:  # noqa: ARG002
        """Check the rows and find the inputs; there is nothing to learn.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            Ticks, quotes or bars in order. The index is times that never decrease and may
            repeat, or (datetime, instrument), sorted and unique, for a panel; anything else
            (a ``RangeIndex``) is one instrument whose rows are in order.
        y : ignored, default=None
            Not used.

        Returns
        -------
        MicrostructureFeatures
            The transformer itself.

        Raises
        ------
        BarsError
            If X is not a frame, has no rows, no price, repeated columns or text in an input,
            or if its times go back.
        """
        _check_rows(X)
        inputs = {
            name: list(next((parts for parts in ways if set(parts) <= set(X.columns)), ()))
            for name, ways in _SOURCES.items()
        }
        if not inputs["price"]:
            raise BarsError(
                f"`X` must have a column price, or bid and ask, or close; got {', '.join(map(str, X.columns))}. "
                "Rename the column that holds the price to 'price'."
            )
        _check_inputs(X, inputs)
        validate_data(self, X, skip_check_array=True)
        self.inputs_ = inputs
        return self

    def transform(self, X: pd.DataFrame) -> NDArray[np.float32]:
        """Return the 18 columns of each row.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            As for `fit`, with the columns of ``inputs_``.

        Returns
        -------
        ndarray of float32, shape (n_rows, 18), or DataFrame after ``set_output``
            One row a row of X, in its order.

        Raises
        ------
        BarsError
            As `fit`, or if a column that `fit` used is missing.
        """
        check_is_fitted(self, "inputs_")
        instrument = _check_rows(X)
        _check_inputs(X, self.inputs_)
        # Instruments one after another, so that a window is a slice.
        order = np.argsort(instrument, kind="stable")
        first = np.flatnonzero(np.diff(instrument[order], prepend=-1))
        age = np.arange(len(X)) - np.repeat(first, np.diff(np.append(first, len(X))))
        # Fortran order: pandas wraps the block without a copy.
        out = np.empty((len(X), len(_NAMES)), dtype=np.float32, order="F")
        with np.errstate(all="ignore"):  # a mean of 0, or more than a float holds: unknown, see below
            inputs = {name: x[order] for name, x in _inputs(X, self.inputs_).items()}
            for name, column in _columns(inputs, age).items():
                out[order, _NAMES.index(name)] = column
        out[np.isinf(out)] = np.nan
        return out

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the 18 columns.

        Parameters
        ----------
        input_features : ignored, default=None
            Not used.

        Returns
        -------
        ndarray of str, shape (18,)
            ``ret_1``, ..., ``imbalance_mean_10``.
        """
        return np.asarray(_NAMES, dtype=object)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _check_rows(X: pd.DataFrame) -> IntArray:
    """Refuse what is not rows in order; return each row's instrument."""
    if not isinstance(X, pd.DataFrame) or X.empty:
        kind = f"{len(X)} x {X.shape[1]}" if isinstance(X, pd.DataFrame) else type(X).__name__
        raise BarsError(
            f"`X` must be a pandas DataFrame of at least one row; got {kind}. Pass ticks or quotes in order."
        )
    if X.columns.has_duplicates:
        twice = sorted({str(column) for column in X.columns[X.columns.duplicated()]})
        raise BarsError(f"`X` must have each column once; got {', '.join(twice)} more often. Drop or rename one.")
    if isinstance(X.index, pd.MultiIndex):
        return row_keys(X).instrument
    if isinstance(X.index, pd.DatetimeIndex) and not X.index.is_monotonic_increasing:
        late = int(np.argmax(~(X.index[1:] >= X.index[:-1]))) + 1
        raise BarsError(
            f"`X` must be in order of time, with a time on every row; row {late} ({X.index[late]}) comes after "
            f"{X.index[late - 1]}. Sort with `X.sort_index(kind='stable')`, or, if several instruments are mixed, "
            "index by (datetime, instrument)."
        )
    return np.zeros(len(X), dtype=np.int64)


def _check_inputs(X: pd.DataFrame, sources: dict[str, list[str]]) -> None:
    used = {column for parts in sources.values() for column in parts}
    if missing := sorted(used - set(X.columns)):
        raise BarsError(
            f"`X` must have the columns that `fit` used; missing {', '.join(missing)}, "
            f"got {', '.join(map(str, X.columns))}. Fit again if the data changed."
        )
    if text := sorted(column for column in used if not pd.api.types.is_numeric_dtype(X[column])):
        raise BarsError(
            f"`X` must have numeric inputs; got {', '.join(f'{c} of {X[c].dtype}' for c in text)}. "
            "Convert with `pandas.to_numeric`."
        )


def _inputs(X: pd.DataFrame, sources: dict[str, list[str]]) -> dict[str, FloatArray]:
    """Return price, volume, spread and imbalance of each row, NaN where unknown."""
    used = {column for parts in sources.values() for column in parts}
    raw = {column: X[column].to_numpy(np.float64, na_value=np.nan) for column in used}
    values = {column: np.where(np.isfinite(x), x, np.nan) for column, x in raw.items()}
    for column in used & {"price", "bid", "ask", "close"}:
        values[column] = np.where(values[column] > 0, values[column], np.nan)
    for column in used & {"volume", "bid_size", "ask_size"}:
        values[column] = np.where(values[column] >= 0, values[column], np.nan)
    found = {name: [values[column] for column in parts] for name, parts in sources.items()}
    inputs = {name: parts[0] if parts else np.full(len(X), np.nan) for name, parts in found.items()}
    if len(found["price"]) == 2:
        bid, ask = found["price"]
        inputs["price"] = bid / 2 + ask / 2
    if len(found["spread"]) == 2:
        bid, ask = found["spread"]
        inputs["spread"] = ask - bid
    if len(found["imbalance"]) == 2:
        bid, ask = found["imbalance"]
        inputs["imbalance"] = (bid - ask) / (bid + ask)
    return inputs


def _columns(inputs: dict[str, FloatArray], age: IntArray) -> dict[str, FloatArray]:
    """Return every column; `age` is how many rows of its instrument stand before each row."""
    price, volume, spread, imbalance = (inputs[name] for name in ("price", "volume", "spread", "imbalance"))
    columns = {f"ret_{step}": _log_return(price, age, step) for step in _STEPS}
    long, windows = np.array([_LONG]), np.array(_WINDOWS)
    excess, _ = _rolling(price, age, windows)
    columns |= {f"ma_ratio_{w}": -e / (price + e) for w, e in zip(_WINDOWS, excess, strict=True)}
    _, deviation = _rolling(columns["ret_1"], age, windows)
    columns |= {f"vol_{w}": d for w, d in zip(_WINDOWS, deviation, strict=True)}
    excess, deviation = _rolling(volume, age, long)
    columns[f"volume_ratio_{_LONG}"] = volume / (volume + excess[0])
    columns[f"volume_cv_{_LONG}"] = deviation[0] / (volume + excess[0])
    width = np.where(spread >= 0, spread, np.nan)
    excess, _ = _rolling(width, age, long)
    columns |= {"spread": spread, "spread_rel": spread / price}
    columns[f"spread_ratio_{_LONG}"] = width / (width + excess[0])
    excess, _ = _rolling(imbalance, age, np.array([_SHORT]))
    columns |= {"imbalance": imbalance, f"imbalance_mean_{_SHORT}": imbalance + excess[0]}
    return columns


def _log_return(price: FloatArray, age: IntArray, step: int) -> FloatArray:
    """Return ln(price / price `step` rows before); of the difference, since ticks move by 1e-7."""
    out = np.full(len(price), np.nan)
    rows = np.flatnonzero(age >= step)
    before = price[rows - step]
    out[rows] = np.log1p((price[rows] - before) / before)
    return out


@numba.njit(cache=True, error_model="numpy")
def _rolling(x: FloatArray, age: IntArray, windows: IntArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean less the newest value, and the standard deviation, (n_windows, n) each.

    Windows go up. Each is summed anew from its newest value on: constant stretches give 0 exactly,
    nothing of a value is left when it has gone, and no precision is lost. For sums of d = x - newest
    over w rows, sum(d)**2 / w <= w * M2, M2 being the sum of squares about the mean: the newest value
    itself is (sum(d) / w) away from the mean. So M2 = sum(d**2) - sum(d)**2 / w loses a factor of w at most.
    """
    excess = np.full((len(windows), len(x)), np.nan)
    deviation = np.full((len(windows), len(x)), np.nan)
    for t in range(len(x)):
        total, squares, which = 0.0, 0.0, 0
        for k in range(min(age[t] + 1, windows[-1])):
            d = x[t - k] - x[t]
            total += d
            squares += d * d
            if k + 1 == windows[which]:
                w = windows[which]
                rest = squares - total * total / w
                excess[which, t] = total / w
                deviation[which, t] = np.sqrt(max(rest, 0.0) / (w - 1))  # max keeps NaN, which comes first
                which += 1
    return excess, deviation
