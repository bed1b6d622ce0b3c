"""How the loss of networks fell epoch by epoch, and which epoch was kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.ticker import LogLocator

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.reports._canvas import BLUE, GREY, INK, VERMILION, line_colors, new_axes
from ensemble_kit.reports._texts import fit_head, fit_title, is_narrow
from ensemble_kit.validation import final_estimator

__all__ = ["plot_training"]

_LOSSES = ["train_loss", "valid_loss"]
#: Colours of a palette that eyes tell apart; of more lines, shades.
_TOLD_APART = 5
#: Names that find room above the axes; more stand beside them.
_IN_A_HEAD = 6


def plot_training(history: Any, *, ax: Axes | None = None) -> Axes:
    """Draw the loss of networks by epoch, and mark the epoch that was kept.

    Parameters
    ----------
    history : DataFrame, mapping of str to DataFrame, or fitted model
        `history_` of a fitted sequence model: rows are epochs, columns `train_loss` and
        `valid_loss`; several by name; or who has them: a sequence model, a Pipeline that ends
        in one, a `SizedClassifier`, or a `WalkForwardVotingClassifier`, whose members without
        epochs are left out. An ensemble keeps the models that predict: each member's one of
        all rows, or after ``refit="fold_average"`` one a fold.
    ax : Axes, default=None
        Where to draw. None makes a figure.

    Returns
    -------
    Axes
        Loss on the rows that were learned from (dashed) and on the newest block, which stopped
        training (solid); a ring around the best epoch, whose weights were kept. Without that
        block there is no such line and no ring. The scale is a log where losses span more than
        ten to one. Losses compare between members of one loss function only; the training
        loss is a mean over the epoch with dropout, and may lie above the other.

    Raises
    ------
    EnsembleKitError
        If there is no such history, or no epoch or no number in it.

    Examples
    --------
    >>> import pandas as pd
    >>> from ensemble_kit.reports.training import plot_training
    >>> losses = {"train_loss": [0.9, 0.6, 0.4], "valid_loss": [0.8, 0.7, 0.75]}
    >>> ax = plot_training(pd.DataFrame(losses, index=[1, 2, 3]))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['train', 'newest block', 'best epoch: 2']
    """
    histories = _histories(history)
    ax = new_axes(ax, (8, 4.5))
    if len(histories) == 1:
        ((name, one),) = histories.items()
        _draw(ax, one, BLUE, label="newest block", train=GREY, train_label="train", best=f"best epoch: {_best(one)}")
    else:
        name = ""
        n = len(histories)
        colors = line_colors(n) if n <= _TOLD_APART else list(colormaps["viridis"](np.linspace(0.05, 0.9, n)))
        for (key, one), color in zip(histories.items(), colors, strict=True):
            best = _best(one)
            label = f"{key}: {'no block' if best is None else f'best {best}'}"
            _draw(ax, one, color, label=label, train=color, train_label="_")
        ax.plot([], [], color=INK, linewidth=1, linestyle="--", label="train")
    losses = np.concatenate([one[_LOSSES].to_numpy(np.float64).ravel() for one in histories.values()])
    losses = losses[np.isfinite(losses)]
    if losses.min() > 0 and losses.max() > 10 * losses.min():
        ax.set_yscale("log")
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        ax.yaxis.set_major_formatter("{x:g}")
        ax.yaxis.set_minor_formatter("")
    ax.set_xlabel("Epoch")
    ax.set_ylabel("Loss, log scale" if ax.get_yscale() == "log" else "Loss")
    epochs = [int(at) for one in histories.values() for at in (one.index.min(), one.index.max())]
    ax.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)
    every = -(-(max(epochs) - min(epochs) + 1) // (6 if is_narrow(ax) else 12))
    ax.set_xticks(range(min(epochs), max(epochs) + 1, every))
    title = f"Training: {name}" if name else "Training: loss by epoch"
    if len(histories) > _IN_A_HEAD:
        fit_title(ax, title)
        size = 6.5 if is_narrow(ax) else 9.0
        ax.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=size)
    else:
        fit_head(ax, title)
    return ax


def _draw(
    ax: Axes, one: pd.DataFrame, color: Any, *, label: str, train: Any, train_label: str, best: str = "_"
) -> None:
    epochs, (fell, stopped) = one.index.to_numpy(), one[_LOSSES].to_numpy(np.float64).T
    ax.plot(epochs, fell, color=train, linewidth=1, linestyle="--", marker=".", markersize=3, label=train_label)
    known = bool(np.isfinite(stopped).any())
    # Without a block the entry in the legend still names the member, by the colour of its dashes.
    if known or train_label == "_":
        ax.plot(epochs, stopped, color=color, linewidth=1.4, marker=".", markersize=5, label=label)
    if known:
        at = _best(one)
        style: dict[str, Any] = {"markersize": 10, "markerfacecolor": "none", "markeredgewidth": 1.6, "linestyle": ""}
        ring = VERMILION if best != "_" else color
        ax.plot([at], [one.loc[at, "valid_loss"]], "o", markeredgecolor=ring, label=best, **style)


def _best(one: pd.DataFrame) -> Any:
    """Return the first epoch of the least loss on the block, as training chose it; None without a block."""
    stopped = one["valid_loss"].dropna()
    return None if stopped.empty else stopped.index[int(stopped.to_numpy().argmin())]


def _histories(history: Any) -> dict[str, pd.DataFrame]:
    cure = "Take `history_` of a fitted sequence model, or the fitted model itself."
    if isinstance(history, pd.DataFrame):
        found = {"": history}
    elif isinstance(history, Mapping):
        found = {str(name): one for name, one in history.items()}
    else:
        found = dict(_of_model(history))
    if not found:
        raise EnsembleKitError(
            f"`history` must be a frame, a mapping of frames, or a fitted model with `history_`; got "
            f"{type(history).__name__}, which has none. {cure}"
        )
    for name, one in found.items():
        whose = f" of {name!r}" if name else ""
        if not isinstance(one, pd.DataFrame) or not set(_LOSSES) <= set(one.columns):
            got = f"columns {list(one.columns)}" if isinstance(one, pd.DataFrame) else type(one).__name__
            raise EnsembleKitError(
                f"`history`{whose} must have the columns train_loss and valid_loss; got {got}. {cure}"
            )
        if not np.isfinite(one["train_loss"].to_numpy(np.float64)).any():
            raise EnsembleKitError(f"`history`{whose} must hold a loss of at least one epoch; got none. {cure}")
    return found


def _of_model(model: Any, name: str = "") -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the histories of a fitted model, or of those that it holds."""
    model = final_estimator(model)
    if hasattr(model, "history_"):
        yield name, model.history_
    elif hasattr(model, "named_estimators_"):
        for member, models in model.named_estimators_.items():
            several = isinstance(models, list)
            for fold, one in enumerate(models if several else [models]):
                yield from _of_model(one, f"{member}, fold {fold}" if several else member)
    else:
        for inner in ("model_", "estimator_"):  # a SizedClassifier, an ExpectedCostClassifier
            if hasattr(model, inner):
                yield from _of_model(getattr(model, inner), name)
