"""The 39 columns: against TA-Lib wave by wave, and nothing of them known before the wave is."""

import numpy as np
import pandas as pd
import pytest
import talib

from ensemble_kit.atr import average_true_range
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.waves import extract_waves, wave_features

PRICES = ["open", "high", "low", "close"]
INDICATORS = [
    *("macd", "macd_signal", "macd_hist", "ema", "sma", "adx", "adx_pos", "adx_neg", "rsi", "stoch_k", "stoch_d"),
    *("williams_r", "bb_high", "bb_low", "kc_high", "kc_low"),
]
NAMES = [
    *("n", "last_high", "last_low", "mean_high", "mean_low", "slope_high", "slope_low"),
    *(f"last_{name}" for name in INDICATORS),
    *(f"mean_{name}" for name in INDICATORS),
]
DISTANCES = ["slope_high", "slope_low", *(f"{of}_macd{x}" for of in ("last", "mean") for x in ("", "_signal", "_hist"))]
LEVELS = [f"{of}_{x}" for of in ("last", "mean") for x in ("high", "low", "ema", "sma", *INDICATORS[-4:])]


def some_bars(n=700, *, seed=0, instruments=None, holes=0.0):
    bars = make_bars(n, instruments=instruments, random_state=seed)
    rng = np.random.default_rng(seed)
    if instruments is not None:
        bars = bars[(bars.index.get_level_values(1) == instruments[0]) | (rng.random(len(bars)) > 0.2)]
    bars.loc[rng.random(len(bars)) < holes, PRICES] = np.nan
    return bars


def oracle(bars, waves):
    """The table in units of price, one instrument, wave by wave."""
    priced = bars.dropna(subset=PRICES)
    h, l, c = (priced[name] for name in PRICES[1:])
    k, d = talib.STOCH(h, l, c, 14, 3, 0, 3, 0)
    upper, _, lower = talib.BBANDS(c, 20, 2, 2)
    middle, atr = talib.EMA(c, 20), pd.Series(average_true_range(priced), index=priced.index)
    values = [
        *talib.MACD(c, 12, 26, 9),
        *(talib.EMA(c, 14), talib.SMA(c, 14)),
        *(talib.ADX(h, l, c, 14), talib.PLUS_DI(h, l, c, 14), talib.MINUS_DI(h, l, c, 14)),
        *(talib.RSI(c, 14), k, d, talib.WILLR(h, l, c, 14)),
        *(upper, lower, middle + 2 * atr, middle - 2 * atr),
    ]
    table = pd.concat([h, l, *values], axis=1, keys=["high", "low", *INDICATORS])
    rows = []
    for wave in waves.itertuples():
        part = table[wave.start : wave.end]
        assert len(part) == wave.n
        last, mean = part.iloc[-1], part.mean(skipna=False)
        slopes = (wave.slope_high, wave.slope_low)
        rows.append([wave.n, *last[:2], *mean[:2], *slopes, *last[2:], *mean[2:]])
    return pd.DataFrame(rows, index=waves.index, columns=NAMES)


@pytest.mark.parametrize("holes", [0.0, 0.1])
def test_equal_to_each_wave_by_itself(holes):
    bars = some_bars(holes=holes)
    waves = extract_waves(bars)
    columns = wave_features(bars, waves, units="price")
    assert columns.columns.tolist() == NAMES
    assert columns.index.equals(waves.index)
    assert (columns.dtypes == np.float64).all()
    expected = oracle(bars, waves)
    assert expected.iloc[3:].notna().all(axis=None)
    np.testing.assert_allclose(columns, expected, rtol=1e-9, atol=1e-9)


