"""Planted leaks are found and measured, clean pipelines raise no alarm, and stated lookbacks are tried."""

from functools import lru_cache

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin, TransformerMixin
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from ensemble_kit.datasets import make_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.exceptions import EnsembleKitError, LeakageError
from ensemble_kit.features import Alpha158, SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.validation import WalkForwardSplit
from ensemble_kit.validation._runs import Run, is_cross_sectional, is_fitted, spoil
from ensemble_kit.validation.lookahead import check_lookback, check_no_lookahead

BARS = make_bars(500, random_state=0)
PANEL = make_bars(150, instruments=["A", "B", "C"], random_state=1)
CLOSE = ["close"]
UP = pd.Series((BARS["close"].shift(-5) > BARS["close"]).astype(int), BARS.index)


class MeanTargetOfHour(TransformerMixin, BaseEstimator):
    """Each hour's mean of y: a column made of the target."""

    def fit(self, X, y):
        self.mean_ = pd.Series(np.asarray(y)).groupby(np.asarray(X.index.hour)).mean().to_dict()
        return self

    def transform(self, X):
        return pd.DataFrame({"hour_mean": X.index.hour.map(self.mean_)}, index=X.index)


class Smoother(ClassifierMixin, BaseEstimator):
    """A fitted model that reads the rows after a row, as a smoother of hidden states does."""

    def fit(self, X, y):
        self.classes_ = np.unique(y)
        return self

    def predict_proba(self, X):
        ahead = X["close"].pct_change(fill_method=None)[::-1].ewm(halflife=2).mean()[::-1].fillna(0)
        up = 1 / (1 + np.exp(-100 * ahead.to_numpy()))
        return np.column_stack([1 - up, up])


def daily_close(bars):
    day = bars.index.normalize()
    return pd.DataFrame({"to_daily": bars["close"] / bars["close"].groupby(day).transform("last")})


def with_label(bars):
    label = (bars["close"].shift(-5) > bars["close"]).where(bars["close"].shift(-5).notna())
    return bars[CLOSE].pct_change(fill_method=None).assign(label=label.astype(float))


LEAKS = {
    "shift": (lambda bars: bars[CLOSE].shift(-1), None, (1, 1)),
    "centred window": (lambda bars: bars[CLOSE].rolling(11, center=True).mean(), None, (1, 5)),
    "scaler fitted on everything": (StandardScaler(), None, (1, 499)),
    "backfill": (lambda bars: bars[CLOSE].bfill(), None, None),
    "backfilled warm-up": (lambda bars: bars[CLOSE].rolling(20).mean().bfill(), None, (1, 19)),
    "unclosed day": (daily_close, None, (77, 77)),
    "mean of the session": (lambda bars: bars[CLOSE].groupby(bars.index.date).transform("mean"), None, (1, 77)),
    "sorting": (lambda bars: bars[CLOSE].sort_values("close"), None, None),
    "rank of everything": (lambda bars: bars[CLOSE].rank(pct=True), None, None),
    "interpolation": (lambda bars: bars[CLOSE].interpolate(), None, None),
    "column made of the target": (MeanTargetOfHour(), UP, None),
    "label left in the columns": (with_label, None, (5, 5)),
    "place in the batch": (lambda bars: np.arange(len(bars)) / len(bars), None, None),
    "smoother": (Smoother().fit(BARS, UP), None, None),
}


@pytest.mark.parametrize("name", LEAKS)
def test_planted_leaks_are_found(name):
    estimator, y, reach = LEAKS[name]
    report = check_no_lookahead(estimator, BARS, y)
    assert not report.ok
    leak = report.leaks[report.leaks["column"] != "open"].iloc[0]
    if name == "label left in the columns":
        assert report.leaks["column"].tolist() == ["label"]
    if reach is not None:
        assert (leak["nearest"], leak["farthest"]) == reach
    learned = name in {"scaler fitted on everything", "column made of the target"}
    assert report.leaks["learned"].eq(learned).all()
    with pytest.raises(LeakageError, match=leak["column"]):
        report.check()


