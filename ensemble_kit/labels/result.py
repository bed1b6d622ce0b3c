"""What every label function returns: the classes, and when each of them was known."""

from __future__ import annotations

import html
from dataclasses import asdict, dataclass, field
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.sessions import Session

__all__ = ["Labels", "plain_parameters"]


@dataclass(frozen=True, eq=False)
class Labels:
    """Labels of bars, the time at which each was known, and how much each counts.

    Attributes
    ----------
    labels : Series or DataFrame on the bars' index
        One column a horizon (`H0`, `H1`, ...) if there are several. NaN where a label is
        not known yet, which can only be at an instrument's end.
    t1 : Series on the bars' index
        The time of the last bar that any of the row's labels looked at; NaT where unknown.
        A training row is purged when its `t1` reaches the test rows.
    sample_weight : Series on the bars' index
        0 for rows that are history only, and nothing to learn from.
    definition : dict
        The function's name and parameters, for records.
    details : DataFrame on the bars' index
        What else the function found, for charts and studies: turn bars, barriers, returns.
        It lies in the future as far as the labels do.
    """

    labels: pd.Series[Any] | pd.DataFrame
    t1: pd.Series[Any]
    sample_weight: pd.Series[float]
    definition: dict[str, Any] = field(default_factory=dict)
    details: pd.DataFrame = field(default_factory=pd.DataFrame)

    @property
    def known(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Rows whose labels are all known, shape (n,)."""
        unknown = np.asarray(self.labels.isna()).reshape(len(self.labels), -1)
        return np.asarray(~unknown.any(axis=1))

    def horizon(self, h: int = 0) -> pd.Series[Any]:
        """Return the labels of one horizon.

        Parameters
        ----------
        h : int, default=0
            Which one, counted from 0.

        Returns
        -------
        Series
            On the bars' index.

        Raises
        ------
        EnsembleKitError
            If there is no such horizon.
        """
        frame = self.labels.to_frame() if isinstance(self.labels, pd.Series) else self.labels
        if not isinstance(h, Integral) or not 0 <= h < frame.shape[1]:
            raise EnsembleKitError(
                f"`h` must be an integer from 0 to {frame.shape[1] - 1}; got {h!r}. "
                "Label the bars with more horizons, or take one of these."
            )
        return self.labels if isinstance(self.labels, pd.Series) else self.labels.iloc[:, int(h)]

    def align(self, X: Any) -> tuple[Any, pd.Series[Any] | pd.DataFrame]:
        """Return `X` and `y` without the rows whose label is not known yet.

        Parameters
        ----------
        X : DataFrame or array of shape (n, ...)
            One row a bar: the bars themselves, or columns made of them.

        Returns
        -------
        X : as given
            The rows whose labels are known.
        y : Series or DataFrame
            Their labels.

        Raises
        ------
        EnsembleKitError
            If `X` has other rows than the labelled bars.
        """
        if isinstance(X, pd.DataFrame | pd.Series):
            if not X.index.equals(self.labels.index):
                raise EnsembleKitError(
                    f"`X` must have the labelled bars' index ({len(self.labels)} rows); got another one of {len(X)}. "
                    "Label the very bars that the columns were made of."
                )
            return X[self.known], self._targets()
        if len(X) != len(self.labels):
            raise EnsembleKitError(
                f"`X` must have the labelled bars' {len(self.labels)} rows; got {len(X)}. "
                "Label the very bars that the columns were made of."
            )
        return X[self.known], self._targets()

    def _targets(self) -> pd.Series[Any] | pd.DataFrame:
        """Return the known labels: whole numbers as such, since only NaN had made them floats."""
        y = self.labels[self.known]
        return y.astype(np.int64) if _is_whole(y) else y

    def summary(self) -> pd.DataFrame:
        """Count each class by horizon, over what is learned from: known rows of weight above 0.

        Returns
        -------
        DataFrame
            Rows are horizons, columns classes, values shares of those rows, each counted once
            whatever its weight; no columns if there is no such row. For labels that are
            quantities, their mean, deviation and quantiles instead.
        """
        y = self._targets()
        frame = y.to_frame("H0") if isinstance(y, pd.Series) else y
        learned = frame[self._learned[self.known]]
        if learned.empty:
            return pd.DataFrame(index=frame.columns)
        if _is_quantity(frame):
            return learned.describe().T
        return learned.apply(lambda column: column.value_counts(normalize=True)).T.fillna(0.0)

    @property
    def _learned(self) -> np.ndarray[Any, np.dtype[np.bool_]]:
        """Rows that are known and count, shape (n,)."""
        return np.asarray(self.known & (self.sample_weight.to_numpy(np.float64) > 0))

    def __repr__(self) -> str:
        name = self.definition.get("label", "labels")
        first = self.summary().iloc[0]
        form = "{} {:.4g}" if _is_quantity(self.labels) else "{} {:.2%}"
        nothing = "nothing to learn from, no row has a weight above 0" if self.known.any() else "nothing"
        shown = ", ".join(form.format(label, value) for label, value in first.items())
        idle = int((self.known & ~self._learned).sum())
        weightless = f" ({idle} of weight 0)" if idle else ""
        return (
            f"<Labels {name}: {int(self.known.sum())} of {len(self.labels)} rows known{weightless}; "
            f"{first.name or 'H0'}: {shown or nothing}>"
        )

    def _repr_html_(self) -> str:
        head = html.escape(repr(self).strip("<>"))
        form = "{:.4g}" if _is_quantity(self.labels) else "{:.2%}"
        table = self.summary().map(form.format).to_html() if self._learned.any() else ""
        return f"<p>{head}</p>{table}"


def _is_whole(y: pd.Series[Any] | pd.DataFrame) -> bool:
    values = np.asarray(y)
    return bool(values.dtype.kind == "f" and (values == np.round(values)).all())


def _is_quantity(y: pd.Series[Any] | pd.DataFrame) -> bool:
    values = np.asarray(y)
    return values.dtype.kind == "f" and not _is_whole(y.dropna())


def plain_parameters(label: str, **parameters: Any) -> dict[str, Any]:
    """Return a definition that JSON can hold: a label function's name and its parameters.

    Parameters
    ----------
    label : str
        The function's name.
    **parameters : object
        As it was called; a `Session` becomes a dict, NumPy numbers plain ones.

    Returns
    -------
    dict
        What `label_bars` takes.
    """
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in parameters.items()}
    sessions = {name: asdict(value) for name, value in plain.items() if isinstance(value, Session)}
    return {"label": label} | plain | sessions
