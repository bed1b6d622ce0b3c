"""The way to a store that may be down: messages in their order, and the patience that is left."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException

from ensemble_kit.exceptions import TrackingError

__all__ = ["Line", "Message", "NoRunError"]

#: Seconds that a run and its children wait for a server, in all.
_PATIENCE = 5.0
#: Seconds from one try to the next once that is spent, twice as many each time.
_PAUSE = 30.0
#: Tries of one message while the server answers others.
_TRIES = 3
#: MLflow's own would wait for minutes, at each message anew, and print an address at each end.
_REQUESTS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


class NoRunError(TrackingError):
    """The run that a message belongs to was never made."""


@dataclass
class Message:
    """What a server is to be told; `call` takes the client, and whether it was tried before."""

    what: str
    count: int
    call: Callable[[Any, bool], Any]
    tries: int = 0


class Line:
    """The way to a store: messages in their order, and the patience that is left."""

    def __init__(self, uri: str, experiment: str) -> None:
        self._uri, self._experiment, self._experiment_id = uri, experiment, ""
        self._client: Any = None
        self._process = os.getpid()
        self._lock = threading.RLock()  # workers' events come by threads
        self._waiting: deque[Message] = deque()
        self._lost: Counter[str] = Counter()
        self._why: Exception | None = None
        self._patience, self._pause, self._next_try = _PATIENCE, _PAUSE, 0.0

    def experiment(self, client: Any) -> str:
        """Return the experiment's id."""
        if not self._experiment_id:
            found = client.get_experiment_by_name(self._experiment)
            if found is None:
                try:
                    self._experiment_id = client.create_experiment(self._experiment)
                except MlflowException:  # another process was quicker
                    found = client.get_experiment_by_name(self._experiment)
                    if found is None:
                        raise
            self._experiment_id = self._experiment_id or found.experiment_id
        return self._experiment_id

    def send(self, message: Message) -> None:
        """Deliver a message after those that wait, now or later."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._waiting.append(message)
            if time.monotonic() >= self._next_try:
                self._deliver()

    def close(self, name: str) -> None:
        """Try once more, and say what is lost."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._deliver()
            while self._waiting:
                self._lose()
            lost, self._lost = self._lost, Counter()
        if lost:
            what = ", ".join(f"{count:,} x {kind}" for kind, count in lost.items())
            why = f"{type(self._why).__name__}: {str(self._why).splitlines()[0][:200] if str(self._why) else ''}"
            warnings.warn(
                f"MLflow at {self._uri} did not take all of run {name!r} of experiment {self._experiment!r}; lost: "
                f"{what} ({why}). What was fitted is not touched.",
                UserWarning,
                stacklevel=3,
            )

    def _deliver(self) -> None:
        with _short_requests():
            while self._waiting:
                message, began = self._waiting[0], time.monotonic()
                try:
                    self._client = self._client or mlflow.MlflowClient(self._uri)
                    message.call(self._client, message.tries > 0)
                except Exception as error:  # noqa: BLE001 - the store's own library fails in its own way
                    self._why = error if self._why is None or not isinstance(error, NoRunError) else self._why
                    message.tries += 1
                    if _is_refusal(error) or (message.tries >= _TRIES and self._answers()):
                        self._lose()
                    elif not self._wait(began, message.tries):
                        return
                else:
                    self._waiting.popleft()

    def _wait(self, began: float, tries: int) -> bool:
        """Wait for the next try; False where there is no patience left."""
        if self._patience > 0:
            time.sleep(min(0.1 * 2**tries, 1.0))
        self._patience -= time.monotonic() - began
        if self._patience > 0:
            return True
        self._next_try = time.monotonic() + self._pause
        self._pause *= 2
        return False

    def _answers(self) -> bool:
        with suppress(Exception):
            self._client.search_experiments(max_results=1)
            return True
        return False

    def _lose(self) -> None:
        message = self._waiting.popleft()
        self._lost[message.what] += message.count


def _is_refusal(error: Exception) -> bool:
    """Return whether trying again cannot help."""
    if isinstance(error, MlflowException):
        return 400 <= error.get_http_status_code() < 500 and error.get_http_status_code() not in {408, 429}
    return isinstance(error, NoRunError | FileNotFoundError | TypeError)


@contextmanager
def _short_requests() -> Iterator[None]:
    before = {name: os.environ.get(name) for name in _REQUESTS}
    os.environ.update(_REQUESTS)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
