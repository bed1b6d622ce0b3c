"""Whether an answer changes with bars that were not there yet, or with bars further back than stated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import row_keys
from ensemble_kit.exceptions import EnsembleKitError, LeakageError
from ensemble_kit.validation._audit import Audit, Leak, Tally, bisect, label_columns, measure, probes, search
from ensemble_kit.validation._runs import CUT, NAN, TIMES_1000, Run, is_cross_sectional
from ensemble_kit.validation._windows import Windows
from ensemble_kit.validation.lookback import lookback

__all__ = ["LookaheadReport", "LookbackReport", "check_lookback", "check_no_lookahead"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]
BoolArray = NDArray[np.bool_]

#: Matrix products hang on the number of rows in their last bits, sums in pandas on whether NaN is about.
_ROUND_OFF = 1e-6
_HIDDEN_INSTRUMENTS = 3


@dataclass(frozen=True, repr=False)
class LookaheadReport:
    """What `check_no_lookahead` found.

    Attributes
    ----------
    leaks : DataFrame
        One row a leaking column: `column`; `kind` ("future", "instruments": bars of another
        instrument change it, "label": a column of the input is the label); `learned`, whether
        only a fit on all rows brings it in; `position` and `row` of the first row that
        changes; `nearest` and `farthest`, how many bars ahead the first and the last one
        lie that change it (missing where not measured); `n_rows`, rows seen to change; `change`, the largest
        relative change, infinite where NaN comes or goes; `shown_by`, the ways of hiding.
    n_columns : int
        Columns of the answer.
    n_runs : int
        Comparisons made.
    n_rows : int
        Rows compared, all runs together.
    refused : tuple of str
        Ways of hiding that the estimator refused, each with its first error.
    """

    leaks: pd.DataFrame
    n_columns: int
    n_runs: int
    n_rows: int
    refused: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing leaks."""
        return self.leaks.empty

    def check(self) -> Self:
        """Return the report, or raise if anything leaks.

        Returns
        -------
        LookaheadReport
            Itself.

        Raises
        ------
        LeakageError
            If anything leaks; the message is the report.
        """
        if not self.ok:
            raise LeakageError(f"`estimator` must answer from bars known at the row; got\n{self!r}")
        return self

    def __repr__(self) -> str:
        found = f"{self.leaks['column'].nunique()} of" if len(self.leaks) else "no leak in"
        verb = "" if self.ok else " leak"
        lines = [f"{found} {self.n_columns} columns{verb} ({self.n_runs} comparisons, {self.n_rows:,} rows)"]
        lines += [f"  {_line(leak)}" for leak in self.leaks.head(10).to_dict("records")]
        if len(self.leaks) > 10:
            lines.append(f"  ... and {len(self.leaks) - 10} more: see `leaks`")
        if len(self.leaks) and self.leaks["change"].max() < _ROUND_OFF:
            lines.append(f"  no change is above {self.leaks['change'].max():.0e}: if that is round-off, pass `rtol`")
        lines += [f"  not run: {text}" for text in self.refused]
        return "\n".join(lines)


def _line(leak: dict[Any, Any]) -> str:
    """Return one leak in words."""
    if leak["kind"] == "label":
        return f"{leak['column']}: this column of the input is the label. Drop it"
    row = ", ".join(map(str, leak["row"])) if isinstance(leak["row"], tuple) else leak["row"]
    where = f"{leak['column']}: row {leak['position']} ({row}) changes with"
    if leak["kind"] == "instruments":
        return f"{where} bars of another instrument [{leak['shown_by']}]"
    near, far = leak["nearest"], leak["farthest"]
    if pd.isna(near):
        reach = f"bars at least {far} ahead"
    else:
        reach = f"the bar {far} ahead" if near == far else f"bars {near} to {far} ahead"
    cure = "; `fit` learns it: fit on earlier rows, and pass it fitted" if leak["learned"] else ""
    return f"{where} {reach} [{leak['shown_by']}]{cure}"


