"""`CrossSectionalScaler`: Qlib's formulas in pandas as the oracle, one timestamp at a time."""

import io
import pickle

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features import SessionFeatures
from ensemble_kit.features.cross_sectional import CrossSectionalScaler
from ensemble_kit.validation import lookback

METHODS = ["zscore", "rank"]


def make_panel(n_times=60, n_instruments=7, n_columns=4, seed=0, dtype=np.float64):
    """Instruments that come and go, ties, NaN, and times with one or no value."""
    rng = np.random.default_rng(seed)
    index = pd.MultiIndex.from_product(
        [pd.date_range("2024-01-02", periods=n_times, freq="5min", tz="UTC"), [f"I{k}" for k in range(n_instruments)]],
        names=["datetime", "instrument"],
    )
    X = rng.normal(size=(len(index), n_columns)) * 10.0 ** np.arange(n_columns)
    X[:, 1] = np.round(X[:, 1] / 10)  # ties
    X[:, 2] += 1e6  # a far mean
    X[rng.random(X.shape) < 0.2] = np.nan
    frame = pd.DataFrame(X.astype(dtype), index=index, columns=[f"c{j}" for j in range(n_columns)])
    frame = frame[rng.random(len(index)) < 0.8]
    alone = frame.index.get_level_values(0) == index[2 * n_instruments][0]
    return frame.drop(frame.index[alone][1:])


def oracle(frame, method):
    """What `qlib.data.dataset.processor` computes, but for values that are the only ones."""
    groups = frame.astype(np.float64).groupby(level=0)
    if method == "zscore":
        return (frame - groups.transform("mean")) / groups.transform("std")
    return ((groups.rank(pct=True) - 0.5) * 3.46).where(groups.transform("count") > 1)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("method", METHODS)
def test_is_as_qlib_formulas(method, dtype):
    frame = make_panel(dtype=dtype)
    got = CrossSectionalScaler(method).set_output(transform="pandas").fit_transform(frame)
    assert (got.dtypes == np.float32).all()
    wanted = oracle(frame, method)
    if method == "zscore":
        groups = frame.groupby(level=0)
        same = (groups.transform("max") == groups.transform("min")) & (groups.transform("count") > 1)
        assert same.any(axis=None)
        wanted = wanted.mask(same & frame.notna(), 0.0)
    pd.testing.assert_index_equal(got.index, frame.index)
    assert list(got) == list(frame)
    np.testing.assert_allclose(got, wanted, rtol=2e-6, atol=1e-6)
    assert got.notna().mean().min() > 0.5


@pytest.mark.parametrize(
    ("method", "values", "wanted"),
    [
        ("zscore", [1, 2, 3], [-1, 0, 1]),
        ("zscore", [0.1, 0.1, 0.1], [0, 0, 0]),  # whose mean is not 0.1 in floating point
        ("zscore", [5, np.nan, np.nan], [np.nan] * 3),
        ("zscore", [np.nan, 1, 3], [np.nan, -(0.5**0.5), 0.5**0.5]),
        ("zscore", [1e300, -1e300, 0], [1, -1, 0]),
        ("rank", [30, 10, 20], [1.73, 3.46 * (1 / 3 - 0.5), 3.46 * (2 / 3 - 0.5)]),
        ("rank", [7, 7, 7], [3.46 * (2 / 3 - 0.5)] * 3),
        ("rank", [5, np.nan, np.nan], [np.nan] * 3),
        ("rank", [np.nan, 4, 4], [np.nan, 3.46 * 0.25, 3.46 * 0.25]),
        ("rank", [0.0, -0.0, 1], [0, 0, 1.73]),
    ],
)
def test_one_time(method, values, wanted):
    index = pd.MultiIndex.from_product([[pd.Timestamp("2024-01-02")], list("ABC")])
    X = pd.DataFrame({"x": values, "all_nan": np.nan}, index=index, dtype=float)
    got = CrossSectionalScaler(method).fit_transform(X)
    if np.abs(values).max() < 1e200:
        np.testing.assert_allclose(got[:, 0], wanted, rtol=1e-6)
    assert not np.isinf(got).any()
    assert np.isnan(got[:, 1]).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_row_sees_its_own_time_and_no_other(method):
    frame = make_panel()
    scaler = CrossSectionalScaler(method).fit(frame)
    assert scaler.cross_sectional
    assert lookback(scaler) == 0
    whole = scaler.transform(frame)
    ends = np.flatnonzero(np.diff(frame.index.codes[0], append=-1)) + 1
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        np.testing.assert_array_equal(scaler.transform(frame.iloc[:end]), whole[:end])  # prefix
        np.testing.assert_array_equal(scaler.transform(frame.iloc[start:end]), whole[start:end])  # served alone
    poisoned = frame.copy()
    poisoned.iloc[ends[30] :] = 1e6
    np.testing.assert_array_equal(scaler.transform(poisoned)[: ends[30]], whole[: ends[30]])


