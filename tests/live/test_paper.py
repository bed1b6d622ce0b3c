"""The paper broker: the backtest's account, bar by bar, killed, doubled and reopened."""

import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from paper_worker import TERMS, drive, wanted
from sqlalchemy import event

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BrokerError, EnsembleKitError
from ensemble_kit.live.orders import AccountState, Order
from ensemble_kit.live.paper import PaperBroker
from ensemble_kit.live.store import open_store
from ensemble_kit.sizing import Costs, backtest

WORKER = Path(__file__).with_name("paper_worker.py")
EVERYTHING = Costs(
    commission_bps=1, commission_per_unit=0.005, commission_min=1, spread_bps=2, slippage_bps=1, borrow_rate=0.05
)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """An empty database of each kind."""
    return f"sqlite:///{tmp_path}/live.db" if request.param == "sqlite" else request.getfixturevalue("postgres")


@pytest.fixture
def engine(tmp_path):
    engine = open_store(tmp_path / "paper.db")
    # These tests lose no power supply.
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    engine.dispose()
    yield engine
    engine.dispose()


@pytest.fixture
def broker(engine):
    return PaperBroker(engine, account="a", symbol="SPY")


def check_fills(broker, result):
    """Hold the fills equal to the last bit."""
    fills = broker.fills("SPY", None)
    expected = result.fills
    times = pd.DatetimeIndex(expected["time"])
    times = times.tz_localize("UTC") if times.tz is None else times
    assert [fill.at for fill in fills] == times.to_list()
    for name, column in {"units": "units", "price": "price", "commission": "cost"}.items():
        assert [getattr(fill, name) for fill in fills] == expected[column].to_list()
    assert len({fill.fill_id for fill in fills}) == len(fills)


def check_equal(engine, bars, weights, **terms):
    """Drive a broker bar by bar, and hold it equal to the backtest to the last bit."""
    result = backtest(bars, weights, **terms)
    broker = PaperBroker(engine, account="a", symbol="SPY", **terms)
    rules = {name: terms[name] for name in ("lot_size", "min_trade") if name in terms}
    accounts = list(drive(broker, bars, weights, **rules))
    assert [account.equity for account in accounts] == result.equity.to_list()
    check_fills(broker, result)
    return result


TOLD = {
    "free": {"costs": Costs()},
    "everything": {"costs": EVERYTHING},
    "lots": {"costs": EVERYTHING, "lot_size": 1.0},
    "leverage": {"costs": EVERYTHING, "max_leverage": 2.0},
    "lots, leverage, least trade": {"costs": EVERYTHING, "lot_size": 1.0, "max_leverage": 2.0, "min_trade": 500.0},
    "least trade": {"costs": Costs(commission_min=2), "min_trade": 5_000.0},
}


@pytest.mark.parametrize("told", TOLD.values(), ids=list(TOLD))
def test_equals_the_backtest_on_synthetic_bars(engine, told):
    bars = make_bars(150, random_state=1)
    weights = np.random.default_rng(2).uniform(-2, 2, 150) * (np.arange(150) % 7 != 0)
    assert len(check_equal(engine, bars, weights, **told).fills) > 50


@pytest.mark.parametrize("told", [TOLD["lots"], TOLD["leverage"]], ids=["lots", "leverage"])
def test_equals_the_backtest_on_real_bars(engine, shared_data, told):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet").iloc[5_000:5_200]
    weights = np.repeat(np.random.default_rng(4).choice([-1.5, -1, -0.3, 0, 0.5, 1, 2], 100), 2)
    assert len(check_equal(engine, bars, weights, **told).fills) > 50


def frame(opens, closes):
    opens, closes = np.array(opens, float), np.array(closes, float)
    index = pd.date_range("2024-01-01", periods=len(opens), freq="D")
    high, low = np.maximum(opens, closes), np.minimum(opens, closes)
    return pd.DataFrame({"open": opens, "high": high, "low": low, "close": closes}, index=index)


