"""What every label function returns: the classes, and when each of them was known."""

from __future__ import annotations

import html
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["Labels"]


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
    """

    labels: pd.Series[Any] | pd.DataFrame
    t1: pd.Series[Any]
    sample_weight: pd.Series[float]
    definition: dict[str, Any] = field(default_factory=dict)

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
            Which one.

        Returns
        -------
        Series
            On the bars' index.
        """
        return self.labels if isinstance(self.labels, pd.Series) else self.labels.iloc[:, h]

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
            return X[self.known], self.labels[self.known]
        if len(X) != len(self.labels):
            raise EnsembleKitError(
                f"`X` must have the labelled bars' {len(self.labels)} rows; got {len(X)}. "
                "Label the very bars that the columns were made of."
            )
        return X[self.known], self.labels[self.known]

    def summary(self) -> pd.DataFrame:
        """Count each class by horizon.

        Returns
        -------
        DataFrame
            Rows are horizons, columns classes, values shares of the known rows.
        """
        frame = self.labels.to_frame("H0") if isinstance(self.labels, pd.Series) else self.labels
        return frame[self.known].apply(lambda column: column.value_counts(normalize=True)).T.fillna(0.0)

    def __repr__(self) -> str:
        name = self.definition.get("label", "labels")
        shares = self.summary().iloc[0] if self.known.any() else pd.Series(dtype=float)
        classes = ", ".join(f"{label} {share:.2%}" for label, share in shares.items())
        return f"<Labels {name}: {int(self.known.sum())} of {len(self.labels)} rows known; H0: {classes or 'nothing'}>"

    def _repr_html_(self) -> str:
        head = html.escape(repr(self).strip("<>"))
        return f"<p>{head}</p>{self.summary().map('{:.2%}'.format).to_html()}"
