"""Fits in MLflow: what goes where, how they end, and that nothing which is fitted depends on it."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow import MlflowClient
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from tracking_server import free_port

from ensemble_kit.datasets import make_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.exceptions import TrackingError
from ensemble_kit.features import SessionFeatures
from ensemble_kit.fingerprint import fingerprint
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.sizing import SizedClassifier
from ensemble_kit.tracking import _line
from ensemble_kit.tracking.callback import MLflowCallback
from ensemble_kit.tracking.context import flatten_parameters, git_tags
from ensemble_kit.validation import WalkForwardSplit

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*does not support callbacks"),
    pytest.mark.filterwarnings("ignore:temperature on its bound"),  # so little is learned
]
BARS = make_bars(400, random_state=0)
LABELS = peak_slope_bottom(BARS, horizons=2, w=6)
X, Y = LABELS.align(BARS)
UP = (X["close"].diff() > 0).astype(int)
SPLIT = WalkForwardSplit(2, t1=LABELS.t1)
EPOCHS = 2
NET = LSTMGRUClassifier(3, hidden_size=4, max_epochs=EPOCHS, random_state=0)
MEMBERS = [
    ("net", make_pipeline(StandardScaler(), NET)),
    ("trees", LGBMWindowClassifier(3, n_estimators=3, random_state=0)),
]


def vote(members=MEMBERS, **parameters):
    return WalkForwardVotingClassifier(members, cv=SPLIT, **parameters)


def sized(**parameters):
    return SizedClassifier(make_pipeline(SessionFeatures(), vote(**parameters)))


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def client(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return MlflowClient(uri)


@pytest.fixture
def callback(uri, request):
    return MLflowCallback(request.node.name, tracking_uri=uri)


def runs(client, callback):
    """All runs of a callback's experiment, by their names."""
    where = client.get_experiment_by_name(callback.experiment).experiment_id
    return {run.info.run_name: run for run in client.search_runs([where], order_by=["attributes.start_time"])}


def history(client, run):
    return {
        name: [(entry.step, entry.value) for entry in client.get_metric_history(run.info.run_id, name)]
        for name in run.data.metrics
    }


def once(client, found):
    """Whether every metric was written once a step."""
    steps = [[step for step, _ in said] for run in found.values() for said in history(client, run).values()]
    return all(len(some) == len(set(some)) for some in steps)


@pytest.fixture(scope="module")
def plain():
    with pytest.warns(UserWarning, match="temperature on its bound"):
        return sized().fit(X, Y)


# ------------------------------------------------------------------------------ what goes where


def test_a_fit_is_a_run_and_a_member_a_child_run(client, callback, plain, tmp_path):
    (tmp_path / "experiment.toml").write_text("[bars]\n")
    callback.artifacts = [tmp_path / "experiment.toml"]
    callback.tags = {"labels": LABELS.definition, "note": "first"}
    model = sized().set_callbacks(callback).fit(X, Y)
    for one, other in zip(model.predict_proba(X), plain.predict_proba(X), strict=True):
        np.testing.assert_array_equal(one, other)
    found = runs(client, callback)
    assert set(found) == {"SizedClassifier", "net", "trees"}
    assert {run.info.status for run in found.values()} == {"FINISHED"}
    assert once(client, found)
    top, ensemble = found["SizedClassifier"], model.model_[-1]
    assert top.info.run_id == callback.run_id
    for name in ("net", "trees"):
        assert found[name].data.tags["mlflow.parentRunId"] == top.info.run_id

    where = "model__walkforwardvotingclassifier"
    params = top.data.params
    assert params[f"{where}__trees__n_estimators"] == "3"
    assert params[f"{where}__net__lstmgruclassifier__hidden_size"] == "4"
    assert params[f"{where}__cv__n_splits"] == "2"
    assert params[f"{where}__cv__t1"].startswith("Series of shape (400,), fingerprint ")
    tags = top.data.tags
    assert tags["data.fingerprint"] == fingerprint(X)
    assert (tags["data.first_bar"], tags["data.last_bar"]) == (str(X.index[0]), str(X.index[-1]))
    assert (tags["data.rows"], tags["labels.classes"], tags["note"]) == (str(len(X)), "bottom, peak, slope", "first")
    assert '"label": "peak_slope_bottom"' in tags["labels"]
    assert '"n_splits": "2"' in tags["split"]
    assert tags["version.numpy"] == np.__version__
    split = mlflow.artifacts.load_dict(f"{top.info.artifact_uri}/split.json")
    assert [fold["n_test"] for fold in split["folds"]] == SPLIT.folds(X)["n_test"].tolist()
    assert {file.path for file in client.list_artifacts(top.info.run_id)} == {"experiment.toml", "split.json"}

    for member in ("net", "trees"):
        below, above = history(client, found[member]), history(client, top)
        for h in ("H0", "H1"):
            scores = [(fold, ensemble.fold_scores_.loc[(fold, member), h]) for fold in (0, 1)]
            assert below[f"auc_pr_{h}"] == above[f"auc_pr_{member}_{h}"] == scores
            for label, frame in (("weight", "weights_"), ("temperature", "temperatures_"), ("oof_auc_pr", "scores_")):
                expected = [(0, getattr(ensemble, frame).loc[member, h])]
                assert below[f"{label}_{h}"] == above[f"{label}_{member}_{h}"] == expected
    refitted = [(entry["epoch"], entry["train_loss"]) for entry in ensemble.named_estimators_["net"][-1].epochs_]
    told = history(client, found["net"])
    assert told["refit_train_loss"] == refitted
    for fold in ("fold_0", "fold_1"):
        for quantity in ("train_loss", "valid_loss", "learning_rate"):
            assert [step for step, _ in told[f"{fold}_{quantity}"]] == [1, 2]


