"""Alpha158 against pyqlib's own expression engine, bit for bit, and against itself."""

import io
import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone

from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features.alpha158 import Alpha158

PRICES = ["open", "high", "low", "close"]


def walk(n, seed, *, price=100.0, step=2e-3, tick=None):
    """Seeded random bars; `tick` rounds prices, which makes ties and flat windows."""
    rng = np.random.default_rng(seed)
    close = price * np.exp(np.cumsum(rng.normal(0, step, n)))
    opens = close * np.exp(rng.normal(0, step, n))
    high = np.maximum(opens, close) * np.exp(np.abs(rng.normal(0, step / 2, n)))
    low = np.minimum(opens, close) * np.exp(-np.abs(rng.normal(0, step / 2, n)))
    bars = pd.DataFrame({"open": opens, "high": high, "low": low, "close": close})
    if tick:
        bars = (bars / tick).round() * tick
    bars["volume"] = rng.integers(0, 5000, n).astype(float)
    bars["vwap"] = bars[PRICES].mean(axis=1)
    bars.index = pd.date_range("2020-01-01", periods=n, freq="5min", tz="UTC")
    return bars


def with_rows(bars, rows, columns, value):
    bars.iloc[rows, bars.columns.get_indexer(columns)] = value
    return bars


def synthetic_cases():
    rng = np.random.default_rng(99)
    every = [*PRICES, "volume", "vwap"]
    holes = with_rows(walk(1500, 7), rng.random(1500) < 0.15, every, np.nan)
    for gap in (slice(0, 1), slice(300, 380), slice(900, 961), slice(962, 1022)):  # bar 961 alone in its window
        with_rows(holes, gap, every, np.nan)
    flat = with_rows(walk(900, 6), slice(300, 400), PRICES, 50.0)
    with_rows(with_rows(flat, slice(100, 250), ["volume"], 0.0), slice(500, 700), ["volume"], 777.0)
    jump = walk(1500, 12)
    jump[PRICES] = jump[PRICES].mul(
        np.where(np.arange(1500) < 400, 1, np.where(np.arange(1500) < 800, 1e3, 1e-3)), axis=0
    )
    fast = walk(800, 14)
    fast["volume"] *= 1e9
    # Volumes of very different size leave round-off in the sums; then one value over and over.
    collapse = walk(1200, 18)
    size = np.repeat(10.0 ** rng.choice([-3, 0, 5, 9, 12, 15], 60), 20)
    repeat = np.arange(1200) // 20 % 3 == 2
    collapse["volume"] = np.where(repeat, np.repeat(rng.random(60), 20), rng.random(1200) * size)
    return {
        "random": walk(1500, 0),
        "ticks": walk(1500, 1, tick=0.25),
        "coarse ticks": walk(1000, 13, tick=1.0, step=5e-4),
        "price 1e-5": walk(600, 2, price=1e-5),
        "price 1e5": walk(600, 3, price=1e5),
        "no volume, no vwap": walk(600, 4).drop(columns=["volume", "vwap"]),
        "zero volume": walk(600, 5).assign(volume=0.0),
        "some zero volume": with_rows(walk(800, 15), rng.random(800) < 0.3, ["volume"], 0.0),
        "NaN volume": with_rows(walk(900, 8), rng.random(900) < 0.2, ["volume"], np.nan),
        "huge volume": fast,
        "collapsing volume": collapse,
        "constant stretches": flat,
        "constant": with_rows(walk(400, 9), slice(None), PRICES, 12.34),
        "jumps": jump,
        "NaN rows": holes,
        "NaN only": with_rows(walk(100, 16), slice(None), every, np.nan),
        "NaN first": with_rows(walk(300, 17), slice(100), every, np.nan),
        "1 bar": walk(1, 10),
        "3 bars": walk(3, 11),
    }


def real_cases():
    """Slices of real bars, where the folder is there."""
    folder = Path(__file__).parents[3] / "shared" / "data"
    files = {"btcusdt_5min_2023": 20_000, "spy_ext_5min_2025": 5_000, "vxx_1h_2009_2021": 8_000}
    cases = {}
    for name, n in {**files, "eurusd_1h_2007_2013": 3_000, "spy_1min_bidask": 3_000}.items():
        if (folder / f"{name}.parquet").exists():
            cases[name] = pd.read_parquet(folder / f"{name}.parquet").iloc[:n].set_index("timestamp")
    return cases


