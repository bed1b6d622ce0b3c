"""What is wrong with a file: all of it, each with its table and key, and what was probably meant."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from inspect import Parameter
from typing import Any

import pandas as pd

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.experiments._parts import Key, Table, make, tables_of

__all__ = ["checked", "length_or_day"]

_KINDS: dict[str, Any] = {
    "str": lambda v: isinstance(v, str),
    "bool": lambda v: isinstance(v, bool),
    "int": lambda v: isinstance(v, int) and not isinstance(v, bool),
    "float": lambda v: isinstance(v, int | float) and not isinstance(v, bool),
    "Mapping": lambda v: isinstance(v, Mapping),
    "Session": lambda v: isinstance(v, Mapping),
    "Sequence": lambda v: isinstance(v, list),
    "tuple": lambda v: isinstance(v, list),
    "list": lambda v: isinstance(v, list),
    "None": lambda v: v == "none",
    "Any": lambda _: True,
}
_WORDS = {
    "str": "a word",
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "Mapping": "a table",
    "Session": "a table",
    "Sequence": "a list",
    "tuple": "a list",
    "list": "a list",
    "None": '"none"',
}
#: Tables of tables.
_GROUPS = ("features", "members")


def checked(settings: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return settings with their defaults filled in, or say all that is wrong with them.

    Parameters
    ----------
    settings : mapping
        As read from TOML.
    name : str
        Of the file, for messages.

    Returns
    -------
    dict
        The same, complete.

    Raises
    ------
    EnsembleKitError
        Naming every unknown table and key, wrong type and value.
    """
    tables = tables_of(settings)
    said = dict(_laid_flat(settings))
    wrong = [*_unknown_tables(said, tables), *_wrong_types(said, tables)]
    # Values are looked at where every key is what it should be: a part cannot be built otherwise.
    wrong = wrong or [*_wrong_values(said, tables)]
    if wrong:
        raise EnsembleKitError(
            f"`{name}` must hold an experiment; got {len(wrong)} wrong entr{'y' if len(wrong) == 1 else 'ies'}: "
            f"{'; '.join(wrong)}. `ensemble-kit init` writes a file that explains every key."
        )
    return _complete(said, tables)


