"""The journal keeps what it is told, once, bit for bit, in both databases, and for one process."""

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import event, text
from trading_parts import BARS, quick_store

from ensemble_kit.exceptions import EnsembleKitError, JournalError
from ensemble_kit.live._tables import METADATA
from ensemble_kit.live.journal import Journal
from ensemble_kit.live.orders import Fill, Order
from ensemble_kit.live.records import Decision
from ensemble_kit.live.store import open_store

TIME = BARS.index[0]
ORDER = Order("ek-1", "SPY", TIME, 0.1 + 0.2, 1 / 3)
FILL = Fill("f-1", "ek-1", "SPY", TIME, 0.1, 100.1, 0.01)


def decision(time=TIME, **more):
    parts = {"version": "SPY/1", "proba": {"down": 1 / 3, "up": 2 / 3}, "wanted": 0.1 + 0.2, "allowed": 0.25}
    rest = {"reason": None, "close": 100.1, "equity": 1e5 / 3, "units": 0.0, "client_id": "ek-1"}
    return Decision(**{"time": time} | parts | rest | more)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request, tmp_path):
    if request.param == "sqlite":
        engine = quick_store(tmp_path / "live.db")
    else:
        engine = open_store(request.getfixturevalue("postgres"))
        METADATA.drop_all(engine)
    yield engine
    engine.dispose()


@pytest.fixture
def journal(engine):
    return Journal(engine, account="SPY")


def test_bars_come_back_bit_for_bit(journal):
    bars = BARS.assign(vwap=BARS["close"] / 3)
    bars.iloc[3, 4:] = np.nan
    for _ in range(2):
        journal.add_bars(bars, traded=False)
    back = journal.bars()
    pd.testing.assert_frame_equal(back, bars, check_freq=False, check_exact=True, check_index_type=False)
    assert journal.n_bars() == len(bars)
    assert journal.newest_bar() == bars.index[-1]
    assert [*journal.bars(since=bars.index[5], until=bars.index[7]).index] == [*bars.index[5:8]]
    assert [*journal.bars(newest=2).index] == [*bars.index[-2:]]
    journal.add_bars(bars[:1] + 1, traded=True)  # what is written stays
    assert journal.bars()["close"].iloc[0] == bars["close"].iloc[0]
    assert journal.undecided() is None


def test_naive_times_are_utc(journal):
    journal.add_bars(BARS[:2].tz_localize(None), traded=True)
    assert [*journal.bars().index] == [*BARS.index[:2]]


def test_a_decision_and_its_order_are_written_once_and_together(journal):
    journal.add_bars(BARS[:2], traded=True)
    assert journal.undecided() == TIME
    journal.add_decision(decision(), ORDER)
    journal.settle([FILL], {"ek-1": "filled"})
    journal.add_decision(decision(wanted=0.9), ORDER)
    assert journal.decisions() == [journal.latest_decision()] == [decision()]
    (entry,) = journal.orders()
    assert (entry.order, entry.state) == (ORDER, "filled")
    assert journal.orders(states=["new", "sent"]) == []
    assert journal.undecided() == BARS.index[1]
    journal.add_decision(decision(BARS.index[1], equity=None, client_id=None, proba=None, wanted=None, allowed=None))
    assert journal.equity().to_dict() == {TIME: 1e5 / 3}
    assert (journal.opening_equity(BARS.index[2]), journal.opening_equity(TIME)) == (1e5 / 3, None)


def test_fills_are_written_once(journal):
    journal.settle([FILL], {})
    journal.settle([FILL, Fill("f-2", "", "SPY", TIME, 0.2, 100.0, 0.0)], {})
    assert [fill.fill_id for fill in journal.fills()] == ["f-1", "f-2"]
    assert journal.units_filled() == 0.1 + 0.2
    assert journal.fills()[0] == FILL


def test_refusals_events_and_settings(journal):
    for minute in range(3):
        journal.add_refusal(TIME, "late", at=TIME + pd.Timedelta(minutes=minute), bar={"close": None})
    (refusal,) = journal.refusals()
    assert (refusal.count, refusal.last_at, refusal.bar) == (3, TIME + pd.Timedelta(minutes=2), {"close": None})
    for kind in ("halt", "release"):
        journal.add_event(kind, "x", at=TIME)
    assert [event.kind for event in journal.events()] == ["halt", "release"]
    assert [event.kind for event in journal.events(newest=1)] == ["release"]
    assert journal.setting("halted") is None
    for value in ("why", None):
        journal.set_setting("halted", value)
        assert journal.setting("halted") == value


