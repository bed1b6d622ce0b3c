"""Buy / Sell / Hold: against brute force, settled when `t1` says and by nothing after it."""

import json
import pickle
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.atr import average_true_range
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.labels import buy_sell_hold, peak_slope_bottom
from ensemble_kit.sessions import Session, session_times

NEW_YORK = Session("09:30", "16:00", "America/New_York")
FUTURES = Session("18:00", "17:00", "America/New_York")
PRICES = ["open", "high", "low", "close"]
KINDS = {1: "buy", -1: "sell", 0: "hold"}


def random_bars(n=240, *, seed=0, instruments=None, holes=0.0, gaps=0.0, **given):
    """Bars on a coarse grid: many equal extremes."""
    rng = np.random.default_rng(seed)
    bars = make_bars(n, instruments=instruments, random_state=seed, **({"bar": "10min"} | given))
    if instruments is not None:  # instruments come and go
        row = bars.groupby(level=1).cumcount()
        bars = bars[(bars.index.get_level_values(1) == instruments[0]) | ((row >= 25) & (row < n - 10))]
    bars = bars[rng.random(len(bars)) >= gaps].copy()
    bars[PRICES] = (bars[PRICES] * 8).round() / 8
    bars.loc[rng.random(len(bars)) < holes, [*PRICES, "volume"]] = np.nan
    return bars


def one_at_a_time(bars):
    if isinstance(bars.index, pd.MultiIndex):
        return [(part.droplevel(1), bars.index.get_locs([slice(None), name])) for name, part in bars.groupby(level=1)]
    return [(bars, np.arange(len(bars)))]


def trend_at(t, turns):
    """The side of the last turn at or before t, of which each run has kept the most extreme, the first of equals."""
    kept = []
    for place, kind, reach in turns:
        if not kept or kept[-1][1] != kind:
            kept.append((place, kind, reach))
        elif reach > kept[-1][2]:
            kept[-1] = (place, kind, reach)
    sides = [-kind for place, kind, _ in kept if place <= t]
    return (sides or [0])[-1], [place for place, *_ in kept]


def oracle(bars, *, w, k, session):
    """Labels, t1, weights and turns of one instrument by the letter of the definition, session by session."""
    n, atr = len(bars), average_true_range(bars)
    high, low, close = (bars[name].to_numpy() for name in ("high", "low", "close"))
    day = np.zeros(n) if session is None else session_times(bars.index, session).day
    labels, t1, weight, marks = np.full(n, "?", dtype=object), [pd.NaT] * n, np.zeros(n), np.full(n, np.nan)
    for rows in np.split(np.arange(n), np.flatnonzero(np.diff(day)) + 1):
        start, stop, ended = rows[0], rows[-1], rows[-1] < n - 1
        turns = []
        for t in rows:
            left, right = range(max(t - w, start), t), range(t + 1, min(t + w, stop) + 1)
            if (t + w >= n and not ended) or (start == 0 and t < w):
                continue  # a window is not over, or was cut off
            before = [i for i in left if not np.isnan(high[i])]
            after = [i for i in right if not np.isnan(high[i])]
            if not before or not after:
                continue
            floor = max(low[before].min(), low[after].min())
            top = min(high[before].max(), high[after].max())
            peak = high[t] > high[before].max() and high[t] >= high[after].max() and high[t] - floor >= k * atr[t]
            bottom = low[t] < low[before].min() and low[t] <= low[after].min() and top - low[t] >= k * atr[t]
            if peak != bottom:
                turns.append((t, 1, high[t]) if peak else (t, -1, -low[t]))
        for t in rows:
            # The label at t is settled by place `end` if no turn whose window is still open could change it.
            for end in range(t, stop + 1):
                over = end == stop and ended
                open_from = stop + 1 if over else end - w + 1
                so_far = [turn for turn in turns if turn[0] < open_from]
                futures = [[]]
                for place in {max(open_from, t + 1), t}:
                    if place >= open_from and not over:
                        futures += [[(place, 1, np.inf)], [(place, -1, np.inf)]]
                if len({trend_at(t, so_far + future)[0] for future in futures}) == 1:
                    break
            else:
                continue
            side = trend_at(t, turns)[0]
            labels[t], t1[t] = KINDS[side], bars.index[end]
            weight[t] = not np.isnan(high[t] + low[t] + close[t]) and not (start == 0 and side == 0)
            marks[t] = sum(kind for place, kind, _ in turns if place == t and t in trend_at(t, turns)[1])
    return labels, t1, weight, marks