def _laid_flat(settings: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each table by its dotted name; those of `features` and `members` are tables of tables."""
    yield "", {key: value for key, value in settings.items() if not _may_be_table(key, value)}
    for key, value in settings.items():
        if not _may_be_table(key, value):
            continue
        if key in _GROUPS and isinstance(value, Mapping):
            yield from ((f"{key}.{inner}", table) for inner, table in value.items())
        else:
            yield key, value


def _may_be_table(key: str, value: Any) -> bool:
    return key != "session" and (isinstance(value, Mapping) or key in _GROUPS)


def _unknown_tables(said: Mapping[str, Any], tables: Mapping[str, Table]) -> Iterator[str]:
    for name, value in said.items():
        if name not in tables:
            known = list(tables) if "." in name else [*dict.fromkeys(each.partition(".")[0] for each in tables)]
            yield f"[{name}]: no such table{_nearest(name, known)}"
        elif not isinstance(value, Mapping):
            yield f"[{name}]: must be a table; got {value!r}"


def _wrong_types(said: Mapping[str, Any], tables: Mapping[str, Table]) -> Iterator[str]:
    for name, values in said.items():
        if name not in tables or not isinstance(values, Mapping):
            continue
        keys = tables[name].keys
        for key, value in values.items():
            if key not in keys:
                nearest = _nearest(key, keys if name else [*keys, *tables])
                yield f"{_at(name, key)}: no such key{nearest}"
            elif not _fits(value, keys[key]):
                yield f"{_at(name, key)} must be {_asked(keys[key])}; got {_shown(value)}{_choice(value, keys[key])}"


def _fits(value: Any, key: Key) -> bool:
    if key.choices:
        return isinstance(value, str) and value in key.choices
    return any(_KINDS.get(kind, lambda _: False)(value) for kind in _kinds(key.kind))


def _kinds(annotation: str) -> list[str]:
    return re.sub(r"\[.*\]", "", annotation).split(" | ") if "| type[" not in annotation else ["str"]


def _asked(key: Key) -> str:
    if key.choices:
        return "one of " + ", ".join(key.choices)
    return " or ".join(dict.fromkeys(_WORDS[kind] for kind in _kinds(key.kind) if kind in _WORDS))


def _choice(value: Any, key: Key) -> str:
    return _nearest(value, key.choices) if key.choices and isinstance(value, str) else ""


def _nearest(name: str, known: Any) -> str:
    near = get_close_matches(name, [each for each in known if each], 1)
    return f", did you mean {near[0]!r}?" if near else f" (known: {', '.join(each for each in known if each)})"


def _at(table: str, key: str) -> str:
    return f"[{table}] {key}" if table else key


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


# --------------------------------------------------------------------------- values


def _wrong_values(said: Mapping[str, Any], tables: Mapping[str, Table]) -> Iterator[str]:
    """Yield what the parts themselves say of their parameters."""
    yield from _wrong_at_top(said[""])
    for group, what in (("features", "column group"), ("members", "member")):
        if not any(name.startswith(group) and table.get("on", True) for name, table in said.items()):
            yield f"[{group}]: at least one {what} must be on"
    for name, values in said.items():
        if tables[name].target is None or name == "labels":  # a label says so itself, when it sees the bars
            continue
        try:
            yield from _refused(name, values, tables[name])
        except ValueError as error:
            yield f"[{name}] {_first(error)}"
    columns = said.get("selector", {}).get("columns", ["any"])
    if not columns or not all(isinstance(column, str) for column in columns):
        yield f"[selector] columns must be names of columns; got {_shown(columns)}"
    for network in said.get("members.fusion", {}).get("networks", []):
        fits = isinstance(network, str) and f"members.{network}" in tables and network not in ("fusion", "lightgbm")
        if not fits:
            yield f"[members.fusion] networks must be of the networks among the members; got {network!r}"


def _wrong_at_top(top: Mapping[str, Any]) -> Iterator[str]:
    if top.get("threads", 1) < 1:
        yield f"threads must be at least 1; got {top['threads']}"
    if not 0 <= top.get("seed", 0) < 2**32:
        yield f"seed must be from 0 to 4294967295; got {top['seed']}"
    holdout = top.get("holdout", 0.2)
    if isinstance(holdout, str) and holdout != "none" and length_or_day(holdout) is None:
        yield f'holdout must be a share, a length such as "30D" or a day such as "2024-05-01"; got {holdout!r}'
    if not isinstance(holdout, str) and not 0 < holdout < 1:
        yield f"holdout must be a share between 0 and 1; got {holdout}"


def length_or_day(text: str) -> pd.Timedelta | pd.Timestamp | None:
    """Return what a word means: how long, or from when on.

    Parameters
    ----------
    text : str
        As ``"30D"`` or ``"2024-05-01"``.

    Returns
    -------
    Timedelta, Timestamp or None
        None where it means neither.
    """
    for kind in (pd.Timedelta, pd.Timestamp):
        try:
            return kind(text)
        except ValueError:
            continue
    return None


def _refused(name: str, values: Mapping[str, Any], table: Table) -> Iterator[str]:
    part = make(table, values, estimators=[], purge=0)
    if hasattr(part, "_check_parameters"):
        part._check_parameters()  # noqa: SLF001 - a sibling
    domains: dict[str, Any] = {}
    for cls in reversed(type(part).__mro__):
        domains |= cls.__dict__.get("_domains", {})
    for key in [key for key in values if key in domains]:
        words, holds = domains[key]
        if not holds(getattr(part, key)):
            yield f"{_at(name, key)} must be {words}; got {_shown(values[key])}"


def _first(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".").replace("`", "")


def _complete(said: Mapping[str, Any], tables: Mapping[str, Table]) -> dict[str, Any]:
    """Fill in the keys that have a default, in the order of the tables; members that are not named are off."""
    settings: dict[str, Any] = {}
    for name, table in tables.items():
        group, _, inner = name.partition(".")
        if inner and name not in said:
            continue
        defaults = {key: key_.default for key, key_ in table.keys.items() if key_.default is not Parameter.empty}
        values = {key: said.get(name, {}).get(key, default) for key, default in defaults.items()}
        values |= said.get(name, {})
        if inner:
            settings.setdefault(group, {})[inner] = values
        elif name:
            settings[name] = values
        else:
            settings |= values
    return settings
