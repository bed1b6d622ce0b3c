"""`ExternalFeatures`: nothing is joined before it was published; pandas' merge_asof as the oracle."""

import io
import pickle
from datetime import timedelta

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.pipeline import make_union

from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import BarsError, EnsembleKitError
from ensemble_kit.features import SessionFeatures
from ensemble_kit.features.external import ExternalFeatures
from ensemble_kit.validation import lookback

OURS = ["ensemble_kit.features.external.ExternalFeatures"]


def minutes(*numbers, tz="UTC"):
    return pd.DatetimeIndex(pd.Timestamp("2024-01-02", tz=tz) + pd.to_timedelta(list(numbers), unit="min"))


def bars_at(*numbers, tz="UTC"):
    return pd.DataFrame({"close": 1.0}, index=minutes(*numbers, tz=tz))


def joined(X, data, **parameters):
    return ExternalFeatures(data, **parameters).set_output(transform="pandas").fit_transform(X)


def make_news(n=200, seed=0, *, instruments=None):
    """Publications at odd times, unsorted, some at the same time, with NaN, from before the bars to after them."""
    rng = np.random.default_rng(seed)
    start = pd.Timestamp("2022-01-02", tz="UTC")
    at = start + pd.to_timedelta(5 * rng.integers(0, 2000, size=n), unit="min")
    at += pd.to_timedelta(rng.integers(0, 2, size=n) * rng.integers(1, 299, size=n), unit="s")
    news = pd.DataFrame({"mood": rng.normal(size=n), "rate": rng.normal(size=n)}, index=at.as_unit("ns"))
    news[rng.random(news.shape) < 0.3] = np.nan
    if instruments is not None:
        news.index = pd.MultiIndex.from_arrays([at, rng.choice(instruments, size=n)])
    return news


def oracle(times, news, *, max_age=None, exact=True):
    """`merge_asof` column by column, after NaN and all but the last of each time are gone."""
    out = pd.DataFrame(index=times)
    for name in news:
        known = news[name].dropna().sort_index(kind="stable")
        known = known[~known.index.duplicated(keep="last")]
        got = pd.merge_asof(
            pd.DataFrame({"t": times.as_unit("ns")}),
            pd.DataFrame({"p": known.index.as_unit("ns"), name: known.to_numpy()}),
            left_on="t", right_on="p", allow_exact_matches=exact, tolerance=max_age,
        )  # fmt: skip
        out[name] = got[name].to_numpy()
        out[f"{name}_age"] = ((got["t"] - got["p"]) / pd.Timedelta(days=1)).to_numpy()
    return out[[*news, *(f"{name}_age" for name in news)]]


def test_a_value_shows_up_at_the_first_open_after_it_was_published():
    X = bars_at(0, 5, 10, 15)
    news = pd.DataFrame({"mood": [1.0, 2.0, 3.0]}, index=minutes(4, 5, 11))
    assert joined(X, news)["mood"].tolist()[1:] == [2, 2, 3]
    assert np.isnan(joined(X, news)["mood"].iloc[0])
    # Inside the bar at 10, a nanosecond after its open: not before the bar at 15.
    late = news.set_axis([*news.index[:2], minutes(10)[0] + pd.Timedelta(1, "ns")])
    assert joined(X, late)["mood"].tolist()[1:] == [2, 2, 3]
    # For events the same moment is not before.
    assert joined(X, news, allow_exact_matches=False)["mood"].tolist()[1:] == [1, 2, 3]


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("max_age", [None, pd.Timedelta("1h")])
def test_is_as_merge_asof(exact, max_age):
    X = make_bars(300, random_state=0)
    news = make_news()
    assert not news.index.is_monotonic_increasing
    assert news.index.has_duplicates
    got = joined(X, news, max_age=max_age, age=True, allow_exact_matches=exact)
    wanted = oracle(X.index, news, max_age=max_age, exact=exact)
    assert list(got) == ["mood", "rate", "mood_age", "rate_age"]
    np.testing.assert_array_equal(got, wanted.astype(np.float32))
    pd.testing.assert_index_equal(got.index, X.index)
    assert (got.dtypes == np.float32).all()
    assert (got["mood_age"] == 0).any() == exact
    assert (got.isna().any(axis=None)) == (max_age is not None)


