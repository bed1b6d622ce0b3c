"""Triple barrier: against brute force, and known no sooner than `t1` says."""

import json
import pickle
import re

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.labels.events import average_uniqueness, cusum_events, ewm_volatility
from ensemble_kit.labels.triple_barrier import triple_barrier

PRICES = ["open", "high", "low", "close"]


def random_bars(n=260, *, seed=0, instruments=None, holes=0.0):
    """Bars with overnight gaps; instruments come and go, rows and single prices are not known."""
    rng = np.random.default_rng(seed)
    bars = make_bars(n, instruments=instruments, bar="30min", random_state=seed)
    if instruments is not None:
        name = bars.index.get_level_values(1)
        row = bars.groupby(name).cumcount()
        bars = bars[(name == instruments[0]) | ((row >= 25) & (row < n - 10) & (rng.random(len(bars)) > 0.1))]
    if holes:
        bars[PRICES] = bars[PRICES].where(rng.random((len(bars), 4)) > holes / 4)
        bars.loc[rng.random(len(bars)) < holes] = np.nan
        bars.iloc[100:112] = np.nan
    return bars


def one_at_a_time(bars):
    if isinstance(bars.index, pd.MultiIndex):
        names = bars.index.unique(level=1)
        return [(bars.xs(name, level=1), bars.index.get_locs([slice(None), name])) for name in names]
    return [(bars, np.arange(len(bars)))]


def random_side(bars, seed=5):
    return pd.Series(np.random.default_rng(seed).choice([-1, 0, 1], len(bars), p=[0.4, 0.2, 0.4]), index=bars.index)


def follow(bars, t, bet, target, horizon, profit, stop):
    """Exit, barrier and return of one bet, bar by bar in the order of events."""
    o, h, l, c = (bars[column].to_numpy() for column in PRICES)
    sign = -1 if bet < 0 else 1
    gain = c[t] * (1 + sign * profit * target) if profit and bet and target > 0 else np.nan
    loss = c[t] * (1 - sign * stop * target) if stop and bet and target > 0 else np.nan
    close = np.nan
    for s in range(t + 1, min(t + horizon, len(bars) - 1) + 1):
        if sign * (o[s] - loss) <= 0:
            return s, "stop", bet * (o[s] / c[t] - 1)
        if sign * (o[s] - gain) >= 0:
            return s, "profit", bet * (o[s] / c[t] - 1)
        highest, lowest = np.fmax(np.fmax(o[s], h[s]), c[s]), np.fmin(np.fmin(o[s], l[s]), c[s])
        worst, best = (lowest, highest) if sign > 0 else (highest, lowest)
        if sign * (worst - loss) <= 0:
            return s, "stop", bet * (loss / c[t] - 1)
        if sign * (best - gain) >= 0:
            return s, "profit", bet * (gain / c[t] - 1)
        close = close if np.isnan(c[s]) else c[s]
    return min(t + horizon, len(bars) - 1), "time", bet * (close / c[t] - 1)


def oracle(bars, *, horizon, profit=1.0, stop=1.0, min_return=0.0, cusum=None, side=None, span):
    """Rows of label, t1, weight, return, barrier and event, one instrument, by the letter of the definition."""
    n, volatility = len(bars), ewm_volatility(bars, span=span)
    target = volatility.to_numpy()
    bets = np.ones(n) if side is None else side.to_numpy()
    drifted = np.ones(n, dtype=bool) if cusum is None else cusum_events(bars, cusum * volatility).to_numpy()
    event = [bool(target[t] > min_return and bets[t] != 0 and drifted[t]) for t in range(n)]
    exits = [follow(bars, t, bets[t], target[t], horizon, profit, stop) for t in range(n)]
    made = np.zeros(n)
    for t in np.flatnonzero(event):
        made[t + 1 : exits[t][0] + 1] += 1
    rows = []
    for t, (at, barrier, gain) in enumerate(exits):
        if t + horizon > n - 1:
            rows.append((np.nan, pd.NaT, 0.0, np.nan, np.nan, event[t]))
            continue
        label = {"profit": 1, "time": 0, "stop": -1}[barrier] if side is None else int(gain > 0)
        weight = np.mean(1 / made[t + 1 : at + 1]) if event[t] and not np.isnan(gain) else 0.0
        rows.append((label, bars.index[at], weight, gain, barrier, event[t]))
    return pd.DataFrame(rows, columns=["label", "t1", "weight", "return", "barrier", "event"])


