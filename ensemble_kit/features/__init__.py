"""Bars to columns: causal features, one float32 block, one row a bar."""

from ensemble_kit.features.alpha158 import Alpha158
from ensemble_kit.features.session import SessionFeatures

__all__ = ["Alpha158", "SessionFeatures"]