def test_poisoned_later_values_change_nothing():
    X = make_bars(300, random_state=0)
    news = make_news()
    features = ExternalFeatures(news).fit(X)
    whole = features.transform(X)
    for t in range(0, 300, 7):
        later = news.index > X.index[t]
        poisoned = news.copy()
        poisoned[later] = 1e9
        np.testing.assert_array_equal(ExternalFeatures(poisoned).fit(X).transform(X)[: t + 1], whole[: t + 1])
        np.testing.assert_array_equal(ExternalFeatures(news[~later]).fit(X).transform(X)[: t + 1], whole[: t + 1])
        np.testing.assert_array_equal(features.transform(X.iloc[: t + 1]), whole[: t + 1])  # prefix
        np.testing.assert_array_equal(features.transform(X.iloc[[t]]), whole[[t]])  # alone
    assert lookback(features) == 0


moments = st.integers(0, 40)


@given(
    st.lists(st.tuples(moments, st.sampled_from([np.nan, 1.0, 2.0, 3.0])), min_size=1, max_size=12),
    st.lists(moments, min_size=1, max_size=8, unique=True),
    st.integers(0, 20),
)
def test_every_bar_has_the_last_value_that_was_out(publications, opens, limit):
    X = bars_at(*sorted(opens))
    news = pd.DataFrame({"x": [value for _, value in publications]}, index=minutes(*(at for at, _ in publications)))
    got = joined(X, news, max_age=f"{limit}min")["x"].tolist()
    for moment, value in zip(sorted(opens), got, strict=True):
        out = [(at, k, x) for k, (at, x) in enumerate(publications) if at <= moment and not np.isnan(x)]
        at, _, wanted = max(out, default=(-99, 0, np.nan))
        np.testing.assert_equal(value, wanted if moment - at <= limit else np.nan)


def test_the_last_of_one_time_wins_and_holes_are_bridged():
    news = pd.DataFrame({"x": [1.0, 2.0, 3.0, np.nan], "y": [np.nan, 5.0, np.nan, 6.0]}, index=minutes(3, 1, 3, 3))
    assert joined(bars_at(1, 2, 3), news).iloc[-1].tolist() == [3, 6]
    assert joined(bars_at(1, 2, 3), news).iloc[0].tolist() == [2, 5]
    assert joined(bars_at(1, 2, 3), news.iloc[::-1]).iloc[-1].tolist() == [1, 6]


def test_stale_values_are_unknown():
    news = pd.DataFrame({"x": [1.0]}, index=minutes(0))
    X = bars_at(0, 10, 11)
    for limit in ("10min", pd.Timedelta(minutes=10), timedelta(minutes=10), np.timedelta64(10, "m")):
        got = joined(X, news, max_age=limit, age=True)
        np.testing.assert_array_equal(got["x"], [1, 1, np.nan])
        np.testing.assert_allclose(got["x_age"], [0, 10 / 1440, np.nan], rtol=1e-6)


def test_published_is_a_column_of_its_own():
    quarters = pd.DataFrame(
        {"gdp": [1.0, 2.0], "out": minutes(7, 3), "source": ["a", "b"]},
        index=pd.PeriodIndex(["2023Q3", "2023Q4"], freq="Q"),
    )
    features = ExternalFeatures(quarters, columns=["gdp"], published="out")
    np.testing.assert_array_equal(features.fit_transform(bars_at(0, 5, 10)).ravel(), [np.nan, 2, 1])
    assert list(features.get_feature_names_out()) == ["gdp"]
    by_default = ExternalFeatures(quarters.drop(columns="source"), published="out").fit(bars_at(0))
    assert by_default.outside_ == ["gdp"]


def test_zones_are_converted():
    news = pd.DataFrame({"x": [1.0, 2.0]}, index=minutes(5, 10))
    elsewhere = news.tz_convert("America/New_York")
    X = bars_at(0, 5, 10)
    wanted = joined(X, news)
    np.testing.assert_array_equal(wanted["x"], [np.nan, 1, 2])
    pd.testing.assert_frame_equal(joined(X, elsewhere), wanted)
    np.testing.assert_array_equal(joined(X.tz_convert("Asia/Tokyo"), elsewhere), wanted)
    np.testing.assert_array_equal(joined(X.tz_localize(None), news.tz_localize(None)), wanted)
    coarse = news.set_axis(news.index.as_unit("s"))
    pd.testing.assert_frame_equal(joined(X.set_axis(X.index.as_unit("us")), coarse), wanted)


