"""The runs of one outermost fit, in its process: opened, written to, and ended whatever happens."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from types import FrameType
from typing import Any

import mlflow
from mlflow.tracking.context.git_context import GitRunContext
from mlflow.tracking.context.registry import resolve_tags

from ensemble_kit.tracking.context import plain_tags
from ensemble_kit.tracking.patient import PatientRun

__all__ = ["Figure", "Record"]

#: Member (None for the run itself), name, value, step.
Figure = tuple[str | None, str, float, int]


class Record:
    """The runs of one outermost fit, in its process."""

    def __init__(self, run: PatientRun, experiment: str, name: str, files: list[Path]) -> None:
        self._run, self._experiment, self._name, self._files = run, experiment, name, files
        self._open: dict[tuple[Any, ...], PatientRun] = {}
        self._written: set[tuple[Any, ...]] = set()
        self._lock = threading.RLock()
        self._ended = False
        self._restore = _on_terminate()

    @property
    def run_id(self) -> str | None:
        return self._run.run_id

    def hear(self, kind: str, key: tuple[int, ...], content: Any) -> None:
        """Write an event."""
        with self._lock:
            if kind == "begin":
                self._begin(key, content)
            elif kind == "figures":
                self._write(key, content)
            elif kind == "end":
                self._end(key, "FINISHED")

    def _begin(self, key: tuple[int, ...], content: dict[str, Any]) -> None:
        if key:
            run = self._open[key] = self._run.child(content["name"], tags=content["tags"])
        else:
            run = self._open[key] = self._run
            # Who runs which script, as MLflow itself has it.
            tags = {**resolve_tags(ignore=[GitRunContext]), **content["tags"]}
            run.start(self._experiment, self._name, parent_run_id=self._active(), tags=tags)
            for file in self._files:
                run.log_artifact(file)
        run.log_params(content["params"])
        if content["split"]:
            run.set_tags(plain_tags({"split": {k: v for k, v in content["split"].items() if k != "folds"}}))
            run.log_dict(content["split"], "split.json")
        for name in content["members"]:
            self._of(key, name)

    def _active(self) -> str | None:
        active = mlflow.active_run()
        same = self._run.tracking_uri in {None, mlflow.get_tracking_uri()}
        return active.info.run_id if active is not None and same else None

    def _write(self, key: tuple[int, ...], figures: Iterable[Figure]) -> None:
        batches: dict[tuple[str | None, int], dict[str, float]] = {}
        for member, name, value, step in figures:
            if (entry := (key, member, name, step)) not in self._written:
                self._written.add(entry)
                batches.setdefault((member, step), {})[name] = value
        for (member, step), metrics in batches.items():
            self._of(key, member).log_metrics(metrics, step=step)

    def _of(self, key: tuple[int, ...], member: str | None) -> PatientRun:
        place = key if member is None else (*key, member)
        if place not in self._open:
            self._open[place] = self._open[key].child(str(member), tags={"member": str(member)})
        return self._open[place]

    def _end(self, key: tuple[int, ...], status: str) -> None:
        """End a run and those under it, the inner ones first."""
        under = sorted((place for place in self._open if place[: len(key)] == key), key=len, reverse=True)
        self._ended = self._ended or not key
        for place in under:
            self._open.pop(place).end(status)

    def close(self, error: BaseException | None) -> None:
        """End what is still open."""
        self._restore()
        with self._lock:
            if self._open and not self._ended:
                stopped = error is not None and not isinstance(error, Exception)
                if error is not None:
                    self._run.set_tags(plain_tags({"error": f"{type(error).__name__}: {error}"}))
                self._end((), "KILLED" if stopped else "FAILED")


def _on_terminate() -> Callable[[], None]:
    """Let SIGTERM end the fit as an interrupt does, unless somebody listens to it; return what undoes that."""
    here = threading.current_thread() is threading.main_thread()
    if not here or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        return lambda: None
    process = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        if os.getpid() != process:  # a fork has nothing to end
            os._exit(128 + number)
        raise SystemExit(128 + number)

    def restore() -> None:
        if signal.getsignal(signal.SIGTERM) is stop:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)

    signal.signal(signal.SIGTERM, stop)
    return restore
