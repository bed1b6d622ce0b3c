"""Sessions: days, exchanges and wall clocks, daylight saving and half days."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BarsError
from ensemble_kit.sessions import Session, check_daily_times, session_times

BARS = make_bars(100, random_state=0)
PANEL = make_bars(20, instruments=["A", "B"], random_state=0)
NEW_YORK = Session("09:30", "16:00", "America/New_York")


def at(*times, tz="UTC"):
    return pd.DatetimeIndex(times, tz=tz)


def test_the_day_of_the_index():
    times = session_times(at("2022-01-08 00:00", "2022-01-09 23:59", tz="Asia/Tokyo"))
    assert times.minute.tolist() == [0, 1439]
    assert times.length.tolist() == [1440, 1440]
    assert times.weekday.tolist() == [5, 6]


@pytest.mark.parametrize("session", ["XNYS", NEW_YORK])
def test_daylight_saving(session):
    times = session_times(at("2022-03-11 14:30", "2022-03-14 13:30", "2022-11-04 13:30", "2022-11-07 14:30"), session)
    assert times.minute.tolist() == [0, 0, 0, 0]
    assert times.length.tolist() == [390] * 4
    assert times.weekday.tolist() == [4, 0, 4, 0]


def test_exchange_hours():
    times = session_times(at("2022-11-24 16:00", "2022-11-25 13:00", "2022-11-25 14:30", "2022-11-25 18:05"), "XNYS")
    assert times.length.tolist() == [390, 210, 210, 210]  # a holiday has the usual hours
    assert times.minute.tolist() == [90, -90, 0, 215]
    assert np.unique(times.day).size == 2
    assert times.clock.tolist() == [660, 480, 570, 785]
    assert times.holiday.tolist() == [True, False, False, False]
    assert times.half_day.tolist() == [False, True, True, True]
    for name in ("day", "minute", "length", "clock", "holiday", "half_day"):
        assert getattr(session_times(at(), "XNYS"), name).size == 0


def test_a_weekend_after_a_half_day_is_a_holiday_and_no_half_day():
    times = session_times(at("2022-11-26 15:00", "2022-11-27 15:00", "2022-11-28 15:00"), "XNYS")
    assert times.holiday.tolist() == [True, True, False]
    assert not times.half_day.any()


def test_a_session_that_opened_the_day_before_is_no_holiday():
    times = session_times(at("2022-01-09 16:00", "2022-01-09 18:00", tz="America/Chicago"), "CMES")  # a Sunday
    assert times.holiday.tolist() == [True, False]


def test_half_days_are_shorter_than_the_sessions_around():
    # Korea opens the year an hour late; Tokyo's day grew by half an hour in November 2024.
    index = pd.date_range("2023-12-20 03:00", "2025-02-01", freq="D", tz="UTC")
    assert index[session_times(index, "XKRX").half_day].strftime("%Y-%m-%d").tolist() == ["2024-01-02", "2025-01-02"]
    assert not session_times(index, "XTKS").half_day.any()
    assert np.unique(session_times(index, "XTKS").length).tolist() == [360, 390]


def test_the_month_is_that_of_the_sessions_date():
    times = session_times(at("1969-12-31 12:00", "2022-01-31 23:59", "2022-12-01 00:00"))
    assert times.month.tolist() == [12, 1, 12]
    overnight = session_times(
        at("2022-02-01 00:30", tz="America/New_York"), Session("18:00", "17:00", "America/New_York")
    )
    assert overnight.month.tolist() == [1]
    assert overnight.clock.tolist() == [30]


@pytest.mark.parametrize("session", ["day", NEW_YORK])
def test_without_an_exchange_there_are_no_holidays(session):
    times = session_times(at("2022-11-24 15:00", "2022-11-25 15:00", "2022-11-26 15:00"), session)
    assert not times.holiday.any()
    assert not times.half_day.any()


def test_a_session_over_midnight():
    session = Session("18:00", "17:00", "America/New_York")
    times = session_times(at("2022-01-03 23:00", "2022-01-04 05:00", "2022-01-04 21:59", "2022-01-04 23:00"), session)
    assert times.minute.tolist() == [0, 360, 1379, 0]
    assert np.diff(times.day).tolist() == [0, 0, 1]
    assert times.weekday.tolist() == [0, 0, 0, 1]
    assert session.minutes == 1380
    assert Session().minutes == 1440


@pytest.mark.parametrize("session", ["day", "XNYS", NEW_YORK])
def test_a_prefix_gives_what_the_whole_gives(session):
    index = pd.date_range("2021-12-20", "2022-01-10", freq="1h", tz="UTC")
    whole = session_times(index, session)
    for n in (1, 100, 300):
        part = session_times(index[:n], session)
        for name in ("day", "minute", "length", "clock", "holiday", "half_day"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:n])


def test_a_panel_has_the_times_of_its_rows():
    whole, alone = session_times(PANEL.index, NEW_YORK), session_times(PANEL.xs("A", level=1).index, NEW_YORK)
    np.testing.assert_array_equal(whole.minute[::2], alone.minute)


@pytest.mark.parametrize(
    ("index", "session", "message"),
    [
        (
            at("2022-01-03", "2022-01-04 09:30", tz=None),
            "XNYS",
            r"naive ones that are no dates, 2022-01-04 09:30:00 say\. Name the zone that they are in: `read_bars\(file",
        ),
        (at("2022-01-03 09:30", tz=None), NEW_YORK, "must have tz-aware times"),
        (at("2022-01-03", tz=None), "NYSE?", "`session` must be 'day', an exchange code or a Session"),
        (at("2022-01-03", tz=None), Session(tz="Mars/Base"), "`tz` must be a time zone's name; got 'Mars/Base'"),
        (at("2022-01-03"), "NYSE?", r"`session` must be 'day', an exchange code or a Session; got 'NYSE\?'"),
        (at("2022-01-03"), Session("24:30", "16:00"), "`Session` times must be 'HH:MM'; got '24:30'"),
    ],
)
def test_session_errors(index, session, message):
    with pytest.raises(BarsError, match=message):
        session_times(index, session)


def refuses(call):
    with pytest.raises(BarsError):
        call()


def test_before_the_open_of_a_session():
    times = session_times(at("2022-01-03 13:00"), NEW_YORK)
    assert times.minute.tolist() == [-90]
    assert times.weekday.tolist() == [0]


def test_an_exchange_that_opens_in_the_evening():
    times = session_times(at("2022-01-03 23:00", "2022-01-04 06:00"), "CMES")
    assert times.minute.tolist() == [0, 420]
    assert times.day[0] == times.day[1]


def test_an_exchange_whose_calendar_ends():
    # Recorded to the end of 2026: bars of 2026 are fine by the calendar.
    times = session_times(at("2026-03-02 03:45"), "XBOM")
    assert times.minute.tolist() == [0]


def test_usual_hours_do_not_depend_on_later_bars():
    holiday = at("2024-08-12 00:00")
    later = holiday.append(pd.date_range("2026-01-05", "2029-12-31", freq="D", tz="UTC"))
    assert session_times(holiday, "XTKS").length[0] == session_times(later, "XTKS").length[0]


def test_a_session_in_an_unknown_zone():
    refuses(lambda: session_times(BARS.index, Session("09:30", "16:00", "Mars/Base")))


DATES = pd.date_range("2022-11-21", "2022-11-28", freq="D")  # Thanksgiving, a half day, a weekend


def test_a_date_is_the_session_of_that_date():
    dates, opens = session_times(DATES, "XNYS"), session_times(DATES.tz_localize("UTC") + pd.Timedelta("14.5h"), "XNYS")
    for name in ("day", "minute", "length", "clock", "holiday", "half_day"):  # as bars that open when the session does
        np.testing.assert_array_equal(getattr(dates, name), getattr(opens, name))
    assert dates.holiday.tolist() == [False, False, False, True, False, True, True, False]
    assert dates.length.tolist() == [390, 390, 390, 390, 210, 210, 210, 390]
    assert dates.weekday.tolist() == [0, 1, 2, 3, 4, 5, 6, 0]
    assert set(dates.minute) == {0.0}
    wall = session_times(DATES, NEW_YORK)
    assert (set(wall.minute), set(wall.length), set(wall.clock)) == ({0.0}, {390.0}, {570.0})
    np.testing.assert_array_equal(wall.day, dates.day)


def test_a_date_of_a_session_that_opens_the_evening_before():
    times = session_times(at("2022-01-04", tz=None), "CMES")
    opens = session_times(at("2022-01-03 23:00"), "CMES")
    assert (times.day[0], times.clock[0], times.minute[0]) == (opens.day[0], 1020.0, 0.0)


def test_prefixes_of_dates_give_what_the_whole_gives():
    dates = pd.bdate_range("2019-01-01", "2023-12-31")
    whole = session_times(dates, "XNYS")
    for n in (1, 300, 1000):
        part = session_times(dates[:n], "XNYS")
        for name in ("day", "minute", "length", "clock", "holiday", "half_day"):
            np.testing.assert_array_equal(getattr(part, name), getattr(whole, name)[:n])


@pytest.mark.parametrize("session", ["XNYS", NEW_YORK])
@pytest.mark.parametrize("zone", ["UTC", "America/New_York"])
def test_days_that_are_instants_outside_every_session_are_refused(session, zone):
    midnights = pd.bdate_range("2022-01-03", periods=30, tz=zone)
    with pytest.raises(BarsError) as caught:
        check_daily_times(midnights, session)
    assert str(caught.value) == (
        f"`bars` of a day must be given as dates for session={session!r}; got {midnights[0]}, which like all others "
        "lies outside the session. Leave the zone out: `bars.tz_localize(None)`, and no `--tz`."
    )
    panel = pd.MultiIndex.from_product([midnights, ["A", "B"]])
    with pytest.raises(BarsError, match="must be given as dates"):
        check_daily_times(panel, session)
    # Dates, opens, another calendar's days, and bars of the night that are shorter are what they say.
    check_daily_times(midnights.tz_localize(None), session)
    check_daily_times(midnights.tz_localize(None).tz_localize("America/New_York") + pd.Timedelta("9.5h"), session)
    check_daily_times(midnights, "day")
    check_daily_times(pd.date_range("2022-01-03", periods=50, freq="5min", tz="UTC"), session)
