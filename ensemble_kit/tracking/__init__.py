"""MLflow: runs, a model format that is safe to load, and the registry."""

from ensemble_kit.tracking.model import read_card, read_model, write_model
from ensemble_kit.tracking.runs import (
    CHAMPION,
    check_store,
    load_card,
    load_model,
    log_and_register,
    log_holdout,
    quiet,
    tracked_run,
)

__all__ = [
    "CHAMPION",
    "check_store",
    "load_card",
    "load_model",
    "log_and_register",
    "log_holdout",
    "quiet",
    "read_card",
    "read_model",
    "tracked_run",
    "write_model",
]
