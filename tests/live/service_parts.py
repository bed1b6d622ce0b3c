"""What the tests of the service share: a small model, a trader on it, a real server, and a clock that is moved."""

import contextlib
import socket
import threading
import time
import warnings

import pandas as pd
import uvicorn
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ensemble_kit.datasets import make_bars
from ensemble_kit.features import SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.live.journal import Journal
from ensemble_kit.live.paper import PaperBroker
from ensemble_kit.live.store import open_store
from ensemble_kit.live.trader import Trader
from ensemble_kit.sizing import SizedClassifier, ThresholdSizer
from ensemble_kit.tracking import model_card
from ensemble_kit.tracking.served import to_table
from ensemble_kit.validation import WalkForwardSplit

with warnings.catch_warnings():  # it would rather have another client than httpx
    warnings.simplefilter("ignore")
    from fastapi.testclient import TestClient  # noqa: F401

TOKEN = "a-token-of-the-tests"
AUTH = {"Authorization": f"Bearer {TOKEN}"}
BARS = make_bars(1400, random_state=0)
BARS = BARS[BARS.index.strftime("%m-%d") != "01-17"]  # on Martin Luther King's day the exchange is closed
LABELS = peak_slope_bottom(BARS, w=6)
BAR = pd.Timedelta(minutes=5)


def fit(n=900, C=1.0):
    """Return a model that knows the time of day alone, and its card."""
    X, y = BARS.iloc[:n], LABELS.labels.iloc[:n]
    model = make_pipeline(SessionFeatures("XNYS"), LogisticRegression(C=C))
    model = SizedClassifier(model, ThresholdSizer(threshold=0.04, size=0.5), cv=WalkForwardSplit(2, t1=LABELS.t1)).fit(
        X, y
    )
    return model, model_card(model, X, labels=LABELS, session="XNYS", preset="tiny")


class Clock:
    """Says that it is just after a bar's close."""

    def __init__(self, row=900):
        self.now = BARS.index[row]

    def __call__(self):
        return self.now

    def close(self, row):
        self.now = BARS.index[row] + BAR + pd.Timedelta(seconds=1)


def open_trader(folder, fitted, *, clock=None, version="SPY/1", symbol="SPY", **more):
    engine = open_store(f"sqlite:///{folder}/live.db")
    model, card = fitted
    broker = PaperBroker(engine, account="SPY", symbol=symbol)
    parts = {"journal": Journal(engine, account="SPY"), "broker": broker, "symbol": symbol, "clock": clock or Clock()}
    return Trader(model, card=card, version=version, **parts | more)


def rows(first, end):
    """Return bars as a list that JSON holds."""
    return to_table(BARS.iloc[first:end]).to_dict("records")


@contextlib.contextmanager
def serving(app, port=0):
    """Run a real server on a free port of the loopback; yield its address."""
    listening = socket.create_server(("127.0.0.1", port))
    config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until = time.monotonic() + 20
    while not server.started and time.monotonic() < until:
        time.sleep(0.02)
    assert server.started
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listening.close()
