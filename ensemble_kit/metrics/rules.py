"""Causal rules: the part of each label that anyone has for free at its bar."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit import labels
from ensemble_kit.atr import average_true_range
from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels._blocks import Blocks
from ensemble_kit.labels._extremes import extremes_before
from ensemble_kit.labels.events import close_returns, ewm_volatility, one_column
from ensemble_kit.sessions import Session

__all__ = ["causal_rule", "turn_rule"]

FloatArray = NDArray[np.float64]


def causal_rule(bars: pd.DataFrame, definition: Mapping[str, Any]) -> pd.DataFrame:
    """Score the events of a label by what is known of them at the bar's close, without a model.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel.
    definition : mapping
        `Labels.definition`: the label's name under ``label``, and its parameters.

    Returns
    -------
    DataFrame of shape (n, n_events)
        One column an event class, on the bars' index: the higher, the likelier the event
        (scores, no probabilities). Row t sees rows <= t; 0 where nothing is known. Of several
        horizons it is about the first, the bar itself.

    Raises
    ------
    BarsError
        If the bars are not what the label is made of.
    EnsembleKitError
        If the definition is no mapping, there is no rule for a label of that name, or its
        function has no such parameters.

    See Also
    --------
    compare_scores : A model against this rule, with the interval of the difference.
    surrogate_bars : Beside the rule, the model's own score in a world without memory.

    Notes
    -----
    What a model does not add to the AUC-PR of these rules, anyone has for free:

    - ``peak_slope_bottom`` (`peak`, `bottom`): the left leg in ATR(14) at a new extreme of
      the last `w` bars; see `turn_rule`.
    - ``buy_sell_hold`` (`buy`, `sell`): how much farther, in ATR(14), the close lies above the
      lowest low of the last ``w / 2`` bars of its session than below their highest high, and the
      opposite. Most of a trend that a turn began is still on at the next bars.
    - ``triple_barrier`` (1, -1; of meta-labels 1): equally for both, the root of the bar's
      range times the usual volatility (the mean of it so far), over the volatility that
      the barriers are measured in. The label gives no direction away, but where that is
      low for the moment, the barriers are near, and time is seldom up before they are reached.
    - ``next_direction`` (1, 0): the opposite of the last move. Prices that bounce between bid
      and ask turn back.

    For a label of your own, make such a frame of your own.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.metrics import causal_rule
    >>> rule = causal_rule(make_bars(200, random_state=0), {"label": "peak_slope_bottom", "w": 12})
    >>> rule.columns.tolist()
    ['peak', 'bottom']
    """
    if not isinstance(definition, Mapping):
        raise EnsembleKitError(
            f"`definition` must be a mapping, of the label's name and its parameters; got {type(definition).__name__}. "
            "Pass `labels.definition`."
        )
    parameters = dict(definition)
    label = parameters.pop("label", None)
    if label not in _RULES:
        raise EnsembleKitError(
            f"`definition` must name one of {', '.join(_RULES)} under 'label'; got {label!r}. For another label, make "
            "a frame of your own: on the bars' index, a column an event, row t of rows <= t."
        )
    known = list(inspect.signature(getattr(labels, label)).parameters)[1:]  # all but the bars
    if unknown := [name for name in parameters if name not in known]:
        raise EnsembleKitError(
            f"`definition` must hold parameters of {label}, {', '.join(known)}; got {', '.join(map(repr, unknown))}. "
            "Pass `labels.definition`."
        )
    for name in ("session", "clip_session"):
        if isinstance(parameters.get(name), Mapping):
            parameters[name] = Session(**parameters[name])
    return _RULES[label](bars, **parameters)


def turn_rule(bars: pd.DataFrame, *, w: int = 36, clip_session: str | Session | None = None) -> pd.DataFrame:
    """Score peaks and bottoms by the half of the label that is known at its bar.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel.
    w : int, default=36
        Bars of the label's window.
    clip_session : str or Session, default=None
        If given, as for the label, windows begin no earlier than the session.

    Returns
    -------
    DataFrame of shape (n, 2)
        Columns `peak` and `bottom`: the left leg in ATR(14) at a strict new extreme of the
        last `w` bars, 0 elsewhere. Row t sees rows <= t. What a model does not add to the
        AUC-PR of this rule, anyone has for free.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.metrics import turn_rule
    >>> turn_rule(make_bars(200, random_state=0)).columns.tolist()
    ['peak', 'bottom']
    """
    blocks, high, low, _, atr = _measured(bars, w, clip_session)
    top, floor = extremes_before(high, low, blocks.start, w)
    peak = np.where(high > top, (high - floor) / atr, 0.0)
    bottom = np.where(low < floor, (top - low) / atr, 0.0)
    return _scores(blocks, {"peak": peak, "bottom": bottom})


def _trend_rule(bars: pd.DataFrame, *, w: int = 12, session: str | Session | None = "day", **_: Any) -> pd.DataFrame:
    blocks, high, low, close, atr = _measured(bars, w, session)
    top, floor = extremes_before(high, low, blocks.start, max(w // 2, 1))
    rise = ((close - np.fmin(floor, low)) - (np.fmax(top, high) - close)) / atr
    return _scores(blocks, {"buy": rise, "sell": -rise})


def _barrier_rule(bars: pd.DataFrame, *, span: int = 100, side: Any = None, **_: Any) -> pd.DataFrame:
    check_bars(bars)
    blocks = Blocks.of(bars)
    volatility = blocks.take(ewm_volatility(bars, span=span))
    high, low = blocks.floats(bars, "high", "low")
    usual = pd.Series(volatility).groupby(blocks.first).expanding().mean().to_numpy()
    reach = np.sqrt((high / low - 1.0) * usual) / np.where(volatility > 0, volatility, np.nan)
    return _scores(blocks, {1: reach} if side is not None else {-1: reach, 1: reach})


def _bounce_rule(bars: pd.DataFrame | pd.Series[Any], *, column: str = "close", **_: Any) -> pd.DataFrame:
    prices = one_column(bars, column)
    blocks = Blocks.of(prices.to_frame())
    move = close_returns(blocks.take(prices), blocks)
    return _scores(blocks, {0: move, 1: -move})


def _measured(
    bars: pd.DataFrame, w: int, session: str | Session | None
) -> tuple[Blocks, FloatArray, FloatArray, FloatArray, FloatArray]:
    """Return the places, and high, low, close and ATR(14) by place."""
    check_bars(bars)
    if not isinstance(w, Integral) or w < 1:
        raise EnsembleKitError(f"`w` must be an integer of at least 1; got {w!r}. Take the `w` of the labels.")
    blocks = Blocks.of(bars, session)
    atr = blocks.take(average_true_range(bars))
    # Where prices stood still the ATR is 0, and there is no leg either.
    return blocks, *blocks.floats(bars, "high", "low", "close"), np.where(atr > 0, atr, np.nan)


def _scores(blocks: Blocks, columns: Mapping[Any, FloatArray]) -> pd.DataFrame:
    """Return one column an event, 0 where nothing is known."""
    return pd.DataFrame(
        {event: blocks.put(np.nan_to_num(by_place)) for event, by_place in columns.items()}, blocks.index
    )


_RULES: dict[str, Callable[..., pd.DataFrame]] = {
    "peak_slope_bottom": lambda bars, *, w=36, clip_session=None, **_: turn_rule(bars, w=w, clip_session=clip_session),
    "buy_sell_hold": _trend_rule,
    "triple_barrier": _barrier_rule,
    "next_direction": _bounce_rule,
}
