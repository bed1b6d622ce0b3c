"""What a wrong answer costs: cost matrices by label, for losses and for decisions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["PEAK_SLOPE_BOTTOM", "cost_table"]

#: What is said, to what comes true, to its cost. To sell at a bottom, or buy at a peak, costs
#: ten times what a trade on a slope does; to miss a turn lies between.
PEAK_SLOPE_BOTTOM: dict[str, dict[str, float]] = {
    "peak": {"peak": 0.0, "slope": 500.0, "bottom": 5000.0},
    "slope": {"peak": 3000.0, "slope": 0.0, "bottom": 3000.0},
    "bottom": {"peak": 5000.0, "slope": 500.0, "bottom": 0.0},
}


def cost_table(costs: Any, labels: NDArray[Any]) -> NDArray[np.float64]:
    """Bring a cost matrix into the order of the labels.

    Parameters
    ----------
    costs : dict of dicts, DataFrame, array-like of shape (K, K), or None
        Rows are what is said, columns what comes true: by label, or in the order of `labels`.
        None is `PEAK_SLOPE_BOTTOM`.
    labels : ndarray of shape (K,)
        The labels, sorted.

    Returns
    -------
    ndarray of float64, shape (K, K)
        Costs.

    Raises
    ------
    EnsembleKitError
        If a label has no cost, or the costs are negative, not finite, or all 0.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.estimators.costs import cost_table
    >>> cost_table(None, np.array(["bottom", "peak", "slope"]))
    array([[   0., 5000.,  500.],
           [5000.,    0.,  500.],
           [3000., 3000.,    0.]])
    """
    names = labels.tolist()
    given = PEAK_SLOPE_BOTTOM if costs is None else costs
    if isinstance(given, Mapping):
        given = pd.DataFrame(given).T
    if isinstance(given, pd.DataFrame):
        missing = [name for name in names if name not in given.index or name not in given.columns]
        if missing:
            raise EnsembleKitError(
                f"`cost_matrix` must have a row and a column for each of the labels {names}; it lacks {missing}. "
                "Give the costs by these labels."
            )
        given = given.loc[names, names]
    table = np.asarray(given, dtype=np.float64)
    if table.shape != (len(names), len(names)):
        raise EnsembleKitError(
            f"`cost_matrix` must have shape {(len(names), len(names))} for the labels {names}; got {table.shape}. "
            "Rows are what is said, columns what comes true."
        )
    if not np.isfinite(table).all() or (table < 0).any() or not table.any():
        raise EnsembleKitError(
            f"`cost_matrix` must hold finite costs of at least 0, some above; got {table.tolist()}. "
            "Give gains as smaller costs."
        )
    return table
