"""`init`, `train` and `backtest` of an experiment file: what each flag does, and when it refuses."""

import mlflow
import numpy as np
import pandas as pd
import pytest

from ensemble_kit.cli import main
from ensemble_kit.datasets import make_bars
from ensemble_kit.experiments import Experiment
from ensemble_kit.tracking import load_card, load_model

BARS = make_bars(1500, signal=2.0, random_state=0)
FILE = """\
# mine
name = "T"
session = "XNYS"  # the exchange

[bars]
file = "bars.parquet"

[features.session]
[features.alpha158]

[members.lightgbm]
seq_len = 1        # last row
n_estimators = 15  # few

[folds]
n_splits = 2

[vote]
events = ["peak", "bottom"]

[selector]
k = 12  # a dozen

[costs]
commission_bps = 2.5
"""
OPTIONS = ["--config", "spy.toml"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty folder with an experiment, its bars and a store of its own."""
    monkeypatch.chdir(tmp_path)
    before = mlflow.get_tracking_uri()
    BARS.reset_index().to_parquet("bars.parquet")
    (tmp_path / "spy.toml").write_text(FILE)
    yield tmp_path
    mlflow.set_tracking_uri(before)


def run(here, *arguments):
    return main([*arguments, "--tracking-uri", f"sqlite:///{here / 'store.db'}"])


def refused(capsys, *words):
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    for word in words:
        assert word in lines[0]


def versions():
    found = mlflow.MlflowClient().search_model_versions("name = 'T'")
    return {int(one.version): one for one in found}


# ------------------------------------------------------------------------- init


def test_init_writes_and_never_writes_over(here, capsys):
    assert main(["init"]) == 0
    assert "Wrote experiment.toml" in capsys.readouterr().out
    assert Experiment.read("experiment.toml") == Experiment.default("small")
    assert main(["init", "--preset", "full"]) == 2
    refused(capsys, "error: `PATH` must be a new file; experiment.toml is there.")
    assert main(["init", "--preset", "full", "--force"]) == 0
    assert main(["init", "--preset", "full", "full.toml"]) == 0
    assert Experiment.read("experiment.toml") == Experiment.read("full.toml") == Experiment.default("full")
    assert main(["init", "--preset", "huge", "huge.toml"]) == 2
    assert not (here / "huge.toml").exists()


# ------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "`--config` must name an experiment file, or `--data` and `--name` must be given"),
        (["--data", "bars.parquet"], "`--config` must name an experiment file"),
        (["--config", "no.toml"], "no.toml"),
        (["--config", "wrong.toml"], "`wrong.toml` must hold an experiment; got 1 wrong entry: [labels] ww"),
        ([*OPTIONS, "--preset", "smoke"], "`--preset` must not be given beside `--config`"),
        ([*OPTIONS, "--deployment", "--auto-update-holdout"], "`--deployment` must be given without"),
        ([*OPTIONS, "--auto-update-holdout", "--holdout", "0.1"], "`--auto-update-holdout` must be given without"),
        ([*OPTIONS, "--skip-base-models", "--from-scratch"], "`--skip-base-models` must be given without"),
        (["--data", "bars.parquet", "--name", "T", "--select-features"], "must have an experiment file to write"),
        ([*OPTIONS, "--version", "3"], "`--version` must be a label that is no number and no alias; got '3'"),
        ([*OPTIONS, "--version", "champion"], "got 'champion'"),
        ([*OPTIONS, "--holdout", "soon"], 'a length such as "30D" or a day such as "2024-05-01"; got \'soon\''),
        ([*OPTIONS, "--auto-update-holdout"], "30 days"),  # the bars are of four weeks
        ([*OPTIONS, "--skip-base-models"], "must find fitted members; no version of T is registered"),
        (["--config", "columns.toml"], "got nobody."),
    ],
)
def test_what_cannot_be_run_is_one_line_and_leaves_nothing(arguments, words, here, capsys):
    (here / "wrong.toml").write_text(FILE + "[labels]\nww = 3\n")
    (here / "columns.toml").write_text(FILE.replace("k = 12", 'on = true\ncolumns = ["nobody"]\nk = 12'))
    assert run(here, "train", *arguments) == 2
    refused(capsys, "error: ", words)
    mlflow.set_tracking_uri(f"sqlite:///{here / 'store.db'}")
    client = mlflow.MlflowClient()
    assert not [one for each in client.search_experiments() for one in client.search_runs([each.experiment_id])]


def test_what_cannot_be_stored_is_not_trained(here, capsys, monkeypatch):
    from ensemble_kit.tracking import model

    monkeypatch.setattr(model, "TRUSTED", [name for name in model.TRUSTED if "KellySizer" not in name])
    assert run(here, "train", *OPTIONS) == 2
    refused(capsys, "`model` must be made of", "got ensemble_kit.sizing.kelly.KellySizer")
    assert not (here / "ensemble_kit_output").exists()


# ------------------------------------------------------------------------- runs


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_file_as_run_goes_with_the_run_and_the_card(here, capsys):
    assert run(here, "train", *OPTIONS, "--version", "first", "--seed", "4", "--holdout", "2022-01-25") == 0
    assert "Registered T version 1 as @champion." in capsys.readouterr().out
    assert (here / "spy.toml").read_text() == FILE
    card = load_card("T")
    asked = Experiment.read("spy.toml").replace({"seed": 4, "holdout": "2022-01-25"})
    assert card["experiment"] == asked.settings
    assert pd.Timestamp(card["holdout_start"]) == pd.Timestamp("2022-01-25 14:30", tz="UTC")
    assert (card["version"], card["deployment"], card["seed"]) == ("first", False, 4)
    done = mlflow.get_run(versions()[1].run_id)
    assert (done.data.tags["version"], done.data.tags["deployment"]) == ("first", "false")
    text = mlflow.artifacts.load_text(f"runs:/{done.info.run_id}/experiment.toml")
    assert "n_estimators = 15  # few" in text
    (here / "again.toml").write_text(text)
    assert Experiment.read("again.toml") == asked
    # The same model, from the artifact alone.
    assert run(here, "train", "--config", "again.toml") == 0
    assert "Registered T version 2 as @challenger." in capsys.readouterr().out
    one, other = (load_model(f"models:/T/{version}").predict_position(BARS) for version in (1, 2))
    np.testing.assert_array_equal(one, other)

    # By its label, and with a sizer of another mind, which is said and not logged.
    assert run(here, "backtest", "--data", "bars.parquet", "--name", "T", "--version", "first") == 0
    logged = mlflow.get_run(done.info.run_id).data.metrics
    assert "holdout_auc_pr_peak" in logged
    said = capsys.readouterr().out
    options = ["--version", "1", "--kelly-fraction", "1", "--kelly-conservatism", "0", "--cost-bps", "0"]
    assert run(here, "backtest", "--data", "bars.parquet", "--name", "T", *options) == 0
    resized = capsys.readouterr().out
    assert "Sized by fraction=1, conservatism=0, which is not how the model was registered: not logged" in resized
    assert said != resized
    assert "fraction=1, conservatism=0" in (here / "ensemble_kit_output" / "T" / "report.html").read_text()
    assert mlflow.get_run(done.info.run_id).data.metrics == logged
    assert load_model("models:/T/1").sizer_.fraction == 0.5
    for options, words in (
        (["--kelly-fraction", "2"], "`fraction` must be in (0, 1]; got 2.0."),
        (["--version", "nope"], "`version` must be a version of T: 1, 2, or an alias: "),
        (["--version", "9"], "`version` must be a version of T: 1, 2, or an alias: "),
    ):
        assert run(here, "backtest", "--data", "bars.parquet", "--name", "T", *options) == 2
        refused(capsys, words)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_base_models_are_skipped_or_it_is_refused(here, capsys):
    assert run(here, "train", *OPTIONS) == 0
    # The memory is not what they come from.
    for kept in (here / "ensemble_kit_output" / "memory" / "T").glob("*"):
        kept.unlink()
    sharp = FILE + '[calibration]\nmethod = "none"\n[sizing]\nconservatism = 0.0\nfraction = 1.0\n'
    (here / "spy.toml").write_text(sharp)
    assert run(here, "train", *OPTIONS, "--skip-base-models") == 0
    assert "Training T on the members of version 1" in capsys.readouterr().out
    assert not [*(here / "ensemble_kit_output" / "memory" / "T").glob("*")]
    assert load_card("models:/T/2")["members_of"] == 1
    skipped = load_model("models:/T/2")
    # It is what a fit of everything gives.
    assert run(here, "train", *OPTIONS) == 0
    whole = load_model("models:/T/3")
    np.testing.assert_array_equal(skipped.predict_proba(BARS), whole.predict_proba(BARS))
    np.testing.assert_array_equal(skipped.predict_position(BARS), whole.predict_position(BARS))
    assert np.abs(skipped.predict_position(BARS) - load_model("models:/T/1").predict_position(BARS)).max() > 0
    assert str(skipped.row_usage_) == str(whole.row_usage_)

    capsys.readouterr()
    (here / "spy.toml").write_text(sharp.replace("n_estimators = 15", "n_estimators = 16"))
    assert run(here, "train", *OPTIONS, "--skip-base-models") == 2
    refused(capsys, "since version 3 of T members.lightgbm.n_estimators changed")
    (here / "spy.toml").write_text(sharp)
    changed = BARS.copy()
    changed.iloc[5, changed.columns.get_loc("volume")] += 1
    changed.reset_index().to_parquet("bars.parquet")
    assert run(here, "train", *OPTIONS, "--skip-base-models") == 2
    refused(capsys, "must have the training bars of version 3 of T (1164 from 2022-01-03")
    assert len(versions()) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_columns_are_chosen_on_training_rows_and_written_down(here, capsys):
    assert run(here, "train", *OPTIONS, "--select-features") == 0
    out = capsys.readouterr().out
    assert "Kept 12 of 161 columns on 1128 training rows" in out
    assert "figures out of fold are flattered" in out
    after = (here / "spy.toml").read_text()
    kept = Experiment.read("spy.toml").settings["selector"]["columns"]
    assert len(kept) == 12
    assert load_card("T")["features"] == kept
    # Nothing but these lines is new.
    written = after.replace("on = true\ncolumns = [\n" + "".join(f'    "{name}",\n' for name in kept) + "]\n", "")
    assert written.split() == FILE.split()
    # What the holdout holds does not matter.
    (here / "spy.toml").write_text(FILE)
    other = BARS.copy()
    other.iloc[1200:, :4] *= np.linspace(1.0, 1.2, 300)[:, None]
    other.reset_index().to_parquet("bars.parquet")
    assert run(here, "train", *OPTIONS, "--select-features") == 0
    assert Experiment.read("spy.toml").settings["selector"]["columns"] == kept


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_deployment_and_from_scratch(here, capsys):
    assert run(here, "train", *OPTIONS, "--deployment") == 0
    assert "nothing is held back" in capsys.readouterr().out
    card = load_card("T")
    assert (card["deployment"], card["holdout_start"], card["n_training_bars"]) == (True, None, 1464)
    assert run(here, "backtest", "--data", "bars.parquet", "--name", "T") == 2
    refused(capsys, "must be of a model with a holdout; T was trained with --deployment on all bars up to 2022-01-27")
    memory = here / "ensemble_kit_output" / "memory" / "T"
    kept = {file.name: file.stat().st_mtime_ns for file in memory.glob("*.checkpoint")}
    assert len(kept) == 3
    assert run(here, "train", *OPTIONS, "--deployment") == 0
    assert {file.name: file.stat().st_mtime_ns for file in memory.glob("*.checkpoint")} == kept
    (memory / "others").write_text("")
    assert run(here, "train", *OPTIONS, "--deployment", "--from-scratch") == 0
    again = {file.name: file.stat().st_mtime_ns for file in memory.glob("*")}
    assert again.keys() == kept.keys()
    assert all(again[name] > kept[name] for name in kept)


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_the_holdout_moves_with_the_bars(here):
    bars = make_bars(3200, signal=2.0, random_state=1)
    bars.reset_index().to_parquet("bars.parquet")
    assert run(here, "train", *OPTIONS, "--auto-update-holdout") == 0
    card = load_card("T")
    first = bars.index[bars.index > bars.index[-1] - pd.Timedelta("30D")][0]
    assert (card["holdout_start"], card["holdout_end"]) == (str(first), str(bars.index[-1]))
    assert card["experiment"]["holdout"] == "30D"
    assert "holdout" not in (here / "spy.toml").read_text()
