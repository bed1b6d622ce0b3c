"""`ICTFeatures`: what traders see, at the bar they can see it, and never otherwise afterwards."""

import pickle

import numpy as np
import pandas as pd
import pytest
from ict_oracle import PlainICT
from sklearn.base import clone

from ensemble_kit.atr import average_true_range
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features._ict_pass import advance
from ensemble_kit.features.ict import ICTFeatures
from ensemble_kit.sessions import Session, session_times
from ensemble_kit.validation import lookback

PRICES = ["open", "high", "low", "close"]
NAMES = """
sw_high_dist sw_low_dist sw_high_age sw_low_age sw_leg sw_leg_atr sw_pos sw_seq
ms_trend ms_bos ms_choch ms_bos_age ms_choch_age ms_run ms_level_dist ms_strength ms_flip_dist
ob_bull_dist ob_bear_dist ob_bull_age ob_bear_age ob_bull_str ob_bear_str ob_bull_n ob_bear_n ob_touch ob_break
fvg_event fvg_size fvg_bull_dist fvg_bear_dist fvg_bull_age fvg_bear_age fvg_bull_fill fvg_bear_fill
fvg_bull_n fvg_bear_n fvg_invert
liq_up_dist liq_dn_dist liq_up_n liq_dn_n liq_sweep liq_sweep_age liq_sweep_depth
pd_high_dist pd_low_dist pd_swept
""".split()  # noqa: SIM905 - as the specification writes them


def transform(bars, **params):
    return ICTFeatures(**params).set_output(transform="pandas").fit_transform(bars)


def on_grid(bars):
    """Prices in multiples of 1/256, whose sums and differences are exact; ties and flat bars come with it."""
    bars = bars.copy()
    bars[PRICES] = (bars[PRICES] * 256).round() / 256
    return bars


