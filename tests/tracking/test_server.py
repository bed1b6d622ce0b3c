"""Fits and a real `mlflow server`: over HTTP, with a database and a folder for files, killed in the middle."""

import time
import warnings
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from sklearn.linear_model import LogisticRegression
from tracking_server import TrackingServer

from ensemble_kit.datasets import make_bars
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.exceptions import TrackingError
from ensemble_kit.tracking import _line
from ensemble_kit.tracking.callback import MLflowCallback
from ensemble_kit.tracking.runs import log_report
from ensemble_kit.validation import WalkForwardSplit

BARS = make_bars(300, random_state=0)
ROWS = BARS[["close", "volume"]].pct_change().fillna(0.0)
UP = (BARS["close"].diff() > 0).astype(int)


class Signals(LogisticRegression):
    """Does something to the world when it is fitted on all rows; learns the same whatever that is."""

    what = staticmethod(lambda: None)

    def fit(self, X, y, sample_weight=None):
        if len(X) == len(ROWS):
            self.what()
        return super().fit(X, y, sample_weight)


def vote():
    members = [
        ("signals", Signals()),
        ("net", LSTMGRUClassifier(3, hidden_size=4, max_epochs=3, random_state=0)),
        ("trees", LGBMWindowClassifier(3, n_estimators=3, random_state=0)),
    ]
    return WalkForwardVotingClassifier(members, cv=WalkForwardSplit(2, purge=2))


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    with TrackingServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def expected():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return vote().fit(ROWS, UP).predict_proba(ROWS)


def fit(callback):
    """Fit with a callback; return the answers, and what MLflow's loss was said to be."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        answers = vote().set_callbacks(callback).fit(ROWS, UP).predict_proba(ROWS)
    return answers, [str(one.message) for one in said if "MLflow at" in str(one.message)]


def found(uri, callback):
    client = MlflowClient(uri)
    where = client.get_experiment_by_name(callback.experiment).experiment_id
    return client, {run.info.run_name: run for run in client.search_runs([where])}


def test_a_fit_over_http(server, expected, tmp_path, monkeypatch):
    (tmp_path / "experiment.toml").write_text("[bars]\n")
    callback = MLflowCallback("http", tracking_uri=server.uri, artifacts=[tmp_path / "experiment.toml"])
    answers, lost = fit(callback)
    np.testing.assert_array_equal(answers, expected)
    assert lost == []
    client, runs = found(server.uri, callback)
    assert {name: run.info.status for name, run in runs.items()} == dict.fromkeys(
        ("WalkForwardVotingClassifier", "signals", "net", "trees"), "FINISHED"
    )
    losses = client.get_metric_history(runs["net"].info.run_id, "fold_1_train_loss")
    assert [entry.step for entry in losses] == [1, 2, 3]

    (tmp_path / "report.html").write_text("<p>fine</p>")
    before = mlflow.get_tracking_uri()
    try:
        mlflow.set_tracking_uri(server.uri)
        log_report(callback.run_id, [tmp_path / "report.html"])
        with pytest.raises(TrackingError, match=r"`run` must be the id of a run at http.*; got 'nobody'"):
            log_report("nobody", tmp_path / "report.html")
        with pytest.raises(TrackingError, match=r"`files` must be files that exist; got .*none.html. Write them first"):
            log_report(callback.run_id, tmp_path / "none.html")
        copy = mlflow.artifacts.download_artifacts(
            run_id=callback.run_id, artifact_path="report/report.html", dst_path=str(tmp_path / "back")
        )
    finally:
        mlflow.set_tracking_uri(before)
    assert Path(copy).read_text() == "<p>fine</p>"
    stored = {file.name for file in (server.folder / "files").rglob("*") if file.is_file()}
    assert {"experiment.toml", "split.json", "report.html"} <= stored  # in the server's folder, and not here


@pytest.mark.slow
def test_a_server_killed_in_the_middle_costs_the_logging_only(expected, tmp_path, monkeypatch):
    with TrackingServer(tmp_path) as server:
        monkeypatch.setattr(Signals, "what", staticmethod(server.kill))
        callback = MLflowCallback("killed", tracking_uri=server.uri)
        began = time.monotonic()
        answers, lost = fit(callback)
        assert time.monotonic() - began < 60  # of which 5 are patience; MLflow alone would take minutes
        np.testing.assert_array_equal(answers, expected)
        (message,) = lost
        # Epochs of the last fit, scores, weights and temperatures, and the ends of four runs.
        assert "lost: " in message
        assert " x metric, 4 x end of a run (MlflowException: API request to http" in message
        # What was written before is there; the next fit ends what the server never heard the end of.
        server.start()
        client, runs = found(server.uri, callback)
        assert {run.info.status for run in runs.values()} == {"RUNNING"}
        assert "fold_1_train_loss" in runs["net"].data.metrics
        monkeypatch.setattr(Signals, "what", staticmethod(lambda: None))
        first, (_, lost) = callback.run_id, fit(callback)
        assert lost == []
        states = [
            (run.info.run_id == first, run.info.status)
            for run in client.search_runs([client.get_run(first).info.experiment_id])
        ]
        assert sorted(status for _, status in states) == ["FINISHED"] * 4 + ["KILLED"] * 4
        assert (True, "KILLED") in states


@pytest.mark.slow
def test_a_server_restarted_in_the_middle_costs_nothing(expected, tmp_path, monkeypatch):
    with TrackingServer(tmp_path) as server:
        callback = MLflowCallback("restarted", tracking_uri=server.uri)
        monkeypatch.setattr(_line, "_PATIENCE", 0.5)
        monkeypatch.setattr(Signals, "what", staticmethod(server.kill))
        trees = LGBMWindowClassifier.fit

        def restart(self, X, y, sample_weight=None):
            if len(X) == len(ROWS):  # after the epochs that the server missed
                server.start()
            return trees(self, X, y, sample_weight)

        monkeypatch.setattr(LGBMWindowClassifier, "fit", restart)
        answers, lost = fit(callback)
        np.testing.assert_array_equal(answers, expected)
        assert lost == []
        client, runs = found(server.uri, callback)
        assert {run.info.status for run in runs.values()} == {"FINISHED"}
        assert len(runs) == 4
        for name in ("fold_0_train_loss", "fold_1_train_loss", "refit_train_loss"):
            steps = [entry.step for entry in client.get_metric_history(runs["net"].info.run_id, name)]
            assert steps == [1, 2, 3]
