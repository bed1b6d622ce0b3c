"""A run whose store may be down: everything arrives once, or its loss is said; nothing stays running."""

import os
import pickle
import signal
import subprocess
import sys
import time
import warnings

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from tracking_server import free_port

from ensemble_kit.tracking import _line
from ensemble_kit.tracking.patient import PatientRun


@pytest.fixture(scope="module")
def uri(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.fixture
def client(uri, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # files of a sqlite store lie in ./mlruns
    return MlflowClient(uri)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(_line, "_PATIENCE", 0.5)


def status(client, run):
    return client.get_run(run.run_id).info.status


def test_what_is_written_is_there(uri, client, tmp_path):
    run = PatientRun(uri).start("written", "one", tags={"a": "1"})
    run.log_params({f"p{at}": at for at in range(250)})  # more than MLflow takes at a time
    for epoch in (1, 2):
        run.log_metrics({"loss": 1 / epoch}, step=epoch)
    (tmp_path / "folder").mkdir()
    for file in (tmp_path / "alone.txt", tmp_path / "folder" / "inside.txt"):
        file.write_text("text")
    run.log_artifact(tmp_path / "alone.txt", "sub")
    run.log_artifact(tmp_path / "folder")
    run.log_dict({"n": 1}, "n.json")
    child = run.child("below", tags={"member": "x"})
    run.set_tags({"late": "2"})
    assert mlflow.active_run() is None
    assert status(client, run) == "RUNNING"
    child.end("FAILED")
    run.end()
    stored = client.get_run(run.run_id)
    assert (stored.info.status, stored.info.run_name) == ("FINISHED", "one")
    assert stored.data.params == {f"p{at}": str(at) for at in range(250)}
    assert {"a": "1", "late": "2"}.items() <= stored.data.tags.items()
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "loss")] == [(1, 1.0), (2, 0.5)]
    assert {file.path for file in client.list_artifacts(run.run_id)} == {"sub", "folder", "n.json"}
    below = client.get_run(child.run_id)
    assert (below.info.status, below.data.tags["mlflow.parentRunId"]) == ("FAILED", run.run_id)


def test_a_store_that_is_down_costs_seconds_and_one_warning(monkeypatch):
    before = dict(os.environ)
    began = time.monotonic()
    run = PatientRun(f"http://127.0.0.1:{free_port()}").start("down", "fit")
    run.log_params({"a": 1, "b": 2})
    child = run.child("member")
    for epoch in range(50):
        child.log_metrics({"loss": 0.0, "other": 1.0}, step=epoch)
    child.end()
    with pytest.warns(UserWarning, match="lost: 2 x run") as said:
        run.end("FAILED")
    assert time.monotonic() - began < 5
    (message,) = [str(one.message) for one in said]
    assert message.startswith("MLflow at http://127.0.0.1:")
    assert (
        "did not take all of run 'fit' of experiment 'down'; lost: 2 x run, 2 x parameter, 100 x metric, 2 x end of a "
        "run (MlflowException: API request to " in message
    )
    assert message.endswith("What was fitted is not touched.")
    assert run.run_id is None
    assert dict(os.environ) == before


@pytest.mark.parametrize("wrong", ["nonsense://x", "sqlite:///{}/x.db"])
def test_a_store_that_cannot_be_is_no_error(wrong, tmp_path):
    (tmp_path / "file").touch()  # where a folder would have to be
    run = PatientRun(wrong.format(tmp_path / "file")).start("wrong")
    with pytest.warns(UserWarning, match="lost: 1 x run, 1 x end of a run"):
        run.end()


class Trouble:
    """A client some of whose calls fail: before they are made, or after."""

    def __init__(self, client, **fails):
        self._client, self._fails, self.calls = client, fails, []

    def __getattr__(self, name):
        call = getattr(self._client, name)

        def troubled(*args, **kwargs):
            self.calls.append(name)
            when = self._fails[name].pop(0) if self._fails.get(name) else None
            if when == "before":
                raise ConnectionError("no route")
            answer = call(*args, **kwargs)
            if when == "after":
                raise ConnectionError("the answer was lost")
            return answer

        return troubled


@pytest.mark.parametrize("when", ["before", "after"])
def test_what_is_tried_again_is_there_once(uri, client, when, monkeypatch):
    names = ("create_run", "log_batch", "set_terminated")
    trouble = Trouble(client, **{name: [when] for name in names})
    monkeypatch.setattr(_line.mlflow, "MlflowClient", lambda uri: trouble)
    monkeypatch.setattr(_line, "_PATIENCE", 10.0)
    run = PatientRun(uri).start(f"again {when}")
    run.log_metrics({"loss": 0.5}, step=3)
    run.end()
    (stored,) = client.search_runs([client.get_experiment_by_name(f"again {when}").experiment_id])
    assert (stored.info.run_id, stored.info.status) == (run.run_id, "FINISHED")
    assert [(m.step, m.value) for m in client.get_metric_history(run.run_id, "loss")] == [(3, 0.5)]
    assert trouble.calls.count("set_terminated") == 2


