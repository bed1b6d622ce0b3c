"""Columns from outside (sentiment, fear and greed, macro), as they were known when each bar opened."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from datetime import timedelta
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_is_fitted, validate_data

from ensemble_kit.bars import RowKeys, pack_index, row_keys, unpack_index
from ensemble_kit.exceptions import BarsError, EnsembleKitError

__all__ = ["ExternalFeatures"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_NEVER = np.iinfo(np.int64).max
_DAY = pd.Timedelta(days=1).value


class ExternalFeatures(TransformerMixin, BaseEstimator):
    """The last value of outside columns that was published when a bar opened.

    Parameters
    ----------
    data : DataFrame of shape (n_publications, n_columns)
        What was published, one row a publication, in any order. NaN in a column: nothing was
        published in it, and its last value stands. Of rows published at the same time the
        last in the table wins.
    columns : sequence of str, default=None
        The columns of `data` to join; None for all that say neither when nor for whom.
    published : str, default=None
        The column that holds the time of publication; None for the index. Never the day or
        quarter that a number is about: it was not known then.
    instrument : str, default=None
        The column that names the instrument. None for the second level of the index or, where
        it has one level only, values that are the same for all instruments.
    max_age : str or timedelta, default=None
        Values older than this at the bar's open, such as ``"7D"``, are NaN. None for no limit.
    age : bool, default=False
        Whether to add, for each column, ``<column>_age``: the days from its publication to the
        bar's open.
    allow_exact_matches : bool, default=True
        Whether a value published at the very time of the row counts. Bars are labelled by
        their open and are known at their close, so for them it was there in time. Pass False
        for events, whose label is the moment itself.

    Attributes
    ----------
    published_ : ndarray of int64, shape (n_publications,)
        Times of publication in nanoseconds (UTC, or naive), ascending within each instrument.
    values_ : ndarray of float64, shape (n_publications, n_outside)
        The last known value of each column as of each publication.
    since_ : ndarray of int64, shape (n_publications, n_outside)
        When that value was published.
    instruments_ : list
        The instruments of `data`; ``[None]`` where values are the same for all.
    starts_ : ndarray of int64, shape (n_instruments + 1,)
        Where each instrument's publications start, and their number.
    outside_ : list of str
        The columns joined.
    zoned_ : bool
        Whether times have a zone.
    n_features_in_ : int
        Columns of the frame seen by `fit`. None of them is read.
    feature_names_in_ : ndarray of str
        Their names, where all are strings.

    See Also
    --------
    pandas.merge_asof : The join, without the checks.

    Notes
    -----
    A value published inside a bar is not used for that bar: its length is not in the index,
    and the next bar has it. A row depends on its own time and on what had been published by
    then; `data` may reach into the future of the bars.

    A time without a time of day is midnight. A daily number that came out in the evening and
    is dated by its day would be joined to that whole day: add its delay to the index first,
    ``data.index + pd.Timedelta(days=1)``, say. So should revised data stand at the time of their
    revision, each vintage as a row of its own.

    Times of `data` and of the bars are both with a zone (any two) or both without. Bars of an
    instrument that `data` does not know get NaN. Columns keep their names.

    The values are those of `fit`. For what was published later, fit again, which learns
    nothing: ``features.set_params(data=newer).fit(bars)``.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features.external import ExternalFeatures
    >>> bars = make_bars(4, random_state=0)  # opening at 14:30, 14:35, 14:40 and 14:45
    >>> at = pd.DatetimeIndex(["2022-01-03 14:35", "2022-01-03 14:41"], tz="UTC")
    >>> greed = pd.DataFrame({"greed": [20.0, 80.0]}, index=at)
    >>> ExternalFeatures(greed).fit_transform(bars).ravel().tolist()
    [nan, 20.0, 20.0, 80.0]
    """

    def __init__(
        self,
        data: pd.DataFrame,
        *,
        columns: Sequence[str] | None = None,
        published: str | None = None,
        instrument: str | None = None,
        max_age: str | timedelta | None = None,
        age: bool = False,
        allow_exact_matches: bool = True,
    ) -> None:
        self.data = data
        self.columns = columns
        self.published = published
        self.instrument = instrument
        self.max_age = max_age
        self.age = age
        self.allow_exact_matches = allow_exact_matches

    @property
    def lookback(self) -> int:
        """Earlier rows that a row depends on: none."""
        return 0

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:  # noqa: ARG002
        """Check the outside data against the bars, and lay them out for looking up.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            Any frame indexed by time, or by (datetime, instrument).
        y : ignored, default=None
            Not used.

        Returns
        -------
        ExternalFeatures
            The transformer itself.

        Raises
        ------
        BarsError
            If X has no index of times, or no instruments where `data` has them.
        EnsembleKitError
            If a column is missing, is not numeric or holds infinite values, if a time of
            publication is missing or none at all, if zones do not match, if no instrument of X
            is in `data`, or if `max_age` is not a time span.
        """
        _check_data(self.data)
        self._max_age()
        times = _times(self.data, self.published)
        names = _instruments(self.data, self.instrument)
        outside, values = self._outside()
        codes, instruments = (np.zeros(len(times), int), [None]) if names is None else pd.factorize(names, sort=True)
        # Stable, so that of rows at the same time the last one stays the last.
        order = np.lexsort((times.asi8, codes))
        self.outside_ = outside
        self.zoned_ = times.tz is not None
        self.instruments_ = [name.item() if isinstance(name, np.generic) else name for name in instruments]
        self.starts_ = np.searchsorted(codes[order], np.arange(len(self.instruments_) + 1)).astype(np.int64)
        self.published_ = times.asi8[order]
        self.values_, self.since_ = _last_known(self.published_, values[order], self.starts_)
        keys = self._keys(X)
        if self._by_instrument and not set(theirs := _names(keys)) & set(self.instruments_):
            raise EnsembleKitError(
                f"`data` must hold instruments of `X`; got {', '.join(map(repr, self.instruments_[:3]))}, ..., and X "
                f"has {', '.join(map(repr, theirs[:3]))}, .... Name them alike."
            )
        validate_data(self, X, skip_check_array=True)
        return self

    def transform(self, X: pd.DataFrame) -> NDArray[np.float32]:
        """Return the outside columns as each row knew them.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            Any frame indexed by time, or by (datetime, instrument).

        Returns
        -------
        ndarray of float32, shape (n_rows, n_outside), or DataFrame after ``set_output``
            One row a row of X, in its order; twice as many columns with ``age=True``.

        Raises
        ------
        BarsError
            As `fit`.
        EnsembleKitError
            If zones do not match those of `data`.
        """
        check_is_fitted(self, "published_")
        keys = self._keys(X)
        at = self._publications(keys)
        age = keys.time[:, None] - self.since_[at]
        unknown = (at < 0)[:, None] | np.isnan(self.values_[at]) | (age > self._max_age())
        blocks = [self.values_[at], age / _DAY] if self.age else [self.values_[at]]
        # Fortran order: pandas wraps the block without a copy.
        out = np.empty((len(at), len(self.outside_) * len(blocks)), dtype=np.float32, order="F")
        np.concatenate([np.where(unknown, np.nan, block) for block in blocks], axis=1, out=out, casting="same_kind")
        return out

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the outside columns, then of their ages.

        Parameters
        ----------
        input_features : ignored, default=None
            Not used.

        Returns
        -------
        ndarray of str, shape (n_columns_out,)
            As in `data`, then with ``_age`` where asked for.
        """
        check_is_fitted(self, "published_")
        ages = [f"{name}_age" for name in self.outside_] if self.age else []
        return np.asarray([*self.outside_, *ages], dtype=object)

    @property
    def _by_instrument(self) -> bool:
        return self.instruments_ != [None]

    def _max_age(self) -> int:
        """Return the greatest age in nanoseconds."""
        if self.max_age is None:
            return _NEVER
        try:
            # A bare number would be nanoseconds.
            bare = str(self.max_age).replace(".", "").isdigit()
            longest = -1 if bare else pd.Timedelta(self.max_age).as_unit("ns").value
        except (ValueError, TypeError):
            longest = -1
        if longest < 0:
            raise EnsembleKitError(
                f"`max_age` must be a time span of at least 0 with its unit; got {self.max_age!r}. Take '7D', say."
            )
        return longest

    def _outside(self) -> tuple[list[str], FloatArray]:
        """Return names and values of the columns to join."""
        wanted = [c for c in self.data.columns if c not in (self.published, self.instrument)]
        wanted = wanted if self.columns is None else list(self.columns)
        missing = [column for column in wanted if column not in self.data.columns]
        if missing or not wanted or isinstance(self.columns, str):
            raise EnsembleKitError(
                f"`columns` must be a list of columns of `data`; got {self.columns!r}, and `data` has "
                f"{', '.join(map(str, self.data.columns))}. None takes them all."
            )
        if text := [column for column in wanted if not pd.api.types.is_numeric_dtype(self.data[column])]:
            raise EnsembleKitError(
                f"`data` must be numeric; got {', '.join(f'{c} of {self.data[c].dtype}' for c in text)}. "
                "Convert with `pandas.to_numeric`, name the others in `columns`, or say which column is "
                "`published` or `instrument`."
            )
        values = self.data[wanted].to_numpy(np.float64, na_value=np.nan)
        if (large := np.abs(values) > np.finfo(np.float32).max).any():
            row, column = np.argwhere(large)[0]
            raise EnsembleKitError(
                f"`data` must be finite in float32, or NaN; got {float(values[row, column]):g} in {wanted[column]} "
                f"(row {row}). Set it to NaN, or give it in larger units."
            )
        return [str(column) for column in wanted], values

    def _keys(self, X: Any) -> RowKeys:
        """Return the rows' times and instruments, in the terms of the publications."""
        keys = row_keys(X)
        if keys.index is None or (self._by_instrument and not keys.panel):
            kind = f"index {type(X.index).__name__}" if isinstance(X, pd.DataFrame) else type(X).__name__
            wanted = "(datetime, instrument), as `data` is" if self._by_instrument else "time or (datetime, instrument)"
            raise BarsError(
                f"`X` must be a DataFrame indexed by {wanted}; got {kind}. "
                "Pass the bars themselves, before anything that turns them into arrays."
            )
        zone = pd.DatetimeIndex(keys.axis()).tz
        if (zone is not None) != self.zoned_:
            ours, theirs = ("without", "with a") if zone is None else (f"in {zone}", "without a")
            raise EnsembleKitError(
                f"`data` and `X` must both have times with a zone, or both without; got X {ours} and data {theirs} "
                "zone. Give the naive ones theirs with `tz_localize`."
            )
        return keys

    def _publications(self, keys: RowKeys) -> IntArray:
        """Return the place of the newest publication that each row knew; -1 where there was none."""
        side: Any = "right" if self.allow_exact_matches else "left"
        if not self._by_instrument:
            return np.searchsorted(self.published_, keys.time, side=side) - 1
        at = np.full(len(keys.time), -1)
        place = {name: k for k, name in enumerate(self.instruments_)}
        order = np.argsort(keys.instrument, kind="stable")
        names = _names(keys)
        bounds = np.searchsorted(keys.instrument[order], np.arange(1, len(names)))
        for name, rows in zip(names, np.split(order, bounds), strict=True):
            if (k := place.get(name)) is not None:
                first, last = self.starts_[k : k + 2]
                earlier = np.searchsorted(self.published_[first:last], keys.time[rows], side=side)
                at[rows] = np.where(earlier > 0, first + earlier - 1, -1)
        return at

    def __getstate__(self) -> dict[str, Any]:
        # Safe formats refuse pandas' classes: what is read of the frame goes as plain arrays and
        # lists, a time span as the text of ISO 8601.
        state = dict(super().__getstate__())
        if isinstance(self.data, pd.DataFrame):
            read = [*(self.data.columns if self.columns is None else self.columns), self.published, self.instrument]
            state["data"] = _pack(self.data[[column for column in self.data.columns if column in read]])
        if isinstance(self.max_age, timedelta | np.timedelta64):
            state["max_age"] = pd.Timedelta(self.max_age).isoformat()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        data = state["data"]
        super().__setstate__(state | {"data": _unpack(data) if isinstance(data, dict) else data})

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _check_data(data: Any) -> None:
    if not isinstance(data, pd.DataFrame) or data.empty:
        kind = f"{len(data)} x {data.shape[1]}" if isinstance(data, pd.DataFrame) else type(data).__name__
        raise EnsembleKitError(
            f"`data` must be a DataFrame of at least one row and column, indexed by time of publication; got {kind}. "
            "Turn a Series into one with `.to_frame('name')`."
        )
    if data.columns.has_duplicates:
        twice = sorted({str(column) for column in data.columns[data.columns.duplicated()]})
        raise EnsembleKitError(f"`data` must have each column once; got {', '.join(twice)} more often. Rename one.")


