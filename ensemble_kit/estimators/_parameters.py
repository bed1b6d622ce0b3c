"""Domains of parameters, and one check that names every wrong one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np

from ensemble_kit.exceptions import EnsembleKitError

__all__ = [
    "AT_LEAST_0",
    "CLASS_WEIGHT",
    "FLAG",
    "FRACTION",
    "MAPPING_OR_NONE",
    "ONE_OF",
    "POSITIVE",
    "POSITIVE_OR_NONE",
    "WHOLE",
    "WHOLES",
    "WHOLE_OR_0",
    "WHOLE_OR_NONE",
    "Domain",
    "check_heads",
    "check_parameters",
]

#: What a parameter must be, in words and as a test.
Domain = tuple[str, Callable[[Any], bool]]


def _is(kind: type, value: Any) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool | np.bool_)


WHOLE: Domain = ("an integer of at least 1", lambda v: _is(Integral, v) and v >= 1)
WHOLE_OR_0: Domain = ("an integer of at least 0", lambda v: _is(Integral, v) and v >= 0)
WHOLE_OR_NONE: Domain = ("an integer of at least 1, or None", lambda v: v is None or WHOLE[1](v))
WHOLES: Domain = (
    "a sequence of integers of at least 1",
    lambda v: isinstance(v, Sequence | np.ndarray) and len(v) > 0 and all(WHOLE[1](one) for one in v),
)
FRACTION: Domain = ("a number in [0, 1)", lambda v: _is(Real, v) and 0 <= v < 1)
POSITIVE: Domain = ("a finite number above 0", lambda v: _is(Real, v) and 0 < v < np.inf)
AT_LEAST_0: Domain = ("a finite number of at least 0", lambda v: _is(Real, v) and 0 <= v < np.inf)
POSITIVE_OR_NONE: Domain = ("a finite number above 0, or None", lambda v: v is None or POSITIVE[1](v))
FLAG: Domain = ("True or False", lambda v: isinstance(v, bool | np.bool_))
MAPPING_OR_NONE: Domain = ("None or a dict", lambda v: v is None or isinstance(v, Mapping))
CLASS_WEIGHT: Domain = (
    "None, 'balanced' or a dict of label to weight of at least 0",
    lambda v: (
        v is None
        or (isinstance(v, str) and v == "balanced")
        or (isinstance(v, Mapping) and all(AT_LEAST_0[1](weight) for weight in v.values()))
    ),
)


def ONE_OF(*values: Any) -> Domain:  # noqa: N802 - reads like the other domains
    """Return the domain of a parameter that takes one of some values.

    Parameters
    ----------
    *values : object
        The values.

    Returns
    -------
    Domain
        In words and as a test.
    """
    return f"one of {', '.join(map(repr, values))}", lambda v: any(
        v is one or (type(v) is type(one) and v == one) for one in values
    )


def check_parameters(estimator: Any) -> None:
    """Check an estimator's parameters against the `_domains` of its class and of its bases.

    Parameters
    ----------
    estimator : object
        Its class and bases may each have `_domains`, a dict of parameter name to `Domain`.

    Raises
    ------
    EnsembleKitError
        If any parameter is wrong; all of them are named.
    """
    domains: dict[str, Domain] = {}
    for cls in reversed(type(estimator).__mro__):
        domains |= cls.__dict__.get("_domains", {})
    wrong = [
        f"`{name}` must be {domain}; got {getattr(estimator, name)!r}."
        for name, (domain, holds) in domains.items()
        if not holds(getattr(estimator, name))
    ]
    if wrong:
        raise EnsembleKitError(" ".join([*wrong, "Mend with `set_params`."]))


def check_heads(width: int, n_heads: int, *, name: str = "d_model") -> None:
    """Refuse a width that the attention heads cannot share.

    Parameters
    ----------
    width : int
        Width of the states.
    n_heads : int
        Attention heads.
    name : str, default="d_model"
        The parameter that sets the width.

    Raises
    ------
    EnsembleKitError
        If the width is no multiple of the heads.
    """
    if width % n_heads:
        raise EnsembleKitError(
            f"`{name}` must make a width that is a multiple of `n_heads`; got a width of {width} for {n_heads} heads. "
            f"A width of {max(width // n_heads, 1) * n_heads} is the nearest."
        )
