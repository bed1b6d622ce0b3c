"""The database behind a service: SQLite in a file by default, PostgreSQL by its address."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["open_store"]

_BACKENDS = ("sqlite", "postgresql")


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
    except ArgumentError:
        raise EnsembleKitError(f"`journal` must be {_WANTED}; got an address that cannot be read.") from None
    if address.get_backend_name() not in _BACKENDS:
        raise EnsembleKitError(f"`journal` must be {_WANTED}; got {address.render_as_string()}.")
    try:
        engine = create_engine(address)
        if address.get_backend_name() == "sqlite":
            event.listen(engine, "connect", _prepare_sqlite)
        with engine.connect() as connection:
            connection.execute(text("SELECT 1"))
    except (SQLAlchemyError, ImportError) as error:
        why = " ".join(str(getattr(error, "orig", None) or error).split())[:200]
        raise EnsembleKitError(
            f"`journal` must be a database that answers; {address.render_as_string()} does not ({why}). "
            "Start it, or take a file: sqlite:///live.db."
        ) from None
    return engine


_WANTED = "a file, sqlite:///FILE or postgresql+psycopg://USER@HOST/NAME"


def _prepare_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    # Readers (the page) never wait for the writer; a commit is on the disk before it returns.
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA busy_timeout=10000")
    cursor.close()