def same(found, expected, rows):
    """Compare the labels of one instrument's rows to the oracle's."""
    details = found.details.iloc[rows]
    np.testing.assert_array_equal(found.labels.iloc[rows], expected["label"])
    assert found.t1.iloc[rows].tolist() == expected["t1"].tolist()
    np.testing.assert_allclose(found.sample_weight.iloc[rows], expected["weight"], rtol=1e-12)
    np.testing.assert_allclose(details["return"], expected["return"], rtol=1e-9, atol=1e-15)
    assert details["barrier"].astype(object).fillna("?").tolist() == expected["barrier"].fillna("?").tolist()
    assert details["event"].tolist() == expected["event"].tolist()


@pytest.mark.parametrize(
    "parameters",
    [
        {"horizon": 8},
        {"horizon": 12, "profit": 2, "stop": 1, "cusum": 1.5},
        {"horizon": 5, "profit": 0.3, "stop": 0.4},  # both barriers inside many bars
        {"horizon": 20, "profit": 0, "stop": 1.5, "min_return": 0.002},
        {"horizon": 10, "profit": 3, "stop": 0},
        {"horizon": 1, "profit": 0, "stop": 0, "cusum": 0.7},
        {"horizon": 100, "profit": 8, "stop": 8},
    ],
)
@pytest.mark.parametrize("sided", [False, True])
@pytest.mark.parametrize(("instruments", "holes"), [(None, 0.0), (None, 0.2), (["B", "A", "C"], 0.05)])
def test_equal_to_brute_force(parameters, sided, instruments, holes):
    bars = random_bars(seed=parameters["horizon"], instruments=instruments, holes=holes)
    side = random_side(bars) if sided else None
    found = triple_barrier(bars, side=side, span=20, **parameters)
    assert found.labels.index.equals(bars.index)
    for part, rows in one_at_a_time(bars):
        own = None if side is None else side.iloc[rows].set_axis(part.index)
        expected = oracle(part, side=own, span=20, **parameters)
        same(found, expected, rows)
        alone = triple_barrier(part, side=own, span=20, **parameters)
        assert alone.sample_weight.tolist() == found.sample_weight.iloc[rows].tolist()  # the very bits
    seen = {*found.labels.dropna()}
    assert seen <= ({0, 1} if sided else {-1, 0, 1})
    assert len(seen) > 1 or not (parameters["profit"] or parameters["stop"])
    assert found.align(bars)[1].dtype == np.int64


@pytest.mark.parametrize("sided", [False, True])
def test_what_a_prefix_knows_stays(sided):
    bars = random_bars(160, instruments=["A", "B"], holes=0.05)
    side = random_side(bars) if sided else None
    given = {"horizon": 9, "profit": 1.5, "cusum": 1.0, "span": 15}
    whole = triple_barrier(bars, side=side, **given)
    newly = 0
    for end in range(60, len(bars), 7):
        part = triple_barrier(bars.iloc[:end], side=None if side is None else side.iloc[:end], **given)
        for one, all_ in (
            (part.labels, whole.labels),
            (part.t1, whole.t1),
            (part.sample_weight, whole.sample_weight),
            (part.details, whole.details),
        ):
            assert one[part.known].equals(all_.iloc[:end][part.known])
        now = ["target", "event"]  # known at once
        assert part.details[now].equals(whole.details[now].iloc[:end])
        newly += part.known.sum()
    assert newly > 1000


@pytest.mark.parametrize("sided", [False, True])
def test_t1_is_the_last_bar_looked_at(sided):
    bars = random_bars(220, seed=3)
    given = {"side": random_side(bars) if sided else None, "horizon": 12, "profit": 2, "stop": 1.5, "span": 15}
    whole = triple_barrier(bars, **given)
    changed_at = 0
    for row in np.flatnonzero(whole.known & (whole.sample_weight > 0))[::5]:
        end = bars.index.get_loc(whole.t1.iloc[row])
        assert row < end <= row + 12
        after = bars.copy()
        after.iloc[end + 1 :, :4] *= np.random.default_rng(row).uniform(0.3, 3, len(bars) - end - 1)[:, None]
        other = triple_barrier(after, **given)
        assert other.labels.iloc[row] == whole.labels.iloc[row]
        assert other.t1.iloc[row] == whole.t1.iloc[row]
        assert other.sample_weight.iloc[row] == whole.sample_weight.iloc[row]
        assert other.details.iloc[row].equals(whole.details.iloc[row])
        at = bars.copy()
        at.iloc[end, :4] = bars["close"].iloc[row]
        changed_at += triple_barrier(at, **given).details["return"].iloc[row] != whole.details["return"].iloc[row]
    assert changed_at > 20