def _column(data: pd.DataFrame, column: str, parameter: str) -> pd.Index[Any]:
    if column not in data.columns:
        raise EnsembleKitError(
            f"`{parameter}` must be a column of `data`; got {column!r}, and `data` has "
            f"{', '.join(map(str, data.columns))}. None takes the index."
        )
    return pd.Index(data[column])


def _times(data: pd.DataFrame, published: str | None) -> pd.DatetimeIndex:
    """Return the time of publication of each row."""
    times = data.index.get_level_values(0) if published is None else _column(data, published, "published")
    if not isinstance(times, pd.DatetimeIndex):
        where = "its index" if published is None else f"column {published!r}"
        raise EnsembleKitError(
            f"`data` must have times of publication; got {times.dtype} in {where}. Convert with `pandas.to_datetime`, "
            "or name the column that holds them in `published`."
        )
    if times.hasnans:
        raise EnsembleKitError(
            f"`data` must have a time of publication on every row; row {int(np.argmax(times.isna()))} has none. "
            "Drop what was not published yet."
        )
    return times.as_unit("ns")


def _instruments(data: pd.DataFrame, instrument: str | None) -> pd.Index[Any] | None:
    """Return the instrument of each row, None where values are for all."""
    if instrument is not None:
        names = _column(data, instrument, "instrument")
    elif data.index.nlevels > 1:
        names = data.index.get_level_values(1)
    else:
        return None
    if names.hasnans:
        raise EnsembleKitError(
            f"`data` must name an instrument on every row; row {int(np.argmax(names.isna()))} has none. "
            "Give values that are for all instruments to an `ExternalFeatures` of their own."
        )
    return names


