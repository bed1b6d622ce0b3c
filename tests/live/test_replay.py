"""The whole loop on bars of the past is the backtest, to the cent, also where it was cut off."""

import re

import numpy as np
import pandas as pd
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler
from sqlalchemy import event
from trading_parts import BARS, COSTS, HISTORY, LIVE, batch_positions, make_trader, quick_store

from ensemble_kit.datasets import read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features import Alpha158, SessionFeatures
from ensemble_kit.labels import next_direction
from ensemble_kit.live.journal import Journal
from ensemble_kit.live.paper import PaperBroker
from ensemble_kit.live.replay import replay
from ensemble_kit.live.trader import Trader
from ensemble_kit.sizing import KellySizer, SizedClassifier, backtest
from ensemble_kit.tracking.intake import intake_terms
from ensemble_kit.validation import WalkForwardSplit


class CutOff(BaseException):
    """What a kill is to a program that is not killed."""


@pytest.fixture
def store(tmp_path):
    made = []

    def make(name="live"):
        made.append(quick_store(tmp_path / f"{name}.db"))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


def run(engine, bars, **more):
    trader = make_trader(engine, **more)
    try:
        return replay(trader, bars, history=HISTORY)
    finally:
        trader.close()


def everything(engine):
    """Return all that a journal and a broker hold, as plain rows, in an order of their own."""
    journal = Journal(engine, account="SPY")
    broker = PaperBroker(engine, account="SPY", symbol="SPY", costs=COSTS)
    fills = broker.fills("SPY", None)
    state = broker.account()
    return {
        "bars": journal.bars().to_csv(),
        "decisions": journal.decisions(),
        "orders": journal.orders(),
        "fills": [(fill.client_id, fill.at, fill.units, fill.price, fill.commission) for fill in journal.fills()],
        "broker": [(fill.client_id, fill.at, fill.units, fill.price, fill.commission) for fill in fills],
        "account": (state.cash, state.equity, state.units),
        "open": broker.open_orders(),
    }


@pytest.mark.parametrize("lot_size", [0.0, 1.0])
def test_a_replay_is_the_backtest(store, lot_size):
    result = run(store(), LIVE, lot_size=lot_size)
    position = batch_positions(BARS).loc[LIVE.index]
    np.testing.assert_allclose(result.position, position, rtol=0, atol=1e-12)
    expected = backtest(LIVE, position, costs=COSTS, lot_size=lot_size)
    assert result.differences(expected) == []
    assert len(result.fills) == len(expected.fills) > len(LIVE)
    np.testing.assert_allclose(result.equity, expected.equity, rtol=0, atol=1e-6)


def test_what_is_not_the_backtest_is_said(store):
    result = run(store(), LIVE[:50])
    assert re.fullmatch(r"equity at 4\d of 50 closes, .*", result.differences(backtest(LIVE[:50], result.position))[0])
    assert result.differences(backtest(LIVE[:49], result.position[:49], costs=COSTS)) == [
        "equity on 50 bars against 49"
    ]
    *_, last = result.differences(backtest(LIVE[:50], 0 * result.position, costs=COSTS))
    assert last == f"{len(result.fills)} fills against 0"


def test_cut_off_before_every_commit_it_is_the_same(store):
    bars = LIVE[:4]
    whole = store("whole")
    run(whole, bars)
    expected = everything(whole)
    assert len(expected["fills"]) >= 3

    commits = 0
    while True:
        commits += 1
        engine, left = store(f"cut{commits}"), [commits]

        def count(_, left=left):
            left[0] -= 1
            if left[0] == 0:
                raise CutOff

        event.listen(engine, "commit", count)
        try:
            run(engine, bars)
        except CutOff:
            run(engine, bars)
            assert everything(engine) == expected, commits
        else:
            break
        finally:
            engine.dispose()
    assert commits > 5 * len(bars)


