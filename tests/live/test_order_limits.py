"""Limits: what they leave of a weight, and what they say."""

import math

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.live.limits import Limits
from ensemble_kit.sessions import Session
from ensemble_kit.sizing._account import order_units

AT = pd.Timestamp("2023-03-16 15:00", tz="UTC")  # 11:00 in New York
OFF = Limits(market_hours=False, max_age=None)

weights = st.floats(-3, 3)
shares = st.none() | st.floats(1e-3, 2)
limits = st.builds(
    Limits,
    max_position=shares,
    max_notional=st.none() | st.floats(1.0, 1e6),
    max_daily_loss=st.none() | st.floats(1e-3, 0.999),
    market_hours=st.booleans(),
    max_age=st.none() | st.just(pd.Timedelta(minutes=5)),
)


def allow(limit, weight, **changed):
    told = {
        "equity": 100_000.0,
        "opening_equity": 100_000.0,
        "close": 400.0,
        "held_weight": 0.0,
        "bar_close": AT,
        "now": AT,
        "session": "XNYS",
    }
    return limit.allow(weight, **told | changed)


accounts = st.fixed_dictionaries(
    {
        "equity": st.floats(-1e3, 1e6),
        "opening_equity": st.floats(1.0, 1e6),
        "close": st.floats(0.01, 1e5),
        "held_weight": weights,
        "now": st.sampled_from([AT, AT + pd.Timedelta(minutes=9)]),
        "bar_close": st.sampled_from([AT, AT + pd.Timedelta(hours=9)]),
    }
)


@settings(deadline=None)  # the first one builds a calendar
@given(limits, weights, accounts)
def test_never_more_than_is_wanted_or_allowed_and_never_the_other_side(limit, weight, account):
    allowed, reason = allow(limit, weight, **account)
    if reason is not None and reason.startswith("no order"):
        assert allowed == account["held_weight"]
        return
    assert abs(allowed) <= abs(weight)
    assert allowed == 0 or math.copysign(1, allowed) == math.copysign(1, weight)
    assert abs(allowed) <= (limit.max_position or math.inf)
    assert abs(allowed * account["equity"]) <= (limit.max_notional or math.inf) * (1 + 1e-12)
    assert (reason is None) == (allowed == weight) or weight == 0


@settings(deadline=None)
@given(limits, accounts)
def test_closing_is_always_allowed_while_orders_are(limit, account):
    allowed, reason = allow(limit, 0.0, **account | {"now": AT, "bar_close": AT})
    assert allowed == 0
    assert reason is None or account["equity"] <= account["opening_equity"]


@settings(deadline=None)
@given(weights, accounts)
def test_limits_that_are_off_change_nothing(weight, account):
    account["equity"] = abs(account["equity"]) + 1
    assert allow(OFF, weight, **account) == (weight, None)


@settings(deadline=None)
@given(weights, st.floats(1e3, 1e6), st.floats(0.01, 1e3), st.sampled_from([0.0, 1.0, 0.1]))
def test_what_is_held_is_no_order(target, equity, close, lot):
    units = order_units(target, equity, close, 0.0, lot, 0.0)
    held, reason = allow(Limits(), 1.0, held_weight=units * close / equity, equity=equity, now=AT + pd.Timedelta("1h"))
    assert reason is not None
    assert order_units(held, equity, close, units, lot, 0.0) == 0


def test_the_smaller_of_two_limits_is_named():
    limit = Limits(max_position=0.5, max_notional=40_000)
    assert allow(limit, -0.8) == (
        -0.4,
        "wanted -0.8 of equity; `max_notional` allows -0.4 (-100 units at 400)",
    )
    assert allow(limit, 0.8, equity=50_000.0) == (
        0.5,
        "wanted 0.8 of equity; `max_position` allows 0.5 (62.5 units at 400)",
    )


def test_a_lost_day_stays_lost():
    limit = Limits(max_daily_loss=0.02)
    assert allow(limit, 1.0, equity=98_001.0) == (1.0, None)
    lost = (0.0, "lost 2.00% in this session; `max_daily_loss` is 2.00%")
    assert allow(limit, 1.0, equity=98_000.0) == lost
    # The next open was higher, after what was held was sold.
    assert allow(limit, 1.0, equity=99_000.0, lowest_equity=98_000.0) == lost
    assert allow(limit, 1.0, equity=99_000.0, lowest_equity=99_000.0, opening_equity=98_500.0) == (1.0, None)


def test_a_lost_day_is_closed_however_old_the_bar_is():
    late = {"equity": 90_000.0, "held_weight": 0.7, "now": AT + pd.Timedelta("3h"), "bar_close": AT}
    assert allow(Limits(max_daily_loss=0.02), 1.0, **late) == (
        0.0,
        "lost 10.00% in this session; `max_daily_loss` is 2.00%",
    )


