"""Experiments by size: what of the file's page is otherwise."""

from __future__ import annotations

from typing import Any

__all__ = ["PRESETS"]

_NETWORKS = ("lstm_gru", "lu_transformer", "informer", "transformer", "lstm_attention", "cnn", "fusion")
_WIDTHS = {
    "lstm_gru": "hidden_size",
    "lstm_attention": "hidden_size",
    "fusion": "hidden_size",
    "cnn": "n_filters",
}


def _networks(seq_len: int, width: int, max_epochs: int) -> dict[str, Any]:
    """Return the size of all networks, on or off."""
    return {
        f"members.{name}.{key}": value
        for name in _NETWORKS
        for key, value in (("seq_len", seq_len), (_WIDTHS.get(name, "d_model"), width), ("max_epochs", max_epochs))
    }


#: By dotted key. `smoke` shows that everything runs, in a minute; `small` is the least worth looking at; `full` is the
#: four members of different kinds, on 80 columns each.
PRESETS: dict[str, dict[str, Any]] = {
    "smoke": _networks(16, 16, 6) | {"members.lightgbm.n_estimators": 60},
    "small": {},
    "full": _networks(205, 128, 30)
    | {
        "labels.horizons": 6,
        "selector.on": True,
        "members.lightgbm.seq_len": 205,
        "members.lightgbm.n_estimators": 1000,
        "members.lu_transformer.on": True,
        "members.informer.on": True,
        "folds.n_splits": 3,
    },
}
