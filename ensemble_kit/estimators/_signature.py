"""A family's `__init__` that lists only its own parameters, seen with the shared ones."""

from __future__ import annotations

import inspect
from typing import Any

__all__ = ["join_signatures"]


def join_signatures(cls: Any) -> None:
    """Write the keyword-only parameters that pass through ``**shared`` into a class's signature.

    Parameters
    ----------
    cls : type
        A class in the making; scikit-learn reads its parameters off the signature.
    """
    init = cls.__dict__.get("__init__")
    own = {} if init is None else dict(inspect.signature(init).parameters)
    passing = [name for name, p in own.items() if p.kind is p.VAR_KEYWORD]
    if passing:
        del own[passing[0]]
        inherited = inspect.signature(super(cls, cls).__init__).parameters
        shared = {name: p for name, p in inherited.items() if p.kind is p.KEYWORD_ONLY and name not in own}
        init.__signature__ = inspect.Signature([*own.values(), *shared.values()])
