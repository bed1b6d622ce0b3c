"""The command line: a thin layer over the parts, from a file of bars to a registered model and back."""

from __future__ import annotations

import argparse
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_kit.exceptions import EnsembleKitError

if TYPE_CHECKING:
    import pandas as pd

    from ensemble_kit.labels import Labels

__all__ = ["main"]

#: Bars and strength of the future that `demo` plants: enough to be seen, far from a sure thing.
_DEMO_BARS, _DEMO_SIGNAL = 8000, 2.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, default=None
        Those of the process if None.

    Returns
    -------
    int
        0, or 2 where the input cannot be used as it is.
    """
    options = _parser().parse_args(arguments)
    # What a model thinks of its data is worth a line; where in the code it thought so is not.
    warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
    try:
        options.run(options)
    except (EnsembleKitError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ensemble-kit", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--out", type=Path, default=Path("ensemble_kit_output"), help="folder for pictures and cache")
    shared.add_argument(
        "--tracking-uri", help="MLflow's store; MLflow's own default (sqlite:///mlflow.db) if not given"
    )
    shared.add_argument("--threads", type=int, default=1, help="threads a member; another number gives other bits")
    data = argparse.ArgumentParser(add_help=False)
    data.add_argument("--data", type=Path, required=True, help="parquet or CSV file of bars")
    data.add_argument("--name", required=True, help="name of the registered model")
    data.add_argument("--tz", help="time zone of naive times in the file")

    demo = commands.add_parser("demo", parents=[shared], help="the whole way on synthetic bars, in a few minutes")
    demo.set_defaults(run=_demo)
    train = commands.add_parser("train", parents=[data, shared], help="train up to the holdout, and register")
    train.add_argument("--holdout", type=float, default=0.2, help="share of the newest bars never trained on")
    train.add_argument("--preset", default="small", help="size of the model: smoke or small")
    train.add_argument("--session", default="day", help="'day' or an exchange code such as XNYS")
    train.add_argument("--seed", type=int, default=0, help="of everything random")
    train.set_defaults(run=_train)
    judge = commands.add_parser("backtest", parents=[data, shared], help="report on the holdout of a registered model")
    judge.add_argument("--cost-bps", type=float, default=1.0, help="cost of trading, in basis points of the notional")
    judge.add_argument("--surrogates", type=int, default=5, help="draws of return-shuffled bars")
    judge.set_defaults(run=_backtest)
    return parser


def _demo(options: argparse.Namespace) -> None:
    from ensemble_kit.datasets import make_bars

    options.out.mkdir(parents=True, exist_ok=True)
    file = options.out / "demo_bars.parquet"
    make_bars(_DEMO_BARS, signal=_DEMO_SIGNAL, random_state=0).reset_index().to_parquet(file)
    print(f"Made {_DEMO_BARS} synthetic 5-minute bars with a future planted in them (signal={_DEMO_SIGNAL}): {file}\n")
    if options.tracking_uri is None:
        options.tracking_uri = f"sqlite:///{options.out / 'mlflow.db'}"
    both = {"data": file, "name": "demo", "tz": None}
    _train(argparse.Namespace(**vars(options) | both, holdout=0.2, preset="smoke", session="XNYS", seed=0))
    print()
    _backtest(argparse.Namespace(**vars(options) | both, cost_bps=1.0, surrogates=5))
    print(
        "\nWhere to look next\n"
        f"  pictures   {options.out / 'demo'}\n"
        f"  the run    mlflow ui --backend-store-uri {options.tracking_uri}\n"
        "  your bars  ensemble-kit train --data FILE --name NAME, then ensemble-kit backtest --data FILE --name NAME"
    )


def _train(options: argparse.Namespace) -> None:
    from ensemble_kit.datasets import read_bars
    from ensemble_kit.labels import peak_slope_bottom
    from ensemble_kit.presets import PRESETS, make_model
    from ensemble_kit.tracking import CHAMPION, log_and_register, tracked_run
    from ensemble_kit.validation import WalkForwardSplit

    # All that can be wrong with the input is found before a run is opened.
    bars = read_bars(options.data, tz=options.tz)
    _use_store(options)
    if options.preset not in PRESETS:
        raise EnsembleKitError(f"`--preset` must be one of {', '.join(PRESETS)}; got {options.preset!r}.")
    labels = peak_slope_bottom(bars, horizons=PRESETS[options.preset].horizons)
    train, held = next(WalkForwardSplit(1, t1=labels.t1, test_size=options.holdout).split(bars))
    X, y = bars.iloc[train], labels.labels.iloc[train]
    weight = labels.sample_weight.iloc[train].to_numpy()
    model = make_model(
        options.preset,
        labels,
        session=options.session,
        memory=options.out / "memory",
        n_threads=options.threads,
        random_state=options.seed,
    )
    list(model.model[-1].cv.split(X))
    card = _card(options, bars, labels, train, held)
    parameters = {name: value for name, value in model.get_params().items() if not hasattr(value, "get_params")}
    print(f"Training {options.name} ({options.preset}) on {len(X)} bars, {X.index[0]} to {X.index[-1]};")
    print(f"the newest {len(held)} bars from {card['holdout_start']} on stay unseen.")
    with tracked_run(options.name, f"train {options.preset}", parameters):
        model.set_callbacks(*_progress()).fit(X, y, sample_weight=weight)
        model.set_callbacks()
        version = log_and_register(model, X, name=options.name, card=card)
    vote = model.model_[-1]
    print("\nOut of fold: AUC-PR (mean of peak and bottom), temperature and weight of each member")
    columns = {"auc_pr": vote.scores_["H0"], "temperature": vote.temperatures_["H0"], "weight": vote.weights_["H0"]}
    print(vote.scores_.assign(**columns)[list(columns)].to_string(float_format=lambda value: f"{value:.3f}"))
    print(f"\nRegistered {options.name} version {version} as @{CHAMPION}.")


def _card(options: argparse.Namespace, bars: pd.DataFrame, labels: Labels, train: Any, held: Any) -> dict[str, Any]:
    """Write down what a model was trained on, and what judging it will need."""
    from ensemble_kit import __version__
    from ensemble_kit.ensemble import fingerprint

    known = labels.horizon(0).iloc[train]
    return {
        "ensemble_kit": __version__,
        "preset": options.preset,
        "seed": options.seed,
        "session": options.session,
        "labels": labels.definition,
        "class_shares": known.value_counts(normalize=True).to_dict(),
        "first_training_bar": str(bars.index[train[0]]),
        "last_training_bar": str(bars.index[train[-1]]),
        "n_training_bars": len(train),
        "holdout_start": str(bars.index[held[0]]),
        "holdout_end": str(bars.index[held[-1]]),
        "bars_fingerprint": fingerprint(bars.iloc[train]),
    }


def _backtest(options: argparse.Namespace) -> None:
    import pandas as pd

    from ensemble_kit.datasets import read_bars
    from ensemble_kit.reports import evaluate_holdout, save_pictures
    from ensemble_kit.tracking import load_card, load_model, log_holdout

    bars = read_bars(options.data, tz=options.tz)
    _use_store(options)
    card = load_card(options.name)
    report = evaluate_holdout(
        load_model(options.name),
        bars,
        start=pd.Timestamp(card["holdout_start"]),
        definition=card["labels"],
        prior=card["class_shares"],
        session=card["session"],
        cost_bps=options.cost_bps,
        n_surrogates=options.surrogates,
    )
    pictures = save_pictures(report, load_model(options.name), options.out / options.name)
    log_holdout(options.name, report.metrics(), pictures)
    print(f"{options.name}, trained on {card['first_training_bar']} to {card['last_training_bar']}")
    print(report)
    print("\nPictures: " + ", ".join(str(picture) for picture in pictures))


def _use_store(options: argparse.Namespace) -> None:
    import mlflow

    from ensemble_kit.tracking import quiet

    quiet()
    if options.tracking_uri:
        mlflow.set_tracking_uri(options.tracking_uri)


def _progress() -> list[Any]:
    """Return a progress bar where someone is watching."""
    from sklearn.callback import ProgressBar

    return [ProgressBar(max_propagation_depth=None)] if sys.stderr.isatty() or sys.stdout.isatty() else []


if __name__ == "__main__":
    sys.exit(main())
