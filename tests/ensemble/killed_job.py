"""A small ensemble that is killed while it trains: forked from a process that has loaded everything and run nothing."""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier, TransformerClassifier
from ensemble_kit.validation import WalkForwardSplit

N_MEMBER_FOLDS = 16


def problem() -> tuple[pd.DataFrame, pd.Series]:
    """Return columns and labels that can be learned from."""
    rng = np.random.default_rng(0)
    index = pd.date_range("2024", periods=400, freq="h", tz="UTC")
    X = pd.DataFrame(rng.normal(size=(400, 6)), index=index).add_prefix("c")
    return X, pd.Series(np.digitize(X["c0"] + rng.normal(size=400), [-1, 1]), index=index)


def ensemble(memory: Path | None) -> WalkForwardVotingClassifier:
    """Return three folds of four small members: networks that train for epochs among them."""
    network = {"max_epochs": 4, "validation_fraction": 0.0, "random_state": 0}
    members = [
        ("lstm_gru", make_pipeline(StandardScaler(), LSTMGRUClassifier(8, hidden_size=8, **network))),
        ("transformer", TransformerClassifier(8, d_model=8, n_heads=2, n_layers=1, **network)),
        ("lightgbm", LGBMWindowClassifier(4, n_estimators=10, random_state=0)),
        ("logistic", make_pipeline(StandardScaler(), LogisticRegression())),
    ]
    return WalkForwardVotingClassifier(members, cv=WalkForwardSplit(3, purge=2), memory=memory)


def outcome(memory: Path | None) -> bytes:
    """Fit, and return all that the model says: of the rows, out of fold, and the weights."""
    X, y = problem()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that are damaged, or cannot be written
        model = ensemble(memory).fit(X, y)
    return np.concatenate([model.predict_proba(X).ravel(), model._oof.ravel(), model._weights.ravel()]).tobytes()


def in_child(work, *, kill_after: float | None = None) -> tuple[bytes, bool]:
    """Do some work in a child process, killed after so many seconds; return what it says, and whether it ended."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        try:
            answer = work()
        except Exception:  # noqa: BLE001 - whatever it was, the parent says it
            answer = traceback.format_exc().encode()
        with os.fdopen(writes, "wb") as out:
            out.write(answer)
        os._exit(0)
    os.close(writes)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    with os.fdopen(reads, "rb") as answers:
        said = answers.read()
    return said, os.waitpid(child, 0)[1] == 0


def kill(folder: Path, n: int, rng: np.random.Generator) -> None:
    """Kill runs at random moments; each memory is used until a run ends, which must give the same bits."""
    whole, seconds = uninterrupted()
    memory, n_killed, n_ended = folder / "0", 0, 0
    while n_killed < n:
        # Moments within what is left to do: the more is finished, the sooner.
        left = seconds * max(1 - len(list(memory.glob("*.checkpoint"))) / N_MEMBER_FOLDS, 0.05)
        said, ended = in_child(lambda: outcome(memory), kill_after=rng.uniform(0, 1.2 * left))
        if ended:
            check(said, whole)
            n_ended += 1
            memory = folder / str(n_ended)
        n_killed += not ended
    check(in_child(lambda: outcome(memory))[0], whole)
    sys.stdout.write(f"{n_killed} killed, {n_ended + 1} ended with the same bits\n")


def damage(folder: Path, n: int, rng: np.random.Generator) -> None:
    """Tear and flip files that a killed run left behind, each kind of them, and run again."""
    whole, seconds = uninterrupted()
    n_damaged = 0
    for attempt in range(n):
        memory = folder / str(attempt)
        # Every other run ends: all its results are there. The others leave networks' epochs, too.
        in_child(lambda: outcome(memory), kill_after=None if attempt % 2 else rng.uniform(0.3, 1.0) * seconds)
        files = [path for path in memory.rglob("*") if path.is_file() and path.stat().st_size]
        for path in files:
            content = bytearray(path.read_bytes())
            at = int(rng.integers(len(content)))
            if rng.random() < 0.5:
                content[at] ^= 1 << int(rng.integers(8))
            path.write_bytes(content if rng.random() < 0.5 else content[:at])
        n_damaged += len(files)
        check(in_child(lambda: outcome(memory))[0], whole)
    sys.stdout.write(f"{n_damaged} files damaged in {n} runs; the same bits\n")


def fill(folder: Path, n: int, rng: np.random.Generator) -> None:
    """Let files end at a random size, as on a full disk: the run ends with the same bits, and so does the next one."""
    whole, _ = uninterrupted()

    def limited(memory: Path, size: int) -> bytes:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        return outcome(memory)

    for attempt in range(n):
        memory, size = folder / str(attempt), int(2 ** rng.uniform(0, 14))
        check(in_child(lambda: limited(memory, size))[0], whole)
        check(in_child(lambda: outcome(memory))[0], whole)
    sys.stdout.write(f"{n} runs on a full disk; the same bits\n")


def uninterrupted() -> tuple[bytes, float]:
    """Return what a run without a memory says, and its seconds."""
    began = time.perf_counter()
    said, ended = in_child(lambda: outcome(None))
    if not ended or len(said) < 1000 or said.startswith(b"Traceback"):
        raise RuntimeError(said[-3000:].decode(errors="replace"))
    return said, time.perf_counter() - began


def check(said: bytes, whole: bytes) -> None:
    """Stop unless a run said the same as an uninterrupted one."""
    if said != whole:
        raise RuntimeError(f"another outcome: {said[-3000:].decode(errors='replace') if b'Traceback' in said else ''}")


if __name__ == "__main__":
    what, where, times, seed = sys.argv[1:]
    {"kill": kill, "damage": damage, "fill": fill}[what](Path(where), int(times), np.random.default_rng(int(seed)))
