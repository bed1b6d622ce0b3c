"""Predictions under load: so many requests a second from another process, while bars come in.

Run ``python benchmarks/load.py``: a service with a small model on the loopback, and 12,000 requests of
``GET /prediction`` in a minute, one bar a second beside them. Requests begin on a schedule, whether the last ones are
answered or not, and the latency counts from when a request was due: a service that stalls cannot hide it.
"""

import argparse
import asyncio
import json
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import uvicorn
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from ensemble_kit.datasets import make_bars
from ensemble_kit.features import SessionFeatures
from ensemble_kit.labels import peak_slope_bottom
from ensemble_kit.live.journal import Journal
from ensemble_kit.live.paper import PaperBroker
from ensemble_kit.live.service import create_app
from ensemble_kit.live.store import open_store
from ensemble_kit.live.trader import Trader
from ensemble_kit.sizing import SizedClassifier
from ensemble_kit.tracking import model_card
from ensemble_kit.tracking.served import to_table
from ensemble_kit.validation import WalkForwardSplit

BAR = pd.Timedelta(minutes=5)


async def ask(address, rate, count):
    """Send `count` requests at `rate` a second; return milliseconds by request, and errors by what they were."""
    took, errors = [], {}
    limits = httpx.Limits(max_connections=50, max_keepalive_connections=50)
    async with httpx.AsyncClient(base_url=address, limits=limits, timeout=10.0) as client:

        async def one(due):
            try:
                answer = await client.get("/prediction")
                fault = "" if answer.status_code == 200 and "proba" in answer.json() else str(answer.status_code)
            except httpx.HTTPError as error:
                fault = type(error).__name__
            if fault:
                errors[fault] = errors.get(fault, 0) + 1
            took.append(1000 * (time.perf_counter() - due))

        began, sent = time.perf_counter(), []
        for k in range(count):
            due = began + k / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            sent.append(asyncio.create_task(one(due)))
        await asyncio.gather(*sent)
    return took, errors, time.perf_counter() - began


def serve(folder, bars, *, seeded=900):
    """Start a service on a free port; return its address, its server and a function that posts the next bar."""
    labels = peak_slope_bottom(bars, w=6)
    X, y = bars.iloc[:seeded], labels.labels.iloc[:seeded]
    model = SizedClassifier(
        make_pipeline(SessionFeatures("day"), LogisticRegression()), cv=WalkForwardSplit(2, t1=labels.t1)
    ).fit(X, y)
    now = [bars.index[seeded - 1] + BAR]
    engine = open_store(f"sqlite:///{folder}/live.db")
    trader = Trader(
        model,
        card=model_card(model, X, labels=labels),
        version="load/1",
        journal=Journal(engine, account="load"),
        broker=PaperBroker(engine, account="load", symbol="SPY"),
        symbol="SPY",
        clock=lambda: now[0],
    )
    token = secrets.token_urlsafe(32)
    app = create_app(trader, token=token)
    app.state.desk.open(history=X)
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    row = [seeded]

    def post():
        now[0] = bars.index[row[0]] + BAR + pd.Timedelta(seconds=1)
        table = to_table(bars.iloc[[row[0]]]).to_dict("records")
        answer = httpx.post(f"{address}/bars", json=table, headers={"Authorization": f"Bearer {token}"}, timeout=10.0)
        row[0] += 1
        return answer.json()["outcomes"][0]["outcome"]

    while not server.started:
        time.sleep(0.01)
    return address, server, thread, post


def measure(seconds, rate):
    """Return the numbers of one run."""
    count = round(seconds * rate)
    with tempfile.TemporaryDirectory() as folder:
        address, server, thread, post = serve(folder, make_bars(1000 + int(seconds) + 10, random_state=0))
        outcomes = [post()]
        command = [sys.executable, __file__, "--ask", address, "--rate", str(rate), "--count", str(count)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as other:
            while other.poll() is None:
                began = time.monotonic()
                outcomes.append(post())
                time.sleep(max(0.0, 1.0 - (time.monotonic() - began)))
            said = json.loads(other.stdout.read())
        server.should_exit = True
        thread.join(10)
    return said | {"bars": {kind: outcomes.count(kind) for kind in sorted(set(outcomes))}}


def main():
    """Run it, or be the other process."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=200.0)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--ask", help=argparse.SUPPRESS)
    parser.add_argument("--count", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.ask:
        took, errors, seconds = asyncio.run(ask(options.ask, options.rate, options.count))
        cuts = dict(zip(("p50", "p90", "p99", "max"), np.percentile(took, [50, 90, 99, 100]).round(2), strict=True))
        print(json.dumps({"requests": len(took), "seconds": round(seconds, 2), "errors": errors, "ms": cuts}))
        return
    said = measure(options.seconds, options.rate)
    print(f"{Path(__file__).name}: {said['requests']:,} requests in {said['seconds']} s, errors: {said['errors'] or 0}")
    print(f"bars posted meanwhile: {said['bars']}")
    print(pd.Series(said["ms"], name="ms").to_frame().T.to_string())


if __name__ == "__main__":
    main()
