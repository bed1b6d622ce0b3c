"""Average precision of rows in order of falling score: scikit-learn's number at a fraction of its cost."""

from __future__ import annotations

import numba
import numpy as np
from numpy.typing import NDArray

__all__ = ["area_of_sorted", "average_precision", "falling"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]


def average_precision(hit: BoolArray, score: FloatArray, weight: FloatArray) -> float:
    """Return the area under the precision-recall curve by steps; NaN without a hit of weight above 0."""
    order, tied = falling(score)
    area: float = area_of_sorted(hit[order], weight[order], tied)
    return area


def falling(score: FloatArray) -> tuple[IntArray, BoolArray]:
    """Return the order of falling scores, and which rows in it are tied with the one after."""
    # Not a stable sort, which takes five times as long: ties are one step of the curve in any order.
    order = np.argsort(-score)
    ranked = score[order]
    return order, np.append(ranked[1:] == ranked[:-1], [False])


@numba.njit(cache=True)
def area_of_sorted(hit: BoolArray, weight: FloatArray, tied: BoolArray) -> float:
    """Return the average precision of rows in order of falling score; NaN without a hit."""
    area = found = before = seen = 0.0
    for i in range(len(hit)):
        seen += weight[i]
        if hit[i]:
            found += weight[i]
        # Rows of one score are told apart by nothing: precision is measured after the last of them.
        if not tied[i] and found > before:
            area += (found - before) * found / seen
            before = found
    return area / found if found > 0 else np.nan
