"""What is to be foretold of a wave: the slopes of the next one."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import row_keys
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels.result import Labels, plain_parameters
from ensemble_kit.waves.extraction import check_waves, wave_unit

__all__ = ["wave_targets"]

IntArray = NDArray[np.int64]


def wave_targets(waves: pd.DataFrame) -> Labels:
    """Label each wave with the slopes of the next wave of its instrument, in ATR a bar.

    Parameters
    ----------
    waves : DataFrame of shape (n_waves, n_columns)
        Of `extract_waves`, none left out in between.

    Returns
    -------
    Labels
        On the waves' index. `labels` has the columns ``slope_high`` and ``slope_low`` of the
        next wave, in ATR(14) at its first bar (the bar at which this wave is known) a bar.
        `t1` is ``known_at`` of the next wave: its end is sure one bar later. The last wave
        of an instrument is not known yet. `sample_weight` is 0, and the slopes too, where
        prices stood still as the next wave began and there is no unit.

    Raises
    ------
    BarsError
        If the waves' index is not one of sorted times.
    EnsembleKitError
        If the waves are not those of `extract_waves`, have gaps, or are fewer than two of
        every instrument.

    See Also
    --------
    ensemble_kit.metrics.wave_scores : Scores of such forecasts beside their base rates.

    Notes
    -----
    Waves differ in length: split and purge by time, as `WalkForwardSplit(t1=labels.t1)` does,
    not by wave number.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.waves import extract_waves, wave_features, wave_targets
    >>> bars = make_bars(1000, random_state=0)
    >>> waves = extract_waves(bars)
    >>> labels = wave_targets(waves)
    >>> X, y = labels.align(wave_features(bars, waves))
    >>> X.shape, y.shape
    ((47, 39), (47, 2))
    >>> bool((labels.t1[:-1].to_numpy() == waves.index[1:]).all())
    True
    """
    check_waves(waves)
    this, following = _neighbours(waves)
    if len(this) == 0:
        raise EnsembleKitError(
            f"`waves` must have at least two waves of an instrument; got {len(waves)} in all. "
            "Give more bars, or lower `cut`."
        )
    slopes = waves[["slope_high", "slope_low"]].to_numpy(np.float64) / wave_unit(waves)[:, None]
    still: NDArray[np.bool_] = np.isnan(slopes[:, 0])
    known_at = waves.index.get_level_values(0)
    labels = pd.DataFrame(np.nan, index=waves.index, columns=["slope_high", "slope_low"])
    labels.iloc[this] = np.where(still[:, None], 0.0, slopes)[following]
    at = np.full(len(waves), -1)
    at[this] = following
    known = at >= 0
    return Labels(
        labels,
        pd.Series(known_at[at].where(known), index=waves.index, name="t1"),
        pd.Series((known & ~still[at]).astype(np.float64), index=waves.index, name="sample_weight"),
        plain_parameters("wave_targets"),
    )


def _neighbours(waves: pd.DataFrame) -> tuple[IntArray, IntArray]:
    """Return positions of waves that have a next one, and of the next ones."""
    instrument = row_keys(waves, name="waves").instrument
    order = np.argsort(instrument, kind="stable")
    same = instrument[order][1:] == instrument[order][:-1]
    this, following = order[:-1][same], order[1:][same]
    # The bar at which a wave is known opens the next one.
    apart = waves.index.get_level_values(0)[this] != pd.DatetimeIndex(waves["start"].iloc[following])
    if apart.any():
        raise EnsembleKitError(
            f"`waves` must follow each other without a gap; none follows {waves.index[this[np.argmax(apart)]]} "
            f"({int(apart.sum())} gap(s)). Label all waves first, and choose rows then."
        )
    return this, following
