"""Peak / Slope / Bottom: against brute force, and known no sooner than `t1` says."""

import json

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.labels import label_bars, peak_slope_bottom
from ensemble_kit.metrics import turn_rule
from ensemble_kit.sessions import Session, session_times

NEW_YORK = Session("09:30", "16:00", "America/New_York")
CLASSES = {"bottom", "slope", "peak"}


def random_bars(n=240, *, seed=0, instruments=None, holes=0.0, bar="30min"):
    """Bars on a coarse grid: many ties, and every sum and difference of prices exact."""
    rng = np.random.default_rng(seed)
    bars = make_bars(n, instruments=instruments, bar=bar, random_state=seed)
    if instruments is not None:  # instruments come and go
        name = bars.index.get_level_values(1)
        row = bars.groupby(name).cumcount()
        bars = bars[(name == instruments[0]) | ((row >= 25) & (row < n - 10) & (rng.random(len(bars)) > 0.1))]
    prices = ["open", "high", "low", "close"]
    bars[prices] = (bars[prices] * 4).round() / 4
    bars.loc[rng.random(len(bars)) < holes, [*prices, "volume"]] = np.nan
    return bars


def one_at_a_time(bars):
    if isinstance(bars.index, pd.MultiIndex):
        return [(part, bars.index.get_locs([slice(None), name])) for name, part in bars.groupby(level=1)]
    return [(bars, np.arange(len(bars)))]


def wilder(bars):
    atr, previous, ranges, out = np.nan, np.nan, [], []
    for _, h, l, c in bars[["open", "high", "low", "close"]].to_numpy():
        if np.isnan(h):
            out.append(np.nan)
            continue
        if not np.isnan(previous):
            ranges.append(max(h - l, abs(h - previous), abs(l - previous)))
            atr = np.mean(ranges) if len(ranges) <= 14 else atr + (ranges[-1] - atr) / 14
        out.append(atr if len(ranges) >= 14 else np.nan)
        previous = c
    return np.array(out)


def oracle(bars, *, horizons, w, k, clip_session):
    """Labels, t1 and weights by the letter of the definition, one instrument, row by row."""
    n = len(bars)
    high, low, atr = bars["high"].to_numpy(), bars["low"].to_numpy(), wilder(bars)
    time = bars.index.get_level_values(0)
    day = np.zeros(n) if clip_session is None else session_times(bars.index, clip_session).day
    turns, sure = [], []
    for t in range(n):
        left = [i for i in range(max(t - w, 0), t) if day[i] == day[t]]
        right = [i for i in range(t + 1, min(t + w, n - 1) + 1) if day[i] == day[t]]
        before = [i for i in left if not np.isnan(high[i])]
        after = [i for i in right if not np.isnan(high[i])]
        peak = bottom = False
        if before and after:
            floor = max(low[before].min(), low[after].min())
            top = min(high[before].max(), high[after].max())
            peak = high[t] > high[before].max() and high[t] >= high[after].max() and high[t] - floor >= k * atr[t]
            bottom = low[t] < low[before].min() and low[t] <= low[after].min() and top - low[t] >= k * atr[t]
        cut = day[max(t - w, 0)] == day[t] == day[0] and t < w
        known = not np.isnan(atr[t]) and not cut and bool(before) >= bool(left) and bool(after) >= bool(right)
        sure.append(known)
        turns.append("slope" if not known or peak == bottom else "peak" if peak else "bottom")
    labels = np.full((n, horizons), np.nan, dtype=object)
    t1, weight = [pd.NaT] * n, np.zeros(n)
    for t in range(n - horizons + 1):
        far = t + horizons - 1
        end = far + w
        last_of_day = max(i for i in range(n) if day[i] == day[far])
        if clip_session is not None and last_of_day < n - 1:
            end = min(end, last_of_day)
        if end < n:
            labels[t], t1[t] = turns[t : far + 1], time[end]
            weight[t] = all(sure[t : far + 1])
    return labels, t1, weight


@pytest.mark.parametrize("clip_session", [None, "XNYS", NEW_YORK])
@pytest.mark.parametrize(("horizons", "w", "k"), [(1, 5, 1.0), (3, 20, 0.5), (2, 8, 2.0), (1, 1, 0.0)])
@pytest.mark.parametrize(("instruments", "holes"), [(None, 0.0), (None, 0.3), (["B", "A", "C"], 0.05)])
def test_equal_to_brute_force(clip_session, horizons, w, k, instruments, holes):
    bars = random_bars(seed=w, instruments=instruments, holes=holes)
    found = peak_slope_bottom(bars, horizons=horizons, w=w, k=k, clip_session=clip_session)
    assert found.labels.index.equals(bars.index)
    columns = found.labels.to_frame() if horizons == 1 else found.labels
    turns = 0
    for part, rows in one_at_a_time(bars):
        labels, t1, weight = oracle(part, horizons=horizons, w=w, k=k, clip_session=clip_session)
        expected = np.where(pd.isna(labels), "?", labels)
        assert columns.iloc[rows].fillna("?").to_numpy().tolist() == expected.tolist()
        assert found.t1.iloc[rows].equals(pd.Series(t1, index=part.index, dtype=found.t1.dtype))
        assert found.sample_weight.iloc[rows].tolist() == weight.tolist()
        turns += (expected == "peak").sum() * (expected == "bottom").sum()
    assert turns > 0


