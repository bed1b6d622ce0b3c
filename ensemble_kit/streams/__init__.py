"""A fitted model bar by bar: the newest row of what the batch says, at the cost of that row."""

from ensemble_kit.streams.position import Answer, PositionStream

__all__ = ["Answer", "PositionStream"]
