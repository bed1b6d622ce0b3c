"""What a trader does with bars, brokers and models that fail, and with a person who says stop."""

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError
from trading_parts import CARD, HISTORY, LIVE, Clock, Exchange, Momentum, make_trader, quick_store

from ensemble_kit.exceptions import BrokerError, EnsembleKitError, JournalError
from ensemble_kit.live.limits import Limits
from ensemble_kit.live.orders import Order, client_order_id
from ensemble_kit.live.store import open_store
from ensemble_kit.live.trader import Trader

BAR = pd.Timedelta(minutes=5)


@pytest.fixture
def desk(tmp_path):
    """Make traders on one database; each knows how to give them the next bar."""
    engine, made = quick_store(tmp_path / "live.db"), []

    def make(**more):
        for old in made:
            old.close()
        trader = make_trader(engine, **more)
        made.append(trader)
        return trader

    yield make
    for trader in made:
        trader.close()
    engine.dispose()


def begin(trader):
    trader.clock.now = LIVE.index[0]
    trader.resume()
    trader.seed(HISTORY)
    return trader


def give(trader, row, *, late=pd.Timedelta(seconds=1)):
    trader.clock.now = LIVE.index[row] + BAR + late
    (outcome,) = trader.take(LIVE.iloc[[row]])
    return outcome


def states(trader):
    return [entry.state for entry in trader.journal.orders()]


def texts(trader, kind):
    return [event.text for event in trader.journal.events() if event.kind == kind]


def test_bars_are_taken_only_after_resume(desk):
    with pytest.raises(EnsembleKitError, match=r"^`resume` must be called before bars are taken; it was not"):
        desk().take(LIVE[:1])


def test_a_bar_that_comes_twice_changes_nothing(desk):
    trader = begin(desk())
    first = give(trader, 0)
    again = give(trader, 0)
    assert (first.status, again.status) == ("taken", "duplicate")
    assert again.decision == first.decision == trader.latest
    assert len(trader.journal.orders()) == 1


def test_bars_of_one_request_are_put_in_order(desk):
    trader = begin(desk())
    trader.clock.now = LIVE.index[3] + BAR
    outcomes = trader.take(LIVE.iloc[[2, 0, 3, 1]])
    assert [outcome.time for outcome in outcomes] == [*LIVE.index[:4]]
    assert [outcome.status for outcome in outcomes] == ["taken"] * 4


def test_refused_bars_are_written_down_once_with_their_count(desk):
    trader = begin(desk())
    give(trader, 1)
    give(trader, 0)
    late = give(trader, 0)
    assert late.reason == f"late: bars up to {LIVE.index[1]} were decided on without it"
    (refusal,) = trader.journal.refusals()
    assert (refusal.time, refusal.reason, refusal.count) == (LIVE.index[0], late.reason, 2)


def test_a_stale_bar_is_decided_on_and_orders_nothing(desk):
    trader = begin(desk(limits=Limits(max_age=pd.Timedelta(minutes=5))))
    outcome = give(trader, 0, late=pd.Timedelta(minutes=6))
    assert outcome.decision.proba is not None
    assert outcome.reason == "no order: the bar closed 6 minutes ago; `max_age` is 5 minutes"
    assert states(trader) == []


def test_a_bad_print_is_refused_and_the_right_bar_is_taken(desk):
    trader = begin(desk())
    bad = LIVE.iloc[[0]].copy()
    bad[["open", "high", "low", "close"]] = 1e308
    trader.clock.now = LIVE.index[0] + BAR
    (outcome,) = trader.take(bad)
    assert outcome.status == "refused"
    assert outcome.reason.startswith("jump: open 1e+308 after a close of ")
    assert give(trader, 0).status == "taken"


def test_a_gap_is_an_event_once(desk):
    trader = begin(desk())
    outcomes = [give(trader, row) for row in (0, 1, 5, 6, 5)]
    assert [outcome.missing for outcome in outcomes] == [0, 0, 3, 0, 0]
    says = f"3 bar(s) of the session are missing before {LIVE.index[5]}; it was taken without them"
    assert texts(trader, "gap") == [says]