def test_a_backfill_reaches_to_the_end_of_its_gap():
    bars = BARS[CLOSE].copy()
    bars.iloc[100:140] = np.nan
    leak = check_no_lookahead(lambda bars: bars.bfill(), bars, n_prefixes=60).leaks.iloc[0]
    assert leak["position"] < 140
    assert leak["farthest"] >= 3


def test_a_label_among_the_input_columns_is_named():
    labels = peak_slope_bottom(BARS, w=12)
    X, y = labels.align(BARS)
    codes = np.ravel(y.replace({"peak": 7, "slope": 1, "bottom": 3}))
    X = X[CLOSE].assign(regime=codes.astype(float), day=X.index.day_of_week)
    fitted = StandardScaler().fit(X)
    report = check_no_lookahead(fitted, X, y)
    assert report.leaks[["column", "kind"]].to_numpy().tolist() == [["regime", "label"]]
    assert "is the label" in repr(report)
    assert check_no_lookahead(fitted, X, X["close"]).leaks["column"].tolist() == ["close"]
    assert check_no_lookahead(fitted, X).ok


# ------------------------------------------------------------------------- clean


def moves(bars):
    returns = bars["close"].pct_change(fill_method=None)
    return pd.DataFrame({f"r{k}": returns.shift(k) for k in range(4)}).fillna(0)


def causal_z(bars):
    log = np.log(bars[CLOSE])
    return (log - log.expanding(20).mean()) / log.expanding(20).std()


NEWS = pd.DataFrame(
    {"value": np.arange(6.0), "published": pd.date_range("2022-01-03 10:00", periods=6, freq="D", tz="UTC")}
)


def joined_as_of(bars):
    right = NEWS.assign(published=NEWS["published"].astype(bars.index.dtype))
    return pd.merge_asof(bars, right, left_index=True, right_on="published").set_index(bars.index)[["close", "value"]]


def closed_days(bars):
    day = bars.index.normalize()
    last = bars["close"].groupby(day).last().shift()
    return pd.DataFrame({"gap": bars["close"].to_numpy() / last.reindex(day).to_numpy()}, index=bars.index)


def session_so_far(bars):
    return bars[CLOSE].groupby(bars.index.date).cumsum()


def kalman(bars):
    out, level = [], np.nan
    for price in bars["close"]:
        level = price if np.isnan(level) else level if np.isnan(price) else level + 0.1 * (price - level)
        out.append(level)
    return np.array(out)


def each_alone(panel):
    return panel.groupby(level="instrument")[CLOSE].pct_change(3, fill_method=None)


def demeaned(panel):
    return panel[CLOSE] - panel[CLOSE].groupby(level="datetime").transform("mean")


demeaned.cross_sectional = True

COLUMNS = moves(BARS)
FX = BARS.drop(columns="volume")
GAPPY = BARS.copy()
GAPPY.iloc[[0, 1, 50, 51, 52, 200]] = np.nan
COUNTED = BARS.assign(volume=BARS["volume"].astype("int64"), holiday=BARS.index.day_of_week == 2, venue="X")
MEMBERS = [("lr", LogisticRegression()), ("lgbm", LGBMWindowClassifier(4, n_estimators=3, random_state=0))]


def fitted_vote():
    return WalkForwardVotingClassifier(MEMBERS, cv=WalkForwardSplit(2, purge=5)).fit(COLUMNS, UP)


@lru_cache
def fitted_network():
    model = LSTMGRUClassifier(8, hidden_size=4, max_epochs=1, random_state=0)
    return model.fit(COLUMNS, UP)


