"""What a holdout report says in words and tables, ready to be set: strings only."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd

from ensemble_kit.fingerprint import versions
from ensemble_kit.reports import _cells as cells
from ensemble_kit.reports._canvas import MINUS
from ensemble_kit.reports._cells import Section, Table
from ensemble_kit.reports.holdout import HoldoutReport
from ensemble_kit.validation import ALL_MEMBERS, REFIT

#: Trades shown from either end.
_TRADES = 50

_HEADLINES = {
    "skill": "Skill, on this holdout",
    "classification only": "Finds events, earns nothing by it",
    "returns only": "Earned something, but finds no events",
    "none": "No skill shown",
}

#: Metrics of the positions, of buy and hold, and of the same exposure held all along.
_METRICS = (
    ("Total return", ("total_return", "buy_and_hold", "matched_return"), cells.percent),
    ("Annual return", ("annual_return",), cells.percent),
    ("Total return less buy and hold's", ("outperformance",), cells.percent),
    ("Sharpe ratio, annual", ("sharpe", "buy_and_hold_sharpe"), cells.ratio),
    ("Sortino ratio, annual", ("sortino",), cells.ratio),
    ("Calmar ratio", ("calmar",), cells.ratio),
    ("Largest drawdown", ("max_drawdown", "buy_and_hold_max_drawdown"), cells.percent),
    ("Mean return a bar", ("mean_bar_return",), cells.points),
    ("Trades", ("trades",), cells.count),
    ("Trades with a gain", ("win_rate",), cells.percent),
    ("Profit factor", ("profit_factor",), cells.ratio),
    ("Turnover, times equity", ("turnover",), cells.ratio),
    ("Mean gross exposure", ("exposure",), cells.percent),
    ("Costs, of starting cash", ("costs",), cells.percent),
)

_CARD = {
    "n_trials": "Trials counted",
    "deflated_sharpe_ratio": "Deflated Sharpe ratio",
    "bar": "Length of a bar",
    "n_training_bars": "Training bars",
    "class_shares": "Class shares in training",
    "bars_fingerprint": "Fingerprint of the training bars",
    "ensemble_kit": "ensemble_kit in training",
}
#: Names under which a card or the metrics hold what counts other looks.
_LOOKS = ("n_trials", "deflated_sharpe_ratio", "probability_of_backtest_overfitting")

_LIMITS = (
    (
        "This is one holdout: one draw of history. The intervals say how its figures could have come out otherwise "
        "within it, not what another year would bring."
    ),
    (
        "Each look uses it up. If models, labels or thresholds were chosen by what they did on these bars, all figures "
        "here are too good, and no interval shows by how much."
    ),
    (
        "A score is worth what it is above its nulls. A bare AUC-PR, win rate or calibration error is worth nothing: "
        "hindsight labels are half known at their bar, and random walks score, too."
    ),
    (
        "Fills are assumed at the next open at the costs given, whatever the size. What happens between open and "
        "close is not looked at, and neither is the market's answer to an order."
    ),
)


def all_sections(report: HoldoutReport, model: Any, card: Mapping[str, Any], pictures: Section) -> Iterator[Section]:
    """Give the sections in the order of reading."""
    yield _scores(report)
    yield _calibration(report)
    yield _trading(report)
    yield pictures
    yield _trades(report)
    yield _sizer(model)
    yield _usage(model)
    yield _limits(report, card)
    yield _provenance(model, card)


# --------------------------------------------------------------------------- head and verdict


def facts(report: HoldoutReport, model: Any, card: Mapping[str, Any]) -> dict[str, str]:
    """Say in a few lines what was judged on what."""
    index = report.bars.index
    step = pd.Series(index).diff().mode()
    every = f", one every {cells.value(step.iloc[0])}" if len(step) else ""
    told = {
        "Holdout": cells.span(index[0], index[-1]),
        "Bars": f"{len(index):,}{every}; {len(report.rows):,} have a known label",
        "Model": _name_of(model),
    }
    if {"first_training_bar", "last_training_bar"} <= set(card):
        n = f", {cells.value(card['n_training_bars'])} bars" if "n_training_bars" in card else ""
        told["Trained on"] = cells.span(card["first_training_bar"], card["last_training_bar"]) + n
    return told


def _name_of(model: Any) -> str:
    """Name the classes from the outside in, as far as they hold one another."""
    inner, names = model, []
    while inner is not None:
        names += [] if hasattr(inner, "steps") else [type(inner).__name__]
        inner = inner[-1] if hasattr(inner, "steps") else getattr(inner, "model_", None)
    return " of ".join(names)


def verdict(report: HoldoutReport) -> dict[str, Any]:
    """Say the verdict, what it means, and its figures beside their nulls."""
    skill, m = report.skill, report.backtest.metrics
    mean, meaning = skill.scores.loc["mean"], str(skill.to_dict()["meaning"])
    found, *earned, _ = (re.sub(r"-(?=\d)", MINUS, sentence) for sentence in skill.sentences())
    beside = (
        f"The same on shuffled bars {cells.score(mean['auc_pr_surrogate'])}; a causal rule without a model "
        f"{cells.score(mean['auc_pr_causal_rule'])}; guessing {cells.score(mean['prevalence'])}"
    )
    gained, hold, matched = (cells.percent(m[name]) for name in ("total_return", "buy_and_hold", "matched_return"))
    traded = (
        f"After costs {gained} in {cells.count(m['trades'])} trade{'' if m['trades'] == 1 else 's'}; "
        f"buy and hold {hold}; the same mean exposure held all along {matched}"
    )
    return {
        "headline": _HEADLINES.get(skill.verdict, cells.words(skill.verdict)),
        "meaning": f"{meaning[0].upper()}{meaning[1:]}.",
        "sentences": [f"{one[0].upper()}{one[1:]}." for one in (found, beside, *earned, traded)],
        "skilled": skill.verdict == "skill",
    }


# --------------------------------------------------------------------------- tables


def _scores(report: HoldoutReport) -> Section:
    level, columns = f"{100 * report.skill.level:g} %", "prevalence auc_pr_causal_rule auc_pr_surrogate"
    rows = [
        [
            "Mean" if event == "mean" else str(event),
            "" if event == "mean" else cells.count(row["n_events"]),
            *(cells.score(row[column]) for column in (*columns.split(), "auc_pr_random_walk", "auc_pr")),
            cells.signed(row["excess"]),
            f"{cells.signed(row['excess_low'])} to {cells.signed(row['excess_high'])}",
            cells.p_value(row["p_value"]),
        ]
        for event, row in report.skill.scores.iterrows()
    ]
    head = ["Event", "Events", "Prevalence", "Causal rule", "Shuffled bars", "Random walks", "Model", "Excess"]
    about = (
        "Area under the precision-recall curve (AUC-PR). Half of a hindsight label is known at its bar, so the "
        "score of a model without skill is not the prevalence: the causal rule stands for what the label gives away, "
        "shuffled bars and random walks for what this very model scores where nothing can be known."
    )
    note = (
        "Excess is over the random walks, which alone decide; the shuffled bars stand beside. p is one-sided, "
        f"against {report.skill.n_surrogates} random walks."
    )
    caption = "Scores by event, beside what they would be without skill"
    return Section(
        "scores",
        "Finding events",
        words=[about],
        tables=[Table(caption, [*head, f"{level} interval", "p"], rows, note=note, total="Mean")],
    )


def _calibration(report: HoldoutReport) -> Section:
    columns, brier = ("calibration_slope", "calibration_intercept", "ece"), report.brier
    rows = [[str(event), *(cells.score(row[column]) for column in columns)] for event, row in report.events.iterrows()]
    about = (
        "Slope 1 and intercept 0 are right; a slope below 1 is a model too sure of itself. A small calibration "
        "error alone proves nothing: a constant guess at the prevalence has one, too."
    )
    note = "At 0 or below, the probabilities say no more than the shares of the classes in training."
    return Section(
        "calibration",
        "Are the probabilities right?",
        words=[about],
        tables=[
            Table("Calibration by event", ["Event", "Slope", "Intercept", "Expected calibration error"], rows),
            Table(
                "Brier score, lower is better",
                ["Prediction", "Brier score", "Skill"],
                [
                    ["Model", cells.number(".4f")(brier["model"]), cells.signed(brier["skill"])],
                    ["Shares in training", cells.number(".4f")(brier["prior"]), "0"],
                ],
                note=note,
            ),
        ],
    )


def _trading(report: HoldoutReport) -> Section:
    m, level = report.backtest.metrics, report.skill.level
    intervals, rows = report.backtest.intervals(level=level), []
    for name, (own, *others), write in _METRICS:
        low, high = (intervals[side].get(own, np.nan) for side in ("low", "high"))
        between = "" if np.isnan(low) or np.isnan(high) else f"{write(low)} to {write(high)}"
        beside = [write(m[other]) for other in others]
        rows.append([name, write(m[own]), between, *beside, *[""] * (2 - len(beside))])
    about = (
        f"Positions are decided at a bar's close and filled at the next open; costs: {report.costs}. Matched exposure "
        "is the mean net exposure held all along: what is earned beyond it came from changing the position."
    )
    note = (
        "Intervals are moving-block bootstraps of this one holdout. One that holds 0 shows no edge; none is corrected "
        "for other models that were tried."
    )
    head = ["Metric", "Positions", f"{100 * level:g} % interval", "Buy and hold", "Matched exposure"]
    return Section(
        "trading",
        "What trading would have earned",
        words=[about],
        tables=[Table("After costs, beside holding", head, rows, note=note)],
    )


def _trades(report: HoldoutReport) -> Section:
    frame, names = report.backtest.trades, [str(name) for name in report.backtest.trades.columns]
    n, cut = len(frame), len(frame) > 2 * _TRADES
    if not n:
        return Section("trades", "Trades", words=["None was made: no position was large enough."])
    shown = pd.concat([frame.head(_TRADES), frame.tail(_TRADES)]) if cut else frame
    rows = [
        [cells.trade(name, one) for name, one in zip(names, row, strict=True)] for row in shown.itertuples(index=False)
    ]
    if cut:
        rows.insert(_TRADES, [f"{n - 2 * _TRADES:,} more", *["…"] * (len(names) - 1)])
    caption = f"First and last {_TRADES} of {n:,} trades" if cut else f"All trades ({n:,})"
    head = [{"pnl": "PnL", "open": "Still open"}.get(name, cells.words(name)) for name in names]
    text, zone = (
        frozenset({"Instrument", "Entry", "Exit", "Side", "Still open"}),
        pd.DatetimeIndex(report.bars.index).tz,
    )
    note = "PnL and costs in currency." + (f" Times are {zone}." if zone else "")
    return Section("trades", "Trades", tables=[Table(caption, head, rows, note=note, text=text, tall=n > 12)])


# --------------------------------------------------------------------------- where it comes from


def _sizer(model: Any) -> Section:
    heading, sizer = "From probabilities to positions", getattr(model, "sizer_", None)
    if sizer is None:
        return Section("sizer", heading, words=["This model sizes its positions by itself."])
    fitted = {name: one for name, one in vars(sizer).items() if name.endswith("_") and not name.startswith("_")}
    given = {name: one for name, one in sizer.get_params().items() if not (one is None and f"{name}_" in fitted)}
    for side in {"long_", "short_"} & set(fitted):
        fitted[side] = sizer.classes_[fitted[side]]
    told = {"sizer": type(sizer).__name__} | {name: cells.value(one) for name, one in (*given.items(), *fitted.items())}
    if "payoffs_" in fitted:  # each class has its own
        paid = zip(sizer.classes_, fitted["payoffs_"], strict=True)
        told["payoffs_"] = "; ".join(f"{label}: {cells.value(np.ravel(one))}" for label, one in paid)
    about = "As set, and (ending in _) as fitted on out-of-fold probabilities, before the holdout began."
    return Section("sizer", heading, words=[about], facts=told)


def _usage(model: Any) -> Section:
    """Lay out which rows each stage of the fit used; members and roles of the same rows share a line."""
    heading, entries = "Who saw which rows", getattr(getattr(model, "row_usage_", None), "entries", [])
    if not entries:
        return Section("usage", heading, words=["This model keeps no record of the rows that it was fitted on."])
    lines: dict[tuple[int, str, bytes], list[str]] = {}
    for entry in entries:
        lines.setdefault((entry["fold"], entry["role"], entry["rows"].tobytes()), []).append(entry["member"])
    uses: dict[tuple[int, tuple[str, ...], bytes], list[str]] = {}
    for (fold, role, key), members in lines.items():
        uses.setdefault((fold, tuple(members), key), []).append(role)
    table = []
    for (fold, who, key), roles in sorted(uses.items(), key=lambda use: (use[0][0] == REFIT, use[0][0])):
        rows = np.frombuffer(key, dtype=np.int64)
        edges = [f"{rows[0]:,}", f"{rows[-1]:,}"] if len(rows) else [cells.NOTHING] * 2
        names = ", ".join("all" if member == ALL_MEMBERS else member for member in who)
        table.append(["refit" if fold == REFIT else str(fold), names, ", ".join(roles), *edges, f"{len(rows):,}"])
    about = (
        "Rows of the training bars, counted from 0; the holdout lies behind them. In one fold, no row that a member "
        "was fitted on has another role. Scoring, calibrating, weighing and sizing share out-of-fold rows."
    )
    head, text = ["Fold", "Members", "Used to", "First row", "Last row", "Rows"], frozenset({"Members", "Used to"})
    return Section(
        "usage", heading, words=[about], tables=[Table("Rows by fold, member and use", head, table, text=text)]
    )


def _limits(report: HoldoutReport, card: Mapping[str, Any]) -> Section:
    known = {**report.backtest.metrics, **card}
    looks = {_CARD.get(name, cells.words(name)): cells.value(known[name]) for name in _LOOKS if name in known}
    counted = "What counts the looks stands below." if looks else "No figure here is corrected for other looks."
    words = [*_LIMITS[:1], f"{_LIMITS[1]} {counted}", *_LIMITS[2:]]
    return Section("limits", "How to read this", words=words, facts=looks)


def _provenance(model: Any, card: Mapping[str, Any]) -> Section:
    told = {_CARD.get(name, cells.words(name)): cells.value(one) for name, one in card.items()}
    told["Libraries now"] = ", ".join(version.replace("=", " ") for version in versions())
    return Section("provenance", "What was trained, and with what", facts=told, code=repr(model))
