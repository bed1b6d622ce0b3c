"""A real `mlflow models serve`: bars in, probabilities out, and whatever else is sent is the sender's fault."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import warnings

import mlflow
import numpy as np
import pytest
from sklearn.pipeline import make_pipeline

from ensemble_kit.datasets import make_bars
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.features import SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.sizing import SizedClassifier
from ensemble_kit.tracking.card import model_card
from ensemble_kit.tracking.runs import log_and_register
from ensemble_kit.tracking.served import to_table
from ensemble_kit.validation import WalkForwardSplit

pytestmark = pytest.mark.slow

BARS = make_bars(1300, signal=2.0, random_state=0)
TABLE = to_table(BARS.iloc[1000:1100])
CLASSES = ["bottom", "peak", "slope"]


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def ask(url, body=None, content_type="application/json"):
    """Return the status and the decoded answer; never raises for an HTTP error."""
    data = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    request = urllib.request.Request(url, data=data, headers={"Content-Type": content_type})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def is_open(port):
    with socket.socket() as one:
        return one.connect_ex(("127.0.0.1", port)) == 0


def stop(process, port):
    """End the server with all that it started, which may outlive the first process."""
    for force in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, force)
        deadline = time.monotonic() + 20
        while (process.poll() is None or is_open(port)) and time.monotonic() < deadline:
            time.sleep(0.1)
    assert not is_open(port)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A registered champion behind a server of its own process group: model and address."""
    folder = tmp_path_factory.mktemp("store")
    before, store = mlflow.get_tracking_uri(), f"sqlite:///{folder / 'mlflow.db'}"
    mlflow.set_tracking_uri(store)
    labels = peak_slope_bottom(BARS, w=6)
    X, y = labels.align(BARS)
    X, y = X.iloc[:1000], y.iloc[:1000]
    trees = LGBMWindowClassifier(3, n_estimators=5, random_state=0)
    pipeline = make_pipeline(SessionFeatures("XNYS"), trees)
    model = SizedClassifier(pipeline, cv=WalkForwardSplit(2, t1=labels.t1)).fit(X, y)
    mlflow.create_experiment("S", artifact_location=(folder / "artifacts").as_uri())
    mlflow.set_experiment("S")
    with mlflow.start_run(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Operation with range")  # MLflow's own, of pandas
        log_and_register(model, X, name="S", card=model_card(model, X, labels=labels, session="XNYS"))
    mlflow.set_tracking_uri(before)

    port = free_port()
    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", "models:/S@champion"]
    command += ["--env-manager", "local", "--host", "127.0.0.1", "--port", str(port)]
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=elsewhere,
            env={**os.environ, "MLFLOW_TRACKING_URI": store, "PYTHONWARNINGS": "ignore"},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            for _ in range(240):
                if process.poll() is not None:
                    pytest.fail((folder / "log.txt").read_text()[-3000:])
                try:
                    if ask(f"{url}/ping")[0] == 200:
                        break
                except OSError:
                    time.sleep(0.5)
            else:
                pytest.fail("no answer in two minutes: " + (folder / "log.txt").read_text()[-3000:])
            yield model, f"{url}/invocations"
        finally:
            stop(process, port)


def split(table):
    return {"dataframe_split": table.to_dict(orient="split", index=False)}


def check_right_answer(model, url):
    code, answer = ask(url, split(TABLE))
    assert code == 200, answer
    rows = json.loads(answer)["predictions"]
    proba = [[row[f"p_{label}"] for label in CLASSES] for row in rows]
    np.testing.assert_allclose(proba, model.predict_proba(BARS.iloc[1000:1100]), atol=1e-6)
    position = [row["position"] for row in rows]
    np.testing.assert_allclose(position, model.predict_position(BARS.iloc[1000:1100]), atol=1e-6)
    assert {row["model_version"] for row in rows} == {"S/1"}
    assert [row["timestamp"] for row in rows] == TABLE["timestamp"].tolist()


def test_it_answers_bars_with_probabilities(server):
    model, url = server
    check_right_answer(model, url)
    code, answer = ask(url, {"dataframe_records": TABLE.to_dict(orient="records")})
    assert code == 200
    assert answer == ask(url, split(TABLE))[1]


NAN = TABLE.copy()
NAN.loc[7, "close"] = np.nan


def big_table():
    """Ten megabytes of well-formed bars."""
    row = json.dumps(TABLE.iloc[0].to_dict()).encode()
    return b'{"dataframe_records": [' + b",".join([row] * (10_000_000 // len(row) + 1)) + b"]}"


WRONG = {
    "NaN": (split(NAN), "must have a price on every row; got close NaN"),
    "null": (split(NAN.astype(object).where(NAN.notna(), None)), "must have a price on every row; got close NaN"),
    "wrong width": ({"dataframe_split": {"columns": list(TABLE), "data": [[1, 2, 3]]}}, "not a valid dataframe"),
    "missing column": (split(TABLE.drop(columns="close")), "missing inputs ['close']"),
    "unknown columns": (split(TABLE.rename(columns=str.upper)), "extra inputs"),
    "another bar size": (split(TABLE.iloc[::3]), "got bars of 00:15:00"),
    "too short": (split(TABLE.tail(2)), "at least 3 rows"),
    "ten megabytes of bars": (big_table(), "must have 1 to 50000 rows"),
    "ten megabytes of junk": (os.urandom(10_000_000), "valid JSON"),
    "ten megabytes of text": (b'"' + b"x" * 10_000_000 + b'"', "JSON dictionary"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_a_4xx_and_it_goes_on_serving(server, case):
    model, url = server
    body, words = WRONG[case]
    code, answer = ask(url, body)
    assert 400 <= code < 500, answer[:1000]
    assert words in json.loads(answer)["message"]
    check_right_answer(model, url)


def test_another_content_type_is_a_4xx(server):
    model, url = server
    assert ask(url, b"x", "image/png")[0] == 415
    assert ask(url, b"\xff\xfe", "text/csv")[0] == 400
    check_right_answer(model, url)