CLEAN = {
    "alpha158": lambda: (Alpha158(), BARS),
    "session": lambda: (SessionFeatures(), BARS),
    "union": lambda: (make_union(Alpha158(), SessionFeatures()).set_output(transform="pandas"), BARS),
    "pipeline": lambda: (make_pipeline(SessionFeatures(), FunctionTransformer(np.square)), BARS),
    "fx without volume": lambda: (Alpha158(), FX),
    "gaps": lambda: (make_union(Alpha158(), SessionFeatures()), GAPPY),
    "panel": lambda: (Alpha158(), PANEL),
    "counts, flags and names": lambda: (lambda bars: bars[["volume", "holiday"]].cummax(), COUNTED),
    "rolling": lambda: (lambda bars: bars.rolling(20).agg(["mean", "std", "median"]), BARS),
    "rolling by time": lambda: (lambda bars: bars[CLOSE].rolling("1h").max(), BARS),
    "ewm": lambda: (lambda bars: bars.ewm(span=10).mean(), BARS),
    "expanding": lambda: (lambda bars: bars.expanding().max(), BARS),
    "shift": lambda: (lambda bars: bars.shift(3), BARS),
    "forward fill": lambda: (lambda bars: bars.ffill(), GAPPY),
    "z-score": lambda: (causal_z, BARS),
    "as of": lambda: (joined_as_of, BARS),
    "closed days": lambda: (closed_days, BARS),
    "session so far": lambda: (session_so_far, BARS),
    "state": lambda: (kalman, BARS),
    "array": lambda: (lambda X: np.cumsum(X, axis=0), COLUMNS.to_numpy()),
    "instruments apart": lambda: (each_alone, PANEL),
    "cross-section": lambda: (demeaned, PANEL),
    "fitted scaler": lambda: (make_pipeline(moves_step(), StandardScaler(), PCA(2)).fit(BARS), BARS, 1e-9),
    "fitted model": lambda: (make_pipeline(moves_step(), StandardScaler(), LogisticRegression()).fit(BARS, UP), BARS),
    "fitted lightgbm": lambda: (MEMBERS[1][1].fit(COLUMNS, UP), COLUMNS),
    "fitted vote": lambda: (fitted_vote(), COLUMNS),
    "fitted network": lambda: (fitted_network(), COLUMNS),
}


def moves_step():
    return FunctionTransformer(moves)


@pytest.mark.parametrize("name", CLEAN)
def test_clean_pipelines_raise_no_alarm(name):
    estimator, bars, *rtol = CLEAN[name]()
    report = check_no_lookahead(estimator, bars, rtol=rtol[0] if rtol else None)
    assert report.check() is report
    assert report.n_runs >= 24
    assert report.n_rows > len(bars)


def test_real_bars(shared_data):
    frame = pd.read_parquet(shared_data / "btcusdt_5min_2023.parquet").set_index("timestamp")[:3000]
    features = make_union(Alpha158(), SessionFeatures())
    assert check_no_lookahead(features, frame, n_prefixes=6).ok
    assert check_lookback(features, frame, n_rows=100).ok


# -------------------------------------------------------------------- instruments


def test_mixing_instruments_is_its_own_kind_of_leak():
    report = check_no_lookahead(lambda panel: panel[CLOSE].shift(1), PANEL)
    assert set(report.leaks["kind"]) == {"instruments"}
    assert "another instrument" in repr(report)
    undeclared = check_no_lookahead(lambda panel: demeaned(panel), PANEL)  # noqa: PLW0108 - `demeaned` declares itself
    assert undeclared.leaks["kind"].tolist() == ["instruments"]


def test_a_cross_section_still_may_not_look_ahead():
    def leaking(panel):
        return demeaned(panel).groupby(level="instrument").shift(-2)

    leaking.cross_sectional = True
    leak = check_no_lookahead(leaking, PANEL).leaks.iloc[0]
    assert (leak["kind"], leak["nearest"], leak["farthest"]) == ("future", 2, 2)


def test_a_part_declares_the_cross_section_for_the_whole():
    class Ranks(FunctionTransformer):
        cross_sectional = True

    assert is_cross_sectional(make_pipeline(make_union(StandardScaler(), Ranks()), PCA()))
    assert not is_cross_sectional(make_pipeline(make_union(StandardScaler()), "passthrough"))


def test_a_panel_of_one_has_nobody_to_mix_with():
    report = check_no_lookahead(Alpha158(), PANEL[:60].xs("A", level=1, drop_level=False))
    assert report.ok
    assert report.refused == ()


