"""How far a Qlib expression looks ahead, and whether Qlib has been started."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from ensemble_kit.exceptions import EnsembleKitError, LeakageError

__all__ = ["bars_ahead", "check_causal", "check_started"]


def check_started() -> None:
    """Refuse to go on before `qlib.init`: Qlib would answer with an error of its wrappers."""
    from qlib.config import C

    if not C.registered:
        raise EnsembleKitError(
            "`qlib` must be started before its data are read; got none. "
            "Call `qlib.init(provider_uri=..., kernels=1)` first."
        )


def bars_ahead(field: str) -> int:
    """Return how many bars after its own a Qlib expression looks at; 0 for a causal one.

    Qlib's `get_extended_window_size` alone is not enough: of its operators only ``Ref`` says that
    it looks ahead, and ``Delta($close, -1)`` reads the next bar as well.
    """
    from qlib.data.data import ExpressionD

    try:
        expression = ExpressionD.get_expression_instance(field)
    except (AttributeError, NameError, SyntaxError, TypeError) as error:
        raise EnsembleKitError(
            f"`fields` must hold expressions that Qlib knows; got {field!r}: {error}. "
            "An operator of your own is registered with `qlib.init(custom_ops=[...])`."
        ) from error
    if not hasattr(expression, "get_extended_window_size"):
        raise EnsembleKitError(
            f"`fields` must hold expressions of Qlib's columns; got {field!r}, a constant. Write $close for the close."
        )
    # Qlib's operators are judged by what they do, one of the user's own is taken at its word.
    reach = _reach(expression, field)
    return max(reach, int(expression.get_extended_window_size()[1]))


def check_causal(fields: Iterable[str], where: str) -> None:
    """Refuse expressions that look ahead, all at once."""
    ahead = {field: bars for field in fields if (bars := bars_ahead(field)) > 0}
    if ahead:
        told = ", ".join(f"{field!r} ({bars} ahead)" for field, bars in ahead.items())
        raise LeakageError(
            f"{where} must look at their own bar and earlier ones; got {told}. "
            "What looks ahead is a label: give it to Qlib's handler as one."
        )


def _reach(expression: Any, field: str) -> int:
    from qlib.data.base import Expression
    from qlib.data.ops import TResample

    if isinstance(expression, TResample):
        raise EnsembleKitError(
            f"`fields` must not resample; got {field!r}: Qlib stamps a span with its start, before it is known. "
            "Read bars of that frequency instead."
        )
    parts = [part for part in vars(expression).values() if isinstance(part, Expression)]
    window = getattr(expression, "N", 0)
    if not isinstance(window, int | float | np.number) or (window < 0 and window != int(window)):
        raise EnsembleKitError(
            f"`fields` must have whole numbers as windows, or shares between 0 and 1 for EMA; got {field!r}. "
            "Write Ref($close, 1)."
        )
    return max((_reach(part, field) for part in parts), default=0) + max(0, -int(window))
