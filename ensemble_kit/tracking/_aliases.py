"""The names of versions (champion, challenger, previous champion), and the record of how they came by them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

import mlflow
import pandas as pd
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE, RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.tracking.context.registry import resolve_tags
from mlflow.utils.mlflow_tags import MLFLOW_USER

from ensemble_kit.exceptions import TrackingError

__all__ = [
    "ABOUT",
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS",
    "aliases_of",
    "check_alias",
    "crown",
    "give",
    "known_version",
    "known_versions",
    "record",
    "recorded",
    "step_back",
    "welcome",
]

_NO_SUCH_NAME = {ErrorCode.Name(code) for code in (RESOURCE_DOES_NOT_EXIST, INVALID_PARAMETER_VALUE)}
#: The alias that names the version in use.
CHAMPION = "champion"
#: The alias of the version that would like to be.
CHALLENGER = "challenger"
#: The alias of the version that `roll_back` returns to.
PREVIOUS = "previous_champion"
#: Of a model's card, written as tags when a version is registered: listing versions needs no file.
ABOUT = ("preset", "first_training_bar", "last_training_bar", "holdout_start", "holdout_end")
#: Tag of a champion: the version it came after. A chain, so that one can go back more than once.
_REPLACED = "replaced"
#: An event is a tag of its own, `history.<time>`: two writers never overwrite each other's.
_EVENT = "history."


def aliases_of(name: str) -> dict[str, int]:
    """Return a registered model's aliases and their versions; a `TrackingError` where there is no such model."""
    client = mlflow.MlflowClient()
    try:
        return {alias: int(version) for alias, version in client.get_registered_model(name).aliases.items()}
    except MlflowException as error:
        if error.error_code not in _NO_SUCH_NAME:
            raise TrackingError(
                f"`tracking_uri` must be a store that answers; got {mlflow.get_tracking_uri()} "
                f"({str(error).splitlines()[0][:200]}). Take sqlite:///mlflow.db, or start the server."
            ) from error
        known = sorted(model.name for model in client.search_registered_models())
        raise TrackingError(
            f"`name` must be a registered model; got {name!r} ({str(error).splitlines()[0]}). "
            f"Registered at {mlflow.get_tracking_uri()}: {', '.join(known) or 'none'}. Train one with "
            "`ensemble-kit train`."
        ) from None


def known_versions(name: str) -> dict[int, ModelVersion]:
    """Return the versions of a registered model, the oldest first."""
    aliases_of(name)
    quote = '"' if "'" in name else "'"
    found = mlflow.MlflowClient().search_model_versions(f"name = {quote}{name}{quote}")
    return {int(one.version): one for one in sorted(found, key=lambda one: int(one.version))}


def known_version(name: str, version: int | str) -> int:
    """Return the number of a version given by number or alias; a `TrackingError` where there is none."""
    aliases = aliases_of(name)
    wanted = aliases.get(str(version), version)
    have = list(known_versions(name))
    if wanted in have:
        return int(wanted)
    named = ", ".join(f"{alias} ({number})" for alias, number in sorted(aliases.items()))
    raise TrackingError(
        f"`version` must be a version of {name}: {', '.join(map(str, have)) or 'none yet'}, or an alias: "
        f"{named or 'none yet'}; got {version!r}."
    )


def give(name: str, alias: str, version: int) -> None:
    """Let an alias name a version."""
    client = mlflow.MlflowClient()
    try:
        client.set_registered_model_alias(name, alias, str(version))
    except MlflowException:
        # Another process may have made the alias between MLflow's look and its insert: now it is there to be moved.
        client.set_registered_model_alias(name, alias, str(version))


def crown(name: str, version: int, *, over: int | None, event: Mapping[str, Any]) -> None:
    """Make a version the champion after `over`, and write down why.

    The champion is looked up once more, and the record is written first: what is cut off in
    between leaves a record without a champion, never a champion without a record.
    """
    client = mlflow.MlflowClient()
    if (now := aliases_of(name).get(CHAMPION)) != over:
        raise TrackingError(
            f"`name` must have the champion that was compared; {name}'s was version {over} and is {now} by now. "
            "Compare with that one."
        )
    record(name, version, over=over, **event)
    if over is not None:
        client.set_model_version_tag(name, str(version), _REPLACED, str(over))
        give(name, PREVIOUS, over)
    give(name, CHAMPION, version)
    if aliases_of(name).get(CHALLENGER) == version:
        client.delete_registered_model_alias(name, CHALLENGER)


def check_alias(alias: str | None) -> None:
    """Refuse what a new version cannot be called."""
    if alias not in {None, CHAMPION, CHALLENGER}:
        raise TrackingError(f"`alias` must be None, {CHAMPION!r} or {CHALLENGER!r}; got {alias!r}.")


def welcome(name: str, version: int, alias: str | None) -> None:
    """Name a new version: as asked, or champion where there is none, and challenger where there is one."""
    champion = aliases_of(name).get(CHAMPION)
    if alias == CHAMPION or (alias is None and champion is None):
        crown(name, version, over=champion, event={"event": "registered", "why": "as champion"})
        if alias is None and aliases_of(name).get(CHAMPION) != version:  # another first version came in between
            record(name, version, event="registered", why="as challenger: another version became champion first")
            give(name, CHALLENGER, version)
    else:
        give(name, CHALLENGER if alias is None else alias, version)


def step_back(name: str, *, why: str, to: int | None = None) -> int:
    """Return the champion's name to the version before it, or to another one that is named, which is returned."""
    client = mlflow.MlflowClient()
    aliases = aliases_of(name)
    now, previous = aliases.get(CHAMPION), aliases.get(PREVIOUS) if to is None else known_version(name, to)
    if previous is None or previous == now:
        raise TrackingError(
            f"`name` must have a champion before the present one to go back to; {name} has none "
            f"(champion: {'none' if now is None else f'version {now}'}). Promote another version."
        )
    record(name, previous, event="rolled back", over=now, why=why)
    give(name, CHAMPION, previous)
    # The version that is left came after nothing any more, or two versions could be each other's way back.
    if now is not None and _REPLACED in client.get_model_version(name, str(now)).tags:
        client.delete_model_version_tag(name, str(now), _REPLACED)
    before = client.get_model_version(name, str(previous)).tags.get(_REPLACED)
    if before is None:
        if PREVIOUS in aliases:
            client.delete_registered_model_alias(name, PREVIOUS)
    else:
        give(name, PREVIOUS, int(before))
    return previous


def record(name: str, version: int, **event: Any) -> None:
    """Write an event down with a version, for good."""
    now = datetime.now(UTC)
    entry = {"at": now.isoformat(), "by": resolve_tags().get(MLFLOW_USER, "unknown"), **event}
    key = f"{_EVENT}{now:%Y%m%dT%H%M%S.%fZ}"
    mlflow.MlflowClient().set_model_version_tag(name, str(version), key, json.dumps(entry))


def recorded(name: str) -> pd.DataFrame:
    """Return the events of all versions of a model, the oldest first."""
    events = [
        {"version": version, **json.loads(value)}
        for version, one in known_versions(name).items()
        for key, value in one.tags.items()
        if key.startswith(_EVENT)
    ]
    frame = pd.DataFrame(
        events, columns=list(dict.fromkeys(["at", "event", "version", "over", "by", "why", *_keys(events)]))
    )
    frame["at"] = pd.to_datetime(frame["at"], utc=True, format="ISO8601")
    return frame.astype({"over": "Int64"}).sort_values("at", kind="stable", ignore_index=True)


def _keys(events: list[dict[str, Any]]) -> list[str]:
    return [key for event in events for key in event]
