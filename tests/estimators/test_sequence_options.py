"""Optimizers, schedules, losses, warm starts and quantities."""

from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from families import small
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone

from ensemble_kit.estimators.costs import PEAK_SLOPE_BOTTOM, cost_table
from ensemble_kit.estimators.networks.cnn import CNNTrunk
from ensemble_kit.estimators.networks.losses import CrossEntropy, ExpectedCost, Focal, Huber, LabelMargin, SquaredError
from ensemble_kit.estimators.sequence_regressor import SequenceRegressor
from ensemble_kit.exceptions import EnsembleKitError

N = 240


@pytest.fixture(name="X")
def columns():
    return np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)


@pytest.fixture
def y(X):
    return np.array(["bottom", "slope", "peak"])[np.digitize(X[:, 0], [-1.0, 1.0])]


def tiny(**parameters):
    return small("cnn", 3, **({"max_epochs": 4, "learning_rate": 0.01} | parameters))


# ------------------------------------------------------------------ optimizer and schedule


@pytest.mark.parametrize(
    ("optimizer", "made"),
    [
        ("adamw", torch.optim.AdamW),
        ("adam", torch.optim.Adam),
        ("sgd", torch.optim.SGD),
        ("rmsprop", torch.optim.RMSprop),
        (torch.optim.NAdam, torch.optim.NAdam),
    ],
)
def test_optimizers(X, y, optimizer, made):
    model = tiny(optimizer=optimizer, weight_decay=0.25, max_epochs=8).fit(X, y)
    assert type(model.net_.optimizer_) is made
    assert model.net_.optimizer_.param_groups[0]["weight_decay"] == 0.25
    assert model.history_["train_loss"].iloc[-1] < model.history_["train_loss"].iloc[0]


def test_an_unknown_optimizer_is_refused(X, y):
    with pytest.raises(EnsembleKitError, match=r"`optimizer` must be one of 'adamw', .* got 'lion'\."):
        tiny(optimizer="lion").fit(X, y)


def test_cosine_falls_to_zero(X, y):
    rates = tiny(schedule="cosine", validation_fraction=0).fit(X, y).history_["learning_rate"]
    assert_allclose(rates, 0.01 * (1 + np.cos(np.pi * np.arange(1, 5) / 4)) / 2, atol=1e-9)


def test_plateau_halves_where_nothing_gets_better(X):
    y = np.random.default_rng(5).integers(0, 2, N)
    history = tiny(schedule="plateau", max_epochs=30, patience=30, learning_rate=0.05).fit(X, y).history_
    rates = history["learning_rate"].to_numpy()
    falls = np.flatnonzero(np.diff(rates)) + 1
    assert len(falls) > 2
    assert_allclose(rates[falls] / rates[falls - 1], 0.5)
    first = int(np.argmin(history["valid_loss"].to_numpy()[: falls[0] + 1]))
    assert falls[0] >= first + 2
    assert_array_equal(tiny(schedule=None).fit(X, y).history_["learning_rate"], 0.01)


# -------------------------------------------------------------------------- warm start


def test_warm_start_goes_on(X, y):
    model = tiny(validation_fraction=0).fit(X, y)
    before = model.history_["train_loss"].iloc[-1]
    model.set_params(warm_start=True, random_state=1).fit(X, y)
    assert model.history_["train_loss"].iloc[0] < before + 1e-3
    cold = clone(model).set_params(warm_start=False).fit(X, y)
    assert cold.history_["train_loss"].iloc[0] > before
    # From a stored model as from the one in memory.
    one, other = (pickle.loads(pickle.dumps(model)) for _ in range(2))
    assert_array_equal(one.fit(X, y).predict_proba(X), other.fit(X, y).predict_proba(X))


def test_warm_start_needs_the_same_question(X, y):
    model = tiny(warm_start=True).fit(X, y)
    with pytest.raises(EnsembleKitError, match="must hold only the classes"):
        model.fit(X, np.where(y == "peak", "top", y))
    with pytest.raises(EnsembleKitError, match="`y` must have the 1 horizon"):
        model.fit(X, np.column_stack([y, y]))
    with pytest.raises(ValueError, match="2 features"):
        model.fit(X[:, :2], y)
    labels = model.fit(X[:100], np.where(y == "peak", "slope", y)[:100]).classes_
    assert labels.tolist() == ["bottom", "peak", "slope"]  # a class that is absent now stays


# ------------------------------------------------------------------------------ losses


LOGITS = torch.tensor([[[2.0, 0.5, -1.0]], [[0.0, 0.0, 3.0]]])  # (2, 1, 3)
TRUTH = torch.tensor([[0], [1]])


