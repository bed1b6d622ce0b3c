"""The smallest sensible model of each family of sequence classifiers."""

from __future__ import annotations

from typing import Any

from ensemble_kit.estimators import (
    CNNClassifier,
    FusionClassifier,
    InformerClassifier,
    LSTMAttentionClassifier,
    LSTMGRUClassifier,
    LuTransformerClassifier,
    SequenceClassifier,
    TransformerClassifier,
)

#: Class, its own parameters for tests, and a name where a class comes twice.
FAMILIES: dict[str, tuple[type[SequenceClassifier], dict[str, Any]]] = {
    "lstm_gru": (LSTMGRUClassifier, {"hidden_size": 8, "n_layers": 1}),
    "transformer": (TransformerClassifier, {"d_model": 8, "n_heads": 2, "n_layers": 1, "learning_rate": 0.01}),
    "causal_transformer": (
        TransformerClassifier,
        {"d_model": 8, "n_heads": 2, "n_layers": 1, "causal": True, "learning_rate": 0.01},
    ),
    "lstm_attention": (LSTMAttentionClassifier, {"hidden_size": 8}),
    "bilstm_heads": (LSTMAttentionClassifier, {"hidden_size": 4, "bidirectional": True, "n_heads": 2}),
    "informer": (
        InformerClassifier,
        {"d_model": 8, "n_heads": 2, "n_layers": 1, "factor": 1, "learning_rate": 0.02},
    ),
    "lu_transformer": (
        LuTransformerClassifier,
        {"d_model": 8, "n_heads": 2, "segment_length": 4, "learning_rate": 0.01},
    ),
    "cnn": (CNNClassifier, {"n_filters": 8, "kernel_sizes": (1, 3)}),
}


FAMILIES["fusion"] = (
    FusionClassifier,
    {
        "estimators": [(name, FAMILIES[name][0](**FAMILIES[name][1])) for name in ("cnn", "causal_transformer")],
        "hidden_size": 8,
        "learning_rate": 0.01,
    },
)


def small(family: str, seq_len: int, **parameters: Any) -> SequenceClassifier:
    """Return an unfitted small model."""
    cls, own = FAMILIES[family]
    quick = {"dropout": 0.0, "max_epochs": 40, "batch_size": 32, "learning_rate": 0.05, "random_state": 0}
    return cls(**(quick | own | parameters | {"seq_len": seq_len}))