def test_a_single_estimator(client, callback):
    model = clone(NET).set_callbacks(callback).fit(X, Y)
    (run,) = runs(client, callback).values()
    said = history(client, run)
    assert said["train_loss"] == [(entry["epoch"], entry["train_loss"]) for entry in model.epochs_]
    assert said["n_iter"] == [(0, EPOCHS)]
    assert run.data.params["hidden_size"] == "4"
    trees = clone(MEMBERS[1][1]).set_callbacks(callback).fit(X, Y)
    run = client.get_run(callback.run_id)
    assert (run.info.run_name, run.info.status) == ("LGBMWindowClassifier", "FINISHED")
    assert [run.data.metrics[f"n_iter_H{h}"] for h in (0, 1)] == trees.n_iter_


def test_a_pipeline_tells_of_its_last_step(client, callback):
    callback.run_name = "mine"
    pipeline = make_pipeline(StandardScaler(), clone(NET)).set_callbacks(callback).fit(X, Y)
    (run,) = runs(client, callback).values()
    assert (run.info.run_name, run.data.params["lstmgruclassifier__seq_len"]) == ("mine", "3")
    assert [step for step, _ in history(client, run)["train_loss"]] == [e["epoch"] for e in pipeline[-1].epochs_]


def test_epochs_are_left_out_on_demand(client, callback):
    callback.log_epochs = False
    vote().set_callbacks(callback).fit(X, Y)
    assert not [name for run in runs(client, callback).values() for name in run.data.metrics if "loss" in name]


def test_an_ensemble_within_an_ensemble(client, callback):
    inner = WalkForwardVotingClassifier(MEMBERS[:1], cv=WalkForwardSplit(1, purge=6))
    outer = vote([("inner", inner), MEMBERS[1]]).set_callbacks(callback).fit(X, Y)
    found = runs(client, callback)
    assert set(found) == {"WalkForwardVotingClassifier", "inner", "trees"}
    assert once(client, found)
    said = history(client, found["inner"])
    assert [step for step, _ in said["fold_1_refit_net_train_loss"]] == [1, 2]
    assert said["weight_H0"] == [(0, outer.weights_.loc["inner", "H0"])]


# -------------------------------------------------------------------------- nothing depends on it


def test_no_bit_no_fingerprint_and_no_key_depends_on_it(client, callback, tmp_path):
    for folder, listener in (("with", [callback]), ("without", [])):
        model = vote(memory=tmp_path / folder).set_callbacks(*listener).fit(X, Y)
        model.fit(X, Y)
    keys = [{path.name for path in (tmp_path / folder).rglob("*.checkpoint")} for folder in ("with", "without")]
    assert len(keys[0]) == 6
    assert keys[0] == keys[1]
    bare = WalkForwardVotingClassifier(MEMBERS, cv=WalkForwardSplit(2, purge=6))
    assert fingerprint(bare) == fingerprint(clone(bare).set_callbacks(callback))
    callback._records["open"] = threading.Lock()  # as what is open while a worker is sent a copy
    again = pickle.loads(pickle.dumps(clone(bare).set_callbacks(callback)))._skl_callbacks[0]
    callback._records.clear()
    assert (again.experiment, again._records, again._address) == (callback.experiment, {}, None)
    listened = vote(memory=tmp_path / "with").set_callbacks(callback).fit(X, Y)
    assert not hasattr(pickle.loads(pickle.dumps(listened)), "_skl_callbacks")
    assert clone(listened)._skl_callbacks == [callback]