@pytest.mark.parametrize(
    ("opens", "closes", "costs", "status"),
    [
        ([10, 10, 30, 10, 10], [10, 10, 31, 10, 10], Costs(), "rejected"),  # at an open, with an order under way
        ([10, 10, 11, 10, 10], [10, 10, 31, 10, 10], Costs(), "filled"),  # at a close
        ([10, 10, 19.5, 10, 10], [10, 10, 19.5, 10, 10], Costs(commission_min=60), "rejected"),  # closing costs more
    ],
)
def test_ruin_is_the_backtests(engine, opens, closes, costs, status):
    bars = frame(opens, closes)
    result = check_equal(engine, bars, [-1, -0.5, 1, 1, 1], cash=1_000.0, costs=costs)
    assert result.equity.iloc[-1] == 0
    broker = PaperBroker(engine, account="a", symbol="SPY", cash=1_000.0, costs=costs)
    assert broker.account() == AccountState(0.0, 0.0, {})
    assert broker.open_orders() == []
    last = broker.fills("SPY", None)[-1]
    assert last.client_id == ""
    with engine.connect() as connection:
        statuses = connection.exec_driver_sql("SELECT status FROM paper_orders ORDER BY decided_at").scalars().all()
    assert statuses[1] == status


@pytest.mark.parametrize("every", [1, 7])
def test_reopened_is_as_if_it_had_not_been(tmp_path, every):
    bars, weights = wanted(30)
    result = backtest(bars, weights, **TERMS)
    for first in range(0, 30, every):
        engine = open_store(tmp_path / "live.db")
        broker = PaperBroker(engine, account="a", symbol="SPY", **TERMS)
        part = slice(first, first + every)
        accounts = list(drive(broker, bars.iloc[part], weights[part]))
        assert [account.equity for account in accounts] == result.equity.iloc[part].to_list()
        if first + every >= 30:
            check_fills(broker, result)
        engine.dispose()


def start(url, n):
    worker = subprocess.Popen([sys.executable, str(WORKER), url, str(n)], stdout=subprocess.PIPE, text=True)
    assert worker.stdout.readline() == "ready\n"
    return worker


def end(worker):
    worker.kill()
    worker.wait()
    worker.stdout.close()


def check_whole(url, n):
    """The account after all bars is the backtest's, whatever happened on the way."""
    bars, weights = wanted(n)
    result = backtest(bars, weights, **TERMS)
    engine = open_store(url)
    broker = PaperBroker(engine, account="kills", symbol="SPY", **TERMS)
    check_fills(broker, result)
    assert broker.account().equity == result.equity.iloc[-1]
    engine.dispose()


def bars_done(url):
    engine = open_store(url)
    with engine.connect() as connection:
        done = connection.exec_driver_sql("SELECT count(*) FROM paper_orders").scalar_one()
    engine.dispose()
    return done


def is_prefix(url, n):
    """The fills so far are the first ones of the backtest, and nothing of a bar is missing."""
    bars, weights = wanted(n)
    expected = backtest(bars, weights, **TERMS)
    engine = open_store(url)
    broker = PaperBroker(engine, account="kills", symbol="SPY", **TERMS)
    fills, equity = broker.fills("SPY", None), broker.account().equity
    engine.dispose()
    assert [fill.units for fill in fills] == expected.fills["units"].to_list()[: len(fills)]
    if fills:
        assert equity == expected.equity[fills[-1].at]
        times = pd.DatetimeIndex(expected.fills["time"])
        assert (times <= fills[-1].at).sum() == len(fills)


def run_with_kills(url, *, n, kills, seed):
    rng = np.random.default_rng(seed)
    for _ in range(kills):
        worker = start(url, n)
        time.sleep(rng.uniform(0.05, 0.5))
        worker.send_signal(signal.SIGKILL)
        end(worker)
        is_prefix(url, n)
    seen = bars_done(url)
    worker = start(url, n)
    assert worker.wait(timeout=120) == 0
    end(worker)
    check_whole(url, n)
    return seen


