"""What a stream says of each bar is what the batch says of its last row."""

import re
import warnings

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, VarianceThreshold
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import FeatureUnion, make_pipeline, make_union
from sklearn.preprocessing import MinMaxScaler, PolynomialFeatures, RobustScaler, StandardScaler

from ensemble_kit.bars import PRICES
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import (
    ExpectedCostClassifier,
    InformerClassifier,
    LGBMWindowClassifier,
    LSTMGRUClassifier,
    LuTransformerClassifier,
)
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features import (
    Alpha158,
    CrossSectionalScaler,
    ICTFeatures,
    IndicatorFeatures,
    RelevanceRedundancySelector,
    SessionFeatures,
)
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.sizing import SizedClassifier
from ensemble_kit.validation import WalkForwardSplit

N = 1500
START = N - 25


@pytest.fixture(scope="module")
def bars():
    return make_bars(N, random_state=0)


def fitted(bars, model, n_horizons=1):
    labels = peak_slope_bottom(bars, w=12)
    X, y = labels.align(bars)
    if n_horizons > 1:
        y = np.column_stack([np.roll(y, h) for h in range(n_horizons)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of models that learned next to nothing
        return SizedClassifier(model, cv=WalkForwardSplit(2, t1=labels.t1)).fit(X, y)


def voting(members, **options):
    return WalkForwardVotingClassifier(members, cv=WalkForwardSplit(2, purge=24), **options)


def member(model, *front):
    return make_pipeline(*front, SimpleImputer(strategy="median", keep_empty_features=True), RobustScaler(), model)


def stacked(proba):
    return np.stack(proba, axis=1) if isinstance(proba, list) else proba


def assert_streams(model, bars, start=START, atol=1e-6):
    """Assert that the stream, begun on bars before `start`, says of each later bar what the batch says."""
    proba, position = stacked(model.predict_proba(bars)), model.predict_position(bars)
    stream = model.stream(bars.iloc[:start])
    answers = [stream.last, *(stream.update(bars.iloc[[i]]) for i in range(start, len(bars)))]
    assert [answer.time for answer in answers] == list(bars.index[start - 1 :])
    assert_allclose([answer.proba for answer in answers], proba[start - 1 :], rtol=0, atol=atol)
    assert_allclose([answer.position for answer in answers], position[start - 1 :], rtol=0, atol=atol)


class Change(TransformerMixin, BaseEstimator):
    """Change of each column over some rows, as foreign transformers may be written."""

    def __init__(self, rows=3, states=True):
        self.rows = rows
        self.states = states

    def fit(self, X, y=None):
        self.n_features_in_ = X.shape[1]
        return self

    def transform(self, X):
        values = np.asarray(X, np.float64)
        before = np.full_like(values, np.nan)
        before[self.rows :] = values[: -self.rows] if len(values) > self.rows else values[:0]
        return np.nan_to_num(values - before)

    def get_feature_names_out(self, names=None):
        return np.array([f"change_{j}" for j in range(self.n_features_in_)], dtype=object)

    @property
    def lookback(self):
        return self.rows if self.states else None


TINY = {"seq_len": 12, "max_epochs": 1, "random_state": 0, "device": "cpu"}


def four_members():
    return [
        ("lstm_gru", member(LSTMGRUClassifier(hidden_size=8, **TINY), RelevanceRedundancySelector(20))),
        ("lu", member(LuTransformerClassifier(d_model=8, n_heads=2, segment_length=3, **TINY))),
        ("informer", member(InformerClassifier(d_model=8, n_heads=2, **TINY), RelevanceRedundancySelector(20))),
        ("trees", LGBMWindowClassifier(9, n_estimators=5, random_state=0)),
    ]


def test_four_members_on_all_columns(bars):
    features = make_union(Alpha158(), ICTFeatures(), IndicatorFeatures(), SessionFeatures())
    assert_streams(fitted(bars, make_pipeline(features, voting(four_members())), n_horizons=2), bars)


@pytest.mark.parametrize("calibrator", ["temperature", None])
def test_averaged_models_of_the_folds(bars, calibrator):
    members = four_members()[::3]
    ensemble = voting(members, refit="fold_average", calibrator=calibrator)
    features = make_union(IndicatorFeatures(include=("momentum",)), SessionFeatures())
    assert_streams(fitted(bars, make_pipeline(features, ensemble)), bars)


COMPOSITIONS = {
    "union with names": FeatureUnion(
        [("ict", ICTFeatures()), ("change", Change()), ("as_is", "passthrough"), ("none", "drop")],
        transformer_weights={"change": 3.0},
    ),
    "union without prefixes": FeatureUnion(
        [("session", SessionFeatures()), ("change", Change(5))], verbose_feature_names_out=False
    ),
    "columns": ColumnTransformer(
        [
            ("ict", ICTFeatures(), list(PRICES)),
            ("volume", Change(2), ["volume"]),
            ("none", "drop", ["open"]),
            ("middle", make_pipeline(Change(2), StandardScaler()), slice(1, 3)),
        ],
        remainder="passthrough",
    ),
    "nested": make_pipeline(
        "passthrough",
        make_union(make_pipeline(Change(4), Change(1)), make_pipeline(ICTFeatures(), VarianceThreshold())),
        None,
    ),
    "other steps": make_pipeline(Change(), PolynomialFeatures(2), MinMaxScaler(), SelectKBest(k=4)),
}


@pytest.mark.parametrize("name", COMPOSITIONS)
def test_compositions_before_a_plain_model(bars, name):
    model = make_pipeline(COMPOSITIONS[name], SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=20))
    assert_streams(fitted(bars, model), bars)


MODELS = {
    "forest of two horizons": RandomForestClassifier(5, random_state=0),
    "decisions by cost": ExpectedCostClassifier(LGBMWindowClassifier(7, n_estimators=3, random_state=0)),
    "ensemble of plain models": voting([("a", LogisticRegression(max_iter=20)), ("b", RandomForestClassifier(3))]),
    "window inside a member": voting(
        [("a", make_pipeline(Change(2), StandardScaler(), LGBMWindowClassifier(5, n_estimators=3, random_state=0)))]
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(bars, name):
    model = make_pipeline(Change(), MODELS[name])
    assert_streams(fitted(bars, model, n_horizons=2 if "two" in name else 1), bars)


def test_a_history_shorter_than_the_window(bars):
    model = fitted(bars, make_pipeline(IndicatorFeatures(), voting(four_members())))
    assert_streams(model, bars.iloc[:40], start=1)


def test_a_part_without_lookback_keeps_all_history_and_says_so(bars):
    union = make_union(Change(200, states=False), SessionFeatures())
    model = fitted(bars, make_pipeline(union, LogisticRegression(max_iter=20)))
    message = (
        "Change must read the whole past again at every bar: no `lookback` says how much is enough, and no `stream` "
        "carries it. Streaming is right, and slower with every bar."
    )
    with pytest.warns(UserWarning, match=f"^{re.escape(message)}$"):
        assert_streams(model, bars)


def test_one_instrument_of_a_panel(bars):
    panel = pd.concat({"A": bars, "B": make_bars(N, random_state=1)}, names=["instrument"]).swaplevel().sort_index()
    y = np.where(np.arange(len(panel)) % 7 == 0, "peak", np.where(np.arange(len(panel)) % 5 == 0, "bottom", "slope"))
    members = [*four_members()[::3], ("by_cost", ExpectedCostClassifier(LGBMWindowClassifier(3, n_estimators=2)))]
    model = make_pipeline(IndicatorFeatures(), voting(members))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = SizedClassifier(model).fit(panel, y)
    whole = panel[panel.index.get_level_values(1) == "A"]
    proba, position = model.predict_proba(whole), model.predict_position(whole)
    stream = model.stream(bars.iloc[:START])
    for i in range(START, N):
        answer = stream.update(bars.iloc[[i]])
        assert_allclose(answer.proba, proba[i], rtol=0, atol=1e-6)
        assert_allclose(answer.position, position[i], rtol=0, atol=1e-6)
    message = (
        "`history` must be a DataFrame of one instrument, indexed by time; got index MultiIndex. Of a panel, keep one "
        "stream an instrument: `bars.xs(instrument, level=1)`."
    )
    with pytest.raises(BarsError, match=f"^{re.escape(message)}$"):
        model.stream(whole)


def test_cross_sections_are_refused(bars):
    panel = pd.concat({"A": bars, "B": make_bars(N, random_state=1)}, names=["instrument"]).swaplevel().sort_index()
    y = np.where(np.arange(len(panel)) % 3 == 0, "up", "down")
    scaler = CrossSectionalScaler()
    model = make_pipeline(SessionFeatures(), scaler, LGBMWindowClassifier(2, n_estimators=2))
    model = SizedClassifier(model, cv=WalkForwardSplit(2, purge=1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(panel, y)
    message = (
        "`model` must read one instrument at a time to be streamed; CrossSectionalScaler reads others at the same "
        "time. Use `predict_proba` and `predict_position` on the panel."
    )
    with pytest.raises(EnsembleKitError, match=f"^{re.escape(message)}$"):
        model.stream(bars)


@pytest.fixture(scope="module")
def plain(bars):
    return fitted(bars, make_pipeline(Change(), LogisticRegression(max_iter=20)))


def test_bars_that_cannot_be_next_leave_the_stream_as_it_was(bars, plain):
    stream, other = plain.stream(bars.iloc[:START]), plain.stream(bars.iloc[:START])
    good, old = bars.iloc[[START]], bars.iloc[[START - 1]]
    wrong = good.assign(high=good["low"] / 2)
    refused = {
        f"`bar` must follow those before; got {old.index[0]} after {old.index[0]}. Drop it.": old,
        "`bar` must be a single bar; got 2. Give them one by one: `bars.iloc[[i]]`.": bars.iloc[START : START + 2],
        "`bar` must have the columns of the history, open, high, low, close, volume; got open, high, low, close. "
        "Set what is not known to NaN.": good.drop(columns="volume"),
        f"`bar` must have its time in the zone of the history, {bars.index.tz}; got Asia/Tokyo. "
        "Use `bar.tz_convert(...)`, or `bar.tz_localize(...)` where it has none.": good.tz_convert("Asia/Tokyo"),
        "`bar` must be a DataFrame of one instrument, indexed by time; got Series. Of a panel, keep one "
        "stream an instrument: `bars.xs(instrument, level=1)`.": bars.iloc[START],
    }
    for message, bar in refused.items():
        with pytest.raises(BarsError, match=f"^{re.escape(message)}$"):
            stream.update(bar)
    with pytest.raises(BarsError, match="must have high >= low"):
        stream.update(wrong)
    assert_array_equal(stream.update(good).proba, other.update(good[good.columns[::-1]]).proba)


def test_a_bar_without_a_price_is_taken_where_the_batch_takes_it(bars):
    model = fitted(bars, make_pipeline(IndicatorFeatures(), SimpleImputer(), LogisticRegression(max_iter=20)))
    holes = bars.copy()
    holes.iloc[START + 3, 1] = np.nan
    holes.iloc[START + 5, 4] = np.nan
    assert_streams(model, holes)


def test_a_stream_that_failed_midway_says_that_it_must_be_begun_again(bars, plain, monkeypatch):
    stream = plain.stream(bars.iloc[:START])

    def fail(self, X):
        raise MemoryError

    with monkeypatch.context() as broken:
        broken.setattr(LogisticRegression, "predict_log_proba", fail)
        with pytest.raises(MemoryError):
            stream.update(bars.iloc[[START]])
    message = (
        f"`bar` must come to a stream in order; the bar at {bars.index[START]} failed on its way through this one. "
        "Begin another with `stream(history)`."
    )
    for bar in (START, START + 1):
        with pytest.raises(EnsembleKitError, match=f"^{re.escape(message)}$"):
            stream.update(bars.iloc[[bar]])


def test_history_needs_rows(bars, plain):
    with pytest.raises(BarsError, match=r"^`history` must have at least one row"):
        plain.stream(bars.iloc[:0])


def test_real_bars(shared_data):
    bars = read_bars(shared_data / "spy_5min_2022_2023.parquet").iloc[:3000]
    features = make_union(Alpha158(), ICTFeatures(), IndicatorFeatures(session="XNYS"), SessionFeatures("XNYS"))
    assert_streams(fitted(bars, make_pipeline(features, voting(four_members()))), bars, start=2900)
