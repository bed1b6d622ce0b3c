"""When the next bar is due: a market that is closed sends none, and its silence is no fault."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.live._forecasts import in_zone
from ensemble_kit.live.gate import closes_at
from ensemble_kit.sessions import session_times
from ensemble_kit.tracking.intake import session_of

__all__ = ["next_close"]

_DAY = pd.Timedelta(days=1)
#: Longer than any exchange closes for a holiday.
_DAYS = 15


def next_close(newest: pd.Timestamp, card: Mapping[str, Any]) -> pd.Timestamp:
    """Return when the bar after the newest should close.

    Parameters
    ----------
    newest : Timestamp
        The newest bar's open, in UTC.
    card : mapping
        The model's card: the bar's length and the session.

    Returns
    -------
    Timestamp
        In UTC. Where nothing is known of the session, as if bars came day and night.
    """
    bar = pd.Timedelta(card["bar"])
    try:
        if bar >= _DAY:
            following = pd.DatetimeIndex([newest + bar * n for n in range(1, _DAYS + 1)])
            # A day is dated by its midnight, in UTC or in the exchange's zone: its noon lies within it in both.
            closed = session_times(in_zone(following + _DAY / 2, card), session_of(card)).holiday
            return (following[~closed][0] if (~closed).any() else following[0]) + bar
        following = pd.date_range(newest + bar, periods=_DAYS * 1440, freq="min")
        for some in (following[:1], following):  # the next bar is the next minute's, but once a session
            times = session_times(in_zone(some, card), session_of(card))
            opens = (times.minute >= 0) & (times.minute < times.length) & ~times.holiday
            if opens.any():
                return closes_at(in_zone(some[opens][:1], card), card)[0]
    except EnsembleKitError:  # a calendar that does not reach so far
        pass
    return newest + 2 * bar