def test_history_before_the_first_that_may_be_traded(desk):
    trader = begin(desk(trade_from=LIVE.index[2]))
    assert [give(trader, row).status for row in range(4)] == ["placed", "placed", "taken", "taken"]
    with pytest.raises(EnsembleKitError, match=r"^`history` must come before the first decision; "):
        trader.seed(HISTORY)


def test_limits_are_kept_and_named(desk):
    trader = begin(desk(limits=Limits(max_position=0.01)))
    decisions = [give(trader, row).decision for row in range(5)]
    cut = [decision for decision in decisions if abs(decision.wanted) > 0.01]
    assert cut
    assert all(abs(decision.allowed) <= 0.01 and "`max_position`" in decision.reason for decision in cut)


def test_a_loss_closes_the_position_until_the_next_session(desk):
    broker = Exchange()
    trader = begin(desk(broker=broker, limits=Limits(max_daily_loss=0.05)))
    give(trader, 0)
    broker.fill()
    broker.cash -= 6000
    lost = give(trader, 1).decision
    broker.fill()
    broker.cash += 6000
    assert lost.allowed == 0
    assert "max_daily_loss" in lost.reason
    assert "max_daily_loss" in give(trader, 2).reason
    next_day = next(row for row in range(3, len(LIVE)) if LIVE.index[row].date() > LIVE.index[0].date())
    assert give(trader, next_day).reason is None


@pytest.mark.parametrize("method", ["begin_bar", "account", "fills"])
def test_a_broker_out_of_reach_stops_nothing(desk, method):
    broker = Exchange()
    trader = begin(desk(broker=broker))
    give(trader, 0)
    broker.down = {method}
    cut_off = give(trader, 1)
    assert cut_off.decision.proba is not None
    assert (cut_off.decision.allowed, cut_off.decision.equity, cut_off.decision.client_id) == (None, None, None)
    assert cut_off.reason == "the broker does not answer: no route to the broker."
    broker.down = set()
    after = give(trader, 2).decision
    assert after.reason is None
    assert states(trader) == ["cancelled", "sent"]


def test_a_refused_order_is_written_down_and_the_next_bar_decides_anew(desk):
    broker = Exchange()
    trader = begin(desk(broker=broker))
    broker.refuse = True
    give(trader, 0)
    broker.refuse = False
    give(trader, 1)
    assert states(trader) == ["rejected", "sent"]
    assert "no buying power." in texts(trader, "broker")[0]


def test_an_order_whose_reply_was_lost_is_not_sent_twice(desk):
    broker = Exchange()
    trader = begin(desk(broker=broker))
    broker.lose_reply = True
    give(trader, 0)
    assert states(trader) == ["sent"]
    broker.lose_reply = False
    broker.fill()
    give(trader, 1)
    assert states(trader) == ["filled", "sent"]
    assert trader.journal.units_filled() == broker.held


def test_an_order_that_may_or_may_not_have_arrived_is_looked_for(desk):
    broker = Exchange()
    trader = begin(desk(broker=broker))
    broker.down = {"submit", "status"}
    give(trader, 0)
    assert states(trader) == ["new"]
    broker.down = set()
    give(trader, 1)
    assert states(trader) == ["expired", "sent"]


def test_an_order_that_arrives_after_its_sender_gave_up_is_no_stranger(desk):
    broker = Exchange()
    trader = begin(desk(broker=broker))
    broker.slow = True
    give(trader, 0)
    assert states(trader) == ["new"]  # the broker knows nothing yet, and that says nothing
    broker.slow = False
    broker.land()
    broker.fill()
    give(trader, 1)
    assert states(trader) == ["filled", "sent"]
    assert trader.journal.units_filled() == broker.held != 0


