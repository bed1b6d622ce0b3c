"""``ensemble-kit models``, as a user runs it."""

import mlflow
import pytest
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensemble_kit.cli import main
from ensemble_kit.datasets import make_bars
from ensemble_kit.features import IndicatorFeatures, SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.sizing import SizedClassifier
from ensemble_kit.tracking import log_and_register, quiet, tracked_run
from ensemble_kit.tracking.card import model_card
from ensemble_kit.validation import WalkForwardSplit

# MLflow's own, as it writes the input example.
pytestmark = pytest.mark.filterwarnings("ignore:Operation with range is deprecated")

BARS = make_bars(2400, random_state=0)
LABELS = peak_slope_bottom(BARS, w=6)


def register(features, n):
    X, y = BARS.iloc[:n], LABELS.labels.iloc[:n]
    steps = (features, SimpleImputer(), StandardScaler(), LogisticRegression(max_iter=200))
    model = SizedClassifier(make_pipeline(*steps), cv=WalkForwardSplit(2, t1=LABELS.t1)).fit(X, y)
    with tracked_run("T", "test", {}):
        log_and_register(model, X, name="T", card=model_card(model, X, labels=LABELS, session="XNYS", preset="tiny"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    """A folder with bars and a store: version 1 knows the time of day, 2 indicators, and 3 is 1 again."""
    folder = tmp_path_factory.mktemp("models")
    before = mlflow.get_tracking_uri()
    uri = f"sqlite:///{folder / 'store.db'}"
    mlflow.set_tracking_uri(uri)
    quiet()
    BARS.reset_index().to_parquet(folder / "bars.parquet")
    BARS.iloc[:1300].reset_index().to_parquet(folder / "old.parquet")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for features, n in ((SessionFeatures(), 1000), (IndicatorFeatures(), 1200), (SessionFeatures(), 1000)):
            register(features, n)
        yield folder, uri
    mlflow.set_tracking_uri(before)


@pytest.fixture
def run(filled, capsys):
    """Run an action on the store; return its exit code, what it printed and what it said of an error."""
    folder, uri = filled

    def run(action, *arguments, name="T", data=None):
        given = [] if data is None else ["--data", str(folder / data)]
        status = main(["models", action, name, *given, *arguments, "--tracking-uri", uri])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def test_list_compare_promote_and_back(run):
    status, out, err = run("list")
    assert (status, err) == (0, "")
    rows = [line.split() for line in out.splitlines()[2:5]]
    assert [row[0] for row in rows] == ["1", "2", "3"]
    assert [row[1] for row in rows][::2] == ["champion", "challenger"]
    assert "last_training_bar" in out
    assert "experiment" not in out  # of which nothing is known
    assert "version 1 registered by" in out

    status, out, _ = run("compare", "--versions", "1", "2", data="bars.parquet")
    assert status == 0
    for word in ("champion version 1, challenger version 2", "auc_pr", "log_loss", "max_drawdown", "null"):
        assert word in out

    # The challenger is the champion over again.
    status, out, err = run("promote", data="bars.parquet")
    assert (status, err) == (1, "")
    assert "T version 3 is not promoted, behind version 1: auc_pr" in out.splitlines()[-1]
    assert "not above 0" in out.splitlines()[-1]

    status, out, _ = run("promote", "--version", "2", "--metric", "log_loss", data="bars.parquet")
    assert status == 0
    assert out.splitlines()[-1].startswith("T version 2 is champion, after version 1: log_loss")
    status, out, _ = run("promote", "--version", "3", "--force", "a drill")
    assert (status, out) == (0, "T version 3 is champion, after version 2: forced: a drill.\n")
    assert run("rollback", "--why", "it was a drill")[1] == "T version 2 is champion again.\n"
    assert run("rollback")[:2] == (0, "T version 1 is champion again.\n")
    status, out, err = run("rollback")
    assert (status, out) == (2, "")
    assert err.startswith("error: `name` must have a champion before the present one")

    history = run("list")[1].split("History\n")[1].splitlines()
    events = ("registered", "refused", "promoted", "forced", "rolled back", "rolled back")
    for line, event in zip(history, events, strict=True):
        assert event in line
    assert history[-2].endswith(": it was a drill")


ERRORS = {
    "no such model": (("list",), {"name": "Nobody"}, "`name` must be a registered model; got 'Nobody'"),
    "no such version": (("promote", "--version", "9"), {"data": "bars.parquet"}, "`version` must be a version of T"),
    "no bars": (("promote",), {}, "`--data` must be a file of bars to judge on; got none"),
    "no bars to compare": (("compare",), {}, "`--data` must be a file of bars to judge on; got none"),
    "no such file": (("compare",), {"data": "no.parquet"}, "no.parquet"),
    "bars of the training": (
        ("promote", "--version", "2"),
        {"data": "old.parquet"},
        "`bars` must hold at least 15 events",
    ),
    "no such metric": (("promote", "--metric", "f1"), {"data": "bars.parquet"}, "`metric` must be one of auc_pr"),
    "a bad margin": (("promote", "--margin", "-1"), {"data": "bars.parquet"}, "`margin` must be a number of at least"),
    "an empty reason": (("promote", "--force", ""), {"data": "bars.parquet"}, "`force` must be a reason"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_line(run, case):
    arguments, more, words = ERRORS[case]
    status, out, err = run(*arguments, **more)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert err.startswith("error: ")
    assert words in err
