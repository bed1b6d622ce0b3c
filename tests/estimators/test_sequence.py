"""What every sequence model promises, shown on the smallest network there is."""

from __future__ import annotations

import copy
import inspect
import logging
import pickle
import time
from concurrent.futures import ThreadPoolExecutor

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from skops import io as skops_io
from skorch.callbacks import Callback
from torch import nn

from ensemble_kit.estimators._rows import class_weights, newest_block
from ensemble_kit.estimators.networks.dropout import Dropout
from ensemble_kit.estimators.sequence import SequenceEstimator
from ensemble_kit.estimators.sequence_classifier import SequenceClassifier
from ensemble_kit.estimators.windows import Windows
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.targets import Targets

N, F = 240, 3


class TinyTrunk(nn.Module):
    def __init__(self, n_inputs, width):
        super().__init__()
        self.n_outputs = width
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(n_inputs, width), nn.Tanh())

    def forward(self, x):
        return self.body(x)


class Tiny(SequenceClassifier):
    """A whole family: its own parameters and its network."""

    def __init__(self, seq_len=4, *, width=8, learning_rate=0.01, **shared):
        super().__init__(seq_len, learning_rate=learning_rate, **shared)
        self.width = width

    def _build_trunk(self, n_features):
        return TinyTrunk(self.seq_len * n_features, self.width)


def tiny(**parameters):
    return Tiny(**({"max_epochs": 3, "batch_size": 32, "random_state": 0} | parameters))


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(name="X")
def columns(rng):
    return rng.normal(size=(N, F)).astype(np.float32)


@pytest.fixture
def y(X):
    return np.digitize(X[:, 0], [-0.4, 0.4])


