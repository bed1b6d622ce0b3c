"""One bar after the other through a fitted model and its sizer."""

from __future__ import annotations

import warnings
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import PRICES, check_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.streams.models import FloatArray, start_model
from ensemble_kit.streams.rows import Layout, Rows, not_numbers

__all__ = ["Answer", "PositionStream"]

_FIELDS = (*PRICES, "volume")


class Answer(NamedTuple):
    """What a model says at a bar's close.

    Attributes
    ----------
    time : Timestamp
        The bar's.
    proba : ndarray of float64, shape (K,) or (H, K)
        Class probabilities, in the order of the model's classes.
    position : float
        The position to hold, as a fraction of equity.
    """

    time: pd.Timestamp
    proba: FloatArray
    position: float


class PositionStream:
    """A fitted classifier and its sizer, bar by bar: what the batch says, at the cost of the newest row.

    `SizedClassifier.stream` makes one.

    Parameters
    ----------
    model : classifier or Pipeline
        Fitted.
    sizer : sizer
        Fitted: probabilities to positions, row by row.
    history : DataFrame of shape (n_bars, n_columns)
        What `model` was fitted on the like of: the bars of one instrument in time order, up to
        now. The more of them, the more exactly recursive features begin.
    classes : ndarray of shape (K,)
        The labels.

    Attributes
    ----------
    last : Answer
        The newest bar's.

    Raises
    ------
    BarsError
        If the history cannot be used.
    EnsembleKitError
        If the model reads other instruments at the same time, steps hand on no numbers, or a part
        says something else of the newest rows when it gets no more of the past than it states.

    Warns
    -----
    UserWarning
        If parts must read the whole past again at every bar, by name.

    Notes
    -----
    What it sees: the bars up to the one just given. It is not pickled, but begun again.
    """

    def __init__(self, model: Any, sizer: Any, history: pd.DataFrame, classes: NDArray[Any]) -> None:
        _check_frame(history, "history")
        _refuse_cross_sections(model)
        self._sizer, self._columns, self._zone = sizer, history.columns, history.index.tz  # type: ignore[attr-defined]
        self._single = not isinstance(model.classes_, list)
        slow: list[str] = []
        self._layout = Layout(history, model)
        self._model = start_model(model, self._rows(history), classes, slow)
        if slow:
            warnings.warn(
                f"{', '.join(dict.fromkeys(slow))} must read the whole past again at every bar: no `lookback` says how "
                "much is enough, and no `stream` carries it. Streaming is right, and slower with every bar.",
                UserWarning,
                stacklevel=3,
            )
        self._broken: pd.Timestamp | None = None
        self.last = self._answer(history.index[-1], self._model.update(None))

    def update(self, bar: pd.DataFrame) -> Answer:
        """Take the next bar.

        Parameters
        ----------
        bar : DataFrame of shape (1, n_columns)
            Later than all before, with the columns of the history in any order, in its time zone.

        Returns
        -------
        Answer
            The last row of what `predict_proba` and `predict_position` say of the history and
            all bars since, to 1e-6.

        Raises
        ------
        BarsError
            If the bar cannot be used, or does not follow. The stream stays as it was.
        EnsembleKitError
            If an earlier bar failed on its way, which leaves parts of the stream a bar ahead of
            others: it must be begun again.
        """
        if self._broken is not None:
            raise EnsembleKitError(
                f"`bar` must come to a stream in order; the bar at {self._broken} failed on its way through this one. "
                "Begin another with `stream(history)`."
            )
        bar = self._checked(bar)
        time = bar.index[0]
        self._broken = time
        self.last = self._answer(time, self._model.update(self._rows(bar)))
        self._broken = None
        return self.last

    def __reduce__(self) -> NoReturn:
        raise EnsembleKitError(
            f"`stream` must be begun on history, not copied or pickled; got the one at {self.last.time}. "
            "Store the model and the bars, and call `model.stream(bars)`."
        )

    def _checked(self, bar: pd.DataFrame) -> pd.DataFrame:
        """Return the bar with its columns in order; refuse one that cannot be next."""
        _check_frame(bar, "bar")
        if len(bar) != 1:
            raise BarsError(f"`bar` must be a single bar; got {len(bar)}. Give them one by one: `bars.iloc[[i]]`.")
        if not bar.columns.equals(self._columns):
            if set(bar.columns) != set(self._columns):
                raise BarsError(
                    f"`bar` must have the columns of the history, {', '.join(map(str, self._columns))}; got "
                    f"{', '.join(map(str, bar.columns))}. Set what is not known to NaN."
                )
            bar = bar[self._columns]
        time, zone = bar.index[0], bar.index.tz  # type: ignore[attr-defined]
        if zone is not self._zone and str(zone) != str(self._zone):
            raise BarsError(
                f"`bar` must have its time in the zone of the history, {self._zone}; got {zone}. "
                "Use `bar.tz_convert(...)`, or `bar.tz_localize(...)` where it has none."
            )
        if time <= self.last.time:
            raise BarsError(f"`bar` must follow those before; got {time} after {self.last.time}. Drop it.")
        return bar

    def _rows(self, frame: pd.DataFrame) -> Rows:
        return Rows(frame.to_numpy(), pd.DatetimeIndex(frame.index), self._layout, frame)

    def _answer(self, time: pd.Timestamp, log_proba: FloatArray) -> Answer:
        if np.isnan(log_proba).any():
            raise EnsembleKitError(
                f"`model` must give every bar a probability; got NaN at {time}. Impute columns that it cannot take."
            )
        proba = np.exp(log_proba)
        position = float(self._sizer.transform(proba)[0])
        return Answer(time, proba[0, 0] if self._single else proba[0], position)


