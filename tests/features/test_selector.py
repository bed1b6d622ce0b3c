"""The selector: what its scores are, which rows they see, and why each column stays or goes."""

import pickle

import numpy as np
import pandas as pd
import pytest
import skops.io
from scipy.stats import rankdata, spearmanr
from sklearn.base import clone
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.feature_selection import f_classif, mutual_info_classif
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import RobustScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from ensemble_kit.bars import row_keys
from ensemble_kit.datasets import make_bars, read_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.features import Alpha158, SessionFeatures
from ensemble_kit.features import _relevance as relevance
from ensemble_kit.features.selector import RelevanceRedundancySelector, _time_blocks
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.validation import WalkForwardSplit, lookback, walk_forward_predict
from ensemble_kit.validation.fold import fit_on_rows


@parametrize_with_checks([RelevanceRedundancySelector(k=2)])
def test_scikit_learns_checks(estimator, check):
    check(estimator)


def planted(n=2000, seed=0):
    """Two signals, a twin of each, noise, and columns that are nothing; three classes, two of them rare."""
    rng = np.random.default_rng(seed)
    y = rng.choice(["bottom", "peak", "slope"], n, p=[0.1, 0.1, 0.8])
    side = np.select([y == "peak", y == "bottom"], [1.0, -1.0])
    strong, weak = side + 0.5 * rng.normal(size=n), side + rng.normal(size=n)
    columns = {
        "noise": rng.normal(size=n),
        "weak": weak,
        "constant": np.full(n, 7.0),
        "strong": strong,
        "strong_twin": -strong - 0.02 * rng.normal(size=n),
        "void": np.full(n, np.nan),
        "weak_twin": weak + 0.02 * rng.normal(size=n),
        "turn": np.abs(side) + 0.5 * rng.normal(size=n),
    }
    return pd.DataFrame(columns, index=pd.date_range("2024", periods=n, freq="5min")), y


def state(selector):
    names = ("scores_", "relevance_", "ranking_", "support_", "reasons_", "n_rows_")
    return [np.asarray(getattr(selector, name)).tolist() for name in names]


# ---- what stays and what goes


def test_planted_columns_stay_for_their_reason():
    X, y = planted()
    selector = RelevanceRedundancySelector(threshold=0.05).fit(X, y)
    reason = dict(zip(X, selector.reasons_, strict=True))
    best_weak = max(["weak", "weak_twin"], key=dict(zip(X, selector.relevance_, strict=True)).get)
    assert set(selector.get_feature_names_out()) >= {"turn", best_weak}
    assert [reason[name] for name in ("noise", "constant", "void", "turn")] == [
        "below threshold",
        "constant",
        "all NaN",
        "kept",
    ]
    twins = {reason["strong"], reason["strong_twin"]}
    assert "kept" in twins
    assert twins & {"redundant with strong (rho -1.00)", "redundant with strong_twin (rho -1.00)"}
    assert selector.transform(X).shape == (len(X), 3)


def test_the_best_k_stay_and_the_rest_is_beyond():
    X, y = planted()
    all_of_them = RelevanceRedundancySelector(redundancy=1).fit(X, y)
    assert all_of_them.support_.sum() == 6  # k larger than the columns; at 1 nothing is redundant
    two = RelevanceRedundancySelector(2, redundancy=1).fit(X, y)
    assert two.support_.nonzero()[0].tolist() == sorted(two.ranking_[:2])
    assert (two.reasons_ == "beyond k").sum() == 4


def test_of_equal_columns_the_first_stays():
    X, y = planted()
    copies = X[["noise", "weak"]].assign(copy=X["weak"], cube=X["weak"] ** 3)
    selector = RelevanceRedundancySelector().fit(copies, y)
    assert selector.get_feature_names_out().tolist() == ["noise", "weak"]
    assert selector.reasons_[2:].tolist() == ["redundant with weak (rho 1.00)"] * 2


def test_the_more_relevant_of_two_stays_wherever_it_stands():
    X, y = planted()
    blurred = X["strong"] + 0.1 * np.random.default_rng(1).normal(size=len(X))
    for order in (["b", "s"], ["s", "b"]):
        frame = pd.DataFrame({"s": X["strong"], "b": blurred})[order]
        assert RelevanceRedundancySelector().fit(frame, y).get_feature_names_out().tolist() == ["s"]