def test_the_last_rows_of_each_instrument_are_unknown():
    bars = random_bars(instruments=["A", "B"])
    labels = peak_slope_bottom(bars, horizons=4, w=6)
    for _, rows in one_at_a_time(bars):
        assert labels.known[rows].tolist() == [True] * (len(rows) - 9) + [False] * 9
        assert labels.t1.iloc[rows].isna().tolist() == [False] * (len(rows) - 9) + [True] * 9
        assert labels.labels.iloc[rows[-9:]].isna().all(axis=None)
        assert labels.sample_weight.iloc[rows[:14]].eq(0).all()  # no ATR yet
    assert (labels.t1.dropna() >= bars.index.get_level_values(0)[labels.known]).all()


@pytest.mark.parametrize("clip_session", [None, "XNYS"])
def test_what_a_prefix_knows_stays(clip_session):
    bars = random_bars(150, instruments=["A", "B"])
    whole = peak_slope_bottom(bars, horizons=2, w=8, k=1, clip_session=clip_session)
    newly = 0
    for end in range(60, len(bars), 7):
        part = peak_slope_bottom(bars.iloc[:end], horizons=2, w=8, k=1, clip_session=clip_session)
        assert part.labels[part.known].equals(whole.labels.iloc[:end][part.known])
        assert part.t1[part.known].equals(whole.t1.iloc[:end][part.known])
        assert part.sample_weight[part.known].equals(whole.sample_weight.iloc[:end][part.known])
        newly += part.known.sum()
    assert newly > 1000


@pytest.mark.parametrize("clip_session", [None, "XNYS"])
def test_t1_is_the_last_bar_looked_at(clip_session):
    bars = random_bars(200, seed=3)
    given = {"horizons": 2, "w": 6, "k": 1.0, "clip_session": clip_session}
    whole = peak_slope_bottom(bars, **given)
    rng = np.random.default_rng(0)
    changed_at = 0
    for row in rng.choice(np.flatnonzero(whole.known), size=30, replace=False):
        end = bars.index.get_loc(whole.t1.iloc[row])
        assert end >= row + (0 if clip_session else 7)
        after = bars.copy()
        after.iloc[end + 1 :, :4] = random_bars(200, seed=4).iloc[end + 1 :, :4].to_numpy() * 3
        assert peak_slope_bottom(after, **given).labels.iloc[row].equals(whole.labels.iloc[row])
    for row in np.flatnonzero(whole.known & (whole.labels["H1"] == "peak")):
        at = bars.copy()
        at.iloc[bars.index.get_loc(whole.t1.iloc[row]), bars.columns.get_loc("high")] = 1e6
        changed_at += peak_slope_bottom(at, **given).labels["H1"].iloc[row] == "slope"
    assert changed_at > 3


def test_column_h_is_the_bar_h_later():
    bars = random_bars()
    several = peak_slope_bottom(bars, horizons=4, w=6).labels
    one = peak_slope_bottom(bars, w=6).labels
    for h in range(4):
        known = several[f"H{h}"].notna()
        assert several[f"H{h}"][known].tolist() == one.shift(-h)[known].tolist()


def test_rules_at_ties_and_where_both_hold():
    n, w = 60, 3
    high, low = np.full(n, 10.0), np.full(n, 9.0)
    high[30] = high[32] = 15  # the second is not above the first, the first is not below the second
    low[40], high[40] = 5, 20  # a peak and a bottom
    high[50], low[50] = 10.0, 3.0
    bars = pd.DataFrame({"open": 9.5, "high": high, "low": low, "close": 9.5}, index=pd.date_range("2022", periods=n))
    labels = peak_slope_bottom(bars, w=w, k=0.5)
    found = labels.labels.dropna()
    assert found[found != "slope"].to_dict() == {bars.index[30]: "peak", bars.index[50]: "bottom"}
    # The smaller leg counts: the left window's floor is 9, so a peak of 15 has a leg of 6 at least.
    atr = wilder(bars)[30]
    assert peak_slope_bottom(bars, w=w, k=6 / atr).labels.iloc[30] == "peak"
    assert peak_slope_bottom(bars, w=w, k=6.01 / atr).labels.iloc[30] == "slope"


