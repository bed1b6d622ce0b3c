"""Permutation importance out of fold: one fit a fold, columns permuted with their history, and a null beside it."""

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.metrics import make_scorer, mean_squared_error
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier

from ensemble_kit.datasets import make_bars
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.exceptions import BarsError, EnsembleKitError, LeakageError
from ensemble_kit.features import SessionFeatures
from ensemble_kit.metrics import AUCPRScorer, BrierScorer
from ensemble_kit.metrics.importance import permutation_importance
from ensemble_kit.validation import WalkForwardSplit

CV = WalkForwardSplit(3, purge=2)
COLUMNS = ["mean", "std", "low", "high", "score", "fold_0", "fold_1", "fold_2"]


def problem(n=300, seed=0, width=3):
    """Column "signal" says the class; the others, "b" and "c", say nothing."""
    rng = np.random.default_rng(seed)
    index = pd.date_range("2024-03-28", periods=n, freq="h", tz="Europe/Berlin", name="datetime")
    X = pd.DataFrame(rng.normal(size=(n, width)), index, columns=["signal", *"bcdefghijklmnopqrstu"[: width - 1]])
    return X, pd.Series(np.where(X["signal"] + 0.3 * rng.normal(size=n) > 0.8, "peak", "slope"), index)


def panel(n=120):
    """Three instruments; B starts late, C has holes and ends early, D has three rows."""
    X, y = problem(n)
    X = X.assign(row=np.arange(float(n)), y=y)
    parts = {"A": X, "B": X.iloc[40:], "C": X.iloc[:110].drop(X.index[[5, 50, 91]]), "D": X.iloc[[1, 80, 81]]}
    X = pd.concat(parts, names=["instrument"]).swaplevel().sort_index()
    return X.drop(columns="y"), X["y"]


def log_likelihood(estimator, X, y):
    proba = estimator.predict_proba(X)
    return float(np.mean(np.log(proba[np.arange(len(y)), np.searchsorted(estimator.classes_, y)])))


class Spy(ClassifierMixin, BaseEstimator):
    """Naive Bayes that keeps every table it was asked about; with `reach`, it wants that many rows in front."""

    fits = 0
    asked = []

    def __init__(self, reach=0):
        self.reach = reach

    @property
    def lookback(self):
        return self.reach

    def fit(self, X, y, sample_weight=None):
        Spy.fits += 1
        self.model_ = GaussianNB().fit(X, y, sample_weight)
        self.classes_ = self.model_.classes_
        return self

    def predict_proba(self, X):
        Spy.asked.append(X)
        return self.model_.predict_proba(X)


@pytest.fixture
def spy():
    Spy.fits, Spy.asked = 0, []
    return Spy


def calls(table, n_repeats):
    """What the spy was asked, by fold: the repeats of each column, and the table as it is."""
    n_features, n_folds = len(table), sum(name.startswith("fold_") for name in table)
    per_fold = n_features * n_repeats + 1
    assert len(Spy.asked) == n_folds * per_fold
    for fold in range(n_folds):
        mine = Spy.asked[fold * per_fold : (fold + 1) * per_fold]
        yield fold, mine[-1], [mine[j * n_repeats : (j + 1) * n_repeats] for j in range(n_features)]


# ---------------------------------------------------------------------------- the table


@pytest.mark.parametrize(
    "scoring", [AUCPRScorer(events=["peak"]), BrierScorer(), "accuracy", "roc_auc", log_likelihood]
)
@pytest.mark.parametrize(
    "model",
    [
        make_pipeline(StandardScaler(), LogisticRegression()),
        DecisionTreeClassifier(max_depth=4, random_state=0),
        LGBMWindowClassifier(3, n_estimators=10, random_state=0),
    ],
    ids=["linear", "tree", "windows"],
)
def test_a_planted_column_is_found_and_noise_is_not(model, scoring):
    X, y = problem()
    if scoring is log_likelihood:
        model = LogisticRegression()
    table = permutation_importance(model, X, y, cv=CV, scoring=scoring, random_state=0)
    assert table.index.name == "feature"
    assert table.columns.tolist() == COLUMNS
    assert table.index[0] == "signal"
    assert table["low"].iloc[0] > 0
    assert (table[["fold_0", "fold_1", "fold_2"]].iloc[0] >= 0).all()
    assert (table["high"].iloc[1:] < table["low"].iloc[0]).all()
    assert (table["mean"].iloc[1:].abs() < table["mean"].iloc[0] / 5).all()
    assert table["mean"].is_monotonic_decreasing
    np.testing.assert_allclose(table[["fold_0", "fold_1", "fold_2"]].mean(axis=1), table["mean"])
    assert table["score"].iloc[0] == table["score"].min() == table["score"].max()