class Breaks(LogisticRegression):
    """Breaks down on all rows, as long as it is broken."""

    broken = False

    def fit(self, X, y, sample_weight=None):
        if self.broken and len(X) > 300:
            raise RuntimeError("the disk is full")
        return super().fit(X, y, sample_weight)


def test_a_resumed_fit_is_told_once(client, callback, tmp_path, monkeypatch):
    monkeypatch.setattr(Breaks, "broken", True)
    members = [("net", MEMBERS[0][1]), ("lr", make_pipeline(StandardScaler(), Breaks()))]
    model = vote(members, memory=tmp_path).set_callbacks(callback)
    one = Y["H0"]
    with pytest.raises(RuntimeError, match="the disk is full"):
        model.fit(X, one)
    broken = runs(client, callback)
    assert {run.info.status for run in broken.values()} == {"FAILED"}
    top = client.get_run(callback.run_id)
    assert top.data.tags["error"].startswith("RuntimeError: the disk is full")
    assert len(history(client, broken["net"])["fold_0_train_loss"]) == EPOCHS
    monkeypatch.setattr(Breaks, "broken", False)
    model.fit(X, one)
    assert client.get_run(callback.run_id).info.status == "FINISHED"
    found = runs(client, callback)  # the newer ones have the names
    assert once(client, found)
    # What lay in `memory` tells nothing again, but for the models that are kept.
    assert "fold_0_train_loss" not in found["net"].data.metrics
    assert len(history(client, found["net"])["refit_train_loss"]) == EPOCHS


# ---------------------------------------------------------------------------------- how runs end


class Interrupts(LogisticRegression):
    """Ends the fit in the way that it is told."""

    def __init__(self, how=None):
        super().__init__()
        self.how = how

    def fit(self, X, y, sample_weight=None):
        if self.how == "interrupt":
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGTERM)
        return super().fit(X, y, sample_weight)


@pytest.mark.parametrize(("how", "raised"), [("interrupt", KeyboardInterrupt), ("terminate", SystemExit)])
def test_an_interrupted_fit_is_killed(client, callback, how, raised):
    model = vote([("stops", Interrupts(how)), MEMBERS[1]]).set_callbacks(callback)
    with pytest.raises(raised) as stopped:
        model.fit(X, Y["H0"])
    if raised is SystemExit:
        assert stopped.value.code == 128 + signal.SIGTERM
    found = runs(client, callback)
    assert len(found) == 3
    assert {run.info.status for run in found.values()} == {"KILLED"}
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_who_listens_to_sigterm_goes_on_doing_so(client, callback, monkeypatch):
    heard = []
    before = signal.signal(signal.SIGTERM, lambda *_: heard.append(1))
    try:
        vote([("stops", make_pipeline(StandardScaler(), Interrupts()))]).set_callbacks(callback).fit(X, Y["H0"])
    finally:
        signal.signal(signal.SIGTERM, before)
    assert len(heard) == 3
    assert client.get_run(callback.run_id).info.status == "FINISHED"


def test_a_fit_in_a_thread_within_an_except_block(client, callback):
    def fit():
        try:
            raise RuntimeError  # an error that is none of the fit's
        except RuntimeError:
            clone(MEMBERS[1][1]).set_callbacks(callback).fit(X, Y)

    thread = threading.Thread(target=fit)
    thread.start()
    thread.join()
    assert client.get_run(callback.run_id).info.status == "FINISHED"


def test_bad_input_is_said_before_any_run(client, callback, tmp_path):
    with pytest.raises(TrackingError, match=r"`experiment` must be an experiment's name; got None"):
        MLflowCallback(None)
    missing = MLflowCallback("x", tracking_uri=callback.tracking_uri, artifacts=tmp_path / "no.toml")
    with pytest.raises(TrackingError, match=r"`artifacts` must be files that exist when the fit begins; got .*no.toml"):
        vote().set_callbacks(missing).fit(X, Y)
    assert client.get_experiment_by_name("x") is None


# -------------------------------------------------------------------------- runs within runs