def check_against_oracle(bars, **given):
    found = buy_sell_hold(bars, **given)
    assert found.labels.index.equals(bars.index)
    seen = []
    for part, rows in one_at_a_time(bars):
        labels, t1, weight, marks = oracle(part, **given)
        assert found.labels.iloc[rows].fillna("?").tolist() == labels.tolist()
        assert found.t1.iloc[rows].tolist() == t1
        assert found.sample_weight.iloc[rows].tolist() == weight.tolist()
        np.testing.assert_array_equal(found.details["turn"].iloc[rows], marks)
        seen += labels.tolist()
    return {name: seen.count(name) for name in ("buy", "sell", "hold", "?")}


@pytest.mark.parametrize("session", [None, "day", "XNYS", NEW_YORK])
@pytest.mark.parametrize(("w", "k"), [(1, 0.0), (3, 0.5), (6, 1.0), (10, 1.5)])
@pytest.mark.parametrize(
    "given",
    [{}, {"holes": 0.3}, {"gaps": 0.3}, {"instruments": ["B", "A", "C"], "holes": 0.05, "gaps": 0.1}],
)
def test_equal_to_brute_force(session, w, k, given):
    seen = check_against_oracle(random_bars(seed=w, **given), w=w, k=k, session=session)
    assert min(seen.values()) > 0


def test_equal_to_brute_force_through_the_night():
    bars = random_bars(230, bar="1h", session=FUTURES, start="2022-03-08")  # clocks change on the 13th
    assert (session_times(bars.index, FUTURES).day != session_times(bars.index, "day").day).any()
    seen = check_against_oracle(bars, w=4, k=1.0, session=FUTURES)
    assert min(seen.values()) > 0


# ---------------------------------------------------------------------- what is known when


@pytest.mark.parametrize("session", [None, "XNYS"])
def test_what_a_prefix_knows_stays(session):
    bars = random_bars(200, instruments=["A", "B"])
    given = {"w": 4, "k": 1.0, "session": session, "min_price": 99.5, "gate_window": 9}
    whole = buy_sell_hold(bars, **given)
    newly = 0
    for end in range(60, len(bars), 7):
        part = buy_sell_hold(bars.iloc[:end], **given)
        known = part.known
        assert part.labels[known].equals(whole.labels.iloc[:end][known])
        assert part.t1[known].equals(whole.t1.iloc[:end][known])
        assert part.sample_weight[known].equals(whole.sample_weight.iloc[:end][known])
        assert part.details[known].equals(whole.details.iloc[:end][known])
        # And all that `t1` says is known by then is known, but for what only another session's bar shows.
        times = bars.index.get_level_values(0)
        late = (whole.t1.iloc[:end] < times[end - 1]) & ~known
        assert session is not None or not late.any()
        newly += known.sum()
    assert newly > 3000


@pytest.mark.parametrize("session", [None, "XNYS"])
def test_nothing_after_t1_counts(session):
    bars = random_bars(390, seed=3)
    given = {"w": 4, "k": 1.0, "session": session}
    whole = buy_sell_hold(bars, **given)
    end = np.asarray(bars.index.get_indexer(whole.t1))
    rng = np.random.default_rng(0)
    changed = 0
    for row in rng.choice(np.flatnonzero(whole.known), size=80, replace=False):
        after = bars.copy()
        # Other prices, and the highest or lowest ever right behind.
        after.iloc[end[row] + 1 :, :4] *= rng.choice([0.1, 0.99, 1.0, 1.01, 10.0], size=(len(bars) - end[row] - 1, 1))
        found = buy_sell_hold(after, **given)
        for was, now in ((whole.labels, found.labels), (whole.t1, found.t1), (whole.details, found.details)):
            assert now.iloc[row : row + 1].equals(was.iloc[row : row + 1])
    # But the bar at t1 does count where it ended the window of the turn that settled the row.
    for row in np.flatnonzero(whole.known)[::3]:
        at = bars.copy()
        at.iloc[end[row], [1, 2]] = 1e4, 1e-4
        changed += buy_sell_hold(at, **given).labels.iloc[row] != whole.labels.iloc[row]
    assert changed > 10


