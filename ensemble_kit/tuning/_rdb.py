"""Optuna's database storage where workers may be killed at any line, and two may ask at once."""

from __future__ import annotations

import time
import warnings
from typing import Any

import sqlalchemy
from optuna.exceptions import ExperimentalWarning
from optuna.storages import RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._rdb.models import TrialModel
from optuna.trial import TrialState
from sqlalchemy import exc

from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["GRACE", "MAX_RETRY", "worker_storage"]

#: A trial is lost after so many missed heartbeats, and tried again so often.
GRACE, MAX_RETRY = 3, 1
#: How long, in s, a worker waits for others to finish writing a sqlite file.
_SQLITE_TIMEOUT = 60
#: How long, in s, a worker waits for another one that makes the same new database.
_PAUSES = (0.5, 1.0, 2.0)


class _WorkerStorage(RDBStorage):
    """`RDBStorage`, of which nothing is lost between two of its commits.

    Optuna takes a trial for lost when its heartbeats stop, but not one whose worker died before
    the first; and in sqlite, which knows no row locks, two workers can take the same waiting
    trial, or fail the same lost one, each adding a retry.
    """

    def __init__(self, url: str, **kwargs: Any) -> None:
        super().__init__(url, **kwargs)
        self._silent_since: dict[int, float] = {}
        _take_turns(self.engine)

    def __setstate__(self, state: dict[Any, Any]) -> None:
        super().__setstate__(state)
        _take_turns(self.engine)

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        stale: list[int] = super()._get_stale_trial_ids(study_id)
        query = sqlalchemy.select(TrialModel.trial_id).where(
            TrialModel.study_id == study_id, TrialModel.state == TrialState.RUNNING, ~TrialModel.heartbeats.any()
        )
        with self.engine.connect() as connection:
            silent = list(connection.execute(query).scalars())
        # By this process's own clock: those of workers need not agree.
        now = time.monotonic()
        self._silent_since = {trial: self._silent_since.get(trial, now) for trial in silent}
        return stale + [trial for trial, since in self._silent_since.items() if now - since > self.grace_period]


def worker_storage(url: str, heartbeat_interval: int) -> RDBStorage:
    """Open the database of a study on which several processes work.

    Parameters
    ----------
    url : str
        SQLAlchemy's.
    heartbeat_interval : int
        Seconds.

    Returns
    -------
    RDBStorage
        With heartbeat and one retry.

    Raises
    ------
    EnsembleKitError
        If it is no address, or the database cannot be opened.
    """
    try:
        sqlite = sqlalchemy.make_url(url).get_backend_name() == "sqlite"
    except exc.ArgumentError:
        raise EnsembleKitError(
            f"`storage` must be a database's address; got {url!r}. Write 'sqlite:///study.db', say."
        ) from None
    # A connection that the server dropped is noticed before it is used.
    engine = {"connect_args": {"timeout": _SQLITE_TIMEOUT}} if sqlite else {"pool_pre_ping": True}
    with warnings.catch_warnings():
        # Optuna calls both experimental since version 2.
        warnings.simplefilter("ignore", ExperimentalWarning)
        settings = {
            "engine_kwargs": engine,
            "heartbeat_interval": heartbeat_interval,
            "grace_period": GRACE * heartbeat_interval,
            "heartbeat_stale_trial_callback": RetryHeartbeatStaleTrialCallback(max_retry=MAX_RETRY),
        }
        for pause in _PAUSES:
            try:
                return _WorkerStorage(url, **settings)
            except (exc.IntegrityError, exc.OperationalError, exc.ProgrammingError):
                # Two workers that make the tables of a new database: the second one finds them made.
                time.sleep(pause)
        try:
            return _WorkerStorage(url, **settings)
        except exc.SQLAlchemyError as error:
            raise EnsembleKitError(
                f"`storage` must be a database that can be opened; got {url!r} ({str(error).splitlines()[0][:200]}). "
                "Make its folder, or start its server."
            ) from error


def _take_turns(engine: Any) -> None:
    """Let a sqlite transaction hold the file from its first read: SQLAlchemy's own recipe for it.

    Otherwise two workers read "waiting", and both write "running".
    """
    if engine.dialect.name != "sqlite":
        return

    @sqlalchemy.event.listens_for(engine, "connect")
    def no_implicit_begin(connection: Any, _: Any) -> None:
        connection.isolation_level = None

    @sqlalchemy.event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