def test_rows_are_known_when_their_time_is_up():
    bars = random_bars()
    labels = triple_barrier(bars, horizon=30, span=20)
    assert labels.known.tolist() == [True] * 230 + [False] * 30
    # Nearly all of the unknown rows reach a barrier before the data ends: the quick ones are no fair sample.
    assert (triple_barrier(bars, horizon=5, span=20).details["barrier"].iloc[230:-5] != "time").mean() > 0.9
    # A known label's t1 is the touch, well before its time is up.
    ahead = bars.index.get_indexer(labels.t1[labels.known]) - np.arange(230)
    assert np.median(ahead[20:]) <= 3


# --------------------------------------------------------------- one bar after the entry


def staged(*following, entry=100.0):
    """Fifty bars around the entry at row 49, and those after it; target and entry's row come along."""
    before = entry * (1 + 0.01 * np.array([0.0, 1.0] * 24 + [1.0, 0.0]))
    rows = [[c, c, c, c] for c in before] + [list(row) for row in following]
    bars = pd.DataFrame(rows, columns=PRICES, index=pd.date_range("2022-01-03", periods=len(rows)))
    return bars, 49, ewm_volatility(bars, span=20).iloc[49]


UNIT = staged()[2] * 100  # one target at the entry of 100, in units of price


@pytest.mark.parametrize(
    ("bar", "long", "short"),
    [
        # open, high, low and close in targets from the entry: barrier and exit of either bet
        ((0, 2.5, -0.5, 2), ("profit", 2), ("stop", 2)),
        ((0, 0.5, -2.5, -2), ("stop", -2), ("profit", -2)),
        ((0, 2.0001, 0, 0), ("profit", 2), ("stop", 2)),
        ((0, 1.9999, -1.9999, 0), ("time", 0), ("time", 0)),
        ((0, 3, -3, 0), ("stop", -2), ("stop", 2)),  # both inside one bar: the adverse one
        ((2.5, 3, -3, 0), ("profit", 2.5), ("stop", 2.5)),  # the open is beyond one of them already
        ((-2.5, 3, -3, 0), ("stop", -2.5), ("profit", -2.5)),
        ((2.5, 3, 2.4, 3), ("profit", 2.5), ("stop", 2.5)),
        ((-2.5, -2.4, -3, -3), ("stop", -2.5), ("profit", -2.5)),
        ((np.nan, 3, -3, 0), ("stop", -2), ("stop", 2)),
        ((1, np.nan, 0, 1), ("time", 1), ("time", 1)),
        ((1, np.nan, 0, 3), ("profit", 2), ("stop", 2)),
        ((-3, np.nan, np.nan, 3), ("stop", -3), ("profit", -3)),
        ((np.nan, np.nan, np.nan, np.nan), ("time", np.nan), ("time", np.nan)),
    ],
)
def test_one_bar(bar, long, short):
    bars, row, _ = staged(100 + UNIT * np.array(bar))
    for side, (barrier, exit_at) in ((None, long), (1, long), (-1, short)):
        bets = None if side is None else pd.Series(side, index=bars.index)
        labels = triple_barrier(bars, horizon=1, profit=2, stop=2, side=bets, span=20)
        found = labels.details.iloc[row]
        gain = (side or 1) * exit_at * UNIT / 100
        assert (found["barrier"], found["return"]) == (barrier, pytest.approx(gain, rel=1e-9, abs=1e-15, nan_ok=True))
        direction = {"profit": 1, "stop": -1, "time": 0}[barrier]
        assert labels.labels.iloc[row] == (direction if side is None else gain > 0)
        assert labels.sample_weight.iloc[row] == (not np.isnan(exit_at))
        assert labels.t1.iloc[row] == bars.index[row + 1]


def test_to_reach_a_barrier_is_enough():
    _, row, target = staged()
    top, floor = 100 * (1 + 2 * target), 100 * (1 - 2 * target)
    for high, low, barrier in (
        (top, 100, "profit"),
        (np.nextafter(top, 0), 100, "time"),
        (100, floor, "stop"),
        (100, np.nextafter(floor, 200), "time"),
    ):
        bars = staged([100, high, low, 100])[0]
        assert triple_barrier(bars, horizon=1, profit=2, stop=2, span=20).details["barrier"].iloc[row] == barrier


