"""Ready-made models: the whole way from bars to positions, by size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline, make_union
from sklearn.preprocessing import RobustScaler

from ensemble_kit.ensemble import WalkForwardVotingClassifier
from ensemble_kit.estimators import LGBMWindowClassifier, LSTMGRUClassifier
from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.features import Alpha158, SessionFeatures
from ensemble_kit.labels import Labels
from ensemble_kit.sessions import Session
from ensemble_kit.sizing import KellySizer, SizedClassifier
from ensemble_kit.validation import WalkForwardSplit

__all__ = ["PRESETS", "Preset", "make_model"]


@dataclass(frozen=True)
class Preset:
    """How large a model is.

    Attributes
    ----------
    seq_len : int
        Bars a window.
    hidden_size : int
        Width of the networks.
    max_epochs : int
        Passes over the training rows, at most.
    n_estimators : int
        Boosting rounds.
    horizons : int
        Horizons learned together.
    """

    seq_len: int
    hidden_size: int
    max_epochs: int
    n_estimators: int
    horizons: int


#: `smoke` shows that everything runs, in a minute; `small` is the least worth looking at.
PRESETS = {
    "smoke": Preset(seq_len=16, hidden_size=16, max_epochs=6, n_estimators=60, horizons=1),
    "small": Preset(seq_len=48, hidden_size=32, max_epochs=8, n_estimators=200, horizons=1),
}


def make_model(
    preset: str,
    labels: Labels,
    *,
    session: str | Session = "day",
    memory: str | Path | None = None,
    n_threads: int = 1,
    random_state: int = 0,
) -> SizedClassifier:
    """Build the unfitted main model: features, members, vote and sizer.

    Parameters
    ----------
    preset : str
        One of `PRESETS`.
    labels : Labels
        Of the training bars: their `t1` purges the folds, their window the early stopping.
    session : str or Session, default="day"
        For the time of day, as in `sessions.session_times`.
    memory : str or Path, default=None
        Folder that keeps fitted member-folds, so that an interrupted fit resumes.
    n_threads : int, default=1
        Threads a member; another number gives other bits.
    random_state : int, default=0
        Seed of every member.

    Returns
    -------
    SizedClassifier
        To be fitted on bars.

    Raises
    ------
    EnsembleKitError
        If there is no such preset.

    Examples
    --------
    >>> from ensemble_kit.datasets import make_bars
    >>> from ensemble_kit.labels import peak_slope_bottom
    >>> from ensemble_kit.presets import make_model
    >>> make_model("smoke", peak_slope_bottom(make_bars(500, random_state=0))).lookback
    75
    """
    if preset not in PRESETS:
        raise EnsembleKitError(f"`preset` must be one of {', '.join(PRESETS)}; got {preset!r}.")
    size = PRESETS[preset]
    # Stop rows lie behind the fit rows by all that a label looks ahead.
    purge = int(labels.definition["w"] + labels.definition["horizons"] - 1)
    shared: dict[str, Any] = {
        "seq_len": size.seq_len,
        "validation_fraction": 0.15,
        "validation_purge": purge,
        "n_threads": n_threads,
        "random_state": random_state,
    }
    network = LSTMGRUClassifier(
        hidden_size=size.hidden_size, max_epochs=size.max_epochs, batch_size=64, learning_rate=3e-3, **shared
    )
    # Alpha158 looks back 60 bars itself: on two years of SPY 5-minute bars, trees on blocks of the last
    # 48 rows scored 0.126 out of fold, trees on the last row 0.150 (mean AUC-PR), at a twentieth of the cost.
    trees = LGBMWindowClassifier(n_estimators=size.n_estimators, **shared | {"seq_len": 1})
    # What is not known becomes the training median, which the scaler then makes 0; a column that
    # is never known (no vwap, no volume) becomes 0 without a word.
    median = SimpleImputer(strategy="median", keep_empty_features=True)
    vote = WalkForwardVotingClassifier(
        [("lstm_gru", make_pipeline(median, RobustScaler(), network)), ("lightgbm", trees)],
        cv=WalkForwardSplit(3, t1=labels.t1),
        events=["peak", "bottom"],
        memory=memory,
    )
    features = make_union(Alpha158(), SessionFeatures(session))
    return SizedClassifier(make_pipeline(features, vote), KellySizer())