def test_losses_by_hand():
    p = LOGITS.softmax(-1).numpy()[:, 0]
    right = p[[0, 1], [0, 1]]
    assert_allclose(CrossEntropy()._each(LOGITS, TRUTH)[:, 0], -np.log(right), rtol=1e-5)
    assert_allclose(Focal(1.5)._each(LOGITS, TRUTH)[:, 0], -((1 - right) ** 1.5) * np.log(right), rtol=1e-5)
    assert_allclose(Focal(0.0)._each(LOGITS, TRUTH), CrossEntropy()._each(LOGITS, TRUTH), rtol=1e-5)
    costs = np.array([[0, 1, 10], [6, 0, 6], [10, 1, 0.0]])
    loss = ExpectedCost(torch.tensor(costs, dtype=torch.float32))._each(LOGITS, TRUTH)[:, 0]
    assert_allclose(loss, [(p[0] * costs[:, 0]).sum() / 10, (p[1] * costs[:, 1]).sum() / 10], rtol=1e-5)
    weighted = CrossEntropy()(LOGITS, (TRUTH, torch.tensor([[2.0], [0.0]])))
    assert_allclose(weighted, -np.log(right[0]), rtol=1e-5)
    assert_allclose(SquaredError()._each(LOGITS[..., :1], torch.tensor([[1.0], [2.0]])), [[1.0], [4.0]])
    assert_allclose(Huber()._each(LOGITS[..., :1], torch.tensor([[1.5], [3.0]])), [[0.125], [2.5]])


def test_label_margins_favour_the_rare():
    loss = LabelMargin(torch.tensor([[10_000.0, 16.0, 625.0]]), max_margin=2.0, beta=0.999, defer=0.5)
    assert_allclose(loss.margins, [[0.4, 2.0, 0.8]], rtol=1e-5)
    hit = np.array([0.4, 2.0])
    shifted = LOGITS.numpy()[:, 0].copy()
    shifted[[0, 1], [0, 1]] -= hit
    expected = np.log(np.exp(shifted).sum(1)) - shifted[[0, 1], [0, 1]]
    assert_allclose(loss._each(LOGITS, TRUTH)[:, 0], expected, rtol=1e-5)
    loss.begin_epoch(0.5)
    late = loss._each(LOGITS, TRUTH)[:, 0].numpy() / expected
    assert_allclose(late[1] / late[0], (1 - 0.999**10_000) / (1 - 0.999**16), rtol=1e-3)
    assert_allclose((loss.class_weights * torch.tensor([[10_000.0, 16.0, 625.0]])).sum() / 10_641, 1, rtol=1e-5)
    # What says when to stop stays the same question.
    assert_allclose(loss.eval()._each(LOGITS, TRUTH), CrossEntropy()._each(LOGITS, TRUTH))
    absent = LabelMargin(torch.tensor([[50.0, 0.0, 5.0]]))
    assert torch.isfinite(absent.margins).all()
    assert absent.margins[0, 1] == absent.class_weights[0, 1] == 0


@pytest.mark.parametrize("loss", ["focal", "ldam", "expected_cost"])
def test_models_learn_by_every_loss(X, y, loss):
    model = tiny(loss=loss, max_epochs=30, validation_fraction=0).fit(X, y)
    rare = y != "slope"
    assert (model.predict(X)[rare] == y[rare]).mean() > 0.6
    assert_allclose(model.predict_proba(X).sum(axis=1), 1)
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict_proba(X), model.predict_proba(X))


def test_costs_by_label(X, y):
    labels = np.array(["bottom", "peak", "slope"])
    expected = [[0, 5000, 500], [5000, 0, 500], [3000, 3000, 0]]
    for costs in (None, PEAK_SLOPE_BOTTOM, pd.DataFrame(PEAK_SLOPE_BOTTOM).T, expected):
        assert_array_equal(cost_table(costs, labels), expected)
    with pytest.raises(EnsembleKitError, match=r"lacks \['buy'\]\. Give the costs by these labels\."):
        cost_table(None, np.array(["buy", "peak"]))
    with pytest.raises(EnsembleKitError, match=r"shape \(3, 3\) .* got \(2, 2\)"):
        cost_table(np.eye(2), labels)
    with pytest.raises(EnsembleKitError, match="finite costs of at least 0"):
        cost_table(-np.eye(3), labels)
    with pytest.raises(EnsembleKitError, match="lacks"):
        tiny(loss="expected_cost").fit(X, np.where(y == "peak", "top", y))


def test_wrong_loss_parameters_are_named(X, y):
    with pytest.raises(EnsembleKitError, match=r"`loss_params` must be parameters of loss='focal'; got {'margin': 1}"):
        tiny(loss="focal", loss_params={"margin": 1}).fit(X, y)


# -------------------------------------------------------------------------- quantities