@pytest.mark.slow
def test_killed_at_any_moment_it_goes_on(url):
    assert run_with_kills(url, n=250, kills=8, seed=0) > 0


@pytest.mark.slow
def test_two_processes_on_one_account_fill_each_order_once(url):
    # Both do all the work; whoever is behind finds bars begun and orders known.
    workers = [start(url, 60) for _ in range(2)]
    try:
        assert [worker.wait(timeout=120) for worker in workers] == [0, 0]
    finally:
        for worker in workers:
            end(worker)
    check_whole(url, 60)


def test_two_brokers_at_once_on_one_account_fill_each_order_once(url):
    bars, weights = wanted(25)
    engines = [open_store(url) for _ in range(3)]

    def work(engine):
        return sum(1 for _ in drive(PaperBroker(engine, account="kills", symbol="SPY", **TERMS), bars, weights))

    with ThreadPoolExecutor(3) as pool:  # they make tables and account at once, too
        assert list(pool.map(work, engines)) == [25] * 3
    for engine in engines:
        engine.dispose()
    check_whole(url, 25)


def test_equals_the_backtest_on_either_database(url):
    engine = open_store(url)
    bars, weights = wanted(40)
    check_equal(engine, bars, weights, **TERMS)
    engine.dispose()


# ---------------------------------------------------------------- one bar, one order


BARS = frame([10, 11, 12, 13], [10, 11, 12, 13])


def order(name, units=10.0, row=0, **changed):
    told = {"symbol": "SPY", "decided_at": BARS.index[row], "reference": 10.0} | changed
    return Order(name, units=units, **told)


def test_the_same_bar_and_the_same_order_change_nothing(broker):
    broker.begin_bar("SPY", BARS.iloc[:1])
    for _ in range(2):
        broker.submit(order("a"))
    assert broker.status("a") == "open"
    assert broker.open_orders() == [order("a", decided_at=BARS.index[0].tz_localize("UTC"))]
    broker.begin_bar("SPY", BARS.iloc[1:2])
    after = broker.account()
    assert after == AccountState(100_000.0, 100_000.0 - 110.0, {"SPY": 10.0})
    for row in (1, 0, 1):
        broker.begin_bar("SPY", BARS.iloc[[row]].assign(open=99.0, close=99.0))
        broker.submit(order("a"))
    assert broker.account() == after
    assert (broker.status("a"), broker.open_orders(), len(broker.fills("SPY", None))) == ("filled", [], 1)


def test_a_cancelled_order_is_not_filled(broker):
    broker.begin_bar("SPY", BARS.iloc[:1])
    broker.submit(order("a"))
    broker.cancel("a")
    broker.submit(order("a"))  # known, and cancelled
    broker.begin_bar("SPY", BARS.iloc[1:2])
    assert (broker.status("a"), broker.fills("SPY", None)) == ("cancelled", [])
    broker.submit(order("b"))
    broker.begin_bar("SPY", BARS.iloc[2:3])
    broker.cancel("b")
    broker.cancel("never heard of")
    assert (broker.status("b"), broker.status("never heard of")) == ("filled", None)


def test_an_order_that_does_not_fit_is_cut_or_rejected(engine):
    broker = PaperBroker(engine, account="lots", symbol="SPY", cash=25.0, lot_size=1.0)
    broker.begin_bar("SPY", BARS.iloc[:1])
    broker.submit(order("a"))
    broker.begin_bar("SPY", BARS.iloc[1:2])
    assert (broker.status("a"), broker.account().units) == ("filled", {"SPY": 2.0})
    broker.submit(order("b"))
    broker.begin_bar("SPY", BARS.iloc[2:3])
    assert (broker.status("b"), broker.account().units) == ("rejected", {"SPY": 2.0})


def test_fills_since(broker):
    for row in range(3):
        broker.begin_bar("SPY", BARS.iloc[[row]])
        broker.submit(order(str(row), row=row))
    fills = broker.fills("SPY", None)
    assert [fill.client_id for fill in fills] == ["0", "1"]
    for since in (
        BARS.index[2],
        BARS.index[2].tz_localize("UTC"),
        BARS.index[2].tz_localize("UTC").tz_convert("Asia/Tokyo"),
    ):
        assert broker.fills("SPY", since) == fills[1:]
    assert broker.fills("QQQ", None) == []