def test_a_column_that_the_model_never_reads_drops_nothing():
    X, y = problem()
    stump = DecisionTreeClassifier(max_depth=1, random_state=0)
    table = permutation_importance(stump, X, y, cv=CV, scoring="accuracy", random_state=0)
    assert (table.loc[["b", "c"], ["mean", "std", "low", "high"]] == 0).all(axis=None)


def test_numbers_as_targets():
    X, _ = problem()
    y = 2 * X["signal"] + 0.1 * X["b"]
    table = permutation_importance(LinearRegression(), X, y, cv=CV, scoring="r2", random_state=0)
    assert table.index.tolist() == ["signal", "b", "c"]
    assert table["mean"].iloc[0] > 1
    scorer = make_scorer(mean_squared_error, greater_is_better=False)
    mse = permutation_importance(LinearRegression(), X, y, cv=CV, scoring=scorer, n_repeats=20, random_state=0)
    # Of a linear model, the drop of the squared error is twice the column's share of the variance.
    assert mse.loc["signal", "mean"] == pytest.approx(2 * 4, rel=0.2)
    assert mse["score"].iloc[0] == pytest.approx(0, abs=1e-9)


def test_the_numbers_are_those_of_the_scores(spy):
    X, y = problem()
    table = permutation_importance(spy(), X, y, cv=CV, scoring=log_likelihood, n_repeats=4, random_state=0)
    drops = np.empty((3, 3, 4))
    base = np.empty(3)
    for fold, plain, columns in calls(table, 4):
        train, test = [*CV.split(X)][fold]
        model = GaussianNB().fit(X.iloc[train], y.iloc[train])
        base[fold] = log_likelihood(model, plain, y.iloc[test])
        for j, repeats in enumerate(columns):
            drops[fold, j] = [base[fold] - log_likelihood(model, moved, y.iloc[test]) for moved in repeats]
    by_column = table.loc[X.columns]
    np.testing.assert_allclose(by_column["mean"], drops.mean(axis=(0, 2)))
    np.testing.assert_allclose(by_column["std"], drops.std(axis=(0, 2), ddof=1))
    np.testing.assert_allclose(by_column[["fold_0", "fold_1", "fold_2"]], drops.mean(axis=2).T)
    np.testing.assert_allclose(by_column["score"], base.mean())
    # Student's t of 3 x (4 - 1) degrees of freedom, as tables have it.
    half = 2.2621572 * np.sqrt(drops.var(axis=2, ddof=1).sum(axis=0) / 9 * (1 + 1 / 4))
    np.testing.assert_allclose(by_column["high"] - by_column["mean"], half, rtol=1e-6)
    np.testing.assert_allclose(by_column["mean"] - by_column["low"], half, rtol=1e-6)


@pytest.mark.parametrize("smooth", [False, True])
def test_intervals_hold_what_they_promise(smooth):
    """Nineteen in twenty columns of noise have 0 in the interval; the spread of the drops alone would be too narrow."""
    inside, naive = [], []
    for seed in range(8):
        X, y = problem(240, seed, width=16)
        if smooth:
            X.iloc[:, 1:] = X.iloc[:, 1:].ewm(span=5).mean() * 2
        table = permutation_importance(
            LogisticRegression(), X, y, cv=CV, scoring=log_likelihood, n_repeats=6, random_state=seed
        ).drop("signal")
        inside.append((table["low"] <= 0) & (table["high"] >= 0))
        naive.append(table["mean"].abs() <= 2 * table["std"] / np.sqrt(3 * 6))
    assert 0.88 <= np.mean(inside) < 1
    assert np.mean(naive) < 0.8


def test_seeds():
    X, y = problem()
    one, two, three = (
        permutation_importance(LogisticRegression(), X, y, cv=CV, scoring=log_likelihood, random_state=seed)
        for seed in (0, 0, 1)
    )
    pd.testing.assert_frame_equal(one, two)
    assert not np.allclose(one["mean"], three["mean"], atol=1e-12)
    # All columns share the permutations, so that a column's numbers do not depend on which others are measured.
    turned = permutation_importance(
        LogisticRegression(), X, y, cv=CV, scoring=log_likelihood, groups={"c": "c", "b": ["b"]}, random_state=0
    )
    pd.testing.assert_frame_equal(turned.loc[["b", "c"]], one.loc[["b", "c"]])


