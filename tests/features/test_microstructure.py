"""`MicrostructureFeatures`: pandas' own rolling windows as the oracle, on made and on real ticks."""

import io
import pickle

import numpy as np
import pandas as pd
import pytest
import skops.io
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError
from ensemble_kit.features.microstructure import MicrostructureFeatures

NAMES = [
    *["ret_1", "ret_5", "ret_10", "ma_ratio_5", "ma_ratio_10", "ma_ratio_20", "ma_ratio_50"],
    *["vol_5", "vol_10", "vol_20", "vol_50", "volume_ratio_20", "volume_cv_20"],
    *["spread", "spread_rel", "spread_ratio_20", "imbalance", "imbalance_mean_10"],
]


def make_ticks(n=400, seed=0):
    """Quotes with stretches that do not move, holes, empty sides, empty and crossed books, no volume."""
    rng = np.random.default_rng(seed)
    mid = 100 * np.exp(np.cumsum(rng.normal(scale=1e-5, size=n)))
    half = rng.choice([0.0, 0.005, 0.01], size=n, p=[0.1, 0.5, 0.4])
    ticks = pd.DataFrame(
        {
            "bid": mid - half,
            "ask": mid + half,
            "bid_size": rng.integers(0, 4, size=n).astype(float),
            "ask_size": rng.integers(0, 4, size=n).astype(float),
            "volume": rng.integers(0, 1000, size=n).astype(float),
        }
    )
    ticks.loc[100:169, ["bid", "ask", "volume", "bid_size"]] = [99.9, 100.1, 0.0, 2.0]  # nothing happens
    if n > 300:
        ticks.loc[200] = np.nan
        ticks.loc[210, "volume"] = np.nan
        ticks.loc[255, "bid"] = 0.0  # a side without orders
        ticks.loc[320, "bid"] = ticks.loc[320, "ask"] + 0.02  # crossed
        ticks.loc[330, "ask"] = np.inf
        ticks.loc[340, ["ask_size", "volume"]] = -1.0
    return ticks.set_index(pd.date_range("2024-01-02", periods=n, freq="7ms", tz="UTC").floor("25ms"))


def oracle(inputs):
    """The formulas of the docstring, in pandas; price, volume, spread and imbalance are given."""
    price, volume, spread, imbalance = (inputs[name] for name in ("price", "volume", "spread", "imbalance"))
    out = pd.DataFrame(index=inputs.index)
    for k in (1, 5, 10):
        out[f"ret_{k}"] = np.log(price / price.shift(k))
    for w in (5, 10, 20, 50):
        out[f"ma_ratio_{w}"] = price / direct(price, w, np.mean) - 1
        out[f"vol_{w}"] = direct(out["ret_1"], w, sd)
    mean = direct(volume, 20, np.mean)
    out["volume_ratio_20"], out["volume_cv_20"] = volume / mean, direct(volume, 20, sd) / mean
    out["spread"], out["spread_rel"] = spread, spread / price
    out["spread_ratio_20"] = spread.where(spread >= 0) / direct(spread.where(spread >= 0), 20, np.mean)
    out["imbalance"], out["imbalance_mean_10"] = imbalance, direct(imbalance, 10, np.mean)
    return out[NAMES]


def direct(x, window, statistic):
    """Not `rolling().mean()`, whose running sums keep traces of what has left the window."""
    return x.rolling(window).apply(statistic, raw=True)


def sd(values):
    return np.std(values, ddof=1)


def known_inputs(ticks):
    """Inputs as the docstring derives them."""
    ticks = ticks.replace(np.inf, np.nan)
    bid, ask = ticks["bid"].where(ticks["bid"] > 0), ticks["ask"].where(ticks["ask"] > 0)
    sizes = ticks[["bid_size", "ask_size"]].where(lambda x: x >= 0) if "bid_size" in ticks else None
    nothing = pd.Series(np.nan, index=ticks.index)
    total = nothing if sizes is None else sizes.sum(axis=1, skipna=False).where(lambda x: x > 0)
    return pd.DataFrame(
        {
            "price": (bid + ask) / 2,
            "volume": ticks["volume"].where(ticks["volume"] >= 0) if "volume" in ticks else nothing,
            "spread": ask - bid,
            "imbalance": nothing if sizes is None else (sizes["bid_size"] - sizes["ask_size"]) / total,
        }
    )


def columns_of(X):
    return MicrostructureFeatures().set_output(transform="pandas").fit_transform(X)


def assert_as_oracle(X, inputs, rtol=1e-5, atol=2e-11):
    got, wanted = columns_of(X), oracle(inputs)
    assert list(got) == NAMES
    for name in NAMES:
        np.testing.assert_allclose(got[name], wanted[name], rtol=rtol, atol=atol, err_msg=name)