def panel_cases():
    """A panel whose instruments start on different days and lack bars, two of them real where there are any."""
    rng = np.random.default_rng(5)
    frames = {f"s{k}": walk(700, 20 + k).iloc[60 * k :] for k in range(3)}
    frames = {name: bars[rng.random(len(bars)) > 0.1] for name, bars in frames.items()}
    panel = pd.concat(frames, names=["instrument", "datetime"]).swaplevel().sort_index()
    cases = {"panel": panel}
    file = Path(__file__).parents[3] / "shared" / "data" / "us_daily_panel_1998_2021.parquet"
    if file.exists():
        daily = pd.read_parquet(file).rename(columns={"timestamp": "datetime", "symbol": "instrument"})
        daily = daily[daily["instrument"].isin(["FB", "SPY", "WM"]) & (daily["datetime"] >= "2008")]
        cases["daily panel"] = daily.set_index(["datetime", "instrument"]).sort_index()
    return cases


def on_union(panel, name):
    """One instrument on the times of all, from its first bar to its last, as Qlib stores it."""
    bars = panel.xs(name, level="instrument")
    times = panel.index.get_level_values("datetime").unique()
    return bars.reindex(times[(times >= bars.index[0]) & (times <= bars.index[-1])])


def names_of(panel):
    return list(panel.index.get_level_values("instrument").unique())


SINGLE = {**synthetic_cases(), **real_cases()}
PANELS = panel_cases()


@pytest.fixture(scope="module")
def qlib():
    """pyqlib's columns of every case, computed in one process."""
    pytest.importorskip("qlib")
    from qlib_oracle import alpha158_by_qlib

    cases = dict(SINGLE)
    for key, panel in PANELS.items():
        for name in names_of(panel):
            cases[f"{key} {name} rows"] = panel.xs(name, level="instrument")
            cases[f"{key} {name} union"] = on_union(panel, name)
    return alpha158_by_qlib(cases)


def transform(bars, **params):
    return Alpha158(**params).fit(bars).transform(bars)


def assert_same_bits(got, want):
    assert got.dtype == want.dtype == np.float32
    assert got.shape == want.shape
    names = Alpha158().get_feature_names_out()
    same = (got == want) & (np.signbit(got) == np.signbit(want)) | (np.isnan(got) & np.isnan(want))
    wrong = {names[k]: int((~same[:, k]).sum()) for k in np.flatnonzero(~same.all(axis=0))}
    assert not wrong, f"{len(wrong)} columns differ (cells): {wrong}"


@pytest.mark.parametrize("case", SINGLE)
def test_equals_qlib(case, qlib):
    assert_same_bits(transform(SINGLE[case]), qlib[case])


@pytest.mark.parametrize("calendar", ["rows", "union"])
@pytest.mark.parametrize("case", PANELS)
def test_panel_equals_qlib(case, calendar, qlib):
    panel = PANELS[case]
    got = Alpha158(calendar=calendar).set_output(transform="pandas").fit(panel).transform(panel)
    for name in names_of(panel):
        want = qlib[f"{case} {name} {calendar}"]
        if calendar == "union":
            want = want[on_union(panel, name).index.isin(panel.xs(name, level="instrument").index)]
        assert_same_bits(got.xs(name, level="instrument").to_numpy(), want)


def test_names_are_qlibs():
    # Importing pyqlib changes numpy's error state and logging, so it is asked elsewhere.
    pytest.importorskip("qlib")
    ask = "from qlib.contrib.data.loader import Alpha158DL as A; print(*A.get_feature_config()[1])"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", ask], capture_output=True, text=True, check=True)
    assert Alpha158().get_feature_names_out().tolist() == done.stdout.split("\n")[-2].split()


@pytest.mark.parametrize("case", ["ticks", "NaN rows", "constant stretches", "jumps"])
def test_a_prefix_gives_what_the_whole_gives(case):
    bars = SINGLE[case]
    whole = transform(bars)
    for n in (1, 2, 59, 60, 61, 250, 359, 505, 850):
        assert_same_bits(transform(bars.iloc[:n]), whole[:n])


def test_an_instrument_of_a_panel_is_as_if_alone():
    panel = PANELS["panel"]
    got = Alpha158().set_output(transform="pandas").fit(panel).transform(panel)
    for name in names_of(panel):
        alone = transform(panel.xs(name, level="instrument"))
        assert_same_bits(got.xs(name, level="instrument").to_numpy(), alone)


def test_scaling_by_a_power_of_two_changes_nothing():
    bars = walk(1000, 3)
    scaled = bars * [4, 4, 4, 4, 1, 4]
    # Only columns with an absolute constant (1e-12, 2e-5) could differ: not at these prices.
    np.testing.assert_allclose(transform(scaled), transform(bars), rtol=2e-6, atol=1e-7)


