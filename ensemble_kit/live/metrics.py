"""What Prometheus asks of a service: counts from the journal, which a restart keeps, and what this process timed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from sqlalchemy import func, select

from ensemble_kit.live._tables import BARS, DECISIONS, FILLS, ORDERS
from ensemble_kit.live.journal import Journal
from ensemble_kit.live.records import ORDER_STATES

__all__ = ["Metrics", "is_stale"]

_FAST = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


def is_stale(state: Mapping[str, Any], now: float) -> bool:
    """Return whether bars are missing that the market should have sent by now.

    Parameters
    ----------
    state : mapping
        As `Desk.state`.
    now : float
        Seconds since 1970.

    Returns
    -------
    bool
        False in nights, weekends and holidays.
    """
    return state["stale_at_seconds"] is not None and now > state["stale_at_seconds"]


class Metrics:
    """The numbers of one service, in a registry of their own.

    Parameters
    ----------
    journal : Journal
        Where bars, decisions, orders and fills are counted when they are asked for.
    state : callable
        Returns what the service publishes of itself, as `Desk.state`.
    """

    def __init__(self, journal: Journal, state: Callable[[], Mapping[str, Any]]) -> None:
        self._journal, self._state = journal, state
        self.registry = CollectorRegistry()
        self.bars = Counter(
            "ensemble_kit_bars_sent", "Bars that were sent, by what became of them", ["outcome"], registry=self.registry
        )
        self.take = Histogram(
            "ensemble_kit_take_seconds", "From a request's bars to their outcomes", registry=self.registry
        )
        self.requests = Histogram(
            "ensemble_kit_request_seconds",
            "HTTP requests, by path and status",
            ["path", "status"],
            buckets=_FAST,
            registry=self.registry,
        )
        self.readers = Gauge("ensemble_kit_stream_readers", "Who reads the stream", registry=self.registry)
        self.dropped = Counter(
            "ensemble_kit_stream_dropped", "Readers of the stream that were too slow", registry=self.registry
        )
        self.registry.register(self)

    def text(self) -> bytes:
        """Return all of it in Prometheus' text format.

        Returns
        -------
        bytes
            In UTF-8.
        """
        return generate_latest(self.registry)

    def describe(self) -> Iterable[Any]:
        """Return nothing: what `collect` gives is not asked for before there is a state.

        Returns
        -------
        iterable
            Of no metric.
        """
        return []

    def collect(self) -> Iterable[Any]:
        """Return what is counted in the journal and what the service is now; Prometheus' client calls it.

        Yields
        ------
        metric
            One family after the other.
        """
        yield from self._counts()
        state = self._state()
        decision, account = state["decision"] or {}, state["account"]
        now, close, due = time.time(), state["newest_close_seconds"], state["due_seconds"]
        gauges = {
            "equity": ("The account's equity, in its currency", account["equity"]),
            "units": ("What is held", account["units"]),
            "position": ("Share of equity that was decided last, after limits", decision.get("position")),
            "position_wanted": ("Share of equity that the model asked for last", decision.get("wanted")),
            "newest_bar_age_seconds": (
                "Since the newest bar's close, closed markets included",
                None if close is None else now - close,
            ),
            "overdue_seconds": (
                "Since the next bar should have closed; 0 before, as in a closed market",
                None if due is None else max(now - due, 0.0),
            ),
            "stale": ("1 where bars do not come though they should", float(is_stale(state, now))),
            "halted": ("1 while trading is halted", float(bool(state["halted"]))),
            "ready": ("1 once the model has decided", float(state["ready"])),
        }
        for name, (told, value) in gauges.items():
            if value is not None:
                yield GaugeMetricFamily(f"ensemble_kit_{name}", told, value=value)
        model = GaugeMetricFamily("ensemble_kit_model", "1 for the model that decides", labels=["symbol", "version"])
        model.add_metric([state["symbol"], state["version"]], 1.0)
        yield model

    def _counts(self) -> Iterable[Any]:
        account = self._journal.account
        with self._journal.engine.connect() as connection:
            for name, table in (("bars", BARS), ("decisions", DECISIONS), ("fills", FILLS)):
                n = connection.scalar(select(func.count()).select_from(table).where(table.c.account == account))
                yield CounterMetricFamily(f"ensemble_kit_{name}", f"In the journal: {name}", value=float(n or 0))
            by_state = select(ORDERS.c.state, func.count()).where(ORDERS.c.account == account).group_by(ORDERS.c.state)
            found: dict[str, int] = dict(connection.execute(by_state).tuples().all())
        orders = GaugeMetricFamily("ensemble_kit_orders", "In the journal: orders, by state", labels=["state"])
        for state in ORDER_STATES:
            orders.add_metric([state], float(found.get(state, 0)))
        yield orders