class TinyRegressor(SequenceRegressor):
    def _build_trunk(self, n_features):
        return CNNTrunk(n_features, n_filters=16, kernel_sizes=(1, 2))


def regressor(**parameters):
    quick = {"max_epochs": 60, "learning_rate": 0.02, "batch_size": 32, "random_state": 0, "validation_fraction": 0}
    return TinyRegressor(3, **(quick | parameters))


@pytest.fixture
def quantity(X):
    return 1000 + 50 * X[:, 0] - 20 * np.r_[0, X[:-1, 1]]


@pytest.mark.parametrize("loss", ["squared_error", "huber"])
def test_quantities_in_their_own_units(X, quantity, loss):
    model = regressor(loss=loss).fit(X, quantity)
    assert model.score(X, quantity) > 0.8
    assert model.predict(X).shape == (N,)
    assert_allclose([model.target_mean_, model.target_scale_], [[quantity.mean()], [quantity.std()]])
    far = regressor(loss=loss).fit(X, 1e6 * quantity)
    assert_allclose(far.predict(X), 1e6 * model.predict(X), rtol=1e-5)


def test_several_quantities_weigh_alike(X, quantity):
    both = np.column_stack([quantity, 1e-4 * X[:, 2], np.full(N, 7.0)])
    model = regressor().fit(X, both)
    assert model.predict(X).shape == (N, 3)
    assert ((model.predict(X) - both)[:, :2].var(axis=0) < 0.3 * both[:, :2].var(axis=0)).all()
    assert_allclose(model.predict(X)[:, 2], 7, atol=0.5)  # a constant is answered by itself
    again = pickle.loads(pickle.dumps(model))
    assert_array_equal(again.predict(X), model.predict(X))


def test_the_scale_is_that_of_the_fit_rows(X, quantity):
    weight = np.ones(N)
    weight[:20] = 0
    other = quantity.copy()
    other[:20], other[218:] = np.nan, 1e9
    model = regressor(validation_fraction=0.1, max_epochs=1).fit(X, other, weight)
    assert_allclose(model.target_mean_, quantity[20:218].mean())


def test_bad_quantities_are_refused(X, quantity):
    quantity[7] = np.nan
    with pytest.raises(EnsembleKitError, match=r"`y` must be finite .* row 7 "):
        regressor().fit(X, quantity)
    with pytest.raises(EnsembleKitError, match="`y` must hold numbers; got <U2"):
        regressor().fit(X, np.where(X[:, 0] > 0, "up", "dn"))


# ------------------------------------------------------------------------- dense bars


def test_every_bar_of_a_window_teaches_by_its_own_label(X, y, monkeypatch):
    seen = []
    each = CrossEntropy._each

    def record(self, outputs, truth):
        seen.append((outputs.shape, truth))
        return each(self, outputs, truth)

    monkeypatch.setattr(CrossEntropy, "_each", record)
    model = small("causal_transformer", 4, max_epochs=1, validation_fraction=0.25, validation_purge=6)
    weight = np.ones(N)
    weight[30:40] = 0
    model.fit(X, y, weight)
    shape, truth = seen[0]
    assert shape == (32, 4, 1, 3)
    assert truth.shape == (32, 4, 1)
    assert seen[-1][0] == (*seen[-1][1].shape, 3)
    assert seen[-1][1].ndim == 2  # stop rows are judged as they are predicted
    # Labels of history, purged and stop rows teach nothing through the windows either.
    other = y.copy()
    other[30:40], other[176:182] = "peak", "bottom"
    expected = model.predict_proba(X)
    assert_array_equal(clone(model).fit(X, other, weight).predict_proba(X), expected)
    other[100] = "peak" if y[100] != "peak" else "bottom"
    assert np.abs(clone(model).fit(X, other, weight).predict_proba(X) - expected).max() > 1e-6


# --------------------------------------------------------------------------- odd classes


def test_a_class_of_one_row(X, y):
    y[100] = "crash"
    model = tiny(class_weight="balanced").fit(X, y)
    assert model.classes_.tolist() == ["bottom", "crash", "peak", "slope"]
    assert np.isfinite(model.predict_log_proba(X)).all()
    y[100], y[-1] = "slope", "crash"  # on a stop row: it is known, and never learned
    model = tiny(class_weight="balanced", loss="ldam").fit(X, y)
    assert model.class_mass_[0, 1] == 0
    assert np.isfinite(model.predict_log_proba(X)).all()


def test_progress_bar(X, y, capsys):
    tiny(verbose=2, max_epochs=2).fit(X, y)
    shown = capsys.readouterr()
    assert "0/8" in shown.err  # batches of an epoch
    tiny(max_epochs=2).fit(X, y)
    assert capsys.readouterr() == ("", "")
