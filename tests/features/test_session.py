"""`SessionFeatures`: the clock of the session, causal and the same for a bar alone."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.pipeline import make_pipeline, make_union

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features._newest import SessionClock
from ensemble_kit.features.session import SessionFeatures
from ensemble_kit.sessions import Session, session_times

NEW_YORK = Session("09:30", "16:00", "America/New_York")
FX = Session("17:00", "17:00", "America/New_York")
ALL = ("tod", "dow", "hour", "month", "holiday", "half_day")


def at(*times, tz="UTC"):
    """A frame without OHLCV columns: only the index counts."""
    return pd.DataFrame({"x": 0.0}, index=pd.DatetimeIndex(times, tz=tz))


def minutes(columns, length):
    """Undo the circle: minutes since the open, in [0, length)."""
    return np.round(np.arctan2(columns[:, 0], columns[:, 1]) / (2 * np.pi) * length % length, 2)


@pytest.mark.parametrize("session", ["XNYS", NEW_YORK])
def test_half_past_nine_is_the_open_in_winter_and_in_summer(session):
    X = at("2022-01-03 09:30", "2022-03-14 10:30", "2022-07-05 09:30", "2022-07-05 12:45", tz="America/New_York")
    columns = SessionFeatures(session).fit_transform(X)
    np.testing.assert_allclose(minutes(columns, 390), [0, 60, 0, 195], atol=0.01)
    np.testing.assert_allclose(columns, SessionFeatures(session).fit_transform(X.tz_convert("UTC")))
    np.testing.assert_allclose(columns[:, 2], [0, 0, 0.25, 0.25])


def test_a_half_day_is_a_shorter_circle():
    X = at("2022-11-23 16:15", "2022-11-25 16:15")  # 11:15 in New York, 105 minutes after the open
    columns = SessionFeatures("XNYS").fit_transform(X)
    np.testing.assert_allclose(
        columns[0, :2], [np.sin(2 * np.pi * 105 / 390), np.cos(2 * np.pi * 105 / 390)], rtol=1e-6
    )
    np.testing.assert_allclose(columns[1, :2], [0, -1], atol=1e-6)  # half of 210 minutes
    np.testing.assert_allclose(SessionFeatures(NEW_YORK).fit_transform(X)[0], columns[0])


def test_a_futures_session_runs_through_the_night():
    X = at("2022-01-03 18:00", "2022-01-03 23:59", "2022-01-04 00:00", "2022-01-04 05:30", tz="America/New_York")
    columns = SessionFeatures(Session("18:00", "17:00", "America/New_York")).fit_transform(X)
    np.testing.assert_allclose(minutes(columns, 1380), [0, 359, 360, 690], atol=0.01)
    assert set(columns[:, 2]) == {0.0}  # all of it is Monday's session


def test_the_default_is_the_calendar_day_of_the_index():
    X = at("2022-01-08 06:00", "2022-01-09 18:00", tz=None)
    np.testing.assert_allclose(SessionFeatures().fit_transform(X), [[1, 0, 1.25], [-1, 0, 1.5]], atol=1e-6)
    local = at("2022-01-08 06:00", tz="Asia/Tokyo")
    np.testing.assert_allclose(SessionFeatures().fit_transform(local), [[1, 0, 1.25]], atol=1e-6)


def test_an_fx_day_turns_at_five_in_new_york_all_year():
    X = at("2022-01-10 16:59", "2022-01-10 17:00", "2022-07-11 16:59", "2022-07-11 17:00", tz="America/New_York")
    columns = SessionFeatures(FX, include=ALL).fit_transform(X.tz_convert("UTC"))
    np.testing.assert_allclose(minutes(columns, 1440), [1439, 0, 1439, 0], atol=0.01)
    np.testing.assert_allclose(columns[:, 2], [1.5, 0, 1.5, 0])  # the session that opened on Sunday ends
    np.testing.assert_allclose(columns[:, 3] * 24, [16 + 59 / 60, 17, 16 + 59 / 60, 17], rtol=1e-6)
    assert (columns[:, 5:] == 0).all()


def test_hour_and_month_are_those_of_the_sessions_zone():
    X = at("2022-01-03 14:30", "2022-07-05 13:30", "2022-12-30 21:00")
    for session in ("XNYS", NEW_YORK):
        columns = SessionFeatures(session, include=("month", "hour")).fit_transform(X)
        np.testing.assert_allclose(columns, [[0, 9.5 / 24], [6 / 11, 9.5 / 24], [1, 16 / 24]], rtol=1e-6)
    columns = SessionFeatures(include=("month", "hour")).fit_transform(X)
    np.testing.assert_allclose(columns[:, 1] * 24, [14.5, 13.5, 21], rtol=1e-6)
    eve = at("2022-01-31 18:00", tz="America/Chicago")  # Tuesday's session, that of 1 February, is open
    np.testing.assert_allclose(SessionFeatures("CMES", include=("month", "dow")).fit_transform(eve), [[1 / 11, 0.25]])


def test_holidays_and_half_days_are_the_exchanges():
    X = at(
        *("2022-11-23 15:00", "2022-11-24 15:00", "2022-11-25 15:00", "2022-11-26 15:00", "2022-11-28 15:00"),
        *("2022-07-04 15:00", "2023-07-03 15:00", "2023-07-04 15:00"),
    ).sort_index()
    flags = SessionFeatures("XNYS", include=("holiday", "half_day")).set_output(transform="pandas").fit_transform(X)
    assert list(flags.index[flags["holiday"] == 1].strftime("%m-%d")) == ["07-04", "11-24", "11-26", "07-04"]
    assert list(flags.index[flags["half_day"] == 1].strftime("%m-%d")) == ["11-25", "07-03"]
    for session in ("day", NEW_YORK, FX):
        assert (SessionFeatures(session, include=("holiday", "half_day")).fit_transform(X) == 0).all()


def test_the_groups_come_in_the_order_asked_for():
    X = at("2022-01-04 15:00")
    features = SessionFeatures("XNYS", include=["half_day", "tod", "month"]).fit(X)
    assert list(features.get_feature_names_out()) == ["half_day", "tod_sin", "tod_cos", "month"]
    default = SessionFeatures("XNYS").fit_transform(X)
    np.testing.assert_array_equal(features.transform(X)[:, 1:3], default[:, :2])
    np.testing.assert_array_equal(SessionFeatures("XNYS", include=ALL).fit_transform(X)[:, :3], default)


@pytest.mark.parametrize("include", ["tod", (), ("tod", "tod"), ("weekday",)])
def test_unknown_groups(include):
    with pytest.raises(EnsembleKitError, match="`include` must be None or a tuple of different groups among tod, dow"):
        SessionFeatures(include=include).fit(at("2022-01-04"))


@pytest.mark.parametrize("session", ["day", "XNYS", NEW_YORK, FX])
def test_a_prefix_and_a_row_alone_give_what_the_whole_gives(session):
    bars = make_bars(3000, random_state=0)
    features = SessionFeatures(session, include=ALL).fit(bars)
    whole = features.transform(bars)
    assert whole.dtype == np.float32
    assert whole.shape == (3000, 7)
    assert features.lookback == 0
    for n in (1, 77, 1500):
        np.testing.assert_array_equal(features.transform(bars.iloc[:n]), whole[:n])
        np.testing.assert_array_equal(features.transform(bars.iloc[[n]]), whole[[n]])


@pytest.mark.parametrize("session", ["day", "XNYS", NEW_YORK])
def test_a_panel_is_each_instrument_alone(session):
    panel = make_bars(200, instruments=["A", "B"], random_state=0)
    panel = panel.iloc[np.flatnonzero(np.arange(400) % 3 > 0)]  # bars missing here and there
    whole = SessionFeatures(session).set_output(transform="pandas").fit_transform(panel)
    pd.testing.assert_index_equal(whole.index, panel.index)
    for name in "AB":
        alone = SessionFeatures(session).fit_transform(panel.xs(name, level=1))
        np.testing.assert_array_equal(whole.xs(name, level=1), alone)


def test_names_output_clone_and_union():
    bars = make_bars(50, random_state=0)
    features = clone(SessionFeatures(session="XNYS"))
    assert features.get_params() == {"session": "XNYS", "include": None}
    frame = make_union(features, SessionFeatures()).set_output(transform="pandas").fit_transform(bars)
    assert [name.split("__")[1] for name in frame] == ["tod_sin", "tod_cos", "dow"] * 2
    frame = make_pipeline(SessionFeatures(NEW_YORK)).set_output(transform="pandas").fit_transform(bars)
    assert list(frame) == ["tod_sin", "tod_cos", "dow"]
    assert (frame.dtypes == np.float32).all()
    pd.testing.assert_index_equal(frame.index, bars.index)
    fitted = SessionFeatures().fit(bars)
    assert list(fitted.feature_names_in_) == list(bars)
    fitted.transform(bars[["close"]])  # no column is read, so none can be missing
    np.testing.assert_array_equal(SessionFeatures().transform(bars), fitted.transform(bars))


def test_all_times_of_the_day_lie_on_the_circle(shared_data):
    bars = read_bars(shared_data / "spy_ext_5min_2025.parquet")  # 04:00 to 20:00
    columns = SessionFeatures("XNYS").fit_transform(bars)
    assert np.isfinite(columns).all()
    np.testing.assert_allclose(columns[:, 0] ** 2 + columns[:, 1] ** 2, 1, atol=1e-5)
    assert set(columns[:, 2]) <= {0.0, 0.25, 0.5, 0.75, 1.0}


@pytest.mark.parametrize(
    ("X", "session", "message"),
    [
        (at("2022-01-03 09:30", tz=None), "XNYS", "`bars` must have tz-aware times for session='XNYS'; got naive ones"),
        (at("2022-01-03 09:30", tz=None), NEW_YORK, "must have tz-aware times"),
        (at("2022-01-03 09:30"), "NYSE?", "`session` must be 'day', an exchange code or a Session; got 'NYSE\\?'"),
        (np.zeros((3, 2)), "day", "`X` must be a DataFrame indexed by time .* got ndarray"),
        (pd.DataFrame({"x": [1.0]}), "day", "`X` must be a DataFrame indexed by time .* got index RangeIndex"),
        (at("2022-01-04", "2022-01-03"), "day", "`X` must be sorted by time; row 1"),
    ],
)
def test_errors(X, session, message):
    with pytest.raises(BarsError, match=message):
        SessionFeatures(session).fit(X)
    with pytest.raises(BarsError, match=message):
        SessionFeatures(session).transform(X)


# Streams


CLOCKS = {
    "utc days": ("day", "UTC"),
    "naive days": ("day", None),
    "days of New York": ("day", "America/New_York"),
    "XNYS": ("XNYS", "UTC"),
    "XNYS in its own zone": ("XNYS", "America/New_York"),
    "XHKG": ("XHKG", "UTC"),
    "CMES, overnight": ("CMES", "UTC"),
    "24/7": ("24/7", "UTC"),
    "futures": (Session("18:00", "17:00", "America/New_York"), "UTC"),
    "Sydney": (Session("10:00", "16:00", "Australia/Sydney"), "Europe/London"),
    "half hours": (Session("09:15", "15:30", "Asia/Kolkata"), "UTC"),
}


@pytest.mark.parametrize("name", CLOCKS)
def test_a_stream_has_the_bits_of_the_whole(name):
    session, zone = CLOCKS[name]
    rng = np.random.default_rng(0)
    # Thanksgiving with its half day, Christmas, and both days on which the clocks change; to the second and below.
    spans = [("2022-03-11", 5), ("2022-03-25", 4), ("2022-10-28", 12), ("2022-11-23", 4), ("2022-12-23", 11)]
    starts = np.concatenate([pd.Timestamp(day).value + np.arange(0, n * 86_400, 600) * 10**9 for day, n in spans])
    starts += np.where(rng.random(len(starts)) < 0.3, rng.integers(0, 600 * 10**9, len(starts)), 0)
    index = pd.DatetimeIndex(starts.view("M8[ns]"))
    index = index if zone is None else index.tz_localize("UTC").tz_convert(zone)
    frame = pd.DataFrame({"close": 1.0}, index=index)
    include = ("tod", "dow", "hour", "month", "holiday", "half_day")
    features = SessionFeatures(session, include=include)
    times = session_times(index, session)
    clock, stream = SessionClock(session), features.stream()
    rows, begin = [], 0
    while begin < len(index):
        end = begin + int(rng.choice([1, 1, 1, 1, 1, 7, 300]))
        part = index[begin:end]
        for one, whole in zip(vars(clock.times(part, part.asi8)).items(), vars(times).items(), strict=True):
            np.testing.assert_array_equal(one[1], whole[1][begin:end], err_msg=f"{one[0]} of {part[0]}")
            assert one[1].dtype == whole[1].dtype
        rows.append(stream.update(frame.iloc[begin:end]))
        begin = end
    np.testing.assert_array_equal(np.concatenate(rows), features.transform(frame))


@pytest.mark.parametrize("session", ["XNYS", "CMES", NEW_YORK])
def test_a_stream_of_dates_has_the_bits_of_the_whole(session):
    index = pd.date_range("2022-10-28", "2023-01-10", freq="D")  # with weekends and holidays
    frame = pd.DataFrame({"close": 1.0}, index=index)
    features = SessionFeatures(session, include=ALL).fit(frame)
    stream, clock, times = features.stream(), SessionClock(session), session_times(index, session)
    for t in range(len(index)):
        np.testing.assert_array_equal(stream.update(frame.iloc[[t]])[0], features.transform(frame)[t])
        now = clock.times(index[[t]], index[[t]].as_unit("ns").asi8)
        assert all(getattr(now, name)[0] == getattr(times, name)[t] for name in vars(times))
    with pytest.raises(BarsError, match="naive ones that are no dates, 2023-01-11 09:30:00 say"):
        stream.update(at("2023-01-11 09:30", tz=None))


def test_daily_bars_are_dates_and_no_instants():
    days = pd.bdate_range("2022-01-03", periods=10)
    columns = SessionFeatures("XNYS").fit_transform(pd.DataFrame({"x": 0.0}, index=days))
    assert columns[:5, 2].tolist() == [0, 0.25, 0.5, 0.75, 1.0]
    assert set(columns[:, 0]) == {0.0}
    with pytest.raises(
        BarsError, match=r"^`bars` of a day must be given as dates for session='XNYS'; got 2022-01-03 00"
    ):
        SessionFeatures("XNYS").fit(pd.DataFrame({"x": 0.0}, index=days.tz_localize("UTC")))


def test_a_day_is_looked_up_once(monkeypatch):
    asked = []
    monkeypatch.setattr(
        "ensemble_kit.features._newest.session_times",
        lambda index, session: asked.append(len(index)) or session_times(index, session),
    )
    bars = make_bars(156, bar="5min", session=Session("09:30", "16:00", "America/New_York"), random_state=0)
    stream = SessionFeatures("XNYS").stream()
    for t in range(156):
        stream.update(bars.iloc[[t]])
    assert asked == [1] * 4  # two days, both of their ends


def test_a_stream_follows_the_zone_of_its_rows():
    bars = make_bars(40, bar="15min", start="2022-06-06", random_state=0)
    features = SessionFeatures("day").fit(bars)
    stream = features.stream()
    stream.update(bars.iloc[:20])
    other = bars.tz_convert("Asia/Tokyo")
    np.testing.assert_array_equal(stream.update(other.iloc[20:21]), features.transform(other)[20:21])


def test_a_stream_is_of_one_instrument():
    stream = SessionFeatures().stream()
    assert stream.state == {}
    with pytest.raises(BarsError, match=r"^`bars` must be of one instrument; got a panel\. Keep one stream"):
        stream.update(make_bars(5, instruments=["A"], random_state=0))
    with pytest.raises(BarsError, match=r"^`X` must be a DataFrame indexed by time or by"):
        stream.update(np.zeros((2, 5)))
