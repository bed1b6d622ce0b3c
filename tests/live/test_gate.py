"""Which bars are taken, placed and refused, and why."""

import numpy as np
import pandas as pd
import pytest
from trading_parts import CARD, HISTORY, LIVE

from ensemble_kit.exceptions import BarsError
from ensemble_kit.live.gate import closes_at, judge_bars, read_bars_sent
from ensemble_kit.tracking.served import to_table

NEWEST = HISTORY.index[-1]
LATER = pd.Timestamp("2030-01-01", tz="UTC")


def judge(sent, *, known=HISTORY, decided=True, now=LATER, card=CARD, **more):
    bars = read_bars_sent(sent, card, symbol="SPY")
    first = bars.index[0]
    known = known[known.index >= (first.tz_localize("UTC") if first.tzinfo is None else first)]
    parts = {"known": known, "newest": NEWEST, "n_known": len(HISTORY), "decided": decided, "card": card, "now": now}
    return judge_bars(bars, **parts | more)


def one(sent, **more):
    (verdict,) = judge(sent, **more)
    return verdict.status, verdict.reason


def at(time, row=0):
    return LIVE.iloc[[row]].set_axis(pd.DatetimeIndex([time], name="datetime"))


def test_the_next_bar_is_taken():
    assert one(LIVE[:1]) == ("take", None)


def test_table_and_frame_are_the_same():
    pd.testing.assert_frame_equal(
        read_bars_sent(to_table(LIVE[:5])[::-1], CARD, symbol="SPY"), read_bars_sent(LIVE[:5], CARD, symbol="SPY")
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"close": np.nan}, "no price: close is NaN"),
        ({"open": np.nan, "low": np.nan}, "no price: open, low is NaN"),
        ({"close": 0.0, "low": 0.0}, "`bar` must have prices above 0; got "),
        ({"high": np.inf}, "`bar` must have finite prices; got "),
        ({"high": 1.0}, "`bar` must have high >= low; got "),
        ({"volume": -1.0}, "`bar` must have finite volume of at least 0; got volume=-1"),
    ],
)
def test_impossible_prices(change, reason):
    status, said = one(LIVE[:1].assign(**change))
    assert status == "refuse"
    assert said.startswith(reason)
    assert not said.endswith(".")
    assert "row" not in said  # a file's cure helps no feeder
    # It does not take its neighbours with it.
    three = LIVE[:3].copy()
    for name, value in change.items():
        three.iloc[1, three.columns.get_loc(name)] = value
    assert [verdict.status for verdict in judge(three)] == ["take", "refuse", "take"]


@pytest.mark.parametrize("factor", [10.0, 2.01, 0.49, 1e200])
def test_a_jump_is_refused_and_leaves_room_for_the_right_bar(factor):
    bad = LIVE[:1].copy()
    bad[["open", "high", "low", "close"]] *= factor
    verdicts = judge(pd.concat([bad, LIVE[:2]]), before=HISTORY[-1:])
    assert [verdict.status for verdict in verdicts] == ["refuse", "take", "take"]
    said = verdicts[0].reason
    close = HISTORY["close"].iloc[-1]
    assert said.startswith(f"jump: open {bad['open'].iloc[0]:g} after a close of {close:g}: a bad print, or a split ")


def test_a_fat_finger_in_one_price_is_a_jump_from_the_bar_before_it():
    three = LIVE[:3].copy()
    three.iloc[1, three.columns.get_loc("high")] *= 10
    verdicts = judge(three)
    assert [verdict.status for verdict in verdicts] == ["take", "refuse", "take"]
    assert verdicts[1].reason.startswith(
        f"jump: high {three['high'].iloc[1]:g} after a close of {three['close'].iloc[0]:g}"
    )
    # What it is compared with is the bar before it in time, not the newest.
    known = HISTORY.copy()
    known.iloc[50:, :4] *= 10
    assert one(HISTORY[49:50], known=known.drop(known.index[49]), decided=False, before=HISTORY[48:49])[0] == "place"


def test_half_and_double_are_none():
    for factor in (0.5, 2.0):
        bar = LIVE[:1].copy()
        bar[["open", "high", "low", "close"]] = HISTORY["close"].iloc[-1] * factor
        assert one(bar, before=HISTORY[-1:]) == ("take", None)


def test_missing_bars_of_a_session_are_counted():
    def missing(rows, *, card=CARD, **more):
        return [verdict.missing for verdict in judge(LIVE.iloc[rows], card=card, before=HISTORY[-1:], **more)]

    assert missing([0, 1, 2]) == [0, 0, 0]
    assert missing([0, 1, 4, 5, 5]) == [0, 0, 2, 0, 0]
    assert missing([3]) == [3]  # after what is known
    close = next(row for row in range(len(LIVE)) if LIVE.index[row].date() > LIVE.index[0].date())
    assert missing([close - 1, close])[1] == 0  # a night is no gap
    assert missing([close - 3, close + 4])[1] == 6  # two at the end of a session, four at the next one's begin
    assert missing([close - 3, close + 4], card=CARD | {"fills_session": False})[1] == 0
    assert missing([0, 3], trade_from=LIVE.index[9]) == [0, 0]  # history


def test_an_unknown_volume_is_taken():
    assert one(LIVE[:1].assign(volume=np.nan)) == ("take", None)