def test_permuted_columns_give_the_permuted_result():
    X, y = planted()
    order = np.random.default_rng(2).permutation(X.shape[1])
    one, other = (RelevanceRedundancySelector(3, threshold=0.02).fit(frame, y) for frame in (X, X.iloc[:, order]))
    np.testing.assert_array_equal(other.scores_, one.scores_[:, :, order])
    np.testing.assert_array_equal(other.relevance_, one.relevance_[order])
    np.testing.assert_array_equal(other.reasons_, one.reasons_[order])


def test_redundancy_looks_at_kept_columns_only():
    # a - b - c in a chain: b goes for a; c, whose only twin is b, stays.
    rng = np.random.default_rng(3)
    y = rng.integers(0, 2, 4000)
    a = y + 0.1 * rng.normal(size=4000)
    b = a + 0.3 * rng.normal(size=4000)
    c = b + 0.4 * rng.normal(size=4000)
    rho = spearmanr(np.column_stack([a, b, c])).statistic
    limit = (min(rho[0, 1], rho[1, 2]) + rho[0, 2]) / 2
    assert rho[0, 2] < limit < min(rho[0, 1], rho[1, 2])
    selector = RelevanceRedundancySelector(redundancy=limit).fit(np.column_stack([a, b, c]), y)
    assert selector.support_.tolist() == [True, False, True]


def test_a_mirrored_twin_is_redundant_beside_whatever_else_is_kept():
    X, y = planted()
    frame = X[["strong", "weak"]].assign(mirror=-X["weak"] + 0.2 * np.random.default_rng(1).normal(size=len(X)))
    selector = RelevanceRedundancySelector().fit(frame, y)
    assert selector.reasons_.tolist() == ["kept", "kept", "redundant with weak (rho -0.98)"]


def test_the_threshold_itself_is_enough():
    X, y = planted()
    best = RelevanceRedundancySelector(scores=("f",), threshold=1).fit(X, y)
    assert best.support_.sum() == 1


# ---- scores against their definitions


def ranked(X):
    return relevance.centred_ranks(np.ascontiguousarray(np.asarray(X).T))


@pytest.fixture(scope="module")
def rough():
    """Ties, atoms, heavy tails; no NaN."""
    rng = np.random.default_rng(4)
    y = rng.choice(4, 700, p=[0.5, 0.3, 0.15, 0.05])
    X = np.column_stack(
        [
            rng.normal(size=700) + y,
            rng.integers(0, 5, 700) - y,
            np.where(rng.random(700) < 0.9, 0.0, y + 1.0),
            1e12 * rng.standard_t(1, 700),
            np.sign(rng.normal(size=700)),
        ]
    )
    return X, y


def test_ranks_are_centred_average_ranks(rough):
    X, _ = rough
    X = np.where(np.random.default_rng(5).random(X.shape) < 0.2, np.nan, X)
    ranks = ranked(X)
    for mine, column in zip(ranks, X.T, strict=True):
        known = ~np.isnan(column)
        np.testing.assert_array_equal(mine[known], 2 * rankdata(column[known]) - known.sum() - 1)
        assert (mine[~known] == 0).all()


def test_f_is_scikit_learns_of_ranks(rough):
    X, y = rough
    np.testing.assert_allclose(relevance.anova_f(ranked(X), y[:, None])[0], f_classif(rankdata(X, axis=0), y)[0])


def test_correlation_is_numpys_of_ranks_with_each_class(rough):
    X, y = rough
    classes = [np.abs(np.corrcoef(rankdata(X, axis=0).T, y == c)[-1, :-1]) for c in range(4)]
    np.testing.assert_allclose(relevance.target_correlation(ranked(X), y[:, None])[0], np.max(classes, axis=0))


def test_rho_is_scipys(rough):
    X, _ = rough
    np.testing.assert_allclose(relevance.spearman(ranked(X)), spearmanr(X).statistic, atol=1e-12)


def test_information_is_that_of_the_table_less_its_bias(rough):
    X, y = rough
    got = relevance.mutual_information(ranked(X), np.ones(X.T.shape, bool), y[:, None])[0]
    for value, column in zip(got, X.T, strict=True):
        bins = (2 * rankdata(column) - 1) * 16 // 1400
        n_cells, n_bins = len(np.unique(np.column_stack([bins, y]), axis=0)), len(np.unique(bins))
        assert value == pytest.approx(mutual_info_score(bins, y) - (n_cells - n_bins - 4 + 1) / 1400, abs=1e-12)
    assert n_bins == 2  # of the column of signs: atoms are not cut