@given(st.lists(st.floats(-1e6, 1e6, width=32) | st.just(np.nan), min_size=1, max_size=12), st.sampled_from(METHODS))
def test_order_is_kept_and_nothing_is_infinite(values, method):
    index = pd.MultiIndex.from_product([[pd.Timestamp("2024-01-02")], range(len(values))])
    got = CrossSectionalScaler(method).fit_transform(pd.DataFrame({"x": values}, index=index))[:, 0]
    values = np.array(values)
    known = ~np.isnan(values)
    assert (np.isnan(got) == (~known | (known.sum() < 2))).all()
    if known.sum() > 1:
        bound = (known.sum() - 1) / known.sum() ** 0.5 if method == "zscore" else 1.73
        assert (np.abs(got[known]) <= bound * (1 + 1e-6)).all()
        assert (np.diff(got[known][np.argsort(values[known])]) >= 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_layouts_and_column_blocks_make_no_difference(method):
    frame = make_panel()
    c_ordered = pd.DataFrame(np.ascontiguousarray(frame), index=frame.index, columns=frame.columns)
    blocks = pd.concat([frame[[name]] for name in frame], axis=1)
    wanted = CrossSectionalScaler(method).fit_transform(frame)
    for other in (c_ordered, blocks):
        np.testing.assert_array_equal(CrossSectionalScaler(method).fit_transform(other), wanted)
    before = frame.copy()
    CrossSectionalScaler(method).fit_transform(frame)
    pd.testing.assert_frame_equal(frame, before)


def test_in_a_pipeline_the_index_is_handed_on():
    panel = make_bars(30, instruments=["A", "B", "C"], random_state=0)
    pipeline = make_pipeline(SessionFeatures(), CrossSectionalScaler("rank")).set_output(transform="pandas")
    frame = pipeline.fit_transform(panel)
    assert list(frame) == ["tod_sin", "tod_cos", "dow"]
    assert (frame == np.float32(3.46 * (2 / 3 - 0.5))).all(axis=None)  # the clock is the same for all
    with pytest.raises(BarsError, match="got ndarray"):
        make_pipeline(SessionFeatures(), CrossSectionalScaler("rank")).fit(panel)


def test_clone_pickle_and_skops():
    frame = make_panel()
    scaler = clone(CrossSectionalScaler(method="rank")).fit(frame)
    assert scaler.get_params() == {"method": "rank"}
    assert list(scaler.feature_names_in_) == list(scaler.get_feature_names_out()) == list(frame)
    data = skops.io.dumps(scaler)
    ours = ["ensemble_kit.features.cross_sectional.CrossSectionalScaler"]
    assert skops.io.get_untrusted_types(data=data) == ours
    for back in (pickle.loads(pickle.dumps(scaler)), skops.io.load(io.BytesIO(data), trusted=ours)):
        np.testing.assert_array_equal(back.transform(frame), scaler.transform(frame))


@pytest.mark.parametrize("method", METHODS)
def test_real_days(shared_data, method):
    bars = pd.read_parquet(shared_data / "us_daily_panel_1998_2021.parquet").set_index(["timestamp", "symbol"])
    frame = bars[["open", "close", "volume"]].sort_index()
    got = CrossSectionalScaler(method).set_output(transform="pandas").fit_transform(frame)
    np.testing.assert_allclose(got, oracle(frame, method), rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("X", "error", "message"),
    [
        (np.zeros((3, 2)), BarsError, "`X` must be a DataFrame indexed by \\(datetime, instrument\\); got ndarray"),
        (make_bars(5, random_state=0), BarsError, "got index DatetimeIndex. A single instrument has no cross-section"),
        (make_panel(3).iloc[::-1], BarsError, "`X` must be sorted by time"),
        (make_panel(3).replace(np.nan, np.inf), ValueError, "infinity"),
        (make_panel(3).assign(text="a"), ValueError, "could not convert string"),
    ],
)
def test_errors(X, error, message):
    with pytest.raises(error, match=message):
        CrossSectionalScaler().fit(X)


def test_wrong_method_and_other_columns():
    frame = make_panel(3)
    with pytest.raises(EnsembleKitError, match="`method` must be 'zscore' or 'rank'; got 'robust'"):
        CrossSectionalScaler("robust").fit(frame)
    with pytest.raises(ValueError, match="feature names"):
        CrossSectionalScaler().fit(frame).transform(frame[["c1", "c0"]])