def test_a_replay_goes_on_with_the_bars_that_are_left(store):
    engine, seen = store(), []
    run(engine, LIVE[:50])
    trader = make_trader(engine)
    result = replay(trader, LIVE, history=HISTORY, after_bar=seen.append)
    trader.close()
    assert [outcome.status for outcome in seen] == ["taken"] * (len(LIVE) - 50)
    assert trader.model.started == 1
    assert len(result.equity) == len(LIVE)
    assert result.differences(backtest(LIVE, result.position, costs=COSTS)) == []


def test_other_bars_are_refused(store):
    engine = store()
    run(engine, LIVE[:20])
    other = LIVE.copy()
    other.iloc[7, 3] += 0.01
    other["high"] = other["high"] + 1
    with pytest.raises(
        BarsError, match=r"^`bars` must be those that the journal has replayed; they differ at .* \(20 "
    ):
        run(engine, other)
    with pytest.raises(BarsError, match=r"^`bars` must reach over what the journal has replayed, .*begin another jou"):
        run(engine, LIVE[10:])


def test_a_replay_of_nothing_says_why(store):
    bad = LIVE[:3].assign(close=np.nan)
    with pytest.raises(
        EnsembleKitError, match=r"none was\. The journal's refusals say why: \['no price: close is NaN'"
    ):
        run(store(), bad)


def test_bars_without_a_price_are_left_out(store):
    bars = LIVE[:40].copy()
    bars.iloc[10, :4] = np.nan
    result = run(store(), bars)
    assert [refusal.time for refusal in result.refused] == [bars.index[10]]
    assert len(result.equity) == 39
    assert result.differences(backtest(result.bars, result.position, costs=COSTS)) == []


@pytest.fixture(scope="module")
def spy(shared_data):
    """A month of SPY, the months before it, and a model fitted on those."""
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet")
    bars = bars[["open", "high", "low", "close", "volume"]].loc["2022-11-01":"2023-03-31"].dropna()
    history, month = bars[:"2023-02-28"], bars["2023-03-01":]
    labels = next_direction(history)
    X, y = labels.align(history)
    features = make_union(SessionFeatures("XNYS"), Alpha158())
    inner = make_pipeline(
        features, SimpleImputer(keep_empty_features=True), StandardScaler(), LogisticRegression(C=0.01, max_iter=200)
    )
    sizer = KellySizer(fraction=1.0, conservatism=0.0)
    model = SizedClassifier(inner, sizer, cv=WalkForwardSplit(2, t1=labels.t1)).fit(X, y)
    return model, intake_terms(model, X, session="XNYS"), history, month


@pytest.mark.parametrize("lot_size", [0.0, 1.0])
@pytest.mark.parametrize("days", [2, pytest.param(23, marks=pytest.mark.slow)])
def test_a_month_of_spy_is_the_backtest(store, spy, lot_size, days):
    model, card, history, month = spy
    month = month[: 78 * days]
    engine = store()
    terms = {"costs": COSTS, "lot_size": lot_size}
    trader = Trader(
        model,
        card=card,
        version="SPY/1",
        journal=Journal(engine, account="SPY"),
        broker=PaperBroker(engine, account="SPY", symbol="SPY", **terms),
        symbol="SPY",
        lot_size=lot_size,
    )
    result = replay(trader, month, history=history[-600:])
    trader.close()
    batch = pd.Series(model.predict_position(pd.concat([history, month]))[len(history) :], month.index)
    np.testing.assert_allclose(result.position, batch, rtol=0, atol=1e-6)
    expected = backtest(month, result.position, **terms)
    assert result.differences(expected) == []
    assert len(result.fills) == len(expected.fills) > len(month) / 2
    # A millionth of the position is ten cents of 100,000 in an order, and what prices make of them in the equity.
    of_batch = backtest(month, batch, **terms)
    assert len(of_batch.fills) == len(expected.fills)
    apart = (result.equity - of_batch.equity).abs().max()
    assert apart < 0.01
    print(  # noqa: T201 - counts for whoever runs it with -s
        f"\nlot size {lot_size:g}: {len(month)} bars, {len(result.fills)} fills, equity {result.equity.iloc[-1]:.2f}; "
        f"from the batch's positions {(result.position - batch).abs().max():.1e}, equity {apart:.1e} apart"
    )