def test_the_active_run_has_the_fit_as_its_child(client, callback, uri, tmp_path, monkeypatch):
    monkeypatch.setattr(mlflow.tracking.fluent, "_active_experiment_id", None)
    before = mlflow.get_tracking_uri()
    trees = clone(MEMBERS[1][1]).set_callbacks(callback)
    try:
        mlflow.set_tracking_uri(uri)
        mlflow.set_experiment(callback.experiment)
        with mlflow.start_run() as active:
            trees.fit(X, Y)
            assert mlflow.active_run().info.run_id == active.info.run_id
            mlflow.log_metric("users", 1.0)
        mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/other.db")
        mlflow.set_experiment("another")
        with mlflow.start_run():
            trees.fit(X, Y)
    finally:
        mlflow.set_tracking_uri(before)
    inside, outside = (run for run in runs_of(client, callback) if run.info.run_name == "LGBMWindowClassifier")
    assert inside.data.tags["mlflow.parentRunId"] == active.info.run_id
    assert "mlflow.parentRunId" not in outside.data.tags  # the active run lay in another store
    assert client.get_run(active.info.run_id).data.metrics == {"users": 1.0}


def runs_of(client, callback):
    where = client.get_experiment_by_name(callback.experiment).experiment_id
    return client.search_runs([where], order_by=["attributes.start_time"])


