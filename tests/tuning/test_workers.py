"""Several processes on one study, most of which are killed."""

import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from ensemble_kit.tuning import create_study, tune

WORKER = Path(__file__).with_name("worker.py")
INTERVAL = 1


class Workers:
    """Workers of one study, and the ways they end."""

    def __init__(self, storage, n_trials, seconds, *gate):
        self.arguments = [sys.executable, str(WORKER), storage, "kills", str(n_trials), str(seconds), *map(str, gate)]
        self.running = []

    def start(self, count):
        new = [subprocess.Popen(self.arguments, stdout=subprocess.PIPE, text=True) for _ in range(count)]
        for worker in new:
            assert worker.stdout.readline() == "ready\n"
        self.running += new

    def kill(self, count):
        for worker in self.running[:count]:
            worker.send_signal(signal.SIGKILL)
            worker.wait()
            worker.stdout.close()
        del self.running[:count]

    def wait(self):
        assert [worker.wait(timeout=300) for worker in self.running] == [0] * len(self.running)

    def end(self):
        for worker in self.running:
            worker.kill()
            worker.wait()
            worker.stdout.close()


@pytest.fixture
def studies():
    """Make studies, and close their connections afterwards."""
    made = []

    def make(storage, name="kills"):
        made.append(create_study(name, storage=storage, directions=["minimize"], heartbeat_interval=INTERVAL))
        return made[-1]

    yield make
    for study in made:
        study._storage._backend.engine.dispose()


@pytest.fixture
def study(studies, tmp_path, monkeypatch):
    """A study of this process alone, so that trials may be given up soon."""
    monkeypatch.setattr("ensemble_kit.tuning._rdb.GRACE", 1)
    monkeypatch.setattr("ensemble_kit.tuning.study.GRACE", 0.1)
    monkeypatch.setattr("ensemble_kit.tuning.study._LOOK", 0.1)
    return studies(f"sqlite:///{tmp_path}/study.db", "one")


def run_with_kills(studies, storage, *, n_trials, rounds, seconds):
    """Start 4 workers, kill 3 of them while they work, replace them, and so on; the last ones finish."""
    study = studies(storage)
    workers = Workers(storage, n_trials, seconds)
    try:
        workers.start(4)
        for number in range(rounds):
            time.sleep(seconds * 1.5)
            until = time.monotonic() + 20
            # Of two that work, three kills hit one at least; on a busy machine they may all be about to begin.
            while len(study.get_trials(False, (TrialState.RUNNING,))) < 2 and time.monotonic() < until:
                time.sleep(0.01)
            workers.kill(3)
            if number < rounds - 1:
                workers.start(3)
        workers.wait()
    finally:
        workers.end()
    return study


def check_study(study, n_trials):
    trials = [trial for trial in study.get_trials() if "surplus" not in trial.user_attrs]
    states = Counter(trial.state for trial in trials)
    assert states[TrialState.RUNNING] == states[TrialState.WAITING] == 0
    histories = [tuple(trial.system_attrs.get("retry_history", ())) for trial in trials]
    fresh = [trial for trial, history in zip(trials, histories, strict=True) if not history]
    assert len(fresh) == n_trials
    lost = {trial.number for trial in trials if trial.state == TrialState.FAIL}
    first_lost = {trial.number for trial in fresh} & lost
    # Each trial that was lost has one retry, with its parameters; a retry that was lost has none.
    assert Counter(history for history in histories if history) == Counter((number,) for number in first_lost)
    of = {trial.number: trial for trial in trials}
    for trial, history in zip(trials, histories, strict=True):
        if history and of[history[0]].params:
            assert trial.params == of[history[0]].params
    assert states[TrialState.COMPLETE] == n_trials - len(lost - first_lost)
    assert states[TrialState.COMPLETE] + len(lost) == len(trials)
    return len(lost)


def test_killed_workers_lose_no_trial(studies, tmp_path):
    storage = f"sqlite:///{tmp_path}/study.db"
    study, gate = studies(storage), tmp_path / "gate"
    workers = Workers(storage, 6, 0.1, gate)
    try:
        workers.start(4)
        while len(study.get_trials(False, (TrialState.RUNNING,))) < 4:  # none ends before the gate is there
            assert all(worker.poll() is None for worker in workers.running)
            time.sleep(0.01)
        workers.kill(3)
        gate.touch()
        workers.wait()
    finally:
        workers.end()
    assert check_study(study, 6) == 3


@pytest.mark.slow
def test_twenty_kills(studies, tmp_path):
    study = run_with_kills(studies, f"sqlite:///{tmp_path}/study.db", n_trials=60, rounds=7, seconds=1.0)
    assert check_study(study, 60) >= 10


@pytest.mark.slow
def test_twenty_kills_on_postgresql(studies, postgres):
    study = run_with_kills(studies, postgres, n_trials=60, rounds=7, seconds=1.0)
    assert check_study(study, 60) >= 10


def test_a_worker_that_died_is_noticed_on_postgresql(studies, postgres):
    study = studies(postgres)
    ask(study)
    tune(lambda trial: trial.suggest_float("x", 0, 1), study, n_trials=2, timeout=30)
    assert check_study(study, 2) == 1


# ---------------------------------------------------------------- deaths at chosen lines


def ask(study):
    with pytest.warns(UserWarning, match="Heartbeat of storage"):
        return study.ask()


def test_a_worker_that_died_before_its_first_heartbeat(study):
    ask(study)
    tune(lambda trial: trial.suggest_float("x", 0, 1), study, n_trials=2, timeout=30)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.FAIL, TrialState.COMPLETE, TrialState.COMPLETE]
    assert study.trials[2].system_attrs["retry_history"] == [0]


def test_a_worker_that_died_between_failing_a_trial_and_its_retry(study):
    study.tell(ask(study), state=TrialState.FAIL)
    tune(lambda trial: trial.suggest_float("x", 0, 1), study, n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_a_trial_beyond_the_number_is_not_run(study):
    ran = []

    def objective(trial):
        if not ran:  # another worker begins the second and, in the same instant, a third
            study.add_trial(optuna.create_trial(state=TrialState.WAITING))
            study.add_trial(optuna.create_trial(state=TrialState.WAITING))
        ran.append(trial.number)
        return 0.0

    tune(objective, study, n_trials=2)
    assert ran == [0, 1]
    assert study.trials[2].user_attrs["surplus"] is True
    assert len(study.trials) == 3


def test_a_retry_that_was_added_twice_is_run_once(study):
    ran = []
    study.tell(ask(study), state=TrialState.FAIL)
    for _ in range(2):
        study.add_trial(optuna.create_trial(state=TrialState.WAITING, system_attrs={"retry_history": [0]}))
    tune(lambda trial: ran.append(trial.number) or 0.0, study, n_trials=1)
    assert ran == [1]
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE, TrialState.FAIL]


@pytest.mark.parametrize("touch", [True, False])
def test_a_trial_that_was_given_away_is_dropped(study, touch):
    ran = []

    def objective(trial):
        ran.append(trial.number)
        if len(ran) == 1:
            study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            if touch:
                trial.set_user_attr("late", 1)
        return 0.0

    with pytest.warns(UserWarning, match="trial 0 had no heartbeat for too long and was given to another worker"):
        tune(objective, study, n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]


def test_an_interrupted_trial_is_tried_again(study):

    def interrupted(trial):
        trial.suggest_float("x", 0, 1)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune(interrupted, study, n_trials=1)
    tune(lambda trial: trial.suggest_float("x", 0, 1), study, n_trials=1)
    assert [trial.state for trial in study.trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert study.trials[0].params == study.trials[1].params
