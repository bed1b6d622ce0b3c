"""Alpaca's real client against a small exchange on the loopback address."""

import logging
import subprocess
import sys
import traceback

import pandas as pd
import pytest
from alpaca_server import KEY, SECRET, alpaca_server

from ensemble_kit.exceptions import BrokerError, BrokerUnreachableError
from ensemble_kit.live.alpaca import AlpacaBroker
from ensemble_kit.live.orders import Order, client_order_id

AT = pd.Timestamp("2024-03-01 15:00", tz="UTC")


@pytest.fixture
def exchange(monkeypatch):
    monkeypatch.setenv("APCA_API_KEY_ID", KEY)
    monkeypatch.setenv("APCA_API_SECRET_KEY", SECRET)
    with alpaca_server() as (held, url):
        held.url = url
        yield held


@pytest.fixture
def broker(exchange):
    return AlpacaBroker(base_url=exchange.url)


def order(units, at=AT):
    return Order(client_order_id("a", "SPY", at), "SPY", at, units, 100.0)


def test_an_order_is_sent_filled_and_seen(broker, exchange):
    broker.submit(order(10))
    assert broker.status(order(10).client_id) == "open"
    assert [(one.client_id, one.units) for one in broker.open_orders()] == [(order(10).client_id, 10.0)]
    exchange.fill(parts=2)
    assert broker.status(order(10).client_id) == "filled"
    assert broker.open_orders() == []
    fills = broker.fills("SPY", None)
    assert [(f.client_id, f.units, f.price, f.commission) for f in fills] == [
        (order(10).client_id, 5.0, 100.0, 0.0),
        (order(10).client_id, 5.0, 101.0, 0.0),
    ]
    assert broker.account().units == {"SPY": 10.0}
    assert broker.account().equity == 100_000.0
    sent = next(body for method, path, body in exchange.seen if method == "POST")
    assert sent == {
        "symbol": "SPY",
        "qty": 10.0,
        "side": "buy",
        "type": "market",
        "time_in_force": "day",
        "client_order_id": order(10).client_id,
    }


def test_an_order_sent_twice_is_one(broker, exchange):
    broker.submit(order(10))
    broker.submit(order(10))
    exchange.fill()
    broker.submit(order(10))
    assert len(exchange.orders) == 1
    assert exchange.units == 10


def test_an_order_whose_answer_was_lost_is_looked_up(broker, exchange):
    exchange.cut_after_taking = True
    with pytest.raises(BrokerUnreachableError, match=r"^`broker` must answer; Alpaca did not \(ConnectionError\)"):
        broker.submit(order(10))
    assert broker.status(order(10).client_id) == "open"
    broker.submit(order(10))
    assert len(exchange.orders) == 1


def test_an_unknown_order_is_none(broker):
    assert broker.status("never") is None
    broker.cancel("never")


def test_a_long_position_is_closed_before_a_short_one_is_opened(broker, exchange):
    broker.submit(order(10))
    exchange.fill()
    broker.submit(order(-15, AT + pd.Timedelta("5min")))
    exchange.fill()
    assert exchange.units == 0
    broker.submit(order(-5, AT + pd.Timedelta("10min")))
    exchange.fill()
    assert broker.account().units == {"SPY": -5.0}
    assert [f.units for f in broker.fills("SPY", None)] == [10.0, -10.0, -5.0]


def test_an_order_that_is_refused_says_why(broker, exchange):
    exchange.price = 1e6
    with pytest.raises(
        BrokerError, match=r"^`order` must be one that Alpaca takes; it refused \(403 insufficient buying power\)"
    ):
        broker.submit(order(10))
    assert broker.status(order(10).client_id) is None


def test_a_cancelled_order_is_gone_and_a_filled_one_stays(broker, exchange):
    broker.submit(order(10))
    broker.cancel(order(10).client_id)
    assert broker.status(order(10).client_id) == "cancelled"
    broker.cancel(order(10).client_id)
    later = order(5, AT + pd.Timedelta("5min"))
    broker.submit(later)
    exchange.fill()
    broker.cancel(later.client_id)
    assert broker.status(later.client_id) == "filled"


def test_an_order_filled_while_it_is_cancelled_is_no_error(broker, exchange, monkeypatch):
    broker.submit(order(10))
    found = broker._find(order(10).client_id)
    exchange.fill()
    monkeypatch.setattr(broker, "_find", lambda _, kept=[dict(found)]: kept.pop() if kept else {"status": "filled"})
    broker.cancel(order(10).client_id)