def test_what_is_fitted_on_several_instruments_does_not_mix_them():
    report = check_no_lookahead(StandardScaler().fit(PANEL), PANEL)
    assert report.ok


# ------------------------------------------------------------------- how it is run


def test_fit_decides_between_refitting_and_use_as_is():
    fitted = StandardScaler().fit(BARS)
    assert check_no_lookahead(fitted, BARS).ok
    assert not check_no_lookahead(fitted, BARS, fit=True).ok
    with pytest.raises(EnsembleKitError, match="StandardScaler"):
        check_no_lookahead(StandardScaler(), BARS, method="predict_proba")


def test_later_labels_are_changed_with_the_bars():
    class Majority(MeanTargetOfHour):
        """Reads nothing of the bars but how many they are."""

        def fit(self, X, y):
            self.mean_ = float(np.mean(np.asarray(y)[: self.first_rows]))
            return self

        first_rows = 10_000

        def transform(self, X):
            return np.full((len(X), 1), self.mean_)

    leak = check_no_lookahead(Majority(), BARS, UP).leaks.iloc[0]
    assert leak["learned"]
    assert leak["shown_by"] == "cut, NaN, x1000"
    Majority.first_rows = 1
    assert check_no_lookahead(Majority(), BARS, UP).ok


def test_what_is_refused_is_told():
    model = LogisticRegression().fit(COLUMNS, UP)
    report = check_no_lookahead(model, COLUMNS)
    assert report.ok
    assert [text.split(":")[0] for text in report.refused] == ["gaps of NaN", "NaN"]
    assert "not run: NaN: ValueError: Input X contains NaN." in repr(report)

    def only_whole(bars):
        if len(bars) < len(BARS) or bars.ne(BARS).any(axis=None):
            raise KeyError("something")
        return bars

    with pytest.raises(EnsembleKitError, match="refused every time"):
        check_no_lookahead(only_whole, BARS)


def test_dropped_rows_chance_and_odd_arguments_are_errors():
    with pytest.raises(EnsembleKitError, match=r"a row for a row; got 499 rows for 500"):
        check_no_lookahead(lambda bars: bars.diff().dropna(), BARS)
    rng = np.random.default_rng(0)
    with pytest.raises(EnsembleKitError, match="`random_state`"):
        check_no_lookahead(lambda bars: rng.normal(size=len(bars)), BARS)
    with pytest.raises(EnsembleKitError, match="Pass an instance"):
        check_no_lookahead(StandardScaler, BARS)
    with pytest.raises(EnsembleKitError, match="at least two times"):
        check_no_lookahead(StandardScaler(), BARS[:1])
    with pytest.raises(EnsembleKitError, match="`n_prefixes`"):
        check_no_lookahead(StandardScaler(), BARS, n_prefixes=0)
    with pytest.raises(EnsembleKitError, match="`y` must have a label"):
        check_no_lookahead(StandardScaler(), BARS, UP[:-1])


def test_columns_that_come_with_later_bars_are_a_leak():
    report = check_no_lookahead(lambda bars: pd.get_dummies(bars.index.day_of_week).set_index(bars.index), BARS)
    assert not report.ok
    assert set(report.leaks["column"]) >= {"3", "4"}


def test_the_bars_are_left_alone():
    given = BARS.copy()
    check_no_lookahead(lambda bars: bars.ffill(), given)
    pd.testing.assert_frame_equal(given, BARS)


def test_spoilt_bars_keep_their_types():
    hidden = np.arange(len(COUNTED)) > 300
    for how in ("NaN", "x1000"):
        spoilt = spoil(COUNTED, hidden, how)
        assert spoilt.dtypes.equals(COUNTED.dtypes)
        pd.testing.assert_frame_equal(spoilt[:301], COUNTED[:301])
        assert (spoilt["close"] != COUNTED["close"]).to_numpy()[301:].all()
        assert (spoilt["holiday"] != COUNTED["holiday"]).to_numpy()[301:].all()
    assert (spoil(COUNTED, hidden, "x1000")["volume"] == 1000 * COUNTED["volume"])[301:].all()


