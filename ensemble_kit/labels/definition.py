"""Label other bars by a definition that was written down with a model."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import pandas as pd

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels.buy_sell_hold import buy_sell_hold
from ensemble_kit.labels.next_direction import next_direction
from ensemble_kit.labels.result import Labels
from ensemble_kit.labels.triple_barrier import triple_barrier
from ensemble_kit.labels.turns import peak_slope_bottom
from ensemble_kit.sessions import Session

__all__ = ["label_bars"]

_FUNCTIONS: dict[str, Callable[..., Labels]] = {
    function.__name__: function for function in (buy_sell_hold, next_direction, peak_slope_bottom, triple_barrier)
}


def label_bars(bars: pd.DataFrame, definition: Mapping[str, Any], *, side: pd.Series[Any] | None = None) -> Labels:
    """Label bars by a definition: a function's name and its parameters.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel.
    definition : mapping
        `Labels.definition`: the function's name under ``label``, and its parameters.
    side : Series, default=None
        The bets on these bars, for meta-labels: they are no part of a definition.

    Returns
    -------
    Labels
        As the function gives them.

    Raises
    ------
    EnsembleKitError
        If `definition` is no mapping, names no such function or a parameter that it does not
        have, or `side` is given to a label without sides.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.labels import label_bars, peak_slope_bottom
    >>> bars = make_bars(500, random_state=0)
    >>> labels = peak_slope_bottom(bars, w=12)
    >>> label_bars(bars, labels.definition).labels.equals(labels.labels)
    True
    """
    if not isinstance(definition, Mapping):
        raise EnsembleKitError(
            f"`definition` must be a mapping of a label function's name and parameters; got "
            f"{type(definition).__name__}. Pass `labels.definition`, or {{'label': 'peak_slope_bottom', 'w': 36}}, say."
        )
    parameters = dict(definition)
    name = parameters.pop("label", None)
    if not isinstance(name, str) or name not in _FUNCTIONS:
        raise EnsembleKitError(f"`definition` must name one of {', '.join(_FUNCTIONS)} under 'label'; got {name!r}.")
    taken = [*inspect.signature(_FUNCTIONS[name]).parameters][1:]
    if unknown := [key for key in parameters if key not in taken]:
        raise EnsembleKitError(
            f"`definition` must hold parameters of {name} ({', '.join(taken)}); got "
            f"{', '.join(map(repr, unknown))}. Drop or rename them."
        )
    if side is not None and "side" not in taken:
        raise EnsembleKitError(
            f"`side` must be None for {name}, which has no bets; got {type(side).__name__}. "
            "Label by 'triple_barrier' for meta-labels."
        )
    for key in ("session", "clip_session"):
        if isinstance(parameters.get(key), Mapping):
            parameters[key] = Session(**parameters[key])
    if side is not None:
        parameters["side"] = side
    return _FUNCTIONS[name](bars, **parameters)
