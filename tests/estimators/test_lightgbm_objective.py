import lightgbm as lgb
import numpy as np
import pytest
from scipy.special import logsumexp, softmax
from sklearn.base import clone

from ensemble_kit.estimators._boosting import ExpectedCost
from ensemble_kit.estimators.costs import PEAK_SLOPE_BOTTOM
from ensemble_kit.estimators.lightgbm_window import LGBMWindowClassifier
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import LOG_FLOOR

COSTS = {2: np.array([[0, 1.0], [4, 0]]), 3: np.array([[0, 500.0, 5000], [3000, 0, 3000], [5000, 500, 0]])}


def by_cost(costs=None, seq_len=3, **options):
    options = {"n_estimators": 30, "num_leaves": 5, "min_child_samples": 5, "random_state": 0} | options
    return LGBMWindowClassifier(seq_len, loss="expected_cost", cost_matrix=costs, **options)


def rare_turns(n=900, n_classes=3, seed=0, noise=0.8):
    """Return columns, and classes of which the first and the last are rare; knowable in part from lag 1."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(n, 3)).astype(np.float32)
    hint = np.r_[0, X[:-1, 0]] + noise * rng.normal(size=n)
    if n_classes == 2:
        return X, (hint > 1).astype(int)
    return X, np.digitize(hint, [-1.7, 1.7])


def mean_cost(proba, y, costs, weights=None):
    return np.average((proba * costs.T[y]).sum(axis=1), weights=weights)


# --------------------------------------------------------------------- gradients


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_gradients_equal_finite_differences(n_classes):
    rng = np.random.default_rng(n_classes)
    costs = rng.uniform(0, 7, size=(n_classes, n_classes))
    scores = rng.normal(0, 3, size=(60, n_classes))
    codes = rng.integers(n_classes, size=60)
    loss = ExpectedCost(costs, np.ones(n_classes))
    gradient, _ = loss.gradients(scores, codes)
    h = 1e-5
    for k in range(n_classes):
        step = h * np.eye(n_classes)[k]
        slope = (loss.cost(scores + step, codes) - loss.cost(scores - step, codes)) / (2 * h)
        np.testing.assert_allclose(gradient[:, k], slope, atol=1e-9)
    np.testing.assert_allclose(loss.cost(scores, codes), (softmax(scores, 1) * costs.T[codes]).sum(1) / costs.max())


@pytest.mark.parametrize("n_classes", [2, 3, 5])
def test_the_curvature_bounds_the_hessian_and_the_step(n_classes):
    rng = np.random.default_rng(n_classes)
    loss = ExpectedCost(rng.uniform(0, 7, size=(n_classes, n_classes)), np.ones(n_classes))
    scores = rng.normal(0, 4, size=(200, n_classes))
    codes = rng.integers(n_classes, size=200)
    gradient, curvature = loss.gradients(scores, codes)
    assert (curvature > 0).all()
    assert (np.abs(gradient) <= curvature / 2 * (1 + 1e-9)).all()
    h = 1e-5
    hessian = np.stack(
        [
            (loss.gradients(scores + step, codes)[0] - loss.gradients(scores - step, codes)[0]) / (2 * h)
            for step in h * np.eye(n_classes)
        ],
        axis=2,
    )
    slack = np.linalg.eigvalsh(curvature[:, :, None] * np.eye(n_classes) - (hessian + hessian.swapaxes(1, 2)) / 2)
    assert slack.min() > -1e-9


@pytest.mark.parametrize("n_classes", [2, 3])
def test_training_lowers_the_cost_round_by_round(n_classes):
    X, y = rare_turns(n_classes=n_classes)
    costs = COSTS[n_classes]
    path = [
        mean_cost(by_cost(costs, n_estimators=rounds, learning_rate=0.3).fit(X, y).predict_proba(X), y, costs)
        for rounds in (1, 2, 3, 5, 10, 20, 40, 80)
    ]
    assert (np.diff(path) < 0).all()
    constant = min(np.bincount(y) @ costs.T) / len(y)  # the cheapest answer to everything
    assert path[-1] < 0.8 * constant


@pytest.mark.parametrize("n_classes", [2, 3])
def test_its_decisions_are_cheaper_than_the_most_probable_ones(n_classes):
    X, y = rare_turns(6000, n_classes)
    costs = COSTS[n_classes]
    cheap = by_cost(costs, n_estimators=100, learning_rate=0.1).fit(X[:3000], y[:3000])
    plain = clone(cheap).set_params(loss="cross_entropy").fit(X[:3000], y[:3000])
    paid = [costs[model.predict(X[3000:]), y[3000:]].mean() for model in (cheap, plain)]
    assert paid[0] < 0.9 * paid[1]


# --------------------------------------------------------- what the objective is


def by_hand(model, X, y, weights, costs):
    """Train one horizon on the flattened matrix with an objective written out for its own sake."""
    n_classes = len(costs)
    flat = np.hstack([np.vstack([np.full((lag, X.shape[1]), np.nan), X[: len(X) - lag]]) for lag in range(3)])
    flat = flat.reshape(len(X), 3, X.shape[1]).swapaxes(1, 2).reshape(len(X), -1)
    costs = costs / costs.max()
    spread = np.ptp(costs, axis=0)[y]

    def objective(scores, _):
        p = softmax(scores, axis=1)
        paid = costs[:, y].T
        gradient = p * (paid - (p * paid).sum(1, keepdims=True))
        return weights[:, None] * gradient, weights[:, None] * 2 * spread[:, None] * p * (1 - p)

    params = model._lightgbm_params(n_classes) | {"objective": objective}
    data = lgb.Dataset(flat, y, params={"verbosity": -1})
    booster = lgb.train(params, data, num_boost_round=model.n_estimators)
    scores = booster.predict(flat, raw_score=True)
    return scores - logsumexp(scores, axis=1, keepdims=True)


@pytest.mark.parametrize("class_weight", [None, {0: 3.0}, "balanced"])
def test_equals_lightgbm_with_an_objective_written_out(class_weight):
    X, y = rare_turns(400)
    row_weights = np.random.default_rng(3).uniform(0.5, 2, size=400)
    model = by_cost(COSTS[3], lags="all", class_weight=class_weight).fit(X, y, row_weights)
    mass = np.bincount(y, row_weights)
    table = {None: np.ones(3), "balanced": mass.sum() / (3 * mass)}
    of_class = table.get(class_weight if not isinstance(class_weight, dict) else "", np.array([3.0, 1, 1]))
    expected = by_hand(model, X, y, row_weights * of_class[y], COSTS[3])
    np.testing.assert_allclose(model.predict_log_proba(X), expected, atol=1e-4)


def test_only_proportions_of_costs_matter():
    X, y = rare_turns(300)
    once, again = (by_cost(COSTS[3] * factor).fit(X, y) for factor in (1, 8))
    assert once.model_text_ == again.model_text_
    again = by_cost(COSTS[3] * 1000).fit(X, y)
    np.testing.assert_allclose(again.predict_proba(X), once.predict_proba(X), atol=1e-5)


def test_costs_by_label_and_by_default():
    X, y = rare_turns(300)
    labels = np.array(["bottom", "slope", "peak"])[y]  # sorted: bottom, peak, slope
    default = by_cost().fit(X, labels)
    named = by_cost(PEAK_SLOPE_BOTTOM).fit(X, labels)
    table = np.array([[PEAK_SLOPE_BOTTOM[said][true] for true in default.classes_] for said in default.classes_])
    assert default.model_text_ == named.model_text_ == by_cost(table).fit(X, labels).model_text_
    with pytest.raises(EnsembleKitError, match=r"`cost_matrix` must have shape \(3, 3\) for the labels"):
        by_cost(np.ones((2, 2))).fit(X, labels)
    with pytest.raises(EnsembleKitError, match="`cost_matrix` must have a row and a column for each of the labels"):
        by_cost().fit(X, y)
    # Costs are no matter of the cross-entropy.
    LGBMWindowClassifier(3, n_estimators=2, cost_matrix=np.ones((2, 2))).fit(X, y)


def test_symmetric_costs_of_two_classes_are_one_score():
    X, y = rare_turns(400, 2)
    model = by_cost(1 - np.eye(2)).fit(X, y)
    assert model.init_score_.shape == (1, 2)
    np.testing.assert_array_equal(model.init_score_, np.zeros((1, 2)))
    assert lgb.Booster(model_str=model.model_text_[0]).num_model_per_iteration() == 1
    np.testing.assert_allclose(model.predict_proba(X).sum(axis=1), 1)


def test_rows_of_weight_0_teach_no_cost():
    X, y = rare_turns(300)
    weights = np.ones(300)
    weights[100:160] = 0
    model = by_cost(COSTS[3]).fit(X, y, weights)
    other = np.where(weights > 0, y, (y + 1) % 3)
    again = by_cost(COSTS[3]).fit(X, other, weights)
    assert again.model_text_ == model.model_text_
    np.testing.assert_array_equal(again.init_score_, model.init_score_)


def test_rare_classes_are_said_within_the_default_rounds():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(8000, 3)).astype(np.float32)
    y = np.digitize(np.r_[0, X[:-1, 0]] + 0.6 * rng.normal(size=8000), [-2.6, 2.6])  # 1 % of the rows each
    model = LGBMWindowClassifier(3, loss="expected_cost", cost_matrix=COSTS[3], random_state=0).fit(X[:4000], y[:4000])
    paid = COSTS[3][model.predict(X[4000:]), y[4000:]].mean()
    constant = (np.bincount(y[4000:]) @ COSTS[3].T / 4000).min()
    assert paid < 0.85 * constant


# ---------------------------------------------------------------- early stopping


@pytest.mark.parametrize("n_classes", [2, 3])
def test_stops_where_the_newest_block_is_cheapest(n_classes):
    X, y = rare_turns(500, n_classes, noise=2.5)
    costs = COSTS[n_classes]
    weights = np.random.default_rng(0).uniform(0.2, 3, size=500)
    options = {"learning_rate": 0.5, "num_leaves": 15, "class_weight": {1: 2.0}}
    model = by_cost(costs, n_estimators=400, validation_fraction=0.3, patience=8, **options).fit(X, y, weights)
    rounds = model.n_iter_[0]
    assert 1 <= rounds < 390
    fit, stop = model.row_usage_["fit"], model.row_usage_["stop"]
    counted = weights * np.where(y == 1, 2.0, 1.0)
    alone = np.where(np.isin(np.arange(500), fit), weights, 0)
    path = []
    for n in range(1, rounds + 9):
        other = by_cost(costs, n_estimators=n, **options).fit(X, y, alone)
        path.append(mean_cost(other.predict_proba(X)[stop], y[stop], costs, counted[stop]))
    assert np.argmin(path) + 1 == rounds
    kept = by_cost(costs, n_estimators=rounds, **options).fit(X, y, alone)
    np.testing.assert_array_equal(kept.predict_proba(X), model.predict_proba(X))


# --------------------------------------------------------------- absent classes


@pytest.mark.parametrize("loss", ["cross_entropy", "expected_cost"])
@pytest.mark.parametrize("class_weight", [None, "balanced"])
def test_a_class_that_only_stop_rows_have(loss, class_weight):
    X, y = rare_turns(400)
    y[:320] = np.minimum(y[:320], 1)
    y[350] = 2
    model = by_cost(COSTS[3], class_weight=class_weight, validation_fraction=0.2).set_params(loss=loss).fit(X, y)
    assert 2 not in y[model.row_usage_["fit"]]
    assert model.classes_.tolist() == [0, 1, 2]
    log_proba = model.predict_log_proba(X)
    assert np.isfinite(log_proba).all()
    assert log_proba[:, 2].max() < np.log(1e-3)


@pytest.mark.parametrize("loss", ["cross_entropy", "expected_cost"])
def test_horizons_that_lack_classes(loss):
    X, y = rare_turns(400)
    Y = np.column_stack([y, np.minimum(y, 1), np.ones_like(y)])
    model = by_cost(COSTS[3]).set_params(loss=loss).fit(X, Y)
    answers = model.predict_log_proba(X)
    assert all(np.isfinite(a).all() for a in answers)
    assert answers[1][:, 2].max() < np.log(1e-3)
    assert answers[2][:, [0, 2]].max() < np.log(1e-3)
    for h in range(3):  # each horizon is what it is alone, whatever stood before it
        back = by_cost(COSTS[3]).set_params(loss=loss).fit(X, Y[:, [(h + 1) % 3, h, (h + 2) % 3]])
        np.testing.assert_array_equal(back.predict_log_proba(X)[1], answers[h])
    if loss == "expected_cost":
        np.testing.assert_array_equal(model.init_score_, [[0, 0, 0], [0, 0, LOG_FLOOR], [LOG_FLOOR, 0, LOG_FLOOR]])


def test_a_class_that_no_fit_row_has_is_never_learned_however_cheap():
    X, y = rare_turns(300)
    costs = np.array([[0, 1.0, 1], [1, 0, 1], [0, 0, 0]])
    model = by_cost(costs).fit(X, np.column_stack([y, np.minimum(y, 1)]))
    assert model.predict_proba(X)[0][:, 2].min() > 0.4
    assert model.predict_proba(X)[1][:, 2].max() < 1e-4


def test_two_classes_of_which_a_horizon_has_one():
    X, y = rare_turns(300, 2)
    model = by_cost(COSTS[2]).fit(X, np.column_stack([y, 0 * y, 0 * y + 1]))
    answers = model.predict_log_proba(X)
    assert all(np.isfinite(a).all() for a in answers)
    assert answers[1][:, 1].max() < np.log(1e-3)
    assert answers[2][:, 0].max() < np.log(1e-3)


@pytest.mark.parametrize("loss", ["cross_entropy", "expected_cost"])
def test_class_weights_that_leave_nothing_to_stop_by(loss):
    X, y = rare_turns(400)
    y[300:] = 1
    model = by_cost(COSTS[3], class_weight={1: 0.0}, validation_fraction=0.2, patience=2).set_params(loss=loss)
    assert np.isfinite(model.fit(X, y).predict_log_proba(X)).all()
    model.set_params(class_weight=dict.fromkeys(range(3), 0.0))
    if loss == "expected_cost":
        np.testing.assert_allclose(model.fit(X, y).predict_proba(X), 1 / 3)