def awkward(n=3000, seed=0):
    """Coarse ticks, bars that are high and low at once, a flat stretch, and rows without prices."""
    bars = make_bars(n, random_state=seed)
    bars.iloc[12::29, 1] += 0.25
    bars.iloc[12::29, 2] -= 0.25
    bars[PRICES] = (bars[PRICES] * 16).round() / 16
    flat = slice(n // 3, n // 3 + 100)
    bars.iloc[flat, :4] = bars["close"].iloc[n // 3]
    rng = np.random.default_rng(seed)
    bars.iloc[rng.random(n) < 0.03, :4] = np.nan
    bars.iloc[rng.random(n) < 0.02, 0] = np.nan
    bars.iloc[n // 2 : n // 2 + 30] = np.nan
    return bars


def same_bits(a, b):
    a, b = np.asarray(a), np.asarray(b)
    assert a.shape == b.shape
    assert a.dtype == b.dtype == np.float32
    known = ~np.isnan(a)
    np.testing.assert_array_equal(known, ~np.isnan(b))
    np.testing.assert_array_equal(a.view(np.uint32)[known], b.view(np.uint32)[known])


def test_names_order_and_output():
    bars = make_bars(400, random_state=0)
    features = clone(ICTFeatures(left=3)).fit(bars)
    assert list(features.get_feature_names_out()) == NAMES
    assert lookback(features) is None
    block = features.transform(bars)
    assert (block.dtype, block.shape) == (np.float32, (400, 48))
    frame = features.set_output(transform="pandas").transform(bars)
    assert list(frame) == NAMES
    pd.testing.assert_index_equal(frame.index, bars.index)
    same_bits(frame, block)
    assert list(features.feature_names_in_) == list(bars)


# --- What a row may see ------------------------------------------------------------------------


@pytest.mark.parametrize("params", [{}, {"left": 2, "right": 1, "max_zones": 2, "max_pools": 3, "max_age": 20}])
def test_every_prefix_gives_the_same_rows(params):
    bars = awkward()
    features = ICTFeatures(**params).fit(bars)
    whole = features.transform(bars)
    prices = np.stack([bars[column].to_numpy() for column in PRICES])
    day = session_times(bars.index).day
    seen, wrong = whole.T.copy().view(np.uint32), 0
    for n in range(1, len(bars) + 1) if not params else range(1, len(bars) + 1, 10):
        out = np.full((48, n), np.nan, np.float32)
        advance(features._start(), prices[:, :n].copy(), day[:n], np.arange(n), out)
        wrong += int((out.view(np.uint32) != seen[:, :n]).sum())
    assert wrong == 0
    for n in (1, 3, 77, 1031, 2999):
        same_bits(features.transform(bars.iloc[:n]), whole[:n])


def test_the_future_changes_nothing():
    bars = awkward()
    features = ICTFeatures().fit(bars)
    other = bars.copy()
    other.iloc[1500:, :4] = make_bars(1500, random_state=9)[PRICES].to_numpy() * 3
    same_bits(features.transform(other)[:1500], features.transform(bars)[:1500])
    assert (features.transform(other)[1500:] != features.transform(bars)[1500:]).any(axis=0).all()


def test_resumed_at_500_random_bars():
    bars = awkward()
    features = ICTFeatures().fit(bars)
    cuts = np.sort(np.random.default_rng(0).choice(np.arange(1, len(bars)), 500, replace=False))
    parts, state = [], None
    for begin, end in zip([0, *cuts], [*cuts, len(bars)], strict=True):
        stream = features.stream(state)
        parts.append(stream.update(bars.iloc[begin:end]))
        state = pickle.loads(pickle.dumps(stream.state))
    same_bits(np.concatenate(parts), features.transform(bars))


def test_bar_by_bar():
    bars = awkward(300)
    features = ICTFeatures(left=1, right=1).fit(bars)
    stream = features.stream()
    before = stream.state
    rows = np.concatenate([stream.update(bars.iloc[[t]]) for t in range(300)])
    same_bits(rows, features.transform(bars))
    assert before["clock"] == 0  # a copy, not the state itself
    resumed = features.stream(before).update(bars)
    same_bits(resumed, rows)


def test_bar_by_bar_on_an_exchange():
    bars = make_bars(800, bar="30min", session=Session("09:30", "16:00", "America/New_York"), random_state=3)
    features = ICTFeatures(left=2, right=2, session="XNYS").fit(bars)
    stream = features.stream()
    same_bits(np.concatenate([stream.update(bars.iloc[[t]]) for t in range(800)]), features.transform(bars))


def test_a_panel_is_each_instrument_alone():
    panel = make_bars(500, instruments=["B", "A", "C"], random_state=0)
    keep = np.random.default_rng(0).random(len(panel)) > 0.2
    instrument = panel.index.get_level_values(1)
    keep[instrument == "C"] = np.arange(500) == 400  # a single bar
    panel = panel[keep]
    whole = transform(panel)
    pd.testing.assert_index_equal(whole.index, panel.index)
    for name in "ABC":
        same_bits(whole.xs(name, level=1), transform(panel.xs(name, level=1)))


# --- Symmetries --------------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [4, 2.0**-20])
def test_scale_changes_no_bit(factor):
    bars = awkward()
    same_bits(transform(bars.assign(**bars[PRICES] * factor)), transform(bars))


#: The mirror image of each column: whose values it takes, and with which sign.
MIRRORED = {name: (name, -1) for name in NAMES}
MIRRORED |= {name: (name, 1) for name in NAMES if name.startswith("ms_") and name.endswith("_age")}
MIRRORED |= {"sw_leg_atr": ("sw_leg_atr", 1), "liq_sweep_age": ("liq_sweep_age", 1)}
for a, b in [("sw_high_dist", "sw_low_dist"), ("pd_high_dist", "pd_low_dist")]:
    MIRRORED |= {a: (b, -1), b: (a, -1)}
for a in ("sw_high_age", *(name for name in NAMES if "_bull_" in name or name.startswith("liq_up_"))):
    b = a.replace("high", "low").replace("bull", "bear").replace("_up_", "_dn_")
    MIRRORED |= {a: (b, 1), b: (a, 1)}


@pytest.mark.parametrize("seed", [0, 1])
def test_mirrored_prices_mirror_the_columns(seed):
    bars = on_grid(awkward(seed=seed))
    mirror = bars.copy()
    mirror[PRICES] = 300 - bars[["open", "low", "high", "close"]].to_numpy()
    assert (mirror[PRICES].dropna() > 0).all(axis=None)
    plain, mirrored = transform(bars).astype(float), transform(mirror).astype(float)
    plain["pd_swept"] = plain["pd_swept"].where(plain["pd_swept"] != 2, -2)  # both stays both
    want = pd.DataFrame({name: plain[source] * sign for name, (source, sign) in MIRRORED.items()})
    np.testing.assert_allclose(mirrored.pop("sw_pos"), 1 - plain["sw_pos"], atol=1e-6)
    pd.testing.assert_frame_equal(mirrored, want[list(mirrored)], check_exact=True)
    both = (mirrored[["sw_high_age", "sw_low_age"]] == 5).all(axis=1)
    assert both.any()  # the bar that is a high and a low was among them


# --- Against a plain reading of the specification ----------------------------------------------


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"left": 3, "right": 2, "max_zones": 3, "max_pools": 4, "max_age": 60},
        {"left": 1, "right": 1, "fvg_min": 0.0, "ob_disp": 0.0, "liq_tol": 2.0},
    ],
)
def test_equals_a_plain_reading_of_the_specification(params):
    bars = on_grid(awkward(1500, seed=3)).dropna()
    want = PlainICT(bars, **params).columns()
    got = transform(bars, **params)
    assert set(want) == set(got)
    pd.testing.assert_frame_equal(got.astype(float), want[NAMES].astype(float), rtol=1e-6, atol=1e-6)
    events = got[["ms_bos", "ms_choch", "ob_touch", "ob_break", "fvg_event", "fvg_invert", "liq_sweep"]]
    assert ((events == 1).any() & (events == -1).any()).all()


