"""The registry: which versions there are, which one is used, and what it takes to replace it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException

from ensemble_kit.exceptions import TrackingError
from ensemble_kit.tracking._aliases import (
    ABOUT,
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    aliases_of,
    crown,
    give,
    known_version,
    known_versions,
    record,
    recorded,
    step_back,
)
from ensemble_kit.tracking.comparison import METRICS, Comparison, compare

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS",
    "Comparison",
    "Promotion",
    "compare",
    "history",
    "list_versions",
    "promote",
    "roll_back",
    "set_challenger",
]

#: Of the run, where `ensemble-kit backtest` has judged the version: each score beside its null.
_FIGURES = ("auc_pr_mean", "auc_pr_causal_rule_mean", "brier_skill", "total_return", "buy_and_hold")


def list_versions(name: str) -> pd.DataFrame:
    """List the versions of a registered model.

    Parameters
    ----------
    name : str
        The registered model's name.

    Returns
    -------
    DataFrame
        One row a version, the oldest first; None or NaN where nothing was written down.
        `aliases` (a comma between them), `created` (UTC), of the card `preset`, `experiment`,
        `first_training_bar`, `last_training_bar`, `holdout_start` and `holdout_end`, of its own
        holdout's report `auc_pr_mean`, `auc_pr_causal_rule_mean`, `brier_skill`,
        `total_return` and `buy_and_hold`, and `run_id`. Each version's holdout is its own: compare
        versions by `compare`.

    Raises
    ------
    TrackingError
        If there is no such model.
    """
    client = mlflow.MlflowClient()
    named: dict[int, list[str]] = {}
    for alias, number in sorted(aliases_of(name).items()):
        named.setdefault(number, []).append(alias)
    rows = {}
    for number, version in known_versions(name).items():
        try:
            measured = client.get_run(version.run_id).data.metrics if version.run_id else {}
        except MlflowException:  # the run was deleted for good
            measured = {}
        rows[number] = {
            "aliases": ", ".join(named.get(number, [])),
            "created": pd.Timestamp(version.creation_timestamp, unit="ms", tz="UTC"),
            **{key: version.tags.get(key) for key in ABOUT},
            **{key: measured.get(f"holdout_{key}", np.nan) for key in _FIGURES},
            "run_id": version.run_id,
        }
    columns = ["aliases", "created", *ABOUT, *_FIGURES, "run_id"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("version")


def history(name: str) -> pd.DataFrame:
    """Return all that was decided about the versions of a model.

    Parameters
    ----------
    name : str
        The registered model's name.

    Returns
    -------
    DataFrame
        One row an event, the oldest first: `at` (UTC), `event` ("promoted", "forced", "refused",
        "rolled back"), the `version` it is about, the champion that it came or would have come
        `over`, `by` whom, `why`; of those with a comparison also `metric`, `gain`, `low`, `high`,
        `level`, `margin`, `champion` and `challenger` (their scores), `null`, `n_rows`,
        `holdout_start`, `holdout_end` and the `holdout`'s fingerprint.

    Raises
    ------
    TrackingError
        If there is no such model.
    """
    return recorded(name)


@dataclass(frozen=True, repr=False, eq=False)
class Promotion:
    """What became of an attempt.

    Attributes
    ----------
    name : str
        The registered model.
    version : int
        Which wanted to be champion.
    over : int or None
        The champion until then.
    promoted : bool
        Whether it is champion now.
    why : str
        The reason, either way.
    comparison : Comparison or None
        What it was decided on; None where it was forced without bars.
    n_earlier : int
        Decisions about this model, taken earlier on bars of the same time. The more there were,
        the more the best of them owes to chance.
    """

    name: str
    version: int
    over: int | None
    promoted: bool
    why: str
    comparison: Comparison | None
    n_earlier: int

    def __str__(self) -> str:
        verdict = "is champion" if self.promoted else "is not promoted"
        over = "" if self.over is None else f", {'after' if self.promoted else 'behind'} version {self.over}"
        often = f" Bars of this time have decided {self.n_earlier} time(s) before." if self.n_earlier else ""
        return f"{self.name} version {self.version} {verdict}{over}: {self.why}.{often}"


def promote(
    name: str,
    bars: pd.DataFrame | None = None,
    *,
    version: int | str | None = None,
    margin: float = 0.0,
    metric: str = "auc_pr",
    force: str | None = None,
    **settings: Any,
) -> Promotion:
    """Make a version the champion if it beats the champion on bars that neither has seen.

    It does if the lower end of the paired interval of its gain (`compare`; 0.95 two-sided by
    default) lies above `margin`. A better score alone is not enough: of two equal models, either is
    better on half of all holdouts.

    Parameters
    ----------
    name : str
        The registered model's name.
    bars : DataFrame of shape (n, n_columns), default=None
        As `compare` takes them; None only with `force`.
    version : int or str, default=None
        By number or alias; None for the challenger.
    margin : float, default=0.0
        What the lower end must exceed, in units of `metric`; at least 0.
    metric : {"auc_pr", "log_loss"}, default="auc_pr"
        What decides.
    force : str, default=None
        A reason to promote it whatever the comparison says; recorded. With `bars`, what the
        comparison said is recorded, too.
    **settings : object
        Others of `compare`: `costs`, `level`, `min_events`, `n_resamples`, `random_state`.

    Returns
    -------
    Promotion
        Look at `promoted`. Where it is False, no alias was changed.

    Raises
    ------
    TrackingError
        If there is no such version or no champion to be beaten, it is the champion already, a
        parameter is out of its domain, the champion changed meanwhile, or `compare` refuses.
    BarsError
        As `compare` raises it.

    Notes
    -----
    The version gets the alias `champion`, and the one before it `previous_champion`. Each decision,
    a refusal too, is one tag of the version (`history.<time>`, JSON), and thus in `history`.

    MLflow has no compare-and-set, but an alias is one row of one table: whatever happens, it names
    one version, that of the last writer. The champion is looked up again right before the write,
    so of two that promote at once, one usually gets the error that the champion changed; in the
    instant between look and write both may pass, the later one is champion, and `history` has both.
    """
    _check(margin, metric, force, bars)
    aliases = aliases_of(name)
    number = known_version(name, CHALLENGER if version is None else version)
    over = aliases.get(CHAMPION)
    if number == over:
        raise TrackingError(f"`version` must not be the champion; version {number} of {name} is. Name another.")
    if over is None and force is None:
        raise TrackingError(
            f"`name` must have a champion that can be beaten; {name} has none. Pass `force` with the reason."
        )
    comparison, uncompared = None, ""
    if bars is not None and over is not None:
        try:
            comparison = compare(name, bars, versions=(over, number), **settings)
        except TrackingError as error:
            if force is None:
                raise
            # Who forces a version does so where nothing can be compared, too; the record says why it was not.
            uncompared = f" (not compared: {error})"
    beats, why = (False, "") if comparison is None else _judge(comparison, metric, margin)
    promoted = beats or force is not None
    said = why if force is None else f"forced: {force}{uncompared}"
    n_earlier = 0 if comparison is None else _earlier(name, comparison)
    event = {"event": "forced" if force is not None else "promoted" if beats else "refused", "why": said}
    if comparison is not None:
        event |= _figures(comparison, metric, margin)
    if promoted:
        crown(name, number, over=over, event=event)
    else:
        record(name, number, over=over, **event)
    return Promotion(name, number, over, promoted, said, comparison, n_earlier)


def roll_back(name: str, *, why: str = "", to: int | None = None) -> int:
    """Give the champion's name back to the version before it.

    Parameters
    ----------
    name : str
        The registered model's name.
    why : str, default=""
        The reason, for the record.
    to : int, default=None
        Another version to go back to, such as the one that a service trades with; None for the
        champion before this one, which is another where the alias was moved by hand.

    Returns
    -------
    int
        The version that is champion now.

    Raises
    ------
    TrackingError
        If there is no such model or version, or no version before its champion.

    Notes
    -----
    Again and again it goes back along the champions that came after one another, to the first; a
    version that was promoted more than once counts once.
    """
    return step_back(name, why=why, to=to)


def set_challenger(name: str, version: int | str) -> int:
    """Let a version be the challenger.

    Parameters
    ----------
    name : str
        The registered model's name.
    version : int or str
        By number or alias.

    Returns
    -------
    int
        The version.

    Raises
    ------
    TrackingError
        If there is no such version, or it is the champion.
    """
    number = known_version(name, version)
    if number == aliases_of(name).get(CHAMPION):
        raise TrackingError(f"`version` must not be the champion; version {number} of {name} is. Name another.")
    give(name, CHALLENGER, number)
    return number


def _check(margin: float, metric: str, force: str | None, bars: pd.DataFrame | None) -> None:
    if metric not in METRICS:
        raise TrackingError(f"`metric` must be one of {', '.join(METRICS)}; got {metric!r}.")
    if not 0 <= margin < np.inf:
        raise TrackingError(f"`margin` must be a number of at least 0; got {margin}. 0 asks for any gain at all.")
    if force is not None and not force.strip():
        raise TrackingError("`force` must be a reason; got an empty one. Write why the comparison does not count.")
    if bars is None and force is None:
        raise TrackingError("`bars` must be given, to be judged on; got None. Only `force` goes without.")


def _judge(comparison: Comparison, metric: str, margin: float) -> tuple[bool, str]:
    """Return whether the challenger has won, and why."""
    gain, low, high = comparison.gain(metric)
    row, beats = comparison.table.loc[metric], low > margin
    return beats, (
        f"{metric} {row['challenger']:.4f} against {row['champion']:.4f} (null {row['null']:.4f}), "
        f"gain {gain:+.4f}, {100 * comparison.level:g} % interval [{low:+.4f}, {high:+.4f}], "
        f"whose lower end is {'' if beats else 'not '}above {margin:g}"
    )


def _figures(comparison: Comparison, metric: str, margin: float) -> dict[str, Any]:
    return {
        "metric": metric,
        "margin": float(margin),
        "level": comparison.level,
        **{str(key): value for key, value in comparison.table.loc[metric].items()},
        "n_rows": comparison.n_rows,
        "holdout_start": str(comparison.start),
        "holdout_end": str(comparison.end),
        "holdout": comparison.holdout,
    }


def _earlier(name: str, comparison: Comparison) -> int:
    """Count the decisions that were taken on bars of the same time."""
    past = recorded(name)
    if "holdout_start" not in past:
        return 0
    past = past.dropna(subset=["holdout_start", "holdout_end"])
    return sum(
        pd.Timestamp(first) <= comparison.end and pd.Timestamp(last) >= comparison.start
        for first, last in zip(past["holdout_start"], past["holdout_end"], strict=True)
    )
