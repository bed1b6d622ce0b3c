"""Rows on their way from one step to the next: an array, and the frame of it where a step asks for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["SPARE", "Layout", "Rows", "not_numbers"]

#: Rows beyond those needed that a part is begun on: what it is tried on before it is believed.
SPARE = 64


class Layout:
    """What a step's output looks like in the batch, beside its numbers.

    Parameters
    ----------
    output : DataFrame or ndarray of shape (n, F)
        Some rows of it.
    step : object
        The step, for messages.

    Attributes
    ----------
    columns : Index or None
        Names of a frame's columns; None for an array.
    dtypes : Series or None
        Where a frame's columns differ in type.

    Raises
    ------
    EnsembleKitError
        If the output is no table of numbers.
    """

    def __init__(self, output: Any, step: Any) -> None:
        self.columns: pd.Index[Any] | None = None
        self.dtypes: pd.Series[Any] | None = None
        if isinstance(output, pd.DataFrame):
            self.columns = output.columns
            self.dtypes = output.dtypes if len(set(output.dtypes)) > 1 else None
        if np.ndim(output) != 2 or np.asarray(output).dtype.kind not in "fiub":
            wrong = f" with {told}" if isinstance(output, pd.DataFrame) and (told := not_numbers(output)) else ""
            raise EnsembleKitError(
                f"`model` must hand on dense tables of numbers from step to step to be streamed; {type(step).__name__} "
                f"hands on {type(output).__name__} of shape {np.shape(output)}{wrong}. Let it return numbers."
            )


def not_numbers(frame: pd.DataFrame) -> str:
    """Return the columns that keep a frame from being a table of numbers, for messages.

    Parameters
    ----------
    frame : DataFrame
        Any.

    Returns
    -------
    str
        Their names and types; empty where there is none.
    """
    if frame.to_numpy().dtype.kind in "fiub":
        return ""
    return ", ".join(
        f"{name!r} ({dtype})"
        for name, dtype in frame.dtypes.items()
        if not (isinstance(dtype, np.dtype) and dtype.kind in "fiu")
    )


class Rows:
    """Some rows of one instrument, in time order.

    Parameters
    ----------
    values : ndarray of shape (n, F)
        The numbers.
    index : DatetimeIndex of length n
        Their times.
    layout : Layout
        Whether steps see a frame or an array, and which names.
    frame : DataFrame, default=None
        The same rows as a frame, where there is one already.
    """

    def __init__(
        self, values: NDArray[Any], index: pd.DatetimeIndex, layout: Layout, frame: pd.DataFrame | None = None
    ) -> None:
        self.values, self.index, self.layout = values, index, layout
        self._frame = frame

    def __len__(self) -> int:
        return len(self.values)

    def table(self) -> Any:
        """Return what a step of the batch would be given: a frame, or an array.

        Returns
        -------
        DataFrame or ndarray of shape (n, F)
            The rows.
        """
        if self.layout.columns is None:
            return self.values
        if self._frame is None:
            frame = pd.DataFrame(self.values, index=self.index, columns=self.layout.columns, copy=False)
            self._frame = frame if self.layout.dtypes is None else frame.astype(self.layout.dtypes)
        return self._frame

    def tail(self, n: int | None) -> Rows:
        """Return the newest rows.

        Parameters
        ----------
        n : int or None
            How many; None for all.

        Returns
        -------
        Rows
            Fewer where there are no more.
        """
        if n is None or n >= len(self):
            return self
        first = len(self) - n
        return Rows(self.values[first:], self.index[first:], self.layout)

    def then(self, later: Rows) -> Rows:
        """Return these rows and later ones.

        Parameters
        ----------
        later : Rows
            Of the same layout.

        Returns
        -------
        Rows
            A copy.
        """
        index = pd.DatetimeIndex(self.index.append(later.index))
        return Rows(np.concatenate([self.values, later.values]), index, self.layout)

    def become(self, values: NDArray[Any], layout: Layout) -> Rows:
        """Return what a step made of these rows.

        Parameters
        ----------
        values : ndarray of shape (n, n_out)
            One row a row.
        layout : Layout
            Of the step's output.

        Returns
        -------
        Rows
            At the same times.
        """
        return Rows(values, self.index, layout)

    @staticmethod
    def beside(parts: Sequence[Rows], layout: Layout) -> Rows:
        """Return several outputs of the same rows side by side.

        Parameters
        ----------
        parts : sequence of Rows
            At least one.
        layout : Layout
            Of all of them together.

        Returns
        -------
        Rows
            At the same times.
        """
        return parts[0].become(np.concatenate([part.values for part in parts], axis=1), layout)