# --- Small scenes ------------------------------------------------------------------------------


def scene(*bars, calm=20, start="2024-01-02"):
    """Calm bars (100, 100.5, 99.5, 100), which have no swing, then the bars given."""
    rows = [(100, 100.5, 99.5, 100)] * calm + list(bars)
    index = pd.date_range(start, periods=len(rows), freq="5min")
    return pd.DataFrame(rows, index=index, columns=PRICES, dtype=float)


def played(bars, **params):
    """Columns of the bars after the calm, and their A."""
    columns = transform(bars, **{"left": 1, "right": 1, **params})
    return columns.iloc[20:].reset_index(drop=True).astype(float), average_true_range(bars)[20:]


UP_AND_DOWN = [
    (100, 102, 99.5, 101),  # 0: a high
    (101, 101.5, 99, 99.5),  # 1: which is known here
    (99.5, 100.5, 98, 98.5),  # 2: the leg's low, a down candle
    (98.5, 103.5, 98.4, 103),  # 3: closes above the high
    (103, 104, 102.5, 103.5),  # 4: leaves a gap above bar 2
    (103.5, 103.6, 101.5, 102),  # 5: fills half of it
    (102, 102.2, 100.4, 101),  # 6: fills it, touches the block of bar 2
    (101, 101.2, 97, 97.5),  # 7: closes below the block and the low
]


