import itertools

import lightgbm as lgb
import numpy as np
import pandas as pd
import pytest
from lightgbm.basic import _ConfigAliases

from ensemble_kit.estimators._lightgbm_params import LIGHTGBM_PARAMS, expand_constraints
from ensemble_kit.estimators.lightgbm_window import LGBMWindowClassifier
from ensemble_kit.exceptions import EnsembleKitError


def constrained(params, seq_len=7, **options):
    options = {"n_estimators": 30, "num_leaves": 15, "min_child_samples": 5, "random_state": 0} | options
    return LGBMWindowClassifier(seq_len, params=params, **options)


def columns_and_labels(n=600, n_features=4, n_classes=2, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, n_features)).astype(np.float32)
    score = X[:, 0] * X[:, 1] + np.roll(X[:, 2], 2) * X[:, 3] + X @ [0.5, -1, -0.5, 0.5] + rng.normal(size=n)
    return X, np.digitize(score, [0.0] if n_classes == 2 else [-0.5, 1.0])


# ---------------------------------------------------------------------- monotone


def steps(model, X, column, direction, rows=60):
    """Return how the scores change where one value of the window, at any lag, moves in a direction."""
    rng = np.random.default_rng(5)
    seq_len = model.seq_len
    changes = []
    for lag in range(seq_len):
        for at in rng.integers(seq_len, len(X), size=rows // seq_len):
            window = X[at - seq_len + 1 : at + 1].copy()
            higher = window.copy()
            higher[-1 - lag, column] += direction * rng.exponential(2)
            before, after = (model.newest_log_proba(w) for w in (window, higher))
            changes.append((after[1] - after[0]) - (before[1] - before[0]))
    return np.array(changes)


@pytest.mark.parametrize("method", [None, "intermediate", "advanced"])
@pytest.mark.parametrize("loss", ["cross_entropy", "expected_cost"])
def test_scores_are_monotone_in_every_lag(method, loss):
    X, y = columns_and_labels()
    params = {"monotone_constraints": [1, 0, -1, 0]}
    if method:
        params["monotone_constraints_method"] = method
    options = {"loss": loss, "cost_matrix": 1 - np.eye(2)}
    model = constrained(params, **options).fit(X, y)
    for column, direction in ((0, 1), (2, -1)):
        assert steps(model, X, column, direction).min() > -1e-9
        assert steps(model, X, column, direction).max() > 0
    free = constrained({}, **options).fit(X, y)
    assert min(steps(free, X, column, direction).min() for column, direction in ((0, 1), (2, -1))) < -0.01
    assert steps(model, X, 1, 1).min() < -0.01


def test_monotone_by_name_is_by_position():
    X, y = columns_and_labels()
    frame = pd.DataFrame(X, columns=list("abcd"))
    by_name = constrained({"monotone_constraints": {"c": -1, "a": 1}}).fit(frame, y)
    by_position = constrained({"monotone_constraints": np.array([1, 0, -1, 0])}).fit(X, y)
    np.testing.assert_array_equal(by_name.predict_proba(frame), by_position.predict_proba(X))
    expanded = expand_constraints({"monotone_constraints": {"c": -1, "a": 1}}, list("abcd"), 3)
    assert expanded["monotone_constraints"] == [1, 1, 1, 0, 0, 0, -1, -1, -1, 0, 0, 0]


# ------------------------------------------------------------------- interaction


def paths(tree):
    """Yield the columns of each path from root to leaf."""
    if "split_feature" not in tree:
        yield set()
        return
    for child in ("left_child", "right_child"):
        for below in paths(tree[child]):
            yield below | {tree["split_feature"]}


def base_columns_of_paths(model):
    n_blocks = len(model.lag_blocks_)
    for text in model.model_text_:
        for tree in lgb.Booster(model_str=text).dump_model()["tree_info"]:
            for path in paths(tree["tree_structure"]):
                yield frozenset(column // n_blocks for column in path)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize("groups", [[["x0", "x1"], ["x2"]], [[0, 1], [1, 2]], [[3, "x0"]]])
def test_no_path_mixes_columns_that_may_not_meet(n_classes, groups):
    X, y = columns_and_labels(n_classes=n_classes)
    positions = [{int(str(one).removeprefix("x")) for one in group} for group in groups]
    allowed = [*positions, *({f} for f in range(4))]
    found = set(base_columns_of_paths(constrained({"interaction_constraints": groups}).fit(X, y)))
    assert all(any(path <= group for group in allowed) for path in found)
    assert any(len(path) == 2 for path in found)
    assert frozenset.union(*found) == {0, 1, 2, 3}  # those in no list are not lost
    free = set(base_columns_of_paths(constrained({}).fit(X, y)))
    assert not all(any(path <= group for group in allowed) for path in free)


def test_constant_columns_do_not_shift_the_groups():
    X, y = columns_and_labels()
    X[:, 0] = 1.0  # LightGBM drops it, and numbers the others anew
    found = set(base_columns_of_paths(constrained({"interaction_constraints": [[1, 2]]}).fit(X, y)))
    assert all(len(path) < 2 or path == {1, 2} for path in found)
    monotone = constrained({"monotone_constraints": [0, 0, -1, 0]}).fit(X, y)
    assert steps(monotone, X, 2, -1).min() > -1e-9


def test_lags_of_one_column_may_always_meet():
    expanded = expand_constraints({"interaction_constraints": [["b", 0]], "lambda_l2": 3}, list("abc"), 2)
    assert expanded == {"interaction_constraints": [[0, 1, 2, 3], [4, 5]], "lambda_l2": 3}
    X, y = columns_and_labels()
    model = constrained({"interaction_constraints": [[0], [1], [2], [3]]}).fit(X, y)
    n_blocks = len(model.lag_blocks_)
    widest = max(
        len(path)
        for tree in lgb.Booster(model_str=model.model_text_[0]).dump_model()["tree_info"]
        for path in paths(tree["tree_structure"])
    )
    assert widest > 1
    assert n_blocks > 1


# ---------------------------------------------------------------------- refusals


@pytest.mark.parametrize("given", [[1, 0], [1, 0, 0, 2], "1,0,0,0", {"a": 0.5}, [[1, 0, 0, 0]], 1])
def test_directions_out_of_their_domain(given):
    with pytest.raises(EnsembleKitError) as caught:
        expand_constraints({"monotone_constraints": given}, list("abcd"), 2)
    assert str(caught.value).startswith(
        "`monotone_constraints` must be -1, 0 or 1 for each of the 4 columns of X, or a dict of name to one of these; "
        "got "
    )
    assert str(caught.value).endswith(". All lags of a column share its direction.")


@pytest.mark.parametrize("given", ["ab", ["ab"], [0, 1], [[0.5]], [[True]], 3, [None]])
def test_groups_out_of_their_domain(given):
    with pytest.raises(EnsembleKitError) as caught:
        expand_constraints({"interaction_constraints": given}, list("abcd"), 2)
    assert str(caught.value) == (
        f"`interaction_constraints` must be lists of columns of X, by name or position; got {given!r}. "
        'Write [["close", "volume"], ["high"]].'
    )


def test_unknown_columns_are_named():
    names = [f"column{f}" for f in range(12)]
    shown = ", ".join(repr(name) for name in names[:10]) + ", ..."
    with pytest.raises(EnsembleKitError) as caught:
        expand_constraints({"monotone_constraints": {"column3": 1, "rsi": 1, "adx": 0}}, names, 2)
    assert str(caught.value) == (
        f"`monotone_constraints` must name columns of X; got ['rsi', 'adx'] besides. They are {shown}; "
        "those left out are not constrained."
    )
    with pytest.raises(EnsembleKitError) as caught:
        expand_constraints({"interaction_constraints": [["column3", 12], ["rsi", 0, -1]]}, names, 2)
    assert str(caught.value) == (
        f"`interaction_constraints` must name columns of X; got [12, 'rsi', -1] besides. They are {shown}, or 0 to 11."
    )
    X, y = columns_and_labels(60)
    with pytest.raises(
        EnsembleKitError, match=r"`monotone_constraints` must name columns of X; got \['close'\] besides"
    ):
        constrained({"monotone_constraints": {"close": 1}}).fit(X, y)


def test_parameters_under_all_their_names_are_refused():
    taken = [
        "objective", "num_class", "sigmoid", "metric", "num_iterations", "num_leaves", "learning_rate",
        "min_data_in_leaf", "num_threads", "seed", "early_stopping_round", "verbosity", "boosting", "linear_tree",
        "categorical_feature", "input_model", "output_model", "predict_raw_score", "predict_leaf_index",
        "predict_contrib", "predict_disable_shape_check", "pred_early_stop", "start_iteration_predict",
        "num_iteration_predict", "first_metric_only",
    ]  # fmt: skip
    names = set(itertools.chain.from_iterable(_ConfigAliases.get(name) for name in taken))
    names |= set(_ConfigAliases.get("monotone_constraints")) - {"monotone_constraints"}
    assert [name for name in sorted(names) if LIGHTGBM_PARAMS[1]({name: 1})] == []
    for allowed in ("lambda_l2", "feature_fraction", "max_bin", "monotone_constraints_method", "extra_trees"):
        assert LIGHTGBM_PARAMS[1]({allowed: 1})
    X, y = columns_and_labels(60)
    with pytest.raises(EnsembleKitError) as caught:
        constrained({"linear_tree": True}).fit(X, y)
    assert str(caught.value) == (
        "`params` must be None or a dict of LightGBM's parameters without those that are the estimator's own, "
        "`objective`, `metric`, `boosting`, `linear_tree`, `categorical_feature`, other names of "
        "`monotone_constraints`, and those of model files and of prediction; got {'linear_tree': True}. "
        "Mend with `set_params`."
    )


def test_what_makes_wide_data_cheap_is_a_default_only():
    X, y = columns_and_labels()
    model = constrained({"force_row_wise": True, "subsample_for_bin": 50}).fit(X, y)
    params = model._lightgbm_params(2)
    assert "force_col_wise" not in params
    assert "bin_construct_sample_cnt" not in params
    by_column = constrained({"subsample_for_bin": 50}).fit(X, y)
    np.testing.assert_array_equal(by_column.predict_proba(X), model.predict_proba(X))
    assert not np.array_equal(constrained({}).fit(X, y).predict_proba(X), model.predict_proba(X))
