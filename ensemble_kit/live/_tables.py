"""The journal's tables. Times are nanoseconds of UTC: both databases keep them whole, sort them and compare them."""

from __future__ import annotations

from typing import Any

import pandas as pd
from sqlalchemy import JSON, BigInteger, Column, Double, Integer, MetaData, String, Table, Text

__all__ = ["BARS", "DECISIONS", "EVENTS", "FILLS", "METADATA", "ORDERS", "REFUSALS", "SETTINGS", "nanoseconds", "utc"]

METADATA = MetaData()


def _key(name: str, kind: Any) -> Column[Any]:
    return Column(name, kind, primary_key=True, autoincrement=False)


def _table(name: str, *columns: Column[Any]) -> Table:
    return Table(f"live_{name}", METADATA, _key("account", String(100)), *columns)


#: `traded` is 0 for history, on which nothing is decided. `others` holds what is neither price nor volume.
BARS = _table(
    "bars",
    _key("time", BigInteger),
    Column("traded", Integer, nullable=False),
    *(Column(name, Double) for name in ("open", "high", "low", "close", "volume")),
    Column("others", JSON),
)
#: A bar that is sent again and again for the same reason is one row.
REFUSALS = _table(
    "refusals",
    _key("time", BigInteger),
    _key("reason", String(500)),
    Column("count", Integer, nullable=False),
    Column("last_at", BigInteger, nullable=False),
    Column("bar", JSON),
)
DECISIONS = _table(
    "decisions",
    _key("time", BigInteger),
    Column("version", String(200), nullable=False),
    Column("proba", JSON),
    Column("wanted", Double),
    Column("allowed", Double),
    Column("reason", Text),
    Column("close", Double, nullable=False),
    Column("equity", Double),
    Column("units", Double),
    Column("client_id", String(60)),
)
ORDERS = _table(
    "orders",
    _key("client_id", String(60)),
    Column("symbol", String(100), nullable=False),
    Column("decided_at", BigInteger, nullable=False),
    Column("units", Double, nullable=False),
    Column("reference", Double, nullable=False),
    Column("state", String(20), nullable=False),
)
FILLS = _table(
    "fills",
    _key("fill_id", String(200)),
    Column("client_id", String(60), nullable=False),
    Column("symbol", String(100), nullable=False),
    Column("at", BigInteger, nullable=False),
    Column("units", Double, nullable=False),
    Column("price", Double, nullable=False),
    Column("commission", Double, nullable=False),
)
EVENTS = Table(
    "live_events",
    METADATA,
    Column("number", Integer, primary_key=True),
    Column("account", String(100), nullable=False, index=True),
    Column("at", BigInteger, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("text", Text, nullable=False),
)
SETTINGS = _table("settings", _key("name", String(50)), Column("value", JSON))


def nanoseconds(time: pd.Timestamp) -> int:
    """Return a time as the tables hold it; one without a zone is read as UTC."""
    return int(time.as_unit("ns").value)


def utc(time: int) -> pd.Timestamp:
    """Return a time of the tables in UTC."""
    return pd.Timestamp(time, unit="ns", tz="UTC")
