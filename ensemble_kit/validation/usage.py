"""Who saw what: which rows each stage of a fit used, and the pairs of uses that are refused."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError, LeakageError

__all__ = ["ALL_MEMBERS", "REFIT", "ROLES", "RowUsage"]

IntArray = NDArray[np.int64]

#: In the order in which a fit uses rows.
ROLES = ("fit", "stop", "score", "calibrate", "weigh", "size")
#: The fold of the last fit, on all training rows.
REFIT = -1
#: Stands for every member where a stage uses rows for all of them at once.
ALL_MEMBERS = "*"


class RowUsage:
    """The record of which rows each stage of a fit saw.

    Attributes
    ----------
    entries : list of dict
        `fold`, `member`, `role` and `rows` (positions in X), in order of use.

    Notes
    -----
    Within a fold, a row that a member was fitted on may have no other role, and a row
    that stopped its training none after that. Score, calibrate, weigh and size share
    out-of-fold rows by design: each fits one or two numbers a member to thousands of rows.
    Transformers in front of a member's model are fitted on its fit and stop rows together.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.validation import RowUsage
    >>> usage = RowUsage()
    >>> usage.add(0, "lightgbm", "fit", np.arange(3))
    >>> usage.add(0, "lightgbm", "score", np.arange(2, 5))
    >>> usage.check()
    Traceback (most recent call last):
        ...
    ensemble_kit.exceptions.LeakageError: `rows` must not have the roles 'fit' and 'score' in one fold; ...
    """

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []

    def add(self, fold: int, member: str, role: str, rows: Iterable[int] | IntArray) -> None:
        """Record one use.

        Parameters
        ----------
        fold : int
            The fold's number, `REFIT` for the last fit on all rows.
        member : str
            The member's name, `ALL_MEMBERS` for all of them.
        role : str
            One of `ROLES`.
        rows : array-like of int
            Positions in X.
        """
        if role not in ROLES:
            raise EnsembleKitError(f"`role` must be one of {', '.join(ROLES)}; got {role!r}.")
        self.entries.append({"fold": int(fold), "member": member, "role": role, "rows": np.asarray(rows, np.int64)})

    def rows(self, role: str, *, fold: int | None = None, member: str | None = None) -> IntArray:
        """Return the rows used in a role, sorted and unique.

        Parameters
        ----------
        role : str
            One of `ROLES`.
        fold : int, default=None
            One fold only.
        member : str, default=None
            One member only (and uses for all members).

        Returns
        -------
        ndarray of int64
            Positions.
        """
        found = [
            entry["rows"]
            for entry in self.entries
            if entry["role"] == role
            and fold in (None, entry["fold"])
            and (member is None or entry["member"] in (member, ALL_MEMBERS))
        ]
        return np.unique(np.concatenate(found)) if found else np.empty(0, dtype=np.int64)

    def check(self) -> RowUsage:
        """Refuse forbidden pairs of roles.

        Returns
        -------
        RowUsage
            Itself.

        Raises
        ------
        LeakageError
            If a row was fitted on and used otherwise, or stopped a training and was used
            after it, by one member in one fold.
        """
        for fold in sorted({entry["fold"] for entry in self.entries}):
            mine = [entry for entry in self.entries if entry["fold"] == fold]
            for member in sorted({entry["member"] for entry in mine} - {ALL_MEMBERS}) or [ALL_MEMBERS]:
                self._check_one(fold, member)
        return self

    def _check_one(self, fold: int, member: str) -> None:
        used = {role: self.rows(role, fold=fold, member=member) for role in ROLES}
        pairs = [("fit", role) for role in ROLES[1:]] + [("stop", role) for role in ROLES[2:]]
        for first, second in pairs:
            shared = np.intersect1d(used[first], used[second], assume_unique=True)
            if len(shared):
                raise LeakageError(
                    f"`rows` must not have the roles {first!r} and {second!r} in one fold; fold {fold} of member "
                    f"{member!r} uses {len(shared)} row(s) for both, the first is row {int(shared[0])}. "
                    "Give the stages separate rows."
                )

    def to_frame(self) -> pd.DataFrame:
        """Return one row a use.

        Returns
        -------
        DataFrame
            Columns fold, member, role, n_rows, first, last (positions).
        """
        return pd.DataFrame(
            [
                {
                    "fold": "refit" if entry["fold"] == REFIT else entry["fold"],
                    "member": entry["member"],
                    "role": entry["role"],
                    "n_rows": len(entry["rows"]),
                    "first": int(entry["rows"].min()) if len(entry["rows"]) else None,
                    "last": int(entry["rows"].max()) if len(entry["rows"]) else None,
                }
                for entry in self.entries
            ],
            columns=["fold", "member", "role", "n_rows", "first", "last"],
        ).astype({"first": "Int64", "last": "Int64"})  # an empty use has neither

    def __repr__(self) -> str:
        return self.to_frame().to_string(index=False)

    def _repr_html_(self) -> str:
        return self.to_frame().to_html(index=False)
