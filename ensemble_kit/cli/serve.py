"""``ensemble-kit serve``: a registered model at work behind HTTP, with a page to watch it and a switch to stop it."""

from __future__ import annotations

import argparse
import ipaddress
import os
import secrets
import socket
import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_kit.cli import _shared
from ensemble_kit.exceptions import EnsembleKitError

if TYPE_CHECKING:
    import pandas as pd
    from sqlalchemy import Engine

    from ensemble_kit.live._kept import Kept
    from ensemble_kit.live.journal import Journal
    from ensemble_kit.live.orders import Broker
    from ensemble_kit.live.trader import Trader

__all__ = ["add_to", "run"]

#: The environment variable that holds the token.
TOKEN = "ENSEMBLE_KIT_TOKEN"  # noqa: S105
_PORTS = 65_535
#: A registry that is down must not hold the watch for the minutes that MLflow would try.
_REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def add_to(commands: Any) -> None:
    """Add the command and its options.

    Parameters
    ----------
    commands : subparsers
        Where commands are added.
    """
    command = commands.add_parser(
        "serve", parents=[_shared.account_options()], help="let a registered model trade, behind HTTP and a page"
    )
    command.add_argument("--name", required=True, help="name of the registered model")
    command.add_argument(
        "--version", help="number, alias or label to stay with; the champion, whoever it is, if not given"
    )
    command.add_argument("--symbol", help="what is traded; the model's name if not given")
    command.add_argument("--history", type=Path, help="parquet or CSV file of bars to begin with")
    command.add_argument("--tz", help="time zone of naive times in the file")
    command.add_argument(
        "--journal", default="sqlite:///live.db", help="database that keeps all, SQLite or postgresql+psycopg://..."
    )
    command.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; beyond the loopback, a token must be set"
    )
    command.add_argument("--port", type=int, default=8000)
    command.add_argument("--broker", choices=("paper", "alpaca"), default="paper")
    command.add_argument("--live", action="store_true", help="with alpaca: real money instead of its paper account")
    command.add_argument("--adopt", action="store_true", help="take over a position that the journal does not know")
    command.add_argument("--min-trade", type=float, default=0.0, help="an order worth less, in money, is not placed")
    command.add_argument("--max-position", type=float, help="largest share of equity, either way")
    command.add_argument("--max-notional", type=float, help="largest worth of what is held, in money")
    command.add_argument("--max-daily-loss", type=float, help="share of the day's first equity; beyond, all is sold")
    command.add_argument("--max-age", help="no order on a bar that closed longer ago, such as 90s; 5min if not given")
    command.add_argument("--tracking-uri", help="MLflow's store; MLflow's own default if not given")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Serve until interrupted.

    Parameters
    ----------
    options : Namespace
        As parsed.
    """
    for name, value in _REQUESTS.items():
        os.environ.setdefault(name, value)
    from ensemble_kit.live.service import create_app  # says which extra lacks

    import uvicorn  # isort: skip

    if not 0 <= options.port <= _PORTS:
        raise EnsembleKitError(f"`--port` must be 0 (any that is free) to {_PORTS}; got {options.port}.")
    local = _is_loopback(options.host)
    token, made = _token(local=local)
    trader, watch, kept, instead = _trader(options)
    history = _shared.read(_as_data(options)) if options.history else None
    # Bound before the account is taken: a second service on one port says so and leaves the account alone.
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listening = socket.create_server((options.host, options.port), family=family)
    hosts = () if local else ("*",) if options.host in {"0.0.0.0", "::"} else (options.host,)  # noqa: S104
    app = create_app(trader, token=token, watch=watch, hosts=hosts, open_reads=local)
    app.state.desk.open(adopt=options.adopt, history=history)
    if instead:
        trader.journal.add_event("error", instead, at=trader.clock())
    _keep(kept, trader)
    _greet(options, trader.version, listening.getsockname()[1], token if made else None)
    config = uvicorn.Config(
        app,
        log_level="warning",
        access_log=False,
        server_header=False,
        ws_max_size=4096,
        timeout_graceful_shutdown=5,
    )
    uvicorn.Server(config).run(sockets=[listening])


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _token(*, local: bool) -> tuple[str, bool]:
    """Return the token, and whether it was made here."""
    from ensemble_kit.live.security import check_token

    given = os.environ.get(TOKEN, "")
    if given:
        return check_token(given), False
    if not local:
        raise EnsembleKitError(
            f"`--host` must be of the loopback, such as 127.0.0.1, unless {TOKEN} holds a token; it is not set. "
            f'Set it: export {TOKEN}=$(python -c "import secrets; print(secrets.token_urlsafe(32))").'
        )
    return secrets.token_urlsafe(32), True


def _trader(options: argparse.Namespace) -> tuple[Any, Any, Kept, str]:
    """Return the trader, the watch, where copies are kept, and why an old version trades, if one does."""
    from ensemble_kit.live._kept import Kept
    from ensemble_kit.live.champion import ChampionWatch
    from ensemble_kit.live.journal import Journal
    from ensemble_kit.live.limits import Limits
    from ensemble_kit.live.store import open_store
    from ensemble_kit.live.trader import Trader

    limits = {name: getattr(options, name) for name in ("max_position", "max_notional", "max_daily_loss")}
    if options.max_age is not None:
        limits["max_age"] = _length("--max-age", options.max_age)
    checked = Limits(**{name: value for name, value in limits.items() if value is not None})
    engine = open_store(options.journal)
    journal, kept = Journal(engine, account=options.name), Kept(engine)
    model, card, version, instead = _version(options, journal, kept)
    symbol = options.symbol or options.name
    trader = Trader(
        model,
        card=card,
        version=version,
        journal=journal,
        broker=_broker(options, engine, symbol, card),
        symbol=symbol,
        limits=checked,
        lot_size=options.lot_size,
        min_trade=options.min_trade,
    )
    return trader, ChampionWatch(options.name, trader) if options.version is None else None, kept, instead


def _length(option: str, text: str) -> pd.Timedelta:
    """Return a length of time; a number alone would be nanoseconds to pandas."""
    import pandas as pd

    try:
        length = None if text.strip().lstrip("+-").replace(".", "", 1).isdecimal() else pd.Timedelta(text)
    except ValueError:
        length = None
    if length is None or not length > pd.Timedelta(0):
        raise EnsembleKitError(f"`{option}` must be a length of time with its unit; got {text!r}. Write 90s, or 10min.")
    return length


def _version(options: argparse.Namespace, journal: Journal, kept: Kept) -> tuple[Any, dict[str, Any], str, str]:
    """Return model, card and name of the version to begin with, and why, where it is not the one that was asked for.

    A position may be open: whatever became of the registry, the version that decided last goes on.
    """
    from ensemble_kit.tracking import load_card, load_model

    latest = journal.latest_decision()
    last = None if latest is None else latest.version
    misnamed = False
    try:
        _shared.use_store(options)
        misnamed = True
        number, uri = _shared.find_version(options)
        misnamed = False
        asked = f"{options.name}/{number}"
        if options.version is None and last not in {None, asked} and (old := _last(str(last), kept)):
            return *old, str(last), ""  # the watch rehearses the champion beside it
        return load_model(uri), load_card(uri), asked, ""
    except Exception as error:
        # Where the registry answers that it has no such version, it is the wish that is wrong.
        old = None if last is None or (misnamed and options.version is not None) else _last(last, kept)
        if old is None:
            raise
        why = " ".join(str(error).split())[:300]
        instead = f"{last}, which decided last, goes on: what was asked for cannot be loaded ({why})"
        warnings.warn(instead, UserWarning, stacklevel=2)
        return *old, str(last), instead


def _last(version: str, kept: Kept) -> tuple[Any, dict[str, Any]] | None:
    """Return a version from the copy beside the journal, or from the registry, or None."""
    from ensemble_kit.tracking import load_card, load_model

    try:
        return kept.read(version)
    except EnsembleKitError:
        pass
    try:
        return load_model(f"models:/{version}"), load_card(f"models:/{version}")
    except Exception:  # noqa: BLE001 - a registry fails in its own way
        return None


def _keep(kept: Kept, trader: Trader) -> None:
    try:
        kept.keep(trader.version, trader.model, trader.card)
    except Exception as error:  # noqa: BLE001 - without the copy it trades as well
        warnings.warn(f"no copy of {trader.version} was kept: {error}", UserWarning, stacklevel=2)


def _broker(options: argparse.Namespace, engine: Engine, symbol: str, card: dict[str, Any]) -> Broker:
    if options.broker == "alpaca":
        from ensemble_kit.live.alpaca import AlpacaBroker

        return AlpacaBroker(live=options.live)
    if options.live:
        raise EnsembleKitError("`--live` must go with `--broker alpaca`; got paper. Leave it out.")
    from ensemble_kit.live.paper import PaperBroker

    return PaperBroker(
        engine,
        account=options.name,
        symbol=symbol,
        costs=_shared.costs(options, card),
        cash=options.cash,
        lot_size=options.lot_size,
        min_trade=options.min_trade,
    )


def _as_data(options: argparse.Namespace) -> argparse.Namespace:
    return argparse.Namespace(data=options.history, tz=options.tz)


def _greet(options: argparse.Namespace, version: str, port: int, token: str | None) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    print(f"{version} trades on {options.broker} at http://{host}:{port} (journal: {_shown(options.journal)})")
    sys.stdout.flush()
    if token is not None:
        print(
            f"The token of this start, which POST requests and the page's Halt button ask for:\n"
            f"  export {TOKEN}={token}\n"
            f'  curl -H "Authorization: Bearer ${TOKEN}" -H "Content-Type: text/csv" '
            f"--data-binary @bars.csv http://{host}:{port}/bars\n"
            f"Set {TOKEN} before the start to keep one.",
            file=sys.stderr,
            flush=True,
        )
    if not _is_loopback(options.host):
        warnings.warn(
            f"{host} can be reached from other machines, and this is HTTP, in which the token can be read on its way: "
            "put a proxy with TLS in front. Reads need the token, too.",
            UserWarning,
            stacklevel=2,
        )


def _shown(journal: str) -> str:
    from sqlalchemy.engine import make_url

    return make_url(journal).render_as_string() if "://" in journal else journal