def test_a_panel_shares_values_or_has_its_own():
    names = ["C", "A", "B"]
    panel = make_bars(150, instruments=names, random_state=0)
    panel = panel.iloc[np.flatnonzero(np.arange(450) % 7 > 0)]
    shared = joined(panel, make_news())
    own_news = make_news(300, instruments=["A", "C", "D"])
    own = joined(panel, own_news, age=True)
    pd.testing.assert_index_equal(own.index, panel.index)
    for name in names:
        alone = panel.xs(name, level=1)
        np.testing.assert_array_equal(shared.xs(name, level=1), joined(alone, make_news()))
        if name == "B":  # of whom nothing was published
            assert own.xs("B", level=1).isna().all(axis=None)
        else:
            wanted = oracle(alone.index, own_news.xs(name, level=1))
            np.testing.assert_array_equal(own.xs(name, level=1), wanted.astype(np.float32))
            # One instrument's bars alone, in a frame that still says whose they are.
            part = ExternalFeatures(own_news, age=True).fit(panel).transform(panel[panel.index.isin([name], level=1)])
            np.testing.assert_array_equal(own.xs(name, level=1), part)
    own_news.index.names = ["out", "symbol"]
    column = own_news.reset_index(level="symbol")
    pd.testing.assert_frame_equal(joined(panel, column, instrument="symbol", age=True), own)
    table = own_news.reset_index()
    pd.testing.assert_frame_equal(joined(panel, table, instrument="symbol", published="out", age=True), own)


def test_what_one_instrument_lacks_is_not_taken_from_its_neighbour():
    index = pd.MultiIndex.from_arrays([minutes(0, 1), ["A", "B"]])
    news = pd.DataFrame({"x": [1.0, np.nan], "y": [1.0, 2.0]}, index=index)
    panel = pd.DataFrame({"close": 1.0}, index=pd.MultiIndex.from_product([minutes(0, 5), ["A", "B"]]))
    got = joined(panel, news)
    np.testing.assert_array_equal(got["x"], [1, np.nan, 1, np.nan])
    np.testing.assert_array_equal(got["y"], [1, np.nan, 1, 2])


def test_numbered_instruments():
    index = pd.MultiIndex.from_arrays([minutes(0, 1), [20, 10]])
    panel = pd.DataFrame({"close": 1.0}, index=pd.MultiIndex.from_product([minutes(5), [10, 20, 30]]))
    features = ExternalFeatures(pd.DataFrame({"x": [1, 2]}, index=index)).fit(panel)
    np.testing.assert_array_equal(features.transform(panel).ravel(), [2, 1, np.nan])
    np.testing.assert_array_equal(stored(features).transform(panel).ravel(), [2, 1, np.nan])


def stored(features):
    data = skops.io.dumps(features)
    assert skops.io.get_untrusted_types(data=data) == OURS
    return skops.io.load(io.BytesIO(data), trusted=OURS)


def test_clone_pickle_and_skops():
    X = make_bars(100, random_state=0)
    table = make_news().reset_index(names="out").assign(headline="text")
    parameters = {"columns": ["rate", "mood"], "published": "out", "max_age": pd.Timedelta("1D"), "age": True}
    features = clone(ExternalFeatures(table, **parameters)).fit(X)
    wanted = features.transform(X)
    for back in (pickle.loads(pickle.dumps(features)), stored(features), stored(stored(features))):
        np.testing.assert_array_equal(back.transform(X), wanted)
        # Parameters come back, without the columns that nobody reads: it can be fitted again.
        pd.testing.assert_frame_equal(back.data, table[["out", "mood", "rate"]])
        assert pd.Timedelta(back.max_age) == features.max_age
        np.testing.assert_array_equal(clone(back).fit(X).transform(X), wanted)
    for limit in (timedelta(days=1), np.timedelta64(1, "D")):
        assert pd.Timedelta(stored(clone(features).set_params(max_age=limit).fit(X)).max_age) == features.max_age
    unfitted = pickle.loads(pickle.dumps(ExternalFeatures(make_news())))
    pd.testing.assert_frame_equal(unfitted.data, make_news())
    assert pickle.loads(pickle.dumps(ExternalFeatures(None))).data is None
    assert features.data is not None  # pickling left it alone


def test_fitted_state_is_its_own():
    X = bars_at(5)
    news = pd.DataFrame({"x": [1.0]}, index=minutes(0))
    features = ExternalFeatures(news).fit(X)
    news["x"] = 9.0
    assert features.transform(X).item() == 1
    newer = pd.DataFrame({"x": [1.0, 2.0]}, index=minutes(0, 5))
    assert features.set_params(data=newer).fit(X).transform(X).item() == 2


def test_union_and_names():
    X = make_bars(20, random_state=0)
    union = make_union(SessionFeatures(), ExternalFeatures(make_news())).set_output(transform="pandas")
    assert [name.split("__")[1] for name in union.fit_transform(X)] == ["tod_sin", "tod_cos", "dow", "mood", "rate"]
    fitted = ExternalFeatures(make_news()).fit(X)
    assert list(fitted.feature_names_in_) == list(X)
    assert fitted.transform(X).flags.f_contiguous