def test_threads_give_the_same_bits():
    bars = PANELS["panel"]
    for n_threads in (2, 3, 8):
        assert_same_bits(transform(bars, n_threads=n_threads), transform(bars))


def test_pandas_output_keeps_the_index_and_copies_nothing():
    for bars in (SINGLE["ticks"], PANELS["panel"]):
        table = Alpha158().set_output(transform="pandas").fit_transform(bars)
        assert table.index.equals(bars.index)
        assert table.index.names == bars.index.names
        values = table.to_numpy(copy=False)
        assert values.flags.f_contiguous
        assert np.shares_memory(values, table["VSUMD60"].array._ndarray)
    block = transform(SINGLE["ticks"])
    assert block.flags.f_contiguous
    assert np.shares_memory(block, pd.DataFrame(block, copy=False).to_numpy(copy=False))


def test_input_is_left_alone_and_parameters_clone():
    bars = walk(200, 1)
    before = bars.copy(deep=True)
    features = clone(Alpha158(calendar="union", n_threads=2)).fit(bars)
    features.transform(bars)
    pd.testing.assert_frame_equal(bars, before)
    assert features.n_features_in_ == 6
    assert features.feature_names_in_.tolist() == list(bars.columns)
    assert features.lookback == 60


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"calendar": "days"}, r"`calendar` must be 'rows' or 'union'; got 'days'"),
        ({"n_threads": 0}, r"`n_threads` must be an integer of at least 1; got 0"),
    ],
)
def test_bad_parameters_are_named(params, message):
    with pytest.raises(ValueError, match=message):
        Alpha158(**params).fit(walk(5, 1))


def test_bad_bars_are_refused():
    with pytest.raises(BarsError, match="missing close"):
        Alpha158().fit(walk(5, 1).drop(columns="close"))


# Streams


def stored(state):
    """The state as a file gives it back."""
    file = io.BytesIO()
    np.savez(file, **state)
    file.seek(0)
    with np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


@pytest.mark.parametrize("name", synthetic_cases())
def test_a_stream_has_the_bits_of_the_whole(name):
    bars = synthetic_cases()[name]
    features = Alpha158().fit(bars)
    stream, rows = features.stream(), []
    later = np.random.default_rng(0).integers(0, len(bars), 40)
    cuts = np.unique([*range(min(70, len(bars))), *later, len(bars)])
    for begin, end in itertools.pairwise(cuts):
        rows.append(stream.update(bars.iloc[begin:end]))
        stream = features.stream(stored(stream.state))
    np.testing.assert_array_equal(np.concatenate(rows), features.transform(bars))


@pytest.mark.parametrize("name", real_cases())
def test_real_bars_one_by_one(name):
    bars = real_cases()[name]
    features = Alpha158().fit(bars)
    middle = len(bars) // 2
    stream = features.stream()
    rows = [stream.update(bars.iloc[:middle])]
    rows += [stream.update(bars.iloc[[t]]) for t in range(middle, middle + 300)]
    rows.append(features.stream(stream.state).update(bars.iloc[middle + 300 :]))
    np.testing.assert_array_equal(np.concatenate(rows), features.transform(bars))


def test_a_stream_keeps_no_more_than_its_windows():
    stream = Alpha158().stream()
    bars = walk(2000, 0)
    stream.update(bars.iloc[:100])
    small = {key: value.nbytes for key, value in stream.state.items()}
    before = stream.state
    rows = stream.update(bars.iloc[100:])
    assert {key: value.nbytes for key, value in stream.state.items()} == small
    np.testing.assert_array_equal(Alpha158().stream(before).update(bars.iloc[100:]), rows)


def test_a_stream_refuses_another_state_and_lost_columns():
    stream = Alpha158().fit(walk(50, 0)).stream()
    with pytest.raises(BarsError, match=r"^`X` must have the columns given to `fit`; volume is missing\."):
        stream.update(walk(50, 0).drop(columns="volume"))
    state = stream.state
    wrong = ({}, {**state, "more": np.zeros(1)}, {**state, "sums": np.zeros(3)}, {**state, "bars": np.zeros((6, 62))})
    for other in (*wrong, {**state, "bars": np.zeros(6)}):
        with pytest.raises(
            EnsembleKitError, match=r"^`state` must be one that a stream of `Alpha158` left; got another"
        ):
            Alpha158().stream(other)
