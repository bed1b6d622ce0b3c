"""What the tests of the trading loop share: a model that is cheap and trades, brokers with faults, real models."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
from sqlalchemy import event

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BrokerError, BrokerUnreachableError
from ensemble_kit.live.journal import Journal
from ensemble_kit.live.orders import AccountState, Fill
from ensemble_kit.live.paper import PaperBroker
from ensemble_kit.live.store import open_store
from ensemble_kit.live.trader import Trader
from ensemble_kit.sizing import Costs
from ensemble_kit.streams.position import Answer
from ensemble_kit.tracking.intake import intake_terms

BARS = make_bars(220, random_state=0)
HISTORY, LIVE = BARS[:100], BARS[100:]
CARD = intake_terms(SimpleNamespace(lookback=3), HISTORY, session="XNYS")
COSTS = Costs(commission_bps=1.0, commission_min=0.5, spread_bps=2.0, borrow_rate=0.05)


class Momentum:
    """Holds what the last three closes did: a position that changes its size and its sign at every bar."""

    sizer_ = SimpleNamespace(horizon=0, classes_=np.array(["down", "up"]))

    def __init__(self, scale=200.0, fail_at=()):
        self.scale, self.fail_at, self.started = scale, set(fail_at), 0

    def stream(self, history):
        self.started += 1
        return MomentumStream(self, history)


class MomentumStream:
    def __init__(self, model, history):
        self.model, self.closes, self.newest = model, list(history["close"].iloc[-3:]), history.index[-1]

    def update(self, bar):
        assert bar.index[0] > self.newest
        self.newest = bar.index[0]
        self.closes = [*self.closes[-2:], float(bar["close"].iloc[0])]
        if bar.index[0] in self.model.fail_at:
            raise RuntimeError("out of memory")
        position = float(np.tanh(self.model.scale * (self.closes[-1] / self.closes[0] - 1)))
        return Answer(bar.index[0], np.array([0.5 - position / 2, 0.5 + position / 2]), position)


def batch_positions(bars, scale=200.0):
    close = bars["close"]
    return np.tanh(scale * (close / close.shift(2) - 1))


def quick_store(path):
    """Open a store that does not wait for the disk: a killed process loses nothing by that, only a power cut does."""
    engine = open_store(path)
    engine.dispose()
    event.listen(engine, "connect", lambda connection, _: connection.execute("PRAGMA synchronous=OFF"))
    return engine


class Clock:
    """A clock that is set."""

    def __init__(self, now=LIVE.index[0]):
        self.now = now

    def __call__(self):
        return self.now


def make_trader(engine, *, model=None, account="SPY", broker=None, clock=None, costs=COSTS, lot_size=0.0, **more):
    broker = broker or PaperBroker(engine, account=account, symbol="SPY", costs=costs, lot_size=lot_size)
    return Trader(
        model or Momentum(),
        card=CARD,
        version="SPY/1",
        journal=Journal(engine, account=account),
        broker=broker,
        symbol="SPY",
        lot_size=lot_size,
        clock=clock or Clock(),
        **more,
    )


class Exchange:
    """A broker in memory whose orders are filled when `fill` is called, with faults where they are set.

    `down` holds the methods that cannot be reached, `lose_reply` lets an order arrive but not its answer,
    and a `slow` one arrives only when it is told to `land`.
    """

    name = "exchange"

    def __init__(self, cash=100_000.0):
        self.cash, self.held, self.price = cash, 0.0, 100.0
        self.orders, self.states, self.traded = {}, {}, []
        self.down, self.lose_reply, self.refuse, self.stubborn, self.submitted = set(), False, False, False, []
        self.slow, self.flying = False, None

    def _check(self, method):
        if method in self.down:
            raise BrokerError("no route to the broker.")

    def begin_bar(self, symbol, bar):
        self._check("begin_bar")
        self.price = float(bar["close"].iloc[0])

    def fill(self, share=1.0):
        for client_id, state in self.states.items():
            if state == "open":
                order = self.orders[client_id]
                units = order.units * share
                at = order.decided_at + pd.Timedelta(minutes=5)
                number = str(len(self.traded))
                self.traded.append(Fill(number, client_id, "SPY", at, units, self.price, 0.0))
                self.cash -= units * self.price
                self.held += units
                if share == 1.0:
                    self.states[client_id] = "filled"

    def account(self):
        self._check("account")
        return AccountState(self.cash + self.held * self.price, self.cash, {"SPY": self.held})

    def submit(self, order):
        self.submitted.append(order.client_id)
        self._check("submit")
        if self.slow:
            self.flying = order
            raise BrokerUnreachableError("no answer in time.")
        if self.refuse:
            self.states[order.client_id] = "rejected"
            raise BrokerError("no buying power.")
        if order.client_id not in self.orders:
            self.orders[order.client_id], self.states[order.client_id] = order, "open"
        if self.lose_reply:
            raise BrokerError("the connection was cut.")

    def land(self):
        """Let an order arrive whose sender has given up waiting."""
        self.orders[self.flying.client_id], self.states[self.flying.client_id] = self.flying, "open"

    def status(self, client_id):
        self._check("status")
        return self.states.get(client_id)

    def open_orders(self):
        return [order for client_id, order in self.orders.items() if self.states[client_id] == "open"]

    def cancel(self, client_id):
        if self.states[client_id] == "open" and not self.stubborn:
            self.states[client_id] = "cancelled"

    def fills(self, symbol, since):
        self._check("fills")
        return [fill for fill in self.traded if since is None or fill.at >= since]