def test_what_is_not_filled_is_taken_back_before_the_next_decision(desk):
    broker = Exchange()
    trader = begin(desk(broker=broker))
    give(trader, 0)
    broker.fill(share=0.25)
    decision = give(trader, 1).decision
    assert states(trader) == ["cancelled", "sent"]
    assert decision.units == trader.journal.units_filled() == broker.held != 0
    broker.stubborn = True
    assert "is still open after it was taken back" in give(trader, 2).reason
    assert states(trader) == ["cancelled", "sent"]


def test_a_model_that_fails_orders_nothing_and_is_started_anew(desk):
    trader = begin(desk(model=Momentum(fail_at=[LIVE.index[1]])))
    give(trader, 0)
    failed = give(trader, 1)
    assert failed.decision.proba is failed.decision.wanted is failed.decision.client_id is None
    assert failed.reason == "the model failed: RuntimeError: out of memory"
    assert texts(trader, "error") == [f"bar {LIVE.index[1]}: {failed.reason}"]
    whole = begin(desk(account="whole"))
    for row in range(3):
        other = give(whole, row).decision
    trader.resume()
    assert give(trader, 2).decision.wanted == other.wanted


# ---------------------------------------------------------------- restarts


@pytest.mark.parametrize(("wait", "state"), [(1, "sent"), (7, "expired")])
def test_a_new_order_is_sent_after_a_restart_unless_it_is_too_old(desk, wait, state):
    broker = Exchange()
    trader = begin(desk(broker=broker))
    give(trader, 0)
    order = trader.journal.orders()[0].order
    trader.journal.settle([], {order.client_id: "new"})
    del broker.orders[order.client_id], broker.states[order.client_id]
    clock = Clock(LIVE.index[0] + BAR + pd.Timedelta(minutes=wait))
    again = desk(broker=broker, clock=clock)
    again.resume()
    assert states(again) == [state]
    assert broker.submitted.count(order.client_id) == (2 if state == "sent" else 1)


def test_a_restart_decides_as_without(desk):
    trader = begin(desk())
    whole = begin(desk(account="whole"))
    expected = [give(whole, row).decision for row in range(6)]
    for row in range(6):
        trader = desk()
        if row == 0:
            begin(trader)
        trader.resume()
        assert give(trader, row).decision.wanted == expected[row].wanted


def test_a_position_that_the_journal_cannot_explain_is_refused(desk):
    broker = Exchange()
    broker.held = 7.0
    with pytest.raises(
        BrokerError, match=r"^`broker` must hold what the journal can explain; broker exchange holds 7 u"
    ):
        begin(desk(broker=broker))
    with pytest.raises(EnsembleKitError, match=r"^`resume` must be called"):
        desk(broker=broker).take(LIVE[:1])
    trader = desk(broker=broker)
    trader.resume(adopt=True)
    trader.seed(HISTORY)
    give(trader, 0)
    desk(broker=broker, clock=trader.clock).resume()
    assert texts(trader, "broker")[-1] == "7 units of SPY were taken over, 0 were expected"


def test_an_order_of_ours_that_the_journal_does_not_know_is_refused(desk):
    broker = Exchange()
    begin(desk(broker=broker))
    order = Order(client_order_id("other", "SPY", LIVE.index[0]), "SPY", LIVE.index[0], 3.0, 100.0)
    broker.submit(order)
    with pytest.raises(BrokerError, match=rf"holds order {order.client_id}, which the journal does not know"):
        desk(broker=broker).resume()
    desk(broker=broker).resume(adopt=True)
    assert broker.states[order.client_id] == "cancelled"


# ---------------------------------------------------------------- halt and swap


