"""``ensemble-kit train``: fit up to the holdout, and register."""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
from typing import TYPE_CHECKING, Any

from ensemble_kit.cli import _shared
from ensemble_kit.exceptions import EnsembleKitError

if TYPE_CHECKING:
    import pandas as pd

    from ensemble_kit.labels import Labels

__all__ = ["add_to", "run"]


def add_to(commands: Any) -> None:
    """Add the command and its options."""
    command = commands.add_parser(
        "train",
        parents=[_shared.data_options(), _shared.output_options()],
        help="train up to the holdout, and register",
    )
    command.add_argument("--holdout", type=float, default=0.2, help="share of the newest bars never trained on")
    command.add_argument("--preset", default="small", help="size of the model: smoke or small")
    command.add_argument("--session", default="day", help="'day' or an exchange code such as XNYS")
    command.add_argument("--seed", type=int, default=0, help="of everything random")
    command.add_argument("--threads", type=int, default=1, help="threads a member; another number gives other bits")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Train on all bars but the newest, and register the model as champion."""
    from ensemble_kit.labels import peak_slope_bottom
    from ensemble_kit.presets import PRESETS, make_model
    from ensemble_kit.sessions import session_times
    from ensemble_kit.tracking import CHAMPION, log_and_register, tracked_run
    from ensemble_kit.validation import WalkForwardSplit

    # All that can be wrong with the input is found before a run is opened.
    _check(options, list(PRESETS))
    bars = _shared.read(options)
    session_times(bars.index[:1], options.session)
    _shared.use_store(options)
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
    from ensemble_kit.fingerprint import fingerprint

    known = labels.horizon(0).iloc[train]
    return {
        "ensemble_kit": importlib.metadata.version("ensemble-kit"),
        "preset": options.preset,
        "seed": options.seed,
        "session": options.session,
        "labels": labels.definition,
        "class_shares": known.value_counts(normalize=True).to_dict(),
        "first_training_bar": str(bars.index[train[0]]),
        "last_training_bar": str(bars.index[train[-1]]),
        "n_training_bars": len(train),
        "bar": _shared.bar_size(bars),
        "columns": _shared.known_columns(bars),
        "holdout_start": str(bars.index[held[0]]),
        "holdout_end": str(bars.index[held[-1]]),
        "bars_fingerprint": fingerprint(bars.iloc[train]),
    }


def _check(options: argparse.Namespace, presets: list[str]) -> None:
    if options.preset not in presets:
        raise EnsembleKitError(f"`--preset` must be one of {', '.join(presets)}; got {options.preset!r}.")
    if not 0 < options.holdout < 1:
        raise EnsembleKitError(f"`--holdout` must be a share between 0 and 1; got {options.holdout}. Take 0.2, say.")
    if options.threads < 1:
        raise EnsembleKitError(f"`--threads` must be at least 1; got {options.threads}.")


def _progress() -> list[Any]:
    """Return a progress bar where someone is watching."""
    from sklearn.callback import ProgressBar

    return [ProgressBar(max_propagation_depth=None)] if sys.stderr.isatty() or sys.stdout.isatty() else []
