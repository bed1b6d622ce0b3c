"""Two registered versions on the same bars, which neither has seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import TrackingError
from ensemble_kit.fingerprint import fingerprint
from ensemble_kit.metrics import auc_pr, block_bootstrap_mean, compare_scores, score_interval
from ensemble_kit.sizing import BacktestResult, Costs, backtest
from ensemble_kit.targets import LOG_FLOOR
from ensemble_kit.tracking._aliases import CHALLENGER, CHAMPION, known_version
from ensemble_kit.tracking._unseen import Candidate, UnseenRows, check_same_question

__all__ = ["METRICS", "Comparison", "compare"]

FloatArray = NDArray[np.float64]

#: What a promotion may be decided by.
METRICS = ("auc_pr", "log_loss")
#: What stands beside: of the account, without an interval of the difference.
_ACCOUNT = {
    "total_return": "buy_and_hold",
    "sharpe": "buy_and_hold_sharpe",
    "max_drawdown": "buy_and_hold_max_drawdown",
}


@dataclass(frozen=True, repr=False, eq=False)
class Comparison:
    """Champion and challenger on the same rows.

    Attributes
    ----------
    name : str
        The registered model.
    champion, challenger : int
        Their versions.
    table : DataFrame
        Rows `auc_pr` (mean of the events), `log_loss`, `return_per_bar`, `total_return`, `sharpe`,
        `max_drawdown` (returns after costs); columns `champion`, `challenger`, `gain` (above 0 the
        challenger is better, also by log-loss), `low` and `high` (the paired interval of the
        gain, NaN where there is none), `null`: the causal rule, the champion's training shares
        as a constant forecast, and buy and hold.
    seen_until : Timestamp
        The last bar that either model, or a label it was trained on, looked at.
    start, end : Timestamp
        First and last scored bar.
    n_rows : int
        Scored rows.
    events : dict
        How often each event occurs in them.
    level : float
        Of the intervals.
    holdout : str
        Fingerprint of the bars after `seen_until`.
    """

    name: str
    champion: int
    challenger: int
    table: pd.DataFrame
    seen_until: pd.Timestamp
    start: pd.Timestamp
    end: pd.Timestamp
    n_rows: int
    events: dict[Any, int]
    level: float
    holdout: str

    def gain(self, metric: str) -> tuple[float, float, float]:
        """Return by how much the challenger is better.

        Parameters
        ----------
        metric : {"auc_pr", "log_loss"}
            By what.

        Returns
        -------
        gain, low, high : float
            Above 0 the challenger is better.
        """
        gain, low, high = self.table[["gain", "low", "high"]].loc[metric].to_numpy(np.float64)
        return float(gain), float(low), float(high)

    def __str__(self) -> str:
        shares = ", ".join(f"{n} {event} ({n / self.n_rows:.2%})" for event, n in self.events.items())
        table = self.table.to_string(float_format=lambda value: f"{value:.4g}", na_rep="-")
        return (
            f"{self.name}: champion version {self.champion}, challenger version {self.challenger}\n"
            f"{self.n_rows} labelled bars from {self.start} to {self.end}, after all that either has seen "
            f"({self.seen_until}); {shares}\n\n{table}\n\n"
            f"gain > 0: the challenger is better; low, high: its {100 * self.level:g} % interval, paired, by blocks.\n"
            "null: causal rule, training shares, buy and hold."
        )


def compare(
    name: str,
    bars: pd.DataFrame,
    *,
    versions: Sequence[int | str] | None = None,
    costs: float | Costs = 1.0,
    min_events: int = 15,
    n_resamples: int = 1000,
    level: float = 0.95,
    random_state: int = 0,
) -> Comparison:
    """Compare two versions of a model on bars that neither has seen.

    Parameters
    ----------
    name : str
        The registered model's name.
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel, such as the models were trained on: what they have seen
        is history, and they are judged on the rest.
    versions : pair of int or str, default=None
        The champion and the challenger, by number or alias; None for those with these aliases.
    costs : float or Costs, default=1.0
        Of trading; a number is a commission in basis points of the notional.
    min_events : int, default=15
        How many of each event must be among the rows that are judged.
    n_resamples : int, default=1000
        Of the bootstrap.
    level : float, default=0.95
        Coverage of the intervals.
    random_state : int, default=0
        Seed of the bootstrap.

    Returns
    -------
    Comparison
        Print it.

    Raises
    ------
    BarsError
        If the bars are no bar frame, or not such as the models were trained on.
    TrackingError
        If there are no such versions, they were trained on other labels than each other, their
        cards lack what is needed, or too few events are left that neither has seen.

    See Also
    --------
    ensemble_kit.tracking.registry.promote : Decides by it.

    Notes
    -----
    A row is judged if its time lies after both models' `seen_until`, after both models' last
    training bar, and after the last bar that any label of rows up to there looks at on these very
    bars; if its own label is known by now; and if it counts (a weight above 0). So no training
    row, and no bar that a training label looked at, is among them. What else was done with the
    later bars is not known to the registry: parameters tuned on them have seen them.

    Both models are scored on the same resampled blocks (`metrics.compare_scores`), which are no
    shorter than a label's reach. With fewer than 30 events in all, intervals of average
    precision are not known to hold what they promise, hence `min_events` of each.
    """
    check_bars(bars)
    if not isinstance(min_events, Integral) or min_events < 2:
        raise TrackingError(f"`min_events` must be an integer of at least 2; got {min_events!r}. 15 is the default.")
    given = (CHAMPION, CHALLENGER) if versions is None else tuple(versions)
    if len(given) != 2:
        raise TrackingError(f"`versions` must be two, the champion and the challenger; got {list(given)}.")
    one, other = (Candidate.of(name, known_version(name, version), bars) for version in given)
    if one.version == other.version:
        raise TrackingError(
            f"`versions` must be two different ones; got version {one.version} of {name} twice. Register another, or "
            "name two by number."
        )
    check_same_question(one, other)
    rows = UnseenRows.of(name, bars, one, other, min_events)
    how: dict[str, Any] = {
        "block": rows.block(one.labels),
        "n_resamples": n_resamples,
        "level": level,
        "random_state": random_state,
    }
    classes = np.unique(np.concatenate([one.classes, other.classes]))
    p, q = (each.ask(bars, rows, classes) for each in (one, other))
    table = _scores(rows, p.proba, q.proba, classes, one.card["class_shares"], how)
    table |= _returns(bars.iloc[rows.held], p.position, q.position, Costs.of(costs), how)
    times = rows.keys.axis()[rows.scored]
    return Comparison(
        name=name,
        champion=one.version,
        challenger=other.version,
        table=pd.DataFrame.from_dict(
            table, orient="index", columns=["champion", "challenger", "gain", "low", "high", "null"]
        ),
        seen_until=rows.seen_until,
        start=times[0],
        end=times[-1],
        n_rows=len(rows.scored),
        events=rows.events,
        level=float(level),
        holdout=fingerprint(bars.iloc[rows.held]),
    )


def _scores(
    rows: UnseenRows,
    one: FloatArray,
    other: FloatArray,
    classes: NDArray[Any],
    shares: Mapping[str, float],
    how: Mapping[str, Any],
) -> dict[str, list[float]]:
    """Return both models' scores, the challenger's gain with its interval, and the null."""
    truth, events = rows.truth, list(rows.rule)
    common: dict[str, Any] = {"classes": classes, **how}
    known = {_text(label): share for label, share in shares.items()}
    prior = np.array([known.get(_text(label), 0.0) for label in classes.tolist()])
    constant = -np.log(np.maximum(prior, np.exp(LOG_FLOOR)))[np.searchsorted(classes, truth.to_numpy(classes.dtype))]
    gain = compare_scores(truth, other, one, scorer="auc_pr", events=events, **common)
    less = compare_scores(truth, one, other, scorer="log_loss", **common)
    rule = rows.rule.reindex(columns=classes.tolist(), fill_value=0.0).to_numpy()
    found = [float(auc_pr(truth, p, classes=classes, events=events)[0]) for p in (one, other, rule)]
    lost = [score_interval(truth, p, scorer="log_loss", **common)[0] for p in (one, other)]
    return {
        "auc_pr": [found[0], found[1], *gain, found[2]],
        "log_loss": [lost[0], lost[1], *less, float(constant.mean())],
    }


def _text(label: Any) -> str:
    """Return a class as a card's key: JSON made it a text, of a number with or without a point."""
    try:
        return str(float(label))
    except ValueError:
        return str(label)


def _returns(
    bars: pd.DataFrame, one: FloatArray, other: FloatArray, costs: Costs, how: Mapping[str, Any]
) -> dict[str, list[float]]:
    """Return what both models' positions earned after costs, and what holding did."""
    tradable = bars[["open", "close"]].notna().all(axis=1).to_numpy()
    own, their = (backtest(bars[tradable], position[tradable], costs=costs) for position in (one, other))
    paired = their.returns.iloc[1:] - own.returns.iloc[1:]
    table = {"return_per_bar": [*_means(own, their), *block_bootstrap_mean(paired, **_fit(how, len(paired)))]}
    table["return_per_bar"].append(float(own.buy_and_hold.pct_change().iloc[1:].mean()))
    for name, null in _ACCOUNT.items():
        a, b = own.metrics[name], their.metrics[name]
        table[name] = [a, b, b - a, np.nan, np.nan, own.metrics[null]]
    return table


def _means(*results: BacktestResult) -> list[float]:
    return [float(result.returns.iloc[1:].mean()) for result in results]


def _fit(how: Mapping[str, Any], n: int) -> dict[str, Any]:
    return {**how, "block": min(how["block"], n // 2)}
