"""Judge a model on bars it never saw, every score beside what it would be without skill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import check_bars, row_keys
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels import Labels, label_bars
from ensemble_kit.metrics import (
    auc_pr_by_class,
    block_bootstrap_mean,
    brier_score,
    calibration_slope,
    expected_calibration_error,
    next_open_return,
    surrogate_bars,
    turn_rule,
)
from ensemble_kit.sessions import Session
from ensemble_kit.sizing import BacktestResult, backtest
from ensemble_kit.targets import stack_horizons
from ensemble_kit.validation import rows_with_history

__all__ = ["HoldoutReport", "evaluate_holdout"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class HoldoutReport:
    """A model's scores on a holdout, beside their nulls, and what its positions earned.

    Attributes
    ----------
    events : DataFrame
        One row an event class, at the horizon that trades: number and prevalence, AUC-PR of the
        causal rule, of the model on surrogates (mean and largest draw) and of the model; calibration
        slope, intercept and ECE.
    brier : dict
        `model`, `prior` and `skill`.
    edge : tuple of float
        Mean of position times next-open return before costs, with its 95 % interval.
    backtest : BacktestResult
        The positions traded, after costs.
    position : Series
        What the sizer decided at each holdout bar's close.
    bars, labels, proba, rows
        What the figures were made of: holdout bars, their labels, probabilities (n, H, K)
        and the positions of the scored rows among them.
    classes : ndarray of shape (K,)
        The labels of the columns.
    """

    events: pd.DataFrame
    brier: dict[str, float]
    edge: tuple[float, float, float]
    backtest: BacktestResult
    position: pd.Series[float]
    bars: pd.DataFrame
    labels: pd.Series[Any]
    proba: FloatArray
    rows: IntArray
    classes: NDArray[Any]

    def metrics(self) -> dict[str, float]:
        """Flatten all figures to names and numbers, NaN left out.

        Returns
        -------
        dict
            Metrics by name.
        """
        flat = {f"{column}_{event}": value for event, row in self.events.iterrows() for column, value in row.items()}
        flat |= {f"brier_{name}": value for name, value in self.brier.items()}
        flat |= dict(zip(("edge_mean", "edge_low", "edge_high"), self.edge, strict=True))
        flat |= self.backtest.metrics
        return {str(name): float(value) for name, value in flat.items() if np.isfinite(value)}

    def __str__(self) -> str:
        first, last = self.bars.index[0], self.bars.index[-1]
        mean, low, high = (value * 1e4 for value in self.edge)
        verdict = "includes 0: no economic skill shown" if low <= 0 <= high else "excludes 0"
        edge = (
            f"Position x next-open return before costs: {mean:+.3f} bp a bar, 95 % interval [{low:+.3f}, {high:+.3f}]"
        )
        return "\n".join(
            [
                f"Holdout: {len(self.bars)} bars, {first} to {last}; {len(self.rows)} of them have a known label"
                + ("" if (flat := len(self.bars) - len(self.backtest.equity)) == 0 else f", {flat} no price"),
                "",
                self.events.T.to_string(float_format=lambda value: f"{value:.4g}"),
                "",
                f"Brier {self.brier['model']:.4f}, prior {self.brier['prior']:.4f}, skill {self.brier['skill']:+.3f}",
                f"{edge} ({verdict})",
                "",
                self.backtest.summary(),
            ]
        )


def evaluate_holdout(
    model: Any,
    bars: pd.DataFrame,
    *,
    start: pd.Timestamp,
    definition: Mapping[str, Any],
    prior: Mapping[str, float],
    cost_bps: float = 1.0,
    session: str | Session = "day",
    n_surrogates: int = 5,
    random_state: int = 0,
) -> HoldoutReport:
    """Evaluate a sized model on the bars from `start` on.

    Parameters
    ----------
    model : SizedClassifier
        Fitted on bars whose labels were known before `start`.
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument; those before `start` are history.
    start : Timestamp
        The holdout's first bar.
    definition : mapping
        Of the labels, as `labels.label_bars` takes it.
    prior : mapping
        Share of each class in the training rows.
    cost_bps : float, default=1.0
        Cost of trading, in basis points of the notional.
    session : str or Session, default="day"
        Whose time of day surrogates keep.
    n_surrogates : int, default=5
        Draws of return-shuffled bars that the same model predicts.
    random_state : int, default=0
        Seed of surrogates and bootstraps.

    Returns
    -------
    HoldoutReport
        Tables and figures.

    Raises
    ------
    EnsembleKitError
        If no bar lies at or after `start`, or no label there is known.
    """
    check_bars(bars)
    if n_surrogates < 0:
        raise EnsembleKitError(f"`n_surrogates` must be at least 0; got {n_surrogates}. 5 draws are a start.")
    if isinstance(bars.index, pd.MultiIndex):
        raise EnsembleKitError("`bars` must be of one instrument; got a panel. Take one with `bars.xs(name, level=1)`.")
    held = np.flatnonzero(bars.index >= start)
    if len(held) < 3:
        raise EnsembleKitError(
            f"`bars` must reach past the training data: the holdout starts at {start}, and the last bar is at "
            f"{bars.index[-1] if len(bars) else None}. Give newer bars."
        )
    span = bars.iloc[rows_with_history(row_keys(bars), held, model.lookback)]
    proba = _predict(model, span, len(held))
    labels = label_bars(bars, definition)
    rows = _scored(labels, held)
    truth = labels.horizon(0).iloc[held]
    classes = model.classes_[0] if isinstance(model.classes_, list) else model.classes_
    position = pd.Series(model.sizer_.transform(proba), index=bars.index[held])
    holdout = bars.iloc[held]
    events = [label for label in classes if label in ("peak", "bottom")]
    judged, came = proba[rows, :1], truth.iloc[rows]
    table = _event_table(came, judged, classes, events)
    table.insert(2, "auc_pr_causal_rule", _rule_scores(bars, held, truth, rows, events, int(definition["w"])))
    nulls = _surrogate_scores(model, span, len(held), definition, session, events, n_surrogates, random_state)
    for name, scores in nulls.items():
        table.insert(list(table.columns).index("auc_pr"), name, scores)
    shares = np.broadcast_to([prior[str(label)] for label in classes], judged.shape)
    brier = {
        "model": float(brier_score(came, judged, classes=classes)[0]),
        "prior": float(brier_score(came, shares, classes=classes)[0]),
    }
    traded, earned = _trade(bars, holdout, position, cost_bps)
    return HoldoutReport(
        events=table,
        brier=brier | {"skill": 1 - brier["model"] / brier["prior"]},
        edge=block_bootstrap_mean(earned, random_state=random_state),
        backtest=traded,
        position=position,
        bars=holdout,
        labels=truth,
        proba=proba,
        rows=rows,
        classes=classes,
    )


def _event_table(came: pd.Series[Any], judged: FloatArray, classes: NDArray[Any], events: list[Any]) -> pd.DataFrame:
    slopes = [calibration_slope(came, judged, classes=classes, event=event) for event in events]
    slope, intercept = zip(*slopes, strict=True) if slopes else ((), ())
    return pd.DataFrame(
        {
            "n_events": [float((came == event).sum()) for event in events],
            "prevalence": [(came == event).mean() for event in events],
            "auc_pr": auc_pr_by_class(came, judged, classes=classes, events=events).iloc[0].to_numpy(),
            "calibration_slope": slope,
            "calibration_intercept": intercept,
            "ece": expected_calibration_error(came, judged, classes=classes, events=events).iloc[0].to_numpy(),
        },
        index=pd.Index(events, name="event"),
    )


def _trade(
    bars: pd.DataFrame, holdout: pd.DataFrame, position: pd.Series[Any], cost_bps: float
) -> tuple[BacktestResult, FloatArray]:
    """Trade the bars that have prices; return the account and what each position earned before costs."""
    tradable = holdout[["open", "close"]].notna().all(axis=1)
    prices, held = holdout[tradable], position[tradable]
    # Years are counted on all bars: a holdout of a few days says little about a year.
    years = (bars.index[-1] - bars.index[0]) / pd.Timedelta(days=365.25)
    result = backtest(prices, held, cost_bps=cost_bps, periods_per_year=(len(bars) - 1) / years)
    return result, held.to_numpy() * next_open_return(prices).to_numpy()


def _predict(model: Any, span: pd.DataFrame, n_held: int) -> FloatArray:
    return stack_horizons(model.predict_proba(span))[-n_held:]


def _scored(labels: Labels, held: IntArray) -> IntArray:
    """Return which holdout rows have a known label that counts."""
    rows = np.flatnonzero((labels.known & (labels.sample_weight.to_numpy() > 0))[held])
    if len(rows) == 0:
        raise EnsembleKitError("`bars` must have known labels in the holdout; got none. Give newer bars.")
    return rows


def _rule_scores(
    bars: pd.DataFrame, held: IntArray, truth: pd.Series[Any], rows: IntArray, events: list[str], w: int
) -> FloatArray:
    rule = turn_rule(bars, w=w).iloc[held[rows]][events].to_numpy()
    # A binary question an event: the other column only makes up the pair.
    return np.array(
        [
            auc_pr_by_class(truth.iloc[rows] == event, np.column_stack([-score, score]), classes=[False, True])
            .iloc[0]
            .iloc[1]
            for event, score in zip(events, rule.T, strict=True)
        ]
    )


def _surrogate_scores(
    model: Any,
    span: pd.DataFrame,
    n_held: int,
    definition: Mapping[str, Any],
    session: str | Session,
    events: list[str],
    n_draws: int,
    random_state: int,
) -> dict[str, FloatArray]:
    """AUC-PR of the same model on return-shuffled bars, labels and features made anew."""
    classes = model.classes_[0] if isinstance(model.classes_, list) else model.classes_
    held = np.arange(len(span) - n_held, len(span))
    draws = []
    for draw in range(n_draws):
        # The holdout's own bars change places, behind the real ones before it.
        own = span.iloc[-n_held - 1 :]
        shuffled = pd.concat(
            [span.iloc[: -n_held - 1], surrogate_bars(own, session=session, random_state=random_state + draw)]
        )
        labels = label_bars(shuffled, definition)
        rows = _scored(labels, held)
        proba = _predict(model, shuffled, n_held)[rows, :1]
        truth = labels.horizon(0).iloc[held[rows]]
        draws.append(auc_pr_by_class(truth, proba, classes=classes, events=events).iloc[0].to_numpy())
    scores = np.array(draws).reshape(n_draws, len(events))
    if n_draws == 0:
        return {}
    return {"auc_pr_surrogate": scores.mean(axis=0), "auc_pr_surrogate_max": scores.max(axis=0)}
