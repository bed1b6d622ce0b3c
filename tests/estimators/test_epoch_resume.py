"""A fit that was broken off goes on from its last whole epoch, and ends with the same bits."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILIES, small
from numpy.testing import assert_array_equal
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from skorch.callbacks import Callback

from ensemble_kit.checkpoints import checkpoints_in
from ensemble_kit.estimators import WaveTransformerRegressor
from ensemble_kit.estimators._training import Net
from ensemble_kit.estimators.networks.losses import CrossEntropy

N, F, EPOCHS = 160, 3, 4


@pytest.fixture(name="X")
def columns():
    return np.random.default_rng(0).normal(size=(N, F)).astype(np.float32)


@pytest.fixture
def y(X):
    return np.digitize(X[:, 0], [-0.4, 0.4])


class KilledError(Exception):
    """What a process killed would not raise."""


class BreakOff:
    """A callback that ends the process's life after some epochs, in a way a test survives."""

    def __init__(self, after):
        self.after = after

    def setup(self, estimator, context): ...

    def teardown(self, estimator, context): ...

    def on_fit_task_begin(self, estimator, context): ...

    def on_fit_task_end(self, estimator, context):
        if context.task_name == "epoch" and context.task_id + 1 == self.after:
            raise KilledError


@pytest.fixture
def trained(monkeypatch):
    """How many epochs were trained in truth."""
    counted = []
    loop = Net.fit_loop
    monkeypatch.setattr(Net, "fit_loop", lambda self, *args, **kwargs: counted.append(1) or loop(self, *args, **kwargs))
    return counted


def same(one, other, X):
    states = one.net_.module_.state_dict(), other.net_.module_.state_dict()
    assert list(states[0]) == list(states[1])
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    entries = [[entry | {"duration": 0} for entry in model.epochs_] for model in (one, other)]
    assert entries[0] == entries[1]
    assert one.n_iter_ == other.n_iter_
    assert one.net_.history[:, "train_loss"] == other.net_.history[:, "train_loss"]
    assert_array_equal(one._outputs(X), other._outputs(X))
    # What training could go on with, too.
    for state in ("exp_avg", "momentum_buffer", "step"):
        for mine, its in zip(*(m.net_.optimizer_.state.values() for m in (one, other)), strict=True):
            assert (state in mine) == (state in its)
            if mine.get(state) is not None:
                assert torch.equal(mine[state], its[state])


def check_resumes(model, X, y, folder, trained, weight=None):
    """Break a fit off after each of its epochs, from nothing and again and again, and compare."""
    whole = clone(model).fit(X, y, weight)
    n_epochs = whole.n_iter_
    with checkpoints_in(folder / "again"):
        for after in range(1, n_epochs + 1):  # each goes one epoch further
            trained.clear()
            with pytest.raises(KilledError):
                clone(model).set_callbacks(BreakOff(after)).fit(X, y, weight)
            assert len(trained) == 1
        trained.clear()
        same(clone(model).fit(X, y, weight), whole, X)  # all was done: the final state is kept
        assert trained == []
    for after in (1, n_epochs - 1):
        with checkpoints_in(folder / str(after)):
            with pytest.raises(KilledError):
                clone(model).set_callbacks(BreakOff(after)).fit(X, y, weight)
            trained.clear()
            same(clone(model).fit(X, y, weight), whole, X)
            assert len(trained) == n_epochs - after
    return whole


def quick(family="lstm_gru", **parameters):
    return small(family, 5, **({"max_epochs": EPOCHS, "dropout": 0.2} | parameters))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family(family, X, y, tmp_path, trained):
    check_resumes(quick(family), X, y, tmp_path, trained)