def _check_frame(frame: Any, name: str) -> None:
    if not isinstance(frame, pd.DataFrame) or not isinstance(frame.index, pd.DatetimeIndex):
        kind = f"index {type(frame.index).__name__}" if isinstance(frame, pd.DataFrame) else type(frame).__name__
        raise BarsError(
            f"`{name}` must be a DataFrame of one instrument, indexed by time; got {kind}. Of a panel, keep one "
            "stream an instrument: `bars.xs(instrument, level=1)`."
        )
    if set(PRICES) <= set(frame.columns):
        if not _plainly_good(frame):
            check_bars(frame, name=name)
    elif not len(frame) or not frame.index.is_monotonic_increasing or not frame.index.is_unique:
        raise BarsError(
            f"`{name}` must have rows with unique times in order; got {len(frame)} row(s). Use `.sort_index()`."
        )
    if wrong := not_numbers(frame):
        raise BarsError(
            f"`{name}` must hold numbers to be streamed; got columns {wrong}. Encode them before the bars reach the "
            "model, or fit it without them."
        )


def _refuse_cross_sections(model: Any) -> None:
    parts = [model, *model.get_params().values()]
    names = [type(part).__name__ for part in parts if getattr(part, "cross_sectional", False)]
    if names:
        raise EnsembleKitError(
            f"`model` must read one instrument at a time to be streamed; {', '.join(dict.fromkeys(names))} reads "
            "others at the same time. Use `predict_proba` and `predict_position` on the panel."
        )


def _plainly_good(frame: pd.DataFrame) -> bool:
    """Whether a frame is one bar of known, possible prices: `check_bars` takes its time to say so."""
    if frame.shape != (1, len(_FIELDS)) or tuple(frame.columns) != _FIELDS or frame.index.hasnans:
        return False
    values = frame.to_numpy()
    if values.dtype.kind not in "fiu":
        return False
    o, h, low, c, volume = values[0].tolist()
    return 0 < low <= min(o, c) <= max(o, c) <= h < np.inf and 0 <= volume < np.inf
