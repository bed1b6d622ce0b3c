"""A replay that is killed again and again does what one does that is left alone: no order lost, none doubled."""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from trading_parts import HISTORY, LIVE, make_trader, quick_store

from ensemble_kit.live.replay import replay
from ensemble_kit.live.store import open_store

SCRIPT = Path(__file__).with_name("killed_replay.py")


def start(url, n_bars, **environment):
    command = [sys.executable, str(SCRIPT), str(url), str(n_bars)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | environment)


def end(process):
    try:
        return process.wait(timeout=300)
    finally:
        process.kill()
        process.stdout.close()


def state_of(engine):
    """Return what a journal and a broker hold, and check that they agree."""
    trader = make_trader(engine)
    journal, broker = trader.journal, trader.broker
    orders, fills = journal.orders(), journal.fills()
    assert journal.undecided() is None
    ids = [entry.order.client_id for entry in orders]
    assert len(set(ids)) == len(ids)
    decided = [decision.client_id for decision in journal.decisions() if decision.client_id]
    assert sorted(decided) == sorted(ids)
    assert [decision.time for decision in journal.decisions()] == [*journal.bars(since=LIVE.index[0]).index]
    assert broker.fills("SPY", None) == fills
    for entry in orders[:-1]:  # the newest waits for a bar that never comes
        assert entry.state == "filled"
        mine = [fill.units for fill in fills if fill.client_id == entry.order.client_id]
        assert abs(sum(mine) - entry.order.units) < 1e-9
    account = broker.account()
    return {
        "decisions": journal.decisions(),
        "orders": orders,
        "fills": [(fill.client_id, fill.at, fill.units, fill.price, fill.commission) for fill in fills],
        "open": [order.client_id for order in broker.open_orders()],
        "account": (account.cash, account.equity, account.units),
        "equity": journal.equity().to_dict(),
    }


def uninterrupted(path, n_bars):
    engine = quick_store(path)
    trader = make_trader(engine)
    replay(trader, LIVE[:n_bars], history=HISTORY)
    trader.close()
    state = state_of(engine)
    engine.dispose()
    return state


def check(url, expected):
    engine = open_store(url)
    try:
        assert state_of(engine) == expected
    finally:
        engine.dispose()


def test_killed_at_four_points(tmp_path):
    expected = uninterrupted(tmp_path / "whole.db", 12)
    # One after the other: while the bar is new, after the broker's fills, before an order is sent, and after it.
    for commits in (9, 6, 13, 8):
        assert end(start(tmp_path / "killed.db", 12, KILL_AT=str(commits))) == -9
    assert end(start(tmp_path / "killed.db", 12)) == 0
    check(tmp_path / "killed.db", expected)


def run_with_kills(url, n_bars, kills, seed):
    """Kill a replay at random: half at moments, half between two commits that are chosen beforehand."""
    chance, killed = random.Random(seed), Counter()
    while sum(killed.values()) < kills:
        if chance.random() < 0.5:
            how, process = "between two commits", start(url, n_bars, KILL_AT=str(chance.randint(1, 14)))
        else:
            how, process = "at a moment", start(url, n_bars)
            assert process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.0, 0.25))
            process.kill()
        killed[how] += 1
        assert end(process) == -9, "it was done before it was killed"
    assert end(start(url, n_bars)) == 0
    return killed


@pytest.mark.slow
def test_fifty_kills(tmp_path):
    expected = uninterrupted(tmp_path / "whole.db", 120)
    killed = run_with_kills(tmp_path / "killed.db", 120, 50, seed=0)
    check(tmp_path / "killed.db", expected)
    orders, fills = expected["orders"], expected["fills"]
    print(  # noqa: T201 - counts for whoever runs it with -s
        f"\n{dict(killed)}: {len(orders)} orders, {len(fills)} fills, equity {expected['account'][1]:.2f}, as without"
    )


@pytest.mark.slow
def test_kills_on_postgresql(tmp_path, postgres):
    expected = uninterrupted(tmp_path / "whole.db", 60)
    killed = run_with_kills(postgres, 60, 12, seed=1)
    check(postgres, expected)
    print(  # noqa: T201 - counts for whoever runs it with -s
        f"\n{dict(killed)} on PostgreSQL: {len(expected['orders'])} orders, {len(expected['fills'])} fills, as without"
    )


def test_a_second_process_is_refused(tmp_path):
    engine = quick_store(tmp_path / "one.db")
    trader = make_trader(engine)
    trader.resume()
    command = [sys.executable, str(SCRIPT), str(tmp_path / "one.db"), "3"]
    second = subprocess.run(command, capture_output=True, text=True, check=False)
    assert f"`account` must be traded by one process; 'SPY' is by process {os.getpid()} on " in second.stderr
    trader.close()
    engine.dispose()
