"""One process an account: a lock that ends with the process that holds it, however it ends."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import Engine

from ensemble_kit.exceptions import EnsembleKitError, JournalError
from ensemble_kit.live.store import transaction

__all__ = ["Hold"]

_POLL = 0.05


class Hold:
    """The lock of an account: a locked file beside SQLite's, an advisory lock in PostgreSQL.

    Both are let go by the kernel or the server when the process is gone, so that there is no
    heartbeat to miss and no stale lease to break.

    Parameters
    ----------
    engine : Engine
        The journal's.
    account : str
        The account's name.
    """

    def __init__(self, engine: Engine, account: str) -> None:
        self.engine = engine
        self.account = account
        self.holder = f"process {os.getpid()} on {socket.gethostname()}"
        self._digest = hashlib.sha256(f"ensemble-kit\n{account}".encode()).digest()
        self._file: FileLock | None = None
        self._connection: Any = None  # the driver's own: never in the pool, where others would take it, and the lock

    def acquire(self, patience: float, other: Any) -> None:
        """Take the lock, waiting `patience` seconds for it; `other` is who took it last, for the message."""
        if self._file is not None or self._connection is not None:
            return
        taken = self._take_server(patience) if self.engine.dialect.name == "postgresql" else self._take_file(patience)
        if not taken:
            raise EnsembleKitError(
                f"`account` must be traded by one process; {self.account!r} is by {other or 'another'}. "
                "Stop that one, or take another account."
            )

    def _take_file(self, patience: float) -> bool:
        database = self._file_name()
        if not database:  # in memory: no other process can reach it
            return True
        lock = FileLock(f"{database}.{self._digest.hex()[:12]}.lock", timeout=patience, poll_interval=_POLL)
        try:
            lock.acquire()
        except Timeout:
            return False
        self._file = lock
        return True

    @transaction
    def _file_name(self) -> str:
        """Return the one name of SQLite's file, whatever links and addresses lead there; "" in memory."""
        with self.engine.connect() as connection:
            name = connection.exec_driver_sql("PRAGMA database_list").all()[0].file  # main comes first
        return os.path.realpath(name) if name else ""

    def _take_server(self, patience: float) -> bool:
        number = int.from_bytes(self._digest[:8], "big", signed=True)
        connection = self._connect()
        until = time.monotonic() + patience
        while not _ask(connection, "SELECT pg_try_advisory_lock(%s)", number):
            if time.monotonic() >= until:
                connection.close()
                return False
            time.sleep(_POLL)
        self._connection = connection
        return True

    def _connect(self) -> Any:
        """Return a connection of the driver's that no pool knows."""
        driver: Any = self.engine.dialect.loaded_dbapi
        try:
            pooled = self.engine.raw_connection()
        except driver.Error as error:
            raise JournalError(
                f"`journal` must be a database that answers; it does not ({' '.join(str(error).split())[:200]}). "
                "Try again when it is back."
            ) from error
        connection: Any = pooled.driver_connection
        pooled.detach()
        connection.autocommit = True
        return connection

    def check(self) -> None:
        """Raise where the server that keeps the lock is gone; a file's lock ends with this process alone."""
        if self._connection is None:
            return
        driver: Any = self.engine.dialect.loaded_dbapi
        try:
            _ask(self._connection, "SELECT 1")
        except driver.Error:
            self.release()
            raise JournalError(
                f"`account` must be held by this process; the connection that held {self.account!r} is lost. "
                "Resume, when the database answers."
            ) from None

    def release(self) -> None:
        """Let the lock go."""
        if self._file is not None:
            self._file.release()
        if self._connection is not None:
            self._connection.close()
        self._file = self._connection = None


def _ask(connection: Any, question: str, *values: Any) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(question, values)
        return cursor.fetchone()[0]
