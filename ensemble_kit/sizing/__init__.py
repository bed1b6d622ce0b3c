"""Probabilities to positions, and positions to judgement."""

from ensemble_kit.sizing.backtest import backtest
from ensemble_kit.sizing.costs import Costs
from ensemble_kit.sizing.kelly import KellySizer
from ensemble_kit.sizing.limits import flatten_before_close, limit_exposure, target_volatility
from ensemble_kit.sizing.result import BacktestResult
from ensemble_kit.sizing.sized import SizedClassifier
from ensemble_kit.sizing.study import trade_at_thresholds
from ensemble_kit.sizing.threshold import ThresholdSizer

__all__ = [
    "BacktestResult",
    "Costs",
    "KellySizer",
    "SizedClassifier",
    "ThresholdSizer",
    "backtest",
    "flatten_before_close",
    "limit_exposure",
    "target_volatility",
    "trade_at_thresholds",
]
