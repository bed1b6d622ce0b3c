"""The 223 columns together: named, one block, and the same in a union, a panel and a registered file."""

import numpy as np
import pytest
import skops.io
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import StandardScaler

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.features import (
    Alpha158,
    ICTFeatures,
    IndicatorFeatures,
    RelevanceRedundancySelector,
    SessionFeatures,
)
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.tracking import read_model, write_model
from ensemble_kit.validation import check_no_lookahead, lookback


def union():
    return make_union(Alpha158(), ICTFeatures(), IndicatorFeatures(), SessionFeatures("XNYS"))


def test_there_are_223():
    bars = make_bars(300, random_state=0)
    columns = union().fit(bars)
    names = columns.get_feature_names_out()
    assert len(names) == len(set(names)) == 158 + 48 + 14 + 3
    block = columns.transform(bars)
    assert block.dtype == np.float32
    assert block.shape == (300, 223)
    assert not np.isinf(block).any()
    assert lookback(columns) is None  # market structure carries its state from the first bar


@pytest.mark.parametrize("instruments", [None, ["A", "B"]])
def test_frames_keep_the_index(instruments):
    bars = make_bars(200, instruments=instruments, random_state=0)
    frame = union().set_output(transform="pandas").fit_transform(bars)
    assert frame.index.equals(bars.index)
    assert (frame.dtypes == np.float32).all()


@pytest.mark.parametrize("instruments", [None, ["A", "B"]])
def test_none_of_them_looks_ahead(instruments):
    bars = make_bars(400, instruments=instruments, random_state=0)
    check_no_lookahead(union(), bars, random_state=0).check()


def test_real_bars_of_every_kind(shared_data):
    for name in ("spy_1min_bidask", "eurusd_1h_2007_2013", "us_daily_panel_1998_2021", "gc_fut_5min_2025"):
        bars = read_bars(shared_data / f"{name}.parquet").iloc[:1500]
        block = make_union(Alpha158(), ICTFeatures(), IndicatorFeatures(), SessionFeatures()).fit_transform(bars)
        assert block.shape == (len(bars), 223)
        assert not np.isinf(block).any()


def test_a_model_of_them_can_be_registered(tmp_path):
    bars = make_bars(800, signal=2.0, random_state=0)
    labels = peak_slope_bottom(bars, w=6)
    X, y = labels.align(bars)
    model = make_pipeline(union(), RelevanceRedundancySelector(k=20), StandardScaler())
    model.set_output(transform="pandas").fit(X, y)
    again = read_model(write_model(model, tmp_path / "model", {}))
    np.testing.assert_array_equal(again.transform(X), model.transform(X))
    assert skops.io.get_untrusted_types(file=tmp_path / "model" / "model.skops")
    assert model[1].report_["kept"].sum() == 20
