"""What each class pays a long position: as the user states it, or as past returns had it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.sizing._growth import equal_weight_means

__all__ = ["estimated_payoffs", "is_number", "shown", "stated_payoffs"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Returns that stand for all of a class: enough for their variance to count, few enough to solve a million rows.
_RETURNS_A_CLASS = 16


def stated_payoffs(payoffs: Mapping[Any, Any], labels: list[Any], long: int, short: int) -> list[FloatArray]:
    """Return a mapping's returns class by class, checked."""
    if set(payoffs) != set(labels):
        raise EnsembleKitError(
            f"`payoffs` must name each of the classes {labels}, and no other; got {list(payoffs)}. "
            "Write 0 for a class that earns nothing."
        )
    paid = [np.atleast_1d(np.asarray(payoffs[label], dtype=object)) for label in labels]
    for label, values in zip(labels, paid, strict=True):
        if values.ndim != 1 or not len(values) or not all(map(is_number, values)):
            raise EnsembleKitError(
                f"`payoffs` must be finite returns, one or several a class; got {shown(payoffs[label])} for {label!r}. "
                "A rise by 2 % is 0.02."
            )
    returns = [values.astype(np.float64) for values in paid]
    if returns[long].mean() <= returns[short].mean():
        raise EnsembleKitError(
            f"`payoffs` must be those of a long position, larger for {labels[long]!r} than for {labels[short]!r}; got "
            f"{returns[long].mean():g} and {returns[short].mean():g}. Write what the price does, not what a bet earns."
        )
    return returns


def estimated_payoffs(
    returns: Any, codes: IntArray, weights: FloatArray, labels: list[Any], long: int, short: int
) -> list[FloatArray]:
    """Return what rows of each class earned, in up to 16 returns that are equally likely."""
    earned, known = _checked(returns, codes, weights)
    rows = [known & (codes == k) for k in range(len(labels))]
    if absent := [label for label, of in zip(labels, rows, strict=True) if not of.any()]:
        _warn(
            f"`returns` are not known for any row of class {absent}; those of all rows stand in for them. "
            "Give out-of-fold rows that have every class."
        )
    of_class = [of if of.any() else known for of in rows]
    paid = [equal_weight_means(earned[of], weights[of], _RETURNS_A_CLASS) for of in of_class]
    if paid[long].mean() <= paid[short].mean():
        _warn(
            f"`returns` were no larger after {labels[long]!r} ({paid[long].mean():.2g} on average) than after "
            f"{labels[short]!r} ({paid[short].mean():.2g}): what these classes promise was not earned. Positions "
            "follow the returns; do not trade them."
        )
    return paid


def _warn(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=5)  # the line that calls the sizer's `fit`


def _checked(returns: Any, codes: IntArray, weights: FloatArray) -> tuple[FloatArray, NDArray[np.bool_]]:
    """Return returns, and which rows count."""
    if returns is None:
        raise EnsembleKitError(
            "`returns` must be given for payoffs='estimate'; got None. "
            "Pass `next_open_return(bars)` of the same rows, or say what a bet pays: KellySizer(payoffs=...)."
        )
    earned = np.asarray(returns, dtype=np.float64)
    if earned.shape != codes.shape:
        raise EnsembleKitError(
            f"`returns` must have one number a row, shape {codes.shape}; got {earned.shape}. "
            "Pass those of the rows of `y`."
        )
    known = (weights > 0) & ~np.isnan(earned)
    infinite = int(np.isinf(earned[known]).sum())
    if not known.any() or infinite:
        raise EnsembleKitError(
            f"`returns` must be finite, and known on a row of weight; got {int(known.sum())} known, {infinite} of them "
            "infinite. NaN is for rows whose return is not known."
        )
    return earned, known


def is_number(value: Any) -> bool:
    """Whether it is a finite number."""
    return isinstance(value, Real) and not isinstance(value, bool | np.bool_) and bool(np.isfinite(float(value)))


def shown(value: Any) -> str:
    """Return it as Python writes it, without numpy's type."""
    return repr(value.item() if isinstance(value, np.generic) else value)