def test_information_orders_columns_as_nearest_neighbours_do():
    rng = np.random.default_rng(6)
    y = rng.choice(3, 3000, p=[0.9, 0.05, 0.05])
    side = np.array([0.0, 1.0, -1.0])[y]
    X = np.outer(side, np.linspace(0, 3, 20)) + rng.normal(size=(3000, 20))
    X[:, ::2] = np.abs(X[:, ::2])  # what no correlation sees
    ours = relevance.mutual_information(ranked(X), np.ones(X.T.shape, bool), y[:, None])[0]
    assert spearmanr(ours, mutual_info_classif(X, y, random_state=0)).statistic > 0.97


def test_information_of_noise_is_nothing_on_average():
    rng = np.random.default_rng(7)
    X, y = rng.normal(size=(2000, 300)), rng.choice(3, 2000, p=[0.94, 0.03, 0.03])
    values = relevance.mutual_information(ranked(X), np.ones(X.T.shape, bool), y[:, None])[0]
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(300)
    assert values.min() < 0  # which counts as nothing
    assert RelevanceRedundancySelector().fit(X, y).scores_.min() == 0


def test_any_increasing_function_of_a_column_scores_the_same():
    X, y = planted()
    X = X[["noise", "weak", "strong", "turn"]]
    bent = X.assign(noise=1e12 * X["noise"] + 1e15, weak=np.exp(X["weak"]), strong=X["strong"] ** 3)
    assert state(RelevanceRedundancySelector().fit(bent, y)) == state(RelevanceRedundancySelector().fit(X, y))


def test_one_huge_value_does_not_hide_a_signal():
    X, y = planted()
    before = RelevanceRedundancySelector().fit(X, y)
    X.iloc[[5, 6], X.columns.get_loc("strong")] = 1e12, -1e12
    after = RelevanceRedundancySelector().fit(X, y)
    np.testing.assert_allclose(after.relevance_, before.relevance_, atol=0.03)


def test_relevance_is_the_mean_of_scaled_scores():
    X, y = planted()
    selector = RelevanceRedundancySelector().fit(X, y)
    raw = selector.scores_[:, 0]
    np.testing.assert_allclose(selector.relevance_, (raw / raw.max(axis=1, keepdims=True)).mean(axis=0))
    one = RelevanceRedundancySelector(scores=["f"]).fit(X, y)
    np.testing.assert_array_equal(one.scores_[0], selector.scores_[1])
    assert one.relevance_.max() == 1


def test_a_column_that_tells_the_classes_apart_has_finite_scores():
    X, y = planted()
    leak = X.assign(leak=(y == "peak").astype(float), leak_3=np.unique(y, return_inverse=True)[1])
    selector = RelevanceRedundancySelector().fit(leak, y)
    assert np.isfinite(selector.scores_).all()
    assert leak.columns[selector.ranking_[0]] == "leak_3"


# ---- what it sees


def test_rows_of_weight_zero_change_nothing():
    X, y = planted()
    weights = (np.random.default_rng(8).random(len(X)) < 0.5).astype(float)
    expected = RelevanceRedundancySelector(max_rows=600, block=50, random_state=0).fit(X[weights > 0], y[weights > 0])
    X[weights == 0] = 1e9
    y[weights == 0] = "peak"
    got = RelevanceRedundancySelector(max_rows=600, block=50, random_state=0).fit(X, y, sample_weight=3 * weights)
    assert state(got) == state(expected)


def test_in_a_fold_it_sees_training_rows_alone():
    X, y = planted()
    X = X.drop(columns=["constant", "void"])
    model = make_pipeline(RelevanceRedundancySelector(3), RobustScaler(), LogisticRegression())
    weights = (np.arange(len(X)) % 3 > 0).astype(float)
    rows = np.r_[200:900, 1000:1500]
    fitted, _ = fit_on_rows(model, X, y, weights, rows, row_keys(X))
    outside = np.setdiff1d(np.arange(len(X)), rows[weights[rows] > 0])
    other_X, other_y = X.copy(), y.copy()
    other_X.iloc[outside] = -1e6
    other_y[outside] = "slope"
    again, _ = fit_on_rows(model, other_X, other_y, weights, rows, row_keys(X))
    assert state(fitted[0]) == state(again[0])
    assert fitted[0].n_rows_ == (weights[rows] > 0).sum()
    assert lookback(model) == RelevanceRedundancySelector().lookback == 0
    out = walk_forward_predict(model, X, y, cv=WalkForwardSplit(2, purge=5), sample_weight=weights)
    assert np.isfinite(out.log_proba[out.covered]).all()