def test_t1_never_runs_backwards_and_ends_with_the_session():
    bars = random_bars(400, gaps=0.1)
    labels = buy_sell_hold(bars, w=4, k=1.0, session="XNYS")
    assert labels.known.tolist() == sorted(labels.known, reverse=True)  # unknown rows are the last
    t1 = labels.t1[labels.known]
    assert t1.is_monotonic_increasing
    assert (t1 >= t1.index).all()
    day = session_times(bars.index, "XNYS").day
    assert (session_times(pd.DatetimeIndex(t1), "XNYS").day == day[labels.known]).all()


def test_only_a_later_bar_proves_a_session_over():
    bars = random_bars(39 * 3)
    ended = buy_sell_hold(bars.iloc[:79], w=4, k=1.0)  # two sessions and a bar
    going_on = buy_sell_hold(bars.iloc[:78], w=4, k=1.0)
    assert ended.known.tolist() == [True] * 78 + [False]
    assert 39 < going_on.known.sum() <= 74
    assert ended.labels.iloc[:78][going_on.known].equals(going_on.labels[going_on.known])


# ---------------------------------------------------------------------------------- turns


def bars_of(close, start="2022-01-03 09:30", wick=0.0):
    close = np.asarray(close, np.float64)
    index = pd.date_range(start, periods=len(close), freq="5min")
    return pd.DataFrame({"open": close, "high": close + wick, "low": close - wick, "close": close}, index=index)


def path(*corners, step=1.0):
    """Straight lines from corner to corner."""
    legs = [np.arange(a, b, step if b > a else -step) for a, b in pairwise(corners)]
    return np.concatenate([*legs, corners[-1:]])


def test_the_more_extreme_of_a_run_is_kept():
    # Up and down for an ATR; then a bottom, two peaks of which the second is higher, and a fall.
    # What lies between the peaks is flat, and has no leg on its right.
    warm = path(100, 110, 100, 110, 100, 110)
    day = np.r_[path(110, 100, 120, 117), [117] * 4, path(117, 125, 95, 102)]
    bars = pd.concat([bars_of(warm), bars_of(day, "2022-01-04 09:30"), bars_of(path(100, 103), "2022-01-05 09:30")])
    labels = buy_sell_hold(bars, w=3, k=2.0)
    at = {name: len(warm) + int(np.flatnonzero(day == name)[0]) for name in (100, 120, 125, 95)}
    turn = labels.details["turn"].iloc[len(warm) : len(warm) + len(day)]
    places = np.flatnonzero(turn) + len(warm)
    assert turn[turn != 0].tolist() == [-1, 1, -1]
    assert places.tolist() == [at[100], at[125], at[95]]
    classes = labels.labels.iloc[len(warm) : len(warm) + len(day)]
    expected = [
        *["hold"] * 10,  # before the first turn
        *["buy"] * (at[125] - at[100]),  # the bottom itself and the lower peak among them
        *["sell"] * (at[95] - at[125]),
        *["buy"] * 8,
    ]
    assert classes.tolist() == expected
    # The lower peak's rows waited for the higher peak's window, those before it for its own only.
    places = bars.index.get_indexer(labels.t1)
    assert places[at[120] - 1] == at[120] + 3
    assert places[at[120]] == places[at[125] - 1] == at[125] + 3
    assert places[at[125]] == at[95] + 3
    assert places[at[95]] == len(warm) + len(day) - 1
    assert places[len(warm)] == len(warm) + 3


def test_of_equal_extremes_the_first_is_kept():
    warm = path(100, 110, 100, 110, 100, 110)
    day = np.r_[path(110, 100, 120, 117), [117] * 4, path(117, 120, 105)]
    bars = pd.concat([bars_of(warm), bars_of(day, "2022-01-04 09:30"), bars_of([100.0], "2022-01-05 09:30")])
    marks = buy_sell_hold(bars, w=3, k=2.0).details["turn"].iloc[len(warm) : len(warm) + len(day)]
    assert np.flatnonzero(marks == 1).tolist() == [np.flatnonzero(day == 120)[0]]


