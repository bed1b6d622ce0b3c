"""An experiment: what is trained, on what, and how, as one file that people read."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from inspect import signature
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.experiments._build import Builder, as_session
from ensemble_kit.experiments._checks import checked, length_or_day
from ensemble_kit.experiments._document import rewritten
from ensemble_kit.experiments._page import PAGE
from ensemble_kit.experiments._parts import plain_value, tables_of
from ensemble_kit.experiments.presets import PRESETS
from ensemble_kit.labels import Labels, label_bars
from ensemble_kit.sessions import Session, check_daily_times
from ensemble_kit.sizing import Costs, SizedClassifier
from ensemble_kit.validation import WalkForwardSplit

__all__ = ["Experiment"]

IntArray = NDArray[np.int64]
#: Bars enough for features to say what they will be called.
_FEW = 200


@dataclass(frozen=True)
class Experiment:
    """Bars, labels, columns, members, folds and sizes of a model, as one TOML file has them.

    Read one, take a preset, or change one with `replace`: all of them are checked and complete.

    Attributes
    ----------
    settings : dict
        The file's tables and values, defaults filled in.
    text : str
        The file's text, comments and all; what it leaves out has its default.
    folder : Path
        Where the file lies, from which the bars' path starts.

    See Also
    --------
    ensemble_kit.sizing.SizedClassifier : What `model` returns.

    Notes
    -----
    Keys of features, members, calibration, vote, folds, sizing and costs are parameters of the
    classes that they describe, and are checked against those. What a label looks ahead, seeds and
    threads reach all members from one place, and are no keys of theirs.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.experiments import Experiment
    >>> experiment = Experiment.default("smoke").replace({"labels.w": 12, "name": "SPY"})
    >>> labels = experiment.labels(make_bars(500, random_state=0))
    >>> experiment.model(labels).lookback
    75
    """

    settings: dict[str, Any]
    text: str = field(compare=False, repr=False)
    folder: Path = field(default=Path(), compare=False)

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Read a file.

        Parameters
        ----------
        path : str or Path
            TOML.

        Returns
        -------
        Experiment
            Checked and complete.

        Raises
        ------
        EnsembleKitError
            If it is no TOML; or naming every unknown table and key, wrong type and value.
        OSError
            If it cannot be read.
        """
        path = Path(path)
        try:
            text = path.read_text(encoding="utf-8")
            settings = tomllib.loads(text)
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise EnsembleKitError(f"`{path}` must be a TOML file; got another ({error}). Mend that line.") from None
        return cls._of(settings, text, path.parent, path.name)

    @classmethod
    def default(cls, preset: str = "small") -> Self:
        """Return an experiment by size.

        Parameters
        ----------
        preset : {"smoke", "small", "full"}, default="small"
            How large.

        Returns
        -------
        Experiment
            With a text that explains each key.

        Raises
        ------
        EnsembleKitError
            If there is no such preset.
        """
        if preset not in PRESETS:
            raise EnsembleKitError(f"`preset` must be one of {', '.join(PRESETS)}; got {preset!r}.")
        return cls._of(tomllib.loads(PAGE), PAGE, Path(), preset).replace(PRESETS[preset])

    @classmethod
    def _of(cls, settings: Mapping[str, Any], text: str, folder: Path, name: str) -> Self:
        return cls(checked(_without_dates(settings), name), text, folder)

    def replace(self, changes: Mapping[str, Any]) -> Self:
        """Return the experiment with other values.

        Parameters
        ----------
        changes : mapping
            Values by dotted key, such as ``{"labels.w": 12, "seed": 1}``.

        Returns
        -------
        Experiment
            Another one, checked; comments are kept.

        Raises
        ------
        EnsembleKitError
            As `read`.
        """
        settings = _without_dates(tomllib.loads(self.text))
        for key, value in changes.items():
            *tables, last = key.split(".")
            at = settings
            for table in tables:
                at = at.setdefault(table, {})
            at[last] = value
        return self._of(settings, rewritten(self.text, settings), self.folder, "experiment")

    def write(self, path: str | Path) -> None:
        """Write the file.

        Parameters
        ----------
        path : str or Path
            Replaced if it is there: whoever reads it meanwhile gets the old one or the new one.
        """
        path = Path(path)
        half = path.with_name(f".{path.name}.{os.getpid()}")
        half.write_text(self.text, encoding="utf-8")
        half.replace(path)

    @property
    def complete_text(self) -> str:
        """The text with the defaults of this version filled in: for the record."""
        return rewritten(self.text, self.settings)

    # ------------------------------------------------------------------ what it says

    @property
    def name(self) -> str:
        """Name of the registered model and its runs."""
        return str(self.settings["name"])

    @property
    def session(self) -> str | Session:
        """When the market is open, for features and labels."""
        return as_session(self.settings["session"])

    @property
    def costs(self) -> Costs:
        """What trading costs."""
        return Costs(**{name: float(value) for name, value in self.settings["costs"].items()})

    @property
    def file(self) -> Path:
        """Where the bars lie."""
        return self.folder / self.settings["bars"]["file"]

    @property
    def tz(self) -> str | None:
        """Time zone of naive times in the file of bars."""
        tz = self.settings["bars"]["tz"]
        return None if tz == "none" else str(tz)

    # ------------------------------------------------------------------ what it makes

    def labels(self, bars: pd.DataFrame) -> Labels:
        """Label bars as the experiment says.

        Parameters
        ----------
        bars : DataFrame of shape (n, n_columns)
            Of one instrument or a panel.

        Returns
        -------
        Labels
            With the definition that goes with the model.

        Raises
        ------
        EnsembleKitError
            If the bars are too few or of another size, or a parameter of the labels is wrong.
        """
        self._check_size(bars)
        check_daily_times(bars.index, self.session)
        said = dict(self.settings["labels"])
        function = tables_of(self.settings)["labels"].target
        parameters = signature(function).parameters
        definition = {"label": said.pop("function")}
        definition |= {name: plain_value(value, parameters[name]) for name, value in said.items()}
        if "session" in parameters:
            definition["session"] = self.settings["session"]
        return label_bars(bars, definition)

    def _check_size(self, bars: pd.DataFrame) -> None:
        wanted = self.settings["bars"]["size"]
        if wanted == "none":
            return
        times = pd.DatetimeIndex(bars.index.get_level_values(0).unique())
        size = pd.Series(times).diff().mode()
        if len(size) == 0 or size.iloc[0] != pd.Timedelta(wanted):
            raise EnsembleKitError(
                f"`bars` must be of {wanted}, as [bars] size says; got bars of {size.iloc[0] if len(size) else None}. "
                "Resample them, or change the key."
            )

    def split(self, bars: pd.DataFrame, labels: Labels) -> tuple[IntArray, IntArray]:
        """Return the rows that train, whose labels were known before the holdout, and the holdout.

        Parameters
        ----------
        bars : DataFrame of shape (n, n_columns)
            All bars.
        labels : Labels
            Theirs.

        Returns
        -------
        train, held : ndarray of int64
            Positions of rows. ``holdout = "none"`` holds nothing back.

        Raises
        ------
        EnsembleKitError
            If no row is left on either side.
        """
        holdout = self.settings["holdout"]
        if holdout == "none":
            return np.flatnonzero(labels.known), np.empty(0, dtype=np.int64)
        since = length_or_day(holdout) if isinstance(holdout, str) else None
        if isinstance(since, pd.Timestamp):
            times = pd.DatetimeIndex(bars.index.get_level_values(0).unique())
            first = since.tz_localize(times.tz) if since.tz is None else since.tz_convert(times.tz)
            holdout = int((times >= first).sum())
            if not 0 < holdout < len(times):
                raise EnsembleKitError(
                    f"`holdout` must begin inside the bars, {times[0]} to {times[-1]}; got {since}. Take another day."
                )
        train, held = next(WalkForwardSplit(1, t1=labels.t1, test_size=holdout).split(bars))
        if not isinstance(bars.index, pd.MultiIndex):
            # Where labels end at a touch, rows behind the first that is purged moved quickly: bars with holes, and no
            # fair sample.
            train = train[train == np.arange(len(train)) + train[0]]
        return train, held

    def model(self, labels: Labels, *, memory: str | Path | None = None) -> SizedClassifier:
        """Build the unfitted model: features, members, vote and sizer.

        Parameters
        ----------
        labels : Labels
            Of the training bars, or of more: their `t1` purges the folds, how far they look the
            early stopping.
        memory : str or Path, default=None
            Folder that keeps fitted member-folds, so that an interrupted fit resumes.

        Returns
        -------
        SizedClassifier
            To be fitted on bars.
        """
        return self._builder().model(labels, memory)

    def check_columns(self, bars: pd.DataFrame) -> None:
        """Check that the columns which the file keeps are among those that the features have.

        Parameters
        ----------
        bars : DataFrame of shape (n, n_columns)
            Any of the bars to train on; the first few are looked at.

        Raises
        ------
        EnsembleKitError
            Naming all that are not.
        """
        kept = self.settings["selector"].get("columns", []) if self.settings["selector"]["on"] else []
        if not kept:
            return
        known = set(self.columns()[0].fit(bars.iloc[:_FEW]).get_feature_names_out())
        if missing := [name for name in kept if name not in known]:
            raise EnsembleKitError(
                f"[selector] columns must name columns of the features that are on; got {', '.join(missing)}. "
                "Take them out, or choose anew with `train --select-features`."
            )

    def columns(self) -> tuple[Any, Any]:
        """Return what computes the columns, and what chooses among them.

        Returns
        -------
        features : FeatureUnion
            The groups that are on, unfitted.
        selector : RelevanceRedundancySelector
            Unfitted.
        """
        builder = self._builder()
        return builder.features(), builder.selector()

    def keys(self, labels: Labels) -> dict[str, str]:
        """Return which key of the file sets which parameter of the model.

        Parameters
        ----------
        labels : Labels
            As for `model`.

        Returns
        -------
        dict of str to str
            Dotted keys, as `replace` takes them, by the names that ``model(labels).get_params()``
            has. Parameters that the file cannot set for one part alone (the selectors', those of
            networks in a fusion) are not among them.
        """
        builder = self._builder()
        return builder.keys(builder.model(labels, None))

    def _builder(self) -> Builder:
        return Builder(self.settings, tables_of(self.settings))


def _without_dates(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings in which days are words: TOML has a type for them, JSON has not."""
    return {
        key: _without_dates(value) if isinstance(value, Mapping) else str(value) if isinstance(value, date) else value
        for key, value in settings.items()
    }
