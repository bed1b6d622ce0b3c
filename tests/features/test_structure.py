"""`market_structure`: the columns of `ICTFeatures` as things that appear, stand and end."""

import numpy as np
import pandas as pd
import pytest

from ensemble_kit.atr import average_true_range
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features import ICTFeatures
from ensemble_kit.features.structure import STRUCTURE_KINDS, market_structure

PRICES = ["open", "high", "low", "close"]
SMALL = {"left": 1, "right": 1, "max_zones": 2, "max_pools": 3, "max_age": 9, "fvg_min": 0.0, "ob_disp": 0.0}


def awkward(n=1500, seed=0):
    """Coarse ticks, bars that are high and low at once, a flat stretch, and rows without prices."""
    bars = make_bars(n, random_state=seed)
    bars.iloc[12::29, 1] += 0.25
    bars.iloc[12::29, 2] -= 0.25
    bars[PRICES] = (bars[PRICES] * 16).round() / 16
    bars.iloc[n // 3 : n // 3 + 60, :4] = bars["close"].iloc[n // 3]
    rng = np.random.default_rng(seed)
    bars.iloc[rng.random(n) < 0.03, :4] = np.nan
    bars.iloc[rng.random(n) < 0.02, 0] = np.nan
    return bars


class Seen:
    """Bars, the table and the columns, with bar numbers for times."""

    def __init__(self, bars, **params):
        ict = ICTFeatures(**params)
        self.bars, self.ict = bars, ict
        self.there = np.flatnonzero(bars[PRICES[1:]].notna().all(axis=1))
        self.columns = ict.set_output(transform="pandas").fit_transform(bars)
        self.table = market_structure(bars, ict)
        self.rows = self.table.copy()
        for name in ("start", "known", "end"):
            self.rows[name] = bars.index.get_indexer(self.table[name])
        self.close, self.atr = bars["close"].to_numpy(), average_true_range(bars)

    def of(self, kind, direction):
        return self.rows[(self.rows["kind"] == kind) & (self.rows["direction"] == direction)]

    def standing(self, kind, direction):
        """Bars x things: what is known and has not ended."""
        found, bar = self.of(kind, direction), np.arange(len(self.bars))[:, None]
        end = found["end"].where(found["end"] >= 0, len(self.bars)).to_numpy()
        return found, (found["known"].to_numpy() <= bar) & (bar < end)

    def agrees(self, name, values, **tolerance):
        np.testing.assert_allclose(self.columns[name].iloc[self.there], values[self.there], rtol=2e-5, **tolerance)


def nearest(standing, distances):
    return np.where(standing, distances, np.inf).min(axis=1, initial=np.inf)


CASES = {
    "plain": lambda: Seen(make_bars(1500, random_state=3)),
    "awkward": lambda: Seen(awkward()),
    "forgetful": lambda: Seen(awkward(seed=1), **SMALL),
    "one": lambda: Seen(make_bars(700, random_state=1), **(SMALL | {"max_zones": 1, "max_pools": 1})),
}


@pytest.fixture(scope="module", params=CASES)
def seen(request):
    return CASES[request.param]()


def agrees_with_zones(seen):
    for kind, column in (("order_block", "ob"), ("gap", "fvg")):
        for sign, side in ((1, "bull"), (-1, "bear")):
            found, standing = seen.standing(kind, sign)
            assert len(found) > 5
            seen.agrees(f"{column}_{side}_n", standing.sum(axis=1))
            edge = found["high" if sign > 0 else "low"].to_numpy()
            away = nearest(standing, sign * (seen.close[:, None] - edge)) / seen.atr
            seen.agrees(f"{column}_{side}_dist", np.where(np.isinf(away), np.nan, away), atol=1e-5)


def agrees_with_events(seen):
    event = np.zeros((3, len(seen.bars)))
    for k, kind in enumerate(("bos", "choch", "sweep")):
        for sign in (1, -1):
            event[k, seen.of(kind, sign)["known"].unique()] += sign
    for name, values in zip(("ms_bos", "ms_choch", "liq_sweep"), event, strict=True):
        assert (values != 0).sum() > 5
        seen.agrees(name, values)
    assert (seen.rows["end"] == seen.rows["known"])[seen.rows["kind"].isin(["bos", "choch", "sweep"])].all()


def agrees_with_levels(seen):
    for kind, sign, name in (("swing_high", -1, "high"), ("swing_low", 1, "low")):
        found = seen.of(kind, sign)
        assert (found["low"] == seen.bars[name].iloc[found["start"]].to_numpy()).all()
        newest = np.searchsorted(found["known"], np.arange(len(seen.bars)), side="right") - 1
        level = np.where(newest >= 0, found["low"].to_numpy()[newest], np.nan)
        seen.agrees(f"sw_{name}_dist", (seen.close - level) / seen.atr, atol=1e-5)
    for sign, side in ((-1, "up"), (1, "dn")):
        found, standing = seen.standing("pool", sign)
        away = nearest(standing, -sign * (found["low"].to_numpy() - seen.close[:, None])) / seen.atr
        seen.agrees(f"liq_{side}_dist", np.where(np.isinf(away), np.nan, away), atol=1e-5)


def test_what_stands_is_what_the_columns_tell(seen):
    agrees_with_zones(seen)
    agrees_with_events(seen)
    agrees_with_levels(seen)


@pytest.mark.parametrize(
    "file", ["spy_5min_2022_2023.parquet", "btcusdt_5min_2023.parquet", "xauusd_1h_2006_2015.parquet"]
)
def test_real_bars(shared_data, file):
    seen = Seen(read_bars(shared_data / file).iloc[-3000:])
    agrees_with_zones(seen)
    agrees_with_events(seen)
    agrees_with_levels(seen)
    assert set(seen.rows["kind"]) == set(STRUCTURE_KINDS)


def test_where_things_lie(seen):
    """Edges are prices of the bars that `start` names, and a block's candle is the one of the rule."""
    bars, number = seen.bars, pd.Series(np.arange(len(seen.there)), index=seen.there)
    o, h, l, c = (bars[name].to_numpy()[seen.there] for name in PRICES)
    start, known = number[seen.rows["start"]].to_numpy(), number[seen.rows["known"]].to_numpy()
    for place, row in enumerate(seen.rows.itertuples()):
        a, t = start[place], known[place]
        outer = h if row.direction < 0 else l
        if row.kind in ("swing_high", "swing_low", "pool"):
            assert (a, row.low) == (t - seen.ict.right, outer[a])
        elif row.kind == "sweep":
            wick = outer[t] - row.low
            assert row.low == outer[a]
            assert row.direction * wick < 0 <= row.direction * (c[t] - row.low)
        elif row.kind in ("bos", "choch"):
            assert row.low == (l if row.direction < 0 else h)[a]
            assert row.direction * (c[t] - row.low) > 0
            assert (row.direction * (c[a + seen.ict.right : t] - row.low) <= 0).all()
        elif row.kind == "gap":
            edges = (h[a], l[t]) if row.direction > 0 else (h[t], l[a])
            assert (a, row.low, row.high) == (t - 2, *edges)
        else:
            assert (row.low, row.high) == (l[a], h[a])
            broken = seen.rows[seen.rows["kind"].isin(["bos", "choch"]) & (seen.rows["known"] == row.known)]
            leg = range(number[broken["start"].item()], t + 1)
            reach = l if row.direction > 0 else -h
            extreme = max(b for b in leg if reach[b] == min(reach[leg]))
            against = [b for b in range(max(extreme - seen.ict.left, 0), extreme + 1) if (c - o)[b] * row.direction < 0]
            assert a == against[-1]


def test_why_things_end(seen):
    rows, high, low = seen.rows, seen.bars["high"].to_numpy(), seen.bars["low"].to_numpy()
    ended = rows[rows["end"] >= 0]
    assert (ended["end"] >= ended["known"]).all()
    assert (rows["known"] >= rows["start"]).all()
    pools = ended[ended["kind"] == "pool"]
    outer = np.where(pools["direction"] < 0, high[pools["end"]] - pools["low"], pools["low"] - low[pools["end"]])
    taken, forgotten = pools[outer > 0], pools[outer <= 0]
    assert len(forgotten) or seen.ict.max_pools == 16
    for sign in (1, -1):
        _, standing = seen.standing("pool", sign)
        own = forgotten[forgotten["direction"] == sign]
        assert (standing[own["end"]].sum(axis=1) == seen.ict.max_pools).all()
    sweeps = rows[rows["kind"] == "sweep"]
    assert set(zip(sweeps["known"], sweeps["low"], strict=True)) <= set(zip(taken["end"], taken["low"], strict=True))
    # Pools are taken inwards out, and each sweep's depth is measured from the deepest.
    c = seen.columns
    for bar in sweeps["known"].unique():
        depth = {}
        for row in sweeps[sweeps["known"] == bar].itertuples():
            wick = (low[bar] if row.direction > 0 else high[bar]) - row.low
            depth[row.direction] = max(depth.get(row.direction, 0.0), abs(wick))
        expected = sum(sign * deepest for sign, deepest in depth.items()) / seen.atr[bar]
        np.testing.assert_allclose(c["liq_sweep_depth"].iloc[bar], expected, rtol=1e-5)


def test_swings_end_when_broken_or_replaced(seen):
    breaks = seen.rows[seen.rows["kind"].isin(["bos", "choch"])]
    broken = set(zip(breaks["known"], breaks["start"], strict=True))
    for kind in ("swing_high", "swing_low"):
        own = seen.rows[seen.rows["kind"] == kind]
        following = own["known"].shift(-1, fill_value=-1)
        for end, start, later in zip(own["end"], own["start"], following, strict=True):
            assert (end, start) in broken or end == later
    assert len(broken) == len(breaks)


@pytest.mark.parametrize("n", [1, 14, 15, 200, 731, 1499])
def test_fewer_bars_know_less_and_the_same(n):
    bars = awkward()
    whole, part = market_structure(bars), market_structure(bars[:n])
    expected = whole[whole["known"] <= bars.index[n - 1]].reset_index(drop=True)
    expected["end"] = expected["end"].where(expected["end"] <= bars.index[n - 1])
    pd.testing.assert_frame_equal(part, expected)


def test_times_keep_their_zone_and_an_instrument_is_read_alone():
    bars = make_bars(300, random_state=0).tz_convert("America/New_York")
    found = market_structure(bars)
    assert {str(found[name].dt.tz) for name in ("start", "known", "end")} == {"America/New_York"}
    panel = make_bars(300, instruments=["A", "B"], random_state=0)
    assert len(market_structure(panel.xs("B", level=1)))
    with pytest.raises(
        BarsError, match=r"^`bars` must be of one instrument; got a panel\. Pass `bars.xs\(instrument, level=1\)`\.$"
    ):
        market_structure(panel)


@pytest.mark.parametrize("n", [1, 3, 40])
def test_nothing_to_find(n):
    bars = make_bars(n, random_state=0)
    flat = bars.assign(**dict.fromkeys(PRICES, 5.0))
    for quiet in (bars[:3], flat, bars.assign(**dict.fromkeys(PRICES, np.nan))):
        found = market_structure(quiet)
        assert list(found) == ["kind", "direction", "start", "known", "end", "low", "high"]
        assert (len(found), found["low"].dtype, found["start"].dtype) == (0, "float64", bars.index.dtype)


def test_names_what_does_not_fit():
    bars = make_bars(30, random_state=0)
    with pytest.raises(EnsembleKitError, match=r"^`ict` must be an ICTFeatures; got dict\. Give it the parameters to"):
        market_structure(bars, {"left": 3})
    with pytest.raises(EnsembleKitError, match=r"^`left` must be an integer of at least 1; got 0\."):
        market_structure(bars, ICTFeatures(left=0))
    with pytest.raises(BarsError, match=r"^`bars` must have at least one row; got 0 x 5"):
        market_structure(bars[:0])