def test_quotes_are_as_pandas_says():
    ticks = make_ticks()
    assert_as_oracle(ticks, known_inputs(ticks))
    assert columns_of(ticks).notna().any().all()


def test_given_inputs_go_before_derived_ones():
    rng = np.random.default_rng(1)
    given = known_inputs(make_ticks(200))
    given["imbalance"] = rng.uniform(-1, 1, size=200)
    assert_as_oracle(given, given)
    both = make_ticks(200, seed=2).assign(**given)
    pd.testing.assert_frame_equal(columns_of(both), columns_of(given))
    features = MicrostructureFeatures().fit(both)
    assert features.inputs_ == {name: [name] for name in ("price", "volume", "spread", "imbalance")}


def test_close_will_do_and_what_is_missing_is_unknown():
    bars = make_bars(120, random_state=0)
    columns = columns_of(bars)
    pd.testing.assert_frame_equal(columns, columns_of(bars[["close", "volume"]].rename(columns={"close": "price"})))
    assert list(columns.columns[columns.isna().all()]) == NAMES[13:]
    assert columns.iloc[50:, :13].notna().all(axis=None)
    assert columns_of(bars[["close"]])[NAMES[11:]].isna().all(axis=None)


def test_a_prefix_and_the_last_51_rows_have_the_same_bits():
    ticks = make_ticks()
    features = MicrostructureFeatures().fit(ticks)
    whole = features.transform(ticks)
    assert whole.dtype == np.float32
    assert whole.flags.f_contiguous
    for n in range(1, len(ticks) + 1):
        np.testing.assert_array_equal(features.transform(ticks.iloc[:n]), whole[:n])
    assert features.lookback == 50
    for t in range(50, len(ticks)):
        np.testing.assert_array_equal(features.transform(ticks.iloc[t - 50 : t + 1])[-1], whole[t])
    vol_50 = NAMES.index("vol_50")  # 50 is not too many: 50 returns are of 51 prices
    assert np.isnan(features.transform(ticks.iloc[50:100])[-1, vol_50])
    assert whole[99, vol_50] > 0


def test_nothing_of_a_huge_value_is_left_when_it_has_gone():
    ticks = make_ticks(300)
    spiked = ticks.copy()
    spiked.iloc[5, [0, 1, 4]] = [1e15, 1e15 + 1, 1e300]
    np.testing.assert_array_equal(columns_of(spiked).iloc[56:], columns_of(ticks).iloc[56:])


def test_what_stands_still_is_zero_exactly_and_nothing_is_infinite():
    ticks = make_ticks()
    columns = columns_of(ticks)
    assert not np.isinf(columns.to_numpy()).any()
    still = columns.iloc[151:170]  # since row 100
    assert (still[NAMES[:11]] == 0).all(axis=None)
    assert still[["volume_ratio_20", "volume_cv_20"]].isna().all(axis=None)
    assert (still["spread_ratio_20"] == 1).all()
    assert columns["imbalance"].iloc[200:].between(-1, 1).sum() > 100
    assert columns.iloc[320][["spread", "spread_rel"]].lt(0).all()
    assert np.isnan(columns.iloc[320]["spread_ratio_20"])
    assert columns[["volume_ratio_20", "spread_ratio_20"]].max(axis=None) <= 20
    huge = columns_of(ticks.assign(bid=1e-300, ask=1e300, volume=1e308, bid_size=1e308, ask_size=1e308))
    assert not np.isinf(huge.to_numpy()).any()


def test_a_panel_is_each_instrument_alone():
    parts = {"C": make_ticks(), "A": make_ticks(300, seed=3), "lone": make_ticks(1), "three": make_ticks(3)}
    parts = {name: ticks.set_axis(pd.date_range("2024", periods=len(ticks), tz="UTC")) for name, ticks in parts.items()}
    panel = pd.concat(parts).swaplevel().sort_index(level=0, kind="stable", sort_remaining=False)
    whole = columns_of(panel)
    pd.testing.assert_index_equal(whole.index, panel.index)
    for name, ticks in parts.items():
        np.testing.assert_array_equal(whole.xs(name, level=1), columns_of(ticks))


def test_rows_at_one_time_stay_in_order():
    ticks = make_ticks()
    assert ticks.index.has_duplicates
    columns = columns_of(ticks)
    pd.testing.assert_index_equal(columns.index, ticks.index)
    np.testing.assert_array_equal(columns, columns_of(ticks.reset_index(drop=True)))


def test_integers_and_nullable_columns():
    rows = pd.DataFrame({"price": [3, 4, 5], "volume": pd.array([1, None, 2], dtype="Int64")})
    columns = columns_of(rows)
    np.testing.assert_allclose(columns["ret_1"], [np.nan, np.log(4 / 3), np.log(5 / 4)], rtol=1e-6)
    assert columns["volume_ratio_20"].isna().all()


