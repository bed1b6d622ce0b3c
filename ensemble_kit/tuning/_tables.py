"""What may be tuned of each class, from where to where, and why there: data only.

A class inherits the rows of its bases and may replace them. Every combination of values is one
that the class accepts: widths are multiples of all heads beside them, so that no draw of a study
is lost and every parameter can be drawn on its own.
"""

from __future__ import annotations

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

__all__ = ["OWN_TRAINING", "TABLES"]


def _whole(low: int, high: int, *, step: int = 1, log: bool = False) -> BaseDistribution:
    return IntDistribution(low, high, step=step, log=log)


def _real(low: float, high: float, *, log: bool = False) -> BaseDistribution:
    return FloatDistribution(low, high, log=log)


def _one_of(*choices: bool | int | float | str | None) -> BaseDistribution:
    return CategoricalDistribution(choices)


_WIDTH = _whole(32, 128, step=32)  # a multiple of all of:
_HEADS = _one_of(2, 4, 8)

#: By the name of the class, its own rows only.
TABLES: dict[str, dict[str, BaseDistribution]] = {
    # ---------------------------------------------------------------- networks
    "SequenceEstimator": {
        "seq_len": _whole(8, 96, step=8),  # a session of 5-minute bars has 78, and costs grow with it
        "dropout": _real(0.0, 0.5),  # Srivastava et al. (2014): 0.5 is the strongest useful for hidden states
        "learning_rate": _real(1e-4, 1e-2, log=True),  # a decade to each side of Adam's 0.001
        "weight_decay": _real(1e-5, 1e-1, log=True),  # around AdamW's 0.01; log-uniform, Loshchilov and Hutter (2019)
        "batch_size": _one_of(64, 128, 256),
    },
    # Another loss, cost matrix or class weight asks another question: it is chosen, not tuned. On SPY 5-minute bars,
    # balanced classes won a study by AUC-PR, which cannot see that their probabilities are no shares: log-loss on the
    # holdout was worse by 0.12, and the positions lost 4 %.
    "SequenceClassifier": {},
    "LSTMGRUClassifier": {"hidden_size": _whole(16, 128, step=16), "n_layers": _whole(1, 4)},
    "LSTMAttentionClassifier": {
        "hidden_size": _whole(16, 128, step=16),  # a multiple of all heads
        "n_layers": _whole(1, 3),
        "bidirectional": _one_of(False, True),
        "n_heads": _one_of(None, 2, 4, 8),
    },
    "TransformerClassifier": {
        "d_model": _WIDTH,
        "n_heads": _HEADS,
        "n_layers": _whole(1, 4),
        "causal": _one_of(False, True),
    },
    "InformerClassifier": {
        "d_model": _WIDTH,
        "n_heads": _HEADS,
        "n_layers": _whole(1, 3),
        "factor": _whole(2, 8),  # Zhou et al. (2021) take 5 and search 3 to 10
    },
    "LuTransformerClassifier": {
        "d_model": _WIDTH,
        "n_heads": _HEADS,
        "n_layers": _whole(1, 3),
        "segment_length": _one_of(8, 16, 32),
        "num_tokens": _one_of(16, 32, 64),
    },
    "WaveTransformerRegressor": {"d_model": _WIDTH, "n_heads": _HEADS, "n_layers": _whole(1, 6)},
    "CNNClassifier": {"n_filters": _whole(8, 64, step=8)},
    "FusionClassifier": {"hidden_size": _whole(16, 128, step=16)},
    "SequenceRegressor": {},
    # ---------------------------------------------------------------- trees
    "LGBMWindowClassifier": {
        "seq_len": _whole(8, 96, step=8),
        "lags": _one_of("blocks", "last"),  # "all" costs nine times as much for little
        "n_estimators": _whole(50, 800, log=True),
        # LightGBM's guide to tuning: leaves first, then the rows of a leaf, many small steps. Market data are noisy, so
        # trees stay below its default of 31 leaves more often than above.
        "num_leaves": _whole(4, 63, log=True),
        "min_child_samples": _whole(5, 300, log=True),
        "learning_rate": _real(0.01, 0.2, log=True),
    },
    # ---------------------------------------------------------------- around models
    "TemperatureScaling": {"bias": _one_of(False, True)},
    "WalkForwardVotingClassifier": {"power": _real(0.0, 4.0)},  # 0 is a plain vote; 2 is the default
    "ExpectedCostClassifier": {},  # costs are given
    "SizedClassifier": {},
    "KellySizer": {
        "fraction": _real(0.1, 1.0),  # up to the whole Kelly bet
        "conservatism": _real(0.0, 2.0),
    },
    "ThresholdSizer": {"threshold": _real(0.1, 0.9)},  # events are rare: 0.1 is ten times their prevalence
    # ---------------------------------------------------------------- columns
    "RelevanceRedundancySelector": {
        "k": _whole(10, 160, log=True),  # Alpha158 has 158
        "threshold": _real(0.0, 0.2),
        "redundancy": _real(0.7, 1.0),  # 1 drops nothing
    },
    "CrossSectionalScaler": {"method": _one_of("zscore", "rank")},
    "ICTFeatures": {
        "left": _whole(2, 12),
        "right": _whole(2, 12),  # a swing is known only so many bars later
        "fvg_min": _real(0.0, 1.0),  # in ATR, as the next two
        "ob_disp": _real(0.5, 2.0),
        "liq_tol": _real(0.05, 0.5),
    },
    # Their parameters say what to compute, of which data: a question of contents.
    "Alpha158": {},
    "ExternalFeatures": {},
    "IndicatorFeatures": {},
    "MicrostructureFeatures": {},
    "SessionFeatures": {},
}

#: What a `FusionClassifier` decides for its members: they lend it their networks only.
OWN_TRAINING = frozenset(TABLES["SequenceEstimator"] | TABLES["SequenceClassifier"]) - {"dropout"}
