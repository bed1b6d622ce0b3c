"""Has a model skill? Its scores on a holdout against what the same model has where there is nothing to know."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import t as student
from sklearn.metrics import average_precision_score
from sklearn.utils import check_random_state

from ensemble_kit.bars import RowKeys, check_bars, row_keys
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.labels import Labels, label_bars
from ensemble_kit.metrics._skill_report import SkillReport
from ensemble_kit.metrics.bootstrap import block_bootstrap_mean
from ensemble_kit.metrics.comparison import score_interval
from ensemble_kit.metrics.economic import next_open_return
from ensemble_kit.metrics.rules import causal_rule
from ensemble_kit.metrics.surrogates import random_walk_bars, surrogate_bars
from ensemble_kit.sessions import Session
from ensemble_kit.targets import stack_horizons
from ensemble_kit.validation import lookback, rows_with_history

__all__ = ["SkillReport", "skill_test"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

#: Return-shuffled draws: they stand beside the score and decide nothing, so a few will do.
_N_SHUFFLED = 5
#: A position is filled at the next open and judged at the one after: two bars of four can be.
_FEWEST = 4


def skill_test(
    model: Any,
    bars: pd.DataFrame,
    *,
    start: Any,
    label: Mapping[str, Any] | Callable[[pd.DataFrame], Labels],
    n_surrogates: int = 19,
    level: float = 0.95,
    session: str | Session = "day",
    random_state: Any = 0,
) -> SkillReport:
    """Test whether a fitted model has skill on the bars from `start` on.

    Two questions, each against its own null. Does the model find the events of its labels
    better than it does where there is nothing to know? And do its positions earn anything by
    changing, before costs? Only yes to both is called skill.

    Parameters
    ----------
    model : classifier, Pipeline or SizedClassifier
        Fitted on bars whose labels were known before `start`. It takes bars, and has
        `predict_proba`, `classes_` and, if it is to be judged by returns, `predict_position`.
    bars : DataFrame of shape (n, n_columns)
        Bars of one instrument or a panel. Those before `start` are history: as many as
        `validation.lookback` says stand in front of the holdout.
    start : Timestamp or str
        The holdout's first bar.
    label : mapping or callable
        `Labels.definition`, or a function from bars to `Labels`: surrogates are labelled anew.
    n_surrogates : int, default=19
        Random walks drawn, at least ``level / (1 - level)``: with fewer no score could be
        told from chance. More make the p-value finer.
    level : float, default=0.95
        Coverage of the intervals, and of the verdict.
    session : "day", exchange code or Session, default="day"
        Whose time of day return-shuffled surrogates keep.
    random_state : int, RandomState or None, default=0
        Seed of surrogates and bootstraps.

    Returns
    -------
    SkillReport
        Verdict, tables and sentences; print it.

    Raises
    ------
    BarsError
        If the bars are not a bar frame.
    EnsembleKitError
        If a parameter is out of its domain, the model cannot be asked, or the holdout is too
        short, has no known label, or none of the events.

    See Also
    --------
    ensemble_kit.metrics.random_walk_bars : The null of the classification.
    ensemble_kit.reports.evaluate_holdout : The same with calibration and costs.

    Notes
    -----
    What it sees: positions and probabilities of row t see rows <= t; labels and returns lie in
    the future, as scores do.

    *Classification.* Half of a hindsight label is known at its bar, so the null is no prevalence
    but the AUC-PR of the very same model on random walks: the holdout's own bars, each turned
    upside down or not by a coin, behind the real bars before them, with labels and
    features made anew. Volatility, volume, gaps and time of day are those of the holdout, the
    direction of prices is gone. The p-value is ``(1 + #{walk >= model}) / (1 + n)``, exact where
    the holdout is such a walk itself. On a walk, events weigh as much as on the holdout, since
    AUC-PR grows with prevalence alone: a constant prediction has p = 1. A walk without an
    event counts against the model. Judged is the mean over the events of `causal_rule` (over all
    classes for a label that has none) that occur in the holdout.

    Return-shuffled surrogates are printed beside, of 5 draws, but do not decide: without
    clusters of volatility turns are easier to find. On random walks made of SPY 5-minute bars a
    small LightGBM scored 0.256 itself, 0.259 on their random walks and 0.284 on their shuffled
    bars (100 draws of 6,000 bars, w = 12): against the latter no model looks good.

    The interval of the excess joins that of the score, by moving blocks no shorter than the
    label's reach, with that of the walks' mean, as [1]_ does for any difference. It is
    wide where events are few; the verdict goes by the p-value.

    *Returns.* The mean over the bars of position times next-open return, and its timing part: both
    less their mean over the holdout (of each instrument), so that to hold one position all
    along in a market that rose is no skill. Panels are averaged by time first. The interval is a
    moving-block bootstrap's. Positions that never change have a timing part of 0 exactly.

    Positions taken at rare turns are too few for one short holdout: with 2,000 to 2,400 bars held
    out of worlds of ``make_bars(signal=4)``, turns (w = 12) were found in 8 of 8, and what positions
    on them earned was told from chance in 9 of 16. A label of every bar (`buy_sell_hold`) was called skill
    in 48 of 50 worlds of 5,000 bars at ``signal=2`` (``benchmarks/nulls.py``).

    References
    ----------
    .. [1] G. Y. Zou, A. Donner, Construction of Confidence Limits About Effect Measures: A General
       Approach, Statistics in Medicine 27, 2008.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.features import SessionFeatures
    >>> from ensemble_kit.labels import peak_slope_bottom
    >>> from ensemble_kit.metrics import skill_test
    >>> bars = make_bars(2000, random_state=0)
    >>> labels = peak_slope_bottom(bars, w=12)
    >>> model = make_pipeline(SessionFeatures(), LogisticRegression()).fit(bars[:1400], labels.labels[:1400])
    >>> skill_test(model, bars, start=bars.index[1420], label=labels.definition).verdict
    'none, no positions'
    """
    check_bars(bars)
    _check_parameters(model, n_surrogates, level)
    rng = check_random_state(random_state)
    holdout = _Holdout.of(model, bars, start, label)
    proba, labels = holdout.ask(bars)
    rows = holdout.scored(labels)
    rule = _rule(bars, labels, holdout.classes)
    answers = holdout.answers(proba, labels, list(rule))
    if answers.hits.empty:
        raise EnsembleKitError(
            f"`bars` must have events in the holdout; got none of {list(rule)} in {len(rows)} known labels. "
            "Start earlier, or give newer bars."
        )
    position = holdout.position()
    walks = holdout.redrawn(answers, lambda own: random_walk_bars(own, random_state=rng), n_surrogates)
    shuffled = holdout.redrawn(answers, lambda own: surrogate_bars(own, session=session, random_state=rng), _N_SHUFFLED)
    scores = pd.DataFrame(
        {
            "n_events": answers.hits.sum().astype(np.float64),
            "prevalence": answers.hits.mean(),
            "auc_pr_causal_rule": _average_precision(answers.hits, rule.iloc[holdout.held[rows]]),
            "auc_pr_surrogate": shuffled.mean(),
            "auc_pr_random_walk": walks.mean(),
            "auc_pr": _average_precision(answers.hits, answers.proba),
        }
    )
    scores.loc["mean"] = scores.mean()
    walks["mean"] = walks.mean(axis=1)
    block = holdout.block(labels, rows)
    for event, score in scores["auc_pr"].items():
        interval = answers.interval(event, block, level, rng)
        scores.loc[event, ["excess", "excess_low", "excess_high"]] = _excess(interval, walks[event], level)
        # A tie counts against the model, also one but for rounding, and so does a walk without events.
        below = int((walks[event] < score * (1 - 1e-9)).sum())
        scores.loc[event, "p_value"] = (1 + n_surrogates - below) / (1 + n_surrogates)
    return SkillReport(
        scores=scores.reindex(pd.Index([*rule, "mean"], name="event")),
        edge=_edge(next_open_return(bars).iloc[holdout.held], position, level, rng),
        level=float(level),
        n_surrogates=int(n_surrogates),
        labels=labels.horizon(0).iloc[holdout.held],
        proba=proba,
        rows=rows,
        position=position,
        classes=holdout.classes,
    )


def _check_parameters(model: Any, n_surrogates: int, level: float) -> None:
    if missing := [name for name in ("predict_proba", "classes_") if not hasattr(model, name)]:
        raise EnsembleKitError(
            f"`model` must be a fitted classifier of bars; {type(model).__name__} has no {' and no '.join(missing)}. "
            "Fit it first, or take one that gives probabilities."
        )
    if not isinstance(level, Real) or not 0 < level < 1:
        raise EnsembleKitError(f"`level` must be a number between 0 and 1; got {level!r}. 0.95 is usual.")
    needed = max(2, math.ceil(level / (1 - level) - 1e-9))
    if not isinstance(n_surrogates, Integral) or n_surrogates < needed:
        raise EnsembleKitError(
            f"`n_surrogates` must be an integer of at least {needed} for level={level:g}; got {n_surrogates!r}. "
            "A model that beats fewer of them may still have done so by chance."
        )


@dataclass(frozen=True)
class _Answers:
    """What came true on the scored rows, and what the model said of each event that occurs there."""

    truth: pd.Series[Any]
    proba: pd.DataFrame
    classes: NDArray[Any]
    hits: pd.DataFrame

    def interval(self, event: Any, block: int, level: float, rng: np.random.RandomState) -> tuple[float, float, float]:
        """Return an event's AUC-PR, or their mean's, with its bootstrap interval."""
        events = list(self.hits) if event == "mean" else [event]
        return score_interval(
            self.truth, self.proba, classes=self.classes, events=events, block=block, level=level, random_state=rng
        )


@dataclass(frozen=True)
class _Holdout:
    """A model and the bars it is judged on, to be asked about them and about others in their place."""

    model: Any
    bars: pd.DataFrame
    keys: RowKeys
    held: IntArray
    span: IntArray  # the holdout and, in front of it, the history that the model looks at
    label: Callable[[pd.DataFrame], Labels]
    classes: NDArray[Any]

    @classmethod
    def of(cls, model: Any, bars: pd.DataFrame, start: Any, label: Any) -> Self:
        keys = row_keys(bars, name="bars")
        try:
            held = np.flatnonzero(keys.axis() >= start)
        except (TypeError, ValueError):
            raise EnsembleKitError(
                f"`start` must be a time like those of the bars ({keys.axis()[0]}); got {start!r}. "
                "Give it their time zone, or take one of them."
            ) from None
        if len(np.unique(keys.time[held])) < _FEWEST:
            raise EnsembleKitError(
                f"`bars` must reach past the training data: the holdout starts at {start}, and the last bar is at "
                f"{keys.axis()[-1]}. Give newer bars."
            )
        span = rows_with_history(keys, held, lookback(model))
        classes = model.classes_[0] if isinstance(model.classes_, list) else model.classes_
        ask = label if callable(label) else lambda bars: label_bars(bars, label)
        return cls(model, bars, keys, held, span, ask, np.array(np.asarray(classes).tolist()))

    def ask(self, bars: pd.DataFrame) -> tuple[FloatArray, Labels]:
        """Return probabilities (n, H, K) of the holdout's rows, and the labels of all rows."""
        labels = self.label(bars)
        if not isinstance(labels, Labels) or not labels.t1.index.equals(bars.index):
            raise EnsembleKitError(
                f"`label` must give the Labels of the bars it is given; got {type(labels).__name__}. "
                "Pass `labels.definition`, or a function such as `peak_slope_bottom`."
            )
        return stack_horizons(self.model.predict_proba(bars.iloc[self.span]))[self._places], labels

    @property
    def _places(self) -> IntArray:
        """Where the holdout's rows stand in the span."""
        return np.searchsorted(self.span, self.held)

    def position(self) -> pd.Series[float] | None:
        """Return what the model decides at the holdout's bars, if it decides anything."""
        if not hasattr(self.model, "predict_position"):
            return None
        decided = np.asarray(self.model.predict_position(self.bars.iloc[self.span]), np.float64)
        return pd.Series(decided[self._places], index=self.bars.index[self.held], name="position")

    def scored(self, labels: Labels) -> IntArray:
        """Return which of the holdout's rows have a known label that counts."""
        rows = np.flatnonzero((labels.known & (labels.sample_weight.to_numpy() > 0))[self.held])
        if len(np.unique(self.keys.time[self.held[rows]])) < 2:
            raise EnsembleKitError(
                f"`bars` must have known labels in the holdout; got {len(rows)} in its {len(self.held)} rows. "
                "Give newer bars."
            )
        return rows

    def answers(self, proba: FloatArray, labels: Labels, events: list[Any]) -> _Answers:
        """Put together what is scored."""
        rows = self.scored(labels)
        truth = labels.horizon(0).iloc[self.held[rows]]
        said = pd.DataFrame(proba[rows, 0], index=truth.index, columns=self.classes.tolist())
        hits = pd.DataFrame({event: truth == event for event in events})
        return _Answers(truth, said, self.classes, hits.loc[:, hits.any()])

    def redrawn(self, real: _Answers, draw: Callable[[pd.DataFrame], pd.DataFrame], n: int) -> pd.DataFrame:
        """Return the AUC-PR of each event on n redrawn holdouts, where events weigh what they do on the real one."""
        # The bar before stays, and what is drawn is chained to it.
        own = rows_with_history(self.keys, self.held, 1)
        rest = np.setdiff1d(np.arange(len(self.bars)), own)
        scores = []
        for _ in range(n):
            bars = pd.concat([self.bars.iloc[rest], draw(self.bars.iloc[own])]).reindex(self.bars.index)
            drawn = self.answers(*self.ask(bars), list(real.hits))
            scores.append(_average_precision(drawn.hits, drawn.proba, real.hits.mean()))
        return pd.DataFrame(scores, columns=list(real.hits))

    def block(self, labels: Labels, rows: IntArray) -> int:
        """Return the length of bootstrap blocks: the usual one, or the label's reach where that is longer."""
        at, times = self.held[rows], np.unique(self.keys.time)
        t1 = pd.DatetimeIndex(labels.t1.iloc[at]).as_unit("ns").asi8
        reach = int((np.searchsorted(times, t1) - np.searchsorted(times, self.keys.time[at])).max())
        n = len(np.unique(self.keys.time[at]))
        return min(max(reach, round(2 * n ** (1 / 3))), n // 2)


def _rule(bars: pd.DataFrame, labels: Labels, classes: NDArray[Any]) -> pd.DataFrame:
    """Return the causal rule's scores, one column an event; of a label that has no rule, NaN for all classes."""
    known = classes.tolist()
    try:
        rule = causal_rule(bars, labels.definition)
    except EnsembleKitError:  # a label of the user's own
        return pd.DataFrame(np.nan, index=bars.index, columns=known)
    events = [label for label in known if label in rule]
    if not events:
        raise EnsembleKitError(
            f"`label` must be what the model was fitted on; its events are {list(rule)}, the model's classes {known}. "
            "Pass the definition of the labels used in training."
        )
    return rule[events]


def _average_precision(hits: pd.DataFrame, scores: pd.DataFrame, prevalence: pd.Series[float] | None = None) -> Any:
    """Return the AUC-PR of each event, weighed to a prevalence if given; NaN without hits or scores."""
    found = pd.Series(np.nan, index=hits.columns)
    for event in hits.columns.tolist():
        hit = hits[event].to_numpy()
        if not hit.any() or scores[event].isna().any():
            continue
        weight = np.ones(len(hit))
        if prevalence is not None and not hit.all() and prevalence[event] < 1:
            odds = [share / (1 - share) for share in (prevalence[event], hit.mean())]
            weight[hit] = odds[0] / odds[1]
        found[event] = average_precision_score(hit, scores[event], sample_weight=weight)
    return found


def _excess(interval: tuple[float, float, float], walks: pd.Series[float], level: float) -> tuple[float, float, float]:
    """Return score less mean of the walks, and the interval that joins those of both (Zou and Donner)."""
    score, low, high = interval
    drawn = walks.dropna()
    half = (
        student.ppf((1 + level) / 2, len(drawn) - 1) * drawn.std() / math.sqrt(len(drawn)) if len(drawn) > 1 else np.nan
    )
    excess = score - drawn.mean()
    return excess, excess - math.hypot(score - low, half), excess + math.hypot(high - score, half)


def _edge(
    ahead: pd.Series[float], position: pd.Series[float] | None, level: float, rng: np.random.RandomState
) -> pd.DataFrame:
    """Return what positions earn a bar, and what of it their changes earn, with intervals."""
    columns = ["mean", "low", "high"]
    if position is None:
        return pd.DataFrame(columns=columns, dtype=np.float64)
    both = pd.DataFrame({"position": position, "ahead": ahead}).dropna()
    panel = isinstance(both.index, pd.MultiIndex)
    own = both - (both.groupby(level=1, observed=True).transform("mean") if panel else both.mean())
    seed = rng.randint(2**31)  # both parts on the same blocks
    parts = {"position": both["position"] * both["ahead"], "timing": own["position"] * own["ahead"]}
    by_time = {name: part.groupby(level=0).mean() for name, part in parts.items()}
    table = {name: block_bootstrap_mean(part, level=level, random_state=seed) for name, part in by_time.items()}
    return pd.DataFrame.from_dict(table, orient="index", columns=columns)
