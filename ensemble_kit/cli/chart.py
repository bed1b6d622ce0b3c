"""``ensemble-kit chart``: pictures of bars, with what a registered model believed of them."""

from __future__ import annotations

import argparse
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemble_kit.cli import _shared
from ensemble_kit.exceptions import EnsembleKitError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["add_to", "run"]

_PICTURES = ("beliefs", "structure", "waves")
_FORMATS = ("png", "pdf", "html")


def add_to(commands: Any) -> None:
    """Add the command and its options.

    Parameters
    ----------
    commands : subparsers
        Where commands are added.
    """
    command = commands.add_parser(
        "chart",
        parents=[_shared.data_options(), _shared.output_options()],
        help="draw bars with the beliefs of a registered model, market structure and waves",
    )
    command.add_argument("--start", help="first bar drawn, such as 2023-03-16 or '2023-03-16 15:25'")
    command.add_argument("--end", help="last bar drawn")
    command.add_argument("--last", type=int, default=500, help="how many bars are drawn, where there is no --start")
    command.add_argument("--threshold", type=float, help="belief whose crossings are marked; none if not given")
    command.add_argument("--pictures", nargs="+", choices=_PICTURES, default=[*_PICTURES], help="which to draw")
    command.add_argument("--format", nargs="+", choices=_FORMATS, default=["png"], help="html is of beliefs only")
    command.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Draw the pictures asked for.

    Parameters
    ----------
    options : Namespace
        As parsed.
    """
    if set(options.format) == {"html"} and "beliefs" not in options.pictures:
        raise EnsembleKitError(
            "`--format` must be png or pdf for structure and waves; got html, which is of beliefs only."
        )
    bars = _shared.read(options)
    shown = _shown(options, bars)
    print(
        "Pictures: " + ", ".join(str(file) for name in options.pictures for file in _DRAW[name](options, bars, shown))
    )


def _shown(options: argparse.Namespace, bars: pd.DataFrame) -> slice:
    """Return the rows drawn."""
    times = [_time(options, name, bars.index) for name in ("start", "end")]
    end = len(bars) if times[1] is None else int((bars.index <= times[1]).sum())
    if options.last < 1:
        raise EnsembleKitError(f"`--last` must be at least 1; got {options.last}. Count it in bars.")
    first = max(end - options.last, 0) if times[0] is None else int((bars.index < times[0]).sum())
    if first >= end:
        raise EnsembleKitError(
            f"`--start` and `--end` must leave bars to draw; got {options.start} and {options.end} of bars from "
            f"{bars.index[0]} to {bars.index[-1]}."
        )
    return slice(first, end)


def _time(options: argparse.Namespace, name: str, index: pd.Index[Any]) -> pd.Timestamp | None:
    import pandas as pd

    text = getattr(options, name)
    if text is None:
        return None
    try:
        time = pd.Timestamp(text)
    except ValueError:
        raise EnsembleKitError(f"`--{name}` must be a time; got {text!r}. Write '2023-03-16 15:25', say.") from None
    zone = pd.DatetimeIndex(index).tz
    if name == "end" and time == time.normalize():
        time += pd.Timedelta(days=1) - pd.Timedelta(nanoseconds=1)  # a day ends with its last bar
    return time.tz_localize(zone) if time.tz is None else time.tz_convert(zone)


def _folder(options: argparse.Namespace) -> Path:
    """Return where the pictures go: beside the report's, which are of the whole holdout."""
    folder: Path = options.out / options.name / "charts"
    return folder


def _save(options: argparse.Namespace, name: str, ax: Any) -> list[Path]:
    from ensemble_kit.reports import save_figure

    folder = _folder(options)
    return [save_figure(ax, folder / f"{name}.{kind}") for kind in options.format if kind != "html"]


def _draw_beliefs(options: argparse.Namespace, bars: pd.DataFrame, shown: slice) -> list[Path]:
    import pandas as pd

    from ensemble_kit.labels import label_bars
    from ensemble_kit.reports import BeliefDisplay, interactive_beliefs
    from ensemble_kit.tracking import load_card, load_model

    _shared.use_store(options)
    card = load_card(options.name)
    _shared.check_against(card, bars)
    if bars.index[shown.start] <= pd.Timestamp(card["last_training_bar"]):
        warnings.warn(
            f"the model was trained on bars up to {card['last_training_bar']}: its beliefs of those are no forecasts.",
            UserWarning,
            stacklevel=2,
        )
    labels = label_bars(bars, card["labels"]).horizon(0)
    drawn = BeliefDisplay.from_estimator(
        load_model(options.name),
        bars.iloc[: shown.stop],
        labels=labels.reindex(bars.index).iloc[: shown.stop],
        threshold=options.threshold,
        last=shown.stop - shown.start,
    )
    files = _save(options, "beliefs", drawn.ax_)
    if "html" in options.format:
        page = _folder(options) / "beliefs.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        interactive_beliefs(**drawn.arguments).write_html(page, include_plotlyjs=True)
        files.append(page)
    return files


def _draw_structure(options: argparse.Namespace, bars: pd.DataFrame, shown: slice) -> list[Path]:
    from ensemble_kit.reports import plot_structure

    return _save(options, "structure", plot_structure(bars.iloc[: shown.stop], last=shown.stop - shown.start))


def _draw_waves(options: argparse.Namespace, bars: pd.DataFrame, shown: slice) -> list[Path]:
    from ensemble_kit.reports import plot_waves
    from ensemble_kit.waves import extract_waves

    past = bars.iloc[: shown.stop]
    return _save(options, "waves", plot_waves(past, extract_waves(past), last=shown.stop - shown.start))


_DRAW = {"beliefs": _draw_beliefs, "structure": _draw_structure, "waves": _draw_waves}