# ------------------------------------------------------------------------- permutations


@pytest.mark.parametrize("frame", [True, False])
@pytest.mark.parametrize("reach", [0, 4, None])
def test_one_column_moves_in_blocks_over_test_rows_and_history(spy, reach, frame):
    X, y = problem(160)
    X = X.assign(b=np.arange(160.0))
    given = X if frame else X.to_numpy()
    before = given.copy()
    table = permutation_importance(
        spy(reach), given, y.to_numpy(), cv=CV, scoring=BrierScorer(), n_repeats=3, block=7, random_state=0
    )
    np.testing.assert_array_equal(given, before)
    assert Spy.fits == 3
    starts = set()
    for fold, plain, columns in calls(table, 3):
        _, test = [*CV.split(X)][fold]
        span = np.arange(0 if reach is None else test[0] - reach, test[-1] + 1)
        np.testing.assert_array_equal(plain, X.iloc[span])
        for j, repeats in enumerate(columns):
            for moved in repeats:
                values = np.asarray(moved)
                others = np.arange(3) != j
                np.testing.assert_array_equal(values[:, others], X.iloc[span, others])
                np.testing.assert_array_equal(np.sort(values[:, j]), np.sort(X.iloc[span, j]))
                assert (values[:, j] != X.iloc[span, j]).mean() > 0.5
                if j == 1:  # the row numbers: blocks of 7 follow one another in another order
                    runs = np.split(values[:, 1], np.flatnonzero(np.diff(values[:, 1]) != 1) + 1)
                    assert np.mean([len(run) % 7 == 0 for run in runs]) >= (len(runs) - 2) / len(runs)
                    starts |= {run[0] % 7 for run in runs}
                if frame:
                    assert moved.index.equals(X.index[span])
    assert len(starts) > 3  # where blocks are cut differs


def test_instruments_are_permuted_apart(spy):
    X, y = panel()
    table = permutation_importance(spy(2), X, y, cv=CV, scoring=BrierScorer(), n_repeats=2, random_state=0)
    for fold, plain, columns in calls(table, 2):
        _, test = [*CV.split(X)][fold]
        names = X.index[test].get_level_values(1).unique()
        for name in names:
            mine = plain.index.get_level_values(1) == name
            alone = X.xs(name, level=1)
            # Two rows of the instrument's own history stand in front.
            first = alone.index.get_loc(X.index[test][X.index[test].get_level_values(1) == name][0][0])
            np.testing.assert_array_equal(plain["row"][mine], alone["row"].iloc[max(first - 2, 0) :][: mine.sum()])
            for moved in columns[3]:
                np.testing.assert_array_equal(np.sort(moved["row"][mine]), plain["row"][mine])
        for moved in columns[3]:
            assert moved.index.equals(plain.index)
            assert not np.array_equal(moved["row"], plain["row"])


@pytest.mark.parametrize(("reach", "rows", "block"), [(0, 40, 7), (11, 51, 10), (3, 43, 7), (None, 160, 11)])
def test_blocks_by_default(spy, reach, rows, block):
    """Twice the cube root of the rows, no less than the window and no more than a fifth."""
    X, y = problem(160)
    X["b"] = np.arange(160.0)
    table = permutation_importance(spy(reach), X, y, cv=CV, scoring=BrierScorer(), n_repeats=20, random_state=0)
    *_, (_, plain, columns) = calls(table, 20)
    assert len(plain) == rows
    values = [moved["b"].to_numpy() for moved in columns[1]]
    lengths = [len(run) for v in values for run in np.split(v, np.flatnonzero(np.diff(v) != 1) + 1)]
    assert np.bincount(lengths).argmax() == block


def test_groups_move_together(spy):
    X, y = problem()
    groups = {"both": ["b", "c"], "last": "c"}
    table = permutation_importance(
        spy(), X, y, cv=CV, scoring=BrierScorer(), groups=groups, n_repeats=2, random_state=0
    )
    assert sorted(table.index) == ["both", "last"]
    for _, plain, (both, last) in calls(table, 2):
        for moved in both:
            pairs = {tuple(pair) for pair in plain[["b", "c"]].to_numpy()}
            assert {tuple(pair) for pair in moved[["b", "c"]].to_numpy()} == pairs
            pd.testing.assert_series_equal(moved["signal"], plain["signal"])
            assert (moved[["b", "c"]] != plain[["b", "c"]]).any().all()
        for moved in last:
            pd.testing.assert_frame_equal(moved[["signal", "b"]], plain[["signal", "b"]])


def test_correlated_columns_share_importance_and_groups_cure_it():
    X, y = problem(400)
    for copy in ("signal2", "signal3"):
        X[copy] = X["signal"] + 0.01 * np.random.default_rng(len(copy)).normal(size=400)
    model = LogisticRegression()
    alone = permutation_importance(model, X, y, cv=CV, scoring="accuracy", random_state=0)
    groups = {"signals": ["signal", "signal2", "signal3"], "b": ["b"]}
    together = permutation_importance(model, X, y, cv=CV, scoring="accuracy", groups=groups, random_state=0)
    assert together.loc["signals", "mean"] > 1.5 * alone["mean"].max()


def test_types_of_columns_stay(spy):
    class Typed(Spy):
        def fit(self, X, y, sample_weight=None):
            return super().fit(X.astype(float), y, sample_weight)

        def predict_proba(self, X):
            assert X.dtypes.tolist() == types
            return super().predict_proba(X.astype(float))

    X, y = problem()
    X = X.assign(b=np.arange(300) % 5, c=X["c"].astype(np.float32), d=pd.Categorical(np.arange(300) % 3))
    types = X.dtypes.tolist()
    assert len(permutation_importance(Typed(), X, y, cv=CV, scoring=BrierScorer(), random_state=0)) == 4


# ------------------------------------------------------------- windows, weights, horizons


@pytest.mark.parametrize("several", [False, True])
def test_what_a_window_model_reads_from_earlier_rows(several):
    X, _ = problem(500)
    X = X.rename(columns={"signal": "a"})
    if several:
        X = pd.concat({"A": X, "B": X.iloc[100:] * -1}, names=["instrument"]).swaplevel().sort_index()
    earlier = X["a"].groupby(level=1).shift(2) if several else X["a"].shift(2)
    y = pd.Series(np.where(earlier > 0.5, "peak", "slope"), X.index)
    model = LGBMWindowClassifier(4, lags="all", n_estimators=15, random_state=0)
    scoring = AUCPRScorer(events=["peak"])
    table = permutation_importance(model, X, y, cv=CV, scoring=scoring, n_repeats=3, random_state=0)
    assert table.index[0] == "a"
    assert table["score"].iloc[0] > 0.95
    assert table["low"].iloc[0] > 0.3
    assert (table["mean"].iloc[1:].abs() < 0.01).all()


def test_rows_of_weight_zero_are_history_and_not_scored(spy):
    X, y = problem()
    weight = np.where(np.arange(300) % 3, 1.0, 0.0)
    seen = []

    def scoring(estimator, X, y):
        seen.append((X.index, y.index))
        return log_likelihood(estimator, X, y)

    permutation_importance(spy(4), X, y, cv=CV, scoring=scoring, n_repeats=2, sample_weight=weight, random_state=0)
    for at, (rows, labels) in enumerate(seen):
        _, test = [*CV.split(X)][at // (len(seen) // 3)]
        assert rows.equals(labels)
        assert rows.equals(X.index[test[weight[test] > 0]])
    other = y.where(weight > 0, "peak")
    one, two = (
        permutation_importance(
            LogisticRegression(), X, t, cv=CV, scoring=log_likelihood, sample_weight=weight, random_state=0
        )
        for t in (y, other)
    )
    pd.testing.assert_frame_equal(one, two)


def test_weights_reach_fit_and_scorer():
    X, y = problem()
    weight = np.random.default_rng(0).choice([0.0, 1.0, 3.0], size=300)
    model = LogisticRegression()
    weighted = permutation_importance(
        model, X, y, cv=CV, scoring="accuracy", sample_weight=weight, n_repeats=2, random_state=0
    )
    scores = []
    for train, test in CV.split(X):
        model.fit(X.iloc[train], y.iloc[train], weight[train])
        scores.append(np.average(model.predict(X.iloc[test]) == y.iloc[test], weights=weight[test]))
    assert weighted["score"].iloc[0] == pytest.approx(np.mean(scores))
    looked_up = AUCPRScorer(sample_weight=pd.Series(weight, X.index))
    given = permutation_importance(model, X, y, cv=CV, scoring=looked_up, n_repeats=2, random_state=0)
    assert given.loc["signal", "low"] > 0
    with pytest.raises(TypeError, match="sample_weight"):  # a scorer that takes none says so itself
        permutation_importance(model, X, y, cv=CV, scoring=log_likelihood, sample_weight=weight)


def test_horizons():
    X, y = problem()
    Y = pd.DataFrame({"now": y, "noise": np.random.default_rng(9).choice(["peak", "slope"], 300)}, X.index)
    model = DecisionTreeClassifier(max_depth=4, random_state=0)
    now, noise = (
        permutation_importance(model, X, Y, cv=CV, scoring=AUCPRScorer(events=["peak"], horizon=h), random_state=0)
        for h in (0, 1)
    )
    assert now.loc["signal", "mean"] > 5 * abs(noise.loc["signal", "mean"])


# ------------------------------------------------------------------------------- refused


def test_bars_are_not_columns():
    bars = make_bars(300, random_state=0)
    y = pd.Series(np.where(np.arange(300) % 2, "peak", "slope"), bars.index)
    model = make_pipeline(SessionFeatures(), LogisticRegression())
    message = "`X` must hold the columns a model learns from; got bars, and a permuted price is no bar. Permute what is"
    for groups in (None, {"prices": ["open", "high", "low", "close"]}, {"a": ["volume"], "b": ["high"]}):
        with pytest.raises(EnsembleKitError, match=message):
            permutation_importance(model, bars, y, cv=CV, scoring="accuracy", groups=groups)
    # What is no price may move: volume, or a column of the user's own beside the bars.
    table = permutation_importance(model, bars, y, cv=CV, scoring="accuracy", groups={"v": "volume"}, n_repeats=2)
    assert table.index.tolist() == ["v"]


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"n_repeats": 1}, "`n_repeats` must be an integer of at least 2; got 1"),
        ({"n_repeats": 2.5}, "`n_repeats` must be an integer"),
        ({"block": 0}, "`block` must be an integer of at least 1, or None; got 0"),
        ({"block": 2.0}, "`block` must be an integer"),
        ({"block": 38}, "`block` must leave two blocks of the 75 rows that an instrument has in a fold; got 38"),
        ({"groups": {"g": ["b", "x", "y"]}}, r"`groups` must name columns of X; 'g' has \['x', 'y'\]. Choose from sig"),
        ({"groups": {"g": []}}, "'g' has none"),
        ({"groups": {}}, "`groups` must name at least one group of columns; got none"),
        ({"scoring": None}, "`scoring` must be one scorer, or a name that scikit-learn knows; got None"),
        ({"scoring": {"a": "accuracy"}}, "`scoring` must be one scorer"),
        ({"scoring": "no_such"}, "no_such"),
        ({"sample_weight": (np.arange(300) < 200) * 1.0}, "must be above 0 on some test rows of every fold"),
        ({"cv": [([0, 1], [1, 2])]}, "`cv` must train on rows before"),
        ({"scoring": lambda e, X, y: e.predict_proba(X[:5]).sum()}, "must ask for all 75 test rows at once; .* for 5"),
    ],
)
def test_what_cannot_be_measured(parameters, message):
    X, y = problem()
    with pytest.raises(ValueError, match=message):
        permutation_importance(GaussianNB(), X, y, **({"cv": CV, "scoring": "accuracy"} | parameters))


def test_leaks_and_lost_panels():
    X, y = panel()
    with pytest.raises(LeakageError):
        permutation_importance(GaussianNB(), X, y, cv=5, scoring="accuracy")
    with pytest.raises(BarsError, match="must keep the panel's"):
        permutation_importance(GaussianNB(), X.to_numpy(), y, cv=CV, scoring="accuracy")


def test_two_columns_of_one_name():
    X, y = problem()
    with pytest.raises(EnsembleKitError, match="`X` must have each column once; got b more often"):
        permutation_importance(GaussianNB(), X.rename(columns={"c": "b"}), y, cv=CV, scoring="accuracy")


def test_a_scorer_cannot_go_round_the_permutation():
    X, y = problem()
    with pytest.raises(AttributeError, match="may ask for predictions only, not `score`"):
        permutation_importance(GaussianNB(), X, y, cv=CV, scoring=lambda e, X, y: e.score(X, y))
