"""One process on a paper account: python paper_worker.py URL N; it may be killed at any moment."""

import sys

import numpy as np

from ensemble_kit.datasets import make_bars
from ensemble_kit.live.orders import Order, client_order_id
from ensemble_kit.live.paper import PaperBroker
from ensemble_kit.live.store import open_store
from ensemble_kit.sizing import Costs
from ensemble_kit.sizing._account import order_units

TERMS = {"costs": Costs(commission_bps=2, commission_min=1, spread_bps=3, borrow_rate=0.1), "max_leverage": 2.0}


def wanted(n):
    """Return the bars, and the weight that is wanted after each of them."""
    return make_bars(n, random_state=3), np.random.default_rng(3).uniform(-2, 2, n)


def drive(broker, bars, weights, *, lot_size=0.0, min_trade=0.0):
    """Give the broker bar by bar, and yield the account after each."""
    for row, (close, weight) in enumerate(zip(bars["close"].to_numpy(), weights, strict=True)):
        broker.begin_bar("SPY", bars.iloc[[row]])
        account = broker.account()
        yield account
        units = order_units(weight, account.equity, close, account.units.get("SPY", 0.0), lot_size, min_trade)
        if units != 0:
            at = bars.index[row]
            broker.submit(Order(client_order_id("kills", "SPY", at), "SPY", at, units, close))


def main():
    """Go through the bars as a trader would that remembers what it has done."""
    url, n = sys.argv[1], int(sys.argv[2])
    bars, weights = wanted(n)
    engine = open_store(url)
    broker = PaperBroker(engine, account="kills", symbol="SPY", **TERMS)
    for row, _ in enumerate(drive(broker, bars, weights)):
        if row == 0:
            sys.stdout.write("ready\n")
            sys.stdout.flush()
    engine.dispose()


if __name__ == "__main__":
    main()