def test_blocks_are_runs_of_rows_spread_over_time():
    rows = _time_blocks(10_007, 1000, 50, 0)
    runs = rows.reshape(20, 50)
    assert (np.diff(runs, axis=1) == 1).all()
    assert (np.diff(rows) > 0).all()
    assert (runs[:, 0] // 501 == np.arange(20)).mean() > 0.8  # one from each twentieth
    assert rows.max() < 10_007
    np.testing.assert_array_equal(rows, _time_blocks(10_007, 1000, 50, 0))
    assert (rows != _time_blocks(10_007, 1000, 50, 1)).any()
    np.testing.assert_array_equal(_time_blocks(7, 7, 3, None), np.arange(7))
    assert len(_time_blocks(8, 7, 100, 0)) == 7
    last = {_time_blocks(11, 4, 2, seed)[-1] for seed in range(50)}
    assert max(last) == 10


def test_no_row_outside_the_blocks_counts():
    X, y = planted()
    rows = _time_blocks(len(X), 500, 50, 3)
    inside = RelevanceRedundancySelector().fit(X.iloc[rows], y[rows])
    sampled = RelevanceRedundancySelector(max_rows=500, block=50, random_state=3).fit(X, y)
    assert state(sampled) == state(inside)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_threads_memory_order_and_type_change_no_bit(dtype):
    X, y = planted()
    X = X.to_numpy(dtype)
    expected = state(RelevanceRedundancySelector().fit(X, y))
    assert state(RelevanceRedundancySelector(n_threads=3).fit(np.asfortranarray(X), y)) == expected
    assert state(RelevanceRedundancySelector().fit(pd.DataFrame(X).astype(np.float64).to_numpy(), y)) == expected


# ---- targets


def test_names_of_classes_do_not_matter():
    X, y = planted()
    numbers = pd.Series(np.unique(y, return_inverse=True)[1], index=X.index)
    assert state(RelevanceRedundancySelector().fit(X, numbers)) == state(RelevanceRedundancySelector().fit(X, y))


def test_horizons_count_alike():
    X, y = planted()
    later = np.where(X["noise"] > 1, "peak", "slope")
    both = RelevanceRedundancySelector().fit(X, np.column_stack([y, later]))
    one, two = (RelevanceRedundancySelector().fit(X, target) for target in (y, later))
    assert both.scores_.shape == (3, 2, 8)
    np.testing.assert_array_equal(both.scores_[:, :1], one.scores_)
    np.testing.assert_array_equal(both.scores_[:, 1:], two.scores_)
    np.testing.assert_allclose(both.relevance_, (one.relevance_ + two.relevance_) / 2)
    frame = pd.DataFrame({"H0": y, "H1": later}, index=X.index)
    assert state(RelevanceRedundancySelector().fit(X, frame)) == state(both)


def test_a_horizon_of_one_class_adds_nothing():
    X, y = planted()
    flat = RelevanceRedundancySelector().fit(X, np.column_stack([y, np.full(len(y), "slope")]))
    np.testing.assert_array_equal(flat.relevance_, RelevanceRedundancySelector().fit(X, y).relevance_)
    assert (flat.scores_[:, 1] == 0).all()


def test_one_class_teaches_nothing():
    X, y = planted()
    with pytest.raises(
        EnsembleKitError, match=r"`y` must have two classes .* 2000 rows to score; got one class, \[1\]"
    ):
        RelevanceRedundancySelector().fit(X, np.ones(len(X), int))
    with pytest.raises(EnsembleKitError, match=r"got one class, \['peak'\]"):
        RelevanceRedundancySelector().fit(X, y, sample_weight=y == "peak")


# ---- unknown values


def test_a_column_known_on_few_rows_does_not_win_by_chance():
    rng = np.random.default_rng(9)
    y = rng.integers(0, 2, 5000)
    X = np.column_stack([0.3 * y + rng.normal(size=5000), *rng.normal(size=(40, 5000))])
    X[20:, 1:] = np.nan  # 40 columns of 20 values: the best correlates by 0.5 on these
    selector = RelevanceRedundancySelector(threshold=0.2).fit(X, y)
    assert selector.support_.nonzero()[0].tolist() == [0]


def test_absence_is_information():
    rng = np.random.default_rng(10)
    y = rng.integers(0, 2, 1000)
    X = np.column_stack([np.where(y, np.nan, rng.normal(size=1000)), rng.normal(size=1000)])
    selector = RelevanceRedundancySelector(scores=("mutual_info",)).fit(X, y)
    assert selector.scores_[0, 0, 0] == pytest.approx(np.log(2), rel=0.05)


def test_a_constant_goes_whatever_its_absence_tells():
    X, y = planted()
    expected = RelevanceRedundancySelector().fit(X, y)
    X["constant"] = np.where(y == "slope", np.nan, 1.0)
    selector = RelevanceRedundancySelector().fit(X, y)
    assert selector.scores_[0, 0, 2] == selector.scores_[0, 0].max()
    np.testing.assert_array_equal(selector.relevance_, expected.relevance_)
    assert selector.reasons_[2] == "constant"


def test_warm_up_changes_little():
    X, y = planted()
    whole = RelevanceRedundancySelector(threshold=0.05).fit(X, y)
    X.iloc[:60] = np.nan
    warm = RelevanceRedundancySelector(threshold=0.05).fit(X, y)
    np.testing.assert_allclose(warm.relevance_, whole.relevance_, atol=0.02)
    assert (warm.reasons_[[2, 5]] == ["constant", "all NaN"]).all()


# ---- as a step


def test_frames_in_frames_out():
    bars = make_bars(400, instruments=["A", "B"], random_state=0)
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(len(bars), 5)), bars.index, list("abcde")).astype("float32")
    X.iloc[:9, :3] = np.nan
    y = np.arange(len(X)) % 3
    selector = RelevanceRedundancySelector(2).set_output(transform="pandas")
    out = selector.fit_transform(X, y)
    pd.testing.assert_frame_equal(out, X.loc[:, selector.support_])
    scaled = make_pipeline(RelevanceRedundancySelector(2), RobustScaler()).set_output(transform="pandas")
    out = scaled.fit_transform(X, y)
    assert out.index.equals(X.index)
    assert (out.dtypes == np.float32).all()
    assert out.columns.tolist() == scaled.get_feature_names_out().tolist()
    plain = RelevanceRedundancySelector(2).fit(X.to_numpy(), y).transform(X.to_numpy())
    assert plain.dtype == np.float32
    np.testing.assert_array_equal(plain, X.loc[:, selector.support_])


