"""Columns to log-probabilities: models that build their windows inside."""

from ensemble_kit.estimators.cnn import CNNClassifier
from ensemble_kit.estimators.expected_cost import ExpectedCostClassifier
from ensemble_kit.estimators.fusion import FusionClassifier
from ensemble_kit.estimators.informer import InformerClassifier
from ensemble_kit.estimators.lightgbm_window import LGBMWindowClassifier
from ensemble_kit.estimators.lstm_attention import LSTMAttentionClassifier
from ensemble_kit.estimators.lstm_gru import LSTMGRUClassifier
from ensemble_kit.estimators.lu_transformer import LuTransformerClassifier
from ensemble_kit.estimators.sequence import SequenceEstimator
from ensemble_kit.estimators.sequence_classifier import SequenceClassifier
from ensemble_kit.estimators.sequence_regressor import SequenceRegressor
from ensemble_kit.estimators.transformer import TransformerClassifier
from ensemble_kit.estimators.wave_transformer import WaveTransformerRegressor

__all__ = [
    "CNNClassifier",
    "ExpectedCostClassifier",
    "FusionClassifier",
    "InformerClassifier",
    "LGBMWindowClassifier",
    "LSTMAttentionClassifier",
    "LSTMGRUClassifier",
    "LuTransformerClassifier",
    "SequenceClassifier",
    "SequenceEstimator",
    "SequenceRegressor",
    "TransformerClassifier",
    "WaveTransformerRegressor",
]