def test_accounts_keep_to_themselves(engine):
    first, second = (PaperBroker(engine, account=name, symbol="SPY") for name in ("a", "b"))
    for broker in (first, second):
        broker.begin_bar("SPY", BARS.iloc[:1])
    first.submit(order("x"))
    assert second.status("x") is None
    second.submit(order("x", units=-5.0))
    for broker in (first, second):
        broker.begin_bar("SPY", BARS.iloc[1:2])
    assert (first.account().units, second.account().units) == ({"SPY": 10.0}, {"SPY": -5.0})


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("do", "message"),
    [
        (
            lambda broker: broker.begin_bar("QQQ", BARS.iloc[:1]),
            "`symbol` must be what the account 'a' trades, SPY; got QQQ. Make a broker with another account for it.",
        ),
        (
            lambda broker: broker.begin_bar("SPY", BARS),
            "`bar` must be one bar; got 4. Give them one by one, the oldest first.",
        ),
        (
            lambda broker: broker.begin_bar("SPY", BARS.iloc[:1].assign(close=np.nan)),
            (
                "`bar` must have an open and a close above 0; got 10 and nan at 2024-01-01 00:00:00. "
                "Leave it out: nothing was traded then."
            ),
        ),
        (
            lambda broker: broker.submit(order("z", symbol="QQQ")),
            "`order` must be of SPY, which the account 'a' trades; got QQQ. Make a broker with another account for it.",
        ),
        (
            lambda broker: broker.submit(order("z", units=0.0)),
            (
                "`order` must be of units that are finite and not 0, at a reference above 0; got 0 at 10. "
                "Send none where there is nothing to trade."
            ),
        ),
        (
            lambda broker: broker.submit(order("z", units=1.0)),
            "`order` must be worth at least 50, or close the position; got 1 units at 10. Do not send it.",
        ),
        (
            lambda broker: (broker.submit(order("y")), broker.submit(order("z"))),
            "`order` must be the only one that waits; got z, and y is not filled yet. Cancel that one first.",
        ),
    ],
)
def test_what_is_refused_leaves_no_trace(engine, do, message):
    broker = PaperBroker(engine, account="a", symbol="SPY", min_trade=50.0)
    with pytest.raises(BrokerError) as caught:
        do(broker)
    assert str(caught.value) == message
    assert broker.status("z") is None
    assert broker.account() == AccountState(100_000.0, 100_000.0, {})


def test_a_small_order_may_close(engine):
    broker = PaperBroker(engine, account="a", symbol="SPY", min_trade=50.0)
    broker.begin_bar("SPY", BARS.iloc[:1])
    broker.submit(order("a", units=5.0))
    broker.begin_bar("SPY", BARS.iloc[1:2])
    broker.submit(order("b", units=-5.0, reference=1.0))
    assert broker.status("b") == "open"


def test_an_account_keeps_its_terms(engine):
    PaperBroker(engine, account="a", symbol="SPY")
    with pytest.raises(BrokerError) as caught:
        PaperBroker(engine, account="a", symbol="QQQ")
    assert str(caught.value) == ("`symbol` must be what the account 'a' trades, SPY; got QQQ. Use another account.")
    with pytest.raises(BrokerError) as caught:
        PaperBroker(engine, account="a", symbol="SPY", max_leverage=2.0, costs=Costs(commission_min=1))
    assert str(caught.value) == (
        "`account` must be opened on its own terms; 'a' has max_leverage 1.0, not 2.0, minimum 0.0, not 1.0. "
        "Use another account, or the terms it was made with."
    )
    with pytest.raises(EnsembleKitError, match=r"`cash` must be a number above 0; got 0\. "):
        PaperBroker(engine, account="c", symbol="SPY", cash=0)