@pytest.mark.parametrize(
    ("age", "oldest", "says"),
    [
        ("75.123456s", "1min", "76 seconds ago; `max_age` is 60 seconds"),
        ("14min 2.5s", "5min", "15 minutes ago; `max_age` is 5 minutes"),
        ("3h", "90min", "3 hours ago; `max_age` is 90 minutes"),
        ("1269D 13:51:32.434539", "5min", "1270 days ago; `max_age` is 5 minutes"),
    ],
)
def test_ages_are_told_so_that_equal_reasons_are_equal(age, oldest, says):
    limit = Limits(max_age=pd.Timedelta(oldest))
    assert allow(limit, 1.0, now=AT + pd.Timedelta(age))[1] == f"no order: the bar closed {says}"


def test_a_ruined_account_holds_nothing():
    assert allow(Limits(max_notional=1.0), 1.0, equity=0.0) == (0.0, "the account is ruined")


@pytest.mark.parametrize(
    ("closes", "session", "sent"),
    [
        ("2023-03-16 13:30", "XNYS", False),  # closes as the session opens
        ("2023-03-16 13:35", "XNYS", True),
        ("2023-03-16 20:00", "XNYS", True),  # for the next open
        ("2023-03-16 20:05", "XNYS", False),
        ("2023-03-18 15:00", "XNYS", False),  # Saturday
        ("2022-11-25 18:00", "XNYS", True),  # half day
        ("2022-11-25 18:05", "XNYS", False),
        ("2023-03-13 13:35", "XNYS", True),  # daylight saving has begun
        ("2023-03-10 13:35", "XNYS", False),
        ("2023-03-16 13:30", Session("09:30", "16:00", "America/New_York"), False),
        ("2023-03-16 20:00", Session("09:30", "16:00", "America/New_York"), True),
        ("2023-03-16 22:30", Session("18:00", "17:00", "America/New_York"), True),
        ("2023-03-16 21:30", Session("18:00", "17:00", "America/New_York"), False),
        ("2023-03-16 00:00", "day", True),
    ],
)
@pytest.mark.parametrize("naive", [False, True])
def test_orders_are_sent_in_the_session(closes, session, sent, naive):
    close = pd.Timestamp(closes, tz=None if naive else "UTC")
    allowed, reason = allow(Limits(), 1.0, held_weight=0.25, bar_close=close, now=close, session=session)
    if sent:
        assert (allowed, reason) == (1.0, None)
    else:
        assert (allowed, reason) == (
            0.25,
            f"no order: the bar closed at {pd.Timestamp(closes, tz='UTC')}, outside the session",
        )
    assert allow(OFF, 1.0, bar_close=close, session=session) == (1.0, None)


def test_no_order_on_a_stale_bar():
    limit = Limits(max_age=pd.Timedelta(minutes=5), max_position=0.1)
    assert allow(limit, 0.05, now=AT + pd.Timedelta(minutes=5)) == (0.05, None)
    assert allow(limit, 0.05, held_weight=-0.7, now=AT + pd.Timedelta(minutes=5, seconds=1)) == (
        -0.7,
        "no order: the bar closed 6 minutes ago; `max_age` is 5 minutes",
    )
    assert allow(Limits(max_age=None), 1.0, now=AT + pd.Timedelta(days=9)) == (1.0, None)


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({"max_position": 0}, "`max_position` must be None or a number above 0; got 0"),
        ({"max_notional": float("nan")}, "`max_notional` must be None or a number above 0; got nan"),
        ({"max_daily_loss": 1.0}, "`max_daily_loss` must be None or a number above 0 and below 1; got 1.0"),
        ({"market_hours": 1}, "`market_hours` must be True or False; got 1"),
        ({"max_age": 60}, "`max_age` must be None or a Timedelta above 0; got 60"),
        (
            {"max_position": True, "max_age": pd.Timedelta(0)},
            (
                "`max_position` must be None or a number above 0; got True. "
                "`max_age` must be None or a Timedelta above 0; got Timedelta('0 days 00:00:00')"
            ),
        ),
    ],
)
def test_limits_out_of_range_are_named(told, message):
    with pytest.raises(EnsembleKitError) as caught:
        Limits(**told)
    assert str(caught.value) == f"{message}. To halt altogether is the kill switch's."


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_a_weight_that_is_none_is_refused(weight):
    with pytest.raises(EnsembleKitError) as caught:
        allow(Limits(), weight)
    assert str(caught.value) == f"`weight` must be finite; got {weight}. Use 0 where nothing is known."