def test_the_first_bar_that_reaches_counts():
    quiet, up, down = ([0, 1, -1, 0], [0, 3, 0, 0], [0, 0, -3, 0])
    for path, barrier, bars_ahead in (
        ((quiet, up, down), "profit", 2),
        ((down, up, quiet), "stop", 1),
        ((quiet, quiet, quiet), "time", 3),
        ((quiet, quiet, up), "profit", 3),  # the last bar still counts
        ((quiet, quiet, quiet, up), "time", 3),  # the one after it does not
    ):
        bars, row, _ = staged(*(100 + UNIT * np.array(bar) for bar in path))
        labels = triple_barrier(bars, horizon=3, profit=2, stop=2, span=20)
        assert labels.details["barrier"].iloc[row] == barrier
        assert labels.t1.iloc[row] == bars.index[row + bars_ahead]


def test_a_barrier_may_be_left_out():
    bars, row, _ = staged(100 + UNIT * np.array([0, 9, -9, 5]))
    for profit, stop, barrier in ((2, 0, "profit"), (0, 2, "stop"), (0, 0, "time")):
        details = triple_barrier(bars, horizon=1, profit=profit, stop=stop, span=20).details
        assert details["barrier"].iloc[row] == barrier


def test_meta_labels_tell_whether_the_bet_pays():
    bars = random_bars(400, seed=1)
    long, short = (
        triple_barrier(bars, horizon=6, profit=2, stop=2, side=pd.Series(bet, index=bars.index), span=20)
        for bet in (1, -1)
    )
    plain = triple_barrier(bars, horizon=6, profit=2, stop=2, span=20)
    assert long.details.equals(plain.details)
    assert long.labels[plain.labels == 1].eq(1).all()
    assert long.labels[plain.labels == -1].eq(0).all()
    timed = plain.known & (plain.labels == 0)
    assert long.labels[timed].tolist() == (plain.details["return"] > 0)[timed].tolist()
    assert 0.2 < long.labels[timed].mean() < 0.8
    assert (long.labels + short.labels).max() == 1
    none = triple_barrier(bars, horizon=6, side=pd.Series(0.0, index=bars.index), span=20)
    assert not none.sample_weight.any()
    assert not none.labels.any()


# ------------------------------------------------------------------------- events, weights


def test_only_events_weigh():
    bars = random_bars(500, seed=2)
    labels = triple_barrier(bars, horizon=10, profit=2, stop=2, cusum=2, span=20, min_return=0.0008)
    volatility = ewm_volatility(bars, span=20)
    event = cusum_events(bars, 2 * volatility) & (volatility > 0.0008)
    assert labels.details["event"].tolist() == event.tolist()
    assert (labels.sample_weight > 0).tolist() == (event & labels.known).tolist()
    assert 10 < event.sum() < 250
    every = triple_barrier(bars, horizon=10, profit=2, stop=2, span=20)
    assert every.labels.equals(labels.labels)  # an event or not, each bar has its label
    assert every.t1.equals(labels.t1)
    # Far from the rows that are not known yet, weights are those of the labels alone.
    alone = average_uniqueness(labels.t1, events=labels.details["event"])
    np.testing.assert_allclose(labels.sample_weight.iloc[:480], alone.iloc[:480], rtol=1e-12)


def test_undecided_events_share_their_bars():
    bars = random_bars(100)
    labels = triple_barrier(bars, horizon=10, profit=9, stop=9, span=20)
    assert labels.sample_weight.iloc[40:90].tolist() == pytest.approx([0.1] * 50)


def test_prices_that_stand_still():
    bars = random_bars(80)
    bars[PRICES] = 5.0
    for cusum in (None, 1.0):
        labels = triple_barrier(bars, horizon=5, cusum=cusum, span=20)
        assert not labels.sample_weight.any()
        assert {*labels.details["barrier"].dropna()} == {"time"}


def test_no_prices_at_all():
    bars = random_bars(80) * np.nan
    labels = triple_barrier(bars, horizon=5, span=20)
    assert not labels.sample_weight.any()
    assert labels.labels.dropna().eq(0).all()


def test_short_instruments_are_unknown():
    bars = random_bars(80, instruments=["A", "B", "C"])
    count = bars.groupby(level=1).cumcount()
    name = bars.index.get_level_values(1)
    bars = bars[(name == "A") | ((name == "B") & (count < 1)) | ((name == "C") & (count < 3))]
    labels = triple_barrier(bars, horizon=3, span=20)
    assert labels.labels[bars.index.get_level_values(1) != "A"].isna().all()
    alone = triple_barrier(bars.xs("A", level=1), horizon=3, span=20)
    assert labels.labels.xs("A", level=1).equals(alone.labels)
    assert labels.labels.xs("A", level=1).notna().sum() == 77


