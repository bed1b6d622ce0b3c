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
    from sqlalchemy import Engine

    from ensemble_kit.live.orders import Broker

__all__ = ["add_to", "run"]

#: The environment variable that holds the token.
TOKEN = "ENSEMBLE_KIT_TOKEN"  # noqa: S105
#: A registry that is down must not hold the watch for the minutes that MLflow would try.
_REQUESTS = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def add_to(commands: Any) -> None:
    """Add the command and its options.

    Parameters
    ----------
    commands : subparsers
        Where commands are added.
    """
    command = commands.add_parser("serve", help="let a registered model trade, behind HTTP and a page")
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
    command.add_argument("--cash", type=float, default=100_000.0, help="with paper: what the account starts with")
    command.add_argument("--lot-size", type=float, default=0.0, help="units are multiples of it; 0 takes fractions")
    command.add_argument("--min-trade", type=float, default=0.0, help="smallest change of position, share of equity")
    command.add_argument("--max-position", type=float, help="largest share of equity, either way")
    command.add_argument("--max-notional", type=float, help="largest worth of what is held, in money")
    command.add_argument("--max-daily-loss", type=float, help="share of the day's first equity; beyond, all is sold")
    command.add_argument("--max-age", help="no order on a bar that closed longer ago, such as 90s")
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

    local = _is_loopback(options.host)
    token, made = _token(local=local)
    _shared.use_store(options)
    trader, watch = _trader(options)
    history = _shared.read(_as_data(options)) if options.history else None
    # Bound before the account is taken: a second service on one port says so and leaves the account alone.
    family = socket.AF_INET6 if ":" in options.host else socket.AF_INET
    listening = socket.create_server((options.host, options.port), family=family)
    hosts = () if local else ("*",) if options.host in {"0.0.0.0", "::"} else (options.host,)  # noqa: S104
    app = create_app(trader, token=token, watch=watch, hosts=hosts, open_reads=local)
    app.state.desk.open(adopt=options.adopt, history=history)
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


def _trader(options: argparse.Namespace) -> tuple[Any, Any]:
    import pandas as pd

    from ensemble_kit.live.champion import ChampionWatch
    from ensemble_kit.live.journal import Journal
    from ensemble_kit.live.limits import Limits
    from ensemble_kit.live.store import open_store
    from ensemble_kit.live.trader import Trader
    from ensemble_kit.tracking import CHAMPION, load_card, load_model
    from ensemble_kit.tracking._aliases import known_version

    asked = _shared.version_uri(options)
    wanted = asked.rpartition("@")[2].rpartition("/")[2] if asked.startswith("models:/") else CHAMPION
    number = known_version(options.name, int(wanted) if wanted.isdigit() else wanted)
    uri = f"models:/{options.name}/{number}"
    card = load_card(uri)
    limits = {name: getattr(options, name) for name in ("max_position", "max_notional", "max_daily_loss")}
    if options.max_age is not None:
        limits["max_age"] = pd.Timedelta(options.max_age)
    engine = open_store(options.journal)
    symbol = options.symbol or options.name
    trader = Trader(
        load_model(uri),
        card=card,
        version=f"{options.name}/{number}",
        journal=Journal(engine, account=options.name),
        broker=_broker(options, engine, symbol, card),
        symbol=symbol,
        limits=Limits(**{name: value for name, value in limits.items() if value is not None}),
        lot_size=options.lot_size,
        min_trade=options.min_trade,
    )
    return trader, ChampionWatch(options.name, trader) if options.version is None else None


def _broker(options: argparse.Namespace, engine: Engine, symbol: str, card: dict[str, Any]) -> Broker:
    if options.broker == "alpaca":
        from ensemble_kit.live.alpaca import AlpacaBroker

        return AlpacaBroker(live=options.live)
    if options.live:
        raise EnsembleKitError("`--live` must go with `--broker alpaca`; got paper. Leave it out.")
    from ensemble_kit.live.paper import PaperBroker
    from ensemble_kit.sizing import Costs

    known = card.get("experiment")
    costs = Costs(**known["costs"]) if isinstance(known, dict) else Costs(commission_bps=1.0)
    return PaperBroker(
        engine,
        account=options.name,
        symbol=symbol,
        costs=costs,
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