def test_fitted_is_asked_of_every_step():
    assert not is_fitted(make_pipeline(StandardScaler(), FunctionTransformer()))
    assert is_fitted(make_pipeline(SessionFeatures(), FunctionTransformer()))
    assert not is_fitted(make_union(Alpha158()))
    assert not Run.of(StandardScaler().fit(BARS), None, None).refit


def test_answers_of_several_horizons_are_named():
    y = np.column_stack([UP, UP.shift(3, fill_value=0)])
    model = LGBMWindowClassifier(2, n_estimators=2, random_state=0).fit(COLUMNS, y)
    assert check_no_lookahead(model, COLUMNS, n_prefixes=4).n_columns == 4
    assert Run.of(model, None, None)(COLUMNS).names == ["H0_0", "H0_1", "H1_0", "H1_1"]
    assert check_no_lookahead(model, COLUMNS, n_prefixes=4, method="predict").n_columns == 2


# ----------------------------------------------------------------------- lookback


def nineteen_back(bars):
    return (bars if bars.index.nlevels == 1 else bars.groupby(level=1)).shift(19)


@pytest.mark.parametrize("bars", [BARS, PANEL], ids=["one", "panel"])
def test_the_lookback_that_is_needed_is_found(bars):
    for history, ok in ((19, True), (40, True), (18, False), (0, False)):
        report = check_lookback(nineteen_back, bars, history=history, n_rows=30)
        assert (report.ok, report.needed) == (ok, 19), report
    assert "lookback 0 is too short" in repr(report)
    assert "19 would do" in repr(report)
    with pytest.raises(EnsembleKitError, match="too short"):
        report.check()


def test_a_function_that_mixes_instruments_is_not_asked_side_by_side():
    # On windows laid side by side as a panel this one would reach into its neighbours.
    assert check_lookback(lambda bars: bars.rolling(20).mean(), BARS, history=19).check().needed == 19


def test_windows_of_one_instrument_are_answered_together():
    class Counting(SessionFeatures):
        calls = 0

        def transform(self, X):
            Counting.calls += 1
            return super().transform(X)

    report = check_lookback(Counting(), BARS, history=20, n_rows=200)
    assert (report.n_rows, report.needed) == (200, 0)
    assert Counting.calls < 80


def test_stated_lookbacks_hold():
    report = check_lookback(make_union(Alpha158(), SessionFeatures()), BARS).check()
    assert (report.stated, report.needed, report.n_columns) == (60, 60, 161)
    assert report.n_rows == 256
    assert check_lookback(Alpha158(), PANEL).check().stated == 60
    assert check_lookback(SessionFeatures(), BARS).check().needed == 0
    assert check_lookback(fitted_network(), COLUMNS, n_rows=40).check().stated == 7


def test_too_short_a_statement_is_found_out():
    class Hasty(Alpha158):
        lookback = 30

    report = check_lookback(Hasty(), BARS)
    assert not report.ok
    assert all(name.endswith("60") for name in report.cells)
    assert report.needed == 60


def test_recursive_state():
    class Smooth(FunctionTransformer):
        lookback = None

    smooth = Smooth(lambda bars: bars.ewm(span=20).mean())
    report = check_lookback(smooth, BARS)
    assert report.ok
    assert "nothing to check" in repr(report)
    assert check_lookback(smooth, BARS, history=20).needed == pytest.approx(115, abs=10)
    never = check_lookback(lambda bars: bars.expanding().mean(), BARS, history=20, n_rows=40)
    assert never.needed is None
    assert "state None" in repr(never)


def test_a_few_cells_may_differ():
    def rare(bars):
        out = bars[CLOSE].to_numpy().copy()
        out[::25] += len(bars) > 300
        return out

    assert not check_lookback(rare, BARS, history=100, n_rows=200).ok
    assert check_lookback(rare, BARS, history=100, n_rows=200, tolerate=0.1).ok


def test_more_bars_than_history_are_needed():
    with pytest.raises(EnsembleKitError, match="more than 61 rows of an instrument for a lookback of 60; got 61"):
        check_lookback(Alpha158(), BARS[:61])
