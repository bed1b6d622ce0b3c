"""Columns to log-probabilities: models that build their windows inside."""

from ensemble_kit.estimators.lightgbm_window import LGBMWindowClassifier
from ensemble_kit.estimators.lstm_gru import LSTMGRUClassifier
from ensemble_kit.estimators.sequence import SequenceEstimator
from ensemble_kit.estimators.sequence_classifier import SequenceClassifier
from ensemble_kit.estimators.sequence_regressor import SequenceRegressor

__all__ = ["LGBMWindowClassifier", "LSTMGRUClassifier", "SequenceClassifier", "SequenceEstimator", "SequenceRegressor"]