def test_a_break_its_block_and_its_gap():
    columns, atr = played(scene(*UP_AND_DOWN))
    now = columns.round(4)
    # The swing high is known one bar after it, the low likewise.
    assert np.isnan(now["sw_high_dist"][0])
    np.testing.assert_array_equal(now["sw_high_age"][1:5], [1, 2, 3, 4])
    np.testing.assert_array_equal(now["sw_low_age"][3:6], [1, 2, 3])
    np.testing.assert_array_equal(now["sw_leg"][1:6], [-1, -1, 1, 1, -1])
    np.testing.assert_allclose(columns["sw_pos"][3], 1.25)
    # BOS at bar 3, CHoCH at bar 7, nothing else.
    np.testing.assert_array_equal(now["ms_bos"], [0, 0, 0, 1, 0, 0, 0, 0])
    np.testing.assert_array_equal(now["ms_choch"], [0, 0, 0, 0, 0, 0, 0, -1])
    np.testing.assert_array_equal(now["ms_trend"][2:], [np.nan, 1, 1, 1, 1, -1])
    np.testing.assert_array_equal(now["ms_run"], [0, 0, 0, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(now["ms_bos_age"][3:], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(now["ms_choch_age"][6:], [np.nan, 0])
    np.testing.assert_allclose(columns["ms_strength"][3:7], (103 - 102) / atr[3], rtol=1e-6)
    np.testing.assert_allclose(columns["ms_level_dist"][4], (103.5 - 102) / atr[4], rtol=1e-6)
    np.testing.assert_allclose(columns["ms_flip_dist"][4], (103.5 - 98) / atr[4], rtol=1e-6)
    # The block is bar 2: 98 to 100.5. Touched at bar 6, closed through at bar 7.
    np.testing.assert_array_equal(now["ob_bull_n"], [0, 0, 0, 1, 1, 1, 1, 0])
    np.testing.assert_array_equal(now["ob_bull_age"][3:], [0, 1, 2, 3, np.nan])
    np.testing.assert_allclose(
        columns["ob_bull_dist"][3:7], ([103, 103.5, 102, 101] - np.array(100.5)) / atr[3:7], rtol=1e-6
    )
    np.testing.assert_allclose(columns["ob_bull_str"][3:7], 2.5 / atr[3], rtol=1e-6)
    np.testing.assert_array_equal(now["ob_touch"], [0, 0, 0, 0, 0, 0, 1, 0])
    np.testing.assert_array_equal(now["ob_break"], [0, 0, 0, 0, 0, 0, 0, -1])
    # Behind the break down stands bar 4, the last up candle: 102.5 to 104.
    assert now["ob_bear_n"].tolist() == [0] * 7 + [1]
    np.testing.assert_allclose(columns["ob_bear_dist"][7], (102.5 - 97.5) / atr[7], rtol=1e-6)
    # The gap is 100.5 to 102.5.
    np.testing.assert_array_equal(now["fvg_event"][:7], [0, 0, 0, 0, 1, 0, 0])
    np.testing.assert_allclose(columns["fvg_size"][4], 2 / atr[4], rtol=1e-6)
    np.testing.assert_array_equal(now["fvg_bull_fill"][3:7], [np.nan, 0, 0.5, np.nan])
    np.testing.assert_array_equal(now["fvg_bull_n"][3:7], [0, 1, 1, 0])
    np.testing.assert_allclose(columns["fvg_bull_dist"][5], (102 - 102.5) / atr[5], rtol=1e-6)
    assert not now["fvg_invert"].any()


def test_thresholds_decide_what_is_kept():
    bars = scene(*UP_AND_DOWN)
    atr = average_true_range(bars)[20:]
    disp, gap = 2.5 / atr[3], 2 / atr[4]
    for share, n in ((0.99, 1), (1.01, 0)):
        assert played(bars, ob_disp=disp * share)[0]["ob_bull_n"][3] == n
        assert played(bars, fvg_min=gap * share)[0]["fvg_event"][4] == n


def test_the_fill_only_grows_and_a_close_through_inverts():
    columns, _ = played(
        scene(
            (100, 100.5, 99.5, 100),
            (100, 103, 100, 103),
            (103, 104, 102.5, 104),  # gap from 100.5 to 102.5
            (104, 104, 101.5, 103),  # half
            (103, 104, 102, 104),  # a quarter
            (104, 104, 99, 100),  # closes below
        )
    )
    np.testing.assert_array_equal(columns["fvg_bull_fill"], [np.nan, np.nan, 0, 0.5, 0.5, np.nan])
    np.testing.assert_array_equal(columns["fvg_invert"], [0, 0, 0, 0, 0, -1])


def test_a_gap_between_sessions_is_none():
    bars = scene((100, 103, 100, 103), (103, 104, 102.5, 104), (104, 104, 103.5, 104))
    assert transform(bars)["fvg_event"].tolist()[-3:] == [0, 1, 1]
    for night, events in ((20, [0, 0, 1]), (21, [0, 0, 0]), (22, [0, 1, 0])):
        later = bars.index.where(np.arange(23) < night, bars.index + pd.Timedelta("1D"))
        assert transform(bars.set_axis(later))["fvg_event"].tolist()[-3:] == events


HIGHS = [
    (100, 102, 99.5, 100),  # 0: a high at 102
    (100, 101, 99.5, 100),
    (100, 101.9, 99.5, 100),  # 2: nearly equal
    (100, 101, 99.5, 100),  # 3: known
]


def test_a_pool_is_swept():
    columns, atr = played(scene(*HIGHS, (100, 102.6, 99.5, 101.5), (101.5, 102, 101, 101)))
    np.testing.assert_array_equal(columns["liq_up_n"], [np.nan, 1, 1, 2, np.nan, 1])
    np.testing.assert_allclose(columns["liq_up_dist"][3], 2 / atr[3], rtol=1e-6)
    np.testing.assert_array_equal(columns["liq_sweep"], [0, 0, 0, 0, -1, 0])
    np.testing.assert_array_equal(columns["liq_sweep_age"], [np.nan] * 4 + [0, 1])
    np.testing.assert_allclose(columns["liq_sweep_depth"][4:], -(102.6 - 102) / atr[4], rtol=1e-6)


def test_a_pool_is_run():
    columns, _ = played(scene(*HIGHS, (100, 102.6, 99.5, 102.5), (102.5, 102.5, 101, 101)))
    np.testing.assert_array_equal(columns["liq_up_n"], [np.nan, 1, 1, 2, np.nan, 1])
    assert not columns["liq_sweep"].any()
    assert columns["liq_sweep_age"].isna().all()


def test_swings_too_far_apart_are_two_pools():
    columns, atr = played(scene(*HIGHS), liq_tol=0.05)
    np.testing.assert_array_equal(columns["liq_up_n"][1:], [1, 1, 1])
    np.testing.assert_allclose(columns["liq_up_dist"][3], 1.9 / atr[3], rtol=1e-6)


def test_a_full_list_of_pools_forgets_the_furthest():
    peaks = [107, 105, 104.99, 103, 101]
    bars = scene(*[(100, high, 99.5, 100) for peak in peaks for high in (peak, 100.5)])
    for n, pools in ((4, [[107, 1], [105, 2], [103, 1], [101, 1]]), (3, [[105, 2], [103, 1], [101, 1]])):
        stream = ICTFeatures(left=1, right=1, max_pools=n).stream()
        stream.update(bars)
        assert stream.state["pools"][0].tolist() == pools


def test_a_full_list_of_zones_forgets_the_oldest_and_all_age():
    gaps = [(100 + 5 * i, 104 + 5 * i, 100 + 5 * i, 104 + 5 * i) for i in range(5)]
    calm = [(124, 124, 123, 124)] * 6
    columns, _ = played(scene(*gaps, *calm), max_zones=2, max_age=3)
    np.testing.assert_array_equal(columns["fvg_bull_n"], [0, 1, 2, 2, 2, 2, 2, 2, 1, 0, 0])
    np.testing.assert_array_equal(columns["fvg_bull_age"][5:10], [0, 1, 2, 3, np.nan])


def test_the_session_before_is_swept():
    day = [(100, 101, 99, 100)] * 20
    rows = [*day, (100, 100.5, 99.5, 100), (100, 101.5, 99.5, 100), (100, 100.5, 98.5, 100), (100, 100.5, 99.5, 100)]
    index = pd.date_range("2024-01-02", periods=20, freq="5min").append(
        pd.DatetimeIndex(["2024-01-03 09:00", "2024-01-03 09:05", "2024-01-03 09:10", "2024-01-04"])
    )
    columns = transform(pd.DataFrame(rows, index, PRICES, dtype=float))
    atr = average_true_range(pd.DataFrame(rows, index, PRICES, dtype=float))
    assert columns["pd_swept"][:20].isna().all()
    np.testing.assert_array_equal(columns["pd_swept"][20:], [0, 1, 2, 0])
    np.testing.assert_allclose(
        columns["pd_high_dist"][20:], (100 - np.array([101, 101, 101, 101.5])) / atr[20:], rtol=1e-6
    )
    np.testing.assert_allclose(columns["pd_low_dist"][20:], (100 - np.array([99, 99, 99, 98.5])) / atr[20:], rtol=1e-6)


def test_a_first_pivot_of_both_kinds_has_no_last_one():
    columns, _ = played(
        scene((100, 102, 98, 100), (100, 100.5, 99.5, 100), (100, 101, 99.5, 100), (100, 100.5, 99.5, 100))
    )
    np.testing.assert_array_equal(columns["sw_leg"], [np.nan, np.nan, np.nan, -1])
    np.testing.assert_array_equal(columns["sw_high_age"], [np.nan, 1, 2, 1])  # the lower high is no successor
    np.testing.assert_array_equal(columns["sw_low_age"], [np.nan, 1, 2, 3])


def test_sessions_are_the_given_ones():
    bars = make_bars(1000, random_state=0)
    new_york, exchange, day = (
        transform(bars, session=session) for session in (Session("09:30", "16:00", "America/New_York"), "XNYS", "day")
    )
    pd.testing.assert_frame_equal(new_york, exchange)
    pd.testing.assert_frame_equal(new_york, day)
    tokyo = transform(bars, session=Session("00:00", "00:00", "Asia/Tokyo"))
    assert not tokyo["pd_high_dist"].equals(day["pd_high_dist"])
    pd.testing.assert_frame_equal(tokyo.filter(regex="^(sw|ms|ob|liq)_"), day.filter(regex="^(sw|ms|ob|liq)_"))


# --- Bars as they come -------------------------------------------------------------------------


def test_rows_without_prices_are_as_if_absent():
    bars = awkward()
    columns = transform(bars)
    there = bars[["high", "low", "close"]].notna().all(axis=1)
    assert columns[~there].isna().all(axis=None)
    assert 0 < (~there).sum() < len(bars)
    pd.testing.assert_frame_equal(columns[there], transform(bars[there]))


def test_volume_is_not_read_and_everything_is_finite_or_nan():
    bars = awkward()
    columns = transform(bars)
    pd.testing.assert_frame_equal(columns, transform(bars[PRICES]))
    assert not np.isinf(columns).any(axis=None)
    assert columns.iloc[-1].notna().sum() > 40


@pytest.mark.parametrize("n", [1, 3, 20, 12_000])
def test_prices_that_never_move(n):
    index = pd.date_range("2024-01-02", periods=n, freq="5min")
    columns = transform(pd.DataFrame(50.0, index, PRICES))
    assert not np.isinf(columns).any(axis=None)
    assert (columns[["ms_bos", "ms_choch", "ob_bull_n", "liq_sweep", "fvg_bull_n"]] == 0).all(axis=None)
    assert columns.filter(like="_dist").isna().all(axis=None)


def test_prices_that_stop_for_long_and_move_again():
    bars = on_grid(make_bars(3000, random_state=0))
    bars.iloc[500:2500, :4] = bars["close"].iloc[500]
    columns = transform(bars)
    assert np.nanmax(np.abs(columns.to_numpy())) < 1e9
    assert columns["sw_high_dist"].iloc[1500:2500].isna().all()
    assert columns.iloc[-1].notna().sum() > 40


@pytest.mark.parametrize("file", ["spy_5min_2022_2023", "btcusdt_5min_2023", "spy_1min_bidask", "vxx_1h_2009_2021"])
def test_real_bars(shared_data, file):
    bars = read_bars(shared_data / f"{file}.parquet")
    features = ICTFeatures().fit(bars)
    whole = features.transform(bars)
    assert not np.isinf(whole).any()
    for n in np.random.default_rng(0).integers(1, len(bars), 10):
        same_bits(features.transform(bars.iloc[:n]), whole[:n])
    stream, rows = features.stream(), len(bars) // 2
    stream.update(bars.iloc[:rows])
    same_bits(features.stream(stream.state).update(bars.iloc[rows:]), whole[rows:])
    assert (np.nanstd(whole, axis=0) > 0).all()


def test_a_real_panel(shared_data):
    daily = pd.read_parquet(shared_data / "us_daily_panel_1998_2021.parquet")
    daily = daily.rename(columns={"timestamp": "datetime", "symbol": "instrument"})
    panel = daily[daily["instrument"].isin(["FB", "SPY"])].set_index(["datetime", "instrument"]).sort_index()
    whole = transform(panel)
    for name in ("FB", "SPY"):
        same_bits(whole.xs(name, level=1), transform(panel.xs(name, level=1)))
    assert (whole["fvg_event"].fillna(0) == 0).all()  # each day is a session


# --- Errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"left": 0}, "`left` must be an integer of at least 1; got 0"),
        ({"right": 2.5}, "`right` must be an integer of at least 1; got 2.5"),
        ({"max_zones": True}, "`max_zones` must be an integer"),
        ({"max_pools": 0}, "`max_pools` must be"),
        ({"max_age": None}, "`max_age` must be"),
        ({"fvg_min": -0.1}, "`fvg_min` must be a finite number of average true ranges, at least 0; got -0.1"),
        ({"ob_disp": np.nan}, "`ob_disp` must be"),
        ({"liq_tol": np.inf}, "`liq_tol` must be"),
        ({"session": "NYSE?"}, "`session` must be 'day', an exchange code or a Session"),
    ],
)
def test_parameters_outside_their_domain(params, message):
    with pytest.raises(EnsembleKitError, match=message):
        ICTFeatures(**params).fit(make_bars(50, random_state=0))


def test_a_stream_takes_what_follows():
    bars = make_bars(60, random_state=0)
    stream = ICTFeatures().stream()
    stream.update(bars.iloc[:50])
    with pytest.raises(BarsError, match=r"`bars` must follow those before; got .* Drop the bars already taken"):
        stream.update(bars.iloc[49:])
    with pytest.raises(BarsError, match="`bars` must be of one instrument; got a panel"):
        stream.update(make_bars(5, instruments=["A"], random_state=0))
    for other in (ICTFeatures(left=4), ICTFeatures(max_zones=9), ICTFeatures(ob_disp=2.0)):
        with pytest.raises(EnsembleKitError, match="`state` must be one left by the same parameters"):
            other.stream(stream.state)
    with pytest.raises(EnsembleKitError, match="`state` must be one left by the same parameters"):
        ICTFeatures().stream({})