def test_accounts_do_not_mix(engine, journal):
    other = Journal(engine, account="QQQ")
    journal.add_bars(BARS[:2], traded=True)
    journal.add_decision(decision(), ORDER)
    journal.settle([FILL], {})
    journal.set_setting("halted", "x")
    journal.add_event("halt", "x", at=TIME)
    assert other.newest_bar() is other.undecided() is other.latest_decision() is other.setting("halted") is None
    assert (other.orders(), other.fills(), other.events(), other.n_bars()) == ([], [], [], 0)


def test_one_process_an_account(engine, journal):
    journal.acquire()
    journal.acquire()
    journal.check_held()
    again = Journal(engine, account="SPY")
    with pytest.raises(
        EnsembleKitError, match=r"^`account` must be traded by one process; 'SPY' is by process \d+ on "
    ):
        again.acquire(patience=0.1)
    other = Journal(engine, account="QQQ")
    other.acquire(patience=0.1)
    other.release()
    journal.release()
    again.acquire(patience=0.1)
    again.release()


@pytest.mark.parametrize("address", ["link.db", "sqlite:///file:live.db?uri=true", "sqlite:///./sub/../live.db"])
def test_one_file_by_any_name_is_one_account(tmp_path, monkeypatch, address):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sub").mkdir()
    first = open_store("live.db")
    (tmp_path / "link.db").symlink_to("live.db")
    second = open_store(address)
    mine, theirs = Journal(first, account="SPY"), Journal(second, account="SPY")
    mine.acquire()
    with pytest.raises(EnsembleKitError, match=r"^`account` must be traded by one process"):
        theirs.acquire(patience=0.1)
    mine.release()
    for engine in (first, second):
        engine.dispose()


def cut_connections(url):
    """Cut every connection to a database but the one that does it."""
    engine = open_store(url)
    with engine.begin() as connection:
        mine = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> "
        connection.execute(text(mine + "pg_backend_pid()"))
    engine.dispose()


def test_cut_connections_are_made_anew(postgres):
    engine = open_store(postgres)
    journal = Journal(engine, account="SPY")
    cut_connections(postgres)
    journal.set_setting("halted", "x")
    cut_connections(postgres)
    assert journal.setting("halted") == "x"
    engine.dispose()


def test_a_transaction_that_is_cut_is_repeated_once(postgres):
    engine = open_store(postgres)
    journal, cuts = Journal(engine, account="SPY"), [1]

    def cut(connection):
        if cuts[0] > 0:
            cuts[0] -= 1
            cut_connections(postgres)

    event.listen(engine, "commit", cut)
    journal.settle([FILL], {})
    assert journal.fills() == [FILL]
    cuts[0] = 2
    with pytest.raises(JournalError, match=r"^`journal` must be a database that answers; it does not \(.*\)\. What it"):
        journal.settle([Fill("f-2", "", "SPY", TIME, 0.2, 100.0, 0.0)], {})
    assert journal.fills() == [FILL]
    engine.dispose()


def test_a_lost_connection_is_noticed(postgres):
    engine = open_store(postgres)
    journal = Journal(engine, account="lost")
    journal.acquire()
    with engine.begin() as connection:
        held = "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory' AND pid <> pg_backend_pid()"
        connection.execute(text(held))
    with pytest.raises(
        EnsembleKitError, match=r"^`account` must be held by this process; the connection that held 'lost'"
    ):
        journal.check_held()
    journal.acquire()
    journal.release()
    engine.dispose()


@pytest.mark.parametrize("account", ["", "x" * 101, "a\nb", None])
def test_an_account_has_a_name(tmp_path, account):
    engine = quick_store(tmp_path / "x.db")
    with pytest.raises(EnsembleKitError, match=r"^`account` must be a name of 1 to 100 characters; got "):
        Journal(engine, account=account)
    engine.dispose()
