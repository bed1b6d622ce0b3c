"""Where a bar lies in its day and its week: three columns from the index alone."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data

from ensemble_kit.bars import row_keys
from ensemble_kit.exceptions import BarsError
from ensemble_kit.sessions import Session, session_times

__all__ = ["SessionFeatures"]


class SessionFeatures(TransformerMixin, BaseEstimator):
    """Clock of the session and day of the week.

    ``tod_sin`` and ``tod_cos`` are sine and cosine of 2 pi * minutes since the open / length
    of the session; ``dow`` is the weekday / 4: 0 for Monday, 1 for Friday (1.25 and 1.5 at
    weekends). A bar before the open has negative minutes, and the circle closes.

    Parameters
    ----------
    session : "day", exchange code or Session, default="day"
        The index's own calendar day; an exchange such as ``"XNYS"``, half days and daylight
        saving included; or fixed wall-clock times. All but ``"day"`` need times with a zone.

    Attributes
    ----------
    n_features_in_ : int
        Columns of the frame seen by `fit`. None of them is read.
    feature_names_in_ : ndarray of str
        Their names, where all are strings.

    See Also
    --------
    ensemble_kit.sessions.session_times : Minutes, days and lengths of the sessions.

    Notes
    -----
    A row depends on its own time and nothing else: nothing is fitted, and a bar served alone
    gets the numbers it had in the whole. All columns are finite.

    Examples
    --------
    >>> from ensemble_kit.sessions import Session
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features.session import SessionFeatures
    >>> bars = make_bars(79, random_state=0)  # a Monday, and the first bar of Tuesday
    >>> clock = SessionFeatures(Session("09:30", "16:00", "America/New_York")).set_output(transform="pandas")
    >>> clock.fit_transform(bars).iloc[[0, 39, 78]].to_numpy().round(2).tolist()
    [[0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [0.0, 1.0, 0.25]]
    """

    def __init__(self, session: str | Session = "day") -> None:
        self.session = session

    @property
    def lookback(self) -> int:
        """Earlier rows that a row depends on: none."""
        return 0

    def fit(self, X: pd.DataFrame, y: Any = None) -> Self:  # noqa: ARG002
        """Check the index and the session; there is nothing to learn.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            Any frame indexed by time, or by (datetime, instrument).
        y : ignored, default=None
            Not used.

        Returns
        -------
        SessionFeatures
            The transformer itself.

        Raises
        ------
        BarsError
            If X has no index of times, or the session is unknown or needs a zone.
        """
        self._columns(X)
        validate_data(self, X, skip_check_array=True)
        return self

    def transform(self, X: pd.DataFrame) -> NDArray[np.float32]:
        """Return the three columns of each row.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            Any frame indexed by time, or by (datetime, instrument).

        Returns
        -------
        ndarray of float32, shape (n_rows, 3), or DataFrame after ``set_output``
            One row a row of X, in its order.

        Raises
        ------
        BarsError
            As `fit`.
        """
        return self._columns(X)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the three columns.

        Parameters
        ----------
        input_features : ignored, default=None
            Not used.

        Returns
        -------
        ndarray of str, shape (3,)
            ``tod_sin``, ``tod_cos``, ``dow``.
        """
        return np.array(["tod_sin", "tod_cos", "dow"], dtype=object)

    def _columns(self, X: pd.DataFrame) -> NDArray[np.float32]:
        keys = row_keys(X)
        if keys.index is None:
            kind = f"index {type(X.index).__name__}" if isinstance(X, pd.DataFrame) else type(X).__name__
            raise BarsError(
                f"`X` must be a DataFrame indexed by time or by (datetime, instrument); got {kind}. "
                "Pass the bars themselves, before anything that turns them into arrays."
            )
        times = session_times(keys.axis(), self.session)
        angle = 2 * np.pi * times.minute / times.length
        # Fortran order: pandas wraps the block without a copy.
        out = np.empty((len(angle), 3), dtype=np.float32, order="F")
        out[:, 0], out[:, 1], out[:, 2] = np.sin(angle), np.cos(angle), times.weekday / 4
        return out

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags
