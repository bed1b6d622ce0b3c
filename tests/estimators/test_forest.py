import pickle
import re

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest

from ensemble_kit.bars import row_keys
from ensemble_kit.estimators.forest import Forest
from ensemble_kit.estimators.lags import LagColumns, lag_blocks
from ensemble_kit.exceptions import EnsembleKitError

ZERO = np.float32(1e-35)  # what LightGBM takes for 0
SMALL = {"verbose": -1, "num_threads": 1, "num_leaves": 7, "min_data_in_leaf": 3, "seed": 0, "deterministic": True}
BINARY = {"objective": "binary"}
THREE = {"objective": "multiclass", "num_class": 3}
FORESTS = {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.6}


def matrix(n=240, n_features=3, seed=0, missing=0.1, zeros=0.0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features)).astype(np.float32)
    X[rng.random(X.shape) < missing] = np.nan
    X[rng.random(X.shape) < zeros] = 0
    return X


def labels(X, n_classes=3):
    y = (np.nan_to_num(X[:, 0]) + np.nan_to_num(np.roll(X[:, 1], 2)) > 0).astype(int)
    y[np.random.default_rng(9).random(len(X)) < 0.15] = n_classes - 1
    return y


def lag_columns(X, seq_len=6, lags="blocks"):
    return LagColumns(np.asarray(X, dtype=np.float32), row_keys(X), seq_len, lag_blocks(lags, seq_len))


def flat(columns, rows):
    return np.column_stack([column.to_numpy() for column in columns.table(rows).columns])


def grow(flattened, y, params=THREE, rounds=8, fobj=None):
    params = SMALL | params | ({"objective": fobj} if fobj else {})
    return lgb.train(params, lgb.Dataset(flattened, y, params=params), num_boost_round=rounds)


def assert_is_lightgbm(texts, columns, rows):
    """Compare to the bit with LightGBM's own answers on the flattened rows."""
    forest = Forest.of(texts)
    flattened = flat(columns, rows)
    scores = forest.scores(columns, rows)
    assert scores.shape == (len(rows), len(texts), forest.n_scores)
    assert scores.dtype == np.float64
    for h, text in enumerate(texts):
        booster = lgb.Booster(model_str=text)
        raw = booster.predict(flattened, raw_score=True)
        np.testing.assert_array_equal(scores[:, h], raw.reshape(len(rows), -1))
    return scores


# ----------------------------------------------------------- equal to LightGBM


@pytest.mark.parametrize(
    "params",
    [
        BINARY,
        THREE,
        THREE | FORESTS,
        BINARY | FORESTS,
        THREE | {"boosting": "dart", "drop_rate": 0.5, "learning_rate": 0.3},
        BINARY | {"data_sample_strategy": "goss", "extra_trees": True},
        THREE | {"num_leaves": 60, "min_data_in_leaf": 1},
        {"objective": "regression", "monotone_constraints": [1] + [0] * 14},
    ],
)
@pytest.mark.parametrize("data", [{}, {"missing": 0.0}, {"zeros": 0.4}])
def test_equals_lightgbm(params, data):
    X = matrix(**data)
    y = np.minimum(labels(X), params.get("num_class", 2) - 1)
    columns, rows = lag_columns(X, 5), np.arange(len(X))
    text = grow(flat(columns, rows), y, params).model_to_string()
    assert_is_lightgbm([text], columns, rows)
    other = lag_columns(matrix(seed=5, missing=0.3, zeros=0.2), 5)
    assert_is_lightgbm([text], other, rows)


@pytest.mark.parametrize("lags", ["all", "blocks", "last", [4, 0, 7]])
@pytest.mark.parametrize("seq_len", [8, 70])
def test_every_lag_set_and_padding_rows(lags, seq_len):
    X = matrix()
    columns, rows = lag_columns(X, seq_len, lags), np.arange(len(X))
    text = grow(flat(columns, rows), labels(X)).model_to_string()
    scores = assert_is_lightgbm([text], columns, rows)
    assert np.ptp(scores[: seq_len - 1], axis=0).min() > 0


@pytest.mark.parametrize("missing", ["None", "Zero", "NaN"])
@pytest.mark.parametrize("nan_in", ["fit", "prediction"])
def test_missing_values(missing, nan_in):
    params = {"None": {"use_missing": False}, "Zero": {"zero_as_missing": True}, "NaN": {}}[missing]
    X = matrix(400, missing=0.2 if nan_in == "fit" else 0.0, zeros=0.3)
    rows = np.arange(len(X))
    columns = lag_columns(X, 1)
    text = grow(flat(columns, rows), labels(X), THREE | params, 20).model_to_string()
    kinds = {int(flag) >> 2 for line in re.findall("decision_type=(.*)", text) for flag in line.split()}
    assert ({"None": 0, "Zero": 1, "NaN": 2}[missing] in kinds) or nan_in == "prediction"
    assert_is_lightgbm([text], lag_columns(matrix(400, seed=3, missing=0.3, zeros=0.3), 1), rows)


def test_decisions_by_the_letter():
    """Every missing type, default side and threshold at every number where a rounding or a zero could matter."""
    edges = [0.0, 1.0, 1e-36, 1e-35, 2e-35, 1e-38, 0.1, 1e38, float(ZERO), 5e-46]
    thresholds = sorted({sign * edge for edge in edges for sign in (1, -1)} | {1e300, -1e300, float("inf")})
    x = np.array([t for t in thresholds if abs(t) < 1e39], dtype=np.float32)
    largest = np.finfo(np.float32).max
    x = np.unique([x, np.nextafter(x, largest), np.nextafter(x, -largest)])
    x = np.append(x, [np.nan, -0.0, largest]).astype(np.float32)[:, None]
    stump = grow(matrix(50, 1, missing=0), np.arange(50) % 2, BINARY | {"num_leaves": 2}, 1).model_to_string()
    assert re.search("num_leaves=2", stump)
    columns, rows = lag_columns(x, 1), np.arange(len(x))
    for threshold in thresholds:
        for flags in (0, 2, 4, 6, 8, 10):
            text = re.sub(r"(?m)^threshold=.*$", f"threshold={threshold!r}", stump)
            text = re.sub(r"(?m)^decision_type=.*$", f"decision_type={flags}", text)
            size = text.index("end of trees") - text.index("Tree=0")  # where LightGBM looks for the tree's end
            text = re.sub(r"(?m)^tree_sizes=.*$", f"tree_sizes={size}", text)
            assert_is_lightgbm([text], columns, rows)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_a_custom_objective(n_classes):
    X = matrix()
    y = labels(X, n_classes)

    def squares(scores, data):
        target = np.eye(3)[data.get_label().astype(int)] if n_classes == 3 else data.get_label()
        return scores - target, np.ones_like(scores)

    columns, rows = lag_columns(X), np.arange(len(X))
    of_classes = {"num_class": 3} if n_classes == 3 else {}
    text = grow(flat(columns, rows), y, of_classes, fobj=squares).model_to_string()
    assert Forest.of([text]).n_scores == (3 if n_classes == 3 else 1)
    assert_is_lightgbm([text], columns, rows)


def test_trees_of_a_single_leaf():
    X = matrix()
    columns, rows = lag_columns(X), np.arange(len(X))
    two_of_three = labels(X, 2)
    mixed = grow(flat(columns, rows), two_of_three, THREE).model_to_string()
    leaves = re.findall(r"num_leaves=(\d+)", mixed)
    assert "1" in leaves
    assert "7" in leaves
    alone = grow(flat(columns, rows), two_of_three, THREE | {"min_data_in_leaf": 200}).model_to_string()
    assert set(re.findall(r"num_leaves=(\d+)", alone)) == {"1"}
    assert len(Forest.of([alone]).column) == 0
    assert_is_lightgbm([mixed, alone, mixed], columns, rows)


def test_horizons_of_different_lengths_and_a_best_iteration():
    X = matrix(300)
    columns, rows = lag_columns(X), np.arange(300)
    flattened = flat(columns, rows)
    texts = [grow(flattened, np.roll(labels(X), h), rounds=r).model_to_string() for h, r in enumerate((1, 7, 3))]
    stopped = lgb.train(
        SMALL | THREE | {"learning_rate": 0.4},
        data := lgb.Dataset(flattened[:200], labels(X)[:200]),
        num_boost_round=60,
        valid_sets=[lgb.Dataset(flattened[200:], labels(X)[200:], reference=data)],
        callbacks=[lgb.early_stopping(3, verbose=False)],
        keep_training_booster=True,
    )
    assert stopped.best_iteration < stopped.current_iteration()
    scores = assert_is_lightgbm([*texts, stopped.model_to_string()], columns, rows)
    np.testing.assert_array_equal(scores[:, 3], stopped.predict(flattened, raw_score=True))


@pytest.mark.parametrize("seed", range(25))
def test_random_models_and_data(seed):
    rng = np.random.default_rng(seed)
    n, seq_len = int(rng.integers(40, 400)), int(rng.integers(1, 90))
    X = matrix(n, int(rng.integers(1, 6)), seed, *rng.random(2) * 0.6)
    X *= np.float32(10.0) ** rng.integers(-37, 30, size=X.shape[1]).astype(np.float32)
    n_classes = int(rng.integers(2, 5))
    params = BINARY if n_classes == 2 else {"objective": "multiclass", "num_class": n_classes}
    params |= {
        "num_leaves": int(rng.integers(2, 40)),
        "min_data_in_leaf": int(rng.integers(1, 15)),
        "use_missing": bool(rng.random() < 0.7),
        "zero_as_missing": bool(rng.random() < 0.4),
        "max_bin": int(rng.integers(3, 255)),
        "feature_fraction": 0.7,
    }
    lags = ["all", "blocks", "last", rng.permutation(seq_len)[:4].tolist()][seed % 4]
    columns, every = lag_columns(X, seq_len, lags), np.arange(n)
    text = grow(flat(columns, every), rng.integers(0, n_classes, n), params, int(rng.integers(1, 20))).model_to_string()
    assert_is_lightgbm([text], columns, every)
    assert_is_lightgbm([text], columns, rng.integers(0, n, size=30))


# ----------------------------------------------------------------- rows are rows


@pytest.fixture(scope="module")
def fitted():
    X = matrix(2600)
    columns = lag_columns(X, 40)
    text = grow(flat(columns, np.arange(1000)), labels(X)[:1000]).model_to_string()
    return X, columns, Forest.of([text, text])


def test_one_row_equals_the_batch(fitted):
    X, columns, forest = fitted
    every = forest.scores(columns, np.arange(len(X)))
    for t in (0, 1, 38, 39, 40, 1024, 1063, 2599):
        np.testing.assert_array_equal(forest.scores(columns, np.array([t]))[0], every[t])
        window = X[max(t - 39, 0) : t + 1]
        alone = forest.scores(lag_columns(window, 40), np.array([len(window) - 1]))
        np.testing.assert_array_equal(alone[0], every[t])


@pytest.mark.parametrize("n", [1, 2, 31, 32, 33, 1023, 1024, 1025, 2048, 2100])
def test_a_prefix_equals_the_whole(fitted, n):
    X, columns, forest = fitted
    every = forest.scores(columns, np.arange(len(X)))
    np.testing.assert_array_equal(forest.scores(lag_columns(X[:n], 40), np.arange(n)), every[:n])
    np.testing.assert_array_equal(forest.scores(columns, np.arange(n)), every[:n])


def test_rows_in_any_order_more_than_once_or_none(fitted):
    X, columns, forest = fitted
    every = forest.scores(columns, np.arange(len(X)))
    rng = np.random.default_rng(0)
    for rows in (rng.permutation(len(X)), np.array([5, 5, 4, 6, 5]), np.arange(len(X))[::-1], np.arange(0, 2600, 3)):
        np.testing.assert_array_equal(forest.scores(columns, rows), every[rows])
    assert forest.scores(columns, np.array([], dtype=np.int64)).shape == (0, 2, 3)


def test_interleaved_instruments_equal_each_alone(fitted):
    _, _, forest = fitted
    X = matrix(900, seed=4)
    rng = np.random.default_rng(1)
    times = pd.date_range("2024-01-01", periods=600, freq="h")
    who = rng.permutation(np.repeat(["ccc", "aaa", "bbb", "one"], [400, 300, 199, 1]))
    at = np.empty(900, dtype=int)
    for name in np.unique(who):
        at[who == name] = np.sort(rng.choice(600, (who == name).sum(), replace=False))
    index = pd.MultiIndex.from_arrays([times[at], who], names=["datetime", "instrument"]).sortlevel()[0]
    frame = pd.DataFrame(X, index=index)
    together = forest.scores(lag_columns(frame, 40), np.arange(900))
    instruments = index.get_level_values(1)
    for name in np.unique(who):
        alone = frame[instruments == name]
        np.testing.assert_array_equal(
            together[instruments == name], forest.scores(lag_columns(alone, 40), np.arange(len(alone)))
        )


def test_a_stored_forest_is_itself(fitted):
    X, columns, forest = fitted
    again = pickle.loads(pickle.dumps(forest))
    rows = np.arange(len(X))
    np.testing.assert_array_equal(again.scores(columns, rows), forest.scores(columns, rows))


# ------------------------------------------------------------------ block means


def means_by_doubling(x, lengths):
    """Sum the last 1, 2, 4, ... values in float64, and a length's powers of two from the smallest."""
    known = ~np.isnan(x)
    power, sums = {1: np.stack([np.where(known, x, 0), known]).astype(float)}, []

    def delayed(values, rows):
        return np.hstack([np.zeros((2, min(rows, len(x)))), values[:, : max(len(x) - rows, 0)]])

    for bit in 2 ** np.arange(max(lengths).bit_length()):
        power[2 * bit] = power[bit] + delayed(power[bit], bit)
    for length in lengths:
        total, reach = np.zeros((2, len(x))), 0
        for bit in 2 ** np.arange(length.bit_length()):
            if length & bit:
                total += delayed(power[bit], reach)
                reach += bit
        sums.append(total)
    with np.errstate(invalid="ignore"):
        return np.array([total / count for total, count in sums]).astype(np.float32)


@pytest.mark.parametrize("n", [1, 3, 200, 1100, 4200])
@pytest.mark.parametrize("blocks", [lag_blocks("blocks", 205), lag_blocks("all", 4), [[0, 7], [2, 1], [0, 13]]])
def test_block_means_to_the_bit(n, blocks):
    X = matrix(n, 3, missing=0.3)
    X[: n // 2, 1] *= 1e30
    X[:, 2] = np.where(np.arange(n) % 4, np.float32(-0.0), X[:, 2])
    blocks = np.asarray(blocks)
    columns = LagColumns(X, row_keys(X), 205, blocks)
    lengths = sorted({int(length) for length in blocks[:, 1]})
    for f in range(3):
        padded = np.append(np.full(204, np.nan, np.float32), X[:, f])
        expected = means_by_doubling(padded, lengths)
        np.testing.assert_array_equal(np.isnan(columns.series[f]), np.isnan(expected))
        known = ~np.isnan(expected)
        np.testing.assert_array_equal(columns.series[f][known].view(np.int32), expected[known].view(np.int32))


def test_the_layout_of_the_matrix_changes_no_bit():
    X = matrix(300, 4)
    for other in (np.asfortranarray(X), np.repeat(X, 2, axis=1)[:, ::2], np.repeat(X, 2, axis=0)[::2]):
        np.testing.assert_array_equal(lag_columns(other, 40).series, lag_columns(X, 40).series)


# --------------------------------------------------------------------- refusals


def test_categorical_splits_and_linear_leaves_are_refused():
    X = matrix(300, 3, missing=0)
    y = labels(X)
    codes = np.column_stack([y, X[:, 1:]])
    of_codes = lgb.Dataset(codes, y, categorical_feature=[0], params={"verbose": -1})
    categorical = lgb.train(SMALL | THREE, of_codes, num_boost_round=2).model_to_string()
    linear = grow(X.astype(float), y, {"objective": "regression", "linear_tree": True}, 2).model_to_string()
    numerical = grow(X, y).model_to_string()
    for text, kind in ((categorical, "categorical splits"), (linear, "linear leaves")):
        message = (
            f"`texts` must be models of numerical splits and constant leaves; got {kind} at position 1. "
            "Fit without `categorical_feature` and `linear_tree`."
        )
        with pytest.raises(EnsembleKitError, match=f"^{re.escape(message)}$"):
            Forest.of([numerical, text])


def test_texts_that_are_no_whole_model_are_refused():
    X = matrix(300)
    text = grow(X, labels(X)).model_to_string()
    for bad in ("", "tree", "x=1\n\nTree=0\nnum_leaves=1\n", text[: len(text) // 3], text[: text.index("Tree=20")]):
        with pytest.raises(EnsembleKitError, match="`texts` must be whole models as LightGBM's `model_to_string`"):
            Forest.of([text, bad])


@pytest.mark.parametrize(("line", "number"), [("left_child", "0"), ("right_child", "-99"), ("split_feature", "3")])
def test_trees_in_which_a_walk_would_stray_are_refused(line, number):
    X = matrix(300, 3)
    text = grow(X, labels(X)).model_to_string()
    tampered = re.sub(rf"(?<={line}=)-?\d+", number, text)
    with pytest.raises(EnsembleKitError, match="must be whole models"):
        Forest.of([tampered])


def test_models_that_do_not_belong_together_are_refused():
    X = matrix(300)
    three = grow(X, labels(X)).model_to_string()
    two = grow(X, labels(X, 2), BINARY).model_to_string()
    narrow = grow(X[:, :2], labels(X)).model_to_string()
    message = (
        "`texts` must be models of as many columns and of as many scores a row; got [(3, 3), (3, 1), (2, 3)]. "
        "Fit all horizons on the same columns and classes."
    )
    with pytest.raises(EnsembleKitError, match=f"^{re.escape(message)}$"):
        Forest.of([three, two, narrow])


def test_other_columns_than_those_of_the_fit_are_refused(fitted):
    X, _, forest = fitted
    message = (
        f"`columns` must be the {forest.n_columns} columns that the trees were grown on; got 9. "
        "Build them with the columns, the `seq_len` and the lags of the fit."
    )
    with pytest.raises(EnsembleKitError, match=f"^{re.escape(message)}$"):
        forest.scores(lag_columns(X, 3), np.arange(3))