def test_bets_on_a_random_walk_gain_nothing():
    means = []
    for seed in range(12):
        details = triple_barrier(make_bars(5000, random_state=seed), horizon=20, profit=2, stop=2).details
        means.append((details["return"] / details["target"]).mean())
    assert abs(np.mean(means)) < 3 * np.std(means) / np.sqrt(len(means))


# ----------------------------------------------------------------------- definition, errors


def test_definition():
    bars = random_bars()
    labels = triple_barrier(bars, horizon=np.int64(7), profit=2, min_return=0.001, cusum=1, span=30)
    definition = json.loads(json.dumps(labels.definition))
    assert definition == labels.definition
    assert definition.pop("label") == "triple_barrier"
    again = triple_barrier(bars, **definition)
    assert again.labels.equals(labels.labels)
    assert again.sample_weight.equals(labels.sample_weight)
    assert "triple_barrier" in repr(pickle.loads(pickle.dumps(labels)))
    meta = triple_barrier(bars, side=random_side(bars), horizon=7, span=30).definition
    assert json.loads(json.dumps(meta))["side"] == "given"
    del meta["label"]
    with pytest.raises(EnsembleKitError, match=r"got 'given'\. Give the bets of these very bars"):
        triple_barrier(bars, **meta)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"horizon": 0}, "`horizon` must be an integer of at least 1; got 0. Count it in bars."),
        ({"horizon": 2.5}, "`horizon` must be an integer of at least 1; got 2.5"),
        (
            {"horizon": 50},
            "`bars` must have more than 50 bars of an instrument for horizon=50; got 50. Give more bars,",
        ),
        (
            {"profit": -1},
            "`profit` must be a finite number of at least 0; got -1. Measure it in targets; 0 is no barrier.",
        ),
        ({"stop": np.inf}, "`stop` must be a finite number of at least 0; got inf."),
        ({"stop": "2"}, "`stop` must be a finite number of at least 0; got '2'."),
        ({"min_return": np.nan}, "`min_return` must be a finite number of at least 0; got nan. It is a simple return"),
        ({"cusum": 0}, "`cusum` must be None or a finite number above 0; got 0. Measure it in targets"),
        ({"span": 1}, "`span` must be an integer of at least 2; got 1"),
        ({"side": 1}, "`side` must be a Series of -1, 0 and 1 on the bars' index (50 rows); got 1. Give the bets"),
        ({"side": pd.Series([1] * 50)}, "got a Series on another index of 50. Give the bets of these very bars."),
    ],
)
def test_refused(parameters, match):
    with pytest.raises(EnsembleKitError, match=re.escape(match)):
        triple_barrier(random_bars(50), **({"horizon": 5} | parameters))


def test_refused_sides():
    bars = random_bars(50)
    side = pd.Series(1.0, index=bars.index)
    side.iloc[[3, 4]] = [0.5, np.nan]
    match = "`side` must hold only -1, 0 and 1; got 0.5 at 2022-01-03 16:00:00+00:00 (2 such row(s)). Take the sign"
    with pytest.raises(EnsembleKitError, match=re.escape(match)):
        triple_barrier(bars, horizon=5, side=side)
    with pytest.raises(BarsError):
        triple_barrier(bars[["close"]], horizon=5)


# ------------------------------------------------------------------------------- real bars


@pytest.mark.parametrize(
    "name", ["spy_5min_2022_2023", "btcusdt_5min_2023", "xauusd_1h_2006_2015", "vxx_1h_2009_2021", "spy_1min_bidask"]
)
def test_real_bars(shared_data, name):
    bars = pd.read_parquet(shared_data / f"{name}.parquet").set_index("timestamp")
    labels = triple_barrier(bars, horizon=36, profit=4.8, stop=4.8)
    shares = labels.summary().iloc[0]
    assert shares.between(0.15, 0.6).all()
    assert labels.sample_weight.between(0, 1).all()
    piece = bars.iloc[2000:2600]
    found = triple_barrier(piece, horizon=12, profit=1.5, stop=1, cusum=1, span=50)
    same(found, oracle(piece, horizon=12, profit=1.5, stop=1, cusum=1, span=50), np.arange(600))


def test_real_panel(shared_data):
    panel = pd.read_parquet(shared_data / "us_daily_panel_1998_2021.parquet")
    panel = panel.set_index(["timestamp", "symbol"])[[*PRICES, "volume"]].iloc[-3000:]
    given = {"horizon": 10, "profit": 2, "stop": 1.5, "cusum": 1, "span": 50}
    found = triple_barrier(panel, **given)
    for part, rows in one_at_a_time(panel):
        same(found, oracle(part, **given), rows)
