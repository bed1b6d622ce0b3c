"""Named groups of columns: what `include` may hold."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

from ensemble_kit.exceptions import EnsembleKitError


def check_include(include: Any, known: Collection[str], default: Sequence[str]) -> tuple[str, ...]:
    """Return the groups asked for, in their order; the default ones for None."""
    if include is None:
        return tuple(default)
    names = tuple(include) if isinstance(include, list | tuple) else ()
    wrong = [name for name in names if name not in known or names.count(name) > 1]
    if not names or wrong:
        shown = ", ".join(dict.fromkeys(map(repr, wrong))) or repr(include)
        raise EnsembleKitError(
            f"`include` must be None or a tuple of different groups among {', '.join(known)}; got {shown}. "
            f"None stands for {tuple(default)}."
        )
    return names
