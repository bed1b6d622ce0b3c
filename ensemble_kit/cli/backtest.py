"""``ensemble-kit backtest``: judge a registered model on its holdout, as a table, pictures and one HTML file."""

from __future__ import annotations

import argparse
from typing import Any

from ensemble_kit.cli import _shared
from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["add_to", "run"]

#: One of so many and the model itself, 1 of 20.
_LEAST_WALKS = 19


def add_to(commands: Any) -> None:
    """Add the command and its options.

    Parameters
    ----------
    commands : subparsers
        Where commands are added.
    """
    command = commands.add_parser(
        "backtest",
        parents=[_shared.data_options(), _shared.output_options(), _shared.account_options()],
        help="report on the holdout of a registered model",
    )
    command.add_argument("--version", help="number, alias or label of the version; the champion if not given")
    command.add_argument("--kelly-fraction", type=float, help="another share of the Kelly bet, for this report alone")
    command.add_argument("--kelly-conservatism", type=float, help="another weight of the error, for this report alone")
    command.add_argument("--surrogates", type=int, default=19, help="random walks of the holdout's bars, at least 19")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Judge a version on the bars that it has not seen.

    Parameters
    ----------
    options : Namespace
        As parsed.
    """
    import pandas as pd

    from ensemble_kit.reports import evaluate_holdout, save_pictures, write_report
    from ensemble_kit.tracking import load_card, load_model, log_holdout
    from ensemble_kit.tracking.intake import session_of

    if options.surrogates < _LEAST_WALKS:
        raise EnsembleKitError(
            f"`--surrogates` must be at least {_LEAST_WALKS}, or none of them can show p = 0.05; got "
            f"{options.surrogates}."
        )
    bars = _shared.read(options)
    _shared.use_store(options)
    _, uri = _shared.find_version(options)
    card = load_card(uri)
    if card["holdout_start"] is None:
        raise EnsembleKitError(
            f"`--name` must be of a model with a holdout; {options.name} was trained with --deployment on all bars up "
            f"to {card['last_training_bar']}, so that none is left to judge it on. Take another `--version`."
        )
    costs = _shared.costs(options, card)
    same = _shared.check_against(card, bars)
    model = load_model(uri)
    otherwise = _resize(options, model)
    report = evaluate_holdout(
        model,
        bars,
        start=pd.Timestamp(card["holdout_start"]),
        definition=card["labels"],
        prior=card["class_shares"],
        session=session_of(card),
        costs=costs,
        cash=options.cash,
        lot_size=options.lot_size,
        n_surrogates=options.surrogates,
    )
    folder = options.out / options.name
    pictures = save_pictures(report, model, folder)
    title = f"{options.name}, holdout report" + (f", sized by {otherwise}" if otherwise else "")
    told = card | ({"sized_for_this_report_by": otherwise} if otherwise else {})
    page = write_report(report, model, folder / "report.html", title=title, card=told)
    if same and not otherwise:
        log_holdout(uri, report.metrics(), [page, *pictures])
    print(f"{options.name}, trained on {card['first_training_bar']} to {card['last_training_bar']}")
    if otherwise:
        print(f"Sized by {otherwise}, which is not how the model was registered: not logged to its run.")
    print(report)
    print(f"\nReport: {page}\nPictures: {', '.join(str(picture) for picture in pictures)}")


def _resize(options: argparse.Namespace, model: Any) -> str:
    """Give the fitted sizer other parameters, and return them in words; "" where none are asked for."""
    import numpy as np

    from ensemble_kit.sizing import KellySizer

    asked = {"fraction": options.kelly_fraction, "conservatism": options.kelly_conservatism}
    asked = {name: value for name, value in asked.items() if value is not None}
    if not asked:
        return ""
    if not isinstance(model.sizer_, KellySizer):
        raise EnsembleKitError(
            f"`--kelly-fraction` and `--kelly-conservatism` must be of a model sized by Kelly's rule; "
            f"{options.name}'s sizer is {type(model.sizer_).__name__}. Leave them out."
        )
    # Fitted to nothing much, a copy says what is out of its domain.
    KellySizer(**asked).fit(np.full((2, 2), 0.5), ["down", "up"])
    model.sizer_.set_params(**asked)
    return ", ".join(f"{name}={value:g}" for name, value in asked.items())
