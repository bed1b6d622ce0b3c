"""The verdict of `skill_test`, the figures it rests on, and how they are said."""

from __future__ import annotations

import html
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

__all__ = ["SkillReport"]

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_MEANING = {
    "skill": "it finds more than its labels give away, and its positions turn with the returns to come",
    "classification only": "it finds more than its labels give away, but its positions earn nothing by timing",
    "returns only": "its positions earned something by timing, but it finds no more than its labels give away",
    "none": "it finds no more than its labels give away, and its positions earn nothing by timing",
    "classification, no positions": "it finds more than its labels give away; without `predict_position`, whether "
    "that earns anything is not judged",
    "none, no positions": "it finds no more than its labels give away, and has no `predict_position` to be judged by",
}


@dataclass(frozen=True, repr=False, eq=False)
class SkillReport:
    """A verdict on a model, the figures it rests on, and what they were made of.

    Attributes
    ----------
    scores : DataFrame
        One row an event class and one for their `mean`: `n_events`, `prevalence`; AUC-PR of the
        causal rule (`auc_pr_causal_rule`), of the model on return-shuffled bars
        (`auc_pr_surrogate`), on random walks of the holdout's bars (`auc_pr_random_walk`) and on
        the holdout (`auc_pr`); `excess` over the random walks, `excess_low`, `excess_high`
        and its one-sided `p_value`. NaN for an event that does not occur.
    edge : DataFrame
        Rows `position` and `timing`, columns `mean`, `low`, `high`: position times next-open
        return before costs, a bar, and the part of it that comes from changing the position.
        Empty where the model takes no positions.
    level : float
        Of intervals and verdict.
    n_surrogates : int
        Random walks drawn.
    labels : Series
        Labels of the holdout's bars, at the first horizon.
    proba : ndarray of shape (n, H, K)
        Probabilities of the holdout's bars.
    rows : ndarray of int64
        Positions of the scored rows among them.
    position : Series or None
        Positions decided at the closes of the holdout's bars.
    classes : ndarray of shape (K,)
        The labels of the columns.
    """

    scores: pd.DataFrame
    edge: pd.DataFrame
    level: float
    n_surrogates: int
    labels: pd.Series[Any]
    proba: FloatArray
    rows: IntArray
    position: pd.Series[float] | None
    classes: NDArray[Any]

    @property
    def finds(self) -> bool:
        """Whether the mean AUC-PR is above its null."""
        # (1 + 0) / 20 and 1 - 0.95 are one number, though not in floating point.
        return bool(self.scores["p_value"]["mean"] <= 1 - self.level + 1e-9)

    @property
    def earns(self) -> bool:
        """Whether the interval of what timing earns lies above 0."""
        return self.position is not None and bool(self.edge["low"]["timing"] > 0)

    @property
    def verdict(self) -> str:
        """`skill`, `classification only`, `returns only` or `none`; without positions it says so."""
        if self.position is None:
            return f"{'classification' if self.finds else 'none'}, no positions"
        if self.finds:
            return "skill" if self.earns else "classification only"
        return "returns only" if self.earns else "none"

    def to_dict(self) -> dict[str, Any]:
        """Return verdict and figures as JSON can hold them.

        Returns
        -------
        dict
            `verdict`, `meaning`, `level`, `n_surrogates`, `scores` by event and `edge` by part;
            None for what is not known.
        """
        return {
            "verdict": self.verdict,
            "meaning": _MEANING[self.verdict],
            "level": self.level,
            "n_surrogates": self.n_surrogates,
            "scores": _plain(self.scores),
            "edge": _plain(self.edge),
        }

    def metrics(self) -> dict[str, float]:
        """Flatten the figures to names and numbers, NaN left out.

        Returns
        -------
        dict
            Such as `auc_pr_peak` and `p_value_mean`, `edge_low` (of the positions) and
            `edge_timing_low`; `skill` is 1 or 0.
        """
        flat = {f"{column}_{event}": value for event, row in self.scores.iterrows() for column, value in row.items()}
        for part, row in self.edge.iterrows():
            prefix = "edge" if part == "position" else f"edge_{part}"
            flat |= {f"{prefix}_{column}": value for column, value in row.items()}
        flat["skill"] = float(self.verdict == "skill")
        return {name: float(value) for name, value in flat.items() if np.isfinite(value)}

    def sentences(self) -> list[str]:
        """Say in words what the tables say in numbers.

        Returns
        -------
        list of str
            Classification, returns where there are positions, and the verdict.
        """
        row, interval = self.scores.loc["mean"], f"{100 * self.level:g} % interval"
        found = (
            f"AUC-PR {row['auc_pr']:.3f}, on {self.n_surrogates} random walks of the same bars "
            f"{row['auc_pr_random_walk']:.3f}: excess {row['excess']:+.3f}, {interval} [{row['excess_low']:+.3f}, "
            f"{row['excess_high']:+.3f}], p = {row['p_value']:.3g} ({'above' if self.finds else 'not above'} its null)"
        )
        earned = []
        if self.position is not None:
            whole, timing = (
                f"{row['mean']:+.3f} bp a bar, {interval} [{row['low']:+.3f}, {row['high']:+.3f}]"
                for _, row in (1e4 * self.edge).iterrows()
            )
            earned = [
                f"Position x next-open return before costs: {whole}",
                f"of it by timing: {timing} ({'above' if self.earns else 'not above'} 0)",
            ]
        return [found, *earned, f"Skill: {self.verdict} ({_MEANING[self.verdict]})"]

    def __str__(self) -> str:
        table = self.scores.T.to_string(float_format=lambda value: f"{value:.4g}", na_rep="-")
        return "\n".join([table, "", *self.sentences()])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        table = self.scores.T.to_html(float_format=lambda value: f"{value:.4g}", na_rep="-")
        return table + "".join(f"<p>{html.escape(sentence)}</p>" for sentence in self.sentences())


def _plain(table: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    return {
        str(row): {str(name): float(value) if np.isfinite(value) else None for name, value in values.items()}
        for row, values in table.iterrows()
    }
