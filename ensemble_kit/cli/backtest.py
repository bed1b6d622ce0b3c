"""``ensemble-kit backtest``: judge a registered model on its holdout, as a table, pictures and one HTML file."""

from __future__ import annotations

import argparse
from typing import Any

from ensemble_kit.cli import _shared

__all__ = ["add_to", "run"]


def add_to(commands: Any) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "backtest",
        parents=[_shared.data_options(), _shared.output_options()],
        help="report on the holdout of a registered model",
    )
    command.add_argument("--cost-bps", type=float, default=1.0, help="commission, in basis points of the notional")
    command.add_argument("--spread-bps", type=float, default=0.0, help="quoted spread; a fill pays half of it")
    command.add_argument("--slippage-bps", type=float, default=0.0, help="how much worse than that a fill is")
    command.add_argument("--borrow-rate", type=float, default=0.0, help="yearly, on what is sold short or borrowed")
    command.add_argument("--cash", type=float, default=100_000.0, help="what the account starts with")
    command.add_argument("--lot-size", type=float, default=0.0, help="units are multiples of it; 0 takes fractions")
    command.add_argument("--surrogates", type=int, default=19, help="random walks of the holdout's bars")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Judge the champion on the bars that it has not seen."""
    import pandas as pd

    from ensemble_kit.reports import evaluate_holdout, save_pictures, write_report
    from ensemble_kit.sizing import Costs
    from ensemble_kit.tracking import load_card, load_model, log_holdout

    costs = Costs(
        commission_bps=options.cost_bps,
        spread_bps=options.spread_bps,
        slippage_bps=options.slippage_bps,
        borrow_rate=options.borrow_rate,
    )
    bars = _shared.read(options)
    _shared.use_store(options)
    card = load_card(options.name)
    same = _shared.check_against(card, bars)
    model = load_model(options.name)
    report = evaluate_holdout(
        model,
        bars,
        start=pd.Timestamp(card["holdout_start"]),
        definition=card["labels"],
        prior=card["class_shares"],
        session=card["session"],
        costs=costs,
        cash=options.cash,
        lot_size=options.lot_size,
        n_surrogates=options.surrogates,
    )
    folder = options.out / options.name
    pictures = save_pictures(report, model, folder)
    page = write_report(report, model, folder / "report.html", title=f"{options.name}, holdout report", card=card)
    if same:
        log_holdout(options.name, report.metrics(), [page, *pictures])
    print(f"{options.name}, trained on {card['first_training_bar']} to {card['last_training_bar']}")
    print(report)
    print(f"\nReport: {page}\nPictures: {', '.join(str(picture) for picture in pictures)}")
