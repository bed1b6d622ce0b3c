"""Labels that belong to other bars: what a score is where nothing can be known."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from ensemble_kit.bars import row_keys
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics.classification import auc_pr
from ensemble_kit.targets import check_classes, one_horizon, stack_horizons

__all__ = ["shift_labels", "shifted_label_scores"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


def shift_labels(y: Any, *, min_shift: int, random_state: Any = None) -> Any:
    """Shift labels circularly in time: the same labels beside other bars, to train a model on.

    Parameters
    ----------
    y : Series, DataFrame or array-like of shape (n,) or (n, H)
        Labels in time order. On a panel's index each instrument is shifted within itself, all
        by the same share of their rows: instruments of one length keep what they have in
        common. A frame's columns move together, so weights may stand beside the labels that
        they belong to.
    min_shift : int
        Every shift is larger than this, in bars, and than this from the other end. A label must
        land where no feature sees what it was made of: the label's window and the lookback
        of the features (`validation.lookback`) together.
    random_state : int, RandomState or None, default=None
        Seed of the shift.

    Returns
    -------
    Series, DataFrame or ndarray
        As given, on the same index.

    Raises
    ------
    EnsembleKitError
        If an instrument has too few rows for the shift, or a label is missing.

    See Also
    --------
    shifted_label_scores : Many shifts of the labels that a fitted model is scored on.
    surrogate_bars : A null that keeps what a label gives away at its bar.

    Examples
    --------
    >>> from ensemble_kit.metrics import shift_labels
    >>> shift_labels([0, 1, 2, 3, 4, 5, 6], min_shift=2, random_state=1).tolist()
    [4, 5, 6, 0, 1, 2, 3]
    """
    instruments = _instruments(y, min_shift)
    missing = np.asarray(pd.isna(y)).reshape(len(y), -1).any(axis=1)
    if missing.any():
        raise EnsembleKitError(
            f"`y` must have no missing label; row {int(np.argmax(missing))} has one ({int(missing.sum())} such "
            "row(s)). Leave out what is not known yet with `labels.align(X)` before you shift."
        )
    source = _shifted(instruments, check_random_state(random_state).random_sample(), min_shift)
    return y.iloc[source].set_axis(y.index) if isinstance(y, pd.DataFrame | pd.Series) else np.asarray(y)[source]


def shifted_label_scores(
    y: Any,
    proba: Any,
    *,
    classes: Any,
    min_shift: int,
    events: Any = None,
    horizon: int = 0,
    n_shifts: int = 200,
    random_state: Any = None,
) -> FloatArray:
    """Score the same probabilities against labels shifted circularly: the score's null distribution.

    Parameters
    ----------
    y : Series, DataFrame or array-like of shape (n,) or (n, H)
        Labels in time order; on a panel's index each instrument is shifted within itself, as
        in `shift_labels`.
    proba : ndarray (n, K), list of H ndarrays (n, K), or ndarray (n, H, K)
        Probabilities of the same rows.
    classes : sequence of K labels
        The labels of the columns.
    min_shift : int
        Every shift is larger than this, and than this from the other end: more than the
        label's window.
    events : sequence of labels, default=None
        Classes whose AUC-PR is averaged.
    horizon : int, default=0
        Which horizon.
    n_shifts : int, default=200
        How many shifts.
    random_state : int, RandomState or None, default=None
        Seed of the shifts.

    Returns
    -------
    ndarray of shape (n_shifts,)
        Mean AUC-PR of each shift. Average precision is biased upwards when positives are
        few: compare with this, not with the prevalence.

    Raises
    ------
    EnsembleKitError
        If an instrument has too few rows for the shifts.
    """
    instruments = _instruments(y, min_shift)
    labels = one_horizon(np.asarray(y), horizon)
    p = one_horizon(stack_horizons(proba, classes=check_classes(classes)), horizon)
    shares = check_random_state(random_state).random_sample(n_shifts)
    shifted = (labels[_shifted(instruments, share, min_shift)] for share in shares)
    return np.array([auc_pr(other, p, classes=classes, events=events)[0] for other in shifted])


def _instruments(y: Any, min_shift: int) -> list[IntArray]:
    """Return the rows of each instrument, all of them long enough."""
    if not isinstance(min_shift, Integral) or min_shift < 0:
        raise EnsembleKitError(
            f"`min_shift` must be an integer of at least 0; got {min_shift!r}. "
            "Take the label's reach plus the features' lookback, in bars."
        )
    keys = row_keys(y, name="y")
    order = np.argsort(keys.instrument, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(keys.instrument[order])) + 1)
    shortest = min(rows, key=len)
    if len(shortest) <= 2 * min_shift + 1:
        whose = "" if keys.index is None or not keys.panel else f" of {keys.index[shortest[0]][1]}"
        raise EnsembleKitError(
            f"`y` must have more than {2 * min_shift + 1} rows{' an instrument' if whose else ''} for "
            f"min_shift={min_shift}; got {len(shortest)}{whose}. Give more bars{', or drop it' if whose else ''}."
        )
    return rows


def _shifted(instruments: list[IntArray], share: float, min_shift: int) -> IntArray:
    """Return which row's label takes each row's place, by a share in [0, 1) of the shifts there are."""
    source = np.empty(sum(map(len, instruments)), dtype=np.int64)
    for rows in instruments:
        source[rows] = np.roll(rows, min_shift + 1 + int(share * (len(rows) - 2 * min_shift - 1)))
    return source