def test_the_report_is_readable():
    X, y = planted()
    selector = RelevanceRedundancySelector(3, threshold=0.05).fit(X, np.column_stack([y, y]))
    report = selector.report_
    assert list(report) == ["column", "mutual_info", "f", "correlation", "score", "kept", "reason"]
    assert report["score"].is_monotonic_decreasing
    assert set(report.loc[report["kept"], "column"]) == set(selector.get_feature_names_out())
    assert (report["kept"] == (report["reason"] == "kept")).all()
    np.testing.assert_array_equal(report.set_index("column").loc[list(X), "f"], selector.scores_[1].mean(axis=0))
    assert RelevanceRedundancySelector().fit(X.to_numpy(), y).report_["column"].str.fullmatch(r"x\d").all()


def test_it_survives_files():
    X, y = planted()
    selector = RelevanceRedundancySelector(3).fit(X, y)
    kind = "ensemble_kit.features.selector.RelevanceRedundancySelector"
    data = skops.io.dumps(selector)
    assert skops.io.get_untrusted_types(data=data) == [kind]
    for again in (skops.io.loads(data, trusted=[kind]), pickle.loads(pickle.dumps(selector))):
        assert state(again) == state(selector)
        assert again.report_.equals(selector.report_)
        pd.testing.assert_frame_equal(again.set_output(transform="pandas").transform(X), X.loc[:, selector.support_])


# ---- importances


