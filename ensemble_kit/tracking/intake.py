"""What a served model takes in: a table of bars like those it was trained on, or a message that says what is not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from ensemble_kit.bars import PRICES, check_bars, instrument_codes, pack_index
from ensemble_kit.exceptions import BarsError, TrackingError
from ensemble_kit.sessions import Session, check_daily_times, session_times

__all__ = ["MAX_ROWS", "admit", "check_terms", "intake_terms", "read_table", "session_of"]

#: More rows than these are no question for a server: a year of minutes of one instrument is twice as many.
MAX_ROWS = 50_000
#: Rows asked for where a row depends on every earlier one (a `lookback` of None): no number is exact there.
RECURSIVE_HISTORY = 500
#: What a request may lack above what the training bars lacked.
TOLERANCE = 0.05
#: Steps between bars that say how long a bar is; of fewer, a night or a weekend could be most.
_ENOUGH_STEPS = 5
_TERMS = (
    "columns",
    "layout",
    "panel",
    "tz",
    "bar",
    "session",
    "fills_session",
    "max_missing",
    "min_history",
    "seen_until",
)


def intake_terms(model: Any, bars: pd.DataFrame, *, session: str | Session = "day") -> dict[str, Any]:
    """Write down what bars a model takes, from those that it was trained on.

    Parameters
    ----------
    model : SizedClassifier
        Fitted.
    bars : DataFrame of shape (n, n_columns)
        Its training bars.
    session : "day", exchange code or Session, default="day"
        When the market is open, as in `sessions.session_times`.

    Returns
    -------
    dict
        Plain values for the model's card: `columns` that were known, `layout` (these and those
        that never were, in order), whether it is a `panel`, the index's `tz` (None for naive
        times), the `bar`'s length, the `session`, whether bars reach from its open to its close
        (`fills_session`), the share of a session's bars that may be missing (`max_missing`: 0.05
        above the training bars' own), rows needed of each instrument (`min_history`: `lookback`
        + 1, or 500 where every earlier row counts, but no more than an instrument had in
        training), and until when the model has seen (`seen_until`: its last bar).

    Raises
    ------
    BarsError
        If the session is unknown or needs a zone, or daily bars lie outside of it (midnight in UTC).

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.tracking.intake import intake_terms
    >>> terms = intake_terms(LogisticRegression(), make_bars(400, random_state=0), session="XNYS")
    >>> terms["bar"], terms["fills_session"], terms["max_missing"], terms["tz"]
    ('0 days 00:05:00', True, 0.05, 'UTC')
    """
    check_daily_times(bars.index, session)
    bar, _ = _bar_length(bars, session)
    between = _missing(bars, bar, session, to_edges=False)
    to_edges = _missing(bars, bar, session, to_edges=True)
    # A market whose day is longer than its hours (stocks by calendar day) never fills it.
    fills = bool(to_edges["share"].max() <= between["share"].max() + TOLERANCE)
    usual = float((to_edges if fills else between)["share"].max())
    codes, _ = instrument_codes(bars.index)
    reach = getattr(model, "lookback", 0)
    return {
        "columns": [str(column) for column in bars.columns if bars[column].notna().any()],
        "layout": [str(column) for column in bars.columns],
        "panel": isinstance(bars.index, pd.MultiIndex),
        "tz": pack_index(bars.index[:1])["tz"],
        "bar": str(bar),
        "session": asdict(session) if isinstance(session, Session) else session,
        "fills_session": fills,
        "max_missing": round(min(usual + TOLERANCE, 1.0), 4),
        "min_history": int(min(RECURSIVE_HISTORY if reach is None else reach + 1, np.bincount(codes).max())),
        "seen_until": str(_times(bars)[-1]),
    }


def session_of(card: Mapping[str, Any]) -> str | Session:
    """Return the session that a card holds.

    Parameters
    ----------
    card : mapping
        As read with a model.

    Returns
    -------
    str or Session
        "day" where it says nothing.
    """
    session: Any = card.get("session", "day")
    return Session(**session) if isinstance(session, Mapping) else session


def check_terms(card: Mapping[str, Any]) -> None:
    """Check that a card says what bars its model takes.

    Parameters
    ----------
    card : mapping
        As read with a model.

    Raises
    ------
    TrackingError
        If it does not.
    """
    if missing := [name for name in _TERMS if name not in card]:
        raise TrackingError(
            f"`card` must say what bars the model takes; it lacks {', '.join(missing)}. "
            "Register the model again, with `log_and_register`."
        )


def admit(table: pd.DataFrame, card: Mapping[str, Any]) -> pd.DataFrame:
    """Turn a table into bars such as the model was trained on, or refuse it.

    Parameters
    ----------
    table : DataFrame of shape (n, n_columns)
        Columns `timestamp` (ISO 8601 text or datetimes; naive ones are UTC), `instrument` for a
        panel, prices, and what else the training bars had (`volume`, ...). The rows are in order
        of time and hold the history that the newest of them needs.
    card : mapping
        The model's card, with its `intake_terms`.

    Returns
    -------
    DataFrame of shape (n, n_columns)
        Bars in the time zone and with the columns of training, one row a row of the table.

    Raises
    ------
    BarsError
        If columns are missing or unknown, times are unsorted, repeated, no times, or with a zone
        where training had none; if a price is NaN, infinite or not above 0, or a high lies under
        a low; if bars are of another length, too few, or missing inside a session; if there are
        more than `MAX_ROWS`.

    Notes
    -----
    Missing bars are counted inside the sessions that the table touches: between the first and the
    last bar of each, and to its open and close where the market fills it. A session that is
    missing as a whole is not counted, since without a calendar a holiday looks the same.
    """
    bars = read_table(table, card)
    _check_known(check_bars(bars), card)
    _check_sizes(bars, card)
    return bars


def read_table(table: pd.DataFrame, card: Mapping[str, Any]) -> pd.DataFrame:
    """Turn a table into a frame of the model's columns, and judge neither its times nor its prices.

    Parameters
    ----------
    table : DataFrame of shape (n, n_columns)
        As `admit` takes it, the rows in any order.
    card : mapping
        The model's card, with its `intake_terms`.

    Returns
    -------
    DataFrame of shape (n, n_columns)
        In the time zone and with the columns of training, one row a row of the table, in its order.

    Raises
    ------
    BarsError
        If columns are missing or unknown, times are no times, or with a zone where training had
        none, or no dates where it had dates for sessions, or there are more than `MAX_ROWS`.
    """
    check_terms(card)
    if not isinstance(table, pd.DataFrame):
        raise BarsError(f"`bars` must be a table of bars; got {type(table).__name__}. Send one row a bar.")
    if not 0 < len(table) <= MAX_ROWS:
        raise BarsError(
            f"`bars` must have 1 to {MAX_ROWS} rows; got {len(table)}. Send the newest bars with their history "
            f"({card['min_history']} rows an instrument), and score longer ones with `tracking.load_model`."
        )
    _check_columns(table, card)
    # What was never known in training stays unknown: the model expects the column.
    bars = table[card["columns"]].astype(np.float64).reindex(columns=card["layout"])
    keys: list[Any] = [_parse_times(table["timestamp"], card["tz"])]
    _check_dates(keys[0], card)
    if "instrument" in table:
        keys.append(table["instrument"].where(table["instrument"].isna(), table["instrument"].astype(str)))
    bars.index = keys[0] if len(keys) == 1 else pd.MultiIndex.from_arrays(keys)
    bars.index.names = ["datetime", "instrument"][: len(keys)]
    return bars


def _check_columns(table: pd.DataFrame, card: Mapping[str, Any]) -> None:
    wanted = ["timestamp", *(["instrument"] if card["panel"] else []), *card["columns"]]
    missing = [name for name in wanted if name not in table.columns]
    twice = [str(name) for name in table.columns[table.columns.duplicated()]]
    unknown = [name for name in table.columns.unique() if name not in {*wanted, "instrument"}]
    # Sent as it was in training, a column of nothing does no harm.
    blank = [name for name in unknown if name in card["layout"] and np.all(table[name].isna())]
    unknown = [str(name) for name in unknown if name not in blank]
    if missing or unknown or twice:
        faults = {"missing": missing, "unknown": unknown[:10], "more than once": twice}
        shown = "; ".join(f"{fault} {', '.join(names)}" for fault, names in faults.items() if names)
        raise BarsError(
            f"`bars` must have the columns {', '.join(wanted)}, as in training; {shown}. "
            "Rename, add or leave out columns."
        )
    text = [name for name in card["columns"] if not pd.api.types.is_numeric_dtype(table[name])]
    if text:
        shown = ", ".join(f"{name} of {table[name].dtype}" for name in text)
        raise BarsError(f"`bars` must have numeric prices and volumes; got {shown}. Send numbers.")


def _parse_times(column: pd.Series[Any], tz: str | None) -> pd.DatetimeIndex:
    """Return the times in the training bars' zone: their sessions and hours were counted by its clock."""
    # Numbers would be nanoseconds to pandas, and seconds or milliseconds to whoever sent them.
    numbers = [value for value in column.dropna() if isinstance(value, int | float | np.number)]
    if numbers:
        raise BarsError(
            f"`timestamp` must be ISO 8601 text, such as '2024-01-02T14:30:00Z'; got {numbers[0]}. Write it so."
        )
    text = column.dtype.kind not in "mM"
    try:
        times = pd.to_datetime(column, utc=tz is not None, format="ISO8601" if text else None)
        index = pd.DatetimeIndex(times).as_unit("ns")
    except (ValueError, TypeError) as error:  # pandas' own: unreadable, out of bounds, with and without a zone
        raise BarsError(
            f"`timestamp` must be ISO 8601 text, such as '2024-01-02T14:30:00Z'; {str(error).splitlines()[0]}. "
            "Write all of them so."
        ) from None
    if tz is None and index.tz is not None:
        raise BarsError(
            f"`timestamp` must be without a zone, as in training; got {column.iloc[0]}. "
            "Leave the zone out, on the clock of the training bars."
        )
    return index if tz is None else index.tz_convert(tz)