def test_real_bars_and_a_daily_index(shared_data):
    bars = read_bars(shared_data / "btcusdt_5min_2023.parquet")
    days = pd.date_range("2022-12-25", "2023-12-31", tz="UTC", name="day")
    greed = pd.DataFrame({"greed": np.arange(len(days), dtype=float)}, index=days + pd.Timedelta(hours=1))
    got = joined(bars, greed, age=True)
    np.testing.assert_array_equal(got, oracle(bars.index, greed).astype(np.float32))
    hour = bars.index.hour
    assert got["greed_age"].max() < 1
    assert ((got["greed_age"] >= 23 / 24 - 1e-6) == (hour == 0)).all()  # before 01:00 it is yesterday's


PANEL = make_bars(3, instruments=["A", "B"], random_state=0)
NEWS = make_news(5)


@pytest.mark.parametrize(
    ("data", "parameters", "message"),
    [
        (NEWS["mood"], {}, "`data` must be a DataFrame .* got Series. Turn a Series"),
        (NEWS.iloc[:0], {}, "`data` must be a DataFrame of at least one row and column.* got 0 x 2"),
        (NEWS.reset_index(drop=True), {}, "`data` must have times of publication; got int64 in its index"),
        (NEWS.assign(out="2024"), {"published": "out"}, "got (str|object) in column 'out'. Convert with"),
        (NEWS, {"published": "out"}, "`published` must be a column of `data`; got 'out', and `data` has mood, rate"),
        (NEWS, {"instrument": "symbol"}, "`instrument` must be a column of `data`; got 'symbol'"),
        (NEWS, {"columns": ["mod"]}, "`columns` must be a list of columns of `data`; got \\['mod'\\]"),
        (NEWS, {"columns": "mood"}, "`columns` must be a list"),
        (NEWS, {"columns": []}, "`columns` must be a list"),
        (NEWS.assign(symbol="A"), {}, "`data` must be numeric; got symbol of (str|object)"),
        (NEWS.assign(mood=np.inf), {}, "finite in float32, or NaN; got inf in mood \\(row 0\\)"),
        (NEWS.assign(rate=1e39), {}, "finite in float32, or NaN; got 1e\\+39 in rate"),
        (pd.concat([NEWS, NEWS], axis=1), {}, "each column once; got mood, rate"),
        (NEWS.set_axis([pd.NaT, *NEWS.index[1:]]), {}, "time of publication on every row; row 0 has none"),
        (NEWS.tz_localize(None), {}, "both have times with a zone, .* got X in UTC and data without a zone"),
        (NEWS, {"max_age": 7}, "`max_age` must be a time span of at least 0 with its unit; got 7. Take '7D', say."),
        (NEWS, {"max_age": "-1D"}, "`max_age` must be"),
        (NEWS, {"max_age": "soon"}, "`max_age` must be"),
        (NEWS, {"max_age": "NaT"}, "`max_age` must be"),
        (NEWS.assign(s=[1, 2, 3, 4, np.nan]), {"instrument": "s"}, "name an instrument on every row; row 4"),
        (
            make_news(5, instruments=["a", "b"]),
            {},
            "must hold instruments of `X`; got 'a', 'b', ..., and X has 'A', 'B', ...",
        ),
    ],
)
def test_wrong_data(data, parameters, message):
    with pytest.raises(EnsembleKitError, match=message):
        ExternalFeatures(data, **parameters).fit(PANEL)


@pytest.mark.parametrize(
    ("X", "data", "message"),
    [
        (np.zeros((3, 2)), NEWS, "`X` must be a DataFrame indexed by time or .* got ndarray"),
        (pd.DataFrame({"x": [1.0]}), NEWS, "got index RangeIndex"),
        (make_bars(3, random_state=0), make_news(5, instruments=["A"]), "indexed by \\(datetime, instrument\\), as"),
        (bars_at(5, 4), NEWS, "`X` must be sorted by time"),
    ],
)
def test_wrong_bars(X, data, message):
    with pytest.raises(BarsError, match=message):
        ExternalFeatures(data).fit(X)


def test_a_zone_is_asked_of_later_bars_too():
    features = ExternalFeatures(NEWS.tz_localize(None)).fit(bars_at(0, tz=None))
    with pytest.raises(EnsembleKitError, match="got X in UTC and data without a zone"):
        features.transform(bars_at(0))
    features = ExternalFeatures(NEWS).fit(bars_at(0))
    with pytest.raises(EnsembleKitError, match="got X without and data with a zone"):
        features.transform(bars_at(0, tz=None))
