"""The database behind a service: SQLite in a file by default, PostgreSQL by its address."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from sqlalchemy import Engine, MetaData, create_engine, event, exc, text
from sqlalchemy.engine import make_url
from sqlalchemy.schema import CreateTable

from ensemble_kit.exceptions import EnsembleKitError, JournalError

__all__ = ["make_tables", "open_store", "transaction"]

_BACKENDS = ("sqlite", "postgresql")
P = ParamSpec("P")
R = TypeVar("R")


def open_store(url: str | Path) -> Engine:
    """Open a journal's database, and find out whether it answers.

    Parameters
    ----------
    url : str or Path
        A file for SQLite, which is made where there is none, or an address such as
        ``sqlite:///live.db`` or ``postgresql+psycopg://user@host/name``.

    Returns
    -------
    Engine
        SQLAlchemy's. What a transaction has committed survives a killed process and a lost
        power supply.

    Raises
    ------
    EnsembleKitError
        If it is no such address, or nothing answers there. A password is never shown.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from ensemble_kit.live.store import open_store
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     engine = open_store(Path(folder) / "live.db")
    ...     engine.dialect.name
    ...     engine.dispose()
    'sqlite'
    """
    try:
        address = make_url(str(url) if "://" in str(url) else f"sqlite:///{url}")
    except exc.ArgumentError:
        raise EnsembleKitError(f"`journal` must be {_WANTED}; got an address that cannot be read.") from None
    if address.get_backend_name() not in _BACKENDS:
        raise EnsembleKitError(f"`journal` must be {_WANTED}; got {address.render_as_string()}.")
    try:
        # A server that was started anew has cut the connections that wait in the pool: they are tried first.
        engine = create_engine(address, pool_pre_ping=address.get_backend_name() == "postgresql")
        if address.get_backend_name() == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except (exc.SQLAlchemyError, ImportError) as error:
        raise EnsembleKitError(
            f"`journal` must be a database that answers; {address.render_as_string()} does not ({_why(error)}). "
            "Start it, or take a file: sqlite:///live.db."
        ) from None
    return engine


def transaction(method: Callable[P, R]) -> Callable[P, R]:
    """Make a method that is one transaction, and may be repeated, try once more where its connection was lost.

    Parameters
    ----------
    method : callable
        Called again with the same arguments, it leaves what is there as it is.

    Returns
    -------
    callable
        It raises `JournalError` where the database does not answer, or does not do what it is asked.
    """

    @functools.wraps(method)
    def _tried(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            try:
                return method(*args, **kwargs)
            except exc.DBAPIError as error:
                if not error.connection_invalidated:
                    raise
                return method(*args, **kwargs)
        except (exc.DBAPIError, exc.TimeoutError) as error:
            raise JournalError(
                f"`journal` must be a database that answers; it does not ({_why(error)}). What it has is kept. "
                "Try again when it is back."
            ) from error

    return _tried


def make_tables(engine: Engine, tables: MetaData) -> None:
    """Make the tables that are not there yet, whoever else is making them at the same time.

    Parameters
    ----------
    engine : Engine
        From `open_store`.
    tables : MetaData
        Tables without indexes of their own.
    """
    for table in tables.sorted_tables:
        for tries_left in (2, 1, 0):
            try:
                with engine.begin() as connection:
                    connection.execute(CreateTable(table, if_not_exists=True))
                break
            except exc.DBAPIError:  # two at once: PostgreSQL looks first, and lets the second one fail
                if not tries_left:
                    raise


def _why(error: BaseException) -> str:
    return " ".join(str(getattr(error, "orig", None) or error).split())[:200]


_WANTED = "a file, sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"


def _prepare_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # Readers (the page) never wait for the writer; a commit is on the disk before it returns.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()
