"""The command line, as a user runs it: from a file to a registered model and a report, and its errors."""

import argparse
import signal
import subprocess
import sys
import time
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest

from ensemble_kit.cli import main
from ensemble_kit.cli._shared import check_against, read
from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.fingerprint import fingerprint
from ensemble_kit.tracking import load_card, load_model

BARS = make_bars(1500, signal=2.0, random_state=0)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with a file of bars and a store of its own."""
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    BARS.reset_index().to_parquet("bars.parquet")
    yield tmp_path
    mlflow.set_tracking_uri(before)


def store():
    # Its whole path: MLflow keeps the connection of a relative one when the folder changes.
    return f"sqlite:///{Path.cwd() / 'store.db'}"


def run(*arguments):
    return main([*arguments, "--tracking-uri", store()])


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_train_then_backtest_then_another_process(here, capsys):
    assert run("train", "--data", "bars.parquet", "--name", "T", "--preset", "smoke") == 0
    out = capsys.readouterr().out
    assert "Registered T version 1 as @champion." in out
    assert run("backtest", "--data", "bars.parquet", "--name", "T") == 0
    out = capsys.readouterr().out
    for word in (
        "auc_pr_causal_rule",
        "auc_pr_surrogate",
        "calibration_slope",
        "Brier",
        "Skill: ",
        "buy_and_hold",
        "sharpe",
    ):
        assert word in out
    for picture in ("signals", "reliability", "equity", "weights"):
        assert (here / "ensemble_kit_output" / "T" / f"{picture}.png").stat().st_size > 10_000

    card = load_card("T")
    assert pd.Timestamp(card["last_training_bar"]) < pd.Timestamp(card["holdout_start"])
    client = mlflow.MlflowClient()
    runs = client.search_runs([client.get_experiment_by_name("T").experiment_id])
    (finished,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert sorted(run.info.run_name for run in runs if run is not finished) == ["lightgbm", "lstm_gru"]
    assert {run.info.status for run in runs} == {"FINISHED"}
    assert finished.info.status == "FINISHED"
    assert {"holdout_auc_pr_peak", "holdout_brier_skill", "weight_lightgbm_H0"} <= set(finished.data.metrics)
    assert len(client.get_metric_history(finished.info.run_id, "auc_pr_lightgbm_H0")) == 3  # one a fold
    assert any(item.path.endswith("equity.png") for item in client.list_artifacts(finished.info.run_id, "holdout"))

    here_and_now = load_model("T").predict_proba(BARS)
    code = (
        "import sys, mlflow, numpy as np, pandas as pd\n"
        "from ensemble_kit.tracking import load_model\n"
        "from ensemble_kit.datasets import read_bars\n"
        "mlflow.set_tracking_uri('sqlite:///store.db')\n"
        "np.save('there.npy', load_model('models:/T@champion').predict_proba(read_bars('bars.parquet')))\n"
        "table = pd.read_parquet('bars.parquet').rename(columns={'datetime': 'timestamp'})\n"
        "table['timestamp'] = table['timestamp'].dt.tz_localize(None)\n"
        "served = mlflow.pyfunc.load_model('models:/T@champion').predict(table)\n"
        "np.save('served.npy', served[['p_bottom', 'p_peak', 'p_slope']].to_numpy())\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, capture_output=True)
    np.testing.assert_array_equal(np.load("there.npy"), here_and_now)
    # Served probabilities are of the horizon that trades, exp of their logs.
    np.testing.assert_allclose(np.load("served.npy"), here_and_now, rtol=1e-14)

    # Again, on the same bars: nothing is fitted twice, and the version counts on.
    assert run("train", "--data", "bars.parquet", "--name", "T", "--preset", "smoke") == 0
    assert "Registered T version 2" in capsys.readouterr().out
    np.testing.assert_array_equal(load_model("T").predict_proba(BARS), here_and_now)


def spoil(column, row, value):
    bars = BARS.copy()
    bars.iloc[row, bars.columns.get_loc(column)] = value
    return bars


BAD = {
    "a missing column": (BARS.drop(columns="close"), "missing close"),
    "unsorted times": (BARS.iloc[::-1], "must be sorted by time; row 1"),
    "duplicate times": (pd.concat([BARS.iloc[:5], BARS.iloc[4:]]), "must have unique times; 2022-01-03 14:50"),
    "high below low": (spoil("high", 7, 1.0), "must have high >= low; got open="),
    "an infinite price": (spoil("close", 7, np.inf), r"must have finite prices; got open="),
    "too few bars for the folds": (BARS.iloc[:60], "fold 0 has none after purging"),
    "fewer bars than a label's window": (BARS.iloc[:20], "must have at least 37 bars"),
}


def refused(capsys, *words):
    captured = capsys.readouterr()
    lines = captured.err.strip().splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    for word in words:
        assert word in lines[0]


def nothing_registered():
    mlflow.set_tracking_uri(store())
    client = mlflow.MlflowClient()
    assert client.search_registered_models() == []
    assert [run for one in client.search_experiments() for run in client.search_runs([one.experiment_id])] == []


@pytest.mark.parametrize("case", BAD)
def test_bad_bars_are_one_line_and_leave_nothing_behind(case, here, capsys):
    bars, words = BAD[case]
    bars.reset_index().to_parquet("bad.parquet")
    assert run("train", "--data", "bad.parquet", "--name", "T", "--preset", "smoke") == 2
    refused(capsys, words)
    assert not (here / "store.db").exists() or nothing_registered() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "--data", "no.parquet", "--name", "T"), "no.parquet"),
        (("train", "--data", "torn.parquet", "--name", "T"), "torn.parquet"),
        (("train", "--data", "bars.parquet", "--name", "T", "--preset", "huge"), "must be one of smoke, small"),
        (("train", "--data", "bars.parquet", "--name", "T", "--holdout", "1.5"), "`--holdout` must be a share"),
        (("train", "--data", "bars.parquet", "--name", "T", "--session", "NYSE?"), "got 'NYSE?'"),
        (
            ("backtest", "--data", "bars.parquet", "--name", "T", "--surrogates", "3"),
            "`--surrogates` must be at least 19",
        ),
        (("backtest", "--data", "bars.parquet", "--name", "Nobody"), "must be a registered model; got 'Nobody'"),
    ],
)
def test_bad_arguments_are_one_line(arguments, words, here, capsys):
    (here / "torn.parquet").write_bytes((here / "bars.parquet").read_bytes()[:1000])
    assert run(*arguments) == 2
    refused(capsys, words)


def test_the_installed_command_and_its_exit_code(tmp_path):
    command = [sys.executable, "-m", "ensemble_kit.cli", "train", "--data", "no.csv", "--name", "T"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def panel_of(names):
    return make_bars(300, instruments=names, random_state=0).reset_index()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--name", "a/b"), "without / and :; got 'a/b'"),
        (("--name", ""), "must be a model's name"),
        (("--name", "T", "--threads", "0"), "`--threads` must be at least 1"),
        (("--name", "T", "--holdout", "nan"), "`--holdout` must be a share between 0 and 1"),
        (("--name", "T", "--data", "panel.parquet"), "must hold one instrument; panel.parquet holds 2 (A, B"),
        (("--name", "T", "--data", "flat.parquet"), "must hold prices that turn"),
    ],
)
def test_what_cannot_be_trained_is_said_before_a_run_is_opened(options, words, here, capsys):
    panel_of(["A", "B"]).to_parquet("panel.parquet")
    flat = BARS.copy()
    flat[["open", "high", "low", "close"]] = 100.0
    flat.reset_index().to_parquet("flat.parquet")
    assert run("train", "--data", "bars.parquet", "--preset", "smoke", *options) == 2
    refused(capsys, words)
    nothing_registered()


@pytest.mark.parametrize("uri", ["sqlite:///text.db", "foo://x", "http://127.0.0.1:9"])
def test_a_store_that_does_not_answer_is_one_line(uri, here, capsys):
    (here / "text.db").write_text("not a database")
    command = ("train", "--data", "bars.parquet", "--name", "T", "--preset", "smoke", "--tracking-uri", uri)
    assert main(command) == 2
    refused(capsys, "must be a store that answers")


CARD = {
    "bar": "0 days 00:05:00",
    "columns": ["open", "high", "low", "close", "volume"],
    "first_training_bar": str(BARS.index[0]),
    "last_training_bar": str(BARS.index[999]),
    "n_training_bars": 1000,
    "bars_fingerprint": fingerprint(BARS.iloc[:1000]),
}


def test_a_model_is_judged_on_its_own_bars():
    assert check_against(CARD, BARS)
    with pytest.raises(EnsembleKitError, match="bars of 0 days 00:05:00, as in training; got bars of 0 days 01"):
        check_against(CARD, make_bars(500, bar="1h", random_state=0))
    for spoilt in (BARS.drop(columns="volume"), BARS.assign(volume=np.nan)):
        with pytest.raises(EnsembleKitError, match="must have volume, as in training"):
            check_against(CARD, spoilt)
    with pytest.warns(UserWarning, match="not the bars that the model was trained on"):
        assert not check_against(CARD, make_bars(1500, random_state=1))


def test_what_would_fool_a_reader_is_said(here, capsys):
    odd = BARS.copy()
    odd.iloc[1400:, :4] *= 4.0  # a reverse split
    odd.iloc[1300, :4] = np.nan
    odd.reset_index().to_parquet("odd.parquet")
    options = argparse.Namespace(data=here / "odd.parquet", tz=None)
    with pytest.warns(UserWarning, match=r"move by more than 50%|have no price") as said:
        read(options)
    assert len(said) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_interrupted_is_one_line_and_resumes(here):
    command = [sys.executable, "-m", "ensemble_kit.cli", "train", "--data", "bars.parquet", "--name", "T"]
    command += ["--preset", "smoke", "--tracking-uri", "sqlite:///store.db"]
    started = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stored = here / "ensemble_kit_output" / "memory"
    while not list(stored.rglob("*.checkpoint")) and started.poll() is None:
        time.sleep(0.05)
    started.send_signal(signal.SIGINT)
    _, err = started.communicate(timeout=120)
    assert started.returncode == 130, err
    assert err.strip().splitlines()[-1].startswith("interrupted")
    assert "Traceback" not in err
    mlflow.set_tracking_uri(store())
    assert mlflow.MlflowClient().search_registered_models() == []
    assert run("train", "--data", "bars.parquet", "--name", "T", "--preset", "smoke") == 0
