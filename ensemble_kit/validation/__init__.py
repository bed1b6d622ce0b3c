"""Who may see what: folds, history, and the record of which rows each stage used."""

from ensemble_kit.validation.fold import (
    check_panel_index,
    final_estimator,
    fit_on_rows,
    predict_on_rows,
    take_rows,
    weight_parameters,
)
from ensemble_kit.validation.fold_data import FoldData, checked_folds
from ensemble_kit.validation.lookahead import LookaheadReport, LookbackReport, check_lookback, check_no_lookahead
from ensemble_kit.validation.lookback import lookback, rows_with_history
from ensemble_kit.validation.out_of_fold import OutOfFold, walk_forward_predict
from ensemble_kit.validation.split import WalkForwardSplit, check_fold
from ensemble_kit.validation.transformer_checks import TransformerCheckError, check_bar_transformer
from ensemble_kit.validation.usage import ALL_MEMBERS, REFIT, ROLES, RowUsage

__all__ = [
    "ALL_MEMBERS",
    "REFIT",
    "ROLES",
    "FoldData",
    "LookaheadReport",
    "LookbackReport",
    "OutOfFold",
    "RowUsage",
    "TransformerCheckError",
    "WalkForwardSplit",
    "check_bar_transformer",
    "check_fold",
    "check_lookback",
    "check_no_lookahead",
    "check_panel_index",
    "checked_folds",
    "final_estimator",
    "fit_on_rows",
    "lookback",
    "predict_on_rows",
    "rows_with_history",
    "take_rows",
    "walk_forward_predict",
    "weight_parameters",
]
