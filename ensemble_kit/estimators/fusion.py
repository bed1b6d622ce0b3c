"""Several networks trained as one."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from sklearn.base import clone
from sklearn.utils.metaestimators import _BaseComposition

from ensemble_kit.estimators._parameters import WHOLE, Domain, check_parameters
from ensemble_kit.estimators.networks.fusion import FusionTrunk
from ensemble_kit.estimators.sequence_classifier import SequenceClassifier
from ensemble_kit.exceptions import EnsembleKitError

__all__ = ["FusionClassifier"]


class FusionClassifier(SequenceClassifier, _BaseComposition):
    """Classify each bar by several networks' states, learned together.

    The networks of the members stand side by side on the same windows; their states are
    concatenated and brought together by an MLP. One loss trains all of them, so they learn what
    the others lack, and no one can tell what each is worth: for that, and against overfitting,
    fit them separately and let them vote.

    Parameters
    ----------
    estimators : list of (str, SequenceClassifier)
        What the networks are taken from. Of their parameters those of the network are used;
        windows and training are this model's.
    seq_len : int, default=48
        Rows a window, the row itself included, for all of them.
    hidden_size : int, default=64
        Width of the common state.
    **shared : dict
        The other parameters of `SequenceClassifier` and `SequenceEstimator`.

    See Also
    --------
    ensemble_kit.ensemble.WalkForwardVotingClassifier : Members fitted separately, weighed by
        what they showed out of fold.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.estimators import CNNClassifier, FusionClassifier, LSTMGRUClassifier
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.where(X[:, 0] > 0, "up", "down")
    >>> parts = [("cnn", CNNClassifier(n_filters=4)), ("lstm_gru", LSTMGRUClassifier(hidden_size=8))]
    >>> model = FusionClassifier(parts, seq_len=8, max_epochs=2, random_state=0).fit(X, y)
    >>> model.predict_proba(X).shape, model.lookback
    ((200, 2), 7)
    """

    _domains: ClassVar[dict[str, Domain]] = {"hidden_size": WHOLE}

    def __init__(
        self,
        estimators: list[tuple[str, SequenceClassifier]],
        *,
        seq_len: int = 48,
        hidden_size: int = 64,
        **shared: Any,
    ) -> None:
        super().__init__(seq_len, **shared)
        self.estimators = estimators
        self.hidden_size = hidden_size

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return the parameters, those of the members as ``<name>__<parameter>``.

        Parameters
        ----------
        deep : bool, default=True
            Whether to return the members', too.

        Returns
        -------
        dict
            Parameters by name.
        """
        return self._get_params("estimators", deep=deep)

    def set_params(self, **params: Any) -> Self:
        """Set parameters, those of the members as ``<name>__<parameter>``.

        Parameters
        ----------
        **params : object
            Parameters by name.

        Returns
        -------
        FusionClassifier
            The model itself.
        """
        self._set_params("estimators", **params)
        return self

    def _build_trunk(self, n_features: int) -> torch.nn.Module:
        return FusionTrunk(
            [self._windowed(member)._build_trunk(n_features) for _, member in self._members()],  # noqa: SLF001 - a sibling
            hidden_size=self.hidden_size,
            dropout=self.dropout,
        )

    def _members(self) -> list[tuple[str, SequenceClassifier]]:
        members = list(self.estimators)
        wrong = [name for name, member in members if not isinstance(member, SequenceClassifier)]
        if not members or wrong:
            raise EnsembleKitError(
                f"`estimators` must be (name, SequenceClassifier) pairs, at least one; got {wrong or 'none'}. "
                "Other models join by `WalkForwardVotingClassifier`."
            )
        self._validate_names([name for name, _ in members])
        return members

    def _windowed(self, member: SequenceClassifier) -> SequenceClassifier:
        """Return the member as it would be with this model's windows, its own parameters checked."""
        windowed: SequenceClassifier = clone(member).set_params(seq_len=self.seq_len)
        check_parameters(windowed)
        return windowed