def _check_dates(times: pd.DatetimeIndex, card: Mapping[str, Any]) -> None:
    """Refuse clock times where training had dates, each of which stood for an exchange's session."""
    clock = times[times.notna() & (times != times.normalize())]
    if card["tz"] is None and card["session"] != "day" and len(clock):
        raise BarsError(f"`timestamp` must be a date, as in training; got {clock[0]}. Write '{clock[0].date()}'.")


def _check_known(bars: pd.DataFrame, card: Mapping[str, Any]) -> None:
    unknown = bars[list(PRICES)].isna().to_numpy()
    if unknown.any():
        row, column = np.argwhere(unknown)[0]
        raise BarsError(
            f"`bars` must have a price on every row; got {PRICES[column]} NaN at {bars.index[row]} (row {row}; "
            f"{int(unknown.any(axis=1).sum())} such row(s)). Send the price, or leave the bar out."
        )
    never = [name for name in card["columns"] if bars[name].isna().all()]
    if never:
        raise BarsError(
            f"`bars` must have values in {', '.join(never)}, as in training; got NaN on every row. "
            "The model's columns would mean something else without: send them."
        )


def _check_sizes(bars: pd.DataFrame, card: Mapping[str, Any]) -> None:
    """Check the length of the bars, how many there are, and how many are not."""
    session = session_of(card)
    bar = pd.Timedelta(card["bar"])
    step, n_steps = _bar_length(bars, session)
    if (n_steps and step < bar) or (n_steps >= _ENOUGH_STEPS and step > bar):
        raise BarsError(f"`bars` must be of {_shown(bar)}, as in training; got bars of {_shown(step)}. Resample them.")
    codes, names = instrument_codes(bars.index)
    count = np.bincount(codes)
    if count.min() < card["min_history"]:
        short = int(count.argmin())
        whose = "" if names[short] is None else f" of {names[short]}"
        raise BarsError(
            f"`bars` must hold at least {card['min_history']} rows of each instrument, the history that the newest "
            f"row needs; got {int(count[short])}{whose}. Send earlier bars, too."
        )
    missing = _missing(bars, bar, session, to_edges=card["fills_session"])
    share = missing["share"].to_numpy()
    worst = int(share.argmax())
    if share[worst] > card["max_missing"]:
        whose = "" if names[worst] is None else f" of {names[worst]}"
        raise BarsError(
            f"`bars` must lack at most {card['max_missing']:.1%} of the bars inside a session; {share[worst]:.1%}"
            f"{whose} are missing, {int(missing['most'].to_numpy()[worst])} of them on {missing['day'].iloc[worst]}. "
            "Send them, or later bars alone."
        )