def test_messages_wait_for_a_store_that_comes_back(uri, client, monkeypatch):
    trouble = Trouble(client, log_batch=["before"] * 5, search_experiments=["before"] * 5)
    monkeypatch.setattr(_line.mlflow, "MlflowClient", lambda uri: trouble)
    run = PatientRun(uri).start("back")
    for step in range(20):
        run.log_metrics({"loss": float(step)}, step=step)
    # Patience was spent on the first ones: nobody waits any more.
    assert trouble.calls.count("log_batch") < 5
    assert client.get_metric_history(run.run_id, "loss") == []
    trouble._fails.clear()
    run.end()
    assert [m.step for m in client.get_metric_history(run.run_id, "loss")] == list(range(20))
    assert status(client, run) == "FINISHED"


def test_one_message_that_is_refused_holds_up_no_other(uri, client, tmp_path, monkeypatch):
    monkeypatch.setattr(_line, "_PATIENCE", 10.0)
    trouble = Trouble(client, log_dict=["before"] * 9)
    monkeypatch.setattr(_line.mlflow, "MlflowClient", lambda uri: trouble)
    run = PatientRun(uri).start("refused", "fit")
    run.log_metrics({"no such? name!": 1.0})  # MLflow refuses
    run.log_artifact(tmp_path / "missing.txt")
    run.log_dict({}, "never.json")  # the store answers, and never takes it
    run.log_metrics({"good": 1.0})
    with pytest.warns(UserWarning, match=r"lost: 1 x metric, 2 x file \(ConnectionError: no route\)"):
        run.end()
    assert client.get_run(run.run_id).data.metrics == {"good": 1.0}
    assert trouble.calls.count("log_dict") == _line._TRIES


def test_a_deleted_experiment_is_said(uri, client):
    client.delete_experiment(client.create_experiment("deleted"))
    run = PatientRun(uri).start("deleted")
    with pytest.warns(UserWarning, match=r"lost: 1 x run, 1 x end of a run \(MlflowException: .*deleted"):
        run.end()


def test_a_copy_in_another_process_writes_nothing(uri, client, monkeypatch):
    run = PatientRun(uri).start("copies")
    copy = pickle.loads(pickle.dumps(run))
    copy.log_metrics({"twice": 1.0})
    copy.end()
    with monkeypatch.context() as elsewhere:  # as after a fork
        elsewhere.setattr(os, "getpid", lambda: 1)
        run.log_metrics({"twice": 1.0})
        run.end()
    stored = client.get_run(run.run_id)
    assert (stored.data.metrics, stored.info.status) == ({}, "RUNNING")
    again = PatientRun(uri).start("copies")
    again.end()
    assert status(client, run) == "KILLED"  # nobody of this process will end it


# ----------------------------------------------------------------------------- what is left over

KILLED = """
import os, signal, sys
from ensemble_kit.tracking.patient import PatientRun
run = PatientRun(sys.argv[1]).start("left over")
child = run.child("member")
print(run.run_id, child.run_id, flush=True)
if sys.argv[2] == "dies":
    os.kill(os.getpid(), signal.SIGKILL)
sys.stdin.read()
"""


def test_runs_of_dead_processes_are_ended_and_no_others(uri, client):
    command = [sys.executable, "-c", KILLED, uri]
    alive = subprocess.Popen([*command, "lives"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        dead = subprocess.run([*command, "dies"], stdout=subprocess.PIPE, text=True, check=False)
        assert dead.returncode == -signal.SIGKILL
        left, living = dead.stdout.split(), alive.stdout.readline().split()
        mine = PatientRun(uri).start("left over")
        where = client.get_experiment_by_name("left over").experiment_id
        tags = {key: value for key, value in client.get_run(mine.run_id).data.tags.items() if "ensemble_kit" in key}
        reused = client.create_run(where, tags=tags | {"ensemble_kit.process": f"{os.getpid()} 1"})
        foreign = client.create_run(
            where, tags=tags | {"ensemble_kit.host": "elsewhere", "ensemble_kit.process": "1 1"}
        )
        users = client.create_run(where)  # made by hand
        PatientRun(uri).start("left over").end()
        states = {run.info.run_id: run.info.status for run in client.search_runs([where])}
        assert [states[run_id] for run_id in left] == ["KILLED"] * 2
        assert states[reused.info.run_id] == "KILLED"  # the number is this process's, and was another's
        for run_id in (*living, mine.run_id, foreign.info.run_id, users.info.run_id):
            assert states[run_id] == "RUNNING"
        mine.end()
    finally:
        alive.communicate()


def test_an_end_that_was_lost_is_made_up_for(uri, client, monkeypatch):
    run = PatientRun(uri).start("lost end")
    with monkeypatch.context() as down:
        broken = Trouble(client, set_terminated=["before"] * 99, search_experiments=["before"] * 99)
        down.setattr(run._line, "_client", broken)
        with pytest.warns(UserWarning, match="lost: 1 x end of a run"):
            run.end()
    assert status(client, run) == "RUNNING"
    PatientRun(uri).start("lost end").end()
    assert status(client, run) == "KILLED"


def test_nothing_is_said_where_nothing_is_lost(uri):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        PatientRun(uri).start("quiet").end()
    with pytest.raises(MlflowException):
        MlflowClient(uri).get_run("nobody")
