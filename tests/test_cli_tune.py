"""`tune`: training rows only, several workers on one storage, the best as a file of its own."""

import subprocess
import sys

import mlflow
import numpy as np
import optuna
import pytest

from ensemble_kit.cli import main
from ensemble_kit.datasets import make_bars
from ensemble_kit.experiments import Experiment

FILE = """\
# mine
name = "T"

[bars]
file = "bars.parquet"  # here

[features.session]

[members.lightgbm]
seq_len = 1        # last row
n_estimators = 15  # few

[folds]
n_splits = 2

[vote]
events = ["peak", "bottom"]
"""
pytestmark = [
    pytest.mark.filterwarnings("ignore:temperature on its bound"),
    pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with an experiment and its bars."""
    monkeypatch.chdir(tmp_path)
    make_bars(1000, signal=2.0, random_state=0).reset_index().to_parquet("bars.parquet")
    (tmp_path / "spy.toml").write_text(FILE)
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    yield tmp_path
    mlflow.set_tracking_uri(before)


def load(here, name="T"):
    return optuna.load_study(study_name=name, storage=f"sqlite:///{here / 'ensemble_kit_output' / 'tuning.db'}")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "`--trials` or `--timeout` must say when to stop"),
        (["--trials", "0"], "`--trials` must be above 0; got 0"),
        (["--trials", "1", "--metric", "nonsense"], "`scoring` must be one of auc_pr"),
        (["--trials", "1", "--holdout", "2"], "`--holdout` must be a share between 0 and 1; got 2"),
    ],
)
def test_refusals_are_one_line(arguments, words, here, capsys):
    assert main(["tune", "--config", "spy.toml", *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line
    assert not (here / "spy.best.toml").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_best_is_a_file_and_no_trial_saw_the_holdout(here, capsys):
    assert main(["tune", "--config", "spy.toml", "--trials", "3"]) == 0
    out = capsys.readouterr().out
    assert "no trial sees the 200 bars of the holdout" in out
    assert all(f"trial {number}: auc_pr_excess " in out for number in range(3))
    study = load(here)
    client = mlflow.MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("T").experiment_id])
    assert len([run for run in runs if "mlflow.parentRunId" in run.data.tags]) == 3  # one a trial, under the study's
    assert len(runs) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    best = Experiment.read("spy.best.toml")
    params = {name.rpartition("__")[2]: value for name, value in study.best_params.items()}
    for key in ("seq_len", "n_estimators", "num_leaves", "min_child_samples", "learning_rate", "lags"):
        assert best.settings["members"]["lightgbm"][key] == params[key]
    assert best.settings["vote"]["power"] == params["power"]
    assert not any("sizer" in name for name in study.best_params)
    assert "# few" in best.text
    assert (here / "spy.toml").read_text() == FILE

    # Other bars in the holdout: the same trials, to the last bit.
    bars = make_bars(1000, signal=2.0, random_state=0)
    bars.iloc[800:, :4] *= np.linspace(1.0, 1.5, 200)[:, None]
    bars.reset_index().to_parquet("bars.parquet")
    assert main(["tune", "--config", "spy.toml", "--trials", "3", "--study", "again"]) == 0
    assert [trial.values for trial in load(here, "again").trials] == [trial.values for trial in study.trials]
    # The same study goes on; with other rows it does not.
    assert main(["tune", "--config", "spy.toml", "--trials", "4"]) == 0
    assert len(load(here).trials) == 4
    capsys.readouterr()
    assert main(["tune", "--config", "spy.toml", "--trials", "5", "--holdout", "0.3"]) == 2
    assert "rows, folds and scores that the study 'T' was made for" in capsys.readouterr().err


@pytest.mark.slow
def test_two_workers_share_the_trials_and_positions_tune_the_sizer(here):
    command = [sys.executable, "-m", "ensemble_kit.cli", "tune", "--config", "spy.toml", "--trials", "4"]
    command += ["--metric", "total_return", "max_drawdown"]
    workers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [worker.communicate(timeout=300) for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], said
    study = load(here)
    assert [trial.number for trial in study.trials if trial.state.name == "COMPLETE"] == [0, 1, 2, 3]
    begun = [line for out, _ in said for line in out.splitlines() if line.startswith("trial ")]
    assert len(begun) == 4
    assert {"fraction", "conservatism"} <= set(Experiment.read("spy.best.toml").settings["sizing"])
