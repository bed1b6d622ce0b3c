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
#: A bar that moves further than this is a split or a bad print before it is a return.
_JUMP = 0.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Parameters
    ----------
    arguments : sequence of str, default=None
        Those of the process if None.

    Returns
    -------
    int
        0, 2 where the input cannot be used as it is, 130 where it was interrupted.
    """
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            # What a model thinks of its data is worth a line; where in the code it thought so is not.
            warnings.showwarning = lambda message, *_, **__: print(f"warning: {message}", file=sys.stderr)
            options.run(options)
    except (EnsembleKitError, OSError) as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: finished members are kept, and the same command goes on from there", file=sys.stderr)
        return 130
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
    judge.add_argument("--surrogates", type=int, default=19, help="random walks of the holdout's bars")
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
    _backtest(argparse.Namespace(**vars(options) | both, cost_bps=1.0, surrogates=19))
    print(
        "\nWhere to look next\n"
        f"  pictures   {options.out / 'demo'}\n"
        f"  the run    mlflow ui --backend-store-uri {options.tracking_uri}\n"
        "  your bars  ensemble-kit train --data FILE --name NAME, then ensemble-kit backtest --data FILE --name NAME"
    )


def _train(options: argparse.Namespace) -> None:
    from ensemble_kit.labels import peak_slope_bottom
    from ensemble_kit.presets import PRESETS, make_model
    from ensemble_kit.sessions import session_times
    from ensemble_kit.tracking import CHAMPION, log_and_register, tracked_run
    from ensemble_kit.validation import WalkForwardSplit

    # All that can be wrong with the input is found before a run is opened.
    _check_training_options(options, list(PRESETS))
    bars = _read(options)
    session_times(bars.index[:1], options.session)
    _use_store(options)
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
    if labels.horizon(0).iloc[train].nunique() < 2:
        raise EnsembleKitError("`--data` must hold prices that turn; got no peak and no bottom. Check the file.")
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
    from ensemble_kit.fingerprint import fingerprint

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
        "bar": _step(bars),
        "columns": _known_columns(bars),
        "holdout_start": str(bars.index[held[0]]),
        "holdout_end": str(bars.index[held[-1]]),
        "bars_fingerprint": fingerprint(bars.iloc[train]),
    }


def _backtest(options: argparse.Namespace) -> None:
    import pandas as pd

    from ensemble_kit.reports import evaluate_holdout, save_pictures
    from ensemble_kit.tracking import load_card, load_model, log_holdout

    bars = _read(options)
    _use_store(options)
    card = load_card(options.name)
    same = _check_against(card, bars)
    model = load_model(options.name)
    report = evaluate_holdout(
        model,
        bars,
        start=pd.Timestamp(card["holdout_start"]),
        definition=card["labels"],
        prior=card["class_shares"],
        session=card["session"],
        cost_bps=options.cost_bps,
        n_surrogates=options.surrogates,
    )
    pictures = save_pictures(report, model, options.out / options.name)
    if same:
        log_holdout(options.name, report.metrics(), pictures)
    print(f"{options.name}, trained on {card['first_training_bar']} to {card['last_training_bar']}")
    print(report)
    print("\nPictures: " + ", ".join(str(picture) for picture in pictures))


def _check_training_options(options: argparse.Namespace, presets: list[str]) -> None:
    if options.preset not in presets:
        raise EnsembleKitError(f"`--preset` must be one of {', '.join(presets)}; got {options.preset!r}.")
    if not 0 < options.holdout < 1:
        raise EnsembleKitError(f"`--holdout` must be a share between 0 and 1; got {options.holdout}. Take 0.2, say.")
    if options.threads < 1:
        raise EnsembleKitError(f"`--threads` must be at least 1; got {options.threads}.")


def _read(options: argparse.Namespace) -> pd.DataFrame:
    """Read the bars of one instrument, and say aloud what in them would fool a reader of the report."""
    import pandas as pd

    from ensemble_kit.datasets import read_bars

    bars = read_bars(options.data, tz=options.tz)
    if isinstance(bars.index, pd.MultiIndex):
        names = bars.index.get_level_values(1).unique()
        raise EnsembleKitError(
            f"`--data` must hold one instrument; {options.data.name} holds {len(names)} ({', '.join(names[:5])}, ...). "
            "Write one to a file of its own, or train on the panel in Python."
        )
    moves = (bars["close"].ffill().pct_change(fill_method=None).abs() > _JUMP).to_numpy()
    if moves.any():
        warnings.warn(
            f"{int(moves.sum())} bar(s) move by more than {_JUMP:.0%}, the first at {bars.index[int(moves.argmax())]}: "
            "unadjusted splits, or bad prints? They count as returns.",
            UserWarning,
            stacklevel=2,
        )
    unknown = int(bars["close"].isna().sum())
    if unknown:
        warnings.warn(f"{unknown} of {len(bars)} bars have no price: they are not traded.", UserWarning, stacklevel=2)
    return bars


def _step(bars: pd.DataFrame) -> str:
    """Return the commonest distance between bars."""
    return str(bars.index.to_series().diff().mode().iloc[0])


def _known_columns(bars: pd.DataFrame) -> list[str]:
    return [str(column) for column in bars.columns if bars[column].notna().any()]


def _check_against(card: dict[str, Any], bars: pd.DataFrame) -> bool:
    """Refuse bars of another kind than the model's; return whether they are the very bars it was trained beside."""
    from ensemble_kit.fingerprint import fingerprint

    if card["bar"] != _step(bars):
        raise EnsembleKitError(f"`--data` must hold bars of {card['bar']}, as in training; got bars of {_step(bars)}.")
    inputs = [column for column in ("volume", "vwap") if column in card["columns"]]
    if missing := [column for column in inputs if column not in _known_columns(bars)]:
        raise EnsembleKitError(
            f"`--data` must have {', '.join(missing)}, as in training; the model's columns would mean something else."
        )
    trained = bars.loc[card["first_training_bar"] : card["last_training_bar"]]
    same = len(trained) == card["n_training_bars"] and fingerprint(trained) == card["bars_fingerprint"]
    if not same:
        warnings.warn(
            "these are not the bars that the model was trained on: the report is not logged to its run.",
            UserWarning,
            stacklevel=2,
        )
    return same


def _use_store(options: argparse.Namespace) -> None:
    import mlflow

    from ensemble_kit.tracking import check_store, quiet

    quiet()
    if options.tracking_uri:
        mlflow.set_tracking_uri(options.tracking_uri)
    check_store(options.name)


def _progress() -> list[Any]:
    """Return a progress bar where someone is watching."""
    from sklearn.callback import ProgressBar

    return [ProgressBar(max_propagation_depth=None)] if sys.stderr.isatty() or sys.stdout.isatty() else []


if __name__ == "__main__":
    sys.exit(main())