SETTINGS = {
    "cosine": {"schedule": "cosine"},
    "plateau": {"schedule": "plateau", "learning_rate": 1.0, "max_epochs": 7, "patience": 7},
    "momentum": {"optimizer": "sgd", "net_params": {"optimizer__momentum": 0.9, "optimizer__nesterov": True}},
    "rmsprop": {"optimizer": "rmsprop"},
    "class": {"optimizer": torch.optim.NAdam},
    "focal": {"loss": "focal", "class_weight": "balanced"},
    "ldam": {"loss": "ldam", "loss_params": {"defer": 0.5}},
    "expected_cost": {"loss": "expected_cost", "cost_matrix": np.eye(3)},
    "no block": {"validation_fraction": 0},
    "plateau without a block": {"schedule": "plateau", "validation_fraction": 0},
    "bf16": {"precision": "bf16"},
}


@pytest.mark.parametrize("parameters", SETTINGS.values(), ids=SETTINGS)
def test_every_setting(parameters, X, y, tmp_path, trained):
    whole = check_resumes(quick(**parameters), X, y, tmp_path, trained)
    if parameters.get("schedule") == "plateau" and whole.row_usage_["stop"].size:
        assert whole.history_["learning_rate"].min() < 1  # it fell, so that its count mattered


def test_early_stopping_that_fires(X, tmp_path, trained):
    y = np.random.default_rng(1).integers(0, 2, N)  # nothing to learn: the loss on the newest rows soon rises
    whole = check_resumes(quick(max_epochs=30, validation_fraction=0.25), X, y, tmp_path, trained)
    best = int(whole.history_["valid_loss"].idxmin())
    assert 1 < best + 3 == whole.n_iter_ < 30


def test_quantities_weights_and_horizons(X, y, tmp_path, trained):
    quantities = WaveTransformerRegressor(
        4, d_model=8, n_heads=2, n_layers=1, max_epochs=3, batch_size=32, random_state=0, dropout=0.2, schedule="cosine"
    )
    check_resumes(quantities, X, X[:, :2], tmp_path / "quantities", trained)
    weight = np.random.default_rng(2).uniform(size=N) * (np.arange(N) % 7 > 0)
    check_resumes(quick("cnn"), X, np.column_stack([y, y[::-1]]), tmp_path / "horizons", trained, weight)