def check_no_lookahead(
    estimator: Any,
    bars: Any,
    y: Any = None,
    *,
    n_prefixes: int = 12,
    method: str | None = None,
    fit: bool | None = None,
    rtol: float | None = None,
    random_state: int | None = 0,
) -> LookaheadReport:
    """Hide the future from an estimator and see whether its past answers change.

    At each of `n_prefixes` times t the later rows are cut off, made NaN and multiplied by
    1000, in turn; the answers at rows up to t must stay as they are.

    Parameters
    ----------
    estimator : transformer, model, Pipeline or callable
        What to check; a function takes the bars and returns a frame or an array.
    bars : DataFrame or array of shape (n, n_columns)
        Bars, or columns, of one instrument or of a panel (datetime, instrument), in time order.
    y : array-like of shape (n,) or (n, H), default=None
        What `fit` takes besides. Its later rows are cut, and changed to other labels, along
        with the bars. If a column of `bars` is the label itself, that is reported.
    n_prefixes : int, default=12
        Times t. A quarter (3 of 12, none of fewer than 4) stands where a rare leak shows, in
        turn at the last bar before the longest step in time (the end of a session, a hole), at
        the bar with the largest move, and at the bar before the largest move; with more, at the
        next ones in other parts of the data. The rest are spread, most of them on a log scale,
        so that some stand in the warm-up. Before about half of those that are spread three bars
        are made NaN: in a gap a backfill shows.
    method : str, default=None
        None for the first it has of `predict_proba`, `transform`, `predict`.
    fit : bool, default=None
        Whether to fit a clone on the rows of each run. None: an estimator that is not fitted
        is, so what it learns from all rows shows as a leak; a fitted one is used as it is.
    rtol : float, default=None
        Relative change up to which numbers count as equal; NaN equals NaN. None: every bit
        must stay where rows are cut off, and 1e-6 is allowed to what models predict and
        where values are spoilt (pandas sums a column that holds NaN in another order).
    random_state : int, default=0
        Seed of the times that are spread; None for new ones in each call.

    Returns
    -------
    LookaheadReport
        What leaks, from where, how far; ``.ok``, and ``.check()``, which raises.

    Raises
    ------
    EnsembleKitError
        If the answer has not a row for a row, if two runs on the same rows differ, or if
        every comparison was refused.

    See Also
    --------
    check_lookback : The other end: how far back a row reaches.

    Notes
    -----
    On a panel "later" is later by time, and all instruments are hidden at once. Then whole
    instruments are hidden (three at most): the others must not change, unless the estimator
    or a part of it says `cross_sectional = True`. What is learned in `fit` from several
    instruments together does not count as mixing.

    The reach of a leak is measured at the first row that changes. `farthest` is the last bar
    ahead from which on spoilt bars still change it, `nearest` the smallest number of spoilt
    bars right after it that does; both are found by bisection, in time steps, for the three
    largest groups of columns that share this row. For the others `farthest` is what was seen
    and `nearest` missing.

    A move is the relative change of `close` from an instrument's bar before, without such a
    column that of the first column of numbers; on a panel the largest of a time counts. Rows
    without times, and times that are all equally far apart, have no long steps: moves stand in
    for them. The first sqrt(n) of n times are left to the log scale. Where nights lie between
    bars the largest moves are mostly those over night.

    The check proves leaks, not their absence: what shows only at bars that are rarer than
    these, or rare in another way (one hour of Fridays), needs more prefixes or better bars.
    What an estimator brings with it, from its fit or a closure (daily closes joined from
    another frame), is outside the bars and cannot be hidden.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features import Alpha158
    >>> from ensemble_kit.validation.lookahead import check_no_lookahead
    >>> bars = make_bars(300, random_state=0)
    >>> check_no_lookahead(Alpha158(), bars)
    no leak in 158 columns (36 comparisons, 3,384 rows)
    >>> report = check_no_lookahead(lambda bars: bars[["close"]].shift(-2), bars)
    >>> report.ok, report.leaks[["nearest", "farthest"]].to_numpy().tolist()
    (False, [[2, 2]])
    """
    if n_prefixes < 1:
        raise EnsembleKitError(f"`n_prefixes` must be an integer of at least 1; got {n_prefixes!r}. 12 is the default.")
    run = Run.of(estimator, method, fit)
    exact = _ROUND_OFF if run.method.startswith("predict") else 0.0
    rtols = {CUT: exact, NAN: _ROUND_OFF, TIMES_1000: _ROUND_OFF}
    if rtol is not None:
        rtols = dict.fromkeys(rtols, rtol)
    rng = np.random.default_rng(random_state)
    keys = row_keys(bars, name="bars")
    tally = Tally()
    plain = Audit.of(run, bars, y, keys, rtols, tally)
    hidden = probes(plain, n_prefixes, rng)
    future = search(hidden)
    learned = set(future) if run.refit else set()
    if learned:
        # What stays when one and the same fitted estimator answers every time is not of the fit.
        frozen = {audit: audit.frozen() for audit in {audit for audit, _ in hidden}}
        learned -= set(search([(frozen[audit], rows) for audit, rows in hidden]))
    mixed: dict[int, Leak] = {}
    instruments = np.unique(keys.instrument)
    if len(instruments) > 1 and not is_cross_sectional(estimator):
        chosen = rng.permutation(instruments)[:_HIDDEN_INSTRUMENTS]
        alone = plain.frozen()
        mixed = search([(alone, keys.instrument == instrument) for instrument in chosen])
    if not tally.rows:
        raise EnsembleKitError(
            f"`estimator` must answer on part of the bars; it refused every time: {'; '.join(tally.refused.values())}. "
            "Give more bars, or pass it fitted."
        )
    measure(future)
    leaks = [plain.describe(j, "future", leak, j in learned) for j, leak in sorted(future.items())]
    leaks += [plain.describe(j, "instruments", leak, learned=False) for j, leak in sorted(mixed.items())]
    leaks += [Leak().row(name, "label", 0, plain.index[0], learned=False) for name in label_columns(bars, y)]
    refused = tuple(f"{how}: {text}" for how, text in tally.refused.items())
    table = pd.DataFrame(leaks, columns=Leak.COLUMNS).astype({"nearest": "Int64", "farthest": "Int64"})
    return LookaheadReport(table, len(plain.full.names), tally.runs, tally.rows, refused)