def test_repeats_and_conflicts():
    assert one(HISTORY[-1:]) == ("duplicate", None)
    other = HISTORY[-1:].assign(volume=HISTORY["volume"].iloc[-1] + 1)
    status, reason = one(other)
    assert status == "refuse"
    assert reason.startswith("conflict: it is there with other values (volume ")
    twice = pd.concat([LIVE[:1], LIVE[:1], LIVE[:1].assign(volume=7.0)])
    assert [verdict.status for verdict in judge(twice)] == ["take", "duplicate", "refuse"]


def test_late_bars_are_placed_only_until_something_is_decided():
    gap = HISTORY.drop(HISTORY.index[50])
    missing = HISTORY.iloc[[50]]
    assert one(missing, known=gap) == ("refuse", f"late: bars up to {NEWEST} were decided on without it")
    assert one(missing, known=gap, decided=False) == ("place", "history: later bars are there already")


def test_history_comes_first():
    verdicts = judge(LIVE[:5], known=HISTORY[:0], newest=None, n_known=0, decided=False)
    assert [verdict.status for verdict in verdicts] == ["place"] * 3 + ["take"] * 2
    assert verdicts[0].reason == "history: the model needs 3 earlier bars, 0 are there"
    verdicts = judge(LIVE[:3], trade_from=LIVE.index[2])
    assert [verdict.status for verdict in verdicts] == ["place", "place", "take"]
    assert verdicts[0].reason == f"history: trading begins at {LIVE.index[2]}"


def test_too_early():
    close = LIVE.index[0] + pd.Timedelta(minutes=5)
    assert one(LIVE[:1], now=close) == ("take", None)
    assert one(LIVE[:1], now=close - pd.Timedelta(seconds=3)) == ("refuse", f"too early: it closes at {close}")


def test_grid_and_session():
    day = LIVE.index[0].normalize() + pd.Timedelta(days=1)
    assert one(at(day + pd.Timedelta(hours=15, minutes=2)))[1].startswith("off the grid: bars of 00:05:00 do not open")
    assert one(at(day + pd.Timedelta(hours=15, minutes=5))) == ("take", None)
    assert one(at(day + pd.Timedelta(hours=14, minutes=25))) == ("refuse", "outside the session XNYS")
    assert one(at(day + pd.Timedelta(hours=21))) == ("refuse", "outside the session XNYS")
    saturday = pd.Timestamp("2022-01-08 15:00", tz="UTC")
    assert one(at(saturday)) == ("refuse", "outside the session XNYS")
    # After a half day's close nothing is traded.
    assert one(at(pd.Timestamp("2022-11-25 17:55", tz="UTC"))) == ("take", None)
    assert one(at(pd.Timestamp("2022-11-25 18:00", tz="UTC"))) == ("refuse", "outside the session XNYS")


def test_hours_may_be_counted_from_the_open_or_from_midnight():
    card = CARD | {"bar": "0 days 01:00:00"}
    for minute, status in ((30, "take"), (0, "take"), (15, "refuse")):
        assert one(at(pd.Timestamp(f"2022-03-07 15:{minute:02}", tz="UTC")), card=card)[0] == status


def test_the_last_hour_closes_with_its_session():
    card = CARD | {"bar": "0 days 01:00:00"}
    index = pd.DatetimeIndex(["2022-03-07 19:30", "2022-03-07 20:30"], tz="UTC")
    closes = pd.DatetimeIndex(["2022-03-07 20:30", "2022-03-07 21:00"], tz="UTC")
    assert [*closes_at(index, card)] == [*closes]


def test_days_know_no_hours():
    index = pd.date_range("2022-03-07", periods=3, freq="D")
    card = CARD | {"bar": "1 days 00:00:00", "tz": None, "session": "day"}
    sent = LIVE[:3].set_axis(index)
    now = pd.Timestamp("2022-03-09 12:00", tz="UTC")
    assert [verdict.status for verdict in judge(sent, card=card, now=now)] == ["take", "take", "refuse"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop(columns="close"), r"^`bars` must have the columns timestamp, .*; missing close\."),
        (
            lambda table: table.assign(timestamp=[*table["timestamp"][:2], "noon"]),
            r"^`timestamp` must be ISO 8601 text, such as .*; got 'noon'\. Nothing of the request was taken: mend ",
        ),
        (lambda table: table[:0], r"^`bars` must have 1 to 50000 rows; got 0\. Send at least one bar\.$"),
        (
            lambda table: pd.concat([table] * 17_000),
            r"^`bars` must have 1 to 50000 rows; got 51000\. Send them in several requests, the oldest first\.$",
        ),
        (
            lambda table: table.assign(open=True),
            r"^`bars` must have numeric prices and volumes; got open of bool\. Send numbers\.$",
        ),
        (
            lambda table: table.assign(timestamp=[None, *table["timestamp"][1:]]),
            r"^`bars` must have a time on every row; r",
        ),
        (
            lambda table: table.assign(instrument="QQQ"),
            r"^`instrument` must be SPY on every row; got QQQ\. Send its bars",
        ),
        (lambda table: table.assign(close="high"), r"^`bars` must have numeric prices and volumes; got close"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_as_a_whole(change, message):
    with pytest.raises(BarsError, match=message):
        read_bars_sent(change(to_table(LIVE[:3])), CARD, symbol="SPY")