def test_halt_takes_back_and_closes_and_stays(desk):
    broker = Exchange()
    trader = begin(desk(broker=broker))
    give(trader, 0)
    broker.fill()
    give(trader, 1)
    trader.halt("enough")
    assert states(trader).count("cancelled") == 1
    assert [order.units for order in broker.open_orders()] == [-broker.held]
    trader = desk(broker=broker, clock=trader.clock)
    trader.resume()
    assert trader.halted == "enough"
    assert [order.units for order in broker.open_orders()] == [-broker.held]
    broker.fill()
    assert broker.held == 0
    held = give(trader, 2).decision
    assert (held.allowed, held.reason, held.client_id) == (0.0, "halted: enough", None)
    trader.release()
    assert give(trader, 3).decision.client_id is not None
    assert [event.kind for event in trader.journal.events() if event.kind in {"halt", "release"}] == ["halt", "release"]


def halted_with_a_position(desk, **more):
    broker = Exchange()
    trader = begin(desk(broker=broker, **more))
    give(trader, 0)
    broker.fill()
    trader.halt("enough")
    assert [order.units for order in broker.open_orders()] == [-broker.held] != [0.0]
    return trader, broker


QUARTER = pd.Timedelta(minutes=15)


def test_the_closing_order_of_a_halt_stays_whatever_bars_come(desk):
    trader, broker = halted_with_a_position(desk)
    (closing,) = broker.open_orders()
    for row, late in ((1, QUARTER), (2, pd.Timedelta(0))):
        outcome = give(trader, row, late=late)
        assert broker.open_orders() == [closing]
        assert (outcome.decision.allowed, outcome.reason, outcome.decision.client_id) == (0.0, "halted: enough", None)
    broker.fill(share=0.25)  # what is left of it is what is left to close
    give(trader, 3, late=QUARTER)
    trader.halt("again")
    trader.resume()
    assert broker.open_orders() == [closing]
    assert broker.submitted.count(closing.client_id) == 1


@pytest.mark.parametrize("change", ["gone", "too small", "ruined"])
def test_halted_an_old_bar_closes_what_is_held(desk, change):
    trader, broker = halted_with_a_position(desk)
    (closing,) = broker.open_orders()
    if change == "too small":
        broker.held *= 2
    else:
        broker.states[closing.client_id] = "cancelled"
    if change == "ruined":
        broker.cash -= 1e6
    decision = give(trader, 1, late=QUARTER).decision
    assert (decision.allowed, decision.reason) == (0.0, "halted: enough")
    (order,) = broker.open_orders()
    assert (order.client_id, order.units) == (decision.client_id, -broker.held)


def test_a_lost_day_is_closed_by_an_old_bar(desk):
    broker = Exchange()
    trader = begin(desk(broker=broker, limits=Limits(max_daily_loss=0.05)))
    give(trader, 0)
    broker.fill()
    broker.cash -= 6000
    assert "max_daily_loss" in give(trader, 1, late=QUARTER).reason
    assert [order.units for order in broker.open_orders()] == [-broker.held] != [0.0]


def break_journal(trader, after=0):
    """Let the journal's database fail, after so many transactions; return how to mend it."""
    left = [after]

    def fail(_):
        left[0] -= 1
        if left[0] < 0:
            raise OperationalError("x", {}, Exception("disk I/O error"))

    event.listen(trader.journal.engine, "begin", fail)
    return lambda: event.remove(trader.journal.engine, "begin", fail)


@pytest.mark.parametrize("after", [0, 1, 2, 3, 5, 7])
def test_halt_does_what_it_can_without_a_journal(desk, after):
    broker = Exchange()
    trader = begin(desk(broker=broker))
    give(trader, 0)
    broker.fill()
    give(trader, 1)  # this order waits
    mend = break_journal(trader, after)
    with pytest.raises(JournalError, match=r"^halted in memory; the journal could not be written, orders were taken b"):
        trader.halt("enough")
    for _ in range(2):  # pressed again, nothing is doubled
        assert [order.units for order in broker.open_orders()] == [-broker.held] != [0.0]
        with pytest.raises(JournalError):
            trader.halt("enough")
    with pytest.raises(
        JournalError, match=r"^`journal` must be a database that answers; it does not \(disk I/O error\)"
    ):
        give(trader, 2)
    mend()
    decision = give(trader, 2).decision
    assert (decision.allowed, decision.reason) == (0.0, "halted: enough")
    assert [order.units for order in broker.open_orders()] == [-broker.held] != [0.0]
    broker.fill()
    assert give(trader, 3).decision.client_id is None
    assert trader.journal.setting("halted") == "enough"
    assert set(texts(trader, "halt")) == {"enough"}
    assert trader.journal.units_filled() == broker.held == 0
    assert desk(broker=broker, clock=trader.clock).resume() is None
    trader.release()
    assert trader.halted is None