def test_fills_come_in_pages_and_from_a_time_on(broker, exchange):
    for k in range(30):
        broker.submit(order(1, AT + pd.Timedelta(minutes=5 * k)))
        exchange.fill(parts=4)
    fills = broker.fills("SPY", None)
    assert len(fills) == 120
    assert len({f.fill_id for f in fills}) == 120
    exchange.activities = exchange.activities[:60]
    since = pd.Timestamp("2024-03-01T15:00:30.123456Z")
    assert broker.fills("SPY", since)[0].at <= since
    assert len(broker.fills("SPY", since)) < 60
    assert broker.fills("QQQ", None) == []


@pytest.mark.parametrize(
    ("fault", "error", "message"),
    [
        ((429, {"message": "too many requests."}), BrokerUnreachableError, "429 too many requests"),
        ((503, b"<html>down</html>"), BrokerUnreachableError, "503 no reason given"),
        (("cut", None), BrokerUnreachableError, "must answer"),
        ((200, b""), BrokerUnreachableError, "must answer"),
        ((200, b"no json"), BrokerUnreachableError, "must answer"),
        ((403, {"code": 1, "message": "forbidden."}), BrokerError, "403 forbidden"),
    ],
)
def test_faults_are_named(broker, exchange, fault, error, message):
    exchange.faults = [fault]
    with pytest.raises(error, match=message):
        broker.account()


def test_a_server_that_is_gone_cannot_be_reached(monkeypatch):
    monkeypatch.setenv("APCA_API_KEY_ID", KEY)
    monkeypatch.setenv("APCA_API_SECRET_KEY", SECRET)
    with alpaca_server() as (_, url):
        broker = AlpacaBroker(base_url=url)
    with pytest.raises(BrokerUnreachableError, match="ConnectionError"):
        broker.status("x")


def test_a_blocked_account_is_refused(exchange):
    exchange.blocked = True
    with pytest.raises(BrokerError, match=r"^`account` must be allowed to trade; Alpaca has blocked it"):
        AlpacaBroker(base_url=exchange.url)


def test_paper_is_the_default_and_live_is_asked_for(exchange):
    assert AlpacaBroker(base_url=exchange.url).name == "alpaca-paper"
    assert AlpacaBroker(base_url=exchange.url, live=True).name == "alpaca"
    from alpaca.common.enums import BaseURL
    from alpaca.trading.client import TradingClient

    assert TradingClient(KEY, SECRET, paper=True)._base_url == BaseURL.TRADING_PAPER


@pytest.mark.parametrize(("present", "said"), [((), "neither"), (("APCA_API_KEY_ID",), "one of them only")])
def test_keys_must_be_in_the_environment(monkeypatch, present, said):
    for name in ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY"):
        monkeypatch.delenv(name, raising=False)
    for name in present:
        monkeypatch.setenv(name, KEY)
    with pytest.raises(
        BrokerError,
        match=f"^`APCA_API_KEY_ID` and `APCA_API_SECRET_KEY` must be in the environment; got {said}. "
        "Make paper keys on Alpaca's page, and export both.$",
    ):
        AlpacaBroker()


def test_wrong_keys_are_named_and_never_shown(exchange, monkeypatch, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("APCA_API_SECRET_KEY", "another-secret")
    with pytest.raises(BrokerError, match="must be of Alpaca's paper trading; it refused them") as caught:
        AlpacaBroker(base_url=exchange.url)
    shown = "".join(traceback.format_exception(caught.value)) + caplog.text + "".join(capfd.readouterr())
    assert KEY not in shown
    assert "another-secret" not in shown


def test_nothing_that_is_shown_holds_a_key(broker, exchange, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    errors = []
    for fault in ((500, {"message": "oops"}), ("cut", None)):
        exchange.faults = [fault]
        with pytest.raises(BrokerError) as caught:
            broker.account()
        errors.append("".join(traceback.format_exception(caught.value)))
    shown = "".join(errors) + caplog.text + "".join(capfd.readouterr()) + repr(broker) + repr(broker.account())
    assert KEY not in shown
    assert SECRET not in shown


def test_without_alpacas_client_the_error_names_the_extra():
    code = (
        "import sys; sys.modules['alpaca.trading.client'] = None\n"
        "import os; os.environ |= {'APCA_API_KEY_ID': 'a', 'APCA_API_SECRET_KEY': 'b'}\n"
        "from ensemble_kit.live.alpaca import AlpacaBroker\n"
        "AlpacaBroker()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Run `pip install 'ensemble-kit[alpaca]'`." in done.stderr