def test_a_reflection_swaps_buy_and_sell():
    bars = random_bars(instruments=["A", "B"], holes=0.05)
    mirror = bars.copy()
    mirror[PRICES] = 1024 - bars[["open", "low", "high", "close"]].to_numpy()
    given = {"w": 4, "k": 1.0, "session": "XNYS"}
    labels, swapped = buy_sell_hold(bars, **given), buy_sell_hold(mirror, **given)
    assert swapped.labels.replace({"buy": "sell", "sell": "buy"}).equals(labels.labels)
    assert swapped.details.equals(-labels.details)
    assert swapped.t1.equals(labels.t1)


def test_kept_turns_alternate_and_are_turns():
    bars = random_bars(1000, instruments=["A", "B"])
    labels = buy_sell_hold(bars, w=6, k=1.0, session="XNYS")
    found = peak_slope_bottom(bars, w=6, k=1.0, clip_session="XNYS").labels
    for _, part in labels.details["turn"].groupby([bars.index.get_level_values(1), session_times(bars.index).day]):
        turns = part[part.abs() == 1]
        assert (turns.diff().abs().dropna() == 2).all()
        assert (found.reindex(turns.index).map({"peak": 1, "bottom": -1}) == turns).all()


# ------------------------------------------------------------------------ instruments, clocks


def test_instruments_do_not_mix_and_short_ones_do_no_harm():
    bars = random_bars(instruments=["A", "B", "C", "D"])
    row = bars.groupby(level=1).cumcount()
    least = bars.index.get_level_values(1).map({"A": 999, "B": 1, "C": 2, "D": 3})
    bars = bars[row < least]
    given = {"w": 4, "k": 1.0, "session": "XNYS", "min_dollar_volume": 1e7, "gate_window": 20}
    together = buy_sell_hold(bars, **given)
    for name, rows in (("A", range(240)), ("B", []), ("C", []), ("D", [])):
        mine = np.flatnonzero(bars.index.get_level_values(1) == name)
        assert together.known[mine].sum() >= len(rows) - 39
        if not len(rows):
            assert not together.known[mine].any()
    alone = buy_sell_hold(bars.xs("A", level=1), **given)
    mine = bars.index.get_level_values(1) == "A"
    for a, b in (
        (together.labels, alone.labels),
        (together.t1, alone.t1),
        (together.sample_weight, alone.sample_weight),
        (together.details["turn"], alone.details["turn"]),
    ):
        pd.testing.assert_series_equal(a[mine].droplevel(1), b, check_freq=False)


def test_the_clock_of_the_index_does_not_matter_to_an_exchange():
    bars = random_bars(39 * 12, start="2022-03-07")  # clocks change on the 13th
    by_exchange = buy_sell_hold(bars, w=4, k=1.0, session="XNYS")
    assert buy_sell_hold(bars, w=4, k=1.0, session=NEW_YORK).labels.equals(by_exchange.labels)
    assert buy_sell_hold(bars, w=4, k=1.0).labels.equals(by_exchange.labels)  # its days are UTC's, too
    tokyo = buy_sell_hold(bars.tz_convert("Asia/Tokyo"), w=4, k=1.0, session="XNYS")
    assert tokyo.labels.tolist() == by_exchange.labels.tolist()
    assert (tokyo.t1 == by_exchange.t1.to_numpy()).sum() == by_exchange.known.sum()
    split = buy_sell_hold(bars.tz_convert("Asia/Tokyo"), w=4, k=1.0)  # midnight parts the session
    assert split.labels.tolist() != by_exchange.labels.tolist()