def test_a_panel_in_a_pipeline(X, y, tmp_path, trained):
    index = pd.MultiIndex.from_product(
        [pd.date_range("2024", periods=N // 2, freq="h"), ["A", "B"]], names=["datetime", "instrument"]
    )
    frame, labels = pd.DataFrame(X, index=index, columns=list("abc")), pd.Series(y, index=index)
    model = make_pipeline(StandardScaler(), quick("cnn")).set_output(transform="pandas")
    whole = clone(model).fit(frame, labels)
    with checkpoints_in(tmp_path):
        broken = clone(model)
        broken[-1].set_callbacks(BreakOff(2))
        with pytest.raises(KilledError):
            broken.fit(frame, labels)
        trained.clear()
        same(
            clone(model).fit(frame, labels)[-1],
            whole[-1],
            StandardScaler().set_output(transform="pandas").fit_transform(frame),
        )
    assert len(trained) == EPOCHS - 2


def test_broken_off_within_an_epoch(X, y, tmp_path, trained, monkeypatch):
    whole = quick().fit(X, y)
    calls, each = [], CrossEntropy._each

    def fail(self, outputs, truth):
        calls.append(1)
        if len(calls) == 15:  # six batches an epoch: in the third
            raise KeyboardInterrupt
        return each(self, outputs, truth)

    trained.clear()
    with checkpoints_in(tmp_path):
        monkeypatch.setattr(CrossEntropy, "_each", fail)
        with pytest.raises(KeyboardInterrupt):
            quick().fit(X, y)
        monkeypatch.setattr(CrossEntropy, "_each", each)
        assert len(trained) == 3
        trained.clear()
        same(quick().fit(X, y), whole, X)
    assert len(trained) == EPOCHS - 2  # the third is redone


def test_going_on_from_an_earlier_fit(X, y, tmp_path, trained):
    first = quick().fit(X, y)
    store = pickle.dumps(first.set_params(warm_start=True))
    whole = pickle.loads(store).fit(X, y)
    with checkpoints_in(tmp_path):
        with pytest.raises(KilledError):
            pickle.loads(store).set_callbacks(BreakOff(2)).fit(X, y)
        trained.clear()
        same(pickle.loads(store).fit(X, y), whole, X)
        assert len(trained) == EPOCHS - 2
        # From other weights it is another fit, and so it is with other draws from the same weights.
        for other in (pickle.loads(store).fit(X, y), pickle.loads(store).set_params(random_state=1)):
            trained.clear()
            other.fit(X, y)
            assert len(trained) == EPOCHS


# ------------------------------------------------------------------------- which fit it is


def half_done(X, y, folder, **parameters):
    with checkpoints_in(folder), pytest.raises(KilledError):
        quick("cnn", **parameters).set_callbacks(BreakOff(2)).fit(X, y)


@pytest.mark.parametrize(
    "parameters",
    [
        {"learning_rate": 0.04},
        {"max_epochs": 5},
        {"batch_size": 33},
        {"dropout": 0.3},
        {"random_state": 1},
        {"clip": 1.0},
        {"patience": 4},
        {"n_filters": 9},
        {"loss": "focal"},
        {"class_weight": {0: 2.0}},
        {"precision": "bf16"},
        {"validation_purge": 1},
        {"weight_decay": 0.02},
        {"net_params": {"optimizer__eps": 1e-7}},
    ],
    ids=str,
)
def test_another_parameter_starts_anew(parameters, X, y, tmp_path, trained):
    half_done(X, y, tmp_path)
    model = quick("cnn", **parameters)
    whole = clone(model).fit(X, y)
    trained.clear()
    with checkpoints_in(tmp_path):
        same(model.fit(X, y), whole, X)
    assert len(trained) == whole.n_iter_


def test_other_data_start_anew(X, y, tmp_path, trained):
    half_done(X, y, tmp_path)
    other, late, weight = X.copy(), y.copy(), np.ones(N)
    other[0, 0] += 1e-3
    late[-1] = (late[-1] + 1) % 3  # of a row that says when to stop
    weight[5] = 2
    for changed in ((other, y), (X, late), (X, np.roll(y, 1)), (X, y, weight), (X[1:], y[1:])):
        trained.clear()
        with checkpoints_in(tmp_path):
            quick("cnn").fit(*changed)
        assert len(trained) == EPOCHS


def test_another_version_starts_anew(X, y, tmp_path, trained, monkeypatch):
    half_done(X, y, tmp_path)
    monkeypatch.setattr("ensemble_kit.estimators._epochs.versions", lambda: ("torch=0",))
    trained.clear()
    with checkpoints_in(tmp_path):
        quick("cnn").fit(X, y)
    assert len(trained) == EPOCHS


def test_what_does_not_matter_goes_on(X, y, tmp_path, trained):
    whole = quick("cnn").fit(X, y)
    half_done(X, y, tmp_path)
    beyond = np.where(np.arange(N) == 7, 1.0, 0.0)  # clipped columns and all weights in proportion
    far, cut_off = X + 1e6 * beyond[:, None].astype(np.float32), X.copy()
    cut_off[7] = 10
    trained.clear()
    with checkpoints_in(tmp_path):
        same(
            quick("cnn", verbose=1, device="cpu").fit(pd.DataFrame(X), np.array(list("abc"))[y], np.full(N, 4.0)),
            whole,
            X,
        )
        assert len(trained) == EPOCHS - 2
        trained.clear()
        quick("cnn").fit(far, y)
        quick("cnn").fit(cut_off, y)
    assert len(trained) == EPOCHS


def test_no_checkpoint_where_a_fit_cannot_be_repeated(X, y, tmp_path):
    class Counter(Callback):
        pass

    for parameters in (
        {"random_state": None},
        {"net_params": {"callbacks": [("counter", Counter())]}},
        {"net_params": {"iterator_train__generator": torch.Generator()}},
        {"net_params": {"iterator_train__generator": None}},
    ):
        with checkpoints_in(tmp_path):
            quick("cnn", max_epochs=1, **parameters).fit(X, y)
        assert list(tmp_path.iterdir()) == []
    with checkpoints_in(tmp_path):
        quick("cnn", max_epochs=1, net_params={"optimizer__betas": (0.8, 0.9), "callbacks": []}).fit(X, y)
    assert len(list(tmp_path.iterdir())) == 1


def test_the_same_draws_are_the_same_fit(X, y, tmp_path, trained):
    for _ in range(2):
        trained.clear()
        draws = np.random.RandomState(3)
        with checkpoints_in(tmp_path):
            first, second = (quick("cnn", random_state=draws).fit(X, y) for _ in range(2))
    assert trained == []
    assert len(list(tmp_path.iterdir())) == 2
    assert np.abs(first.predict_proba(X) - second.predict_proba(X)).max() > 1e-4


# ------------------------------------------------------------------------------- faults


def cut(content):
    return content[: len(content) // 2]


def flip(content):
    return content[:500] + bytes([content[500] ^ 4]) + content[501:]


def foreign(content):
    return pickle.dumps({"run": {"epochs": []}})


@pytest.mark.parametrize("damage", [cut, flip, foreign])
def test_a_damaged_checkpoint_is_noticed_and_the_work_done_again(damage, X, y, tmp_path, trained):
    whole = quick("cnn").fit(X, y)
    half_done(X, y, tmp_path)
    (file,) = tmp_path.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    trained.clear()
    with checkpoints_in(tmp_path), pytest.warns(UserWarning, match="its work is done again"):
        same(quick("cnn").fit(X, y), whole, X)
    assert len(trained) == EPOCHS


def test_a_full_disk_costs_the_checkpoints_only(X, y, tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(28, "No space left on device")

    whole = quick("cnn").fit(X, y)
    monkeypatch.setattr(Path, "replace", full)
    with checkpoints_in(tmp_path), pytest.warns(UserWarning, match="No space left on device") as said:
        same(quick("cnn").fit(X, y), whole, X)
    assert len(said) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_callers_random_state_stays(X, y, tmp_path):
    half_done(X, y, tmp_path)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    with checkpoints_in(tmp_path):
        quick("cnn").fit(X, y)
    assert torch.equal(torch.get_rng_state(), before)


# ------------------------------------------------------------------------------ SIGKILL

FIT = """
import sys
import numpy as np
from ensemble_kit.checkpoints import checkpoints_in
from ensemble_kit.estimators import LSTMGRUClassifier
X = np.random.default_rng(0).normal(size=(2000, 5)).astype(np.float32)
model = LSTMGRUClassifier(16, hidden_size=16, max_epochs=8, dropout=0.2, schedule="cosine", random_state=0, patience=9)
print("ready", flush=True)
with checkpoints_in(sys.argv[1] if len(sys.argv) > 1 else None):
    model.fit(X, X[:, 0] > 0)
print(np.frombuffer(model.predict_proba(X).tobytes(), dtype=np.int64).sum(), len(model.epochs_), flush=True)
"""


def start(*arguments):
    return subprocess.Popen([sys.executable, "-c", FIT, *arguments], stdout=subprocess.PIPE, text=True)


@pytest.mark.slow
def test_killed_at_random_moments(tmp_path):
    """Kill real fits again and again; whatever the moment, the end has the uninterrupted one's bits."""
    rng = np.random.default_rng(int(os.environ.get("KILL_SEED", "0")))
    process = start()
    process.stdout.readline()
    began = time.monotonic()
    whole, _ = process.communicate(timeout=300)
    lasts = time.monotonic() - began
    assert whole.endswith(" 8\n")
    killed = 0
    for chain in range(3):
        folder = tmp_path / str(chain)
        for _ in range(3):
            process = start(str(folder))
            process.stdout.readline()
            time.sleep(rng.uniform(0, 0.6 * lasts))
            killed += process.poll() is None
            process.kill()
            process.communicate()
        process = start(str(folder))
        out, _ = process.communicate(timeout=300)
        assert out == f"ready\n{whole}", chain
        assert len(list(folder.glob("*.checkpoint"))) == 1
    assert killed >= 4
