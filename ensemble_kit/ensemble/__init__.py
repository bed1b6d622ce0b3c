"""Members to one vote: walk-forward, calibrated, weighed by what they scored out of fold."""

from ensemble_kit.ensemble.voting import WalkForwardVotingClassifier
from ensemble_kit.ensemble.weights import voting_weights

__all__ = ["WalkForwardVotingClassifier", "voting_weights"]