def test_on_real_bars(shared_data):
    file = shared_data / "spy_5min_2022_2023.parquet"
    if not file.exists():
        pytest.skip("SPY is not here")
    bars = read_bars(file)
    labels = buy_sell_hold(bars, session="XNYS")
    shares = labels.summary().loc["H0"]
    np.testing.assert_allclose(shares[["buy", "hold", "sell"]].astype(float), [0.4134, 0.2295, 0.3571], atol=0.001)
    known = np.flatnonzero(labels.known)
    ahead = bars.index.get_indexer(labels.t1.iloc[known]) - known
    assert (np.median(ahead), np.quantile(ahead, 0.95), ahead.max()) == (16, 45, 76)
    # The end of the window of the next turn kept, or else of the session, would be later, and never earlier.
    turn, stop = labels.details["turn"].to_numpy(), pd.Series(session_times(bars.index, "XNYS").day)
    stop = stop.groupby(stop).transform(lambda day: day.index[-1]).to_numpy()
    later = pd.Series(np.where(np.abs(turn) == 1, np.arange(len(turn)), np.nan)).shift(-1).bfill().to_numpy()
    looser = np.where(later <= stop, np.minimum(later + 12, stop), stop)[known] - known
    assert (looser >= ahead).all()
    assert (np.median(looser), np.quantile(looser, 0.95), looser.max()) == (21, 52, 77)
    # A day with a hole, then a half day, a session of its own that thin bars after its close belong to.
    assert min(check_against_oracle(bars["2022-11-21":"2022-11-29"], w=12, k=2.0, session="XNYS").values()) > 0
    half = labels.t1["2022-11-25"]
    assert (half.dt.date == pd.Timestamp("2022-11-25").date()).all()
    assert half.max() == bars.loc["2022-11-25"].index[-1]


# ---------------------------------------------------------------------------------- floors


def medians(values, window):
    known = [values[max(t - window + 1, 0) : t + 1] for t in range(len(values))]
    return np.array([np.median(seen[~np.isnan(seen)]) if (~np.isnan(seen)).any() else np.nan for seen in known])


@pytest.mark.parametrize("window", [1, 7, 50])
@pytest.mark.parametrize(
    "floors", [{"min_price": 99.7}, {"min_dollar_volume": 9e6}, {"min_price": 99.9, "min_dollar_volume": 8e6}]
)
def test_floors_equal_brute_force(floors, window):
    bars = random_bars(instruments=["A", "B"], holes=0.1)
    bars.loc[bars.index[np.random.default_rng(1).random(len(bars)) < 0.3], "volume"] = np.nan
    bars.iloc[:20, bars.columns.get_loc("volume")] = np.nan
    given = {"w": 4, "k": 1.0, "session": "XNYS"}
    free, found = buy_sell_hold(bars, **given), buy_sell_hold(bars, **given, **floors, gate_window=window)
    gated = np.zeros(len(bars), bool)
    for part, rows in one_at_a_time(bars):
        close = part["close"].to_numpy()
        under = np.zeros(len(part), bool)
        if "min_price" in floors:
            under |= ~(medians(close, window) >= floors["min_price"])
        if "min_dollar_volume" in floors:
            under |= ~(medians(close * part["volume"].to_numpy(), window) >= floors["min_dollar_volume"])
        gated[rows] = under
    assert 0 < (gated & free.known).sum() < free.known.sum()
    assert (found.labels[gated & free.known] == "hold").all()
    assert (found.sample_weight[gated] == 0).all()
    assert found.labels[~gated].equals(free.labels[~gated])
    assert found.sample_weight[~gated].equals(free.sample_weight[~gated])
    # What is known, when, and where the turns are is the same.
    assert found.t1.equals(free.t1)
    assert found.details.equals(free.details)


def test_a_floor_is_reached_by_what_is_not_under_it():
    bars = random_bars(100)
    bars["volume"] = 3.0
    bars[PRICES] = 2.0
    given = {"w": 4, "session": "day"}
    at, above = (buy_sell_hold(bars, **given, min_dollar_volume=floor).sample_weight for floor in (6.0, 6.01))
    assert at.equals(buy_sell_hold(bars, **given).sample_weight)
    assert at.any()
    assert not above.any()


