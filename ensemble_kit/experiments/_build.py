"""From settings to the unfitted model, and back from its parameters to the keys of the file."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import RobustScaler

from ensemble_kit.bars import instrument_codes
from ensemble_kit.estimators import LGBMWindowClassifier
from ensemble_kit.experiments._parts import FEATURES, Table, make
from ensemble_kit.labels import Labels
from ensemble_kit.sessions import Session
from ensemble_kit.sizing import SizedClassifier

__all__ = ["Builder", "look_ahead"]


def look_ahead(labels: Labels) -> int:
    """Return how many later bars of its instrument a label looks at, at most.

    Parameters
    ----------
    labels : Labels
        Of any bars.

    Returns
    -------
    int
        Bars.
    """
    index = labels.t1.index
    times, codes = index.get_level_values(0), instrument_codes(index)[0]
    farthest = 0
    for code in np.unique(codes):
        rows = codes == code
        own = times[rows]
        known = labels.known[rows]
        ends = own.searchsorted(labels.t1[rows][known])
        farthest = max(farthest, int((ends - np.flatnonzero(known)).max(initial=0)))
    return farthest


class Builder:
    """Builds the parts of a model, and remembers which table each of them came from.

    Parameters
    ----------
    settings : mapping
        Complete and checked.
    tables : dict of str to Table
        What `tables_of` gives for them.
    """

    def __init__(self, settings: Mapping[str, Any], tables: Mapping[str, Table]) -> None:
        self.settings, self.tables = settings, tables
        self.session = as_session(settings["session"])
        self._made: list[tuple[str, Any]] = []

    def part(self, name: str, **ours: Any) -> Any:
        """Build the part of a table.

        Parameters
        ----------
        name : str
            Of the table.
        **ours : object
            What the experiment sets.

        Returns
        -------
        object
            Unfitted.
        """
        made = make(self.tables[name], self._said(name), **ours)
        self._made.append((name, made))
        return made

    def _said(self, name: str) -> Mapping[str, Any]:
        group, _, inner = name.partition(".")
        said: Mapping[str, Any] = self.settings[group][inner] if inner else self.settings[group]
        return said

    def model(self, labels: Labels, memory: str | Path | None) -> SizedClassifier:
        """Build features, members, vote and sizer.

        Parameters
        ----------
        labels : Labels
            Their `t1` purges the folds, their reach the early stopping.
        memory : str, Path or None
            Where fitted member-folds are kept.

        Returns
        -------
        SizedClassifier
            Unfitted.
        """
        cv = make(self.tables["folds"], self.settings["folds"], t1=labels.t1)
        members = [(name, self._member(name, labels)) for name, said in self.settings["members"].items() if said["on"]]
        method = self.settings["calibration"]["method"]
        calibrator = None if method == "none" else self.part("calibration")
        vote = self.part("vote", estimators=members, cv=cv, calibrator=calibrator, memory=memory)
        kept = self.settings["selector"].get("columns") if self.settings["selector"]["on"] else None
        # By name: which columns were kept does not depend on where they stand.
        keep = (
            [ColumnTransformer([("kept", "passthrough", list(kept))], verbose_feature_names_out=False)] if kept else []
        )
        return SizedClassifier(make_pipeline(self.features(), *keep, vote), self.part("sizing"))

    def features(self) -> Any:
        """Return the union of the column groups that are on.

        Returns
        -------
        FeatureUnion
            Unfitted.
        """
        on = [name for name in FEATURES if self.settings["features"].get(name, {}).get("on", False)]
        return make_union(*(self.part(f"features.{name}", session=self.session) for name in on))

    def selector(self) -> Any:
        """Return a selector of columns.

        Returns
        -------
        RelevanceRedundancySelector
            Unfitted.
        """
        return make(self.tables["selector"], self.settings["selector"], random_state=self.settings["seed"])

    def _member(self, name: str, labels: Labels) -> Any:
        model = self._network(name, labels) if name != "fusion" else self._fusion(labels)
        choose = self.settings["selector"]["on"] and not self.settings["selector"].get("columns")
        front = [self.selector()] if choose else []
        if isinstance(model, LGBMWindowClassifier):
            return make_pipeline(*front, model) if front else model
        # What is not known becomes the training median, which the scaler then makes 0; a column that
        # is never known (no vwap, no volume) becomes 0 without a word.
        median = SimpleImputer(strategy="median", keep_empty_features=True)
        return make_pipeline(*front, median, RobustScaler(), model)

    def _network(self, name: str, labels: Labels, **more: Any) -> Any:
        return self.part(
            f"members.{name}",
            # Stop rows lie behind the fit rows by all that a label looks ahead.
            validation_purge=look_ahead(labels),
            n_threads=self.settings["threads"],
            random_state=self.settings["seed"],
            **more,
        )

    def _fusion(self, labels: Labels) -> Any:
        names = self.settings["members"]["fusion"]["networks"]
        # Their tables are of members by the same names: these here are nobody's to tune.
        parts = [(name, make(self.tables[f"members.{name}"], self.settings["members"].get(name, {}))) for name in names]
        return self._network("fusion", labels, estimators=parts)

    def keys(self, model: Any) -> dict[str, str]:
        """Return which key of the file sets a parameter.

        Parameters
        ----------
        model : SizedClassifier
            What `model` of this builder returned.

        Returns
        -------
        dict of str to str
            Dotted keys by the names of `get_params`.
        """
        fusion = self.settings["members"].get("fusion", {"on": False})
        # A table that a fusion reads, too, sets two parameters.
        shared = {f"members.{name}" for name in fusion["networks"]} if fusion["on"] else set()
        tables = {id(part): name for name, part in self._made if name not in shared}
        return {
            f"{path}__{key}": f"{tables[id(part)]}.{key}"
            for path, part in model.get_params(deep=True).items()
            if id(part) in tables
            for key in part.get_params(deep=False)
            if key in self.tables[tables[id(part)]].keys
        }


def as_session(value: Any) -> str | Session:
    """Return a session as the parts take it.

    Parameters
    ----------
    value : str or mapping
        As the file has it.

    Returns
    -------
    str or Session
        A word, or hours.
    """
    return Session(**value) if isinstance(value, Mapping) else value
