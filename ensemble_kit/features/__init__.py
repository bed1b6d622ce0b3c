"""Bars to columns: causal features, one float32 block, one row a bar."""

from ensemble_kit.features.alpha158 import Alpha158
from ensemble_kit.features.cross_sectional import CrossSectionalScaler
from ensemble_kit.features.external import ExternalFeatures
from ensemble_kit.features.ict import ICTFeatures
from ensemble_kit.features.indicators import IndicatorFeatures
from ensemble_kit.features.microstructure import MicrostructureFeatures
from ensemble_kit.features.selector import RelevanceRedundancySelector
from ensemble_kit.features.session import SessionFeatures
from ensemble_kit.features.structure import market_structure

__all__ = [
    "Alpha158",
    "CrossSectionalScaler",
    "ExternalFeatures",
    "ICTFeatures",
    "IndicatorFeatures",
    "MicrostructureFeatures",
    "RelevanceRedundancySelector",
    "SessionFeatures",
    "market_structure",
]
