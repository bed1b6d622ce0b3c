"""Probabilities to positions, and positions to judgement."""

from ensemble_kit.sizing.backtest import BacktestResult, backtest
from ensemble_kit.sizing.costs import Costs
from ensemble_kit.sizing.kelly import KellySizer
from ensemble_kit.sizing.sized import SizedClassifier

__all__ = ["BacktestResult", "Costs", "KellySizer", "SizedClassifier", "backtest"]
