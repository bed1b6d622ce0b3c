"""Who saw what: which rows each stage of a fit used, and the pairs of uses that are refused."""

from __future__ import annotations

from collections.abc import Iterable
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError, LeakageError

__all__ = ["ALL_MEMBERS", "REFIT", "ROLES", "RowUsage", "check_positions"]

IntArray = NDArray[np.int64]

#: In the order in which a fit uses rows.
ROLES = ("fit", "stop", "score", "calibrate", "weigh", "size")
#: The fold of the last fit, on all training rows.
REFIT = -1
#: Stands for every member where a stage uses rows for all of them at once.
ALL_MEMBERS = "*"


class RowUsage:
    """The record of which rows each stage of a fit saw.

    Parameters
    ----------
    n_rows : int, default=None
        Rows of X. Positions beyond them are refused; None where the number is not known.

    Attributes
    ----------
    entries : list of dict
        `fold`, `member`, `role` and `rows` (positions in X, sorted), in order of use. Plain
        values and arrays, which any safe format can store.

    Raises
    ------
    EnsembleKitError
        If `n_rows` is neither None nor a number of rows.

    Notes
    -----
    Within a fold, a row that a member was fitted on may have no other role, and a row
    that stopped its training none after that. Score, calibrate, weigh and size share
    out-of-fold rows by design: each fits one or two numbers a member to thousands of rows.
    Transformers in front of a member's model are fitted on its fit and stop rows together.

    Printed, members that used the same rows share a line, as do roles. `to_frame` has a
    line a use.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.validation import RowUsage
    >>> usage = RowUsage(5)
    >>> for member in ("lightgbm", "lstm"):
    ...     usage.add(0, member, "fit", np.arange(3))
    >>> usage.add(0, "*", "score", np.arange(3, 5))
    >>> usage
    <RowUsage of 5 rows: 1 fold, 2 members>
    fold members  role  n_rows  first  last  gaps
       0       *   fit       3      0     2     0
       0       * score       2      3     4     0
    >>> usage.add(0, "lightgbm", "size", np.arange(2, 5))
    >>> usage.check()
    Traceback (most recent call last):
        ...
    ensemble_kit.exceptions.LeakageError: `rows` must not have the roles 'fit' and 'size' in one fold; ...
    """

    def __init__(self, n_rows: int | None = None) -> None:
        if n_rows is not None and (not isinstance(n_rows, Integral) or isinstance(n_rows, bool) or n_rows < 0):
            raise EnsembleKitError(
                f"`n_rows` must be None or an integer of at least 0; got {n_rows!r:.60}. Give `len(X)`."
            )
        self.n_rows = n_rows
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
            Positions in X, each once, in any order.

        Raises
        ------
        EnsembleKitError
            If the role or the fold is unknown, or `rows` are not positions of rows.
        """
        _check_role(role)
        if not isinstance(fold, Integral) or fold < REFIT:
            raise EnsembleKitError(f"`fold` must be a fold's number from 0 on, or {REFIT} for the refit; got {fold!r}.")
        positions = check_positions(rows, self.n_rows)
        self.entries.append({"fold": int(fold), "member": str(member), "role": role, "rows": positions})

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

        Raises
        ------
        EnsembleKitError
            If the role is unknown.
        """
        _check_role(role)
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
        for fold in self._folds():
            for member in self._members(fold) or [ALL_MEMBERS]:
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

    def _folds(self) -> list[int]:
        return sorted({entry["fold"] for entry in self.entries})

    def _members(self, fold: int | None = None) -> list[str]:
        """Return the named members, all of them or those of a fold."""
        return sorted({e["member"] for e in self.entries if fold in (None, e["fold"])} - {ALL_MEMBERS})

    def to_frame(self, index: pd.Index[Any] | None = None) -> pd.DataFrame:
        """Return one row a use.

        Parameters
        ----------
        index : Index, default=None
            X's index: `first` and `last` are then its times instead of positions.

        Returns
        -------
        DataFrame
            Columns fold, member, role, n_rows, first, last (none where nothing was used), and
            gaps: how often the rows between first and last break off. A purge, or rows of
            weight 0, make gaps.

        Raises
        ------
        EnsembleKitError
            If the index has not the rows of X.
        """
        lines = [(_fold_name(entry["fold"]), entry["member"], entry["role"], entry["rows"]) for entry in self.entries]
        return self._table("member", lines, index)

    def _table(
        self, who: str, lines: list[tuple[str | int, str, str, IntArray]], index: pd.Index[Any] | None = None
    ) -> pd.DataFrame:
        """Lay out lines of fold, member(s), role(s) and rows."""
        frame = pd.DataFrame([line[:3] for line in lines], columns=["fold", who, "role"])
        rows = [line[3] for line in lines]
        frame["n_rows"] = np.array([len(used) for used in rows], dtype=np.int64)
        edges = {"first": [used[0] if len(used) else -1 for used in rows]}
        edges["last"] = [used[-1] if len(used) else -1 for used in rows]
        times = None if index is None else self._times(index, max(edges["last"], default=-1))
        for name, edge in edges.items():
            at = np.array(edge, dtype=np.int64)
            column = pd.Series(at) if times is None else pd.Series(times.take(np.maximum(at, 0)))
            # An empty use has neither first nor last; integers stay integers beside it.
            frame[name] = (column.astype("Int64") if times is None else column).mask(at < 0)
        frame["gaps"] = np.array([int((np.diff(used) > 1).sum()) for used in rows], dtype=np.int64)
        return frame

    def _times(self, index: pd.Index[Any], last: int) -> pd.Index[Any]:
        if len(index) != (len(index) if self.n_rows is None else self.n_rows) or len(index) <= last:
            raise EnsembleKitError(
                f"`index` must be that of the {last + 1 if self.n_rows is None else self.n_rows} rows of X; got "
                f"{len(index)}. Pass `X.index`, of the X given to `fit`."
            )
        return index.get_level_values(0) if isinstance(index, pd.MultiIndex) else index

    def _merged(self) -> list[tuple[str | int, str, str, IntArray]]:
        """Return one line for all members, and then all roles, that used the same rows of a fold."""
        by_rows: dict[tuple[int, str, bytes], dict[str, IntArray]] = {}
        for entry in sorted(self.entries, key=lambda e: (e["fold"] == REFIT, e["fold"], ROLES.index(e["role"]))):
            use = by_rows.setdefault((entry["fold"], entry["role"], entry["rows"].tobytes()), {})
            use[entry["member"]] = entry["rows"]
        by_members: dict[tuple[int, str, bytes], tuple[list[str], IntArray]] = {}
        for (fold, role, key), use in by_rows.items():
            everyone = ALL_MEMBERS in use or (len(use) > 1 and set(use) == set(self._members()))
            who = ALL_MEMBERS if everyone else ", ".join(use)
            by_members.setdefault((fold, who, key), ([], next(iter(use.values()))))[0].append(role)
        return [(_fold_name(fold), who, ", ".join(roles), rows) for (fold, who, _), (roles, rows) in by_members.items()]

    def _headline(self) -> str:
        n_folds, n_members = len(set(self._folds()) - {REFIT}), len(self._members())
        rows = "" if self.n_rows is None else f" of {self.n_rows} rows"
        refit = ", refit" if REFIT in self._folds() else ""
        return f"RowUsage{rows}: {_count(n_folds, 'fold')}, {_count(n_members, 'member')}{refit}"

    def __repr__(self) -> str:
        return f"<{self._headline()}>\n{self._table('members', self._merged()).to_string(index=False)}"

    def _repr_html_(self) -> str:
        return f"<p>{self._headline()}</p>{self._table('members', self._merged()).to_html(index=False)}"