def _last_known(published: IntArray, values: FloatArray, starts: IntArray) -> tuple[FloatArray, IntArray]:
    """Carry the last value of each column forward within its instrument; return them and their times."""
    rows = np.arange(len(values))[:, None]
    source = np.maximum.accumulate(np.where(np.isnan(values), -1, rows), axis=0)
    # What was carried in from the instrument before is not known: its own row is NaN, and stays so.
    source = np.where(source < np.repeat(starts[:-1], np.diff(starts))[:, None], rows, source)
    return np.take_along_axis(values, source, axis=0), published[source]


def _names(keys: RowKeys) -> list[Hashable]:
    """Return the instruments of a panel's rows in the order of their numbers."""
    first = np.unique(keys.instrument, return_index=True)[1]
    return [] if keys.index is None else list(keys.index.get_level_values(1)[first])


def _pack(frame: pd.DataFrame) -> dict[str, Any]:
    index = frame.index
    return {
        "index": [_plain(index.get_level_values(level)) for level in range(index.nlevels)],
        "index_names": list(index.names),
        "columns": frame.columns.tolist(),
        "values": [_plain(pd.Index(frame[column])) for column in frame.columns],
    }


def _unpack(packed: dict[str, Any]) -> pd.DataFrame:
    rebuilt = {
        key: [unpack_index(part, 0) if isinstance(part, dict) else part for part in packed[key]]
        for key in ("index", "values")
    }
    levels = rebuilt["index"]
    index = pd.MultiIndex.from_arrays(levels) if len(levels) > 1 else pd.Index(levels[0])
    frame = pd.DataFrame(dict(enumerate(rebuilt["values"])), copy=False).set_axis(packed["columns"], axis=1)
    return frame.set_axis(index.set_names(packed["index_names"]))


def _plain(values: pd.Index[Any]) -> Any:
    if isinstance(values, pd.DatetimeIndex):
        return pack_index(values)
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy() if isinstance(values.dtype, np.dtype) else values.to_numpy(np.float64, na_value=np.nan)
    return [None if missing else str(value) for value, missing in zip(values, values.isna(), strict=True)]
