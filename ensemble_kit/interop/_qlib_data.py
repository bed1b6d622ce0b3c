"""Qlib's data in our Pipelines: bars of its provider, and its expressions as columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from ensemble_kit.bars import PRICES, check_bars, row_keys
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.interop._qlib_expressions import check_causal, check_started

__all__ = ["QlibFeatures", "qlib_bars"]

_OPTIONAL = ("volume", "vwap", "factor")


def qlib_bars(
    instruments: str | Sequence[str] | Mapping[str, Any] = "all",
    start: str | pd.Timestamp | None = None,
    end: str | pd.Timestamp | None = None,
    *,
    freq: str = "day",
) -> pd.DataFrame:
    """Read the bars of a running Qlib as a panel.

    Parameters
    ----------
    instruments : str, sequence of str or mapping, default="all"
        A market's name (``"csi300"``), instruments by name, or what ``D.instruments`` returns.
    start, end : str or Timestamp, default=None
        First and last time, both included; None for all there is.
    freq : str, default="day"
        Qlib's name of the bar: ``"day"``, ``"1min"``.

    Returns
    -------
    DataFrame of float64, shape (n, 4 to 7)
        Columns ``open high low close``, and of ``volume vwap factor`` those that the provider
        knows, indexed by (datetime, instrument), sorted. Times are Qlib's: naive.

    Raises
    ------
    EnsembleKitError
        If Qlib has not been started.
    BarsError
        If the provider does not know the market or the frequency, if there is no bar (or none of
        an instrument named), or if one cannot be (`ensemble_kit.bars.check_bars`).

    Notes
    -----
    Prices are adjusted as Qlib stores them: close / factor is the price paid, volume * factor the
    shares traded. Adjustment by the whole history scales earlier bars by later splits: prices
    in absolute terms know the future, their ratios do not.

    A day on which an instrument is listed but not traded is a row of NaN, as in Qlib, so that
    windows count the same days in both.
    """
    check_started()
    from qlib.data import D

    fields = [f"${name}" for name in (*PRICES, *_OPTIONAL)]
    chosen = D.instruments(instruments) if isinstance(instruments, str) else instruments
    try:
        table = D.features(chosen, fields, start_time=start, end_time=end, freq=freq, disk_cache=0)
    except ValueError as error:
        raise BarsError(
            f"`instruments` and `freq` must be those of Qlib's provider folder; got {instruments!r} and {freq!r}: "
            f"{error} Name a file of its folder instruments, and a calendar that it has."
        ) from error
    named = [] if isinstance(instruments, str | Mapping) else list(dict.fromkeys(instruments))
    found = set(table.index.get_level_values("instrument"))
    missing = [name for name in named if name not in found]
    if table.empty or missing:
        raise BarsError(
            f"`instruments` must have bars from {start} to {end}; Qlib has none of "
            f"{', '.join(map(str, missing)) if missing else repr(instruments)}. "
            "Widen the span, or see `D.list_instruments(D.instruments('all'), as_list=True)`."
        )
    table.columns = [*PRICES, *_OPTIONAL]
    unknown = [name for name in _OPTIONAL if table[name].isna().all()]
    bars = table.drop(columns=unknown).astype(np.float64).swaplevel().sort_index()
    bars.index.names = ["datetime", "instrument"]
    return check_bars(bars)


class QlibFeatures(TransformerMixin, BaseEstimator):
    """Qlib expressions at the rows' own (datetime, instrument), computed on Qlib's data.

    What Qlib knows and bars do not (fundamentals, other markets' columns, a formula of its
    library) becomes columns of a Pipeline. Values come from the running Qlib's provider and not
    from X, of which only the index is read.

    Parameters
    ----------
    fields : sequence of str
        Expressions, such as ``"$close / Ref($close, 5) - 1"``.
    names : sequence of str, default=None
        Their names, one each; None for the expressions themselves.
    freq : str, default="day"
        Qlib's name of the bar.

    Attributes
    ----------
    n_features_in_ : int
        Columns of the X seen by `fit`.
    feature_names_in_ : ndarray of str
        Their names, where all are strings.

    See Also
    --------
    qlib_bars : The provider's bars.
    ensemble_kit.features.Alpha158 : Qlib's 158 columns, computed on bars of any source, faster.

    Notes
    -----
    What it sees: row t depends on the provider's bars up to t, from its first one on, whatever
    rows X has. Expressions that look ahead (``Ref($close, -1)``, ``Delta($close, -1)``) or stamp
    a span with its start (``TResample``) are refused. An operator of your own is believed about
    its window (`get_extended_window_size`).

    A value that the provider lacks is NaN. Rows newer than its calendar are refused: a model
    that is asked about new bars needs a provider folder that has them.

    Examples
    --------
    >>> from ensemble_kit.interop.qlib import QlibFeatures
    >>> QlibFeatures(["$close / Ref($close, 5) - 1"], names=["week"]).get_feature_names_out().tolist()
    ['week']
    """

    #: Earlier rows of X that a row depends on: the provider holds the history.
    lookback = 0

    def __init__(self, fields: Sequence[str], *, names: Sequence[str] | None = None, freq: str = "day") -> None:
        self.fields = fields
        self.names = names
        self.freq = freq

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:  # noqa: ARG002
        """Check the expressions; there is nothing to learn.

        Parameters
        ----------
        X : DataFrame of shape (n, n_columns)
            Any columns, indexed by (datetime, instrument).
        y : ignored, default=None
            Not used.

        Returns
        -------
        QlibFeatures
            Itself.

        Raises
        ------
        LeakageError
            If an expression looks ahead.
        EnsembleKitError
            If Qlib has not been started, or an expression cannot be read.
        BarsError
            If X is no panel.
        """
        check_started()
        if isinstance(self.fields, str) or not len(self.fields):
            raise EnsembleKitError(
                f"`fields` must be a list of expressions; got {self.fields!r}. Pass ['$close / Ref($close, 5) - 1']."
            )
        if len(set(self.get_feature_names_out())) != len(self.fields):
            raise EnsembleKitError(
                f"`names` must name each of the {len(self.fields)} field(s) once; got {self.names!r}. "
                "Leave it out to call columns by their expressions."
            )
        check_causal(self.fields, "`fields`")
        _check_panel(X)
        validate_data(self, X, skip_check_array=True)
        return self

    def transform(self, X: pd.DataFrame) -> NDArray[np.float64]:
        """Look the rows up.

        Parameters
        ----------
        X : DataFrame of shape (n, n_columns)
            Indexed by (datetime, instrument), sorted.

        Returns
        -------
        ndarray of float64, shape (n, n_fields)
            The expressions' values.

        Raises
        ------
        BarsError
            If X is no panel, or has times or instruments that the provider does not know.
        EnsembleKitError
            If the provider has none of the columns, or Qlib cannot compute an expression.
        """
        check_is_fitted(self)
        validate_data(self, X, reset=False, skip_check_array=True)
        times, instruments = _check_panel(X)
        from qlib.data import D

        table, known = self._of_provider(sorted(set(instruments)), times.max())
        calendar = pd.DatetimeIndex(D.calendar(end_time=times.max(), freq=self.freq))
        for name, asked, have in (("times", times, calendar), ("instruments", instruments, known)):
            if not (found := asked.isin(have)).all():
                raise BarsError(
                    f"`X` must have {name} that Qlib's provider knows; got {asked[~found][0]} "
                    f"({len(asked[~found].unique())} such {name}). Update the provider folder, or drop the rows."
                )
        place = table.index.get_indexer(pd.MultiIndex.from_arrays([instruments, times.as_unit("ns")]))
        values = table.to_numpy(np.float64)
        return np.where((place >= 0)[:, None], values[place], np.nan)

    def _of_provider(self, instruments: list[Any], end: pd.Timestamp) -> tuple[pd.DataFrame, pd.Index[Any]]:
        """Return the expressions' values from the first bar on, and the instruments that the provider knows."""
        from qlib.data import D

        def ask(names: list[Any], fields: Sequence[str]) -> tuple[pd.DataFrame, pd.Index[Any]]:
            table = D.features(names, list(fields), end_time=end, freq=self.freq, disk_cache=0)
            return table, pd.Index(table.index.get_level_values("instrument").unique())

        try:
            # Qlib's own choice while it computes: 0 / 0 is NaN without a warning. From the first bar on:
            # a recursive average is the same, whatever rows are asked for.
            with np.errstate(invalid="ignore", divide="ignore"):
                table, known = ask(instruments, self.fields)
        except (TypeError, ValueError) as error:
            raise EnsembleKitError(
                f"`fields` must be what Qlib can compute at freq={self.freq!r}; got {list(self.fields)}: {error}. "
                "Mend the expression, or name a frequency that the provider folder has."
            ) from error
        if len(known) < len(instruments):
            # Qlib leaves out whoever has none of these columns: its close tells an unknown instrument from that.
            _, listed = ask(instruments, ["$close"])
            if table.empty and len(listed):
                raise EnsembleKitError(
                    f"`fields` must be of columns that Qlib's provider has; got {list(self.fields)}, and it has none "
                    f"of these for {listed[0]}. See the files of its folder features."
                )
            known = known.union(listed)
        return table, known

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the columns' names.

        Parameters
        ----------
        input_features : ignored, default=None
            Not used.

        Returns
        -------
        ndarray of object, shape (n_fields,)
            The names.
        """
        return np.asarray(list(self.fields if self.names is None else self.names), dtype=object)


def _check_panel(X: Any) -> tuple[pd.DatetimeIndex, pd.Index[Any]]:
    index = X.index if isinstance(X, pd.DataFrame) else None
    if not isinstance(index, pd.MultiIndex) or getattr(index.get_level_values(0), "tz", None) is not None:
        raise BarsError(
            "`X` must be a panel with an index (datetime, instrument), its times naive as Qlib's; got "
            f"{type(X).__name__ if index is None else type(index).__name__}. Read bars with `qlib_bars`."
        )
    row_keys(X)
    return pd.DatetimeIndex(index.get_level_values(0)), index.get_level_values(1)
