"""A run whose server may be down: what is written is tried for a while, and its loss is said, never raised."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Self

import mlflow
from mlflow.entities import Metric, Param, RunTag
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from ensemble_kit.tracking._line import Line, Message, NoRunError
from ensemble_kit.tracking._stale import end_stale_runs, forget, remember, writer_tags

__all__ = ["PatientRun"]

#: Metrics, and parameters or tags, that a server takes at a time.
_METRICS, _PARAMETERS = 1000, 100
_KEY = "ensemble_kit.key"


class PatientRun:
    """An MLflow run that costs no training: nothing here raises because of a server.

    Each message is tried at once, and again for some seconds in all (5, for a run and its
    children together). After that training goes on, messages wait, and a try is made each half
    minute or less often, and once more in the end; in the end one warning says what was lost.

    Parameters
    ----------
    tracking_uri : str, default=None
        The store; None for `mlflow.get_tracking_uri()`.

    Attributes
    ----------
    run_id : str or None
        MLflow's; None until the store has made the run.

    Notes
    -----
    MLflow's active run is neither looked at nor changed. Only the process that started the run
    writes to it; a copy in another process (pickled or forked) does nothing.

    A run carries the host and the process that write to it. Before one is made, those of the
    same experiment that are still running, though their process on this host is gone (killed,
    or the machine was restarted), are ended as KILLED, as are this process's own whose end did
    not reach the store. Runs of other hosts and containers are not touched.

    Examples
    --------
    >>> from tempfile import TemporaryDirectory
    >>> from ensemble_kit.tracking.patient import PatientRun
    >>> folder = TemporaryDirectory()
    >>> run = PatientRun(f"sqlite:///{folder.name}/mlflow.db").start("demo", "first")
    >>> run.log_metrics({"loss": 0.5}, step=1)
    >>> run.end()
    >>> from mlflow import MlflowClient
    >>> MlflowClient(f"sqlite:///{folder.name}/mlflow.db").get_run(run.run_id).info.status
    'FINISHED'
    >>> folder.cleanup()
    """

    def __init__(self, tracking_uri: str | None = None) -> None:
        self.tracking_uri = tracking_uri
        self.run_id: str | None = None
        self._line: Line | None = None
        self._name = ""
        self._is_child = False

    def start(
        self,
        experiment: str,
        run_name: str | None = None,
        *,
        parent_run_id: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Self:
        """Make the run.

        Parameters
        ----------
        experiment : str
            Its experiment's name, made where it is not there.
        run_name : str, default=None
            Its name; None for one of MLflow's.
        parent_run_id : str, default=None
            The run under which the page shows it.
        tags : mapping, default=None
            Texts of up to 8,000 characters.

        Returns
        -------
        PatientRun
            Itself.
        """
        self._line = Line(self.tracking_uri or mlflow.get_tracking_uri(), experiment)
        self._make(run_name, lambda: parent_run_id, tags)
        return self

    def child(self, run_name: str, *, tags: Mapping[str, str] | None = None) -> PatientRun:
        """Make a run under this one; both wait for the server no longer than one would.

        Parameters
        ----------
        run_name : str
            Its name.
        tags : mapping, default=None
            As for `start`.

        Returns
        -------
        PatientRun
            To be ended before this one.
        """
        run = PatientRun(self.tracking_uri)
        run._line, run._is_child = self._line, True
        run._make(run_name, lambda: self.run_id, tags)
        return run

    def _make(self, run_name: str | None, parent: Callable[[], str | None], tags: Mapping[str, str] | None) -> None:
        self._name = run_name or "unnamed"
        key, begun = uuid.uuid4().hex, _now()

        def make(client: Any, again: bool) -> None:
            line: Any = self._line
            found = []
            where = line.experiment(client)
            if again:  # the answer to the first try may have been lost, and not the try
                found = client.search_runs([where], f"tags.`{_KEY}` = '{key}'")
            elif not self._is_child:
                end_stale_runs(client, where)
            above = parent()
            own = {**writer_tags(), _KEY: key}
            own |= {MLFLOW_PARENT_RUN_ID: above} if above else {}
            run = found[0] if found else client.create_run(where, begun, {**(tags or {}), **own}, run_name)
            self.run_id = run.info.run_id
            remember(self.run_id, self)

        self._send("run", 1, make, of_run=False)

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Write parameters.

        Parameters
        ----------
        params : mapping
            Plain values by name.
        """
        entries = [Param(key, str(value)) for key, value in params.items()]
        for some in _chunks(entries, _PARAMETERS):
            self._batch("parameter", some, params=some)

    def log_metrics(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        """Write numbers, as of now.

        Parameters
        ----------
        metrics : mapping
            Numbers by name.
        step : int, default=None
            The fold or the epoch; None for 0.
        """
        at = _now()
        entries = [Metric(key, float(value), at, step or 0) for key, value in metrics.items()]
        for some in _chunks(entries, _METRICS):
            self._batch("metric", some, metrics=some)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Write tags.

        Parameters
        ----------
        tags : mapping
            Texts by name.
        """
        entries = [RunTag(key, value) for key, value in tags.items()]
        for some in _chunks(entries, _PARAMETERS):
            self._batch("tag", some, tags=some)

    def log_dict(self, values: Mapping[str, Any], file: str) -> None:
        """Keep values as a file.

        Parameters
        ----------
        values : mapping
            What JSON can say.
        file : str
            Its name, ending in .json.
        """
        self._send("file", 1, lambda client, _: client.log_dict(self.run_id, dict(values), file))

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Keep a copy of a file, or of a folder.

        Parameters
        ----------
        path : str or Path
            The file.
        folder : str, default=None
            Where it goes among the run's files.
        """
        path = Path(path)

        def _copy(client: Any, _: bool) -> None:
            if path.is_dir():
                client.log_artifacts(self.run_id, str(path), f"{folder}/{path.name}" if folder else path.name)
            else:
                client.log_artifact(self.run_id, str(path), folder)

        self._send("file", 1, _copy)

    def end(self, status: str = "FINISHED") -> None:
        """End the run; of one that is no child, say what was lost.

        Parameters
        ----------
        status : {"FINISHED", "FAILED", "KILLED"}, default="FINISHED"
            How it ended.

        Warns
        -----
        UserWarning
            Where something was lost.
        """
        at = _now()

        def _tell(client: Any, _: bool) -> None:
            client.set_terminated(self.run_id, status, at)

        try:
            self._send("end of a run", 1, _tell)
            if self._line is not None and not self._is_child:
                self._line.close(self._name)
        finally:  # ended as far as this process goes: where the store was not told, the next run tells it
            forget(self.run_id)

    def _batch(self, what: str, entries: list[Any], **batch: list[Any]) -> None:
        self._send(what, len(entries), lambda client, _: client.log_batch(self.run_id, **batch))

    def _send(self, what: str, count: int, call: Callable[[Any, bool], Any], *, of_run: bool = True) -> None:
        def checked(client: Any, again: bool) -> None:
            if of_run and self.run_id is None:
                raise NoRunError(f"the run {self._name!r} was not made")
            call(client, again)

        if self._line is not None:
            self._line.send(Message(what, count, checked))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_line": None}


def _chunks(entries: list[Any], size: int) -> Iterator[list[Any]]:
    for at in range(0, len(entries), size):
        yield entries[at : at + size]


def _now() -> int:
    return time.time_ns() // 1_000_000