@pytest.mark.parametrize("clip_session", [None, "XNYS"])
def test_a_reflection_swaps_peaks_and_bottoms(clip_session):
    bars = random_bars(instruments=["A", "B"], holes=0.05)
    mirror = bars.copy()
    mirror[["open", "high", "low", "close"]] = 1024 - bars[["open", "low", "high", "close"]].to_numpy()
    given = {"horizons": 2, "w": 6, "k": 1.0, "clip_session": clip_session}
    labels, swapped = peak_slope_bottom(bars, **given), peak_slope_bottom(mirror, **given)
    assert swapped.labels.replace({"peak": "bottom", "bottom": "peak"}).equals(labels.labels)
    assert swapped.t1.equals(labels.t1)
    assert {*labels.labels["H0"].dropna()} == CLASSES


def test_scale_does_not_matter():
    bars = random_bars()
    labels = peak_slope_bottom(bars, horizons=2, w=6).labels
    assert peak_slope_bottom(bars * 8, horizons=2, w=6).labels.equals(labels)
    assert peak_slope_bottom(bars / 256, horizons=2, w=6).labels.equals(labels)


def test_instruments_do_not_mix():
    bars = random_bars(instruments=["A", "B"])
    together = peak_slope_bottom(bars, w=6)
    for part, rows in one_at_a_time(bars):
        alone = peak_slope_bottom(part.droplevel(1), w=6)
        assert together.labels.iloc[rows].fillna("?").tolist() == alone.labels.fillna("?").tolist()
        assert together.t1.iloc[rows].tolist() == alone.t1.tolist()


@pytest.mark.parametrize("name", ["spy_5min_2022_2023", "qqq_5min_2022_2023"])
def test_shares_on_real_bars(shared_data, name):
    path = shared_data / f"{name}.parquet"
    if not path.exists():
        pytest.skip(f"{name} is not here")
    bars = pd.read_parquet(path).set_index("timestamp")
    shares = peak_slope_bottom(bars, horizons=6).summary()
    assert (shares[["peak", "bottom"]].sub(0.0089).abs() < 0.0006).all(axis=None)
    labels = peak_slope_bottom(bars, w=12, clip_session="XNYS")
    assert (labels.t1.dt.tz_convert("America/New_York").dt.date == bars.index.tz_convert("America/New_York").date)[
        labels.known
    ].all()


# ----------------------------------------------------------------- bars without a turn


def test_rows_without_prices_teach_nothing():
    bars = random_bars(100)
    bars.iloc[::2, :] = np.nan
    labels = peak_slope_bottom(bars, horizons=1, w=6, k=1)
    assert (labels.sample_weight.iloc[::2] == 0).all()
    assert (labels.sample_weight.iloc[31:94:2] == 1).all()
    assert {*labels.labels.iloc[::2].dropna()} == {"slope"}
    assert {*labels.labels.iloc[1::2].dropna()} == CLASSES
    several = peak_slope_bottom(bars, horizons=2, w=6, k=1)  # each row has one horizon without prices
    assert (several.sample_weight == 0).all()


def test_a_bar_with_a_part_of_its_prices_is_no_turn():
    bars = random_bars(100)
    bars.iloc[50, bars.columns.get_loc("low")] = np.nan
    assert peak_slope_bottom(bars, w=6).sample_weight.iloc[48:53].tolist() == [1, 1, 0, 1, 1]


def test_a_window_without_prices_teaches_nothing():
    bars = random_bars(100)
    bars.iloc[50:57] = np.nan  # longer than the window
    weight = peak_slope_bottom(bars, w=6).sample_weight
    assert weight.index[weight == 0].tolist() == [*bars.index[:14], *bars.index[49:58], *bars.index[-6:]]


def test_prices_that_stand_still():
    bars = random_bars(60)
    bars[["open", "high", "low", "close"]] = 5.0
    assert {*peak_slope_bottom(bars, w=6, k=0).labels.dropna()} == {"slope"}
    assert not turn_rule(bars, w=6).any(axis=None)


def test_no_prices_at_all():
    bars = random_bars(60)
    bars[:] = np.nan
    labels = peak_slope_bottom(bars, w=6)
    assert not labels.sample_weight.any()


# ------------------------------------------------------------------------------- legs


