"""Peaks and bottoms in hindsight: Peak / Slope / Bottom labels over several horizons."""

from __future__ import annotations

from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels._blocks import Blocks
from ensemble_kit.labels._extremes import find_turns
from ensemble_kit.labels.result import Labels, plain_parameters
from ensemble_kit.sessions import Session

__all__ = ["peak_slope_bottom"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_CLASSES = np.array(["bottom", "slope", "peak"], dtype=object)


def peak_slope_bottom(
    bars: pd.DataFrame,
    *,
    horizons: int = 1,
    w: int = 36,
    k: float = 2.0,
    clip_session: str | Session | None = None,
) -> Labels:
    """Label each bar `peak`, `slope` or `bottom`, and the bars after it by horizon.

    A Peak is a bar whose high is strictly above the `w` earlier highs, not below the `w`
    later ones, and at least `k` ATR(14) above the lowest low of both windows. A Bottom
    mirrors it. Where both hold, and everywhere else, the bar is a Slope.

    Parameters
    ----------
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel.
    horizons : int, default=1
        Column Hh at row t is the class of bar t + h exactly, h = 0 .. horizons - 1.
    w : int, default=36
        Bars of the window on either side.
    k : float, default=2.0
        The smaller leg, in ATR(14) at the bar.
    clip_session : str or Session, default=None
        If given (as for `sessions.session_times`), windows end at the session's borders;
        its first and last bar, with nothing on one side, are Slopes. An exchange's session is
        the whole trading day: bars before its open and after its close belong to it. See the
        Notes to leave them out.

    Returns
    -------
    Labels
        The last `horizons - 1 + w` rows of each instrument are unknown. `t1` is `w` bars
        (or the session's end) after the farthest bar labelled. `sample_weight` is 0 where
        the class of a bar labelled cannot be computed: in the first `w` bars, whose left
        window the start of the data cuts off, before the first ATR, without prices, where
        a window holds none, and where it is not known yet.

    Raises
    ------
    BarsError
        If the bars are not a bar frame.
    EnsembleKitError
        If a parameter is out of its domain, or every instrument is too short.

    Notes
    -----
    What it sees: row t looks at bars up to t1, so fold borders must be purged by it. Half
    of the label (a new extreme after a leg) is known at its bar; further horizons add
    cells, not information. Scores need the nulls in `ensemble_kit.metrics`.

    For the regular hours alone, drop the other bars first::

        times = session_times(bars.index, "XNYS")
        bars = bars[(times.minute >= 0) & (times.minute < times.length) & ~times.holiday]

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.labels import peak_slope_bottom
    >>> bars = make_bars(1000, random_state=0)
    >>> labels = peak_slope_bottom(bars, horizons=2, w=12)
    >>> X, y = labels.align(bars)
    >>> len(bars) - len(X), sorted(y["H0"].unique())
    (13, ['bottom', 'peak', 'slope'])
    """
    check_bars(bars)
    _check_parameters(horizons, w, k)
    blocks = Blocks.of(bars, clip_session)
    turn, whole = find_turns(bars, blocks, w, k)
    at = np.arange(len(turn))
    # The farthest bar labelled, and the last bar that its right window holds.
    farthest = at + horizons - 1
    inside = farthest <= blocks.last
    looked_at = farthest + w
    if clip_session is not None:
        # Only a later session's bar proves that a session has ended: the last one may still go on.
        stop = blocks.stop[np.minimum(farthest, len(at) - 1)]
        looked_at = np.where(stop < blocks.last, np.minimum(looked_at, stop), looked_at)
    known = inside & (looked_at <= blocks.last)
    if not known.any():
        longest = int((blocks.last - blocks.first).max()) + 1
        raise EnsembleKitError(
            f"`bars` must have at least {horizons + w} bars of an instrument for w={w} and horizons={horizons}; "
            f"got {longest}. Give more bars, or lower `w` or `horizons`."
        )
    ahead = np.minimum(at[:, None] + np.arange(horizons), len(at) - 1)
    weight = (known & whole[ahead].all(axis=1)).astype(np.float64)
    return Labels(
        _named(blocks, turn[ahead], known),
        blocks.t1(looked_at, known),
        blocks.series(weight, "sample_weight"),
        plain_parameters("peak_slope_bottom", horizons=horizons, w=w, k=float(k), clip_session=clip_session),
    )


def _check_parameters(horizons: int, w: int, k: float) -> None:
    for name, value in (("horizons", horizons), ("w", w)):
        if not isinstance(value, int | np.integer) or value < 1:
            raise EnsembleKitError(f"`{name}` must be an integer of at least 1; got {value!r}. Count it in bars.")
    if not isinstance(k, Real) or not k >= 0:
        raise EnsembleKitError(f"`k` must be a number of at least 0; got {k!r}. Measure it in ATR(14).")


def _named(blocks: Blocks, turn: NDArray[np.int8], known: NDArray[np.bool_]) -> pd.Series[Any] | pd.DataFrame:
    """Return the classes of each row by name, one column a horizon."""
    classes = blocks.put(np.where(known[:, None], _CLASSES[turn + 1], np.nan))
    names = [f"H{h}" for h in range(turn.shape[1])]
    if len(names) == 1:
        return pd.Series(classes[:, 0], index=blocks.index, name="H0", dtype="str")
    return pd.DataFrame(classes, index=blocks.index, columns=names, dtype="str")
