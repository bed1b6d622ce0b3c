"""Worlds without memory."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.bars import check_bars
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError
from ensemble_kit.metrics import next_open_return, random_walk_bars, surrogate_bars
from ensemble_kit.sessions import Session, session_times

PRICES = ["open", "high", "low", "close"]
NEW_YORK = Session("09:30", "16:00", "America/New_York")


@pytest.fixture(scope="module")
def bars():
    return make_bars(1500, random_state=0)


def shapes(bars):
    """Prices by the close before, and volume: what is shuffled."""
    made = bars[PRICES].div(bars["close"].shift(1), axis=0)
    made["volume"] = bars["volume"]
    return made[1:]


def test_surrogate_keeps_index_first_row_and_bars(bars):
    before = bars.copy()
    surrogate = surrogate_bars(bars, random_state=0)
    pd.testing.assert_frame_equal(bars, before)
    assert surrogate.index.equals(bars.index)
    assert surrogate.columns.equals(bars.columns)
    pd.testing.assert_series_equal(surrogate.iloc[0], bars.iloc[0])
    check_bars(surrogate)
    assert (surrogate["close"] != bars["close"])[1:-1].mean() > 0.9
    # The same bars in another order end where they ended.
    assert surrogate["close"].iloc[-1] == pytest.approx(bars["close"].iloc[-1])


@pytest.mark.parametrize("session", ["day", NEW_YORK, "XNYS"])
def test_surrogate_keeps_the_shapes_of_each_time_of_day(session):
    # Six weeks around the change of clocks: by exchange, not by UTC, the open stays the open.
    bars = make_bars(1200, bar="15min", start="2022-02-21", random_state=1)
    surrogate = surrogate_bars(bars, session=session, random_state=0)
    minute = session_times(bars.index, session).minute[1:]
    old, new = shapes(bars), shapes(surrogate)
    for slot in np.unique(minute):
        at = minute == slot
        mine = [np.array(sorted(map(tuple, frame[at].to_numpy()))) for frame in (old, new)]
        np.testing.assert_allclose(*mine, rtol=1e-9)


def test_surrogate_is_seeded(bars):
    pd.testing.assert_frame_equal(surrogate_bars(bars, random_state=3), surrogate_bars(bars, random_state=3))
    assert not surrogate_bars(bars, random_state=3).equals(surrogate_bars(bars, random_state=4))


def daily_bars(returns):
    close = 100 * np.exp(np.cumsum(returns))
    index = pd.date_range("2000-01-03", periods=len(close), freq="D", tz="UTC", name="datetime")
    return pd.DataFrame({"open": close, "high": close, "low": close, "close": close, "volume": 1.0}, index=index)


def test_surrogate_has_no_memory():
    rng = np.random.default_rng(0)
    shock = rng.normal(size=4000) * 0.01
    returns = np.empty_like(shock)
    returns[0] = shock[0]
    for t in range(1, len(shock)):
        returns[t] = 0.5 * returns[t - 1] + shock[t]
    bars = daily_bars(returns)

    def memory(frame):
        step = np.diff(np.log(frame["close"]))
        return np.corrcoef(step[1:], step[:-1])[0, 1]

    assert memory(bars) == pytest.approx(0.5, abs=0.05)
    found = [memory(surrogate_bars(bars, random_state=seed)) for seed in range(5)]
    assert np.abs(found).max() < 4 / np.sqrt(len(bars))


def test_rows_without_prices_stay_at_the_new_level(bars):
    holes = bars.copy()
    holes.iloc[[0, 1, 700, 701, 1499], :4] = np.nan
    holes.iloc[500, 3] = np.nan  # a high that lost its close
    surrogate = surrogate_bars(holes, random_state=0)
    pd.testing.assert_frame_equal(surrogate.isna(), holes.isna())
    check_bars(surrogate)
    pd.testing.assert_series_equal(surrogate.iloc[2], holes.iloc[2])  # the first whole one
    assert surrogate["high"].iloc[500] / surrogate["close"].iloc[499] == pytest.approx(
        holes["high"].iloc[500] / holes["close"].iloc[499]
    )
    assert surrogate["close"].iloc[499] != pytest.approx(holes["close"].iloc[499])


def test_instruments_are_shuffled_apart():
    panel = make_bars(1200, instruments=["A", "B"], random_state=0)
    surrogate = surrogate_bars(panel, random_state=0)
    check_bars(surrogate)
    assert surrogate.index.equals(panel.index)
    moves = {}
    for name in ("A", "B"):
        one, other = panel.xs(name, level=1), surrogate.xs(name, level=1)
        # Each volume is unique: it tells where every bar went.
        assert sorted(other["volume"]) == sorted(one["volume"])
        moves[name] = np.searchsorted(np.sort(one["volume"]), other["volume"]), np.argsort(one["volume"]).to_numpy()
    places = [order[at] for at, order in moves.values()]
    assert (places[0] != places[1]).mean() > 0.5


def test_an_instrument_without_prices_stays_as_it_is():
    panel = make_bars(1200, instruments=["A", "B", "C"], random_state=0)
    nothing = panel.index.get_level_values(1) == "B"
    panel.loc[nothing, PRICES] = np.nan
    surrogate = surrogate_bars(panel, random_state=0)
    pd.testing.assert_frame_equal(surrogate[nothing], panel[nothing])
    pd.testing.assert_frame_equal(surrogate[~nothing], surrogate_bars(panel[~nothing], random_state=0))
    assert (surrogate["close"] != panel["close"])[~nothing].mean() > 0.8


@pytest.mark.parametrize("world", [surrogate_bars, random_walk_bars])
def test_the_order_of_categories_changes_nothing(world):
    panel = make_bars(400, instruments=["A", "B", "C"], random_state=0)
    times, names = (panel.index.get_level_values(level) for level in (0, 1))
    for order in ("ABC", "CAB"):
        other = panel.set_axis(
            pd.MultiIndex.from_arrays([times, pd.Categorical(names, list(order))], names=panel.index.names)
        )
        found = world(other, random_state=0).set_axis(panel.index)
        pd.testing.assert_frame_equal(found, world(panel, random_state=0))


def test_columns_of_other_names_go_with_their_bar(bars):
    more = bars.assign(volume=np.arange(len(bars)), adj_close=bars["close"] / 2, note=np.arange(len(bars)).astype(str))
    surrogate = surrogate_bars(more, random_state=0)
    source = surrogate["volume"].to_numpy().astype(int)
    np.testing.assert_array_equal(surrogate["adj_close"], more["adj_close"].to_numpy()[source])
    pd.testing.assert_series_equal(surrogate["note"], more["note"])


def test_columns_of_price_move_with_it(bars):
    more = bars.assign(
        vwap=bars[["high", "low", "close"]].mean(axis=1),
        bid=bars["close"] * 0.999,
        ask=bars["close"] * 1.001,
        ask_size=np.arange(len(bars), dtype=float),
        symbol="SPY",
    )
    more.loc[more.index[50], "vwap"] = np.nan
    surrogate = surrogate_bars(more, random_state=0)
    np.testing.assert_allclose(surrogate["bid"], surrogate["close"] * 0.999)
    np.testing.assert_allclose(surrogate["ask"], surrogate["close"] * 1.001)
    typical = surrogate[["high", "low", "close"]].mean(axis=1)
    known = surrogate["vwap"].notna()
    np.testing.assert_allclose(surrogate["vwap"][known], typical[known])
    assert (~known).sum() == 1
    # Sizes are taken along as they are, and say which bar went where.
    source = surrogate["ask_size"].to_numpy().astype(int)
    assert sorted(source) == list(range(len(bars)))
    np.testing.assert_array_equal(surrogate["volume"], bars["volume"].to_numpy()[source])
    assert (surrogate["symbol"] == "SPY").all()


def test_a_single_day_cannot_be_shuffled(bars):
    with pytest.warns(UserWarning, match="of the surrogate bars are the bars themselves"):
        surrogate = surrogate_bars(bars[:50], random_state=0)
    pd.testing.assert_frame_equal(surrogate, bars[:50])


# ------------------------------------------------------------------------------ random_walk_bars


def log_shapes(bars):
    """Log-prices less the close before, of all bars but the first."""
    logs = np.log(bars[PRICES])
    return logs.sub(logs["close"].shift(1), axis=0)[1:].to_numpy()


def upside_down(shapes):
    return -shapes[:, [0, 2, 1, 3]]


def test_each_bar_of_a_walk_is_itself_or_upside_down(bars):
    before = bars.copy()
    walk = random_walk_bars(bars, random_state=0)
    pd.testing.assert_frame_equal(bars, before)
    check_bars(walk)
    assert walk.index.equals(bars.index)
    assert walk.columns.equals(bars.columns)
    pd.testing.assert_series_equal(walk.iloc[0], bars.iloc[0])
    pd.testing.assert_series_equal(walk["volume"], bars["volume"])
    old, new = log_shapes(bars), log_shapes(walk)
    same = np.isclose(new, old, atol=1e-12).all(axis=1)
    turned = np.isclose(new, upside_down(old), atol=1e-12).all(axis=1)
    assert (same | turned).all()
    assert 0.45 < turned.mean() < 0.55


def test_walk_is_seeded(bars):
    pd.testing.assert_frame_equal(random_walk_bars(bars, random_state=3), random_walk_bars(bars, random_state=3))
    assert not random_walk_bars(bars, random_state=3).equals(random_walk_bars(bars, random_state=4))


@pytest.mark.parametrize(
    "name", ["spy_5min_2022_2023", "vxx_1h_2009_2021", "xauusd_1min_2014-05", "spy_1min_bidask", "spy_ext_5min_2025"]
)
def test_walks_of_real_bars_are_bars(shared_data, name):
    real = read_bars(shared_data / f"{name}.parquet")[:20_000]
    for seed in range(3):
        walk = check_bars(random_walk_bars(real, random_state=seed))
        known = real["close"].notna()
        assert walk["close"].notna().equals(known)
        if "bid" in real:
            crossed, now = (frame["bid"] > frame["ask"] for frame in (real, walk))
            pd.testing.assert_series_equal(crossed, now)


def large_bars(n, rng, gap=0.0):
    """Bars that move so far that a fair coin would be seen to drift."""
    r = rng.choice([-0.5, 0.3], size=n)
    close = 100 * np.exp(np.cumsum(r))
    opened = np.concatenate([[100.0], close[:-1]]) * np.exp(gap)
    index = pd.date_range("2000-01-03", periods=n, freq="D", name="datetime")
    frame = pd.DataFrame({"open": opened, "close": close}, index=index)
    return frame.assign(high=frame.max(axis=1), low=frame.min(axis=1), volume=1.0)[[*PRICES, "volume"]]


def test_the_close_of_a_walk_is_a_martingale_whatever_is_known():
    real = large_bars(1500, np.random.default_rng(0))
    old = np.diff(np.log(real["close"]))
    returns = np.array([random_walk_bars(real, random_state=s)["close"].pct_change()[1:] for s in range(100)])
    # Of bars that rose, and of bars that fell; a fair coin would give +0.05 and +0.13.
    for kind in (old > 0, old < 0):
        sample = returns[:, kind].ravel()
        assert abs(sample.mean()) < 3.5 * sample.std() / np.sqrt(len(sample))
        up = 1 / (1 + np.exp(np.abs(old[kind][0])))
        assert (sample > 0).mean() == pytest.approx(up, abs=0.005)
    # Nor does the move before tell anything.
    before, after = np.sign(returns[:, :-1]).ravel(), returns[:, 1:].ravel()
    assert abs((before * after).mean()) < 3.5 * after.std() / np.sqrt(len(after))


def test_the_open_of_a_walk_is_what_its_notes_say():
    gap = 0.25
    real = large_bars(1500, np.random.default_rng(0), gap=gap)
    r = np.diff(np.log(real["close"]))
    expected = np.cosh(gap - r / 2) / np.cosh(r / 2) - 1
    walks = (random_walk_bars(real, random_state=s) for s in range(100))
    found = np.array([(walk["open"] / walk["close"].shift(1) - 1)[1:] for walk in walks])
    for kind in (r > 0, r < 0):
        sample = found[:, kind].ravel()
        assert sample.mean() == pytest.approx(expected[kind][0], abs=3.5 * sample.std() / np.sqrt(len(sample)))


def test_positions_earn_nothing_on_walks(shared_data):
    real = read_bars(shared_data / "spy_5min_2022_2023.parquet")
    original = np.sign(real["close"].diff())  # what the true path did tells nothing, either
    earned = {"always": [], "momentum": [], "true path": []}
    for seed in range(20):
        walk = random_walk_bars(real, random_state=seed)
        ahead = next_open_return(walk)
        for name, position in (("always", 1.0), ("momentum", np.sign(walk["close"].diff())), ("true path", original)):
            earned[name].append((position * ahead).mean())
    for means in earned.values():
        assert abs(np.mean(means)) < 3.5 * np.std(means, ddof=1) / np.sqrt(len(means))


def test_a_walk_forgets_direction_and_keeps_volatility():
    rng = np.random.default_rng(0)
    calm = np.repeat(rng.choice([0.002, 0.02], size=80), 50)
    shock = rng.normal(size=4000) * calm
    returns = np.convolve(shock, [1, 0.8])[:4000]
    bars = daily_bars(returns)
    moves = [np.diff(np.log(frame["close"])) for frame in (bars, random_walk_bars(bars, random_state=0))]

    def memory(x):
        return np.corrcoef(x[1:], x[:-1])[0, 1]

    assert memory(moves[0]) > 0.3
    assert abs(memory(moves[1])) < 4 / np.sqrt(len(moves[1]))
    np.testing.assert_allclose(np.abs(moves[1]), np.abs(moves[0]), atol=1e-12)


def test_unknown_prices_of_a_walk(bars):
    holes = bars.copy()
    holes.iloc[[0, 1, 700, 701, 1499], :4] = np.nan
    holes.iloc[2, 3] = np.nan  # no close yet: as it was
    holes.iloc[500, 3] = np.nan
    holes.iloc[600:1200:10, 1] = np.nan
    walk = check_bars(random_walk_bars(holes, random_state=0))
    for column in ("open", "close", "volume"):
        assert walk[column].isna().equals(holes[column].isna())
    pd.testing.assert_frame_equal(walk[:4], holes[:4])
    # Shapes are measured from the last known close, over the holes.
    last = [frame["close"].ffill().shift(1) for frame in (holes, walk)]
    move = [np.log(frame["close"] / level)[4:] for frame, level in zip((holes, walk), last, strict=True)]
    np.testing.assert_allclose(move[1].abs(), move[0].abs(), atol=1e-12)
    opened = [np.log(frame["open"] / level).iloc[500] for frame, level in zip((holes, walk), last, strict=True)]
    assert abs(opened[1]) == pytest.approx(abs(opened[0]))
    # An unknown high is an unknown low in a bar turned over.
    turned = (np.sign(move[1]) != np.sign(move[0])).reindex(bars.index, fill_value=False) & holes["close"].notna()
    lost = holes["high"].isna() & holes["close"].notna()
    assert (walk["low"].isna() & lost).sum() > 10
    pd.testing.assert_series_equal(walk["low"].isna() & lost, turned & lost, check_names=False)


def test_the_open_of_a_bar_without_a_close_is_not_foreseen():
    real = large_bars(1500, np.random.default_rng(0), gap=0.25)
    real.iloc[1::2, [1, 2, 3]] = np.nan
    walks = (random_walk_bars(real, random_state=s) for s in range(40))
    found = np.array([(walk["open"] / walk["close"].shift(1))[1::2] for walk in walks]).ravel()
    np.testing.assert_allclose(np.unique(found.round(9)), np.exp([-0.25, 0.25]), atol=1e-8)
    assert found.mean() == pytest.approx(1.0, abs=3.5 * found.std() / np.sqrt(len(found)))


def test_bid_becomes_ask_upside_down(bars):
    quoted = bars.assign(
        vwap=bars[["high", "low"]].mean(axis=1),
        bid=bars["close"] * 0.999,
        ask=bars["close"] * 1.002,
        bid_size=np.arange(len(bars), dtype=float),
        ask_size=-1.0,
        symbol="SPY",
    )
    quoted.loc[quoted.index[7], "bid"] = np.nan
    walk = check_bars(random_walk_bars(quoted, random_state=0))
    turned = np.r_[False, np.isclose(log_shapes(walk), upside_down(log_shapes(bars)), atol=1e-12).all(axis=1)]
    assert 0.4 < turned.mean() < 0.6
    spread = {True: (1 / 1.002, 1 / 0.999), False: (0.999, 1.002)}
    for now, (bid, ask) in spread.items():
        rows = (turned == now) & (np.arange(len(bars)) != 7)
        np.testing.assert_allclose(walk["bid"][rows] / walk["close"][rows], bid)
        np.testing.assert_allclose(walk["ask"][rows] / walk["close"][rows], ask)
    assert walk[["bid", "ask"]].isna().iloc[7].tolist() == [not turned[7], turned[7]]
    np.testing.assert_array_equal(walk["bid_size"], np.where(turned, -1.0, quoted["bid_size"]))
    np.testing.assert_array_equal(walk["ask_size"], np.where(turned, quoted["bid_size"], -1.0))
    assert walk["vwap"].between(walk["low"], walk["high"]).all()
    assert (walk["symbol"] == "SPY").all()


def test_a_book_without_bids_is_one_without_offers_upside_down(bars):
    empty = bars.assign(bid=0.0, ask=bars["close"] * 1.001)
    walk = random_walk_bars(empty, random_state=0)
    assert 0.4 < np.isinf(walk["ask"]).mean() < 0.6
    assert (walk["bid"] == 0).equals(~np.isinf(walk["ask"]))


@pytest.mark.parametrize(("column", "other"), [("bid", "ask"), ("ask_size", "bid_size")])
def test_half_a_book_has_no_other_side(bars, column, other):
    with pytest.raises(BarsError, match=f"`bars` must have {other} beside {column}, or neither"):
        random_walk_bars(bars.assign(**{column: bars["close"]}))


def test_instruments_that_move_together_turn_together():
    one = make_bars(400, random_state=0)
    late = make_bars(400, random_state=1)[250:]
    frames = {"A": one, "B": one * [2, 2, 2, 2, 1], "C": late, "D": one[7:8], "E": one[50:53]}
    panel = pd.concat(frames, names=["instrument", "datetime"]).swaplevel().sort_index()
    walk = check_bars(random_walk_bars(panel, random_state=0))
    assert walk.index.equals(panel.index)
    apart = {name: walk.xs(name, level=1) for name in frames}
    np.testing.assert_allclose(apart["B"][PRICES], 2 * apart["A"][PRICES])
    for name, frame in frames.items():
        pd.testing.assert_series_equal(apart[name].iloc[0], frame.iloc[0])
        old, new = log_shapes(frame), log_shapes(apart[name])
        same = np.isclose(new, old, atol=1e-12).all(axis=1)
        assert (same | np.isclose(new, upside_down(old), atol=1e-12).all(axis=1)).all()
    # At each time one coin: of bars that closed higher or lower alike, A and C do the same.
    common = late.index.intersection(one.index)
    kept = [
        np.sign(apart[name].loc[common, "close"].diff()) == np.sign(frames[name].loc[common, "close"].diff())
        for name in ("A", "C")
    ]
    assert (kept[0] == kept[1]).mean() > 0.99