def test_prices_in_atr_from_the_close_at_the_start():
    bars = some_bars(seed=1)
    waves = extract_waves(bars)
    price, atr = wave_features(bars, waves, units="price"), wave_features(bars, waves)
    unit, close = waves["atr"].to_numpy()[:, None], bars["close"].loc[waves["start"]].to_numpy()[:, None]
    np.testing.assert_allclose(atr[LEVELS], (price[LEVELS] - close) / unit, rtol=1e-12)
    np.testing.assert_allclose(atr[DISTANCES], price[DISTANCES] / unit, rtol=1e-12)
    rest = [name for name in NAMES if name not in {*LEVELS, *DISTANCES}]
    assert len(rest) == 39 - len(LEVELS) - len(DISTANCES) == 15
    pd.testing.assert_frame_equal(atr[rest], price[rest])
    # The level of prices and their scale say nothing.
    larger = wave_features(bars * 4, extract_waves(bars * 4))
    np.testing.assert_allclose(larger, atr, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("instruments", [None, ["A", "B"]])
def test_what_a_prefix_knows_stays(instruments):
    bars = some_bars(400, seed=2, instruments=instruments, holes=0.03)
    whole = wave_features(bars, extract_waves(bars))
    time = bars.index.get_level_values(0)
    for end in [*time.unique()[20:90:10], *whole.index.get_level_values(0)[3:20:2]]:
        prefix = bars[time <= end]
        known = whole[whole.index.get_level_values(0) <= end]
        pd.testing.assert_frame_equal(wave_features(prefix, extract_waves(prefix)), known, check_exact=True)


def test_a_wave_sees_no_bar_after_its_end():
    bars = some_bars(400, seed=3)
    waves = extract_waves(bars)
    whole = wave_features(bars, waves)
    for i in range(0, len(waves), 3):
        other = bars.copy()
        other.iloc[waves["last"].iloc[i] + 1 :, :4] *= 3
        pd.testing.assert_frame_equal(wave_features(other, waves).iloc[: i + 1], whole.iloc[: i + 1], check_exact=True)
        # The bar that ended the wave matters to the next one.
        assert i + 1 >= len(waves) or not wave_features(other, waves).iloc[i + 1].equals(whole.iloc[i + 1])


def test_a_panel_gives_each_instrument_what_it_gets_alone():
    bars = some_bars(400, seed=4, instruments=["C", "A", "B"], holes=0.02)
    columns = wave_features(bars, extract_waves(bars))
    for name, part in bars.groupby(level=1):
        part = part.droplevel(1)
        pd.testing.assert_frame_equal(
            columns.xs(name, level=1), wave_features(part, extract_waves(part)), check_exact=True
        )


def test_some_waves_get_what_all_get():
    bars = some_bars(seed=5, instruments=["A", "B"])
    waves = extract_waves(bars)
    all_of_them = wave_features(bars, waves)
    for rows in (slice(20, None), slice(None, None, 3), slice(0, 0)):
        some = wave_features(bars, waves.iloc[rows])
        pd.testing.assert_frame_equal(some, all_of_them.iloc[rows], check_exact=True)
        assert some.shape[1] == 39


@pytest.mark.filterwarnings("ignore:One wave holds:UserWarning")
def test_prices_that_stand_still():
    close = np.concatenate([np.full(60, 7.1), 7.1 + np.cumsum(np.tile([0.1, -0.05], 50)), np.full(300, 7.3)])
    close = np.concatenate([close, 7.3 + np.cumsum(np.tile([0.1, -0.05], 50))])
    index = pd.date_range("2024-01-01", periods=len(close), freq="h", tz="UTC")
    bars = pd.DataFrame(dict.fromkeys(PRICES, close), index=index)
    waves = extract_waves(bars, cut=0.1)
    assert waves["atr"].iloc[0] == 0
    columns = wave_features(bars, waves)
    assert not np.isinf(columns).any(axis=None)
    unknown = columns.columns[columns.iloc[0].isna()]
    assert {*LEVELS, *DISTANCES} <= set(unknown)
    assert columns.loc[columns.index[0], ["n", "last_rsi", "last_stoch_k", "last_williams_r"]].tolist() == [
        *(46, 50, 50, -50)
    ]
    assert columns.iloc[3:].notna().all(axis=None)
    oscillators = columns.filter(regex="stoch|rsi|adx")
    assert (oscillators.iloc[3:] >= 0).all(axis=None)
    assert (oscillators.iloc[3:] <= 100).all(axis=None)


def test_oscillators_keep_their_range():
    rng = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(rng.normal(0, 1e-3, 5000)))
    index = pd.date_range("2024-01-01", periods=5000, freq="h", tz="UTC")
    bars = pd.DataFrame(dict.fromkeys(PRICES, close), index=index)
    columns = wave_features(bars, extract_waves(bars))
    stochastic = columns[["last_stoch_k", "last_stoch_d"]]
    assert ((stochastic == 0).sum() > 0).all()  # the last bars were the lowest of their ranges
    assert (stochastic.min() == 0).all()
    assert (stochastic.max() == 100).all()
    assert columns["last_williams_r"].agg(["min", "max"]).tolist() == [-100, 0]


def test_bad_input():
    bars = some_bars(300)
    waves = extract_waves(bars)
    with pytest.raises(EnsembleKitError, match=r'^`units` must be "atr" or "price"; got \'ATR\'\. "price" is what'):
        wave_features(bars, waves, units="ATR")
    frame = r"^`waves` must be the frame that `extract_waves` returns; got {}\. Pass it as it is\.$"
    with pytest.raises(EnsembleKitError, match=frame.format("DataFrame without last, atr")):
        wave_features(bars, waves.drop(columns=["last", "atr"]))
    with pytest.raises(EnsembleKitError, match="got Series without start, end, first, last, n, slope_high"):
        wave_features(bars, waves["n"])
    with pytest.raises(BarsError, match="must be indexed by time"):
        wave_features(bars.reset_index(drop=True), waves)
    other = r"^`waves` must be made of `bars`; {} is no wave of theirs\. Pass the very bars that `extract_waves` was"
    first, last = waves.index[0], waves.index[-1]
    for wrong, named in ((bars[1:], first), (bars[: bars.index.get_loc(last)], last)):
        with pytest.raises(EnsembleKitError, match=other.format(pd.Timestamp(named)).replace("+", r"\+")):
            wave_features(wrong, waves)
    panel = some_bars(300, instruments=["A", "B"])
    with pytest.raises(EnsembleKitError, match="must be made of `bars`"):
        wave_features(panel, waves)
    regular = make_bars(300, instruments=["A", "B"], random_state=0)
    other_order = regular.sort_index(ascending=[True, False])
    with pytest.raises(EnsembleKitError, match="must be made of `bars`"):
        wave_features(other_order, extract_waves(regular))


def test_real_bars(shared_data):
    bars = read_bars(shared_data / "xauusd_1h_2006_2015.parquet")
    waves = extract_waves(bars)
    columns = wave_features(bars, waves)
    assert columns.iloc[3:].notna().all(axis=None)
    assert columns.drop(columns="n").abs().quantile(0.99).max() < 100
    half = bars[: len(bars) // 2]
    prefix = wave_features(half, extract_waves(half))
    pd.testing.assert_frame_equal(prefix, columns[: len(prefix)], check_exact=True)