def test_clone_pickle_skops_and_pipeline():
    ticks = make_ticks(100)
    features = clone(MicrostructureFeatures()).fit(ticks)
    assert features.n_features_in_ == 5
    wanted = features.transform(ticks)
    data = skops.io.dumps(features)
    ours = ["ensemble_kit.features.microstructure.MicrostructureFeatures"]
    assert skops.io.get_untrusted_types(data=data) == ours
    for back in (pickle.loads(pickle.dumps(features)), skops.io.load(io.BytesIO(data), trusted=ours)):
        np.testing.assert_array_equal(back.transform(ticks), wanted)
    frame = make_pipeline(MicrostructureFeatures()).set_output(transform="pandas").fit_transform(ticks)
    assert list(frame) == NAMES


def test_real_gold_quotes(shared_data):
    ticks = pd.read_parquet(shared_data / "xauusd_tick_20140501.parquet").set_index("timestamp")
    columns = columns_of(ticks)
    assert columns.shape == (129_744, 18)
    assert columns.iloc[50:][[*NAMES[:11], *NAMES[13:16]]].notna().all(axis=None)
    assert columns[[*NAMES[11:13], *NAMES[16:]]].isna().all(axis=None)  # no volume, no sizes
    assert columns["spread"].between(0.2, 3).all()
    part = ticks.iloc[60_000:60_400]
    np.testing.assert_array_equal(columns_of(part).iloc[50:], columns.iloc[60_050:60_400])
    assert_as_oracle(part, known_inputs(part))


def test_real_order_book(shared_data):
    book = pd.read_parquet(shared_data / "lob_l1_btcusdt_spot_20240808.parquet")
    columns = columns_of(book.drop(columns="timestamp"))  # rows in order of arrival
    seconds = book.set_index(book.pop("timestamp").dt.floor("s"))
    assert seconds.index.has_duplicates
    np.testing.assert_array_equal(columns_of(seconds), columns)
    assert columns.drop(columns=["volume_ratio_20", "volume_cv_20"]).iloc[50:].notna().all(axis=None)
    assert columns["imbalance"].between(-1, 1).all()
    part = book.iloc[9000:9300]
    assert_as_oracle(part, known_inputs(part), atol=1e-10)  # float64 prices of 6e4 know 1e-11 of themselves


def test_real_trades(shared_data):
    trades = pd.read_parquet(shared_data / "trades_btcusdt_spot_20240808.parquet")
    columns = columns_of(trades.rename(columns={"size": "volume"}))
    assert columns.iloc[50:, :13].notna().all(axis=None)
    assert columns.iloc[:, 13:].isna().all(axis=None)


def test_real_minutes_with_quotes(shared_data):
    bars = read_bars(shared_data / "spy_1min_bidask.parquet")  # with holes in prices, quotes and sizes
    columns = columns_of(bars)
    part = bars.iloc[-400:]
    assert_as_oracle(part, known_inputs(part))
    np.testing.assert_array_equal(columns_of(part).iloc[50:], columns.iloc[-350:])
    assert columns["spread"].notna().mean() > 0.99


@pytest.mark.parametrize(
    ("X", "message"),
    [
        (np.zeros((3, 2)), "`X` must be a pandas DataFrame of at least one row; got ndarray"),
        (pd.DataFrame({"price": []}), "`X` must be a pandas DataFrame of at least one row; got 0 x 1"),
        (pd.DataFrame({"bid": [1.0], "last": [1.0]}), "must have a column price, or bid and ask, .* got bid, last"),
        (pd.DataFrame({"price": ["a"]}), "`X` must have numeric inputs; got price of (str|object)"),
        (pd.DataFrame([[1.0, 2.0]], columns=["price", "price"]), "each column once; got price"),
        (
            pd.DataFrame({"price": [1.0, 2, 3]}, index=pd.to_datetime(["2024-01-02", "2024-01-04", "2024-01-03"])),
            "must be in order of time.* row 2 \\(2024-01-03 00:00:00\\) comes after 2024-01-04",
        ),
        (pd.DataFrame({"price": [1.0, 2]}, index=pd.DatetimeIndex(["2024-01-02", None])), "row 1 \\(NaT\\)"),
        (
            pd.DataFrame({"price": [1.0, 2]}, index=pd.MultiIndex.from_tuples([(pd.Timestamp("2024"), "A")] * 2)),
            "`X` must have unique times",
        ),
    ],
)
def test_errors(X, message):
    with pytest.raises(BarsError, match=message):
        MicrostructureFeatures().fit(X)


def test_a_missing_input_is_not_replaced_after_fit():
    ticks = make_ticks(60)
    features = MicrostructureFeatures().fit(ticks.assign(price=1.0))
    with pytest.raises(BarsError, match="must have the columns that `fit` used; missing price, got bid, ask"):
        features.transform(ticks)
    with pytest.raises(BarsError, match="at least one row"):
        features.transform(ticks.iloc[:0])