def _shown(length: pd.Timedelta) -> str:
    return str(length).removeprefix("0 days ")


def _times(bars: pd.DataFrame) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(bars.index.get_level_values(0))


def _laid_out(bars: pd.DataFrame, session: str | Session) -> pd.DataFrame:
    """Return instrument, session and time of each bar, an instrument after the other."""
    times = session_times(bars.index, session)
    frame = pd.DataFrame(
        {
            "instrument": instrument_codes(bars.index)[0],
            "day": times.day,
            "time": _times(bars).as_unit("ns").asi8,
            "minute": times.minute,
            "length": times.length,
            "open": (times.minute >= 0) & (times.minute < times.length) & ~times.holiday,
        }
    )
    return frame.sort_values("instrument", kind="stable", ignore_index=True)


def _bar_length(bars: pd.DataFrame, session: str | Session) -> tuple[pd.Timedelta, int]:
    """Return the commonest step between bars, inside sessions if it can be, and of how many it is."""
    frame = _laid_out(bars, session)
    step = frame["time"].diff()
    same = frame["instrument"].diff() == 0
    inside = same & (frame["day"].diff() == 0)
    steps = step[inside if inside.any() else same]
    return (pd.Timedelta(int(steps.mode().iloc[0])), len(steps)) if len(steps) else (pd.Timedelta(0), 0)