@pytest.fixture
def panel(X, y):
    """Two instruments whose rows take turns in time."""
    index = pd.MultiIndex.from_product(
        [pd.date_range("2024-01-01", periods=N // 2, freq="h"), ["A", "B"]], names=["datetime", "instrument"]
    )
    return pd.DataFrame(X, index=index, columns=list("abc")), pd.Series(y, index=index)


# ------------------------------------------------------------------------- windows


def test_answer_is_the_network_on_materialised_windows(X, y):
    model = tiny().fit(X, y)
    padded = np.vstack([np.zeros((3, F), np.float32), X])
    by_hand = np.stack([padded[t : t + 4] for t in range(N)])
    with torch.inference_mode():
        logits = model.net_.module_.eval()(torch.from_numpy(by_hand)).double()[:, 0]
    assert_allclose(model.predict_log_proba(X), logits.log_softmax(-1).numpy(), atol=1e-6)
    assert_allclose(model.predict_proba(X).sum(axis=1), 1, atol=1e-12)
    assert_array_equal(model.predict(X), model.predict_proba(X).argmax(axis=1))
    assert model.lookback == 3


def test_panel_is_instruments_one_by_one(panel):
    X, y = panel
    model = tiny().fit(X, y)
    together = pd.DataFrame(model.predict_proba(X), index=X.index)
    for instrument in ("A", "B"):
        alone = X.xs(instrument, level=1, drop_level=False)
        assert_allclose(together.loc[alone.index], model.predict_proba(alone), atol=1e-6)
    assert np.abs(together - tiny().fit(X.to_numpy(), y.to_numpy()).predict_proba(X.to_numpy())).max().max() > 1e-3


def test_panel_without_its_index_is_refused(panel):
    X, y = panel
    with pytest.raises(EnsembleKitError, match="set_output"):
        tiny().fit(X.to_numpy(), y)
    model = tiny().fit(X, y)
    with pytest.raises(EnsembleKitError, match="set_output"):
        model.predict(X.to_numpy())


def test_batch_size_does_not_matter_in_prediction(X, y):
    model = tiny().fit(X, y)
    many = model.predict_log_proba(X)
    for batch_size in (7, N - 1, 10 * N):
        assert_allclose(model.set_params(batch_size=batch_size).predict_log_proba(X), many, atol=1e-6)


def test_no_more_than_one_batch_of_windows_exists(X, y, monkeypatch):
    taken = []
    take = Windows.take
    monkeypatch.setattr(Windows, "take", lambda self, rows: taken.append(rows) or take(self, rows))
    model = tiny(max_epochs=2).fit(X, y)
    first, last = (np.concatenate(taken[at : at + 8]) for at in (0, len(taken) // 2))
    for epoch in (first, last):  # 216 rows in 7 batches, the 24 newest in one
        assert_array_equal(np.sort(epoch), np.arange(N))
        assert_array_equal(epoch[216:], np.arange(216, N))
    assert (first[:216] != last[:216]).mean() > 0.9  # shuffled anew
    model.predict(X)
    assert max(map(len, taken)) == 32


def test_window_longer_than_the_series(X, y):
    model = tiny(seq_len=500).fit(X[:30], y[:30])
    assert model.predict(X[:5]).shape == (5,)


def test_missing_is_zero_and_far_out_is_clipped(X, y):
    model = tiny().fit(X, y)
    odd, plain = X.copy(), X.copy()
    odd[[3, 50, 80], 1] = np.nan, 1e12, -1e12
    plain[[3, 50, 80], 1] = 0, 10, -10
    before = odd.copy()
    assert_array_equal(model.predict_proba(odd), model.predict_proba(plain))
    assert_array_equal(odd, before)
    far = np.abs(model.set_params(clip=None).predict_proba(odd) - model.predict_proba(plain))
    assert set(np.flatnonzero(far.max(axis=1) > 1e-6)) <= {*range(50, 54), *range(80, 84)} != set()


@pytest.mark.parametrize(("columns", "message"), [(2, "2 features"), (4, "4 features")])
def test_wrong_width_at_predict(X, y, columns, message):
    with pytest.raises(ValueError, match=message):
        tiny(max_epochs=1).fit(X, y).predict(np.zeros((5, columns)))


def test_infinite_columns_are_refused(X, y):
    X[5, 1] = np.inf
    with pytest.raises(ValueError, match="infinity"):
        tiny().fit(X, y)


# ------------------------------------------------------------------- rows and weights


def test_labels_of_history_are_never_read(X, y):
    weight = np.ones(N)
    weight[50:90] = 0
    other = y.copy()
    other[50:90] = 77
    expected = tiny().fit(X, y, weight)
    got = tiny().fit(X, other, weight)
    assert_array_equal(got.classes_, [0, 1, 2])
    assert_array_equal(got.predict_proba(X), expected.predict_proba(X))
    assert not np.isin(np.arange(50, 90), np.concatenate(list(got.row_usage_.values()))).any()


def test_columns_of_history_stand_in_later_windows(X, y):
    weight = np.ones(N)
    weight[50:90] = 0
    other = X.copy()
    other[88] += 1
    expected = tiny(class_weight="balanced").fit(X, y, weight).predict_proba(X)
    assert np.abs(tiny(class_weight="balanced").fit(other, y, weight).predict_proba(X) - expected).max() > 1e-6
    other[88] = X[88]
    other[60] += 1  # in windows of history only
    assert_array_equal(tiny(class_weight="balanced").fit(other, y, weight).predict_proba(X), expected)


def test_only_proportions_of_weights_matter(X, y, rng):
    weight = rng.uniform(size=N)
    expected = tiny().fit(X, y, weight).predict_proba(X)
    assert_array_equal(tiny().fit(X, y, 4 * weight).predict_proba(X), expected)
    assert np.abs(tiny().fit(X, y).predict_proba(X) - expected).max() > 1e-4


def test_one_class_is_refused(X, y):
    weight = (y == 1).astype(float)
    with pytest.raises(EnsembleKitError, match="got one class, \\[1\\]"):
        tiny().fit(X, y, weight)


@pytest.mark.parametrize(
    ("rows", "fraction", "purge", "fit", "stop"),
    [
        (range(20), 0.0, 3, range(20), []),
        (range(20), 0.5, 0, range(10), range(10, 20)),
        (range(20), 0.5, 3, range(7), range(10, 20)),
        (range(20), 0.1, 3, range(20), []),  # two times are too few
        ([*range(5), *range(8, 20)], 0.59, 3, range(5), range(9, 20)),  # bars count for the purge, not rows
    ],
)
def test_newest_block(rows, fraction, purge, fit, stop):
    got = newest_block(np.arange(100, 120), np.array(rows), fraction, purge)
    assert_array_equal(got[0], fit)
    assert_array_equal(got[1], stop)


def test_newest_block_of_a_panel_goes_by_time():
    times = np.repeat(np.arange(40), np.repeat([1, 4], [30, 10]))  # three instruments are younger
    fit, stop = newest_block(times, np.arange(70), 0.25, 4)
    assert_array_equal(np.unique(times[stop]), range(30, 40))
    assert len(stop) == 40
    assert times[fit].max() == 25


def test_purge_that_leaves_nothing_is_refused(X, y):
    with pytest.raises(EnsembleKitError, match="validation_purge"):
        tiny(validation_purge=N).fit(X, y)


def test_rows_and_their_role(X, y):
    model = tiny(validation_fraction=0.25, validation_purge=10).fit(X, y)
    assert_array_equal(model.row_usage_["stop"], np.arange(180, N))
    assert_array_equal(model.row_usage_["fit"], np.arange(170))
    # Labels of stop rows do not teach, and purged ones are not read at all.
    other = y.copy()
    other[170:180] = 0
    assert_array_equal(
        tiny(validation_fraction=0.25, validation_purge=10).fit(X, other).predict_proba(X), model.predict_proba(X)
    )


def test_stop_labels_do_not_count_in_class_weights(X, y):
    model = tiny(class_weight="balanced", max_epochs=1, validation_fraction=0.25)
    expected = clone(model).fit(X, y).predict_proba(X)
    y[180:] = 0
    assert_array_equal(model.fit(X, y).predict_proba(X), expected)


def test_best_epoch_comes_back(X, rng):
    y = rng.integers(0, 2, N)  # nothing to learn: the loss on the newest rows soon rises
    model = tiny(max_epochs=60, learning_rate=0.05, width=64, patience=4, validation_fraction=0.25, dropout=0.0).fit(
        X, y
    )
    losses = model.history_["valid_loss"].tolist()
    best = int(np.argmin(losses))
    assert model.n_iter_ == len(losses) == best + 5 < 60
    stop = model.row_usage_["stop"]
    assert_allclose(-model.predict_log_proba(X)[stop, y[stop]].mean(), losses[best], atol=1e-5)
    assert abs(losses[-1] - losses[best]) > 1e-3


def test_without_a_block_all_epochs_run(X, y):
    model = tiny(validation_fraction=0).fit(X, y)
    assert model.n_iter_ == 3
    history = model.history_
    assert history.index.tolist() == [1, 2, 3]
    assert history.columns.tolist() == ["train_loss", "valid_loss", "learning_rate", "duration"]
    assert history["valid_loss"].isna().all()
    assert history["train_loss"][3] < history["train_loss"][1]


def test_class_weights_per_horizon():
    targets = Targets.encode(np.array([[0, 2], [0, 2], [0, 0], [1, 0], [1, 0]]))
    counted = np.array([1.0, 1.0, 2.0, 1.0, 0.0])
    got = class_weights("balanced", targets, counted)
    assert_allclose(got[:, 0], [0.625, 0.625, 0.625, 2.5, 2.5])
    assert_allclose(got[:, 1], [1.25, 1.25, 5 / 6, 5 / 6, 5 / 6])
    assert_allclose(class_weights({0: 3.0}, targets, counted)[:, 0], [3, 3, 3, 1, 1])
    with pytest.raises(EnsembleKitError, match="name labels of `y`"):
        class_weights({"up": 3.0}, targets, counted)


# --------------------------------------------------------------------------- targets


@pytest.mark.parametrize("labels", [np.array(["peak", "none", "bottom"]), np.array([30, 10, 20])])
def test_labels_come_back(X, y, labels):
    model = tiny(max_epochs=20).fit(X, labels[y])
    assert_array_equal(model.classes_, np.sort(labels))
    assert (model.predict(X) == labels[y]).mean() > 0.6
    codes = tiny(max_epochs=20).fit(X, np.argsort(np.argsort(labels))[y])
    assert_array_equal(codes.predict_proba(X), model.predict_proba(X))


def test_several_horizons(X, y):
    both = np.column_stack([y, np.roll(y, 1)])
    model = tiny(max_epochs=20).fit(X, both)
    assert model.predict(X).shape == (N, 2)
    assert [p.shape for p in model.predict_proba(X)] == [(N, 3)] * 2
    assert [list(c) for c in model.classes_] == [[0, 1, 2]] * 2
    assert ((model.predict(X) == both).mean(axis=0) > 0.6).all()
    # One horizon as a column answers as one horizon.
    assert tiny().fit(X, y.tolist()).predict_proba(X[:5]).shape == (5, 3)


# ----------------------------------------------------------------- random state, threads


def test_same_seed_same_bits(X, y):
    def answer(seed):
        return tiny(random_state=seed, dropout=0.3).fit(X, y).predict_proba(X)

    assert_array_equal(answer(1), answer(1))
    assert np.abs(answer(1) - answer(2)).max() > 1e-3


class SlowlyBuilt(Tiny):
    def _build_trunk(self, n_features):
        time.sleep(0.01)
        return super()._build_trunk(n_features)


def test_models_fitted_in_threads_do_not_disturb_each_other(X, y):
    models = [SlowlyBuilt(batch_size=32, random_state=seed, dropout=0.3, max_epochs=6) for seed in range(4)]
    alone = [clone(model).fit(X, y).predict_proba(X) for model in models]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda model: model.fit(X, y).predict_proba(X), models))
    assert_array_equal(together, alone)


def test_the_callers_random_state_and_threads_stay(X, y):
    torch.manual_seed(5)
    np.random.seed(5)
    before, numpys, threads = torch.get_rng_state(), np.random.get_state()[1].copy(), torch.get_num_threads()
    model = tiny(dropout=0.3, n_threads=threads + 1, max_epochs=1).fit(X, y)
    pickle.loads(pickle.dumps(model)).predict(X)
    assert torch.equal(torch.get_rng_state(), before)
    assert_array_equal(np.random.get_state()[1], numpys)
    assert torch.get_num_threads() == threads
    with pytest.raises(ValueError, match="infinity"):
        model.predict(X + np.inf)
    assert torch.get_num_threads() == threads


def test_threads_are_as_many_as_asked_for(X, y):
    class Threads(Callback):
        seen = set()

        def on_batch_end(self, net, **kwargs):
            self.seen.add(torch.get_num_threads())

    n_threads = torch.get_num_threads() + 1
    tiny(max_epochs=1, n_threads=n_threads, net_params={"callbacks": [("threads", Threads())]}).fit(X, y)
    assert Threads.seen == {n_threads}


def test_dropout_keeps_the_mean_and_sleeps_in_evaluation():
    layer, x = Dropout(0.25), torch.ones(100_000)
    dropped = layer(x)
    assert abs(dropped.mean().item() - 1) < 0.01
    assert abs((dropped == 0).float().mean().item() - 0.25) < 0.01
    assert layer.eval()(x) is x


# --------------------------------------------------------------------------- storing


def _skops(model):
    data = skops_io.dumps(model)
    unknown = skops_io.get_untrusted_types(data=data)
    assert unknown == [f"{Tiny.__module__}.Tiny"]
    return skops_io.loads(data, trusted=unknown)


def _joblib(model, path):
    joblib.dump(model, path)
    return joblib.load(path)


@pytest.mark.parametrize("way", ["pickle", "joblib", "deepcopy", "skops"])
@pytest.mark.parametrize("labels", [np.array([0, 1, 2]), np.array(["a", "b", "c"])])
def test_a_stored_model_is_the_model(X, y, way, labels, tmp_path):
    X = pd.DataFrame(X, columns=list("abc"))
    model = tiny(class_weight={labels[0].item(): 2.0}, dropout=0.2).fit(X, labels[y])
    again = {
        "pickle": lambda: pickle.loads(pickle.dumps(model)),
        "joblib": lambda: _joblib(model, tmp_path / "model.joblib"),
        "deepcopy": lambda: copy.deepcopy(model),
        "skops": lambda: _skops(model),
    }[way]()
    assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert_array_equal(again.predict(X), model.predict(X))
    assert again.history_.equals(model.history_)
    assert again.get_params() == model.get_params()
    assert_array_equal(again.row_usage_["stop"], model.row_usage_["stop"])


def test_stored_state_is_plain(X, y):
    def walk(value):
        if isinstance(value, dict):
            value = [*value.keys(), *value.values()]
        if isinstance(value, list | tuple):
            for part in value:
                walk(part)
        else:
            assert isinstance(value, np.ndarray | str | int | float | bool | None), type(value)

    walk(tiny().fit(X, np.column_stack([y, y])).__getstate__())
    unfitted = tiny()
    assert pickle.loads(pickle.dumps(unfitted)).get_params() == unfitted.get_params()


# ------------------------------------------------------------------- parameters, errors


def test_a_family_lists_only_its_own_parameters():
    names = list(inspect.signature(Tiny).parameters)
    assert names[:3] == ["seq_len", "width", "learning_rate"]
    assert set(names) == set(Tiny().get_params()) > set(SequenceClassifier().get_params())
    assert set(SequenceClassifier().get_params()) > set(SequenceEstimator().get_params())
    assert Tiny().get_params()["learning_rate"] == 0.01
    with pytest.raises(TypeError, match="hidden"):
        Tiny(hidden=3)


def test_all_wrong_parameters_are_named(X, y):
    with pytest.raises(EnsembleKitError) as error:
        tiny(seq_len=0, dropout=1.0, max_epochs=2.5, class_weight="even", clip=0).fit(X, y)
    for name, value in {"seq_len": 0, "dropout": 1.0, "max_epochs": 2.5, "class_weight": "'even'", "clip": 0}.items():
        assert f"`{name}` must be " in str(error.value)
        assert f"got {value}." in str(error.value)


def test_device(X, y, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnsembleKitError, match="`device` must be one that this machine has; got 'cuda:1'"):
        tiny(device="cuda:1").fit(X, y)
    with pytest.raises(EnsembleKitError, match=r"`device` must be 'cpu'.*got 'abacus'"):
        tiny(device="abacus").fit(X, y)
    assert_array_equal(tiny(device="auto").fit(X, y).predict_proba(X), tiny().fit(X, y).predict_proba(X))


def test_a_loss_that_is_not_finite_is_an_error(X, y):
    with pytest.raises(EnsembleKitError, match="`learning_rate` must be small enough"):
        tiny(learning_rate=1e38).fit(X, y)


class Interrupt(Callback):
    def on_batch_end(self, net, **kwargs):
        raise KeyboardInterrupt


def test_the_users_interrupt_is_not_swallowed(X, y):
    threads = torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        tiny(net_params={"callbacks": [("interrupt", Interrupt())]}, n_threads=threads + 1).fit(X, y)
    assert torch.get_num_threads() == threads


def test_gradient_clip(X, y):
    class Norms(Callback):
        norms = []

        def on_batch_end(self, net, training, **kwargs):
            if training:
                self.norms.append(sum(p.grad.square().sum() for p in net.module_.parameters()).sqrt().item())

    tiny(gradient_clip=1e-3, net_params={"callbacks": [("norms", Norms())]}).fit(X, y)
    assert_allclose(Norms.norms, 1e-3, rtol=1e-2)


def test_progress_is_logged_when_asked_for(X, y, caplog, capsys):
    caplog.set_level(logging.INFO)
    tiny().fit(X, y)
    assert not caplog.records
    tiny(verbose=True).fit(X, y)
    assert [record.message[:7] for record in caplog.records] == ["epoch 1", "epoch 2", "epoch 3"]
    assert capsys.readouterr().out == ""