def test_gain_is_one_more_score():
    X, y = planted()
    trees = ExtraTreesClassifier(20, max_depth=3, random_state=0)
    selector = RelevanceRedundancySelector(3, gain_estimator=trees).fit(X, np.column_stack([y, y == "peak"]))
    assert selector.scores_.shape == (4, 2, 8)
    direct = clone(trees).fit(X.to_numpy(), y).feature_importances_
    np.testing.assert_array_equal(selector.scores_[3, 0], direct)
    assert "gain" in selector.report_
    alone = RelevanceRedundancySelector(scores=(), gain_estimator=trees).fit(X, y)
    np.testing.assert_allclose(alone.relevance_, direct / direct.max())
    assert not hasattr(trees, "estimators_")  # the one given stays as it was


def test_gain_needs_importances():
    X, y = planted()
    with pytest.raises(EnsembleKitError, match="`gain_estimator` must have `feature_importances_` once fitted"):
        RelevanceRedundancySelector(gain_estimator=LogisticRegression()).fit(X[["weak", "noise"]], y)


# ---- errors


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 0}, "`k` must be an integer of at least 1; got 0. Mend with `set_params`."),
        ({"k": True}, "`k` must be an integer of at least 1; got True."),
        ({"threshold": 1.5}, "`threshold` must be a number in [0, 1]; got 1.5."),
        ({"redundancy": 0}, "`redundancy` must be a number in (0, 1]; got 0."),
        ({"max_rows": None}, "`max_rows` must be an integer of at least 1; got None."),
        ({"scores": ()}, "`scores` must be some of ['mutual_info', 'f', 'correlation'], each once (none where a"),
        ({"scores": ("f", "f")}, "got ('f', 'f')."),
        ({"scores": "f"}, "got 'f'."),
        ({"scores": ("gain",)}, "got ('gain',)."),
        ({"block": 0, "n_threads": 0.5}, "least 1; got 0. `n_threads` must be an integer of at least 1; got 0.5."),
    ],
)
def test_parameters_outside_their_domain(wrong, message):
    X, y = planted(100)
    with pytest.raises(EnsembleKitError) as error:
        RelevanceRedundancySelector(**wrong).fit(X, y)
    assert message in str(error.value)


def test_nothing_to_keep():
    X, y = planted()
    with pytest.raises(EnsembleKitError, match=r"`threshold` must leave a column; got 1, .* 8 columns 6 vary"):
        RelevanceRedundancySelector(threshold=1).fit(X, np.where(X["turn"] > 0, y, "slope"))
    with pytest.raises(EnsembleKitError, match="2 columns 0 vary"):
        RelevanceRedundancySelector().fit(X[["constant", "void"]], y)


def test_infinite_values_and_missing_labels_are_refused():
    X, y = planted()
    with pytest.raises(EnsembleKitError, match="`y` must have no missing label"):
        RelevanceRedundancySelector().fit(X, pd.Series(y).where(X["noise"].to_numpy() > 0))
    X.iloc[3, 0] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        RelevanceRedundancySelector().fit(X, y)


# ---- real bars


@pytest.mark.parametrize("name", ["spy_5min_2022_2023", "btcusdt_5min_2023"])
def test_on_real_bars(shared_data, name):
    bars = read_bars(shared_data / f"{name}.parquet").iloc[:6000]
    labels = peak_slope_bottom(bars, horizons=2)
    parts = [part.fit(bars).transform(bars) for part in (Alpha158(), SessionFeatures())]
    names = [column for part in (Alpha158(), SessionFeatures()) for column in part.get_feature_names_out()]
    X, y = labels.align(pd.DataFrame(np.hstack(parts), bars.index, names))
    selector = RelevanceRedundancySelector(60).set_output(transform="pandas")
    kept = selector.fit(X, y, sample_weight=labels.sample_weight[X.index]).transform(X)
    assert kept.shape[1] == 60
    seen = X[labels.sample_weight[X.index].to_numpy() > 0]
    rho = seen[kept.columns].rank().fillna((seen[kept.columns].count() + 1) / 2).corr().to_numpy()
    assert np.abs(rho - np.eye(60)).max() <= 0.95
    form = r"kept|redundant with \w+ \(rho -?\d\.\d\d\)|beyond k|constant|all NaN"
    assert pd.Series(selector.reasons_).str.fullmatch(form).all()
    assert all((reason == "all NaN") == X[name].isna().all() for name, reason in zip(X, selector.reasons_, strict=True))
