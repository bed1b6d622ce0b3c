"""``ensemble-kit trade``: the whole trading loop of a registered model, replayed on bars of the past."""

from __future__ import annotations

import argparse
import hashlib
import itertools
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_kit.cli import _shared
from ensemble_kit.exceptions import EnsembleKitError

if TYPE_CHECKING:
    import pandas as pd

    from ensemble_kit.live.replay import ReplayResult

__all__ = ["add_to", "run"]


def add_to(commands: Any) -> None:
    """Add the command and its options.

    Parameters
    ----------
    commands : subparsers
        Where commands are added.
    """
    command = commands.add_parser(
        "trade",
        parents=[_shared.output_options(), _shared.account_options()],
        help="replay bars of the past through the live trading loop",
    )
    command.add_argument(
        "--replay", dest="data", type=Path, required=True, metavar="FILE", help="parquet or CSV file of bars"
    )
    command.add_argument("--name", required=True, help="name of the registered model")
    command.add_argument("--version", help="number, alias or label of the version; the champion if not given")
    command.add_argument("--tz", help="time zone of naive times in the file")
    command.add_argument("--start", help="first bar that is traded; the holdout's first if not given")
    command.add_argument("--end", help="last bar, or day, that is traded; the file's last if not given")
    command.add_argument(
        "--journal", help="database of bars, decisions, orders and fills; OUT/NAME/replay.db if not given"
    )
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Replay bars, and compare with the backtest of the same positions.

    Parameters
    ----------
    options : Namespace
        As parsed.

    Returns
    -------
    int
        0 where fills and equity are the backtest's to the cent, 1 where they are not.
    """
    from ensemble_kit.live.journal import Journal
    from ensemble_kit.live.paper import PaperBroker
    from ensemble_kit.live.replay import replay
    from ensemble_kit.live.store import open_store
    from ensemble_kit.live.trader import Trader
    from ensemble_kit.tracking import load_card, load_model

    bars = _shared.read(options)
    _shared.use_store(options)
    number, uri = _shared.find_version(options)
    version = f"{options.name}/{number}"
    card = load_card(uri)
    if card["bar"] != _shared.bar_size(bars):
        raise EnsembleKitError(
            f"`--replay` must hold bars of {card['bar']}, as in training; got bars of {_shared.bar_size(bars)}."
        )
    history, traded = _split(options, card, bars)
    terms = {"costs": _shared.costs(options, card), "cash": options.cash, "lot_size": options.lot_size}
    account = _account(version, str(traded.index[0]), terms)
    engine = open_store(_journal(options))
    journal = Journal(engine, account=account)
    trader = Trader(
        load_model(uri),
        card=card,
        version=version,
        journal=journal,
        broker=PaperBroker(engine, account=account, symbol=options.name, **terms),
        symbol=options.name,
        lot_size=options.lot_size,
    )
    if done := len(journal.decisions()):
        print(f"{done} bars were replayed before; going on behind {journal.newest_bar()}.")
    try:
        result = replay(trader, traded, history=history, after_bar=_counter(done, len(traded)))
    finally:
        trader.close()
        engine.dispose()
    return _tell(version, result, terms)


def _split(
    options: argparse.Namespace, card: Mapping[str, Any], bars: pd.DataFrame
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the bars that are history, and those that are traded."""
    import pandas as pd

    start = options.start or card["holdout_start"]
    if start is None:
        raise EnsembleKitError(
            f"`--start` must be given: {options.name} was trained with --deployment, on all bars up to "
            f"{card['last_training_bar']}, so that there is no holdout to begin with."
        )
    first = _time("--start", start, bars)
    last = bars.index[-1] if options.end is None else _time("--end", options.end, bars, whole_day=True)
    traded = bars.loc[first:last]
    if traded.empty:
        raise EnsembleKitError(
            f"`--start` and `--end` must leave bars to trade; got none from {first} to {last}, and the file reaches "
            f"from {bars.index[0]} to {bars.index[-1]}."
        )
    if traded.index[0] <= pd.Timestamp(card["seen_until"]):
        warnings.warn(
            f"the model has seen bars up to {card['seen_until']}: what it earns on them is no forecast.",
            UserWarning,
            stacklevel=2,
        )
    history = bars[bars.index < traded.index[0]]
    if len(history) < card["min_history"] - 1:
        raise EnsembleKitError(
            f"`--replay` must hold {card['min_history'] - 1} bars of history before the first that is traded; "
            f"got {len(history)} before {traded.index[0]}. Take a later `--start`, or a longer file."
        )
    return history, traded


def _time(option: str, text: str, bars: pd.DataFrame, *, whole_day: bool = False) -> pd.Timestamp:
    """Return a time on the clock of the file; of a day its midnight, or its last instant."""
    import pandas as pd

    zone = pd.DatetimeIndex(bars.index).tz
    try:
        time = pd.Timestamp(text)
        time = time.tz_localize(zone) if time.tzinfo is None else time.tz_convert(zone)
    except (ValueError, TypeError) as error:
        raise EnsembleKitError(
            f"`{option}` must be a day or a time of the bars, such as {bars.index[-1]}; got {text!r} ({error})."
        ) from None
    return time + pd.Timedelta(days=1, nanoseconds=-1) if whole_day and ":" not in text else time


def _account(version: str, start: str, terms: Mapping[str, Any]) -> str:
    """Return a name that is another one for another replay: the same command goes on, a different one begins."""
    digest = hashlib.sha256(repr((version, start, sorted(terms.items()))).encode()).hexdigest()
    return f"replay-{version}-{digest[:8]}"


def _journal(options: argparse.Namespace) -> str | Path:
    if options.journal is not None:
        return str(options.journal)
    folder: Path = options.out / options.name
    folder.mkdir(parents=True, exist_ok=True)
    return folder / "replay.db"


def _counter(done: int, total: int) -> Callable[[Any], None]:
    """Return what shows every thousand bars how far the replay is."""
    count = itertools.count(done + 1)

    def show(_: Any) -> None:
        if (now := next(count)) % 1000 == 0:
            print(f"{now} of {total} bars", file=sys.stderr)

    return show


def _tell(version: str, result: ReplayResult, terms: Mapping[str, Any]) -> int:
    """Print what the replay earned beside buy and hold and the backtest, and whether it is the backtest's."""
    from ensemble_kit.sizing import backtest

    equity, unknown = result.equity, int(result.position.isna().sum())
    print(
        f"{version}, replayed on {len(equity)} bars from {equity.index[0]} to {equity.index[-1]}: {len(result.fills)} "
        f"fills, {len(result.refused)} bars refused"
    )
    for refusal in result.refused[:3]:
        print(f"  refused {refusal.time}: {refusal.reason}")
    expected = backtest(result.bars, result.position.fillna(0.0), **terms)
    for what, ends in {
        "replay": equity.iloc[-1],
        "backtest of the same positions": expected.equity.iloc[-1],
        "buy and hold": expected.buy_and_hold.iloc[-1],
    }.items():
        print(f"  {what:<32}{ends:>16,.2f}{ends / terms['cash'] - 1:>+10.2%}")
    differences = result.differences(expected)
    if unknown:
        differences.insert(0, f"{unknown} bars on which nothing was decided, held at 0 in the backtest")
    if differences:
        print(f"The replay is not the backtest: {'; '.join(differences)}.")
        return 1
    print(f"All {len(result.fills)} fills and the equity at every close are the backtest's, to the cent.")
    return 0
