"""MLflow: runs, a model format that is safe to load, and the registry."""

from ensemble_kit.tracking.callback import MLflowCallback
from ensemble_kit.tracking.card import model_card
from ensemble_kit.tracking.model import check_storable, read_card, read_model, write_model
from ensemble_kit.tracking.patient import PatientRun
from ensemble_kit.tracking.registry import (
    CHALLENGER,
    CHAMPION,
    PREVIOUS,
    Comparison,
    Promotion,
    compare,
    history,
    list_versions,
    promote,
    roll_back,
    set_challenger,
)
from ensemble_kit.tracking.runs import (
    check_store,
    load_card,
    load_model,
    log_and_register,
    log_holdout,
    log_report,
    quiet,
    tracked_run,
)
from ensemble_kit.tracking.saved import load_saved, save_model

__all__ = [
    "CHALLENGER",
    "CHAMPION",
    "PREVIOUS",
    "Comparison",
    "MLflowCallback",
    "PatientRun",
    "Promotion",
    "check_storable",
    "check_store",
    "compare",
    "history",
    "list_versions",
    "load_card",
    "load_model",
    "load_saved",
    "log_and_register",
    "log_holdout",
    "log_report",
    "model_card",
    "promote",
    "quiet",
    "read_card",
    "read_model",
    "roll_back",
    "save_model",
    "set_challenger",
    "tracked_run",
    "write_model",
]
