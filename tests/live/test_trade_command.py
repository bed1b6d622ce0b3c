"""`ensemble-kit trade`, as a user runs it: stopped, run again, and held against the backtest."""

import argparse

import mlflow
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ensemble_kit.cli import trade
from ensemble_kit.datasets import make_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.features import SessionFeatures
from ensemble_kit.labels import next_direction
from ensemble_kit.live.trader import Trader
from ensemble_kit.sizing import KellySizer, SizedClassifier
from ensemble_kit.tracking import log_and_register, model_card
from ensemble_kit.validation import WalkForwardSplit

BARS = make_bars(780, random_state=0)  # up to a Friday: the exchange is closed on the Monday after it

pytestmark = [
    pytest.mark.filterwarnings("default"),  # MLflow's own
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a file of bars and a registered model that has not seen the last 80 of them."""
    folder = tmp_path_factory.mktemp("trade")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{folder}/store.db")
    BARS.reset_index().to_parquet(folder / "bars.parquet")
    labels = next_direction(BARS[:690])
    X, y = labels.align(BARS[:690])
    model = make_pipeline(SessionFeatures("XNYS"), LogisticRegression())
    model = SizedClassifier(model, KellySizer(conservatism=0.0), cv=WalkForwardSplit(2, t1=labels.t1)).fit(X, y)
    card = model_card(model, X, labels=labels, session="XNYS", holdout_start=str(BARS.index[700]))
    mlflow.set_experiment(experiment_id=mlflow.create_experiment("T", artifact_location=str(folder / "artifacts")))
    with mlflow.start_run():
        log_and_register(model, X, name="SPY", card=card)
        mlflow.MlflowClient().set_model_version_tag("SPY", "1", "label", "first")
    yield folder
    mlflow.set_tracking_uri(before)


def run(folder, *more):
    parser = argparse.ArgumentParser()
    trade.add_to(parser.add_subparsers())
    given = [
        "--replay",
        str(folder / "bars.parquet"),
        "--name",
        "SPY",
        "--tracking-uri",
        f"sqlite:///{folder}/store.db",
    ]
    options = parser.parse_args(["trade", *given, "--out", str(folder / "out"), *more])
    return options.run(options)


def test_a_replay_that_is_stopped_goes_on(folder, capsys, monkeypatch):
    take, left = Trader.take, iter(range(40))

    def stop(self, bars):
        if next(left, None) is None:
            raise KeyboardInterrupt
        return take(self, bars)

    with monkeypatch.context() as patch:
        patch.setattr(Trader, "take", stop)
        with pytest.raises(KeyboardInterrupt):
            run(folder, "--lot-size", "1")
    assert run(folder, "--lot-size", "1") == 0
    out = capsys.readouterr().out
    assert "40 bars were replayed before; going on behind " in out
    assert f"SPY/1, replayed on 80 bars from {BARS.index[700]} to {BARS.index[-1]}: " in out
    assert "fills and the equity at every close are the backtest's, to the cent." in out
    assert "All 0 fills" not in out
    assert run(folder, "--lot-size", "1") == 0
    assert "80 bars were replayed before" in capsys.readouterr().out


def test_other_terms_are_another_replay(folder, capsys):
    assert run(folder, "--cost-bps", "3", "--start", str(BARS.index[720]), "--end", str(BARS.index[729])) == 0
    out = capsys.readouterr().out
    assert "replayed before" not in out
    assert "SPY/1, replayed on 10 bars from " in out


@pytest.mark.parametrize("version", [[], ["--version", "1"], ["--version", "champion"], ["--version", "first"]])
def test_a_version_by_number_alias_label_or_none(folder, capsys, version):
    assert run(folder, "--end", str(BARS.index[709]), *version) == 0
    assert "SPY/1, replayed on 10 bars from " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--start", "soon"], r"^`--start` must be a day or a time of the bars, such as .*; got 'soon'"),
        (["--start", "2030-01-01"], r"^`--start` and `--end` must leave bars to trade; got none from 2030-01-01 "),
        (["--version", "7"], r"^`version` must be a version of SPY: 1, or an alias: champion \(1\); got 7\.$"),
        (["--journal", "mysql://x"], r"^`journal` must be a file, sqlite:///FILE or postgresql"),
    ],
)
def test_what_cannot_be_replayed(folder, more, message):
    with pytest.raises(EnsembleKitError, match=message):
        run(folder, *more)
