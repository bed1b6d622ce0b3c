"""Where a bar lies in its day, its week and its year: columns from the index alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import validate_data

from ensemble_kit.bars import RowKeys, row_keys
from ensemble_kit.exceptions import BarsError
from ensemble_kit.features._groups import check_include
from ensemble_kit.features._newest import SessionClock
from ensemble_kit.sessions import Session, SessionTimes, check_daily_times, session_times

__all__ = ["SessionFeatures", "SessionStream"]

_COLUMNS = {
    "tod": ("tod_sin", "tod_cos"),
    "dow": ("dow",),
    "hour": ("hour",),
    "month": ("month",),
    "holiday": ("holiday",),
    "half_day": ("half_day",),
}
_DEFAULT = ("tod", "dow")


class SessionFeatures(TransformerMixin, BaseEstimator):
    """Clock of the session and day of the week; on request hour, month, holidays and half days.

    Parameters
    ----------
    session : "day", exchange code or Session, default="day"
        The index's own calendar day; an exchange such as ``"XNYS"``, half days and daylight
        saving included; or fixed wall-clock times. All but ``"day"`` need times with a zone, or
        dates: a date is that date's session.
    include : tuple of str, default=None
        Groups of columns, in the order wanted. None stands for ``("tod", "dow")``:

        - ``"tod"``: ``tod_sin``, ``tod_cos`` = sine and cosine of 2 pi * minutes since the open
          / length of the session. A bar before the open has negative minutes, and the circle
          closes
        - ``"dow"``: weekday of the session / 4: 0 for Monday, 1 for Friday (1.25 and 1.5 at
          weekends)
        - ``"hour"``: hours since midnight / 24, on the wall clock of the session's zone
        - ``"month"``: (month of the session's date - 1) / 11: 0 for January, 1 for December
        - ``"holiday"``: 1 on days on which the exchange has no session, weekends included
        - ``"half_day"``: 1 where the exchange's session is shorter than usual. Both are 0
          throughout where `session` names no exchange

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
    gets the numbers it had in the whole. All columns are finite. Holidays and half days are the
    calendar's, which also lists closings that nobody knew long before.

    Examples
    --------
    >>> from ensemble_kit.sessions import Session
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features.session import SessionFeatures
    >>> bars = make_bars(79, random_state=0)  # a Monday, and the first bar of Tuesday
    >>> clock = SessionFeatures(Session("09:30", "16:00", "America/New_York")).set_output(transform="pandas")
    >>> clock.fit_transform(bars).iloc[[0, 39, 78]].to_numpy().round(2).tolist()
    [[0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [0.0, 1.0, 0.25]]
    >>> SessionFeatures("XNYS", include=("hour", "holiday")).fit_transform(bars.iloc[[0]]).round(2).tolist()
    [[0.4..., 0.0]]
    """

    def __init__(self, session: str | Session = "day", *, include: Sequence[str] | None = None) -> None:
        self.session = session
        self.include = include

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
            If X has no index of times, the session is unknown or needs a zone, or daily bars lie
            outside of it (midnight in UTC).
        EnsembleKitError
            If there is no such group.
        """
        check_daily_times(_times(X).axis(), self.session)
        self.get_feature_names_out()  # no such group is an error
        validate_data(self, X, skip_check_array=True)
        return self

    def transform(self, X: pd.DataFrame) -> NDArray[np.float32]:
        """Return the columns of each row.

        Parameters
        ----------
        X : DataFrame of shape (n_rows, n_columns)
            Any frame indexed by time, or by (datetime, instrument).

        Returns
        -------
        ndarray of float32, shape (n_rows, n_out), or DataFrame after ``set_output``
            One row a row of X, in its order.

        Raises
        ------
        BarsError, EnsembleKitError
            As `fit`.
        """
        return self._columns(session_times(_times(X).axis(), self.session))

    def stream(self, state: Mapping[str, NDArray[Any]] | None = None) -> SessionStream:  # noqa: ARG002
        """Begin a stream of one instrument's rows, which looks a day's session up once.

        Parameters
        ----------
        state : mapping of str to ndarray, default=None
            Ignored: a row depends on its own time and nothing else.

        Returns
        -------
        SessionStream
            What takes the next rows.
        """
        return SessionStream(self._columns, self.session)

    def get_feature_names_out(self, input_features: Any = None) -> NDArray[np.object_]:  # noqa: ARG002
        """Return the names of the columns.

        Parameters
        ----------
        input_features : ignored, default=None
            Not used.

        Returns
        -------
        ndarray of str, shape (n_out,)
            ``tod_sin``, ``tod_cos``, ``dow`` by default.
        """
        groups = check_include(self.include, _COLUMNS, _DEFAULT)
        return np.array([name for group in groups for name in _COLUMNS[group]], dtype=object)

    def _columns(self, times: SessionTimes) -> NDArray[np.float32]:
        names = self.get_feature_names_out()
        angle = 2 * np.pi * times.minute / times.length
        columns: dict[str, NDArray[Any]] = {
            "tod_sin": np.sin(angle),
            "tod_cos": np.cos(angle),
            "dow": times.weekday / 4,
            "hour": times.clock / 1440,
            "month": (times.month - 1) / 11,
            "holiday": times.holiday,
            "half_day": times.half_day,
        }
        # Fortran order: pandas wraps the block without a copy.
        out = np.empty((len(angle), len(names)), dtype=np.float32, order="F")
        for place, name in enumerate(names):
            out[:, place] = columns[name]
        return out

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.requires_fit = False
        return tags


class SessionStream:
    """One instrument's session columns, row after row, with the bits of the whole.

    `SessionFeatures.stream` makes one.

    Parameters
    ----------
    columns : callable
        What `SessionFeatures` makes of `SessionTimes`.
    session : "day", exchange code or Session
        As in `SessionFeatures`.

    Attributes
    ----------
    state : dict of str to ndarray
        Empty: the past means nothing for the rows to come.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features.session import SessionFeatures
    >>> bars = make_bars(300, random_state=0)
    >>> features = SessionFeatures("XNYS").fit(bars)
    >>> stream = features.stream()
    >>> bool((stream.update(bars.iloc[[299]]) == features.transform(bars)[299]).all())
    True
    """

    def __init__(self, columns: Callable[[SessionTimes], NDArray[np.float32]], session: str | Session) -> None:
        self._columns = columns
        self._clock = SessionClock(session)

    @property
    def state(self) -> dict[str, NDArray[Any]]:
        """What the past means for the rows to come: nothing."""
        return {}

    def update(self, bars: pd.DataFrame) -> NDArray[np.float32]:
        """Return the columns of the next rows.

        Parameters
        ----------
        bars : DataFrame of shape (m, n_columns)
            One row or more of the instrument.

        Returns
        -------
        ndarray of float32, shape (m, n_out)
            Their columns.

        Raises
        ------
        BarsError
            If the rows have no times, or are a panel's.
        """
        keys = _times(bars)
        if keys.panel:
            raise BarsError(
                "`bars` must be of one instrument; got a panel. "
                "Keep one stream an instrument and pass `bars.xs(name, level=1)`."
            )
        return self._columns(self._clock.times(bars.index, keys.time))


def _times(X: pd.DataFrame) -> RowKeys:
    keys = row_keys(X)
    if keys.index is None:
        kind = f"index {type(X.index).__name__}" if isinstance(X, pd.DataFrame) else type(X).__name__
        raise BarsError(
            f"`X` must be a DataFrame indexed by time or by (datetime, instrument); got {kind}. "
            "Pass the bars themselves, before anything that turns them into arrays."
        )
    return keys