def test_halt_without_journal_and_broker_is_kept_in_memory(desk):
    trader, broker = halted_with_a_position(desk)
    trader.release()
    give(trader, 1)
    mend = break_journal(trader)
    broker.down = {"account"}
    with pytest.raises(JournalError, match=r"and the position could not be closed \(no route to the broker\.\)"):
        trader.halt("enough")
    broker.down = set()
    mend()
    assert trader.halted == "enough"
    decision = give(trader, 2).decision
    assert (decision.reason, decision.units) == ("halted: enough", broker.held)
    assert [order.units for order in broker.open_orders()] == [-broker.held]


def test_halt_and_bars_outlive_cut_connections(postgres):
    engine, broker = open_store(postgres), Exchange()
    admin = open_store(postgres)

    def cut():
        with admin.begin() as connection:
            others = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            connection.execute(text(f"{others} AND pid <> pg_backend_pid()"))

    trader = begin(make_trader(engine, broker=broker))
    give(trader, 0)
    broker.fill()
    cut()
    assert give(trader, 1).status == "taken"
    cut()
    trader.halt("enough")
    assert trader.journal.setting("halted") == "enough"
    assert [order.units for order in broker.open_orders()] == [-broker.held] != [0.0]
    cut()
    assert give(trader, 2).reason == "halted: enough"
    trader.close()
    for one in (engine, admin):
        one.dispose()


def test_halt_without_a_broker_is_kept_and_done_later(desk):
    broker = Exchange()
    trader = begin(desk(broker=broker))
    give(trader, 0)
    broker.fill()
    broker.down = {"account"}
    with pytest.raises(BrokerError):
        trader.halt("enough")
    broker.down = set()
    give(trader, 1)
    broker.fill()
    assert broker.held == 0


def test_another_model_decides_from_the_next_bar_on(desk):
    trader = begin(desk())
    give(trader, 0)
    trader.swap(Momentum(scale=50.0), card=CARD, version="SPY/2")
    decision = give(trader, 1).decision
    close = pd.concat([HISTORY, LIVE])["close"]
    row = len(HISTORY) + 1
    assert decision.wanted == np.tanh(50.0 * (close.iloc[row] / close.iloc[row - 2] - 1))
    assert [one.version for one in trader.journal.decisions()] == ["SPY/1", "SPY/2"]
    assert texts(trader, "model") == ["SPY/1 is followed by SPY/2"]


def test_a_model_that_cannot_take_over_leaves_the_old_one(desk):
    trader = begin(desk())
    with pytest.raises(EnsembleKitError, match=r"^`model` must take bars like .*; version 2 has another bar\. "):
        trader.swap(Momentum(), card=CARD | {"bar": "0 days 01:00:00"}, version="2")
    with pytest.raises(EnsembleKitError, match=r"^`model` must start on the bars of the journal; version 2 failed: "):
        trader.swap(object(), card=CARD, version="2")
    assert give(trader, 0).decision.version == "SPY/1"


def test_a_trader_of_a_panel_is_none():
    with pytest.raises(
        EnsembleKitError, match=r"^`card` must be of a model of one instrument; got one that was trained"
    ):
        Trader(None, card=CARD | {"panel": True}, version="1", journal=None, broker=None, symbol="SPY")