def test_left_legs_of_the_rule_equal_brute_force():
    bars = random_bars(120, instruments=["A", "B"], holes=0.05)
    legs = turn_rule(bars, w=9).to_numpy()
    for part, rows in one_at_a_time(bars):
        high, low, atr = part["high"].to_numpy(), part["low"].to_numpy(), wilder(part)
        for t, row in enumerate(rows):
            past = [i for i in range(max(t - 9, 0), t) if not np.isnan(high[i])]
            peak = bottom = 0.0
            if past and not np.isnan(atr[t]):
                peak = (high[t] - low[past].min()) / atr[t] if high[t] > high[past].max() else 0.0
                bottom = (high[past].max() - low[t]) / atr[t] if low[t] < low[past].min() else 0.0
            assert (legs[row, 0], legs[row, 1]) == (pytest.approx(peak), pytest.approx(bottom))
    assert (legs > 0).any(axis=0).all()


def test_every_turn_has_its_left_leg():
    bars = random_bars()
    labels, legs = peak_slope_bottom(bars, w=6, k=1.5).labels, turn_rule(bars, w=6)
    assert (legs["peak"][labels == "peak"] >= 1.5).all()
    assert (legs["bottom"][labels == "bottom"] >= 1.5).all()


# ------------------------------------------------------------------------- definition


@pytest.mark.parametrize("clip_session", [None, "XNYS", "day", NEW_YORK])
def test_label_bars_round_trip(clip_session):
    bars = random_bars(100)
    labels = peak_slope_bottom(bars, horizons=2, w=7, k=1, clip_session=clip_session)
    again = label_bars(bars, labels.definition)
    assert again.labels.equals(labels.labels)
    assert again.t1.equals(labels.t1)
    assert again.definition == labels.definition
    assert json.loads(json.dumps(labels.definition)) == labels.definition


def test_label_bars_names_what_there_is():
    with pytest.raises(
        EnsembleKitError,
        match="one of buy_sell_hold, next_direction, peak_slope_bottom, triple_barrier under 'label'; got 'waves'",
    ):
        label_bars(random_bars(50), {"label": "waves"})
    with pytest.raises(EnsembleKitError, match="got None"):
        label_bars(random_bars(50), {})


@pytest.mark.parametrize(
    ("definition", "match"),
    [
        (
            {"window": 7, "w": 3},
            r"`definition` must hold parameters of peak_slope_bottom \(horizons, w, k, clip_session\)",
        ),
        ({"window": 7, "w": 3}, r"; got 'window'\. Drop or rename them\.$"),
        ({"bars": 1}, r"; got 'bars'\. Drop"),
        ({"side": "given"}, r"; got 'side'\. Drop"),
    ],
)
def test_label_bars_names_the_parameters_there_are(definition, match):
    with pytest.raises(EnsembleKitError, match=match):
        label_bars(random_bars(50), {"label": "peak_slope_bottom"} | definition)


def test_label_bars_takes_a_mapping_and_sides_where_there_are_any():
    bars = random_bars(100)
    for wrong in ("peak_slope_bottom", peak_slope_bottom(bars, w=7), None):
        with pytest.raises(
            EnsembleKitError,
            match=rf"^`definition` must be a mapping .*; got {type(wrong).__name__}\. Pass `labels.def",
        ):
            label_bars(bars, wrong)
    side = bars["close"] * 0 + 1
    with pytest.raises(
        EnsembleKitError, match=r"^`side` must be None for peak_slope_bottom, which has no bets; got Series"
    ):
        label_bars(bars, {"label": "peak_slope_bottom"}, side=side)
    definition = {"label": "triple_barrier", "horizon": 5, "span": 20, "side": "given"}
    assert label_bars(bars, definition, side=side).definition["side"] == "given"


@pytest.mark.parametrize(
    ("parameters", "match"),
    [
        ({"horizons": 0}, "`horizons` must be an integer of at least 1; got 0"),
        ({"w": 2.5}, "`w` must be an integer of at least 1; got 2.5"),
        ({"w": -1}, "`w` must be"),
        ({"k": -0.5}, "`k` must be a number of at least 0; got -0.5"),
        ({"k": np.nan}, "`k` must be"),
        ({"k": "2"}, "`k` must be"),
        ({"w": 46, "horizons": 5}, "at least 51 bars of an instrument for w=46 and horizons=5; got 50"),
        ({"clip_session": "XXXX"}, "got 'XXXX'"),
    ],
)
def test_refused(parameters, match):
    with pytest.raises(EnsembleKitError, match=match):
        peak_slope_bottom(random_bars(50), **parameters)


def test_just_long_enough():
    assert peak_slope_bottom(random_bars(50), w=46, horizons=4).known.tolist() == [True] + [False] * 49
    # Sessions of 13 bars are over long before the window is.
    assert peak_slope_bottom(random_bars(50), w=100, clip_session="XNYS").known.tolist() == [True] * 39 + [False] * 11


def test_not_bars():
    with pytest.raises(BarsError):
        peak_slope_bottom(random_bars(50)[["close"]])