@dataclass(frozen=True, repr=False)
class LookbackReport:
    """What `check_lookback` found.

    Attributes
    ----------
    stated : int or None
        Earlier rows that were given; None: every row may count, nothing was checked.
    needed : int or None
        The fewest earlier rows after which these rows converge; None where as many as half of
        the rows have did not do, or nothing was checked.
    n_rows : int
        Rows computed from their history alone.
    cells : dict of str to int
        How many of these rows differ, by column, for columns with any.
    n_columns : int
        Columns of the answer.
    largest : float
        Largest relative difference; infinite where NaN comes or goes.
    rtol, tolerate : float
        What counts as a difference, and the share of cells that may have one.
    """

    stated: int | None
    needed: int | None
    n_rows: int
    cells: dict[str, int]
    n_columns: int
    largest: float
    rtol: float
    tolerate: float

    @property
    def share(self) -> float:
        """The share of cells that differ."""
        return sum(self.cells.values()) / max(self.n_rows * self.n_columns, 1)

    @property
    def ok(self) -> bool:
        """Whether no more cells differ than are tolerated."""
        return self.share <= self.tolerate

    def check(self) -> Self:
        """Return the report, or raise if the lookback is too short.

        Returns
        -------
        LookbackReport
            Itself.

        Raises
        ------
        EnsembleKitError
            If too many cells differ; the message is the report.
        """
        if not self.ok:
            raise EnsembleKitError(f"`lookback` must reach as far as the answer does; got\n{self!r}")
        return self

    def __repr__(self) -> str:
        if self.stated is None:
            return "lookback None (every earlier row): nothing to check. `history` shows where the answer converges"
        verdict = "holds" if self.ok else "is too short"
        cells = f"{sum(self.cells.values()):,} of {self.n_rows * self.n_columns:,} cells ({self.share:.1e})"
        lines = [
            f"lookback {self.stated} {verdict}: {cells} differ by more than {self.rtol:g}, {self.largest:.1e} at most"
        ]
        if self.cells:
            worst = sorted(self.cells, key=lambda name: -self.cells[name])
            lines.append(f"  in {', '.join(worst[:5])}{f' and {len(worst) - 5} more' if len(worst) > 5 else ''}")
        if self.needed is None:
            lines.append("  no history tried was long enough: state None if the state is recursive")
        elif self.needed != self.stated:
            lines.append(f"  {self.needed} would do on these bars")
        return "\n".join(lines)