def _missing(bars: pd.DataFrame, bar: pd.Timedelta, session: str | Session, *, to_edges: bool) -> pd.DataFrame:
    """Return by instrument the `share` of its sessions' bars that is missing, and the `day` that lacks `most`."""
    frame = _laid_out(bars, session)
    inside = frame[frame["open"]].groupby(["instrument", "day"], as_index=False)
    each = inside.agg(first=("minute", "min"), last=("minute", "max"), length=("length", "first"), n=("minute", "size"))
    step = max(bar / pd.Timedelta(minutes=1), 1e-9)
    lacking = np.round((each["last"] - each["first"]).to_numpy(np.float64) / step) + 1 - each["n"].to_numpy()
    if to_edges:
        # What is before the first bar sent, or after the last one, is not missing.
        whose = each["instrument"].to_numpy()
        same = whose[1:] == whose[:-1]
        lacking[1:] += np.where(same, np.floor(each["first"].to_numpy() / step)[1:], 0.0)
        after = np.ceil((each["length"] - each["last"]).to_numpy(np.float64) / step) - 1
        lacking[:-1] += np.where(same, np.maximum(after, 0.0)[:-1], 0.0)
    each["lacking"] = np.maximum(lacking, 0.0)
    every = range(int(frame["instrument"].max()) + 1)  # also those without a bar in any session
    total = each.groupby("instrument")[["lacking", "n"]].sum().reindex(every, fill_value=0.0)
    worst = each.sort_values("lacking", kind="stable").drop_duplicates("instrument", keep="last")
    worst = worst.set_index("instrument").reindex(every)
    return pd.DataFrame(
        {
            "share": (total["lacking"] / (total["lacking"] + total["n"])).fillna(0.0),
            "most": worst["lacking"],
            "day": pd.to_datetime(worst["day"], unit="D").dt.date,
        }
    )
