"""Judge a model on bars it never saw, every score beside what it would be without skill."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.bars import check_bars
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.metrics import SkillReport, brier_score, calibration_slope, expected_calibration_error, skill_test
from ensemble_kit.sessions import Session
from ensemble_kit.sizing import BacktestResult, Costs, backtest

__all__ = ["HoldoutReport", "evaluate_holdout"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]


@dataclass(frozen=True)
class HoldoutReport:
    """A model's scores on a holdout, beside their nulls, and what its positions earned.

    Attributes
    ----------
    skill : SkillReport
        The verdict, and the figures it rests on.
    events : DataFrame
        One row an event class, at the first horizon: the scores of `skill`, and calibration
        slope, intercept and ECE.
    brier : dict
        `model`, `prior` and `skill`.
    backtest : BacktestResult
        The positions traded, after costs.
    costs : Costs
        What trading was charged.
    position : Series
        What the sizer decided at each holdout bar's close.
    bars, labels, proba, rows
        What the figures were made of: holdout bars, their labels, probabilities (n, H, K)
        and the positions of the scored rows among them.
    classes : ndarray of shape (K,)
        The labels of the columns.
    """

    skill: SkillReport
    events: pd.DataFrame
    brier: dict[str, float]
    backtest: BacktestResult
    costs: Costs
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
            Metrics by name: those of `SkillReport.metrics`, calibration, Brier and backtest.
        """
        flat = {f"{column}_{event}": value for event, row in self.events.iterrows() for column, value in row.items()}
        flat |= {f"brier_{name}": value for name, value in self.brier.items()}
        flat |= self.skill.metrics() | self.backtest.metrics
        return {str(name): float(value) for name, value in flat.items() if np.isfinite(value)}

    def __str__(self) -> str:
        first, last = self.bars.index[0], self.bars.index[-1]
        return "\n".join(
            [
                f"Holdout: {len(self.bars)} bars, {first} to {last}; {len(self.rows)} of them have a known label"
                + ("" if (flat := len(self.bars) - len(self.backtest.equity)) == 0 else f", {flat} no price"),
                "",
                self.events.T.to_string(float_format=lambda value: f"{value:.4g}", na_rep="-"),
                "",
                f"Brier {self.brier['model']:.4f}, prior {self.brier['prior']:.4f}, skill {self.brier['skill']:+.3f}",
                *self.skill.sentences(),
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
    costs: float | Costs = 1.0,
    session: str | Session = "day",
    n_surrogates: int = 19,
    random_state: int = 0,
    **account: float,
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
    costs : float or Costs, default=1.0
        Costs of trading; a number is a commission in basis points of the notional.
    session : str or Session, default="day"
        Whose time of day return-shuffled surrogates keep.
    n_surrogates : int, default=19
        Random walks that the same model predicts, as in `metrics.skill_test`.
    random_state : int, default=0
        Seed of surrogates and bootstraps.
    **account : float
        Others of `sizing.backtest`: `cash`, `lot_size`, `min_trade`, `max_leverage`.

    Returns
    -------
    HoldoutReport
        Tables, figures and the verdict.

    Raises
    ------
    EnsembleKitError
        If the bars are a panel, the model takes no positions, no bar lies at or after `start`, or
        no label or no event there is known.

    See Also
    --------
    ensemble_kit.metrics.skill_test : The verdict alone, of panels and of models without positions, too.
    """
    check_bars(bars)
    if isinstance(bars.index, pd.MultiIndex):
        raise EnsembleKitError("`bars` must be of one instrument; got a panel. Take one with `bars.xs(name, level=1)`.")
    skill = skill_test(
        model,
        bars,
        start=start,
        label=definition,
        n_surrogates=n_surrogates,
        session=session,
        random_state=random_state,
    )
    if skill.position is None:
        raise EnsembleKitError(
            f"`model` must have `predict_position`; {type(model).__name__} has not. Wrap it in a `SizedClassifier`, or "
            "take `skill_test`."
        )
    judged, came = skill.proba[skill.rows, :1], skill.labels.iloc[skill.rows]
    scores = skill.scores.drop(index="mean")
    holdout = bars.loc[skill.position.index]
    return HoldoutReport(
        skill=skill,
        events=scores.join(_calibration(came, judged, skill.classes, list(scores.index))),
        brier=_brier(came, judged, skill.classes, prior),
        backtest=_trade(bars, holdout, skill.position, Costs.of(costs), account),
        costs=Costs.of(costs),
        position=skill.position,
        bars=holdout,
        labels=skill.labels,
        proba=skill.proba,
        rows=skill.rows,
        classes=skill.classes,
    )


def _calibration(came: pd.Series[Any], judged: FloatArray, classes: NDArray[Any], events: list[Any]) -> pd.DataFrame:
    slopes = [calibration_slope(came, judged, classes=classes, event=event) for event in events]
    table = pd.DataFrame(slopes, index=events, columns=["calibration_slope", "calibration_intercept"])
    return table.assign(ece=expected_calibration_error(came, judged, classes=classes, events=events).iloc[0])


def _brier(
    came: pd.Series[Any], judged: FloatArray, classes: NDArray[Any], prior: Mapping[str, float]
) -> dict[str, float]:
    shares = np.broadcast_to([prior[str(label)] for label in classes], judged.shape)
    model, least = (float(brier_score(came, p, classes=classes)[0]) for p in (judged, shares))
    return {"model": model, "prior": least, "skill": 1 - model / least}


def _trade(
    bars: pd.DataFrame, holdout: pd.DataFrame, position: pd.Series[Any], costs: Costs, account: Mapping[str, float]
) -> BacktestResult:
    tradable = holdout[["open", "close"]].notna().all(axis=1)
    # Years are counted on all bars: a holdout of a few days says little about a year.
    years = (bars.index[-1] - bars.index[0]) / pd.Timedelta(days=365.25)
    a_year = (len(bars) - 1) / years
    return backtest(holdout[tradable], position[tradable], costs=costs, periods_per_year=a_year, **account)