def check_lookback(
    estimator: Any,
    bars: Any,
    y: Any = None,
    *,
    history: int | None = None,
    n_rows: int = 256,
    method: str | None = None,
    rtol: float = 1e-5,
    tolerate: float = 1e-4,
    random_state: int | None = 0,
) -> LookbackReport:
    """Compute rows from their stated history alone, and compare with the run on all bars.

    Parameters
    ----------
    estimator : transformer, model, Pipeline or callable
        What to check. One that is not fitted is fitted once, on all bars: what it learned
        is not history.
    bars : DataFrame or array of shape (n, n_columns)
        Bars, or columns, of one instrument or of a panel (datetime, instrument), in time order.
    y : array-like of shape (n,) or (n, H), default=None
        What `fit` takes besides.
    history : int, default=None
        Earlier rows to give; None for what `lookback(estimator)` says.
    n_rows : int, default=256
        Random rows to compute, about as many in a panel, where all instruments of a time go together.
    method : str, default=None
        As for `check_no_lookahead`.
    rtol : float, default=1e-5
        Relative difference up to which a cell counts as equal: running sums keep round-off
        from further back than their window.
    tolerate : float, default=1e-4
        Share of cells that may differ.
    random_state : int, default=0
        Seed of the rows; None for new ones in each call.

    Returns
    -------
    LookbackReport
        How many cells differ and what history would do; ``.ok``, and ``.check()``, which raises.

    Raises
    ------
    EnsembleKitError
        If no instrument has more rows than the history.

    Notes
    -----
    Only rows that have more history than stated are taken: on the others there is nothing to
    leave out. Windows of one instrument are laid side by side as a panel, where the estimator
    answers such a panel as it answers each of its windows alone (tried on four of them);
    otherwise they go one by one.

    `needed` is searched by bisection on 64 of the rows. It is a statement about these bars: a
    rare event may reach further.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features import Alpha158
    >>> from ensemble_kit.validation.lookahead import check_lookback
    >>> bars = make_bars(400, random_state=0)
    >>> check_lookback(Alpha158(), bars).needed
    60
    >>> check_lookback(lambda bars: bars.rolling(20).mean(), bars, history=10).ok
    False
    """
    stated = lookback(estimator) if history is None else history
    if stated is None:
        return LookbackReport(None, None, 0, {}, 0, 0.0, rtol, tolerate)
    run = Run.of(estimator, method, None)
    bars = bars if isinstance(bars, pd.DataFrame) else np.asarray(bars)
    windows = Windows.of(run.fitted(bars, y), bars, row_keys(bars, name="bars"), rtol)
    rng = np.random.default_rng(random_state)
    rows = windows.choose(stated, n_rows, rng)
    change = windows.change(rows, stated)
    few = windows.choose(stated, min(n_rows, 64), rng)

    def _holds(reach: int) -> bool:
        return bool((windows.change(few, reach) > rtol).mean() <= tolerate)

    differ = (change > rtol).sum(axis=0)
    cells = {name: int(count) for name, count in zip(windows.full.names, differ, strict=True) if count}
    needed = _needed(_holds, stated, int(np.median(windows.place[few])))
    return LookbackReport(stated, needed, len(rows), cells, change.shape[1], float(change.max()), rtol, tolerate)


def _needed(holds: Callable[[int], bool], stated: int, longest: int) -> int | None:
    """Return the fewest rows that do, searched downwards or upwards from what is stated."""
    no, yes = -1, stated
    while not holds(yes):
        no, yes = yes, max(2 * yes, 1)
        if yes > longest:
            return None
    return int(bisect(lambda k: np.array([holds(k)]), np.array([yes]), no)[0])