def _check_role(role: str) -> None:
    if role not in ROLES:
        raise EnsembleKitError(f"`role` must be one of {', '.join(ROLES)}; got {role!r}.")


def _fold_name(fold: int) -> str | int:
    return "refit" if fold == REFIT else fold


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def check_positions(rows: Any, n_rows: int | None = None, *, name: str = "rows") -> IntArray:
    """Check positions of rows, and sort them.

    Parameters
    ----------
    rows : array-like of int
        Positions, each once.
    n_rows : int, default=None
        How many rows there are, where that is known.
    name : str, default="rows"
        How messages call them.

    Returns
    -------
    ndarray of int64
        A sorted copy.

    Raises
    ------
    EnsembleKitError
        If they are not whole numbers (flags, say), or one is negative, too large, or there
        twice.
    """
    given = np.asarray(rows if isinstance(rows, np.ndarray | pd.Series | pd.Index) else list(rows))
    if given.ndim != 1 or (given.dtype.kind not in "iu" and len(given)):
        raise EnsembleKitError(
            f"`{name}` must be positions of rows, shape (m,); got {given.dtype} of shape {given.shape}. "
            "Turn flags into positions with `numpy.flatnonzero`."
        )
    positions = np.sort(given.astype(np.int64))
    if len(positions) and (positions[0] < 0 or (n_rows is not None and positions[-1] >= n_rows)):
        wrong = positions[0] if positions[0] < 0 else positions[-1]
        upper = "" if n_rows is None else f" and below {n_rows}"
        raise EnsembleKitError(f"`{name}` must be at least 0{upper}; got {wrong}. Count positions in X from 0.")
    twice = positions[1:][positions[1:] == positions[:-1]]
    if len(twice):
        raise EnsembleKitError(
            f"`{name}` must name each row once; got row {twice[0]} more often ({len(twice)} repeat(s) in all). "
            "Drop repeats with `numpy.unique`."
        )
    return positions