def check_search(client, callback):
    found = runs_of(client, callback)
    assert {run.info.status for run in found} == {"FINISHED"}
    (top,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    assert top.info.run_name == "GridSearchCV"
    fits = [run for run in found if run.data.tags.get("mlflow.parentRunId") == top.info.run_id]
    assert sorted(run.data.params["trees__num_leaves"] for run in fits) == ["2", "2", "3", "3", "3"]
    members = [run for run in found if "member" in run.data.tags]
    assert {run.data.tags["mlflow.parentRunId"] for run in members} == {run.info.run_id for run in fits}
    assert len(members) == len(fits)
    assert all(run.data.metrics["weight_H0"] == 1.0 for run in members)
    assert len({run.data.tags["data.fingerprint"] for run in fits}) == 3


def searched(callback, **parameters):
    grid = {"trees__num_leaves": [2, 3]}
    search = GridSearchCV(vote(MEMBERS[1:]), grid, cv=TimeSeriesSplit(2), scoring=by_leaves, **parameters)
    return search.set_callbacks(callback).fit(X, UP)


def by_leaves(model, X, y):
    return model.get_params()["trees__num_leaves"]


def test_each_fit_of_a_search_is_a_run(client, callback):
    searched(callback)
    check_search(client, callback)


def test_each_fit_of_a_validation_is_a_run(client, callback):
    cross_val_score(vote(MEMBERS[1:]).set_callbacks(callback), X, UP, cv=TimeSeriesSplit(2), scoring=by_leaves)
    tops = [run for run in runs_of(client, callback) if "mlflow.parentRunId" not in run.data.tags]
    assert len(tops) == 2


# ------------------------------------------------------------------------------------- a store down


def test_a_store_that_is_down_costs_the_logging_only(plain, monkeypatch):
    monkeypatch.setattr(_line, "_PATIENCE", 0.5)
    model = sized().set_callbacks(MLflowCallback("SPY", tracking_uri=f"http://127.0.0.1:{free_port()}"))
    with pytest.warns(UserWarning, match="lost: 3 x run, ") as said:
        model.fit(X, Y)
    assert sum("MLflow at" in str(one.message) for one in said) == 1
    for one, other in zip(model.predict_proba(X), plain.predict_proba(X), strict=True):
        np.testing.assert_array_equal(one, other)


class Unspeakable:
    """A value that cannot be described."""

    def __repr__(self):
        raise RuntimeError("no words")

    def __call__(self, *args, **kwargs):
        return 1.0


def test_what_cannot_be_described_is_no_reason_not_to_train(client, callback, caplog):
    model = LogisticRegression(verbose=0).set_callbacks(callback)
    model.l1_ratio, rows = 0.0, np.arange(8.0)[:, None]
    model.get_params = lambda deep=True: {"x": Unspeakable()}
    model.fit(rows, rows[:, 0] > 3)
    assert "could not be described" in caplog.text
    assert client.get_run(callback.run_id).info.status == "FINISHED"


# ------------------------------------------------------------------------------------- what is said


def test_parameters_are_flat_short_and_the_same_everywhere(tmp_path):
    def scorer(y, p):
        return 0.0

    long = "x" * 10_000
    model = vote([("lr", LogisticRegression(C=np.float64(0.5)))], scorer=scorer, memory=tmp_path, events=[long])
    flat = flatten_parameters(model)
    assert flat["lr"] == "LogisticRegression"
    assert (flat["estimators"], flat["lr__C"], flat["memory"]) == ("lr", "0.5", str(tmp_path))
    assert flat["scorer"].endswith("test_parameters_are_flat_short_and_the_same_everywhere.<locals>.scorer")
    assert len(flat["events"]) == 6000
    assert flat["events"].endswith("xx ... [cut from 10,004 characters]")
    assert flatten_parameters(model) == flatten_parameters(
        pickle.loads(pickle.dumps(clone(model).set_params(scorer=None))).set_params(scorer=scorer)
    )


def test_the_commit(tmp_path, monkeypatch):
    assert git_tags(tmp_path) == {}
    git = ["git", "-c", "user.name=a", "-c", "user.email=a@b", "-C", str(tmp_path)]
    subprocess.run([*git, "init", "-q", "-b", "trunk"], check=True)
    assert git_tags(tmp_path) == {}
    (tmp_path / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-q", "-m", "first"], check=True)
    (tmp_path / "untracked").touch()
    tags = git_tags(tmp_path)
    assert len(tags.pop("mlflow.source.git.commit")) == 40
    assert tags == {"mlflow.source.git.dirty": "false", "mlflow.source.git.branch": "trunk"}
    (tmp_path / "file").write_text("2")
    assert git_tags(tmp_path)["mlflow.source.git.dirty"] == "true"
    monkeypatch.setenv("PATH", "")
    assert git_tags(tmp_path) == {}


def test_instruments_of_a_panel(client, callback):
    bars = make_bars(60, instruments=["A", "B"], random_state=0)
    y = pd.Series(np.arange(len(bars)) // 2 % 2, index=bars.index)
    LGBMWindowClassifier(2, n_estimators=2, min_child_samples=2).set_callbacks(callback).fit(bars, y)
    tags = client.get_run(callback.run_id).data.tags
    assert (tags["data.instruments"], tags["data.rows"]) == ("A, B", str(len(bars)))
    assert tags["data.first_bar"] == str(bars.index[0][0])


# ------------------------------------------------------------------------------------- other processes


@pytest.mark.slow
def test_members_in_other_processes_are_told_by_this_one(client, uri, plain):
    said = []
    for n_jobs in (1, 2):
        callback = MLflowCallback(f"{n_jobs} processes", tracking_uri=uri)
        model = sized(n_jobs=n_jobs).set_callbacks(callback).fit(X, Y)
        np.testing.assert_array_equal(model.predict_position(X), plain.predict_position(X))
        found = runs(client, callback)
        assert once(client, found)
        assert {run.data.tags["ensemble_kit.process"].split()[0] for run in found.values()} == {str(os.getpid())}
        said.append({name: {key: sorted(v) for key, v in history(client, run).items()} for name, run in found.items()})
    assert said[0] == said[1]


@pytest.mark.slow
def test_a_search_in_other_processes(client, callback):
    searched(callback, n_jobs=2)
    check_search(client, callback)


KILLED = """
import os, signal, sys
from sklearn.linear_model import LogisticRegression
from ensemble_kit.tracking.callback import MLflowCallback
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.validation import WalkForwardSplit

class Dies(LogisticRegression):
    def fit(self, X, y, sample_weight=None):
        if len(X) > 25:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(X, y)

X = [[float(i)] for i in range(60)]
vote = WalkForwardVotingClassifier([("dies", Dies())], cv=WalkForwardSplit(2, purge=0))
vote.set_callbacks(MLflowCallback(sys.argv[1], tracking_uri=sys.argv[2])).fit(X, [i % 2 for i in range(60)])
"""


@pytest.mark.slow
def test_after_sigkill_the_next_fit_ends_what_is_left(client, callback, uri):
    ended = subprocess.run([sys.executable, "-W", "ignore", "-c", KILLED, callback.experiment, uri], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert sorted(run.info.status for run in runs(client, callback).values()) == ["RUNNING"] * 2
    clone(MEMBERS[1][1]).set_callbacks(callback).fit(X, Y)
    states = {name: run.info.status for name, run in runs(client, callback).items()}
    assert states == {"WalkForwardVotingClassifier": "KILLED", "dies": "KILLED", "LGBMWindowClassifier": "FINISHED"}
    assert not Path("mlruns", "0").exists()


def test_tags_are_names_and_values():
    with pytest.raises(TrackingError, match=r"`tags` must be a mapping of names to values; got 'x'\. Write \{'desk'"):
        MLflowCallback("T", tags="x")