def test_a_floor_for_dollars_needs_volumes():
    bars = random_bars(100)
    bars["volume"] = np.nan
    message = r"`bars` must have volumes for min_dollar_volume=1e\+06; got {}. Add them, or set the floor to 0."
    with pytest.raises(BarsError, match=message.format("only NaN")):
        buy_sell_hold(bars, min_dollar_volume=1e6)
    with pytest.raises(BarsError, match=message.format("no column `volume`")):
        buy_sell_hold(bars.drop(columns="volume"), min_dollar_volume=1e6)
    assert buy_sell_hold(bars.drop(columns="volume"), min_price=1.0).sample_weight.any()


# -------------------------------------------------------------------- bars without a turn


@pytest.mark.parametrize("session", [None, "XNYS"])
def test_prices_that_stand_still_are_held(session):
    bars = random_bars(100)
    bars[PRICES] = 5.0
    labels = buy_sell_hold(bars, w=4, k=0, session=session)
    assert {*labels.labels.dropna()} == {"hold"}
    assert not labels.details["turn"].any()
    # A hold before any turn is known to be one only where the data do not begin with its session.
    assert labels.sample_weight.sum() == (0 if session is None else 96 - 39)


def test_rows_without_prices_are_on_the_trend_and_teach_nothing():
    bars = random_bars(200)
    labels = buy_sell_hold(bars, w=4, k=1.0)
    row = int(np.flatnonzero((labels.labels == "buy") & (labels.details["turn"] == 0))[20])
    bars.iloc[row, :4] = np.nan
    again = buy_sell_hold(bars, w=4, k=1.0)
    assert (again.labels.iloc[row], again.sample_weight.iloc[row]) == ("buy", 0)
    bars.iloc[:, :4] = np.nan
    assert not buy_sell_hold(bars, w=4).sample_weight.any()


# ------------------------------------------------------------------------------ parameters


def test_definition_and_pickle():
    bars = random_bars(100)
    given = {"w": np.int64(4), "k": 1, "session": NEW_YORK, "min_price": 1, "min_dollar_volume": 2.5, "gate_window": 30}
    labels = buy_sell_hold(bars, **given)
    assert json.loads(json.dumps(labels.definition)) == labels.definition
    plain = dict(labels.definition)
    assert plain.pop("label") == "buy_sell_hold"
    again = buy_sell_hold(bars, **(plain | {"session": Session(**plain["session"])}))
    assert again.labels.equals(labels.labels)
    assert again.definition == labels.definition
    assert pickle.loads(pickle.dumps(labels)).labels.equals(labels.labels)


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"w": 0}, "`w` must be an integer of at least 1; got 0. Count it in bars."),
        ({"w": 2.5}, "`w` must be an integer of at least 1; got 2.5"),
        ({"gate_window": 0}, "`gate_window` must be an integer of at least 1; got 0"),
        ({"k": -0.5}, r"`k` must be a finite number of at least 0; got -0.5. Measure it in ATR\(14\)."),
        ({"k": np.nan}, "`k` must be"),
        ({"k": "2"}, "`k` must be"),
        ({"min_price": -1}, "`min_price` must be a finite number of at least 0; got -1. 0 sets none."),
        ({"min_dollar_volume": np.inf}, "`min_dollar_volume` must be a finite number of at least 0; got inf"),
        ({"session": "XXXX"}, "got 'XXXX'"),
        (
            {"w": 40},
            "must have more than 40 bars of an instrument for w=40, or a session and a bar of the next; got 30",
        ),
    ],
)
def test_refused(parameters, match):
    with pytest.raises(EnsembleKitError, match=match):
        buy_sell_hold(random_bars(30), **parameters)


def test_daily_bars_are_one_session():
    bars = random_bars(300)
    bars.index = pd.bdate_range("2022", periods=300)
    with pytest.raises(
        EnsembleKitError,
        match=r"`session` must hold at least 3 bars, .* got sessions of at most 1. For daily bars give session=None.",
    ):
        buy_sell_hold(bars)
    assert {*buy_sell_hold(bars, w=4, session=None).labels.dropna()} == {"buy", "sell", "hold"}
    with pytest.raises(EnsembleKitError, match="must have more than 12 bars of an instrument"):
        buy_sell_hold(bars.iloc[:1])


def test_not_bars():
    with pytest.raises(BarsError):
        buy_sell_hold(random_bars(50)[["close"]])
