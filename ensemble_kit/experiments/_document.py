"""Changing a TOML text without touching what is not changed, its comments above all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tomlkit

__all__ = ["rewritten"]

#: A list longer than this has a line for each of its words.
_LINE = 80


def rewritten(text: str, settings: Mapping[str, Any]) -> str:
    """Return a TOML text with these values, comments and order as they were.

    Parameters
    ----------
    text : str
        Valid TOML.
    settings : mapping
        Tables and values; what the text has and these have not goes.

    Returns
    -------
    str
        Valid TOML that reads as `settings`.
    """
    document = tomlkit.parse(text)
    _change(document, settings)
    return tomlkit.dumps(document)


def _change(table: Any, settings: Mapping[str, Any]) -> None:
    now = table.unwrap()
    for key in [key for key in now if key not in settings]:
        del table[key]
    for key, value in settings.items():
        if isinstance(value, Mapping) and _is_table(table.get(key)):
            _change(table[key], value)
        elif isinstance(value, Mapping) and key not in table and any(isinstance(v, Mapping) for v in value.values()):
            table[key] = value
        elif key not in now or now[key] != value or type(now[key]) is not type(value):
            table[key] = _item(value, inline=key in now or not _is_new_table(table, value))


def _is_table(item: Any) -> bool:
    return isinstance(item, tomlkit.items.Table | tomlkit.container.OutOfOrderTableProxy)


def _is_new_table(table: Any, value: Any) -> bool:
    """Whether a missing mapping is one of the file's tables: those stand at the top, or below a table of tables."""
    return isinstance(value, Mapping) and (isinstance(table, tomlkit.TOMLDocument) or "on" in value)


def _item(value: Any, *, inline: bool) -> Any:
    if isinstance(value, Mapping) and inline:
        item = tomlkit.inline_table()
        item.update(value)
        return item
    if isinstance(value, list) and len(str(value)) > _LINE:
        lines = tomlkit.array()
        lines.extend(value)
        return lines.multiline(multiline=True)
    return tomlkit.item(value)
