"""scikit-learn's callbacks see the epochs of a sequence model, and may end them."""

from __future__ import annotations

import copy
import io
import pickle

import numpy as np
import pytest
import rich.progress
from families import small
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.callback import ProgressBar, ScoringMonitor
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensemble_kit.checkpoints import checkpoints_in
from ensemble_kit.exceptions import EnsembleKitError

N, EPOCHS = 160, 5


@pytest.fixture(name="X")
def columns():
    return np.random.default_rng(0).normal(size=(N, 3)).astype(np.float32)


@pytest.fixture
def y(X):
    return np.digitize(X[:, 0], [-0.4, 0.4])


def quick(**parameters):
    return small("cnn", 3, **({"max_epochs": EPOCHS, "validation_fraction": 0, "dropout": 0.2} | parameters))


class Recorder:
    """Write down who was called; stop after an epoch, or break off."""

    def __init__(self, *, stop=None, fail=None):
        self.stop, self.fail, self.said, self.losses, self.fitted = stop, fail, [], [], []

    def setup(self, estimator, context):
        self.said.append("setup")

    def teardown(self, estimator, context):
        self.said.append("teardown")

    def on_fit_task_begin(self, estimator, context, *, X=None, y=None, metadata=None):
        self.said.append(f"{context.task_name} {context.task_id} begins")
        assert context.task_name != "epoch" or (X is not None and y is not None)

    def on_fit_task_end(self, estimator, context, *, X=None, y=None, metadata=None, fitted_estimator=None):
        self.said.append(f"{context.task_name} {context.task_id} ends")
        if context.task_name == "epoch":
            self.losses.append(estimator.epochs_[-1]["train_loss"])
            self.fitted.append(fitted_estimator)
            if context.task_id + 1 == self.fail:
                raise InterruptedError
            return context.task_id + 1 == self.stop
        return False


class Travelling(Recorder):
    max_propagation_depth = None


def test_an_epoch_is_a_task(X, y):
    seen = Recorder()
    model = quick().set_callbacks(seen).fit(X, y)
    epochs = [f"epoch {at} {what}" for at in range(EPOCHS) for what in ("begins", "ends")]
    assert seen.said == ["setup", "fit 0 begins", *epochs, "fit 0 ends", "teardown"]
    assert seen.losses == [entry["train_loss"] for entry in model.epochs_]
    assert_array_equal(model.predict_proba(X), quick().fit(X, y).predict_proba(X))
    assert not {"_callback_fit_ctx", "_skl_callbacks_to_teardown", "_parent_callback_ctx"} & set(vars(model))


def test_fitted_as_if_it_had_ended_there(X, y):
    seen = Recorder()
    quick().set_callbacks(seen).fit(X, y)
    for at, fitted in enumerate(seen.fitted, 1):
        assert_array_equal(fitted.predict_proba(X), quick().set_callbacks(Recorder(stop=at)).fit(X, y).predict_proba(X))
        assert fitted.n_iter_ == len(fitted.history_) == at


def test_a_callback_may_end_training(X, y):
    model = quick(schedule="cosine").set_callbacks(Recorder(), Recorder(stop=3)).fit(X, y)
    assert model.n_iter_ == 3
    whole = quick(schedule="cosine").fit(X, y)
    assert [one["train_loss"] for one in model.epochs_] == [one["train_loss"] for one in whole.epochs_[:3]]
    # The best epoch before it is chosen, as ever.
    noise = np.random.default_rng(1).integers(0, 2, N)
    settings = {"validation_fraction": 0.25, "learning_rate": 0.5, "max_epochs": 30, "patience": 30}
    losses = quick(**settings).fit(X, noise).history_["valid_loss"].to_numpy()
    late = next(at for at in range(2, 30) if losses[at - 1] > losses[:at].min())
    model = quick(**settings).set_callbacks(Recorder(stop=late)).fit(X, noise)
    stop = model.row_usage_["stop"]
    assert_allclose(log_loss(noise[stop], model.predict_proba(X)[stop]), losses[:late].min(), rtol=1e-5)


def test_a_callback_that_fails_is_torn_down(X, y):
    seen = Recorder(fail=2)
    model = quick().set_callbacks(seen)
    with pytest.raises(InterruptedError):
        model.fit(X, y)
    assert seen.said[-2:] == ["epoch 1 ends", "teardown"]
    with pytest.raises(EnsembleKitError, match="`max_epochs` must be"):
        model.set_params(max_epochs=0).fit(X, y)
    model.set_callbacks().set_params(max_epochs=EPOCHS)
    assert_array_equal(model.fit(X, y).predict_proba(X), quick().fit(X, y).predict_proba(X))


# ------------------------------------------------------------------------------- resumed


@pytest.mark.parametrize("fail", [1, 3, EPOCHS])
def test_epochs_done_before_are_told_as_done(X, y, fail, tmp_path):
    whole = Recorder()
    expected = quick().set_callbacks(whole).fit(X, y)
    with checkpoints_in(tmp_path):
        with pytest.raises(InterruptedError):
            quick().set_callbacks(Recorder(fail=fail)).fit(X, y)
        seen = Recorder()
        model = quick().set_callbacks(seen).fit(X, y)
    assert seen.said == whole.said
    assert seen.losses == whole.losses
    # What an earlier process trained can be told of, not looked at.
    assert [fitted is None for fitted in seen.fitted] == [True] * fail + [False] * (EPOCHS - fail)
    assert_array_equal(model.predict_proba(X), expected.predict_proba(X))


