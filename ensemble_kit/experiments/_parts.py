"""The parts that an experiment is made of, by the short names of its file."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from inspect import Parameter, signature
from typing import Any

from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import (
    CNNClassifier,
    FusionClassifier,
    InformerClassifier,
    LGBMWindowClassifier,
    LSTMAttentionClassifier,
    LSTMGRUClassifier,
    LuTransformerClassifier,
    TransformerClassifier,
)
from ensemble_kit.features import (
    Alpha158,
    ICTFeatures,
    IndicatorFeatures,
    MicrostructureFeatures,
    RelevanceRedundancySelector,
    SessionFeatures,
)
from ensemble_kit.labels import buy_sell_hold, next_direction, peak_slope_bottom, triple_barrier
from ensemble_kit.sizing import Costs, KellySizer, ThresholdSizer
from ensemble_kit.validation import WalkForwardSplit

__all__ = [
    "CALIBRATORS",
    "FEATURES",
    "LABELS",
    "MEMBERS",
    "SIZERS",
    "Key",
    "Table",
    "make",
    "members_table",
    "plain_table",
    "tables_of",
]

#: In the order of the columns.
FEATURES: dict[str, Any] = {
    "alpha158": Alpha158,
    "ict": ICTFeatures,
    "indicators": IndicatorFeatures,
    "microstructure": MicrostructureFeatures,
    "session": SessionFeatures,
}
MEMBERS: dict[str, Any] = {
    "lstm_gru": LSTMGRUClassifier,
    "lightgbm": LGBMWindowClassifier,
    "transformer": TransformerClassifier,
    "informer": InformerClassifier,
    "lu_transformer": LuTransformerClassifier,
    "lstm_attention": LSTMAttentionClassifier,
    "cnn": CNNClassifier,
    "fusion": FusionClassifier,
}
LABELS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (peak_slope_bottom, buy_sell_hold, triple_barrier, next_direction)
}
SIZERS: dict[str, Any] = {"kelly": KellySizer, "threshold": ThresholdSizer}
CALIBRATORS: dict[str, Any] = {"temperature": TemperatureScaling, "none": None}

#: What the experiment sets itself, of all members alike; and what a file cannot hold.
_OURS = {"n_threads", "random_state", "validation_purge", "session", "warm_start", "estimators", "gain_estimator"}


@dataclass(frozen=True)
class Key:
    """What a key of the file takes.

    Attributes
    ----------
    kind : str
        An annotation, as in the signature that it belongs to.
    default : object
        Its value where the file says nothing; `Parameter.empty` where the part decides.
    choices : tuple
        The values it may have; all where empty.
    """

    kind: str
    default: Any = Parameter.empty
    choices: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Table:
    """What a table of the file takes, and the part that it describes.

    Attributes
    ----------
    keys : dict of str to Key
        By name.
    target : callable
        What takes those of the parameters, None for a table that describes no part.
    """

    keys: Mapping[str, Key]
    target: Any = None


def plain_table(target: Any, more: Mapping[str, Key] | None = None, *, without: Collection[str] = ()) -> Table:
    """Return the table of a class or function: its parameters, less those that the experiment sets.

    Parameters
    ----------
    target : callable
        Whose parameters they are; None for none.
    more : mapping of str to Key, default=None
        Keys that are no parameters.
    without : collection of str, default=()
        Parameters that are no keys.

    Returns
    -------
    Table
        Their keys.
    """
    parameters = {} if target is None else signature(target).parameters
    own = {
        name: Key(str(parameter.annotation))
        for name, parameter in parameters.items()
        if name not in {*_OURS, *without} and parameter.kind is not Parameter.VAR_KEYWORD
    }
    return Table({**(more or {}), **own}, target)


_ON = Key("bool", default=True)
_TOP = Table(
    {
        "name": Key("str", "model"),
        "seed": Key("int", 0),
        "threads": Key("int", 1),
        "session": Key("str | Mapping", "day"),
        "holdout": Key("float | str", 0.2),
    }
)
_BARS = Table({"file": Key("str", "bars.parquet"), "tz": Key("str", "none"), "size": Key("str", "none")})


def members_table(name: str) -> Table:
    """Return the table of a member.

    Parameters
    ----------
    name : str
        One of `MEMBERS`.

    Returns
    -------
    Table
        Its keys.
    """
    networks = {"networks": Key("Sequence", ["lstm_gru", "cnn"])} if name == "fusion" else {}
    return plain_table(MEMBERS[name], {"on": _ON, **networks})


def tables_of(settings: Mapping[str, Any]) -> dict[str, Table]:
    """Return the tables that a file may have, as far as its own words decide that.

    Parameters
    ----------
    settings : mapping
        What a file says, right or wrong.

    Returns
    -------
    dict of str to Table
        By dotted name, ``""`` for the top.
    """

    def chosen(table: str, key: str, parts: Mapping[str, Any], default: str) -> tuple[Any, dict[str, Key]]:
        said = settings.get(table)
        name = said.get(key, default) if isinstance(said, Mapping) else default
        part = parts[name if isinstance(name, str) and name in parts else default]
        return part, {key: Key("str", default, tuple(parts))}

    labels, function = chosen("labels", "function", LABELS, "peak_slope_bottom")
    sizer, sizing = chosen("sizing", "method", SIZERS, "kelly")
    calibrator, method = chosen("calibration", "method", CALIBRATORS, "temperature")
    return {
        "": _TOP,
        "bars": _BARS,
        "labels": plain_table(labels, function, without={"bars", "side", "column"}),
        **{f"features.{name}": plain_table(part, {"on": _ON}) for name, part in FEATURES.items()},
        "selector": plain_table(
            RelevanceRedundancySelector, {"on": Key("bool", default=False), "columns": Key("Sequence")}
        ),
        **{f"members.{name}": members_table(name) for name in MEMBERS},
        "folds": plain_table(WalkForwardSplit, without={"t1", "purge"}),
        "calibration": plain_table(calibrator, method),
        "vote": plain_table(WalkForwardVotingClassifier, without={"cv", "scorer", "calibrator", "memory", "n_jobs"}),
        "sizing": plain_table(sizer, sizing),
        "costs": plain_table(Costs),
    }


def make(table: Table, said: Mapping[str, Any], **ours: Any) -> Any:
    """Build the part that a table describes.

    Parameters
    ----------
    table : Table
        As `tables_of` gives it.
    said : mapping
        What the file has in it.
    **ours : object
        What the experiment sets; parameters that the part has not are left out.

    Returns
    -------
    object
        The part, unfitted.
    """
    parameters = signature(table.target).parameters
    given = {name: plain_value(value, parameters[name]) for name, value in said.items() if name in parameters}
    return table.target(**{name: value for name, value in ours.items() if name in parameters} | given)


def plain_value(value: Any, parameter: Parameter) -> Any:
    """Return a value of the file as a parameter takes it.

    Parameters
    ----------
    value : object
        TOML's.
    parameter : Parameter
        What it is for.

    Returns
    -------
    object
        None for the word "none", a tuple where the default is one, a float where one is asked for.
    """
    if value == "none" and "None" in str(parameter.annotation) + str(parameter.default):
        return None
    if isinstance(value, list) and isinstance(parameter.default, tuple):
        return tuple(value)
    return float(value) if parameter.annotation == "float" else value
