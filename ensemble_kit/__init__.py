"""Walk-forward ensembles of market models that cannot leak, with calibrated sizes.

Bars go one way: `features` and `labels`, `estimators`, `ensemble` (with `validation` and
`calibration`), `sizing`, `reports` and `tracking`. The names below are imported when they
are first used, so importing the package loads neither torch nor MLflow.
"""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble_kit.calibration import TemperatureScaling
    from ensemble_kit.datasets import make_bars, read_bars
    from ensemble_kit.ensemble import WalkForwardVotingClassifier
    from ensemble_kit.estimators import (
        CNNClassifier,
        ExpectedCostClassifier,
        FusionClassifier,
        InformerClassifier,
        LGBMWindowClassifier,
        LSTMAttentionClassifier,
        LSTMGRUClassifier,
        LuTransformerClassifier,
        SequenceClassifier,
        SequenceRegressor,
        TransformerClassifier,
        WaveTransformerRegressor,
    )
    from ensemble_kit.experiments import Experiment
    from ensemble_kit.features import (
        Alpha158,
        CrossSectionalScaler,
        ExternalFeatures,
        ICTFeatures,
        IndicatorFeatures,
        MicrostructureFeatures,
        RelevanceRedundancySelector,
        SessionFeatures,
    )
    from ensemble_kit.labels import buy_sell_hold, next_direction, peak_slope_bottom, triple_barrier
    from ensemble_kit.metrics import permutation_importance, skill_test
    from ensemble_kit.resampling import as_known, dollar_bars, resample, volume_bars
    from ensemble_kit.sizing import KellySizer, SizedClassifier
    from ensemble_kit.sizing.backtest import backtest
    from ensemble_kit.validation import WalkForwardSplit, check_no_lookahead, lookback, walk_forward_predict
    from ensemble_kit.waves import extract_waves, wave_features, wave_targets

__version__ = version("ensemble-kit")

__all__ = [
    "Alpha158",
    "CNNClassifier",
    "CrossSectionalScaler",
    "ExpectedCostClassifier",
    "Experiment",
    "ExternalFeatures",
    "FusionClassifier",
    "ICTFeatures",
    "IndicatorFeatures",
    "InformerClassifier",
    "KellySizer",
    "LGBMWindowClassifier",
    "LSTMAttentionClassifier",
    "LSTMGRUClassifier",
    "LuTransformerClassifier",
    "MicrostructureFeatures",
    "RelevanceRedundancySelector",
    "SequenceClassifier",
    "SequenceRegressor",
    "SessionFeatures",
    "SizedClassifier",
    "TemperatureScaling",
    "TransformerClassifier",
    "WalkForwardSplit",
    "WalkForwardVotingClassifier",
    "WaveTransformerRegressor",
    "as_known",
    "backtest",
    "buy_sell_hold",
    "check_no_lookahead",
    "dollar_bars",
    "extract_waves",
    "lookback",
    "make_bars",
    "next_direction",
    "peak_slope_bottom",
    "permutation_importance",
    "read_bars",
    "resample",
    "skill_test",
    "triple_barrier",
    "volume_bars",
    "walk_forward_predict",
    "wave_features",
    "wave_targets",
]

_ROOMS = {
    "calibration": ("TemperatureScaling",),
    "datasets": ("make_bars", "read_bars"),
    "ensemble": ("WalkForwardVotingClassifier",),
    "estimators": (
        "CNNClassifier",
        "ExpectedCostClassifier",
        "FusionClassifier",
        "InformerClassifier",
        "LGBMWindowClassifier",
        "LSTMAttentionClassifier",
        "LSTMGRUClassifier",
        "LuTransformerClassifier",
        "SequenceClassifier",
        "SequenceRegressor",
        "TransformerClassifier",
        "WaveTransformerRegressor",
    ),
    "experiments": ("Experiment",),
    "features": (
        "Alpha158",
        "CrossSectionalScaler",
        "ExternalFeatures",
        "ICTFeatures",
        "IndicatorFeatures",
        "MicrostructureFeatures",
        "RelevanceRedundancySelector",
        "SessionFeatures",
    ),
    "labels": ("buy_sell_hold", "next_direction", "peak_slope_bottom", "triple_barrier"),
    "metrics": ("permutation_importance", "skill_test"),
    "resampling": ("as_known", "dollar_bars", "resample", "volume_bars"),
    "sizing": ("KellySizer", "SizedClassifier", "backtest"),
    "validation": ("WalkForwardSplit", "check_no_lookahead", "lookback", "walk_forward_predict"),
    "waves": ("extract_waves", "wave_features", "wave_targets"),
}
_ROOM_OF = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in _ROOM_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_ROOM_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