@pytest.mark.parametrize("stop", [1, 2, 3, 4])
@pytest.mark.parametrize("done", [1, 3, EPOCHS])
def test_a_callback_that_ends_training_is_heard_whatever_was_done_before(X, y, stop, done, tmp_path):
    expected = quick().set_callbacks(Recorder(stop=stop)).fit(X, y)
    with checkpoints_in(tmp_path):
        with pytest.raises(InterruptedError):
            quick().set_callbacks(Recorder(fail=done)).fit(X, y)
        seen = Recorder(stop=stop)
        model = quick().set_callbacks(seen).fit(X, y)
    assert model.n_iter_ == len(seen.losses) == stop
    assert_array_equal(model.predict_proba(X), expected.predict_proba(X))


# -------------------------------------------------------------------- scikit-learn's own


@pytest.fixture
def shown(monkeypatch):
    """What progress bars have said, (completed, total) one after the other, by their names."""
    bars = {}
    update = rich.progress.Progress.update

    def note(self, task_id, **changes):
        before = self.tasks[task_id]
        said = bars.setdefault(before.description.strip(), [(before.completed, before.total)])
        update(self, task_id, **changes)
        said.append((round(before.completed, 3), before.total))

    monkeypatch.setattr(rich.progress.Progress, "update", note)
    monkeypatch.setattr("rich.progress.get_console", lambda: rich.console.Console(file=io.StringIO()))
    return bars


def test_progress_bar(X, y, shown):
    quick().set_callbacks(ProgressBar()).fit(X, y)
    assert shown == {"CNNClassifier - fit": [(0, 5), (1, 5), (2, 5), (3, 5), (4, 5), (5, 5), (1, 1)]}
    shown.clear()
    noise = np.random.default_rng(1).integers(0, 2, N)
    stopped = quick(validation_fraction=0.25, learning_rate=0.5, max_epochs=30).set_callbacks(ProgressBar())
    n_epochs = stopped.fit(X, noise).n_iter_
    assert n_epochs < 30
    # Full in the end, though it ended sooner.
    assert shown["CNNClassifier - fit"] == [*((at, 30) for at in range(n_epochs + 1)), (1, 1)]


def test_progress_bar_around_a_pipeline(X, y, shown):
    make_pipeline(StandardScaler(), quick()).set_callbacks(ProgressBar()).fit(X, y)
    inner = shown["Pipeline - fit-final-estimator | CNNClassifier - fit #1"]
    assert inner[:6] == [(at, 5) for at in range(6)]
    assert inner[-1] == shown["Pipeline - fit"][-1] == (1, 1)
    assert (1.4, 2) in shown["Pipeline - fit"]  # the scaler, and two of five epochs
    seen = Travelling()
    make_pipeline(StandardScaler(), quick()).set_callbacks(seen).fit(X, y)
    assert [said for said in seen.said if said.startswith("epoch")][-1] == f"epoch {EPOCHS - 1} ends"
    assert seen.said.count("setup") == seen.said.count("teardown") == 1


def test_progress_bar_of_a_resumed_fit(X, y, shown, tmp_path):
    with checkpoints_in(tmp_path):
        with pytest.raises(InterruptedError):
            quick().set_callbacks(Recorder(fail=3)).fit(X, y)
        quick().set_callbacks(ProgressBar()).fit(X, y)
    assert shown == {"CNNClassifier - fit": [*((at, 5) for at in range(6)), (1, 1)]}


def test_scoring_monitor(X, y):
    monitor = ScoringMonitor(scoring="neg_log_loss")
    weight = np.random.default_rng(1).uniform(0.5, 1, size=N)
    model = quick().set_callbacks(monitor).fit(X, y, sample_weight=weight)
    rows = monitor.get_logs().data
    epochs = [row["neg_log_loss"] for row in rows if row["task_name"] == "epoch"]
    assert len(epochs) == EPOCHS
    assert_allclose(epochs[-1], -log_loss(y, model.predict_proba(X), sample_weight=weight))
    assert_allclose([row["neg_log_loss"] for row in rows if row["task_name"] == "fit"], epochs[-1])


@pytest.mark.slow
def test_progress_bar_of_worker_processes(X, y, shown):
    search = GridSearchCV(quick(max_epochs=2), {"dropout": [0.0, 0.1]}, cv=TimeSeriesSplit(2), n_jobs=2)
    search.set_callbacks(ProgressBar(max_propagation_depth=None)).fit(X, y)
    assert sum("CNNClassifier - fit" in bar and (1, 2) in said for bar, said in shown.items()) == 5
    assert_array_equal(search.predict(X), clone(search.best_estimator_).set_callbacks().fit(X, y).predict(X))


def test_a_search_shows_the_epochs_of_its_candidates(X, y):
    seen = Travelling()
    search = GridSearchCV(quick(max_epochs=2), {"dropout": [0.0, 0.1]}, cv=TimeSeriesSplit(2)).set_callbacks(seen)
    search.fit(X, y)
    assert sum(said.startswith("epoch") and said.endswith("ends") for said in seen.said) == 2 * (2 * 2 + 1)


def test_a_stored_model_has_no_callbacks_and_a_clone_has_them(X, y):
    seen = Recorder()
    model = quick().set_callbacks(seen)
    assert clone(model)._skl_callbacks == [seen]
    assert len(pickle.loads(pickle.dumps(model))._skl_callbacks) == 1  # on the way to a worker
    model.fit(X, y)
    assert clone(model)._skl_callbacks == [seen]
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert not hasattr(again, "_skl_callbacks")
        assert_array_equal(again.predict_proba(X), model.predict_proba(X))
    assert model._skl_callbacks == [seen]
