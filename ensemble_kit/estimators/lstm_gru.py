"""GRU and LSTM layers over the last bars."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ensemble_kit.estimators._parameters import WHOLE, Domain
from ensemble_kit.estimators._torch import resolve_device, torch_threads
from ensemble_kit.estimators.networks.lstm_gru import LSTMGRUTrunk
from ensemble_kit.estimators.sequence_classifier import SequenceClassifier

__all__ = ["LSTMGRUClassifier", "LSTMGRUStream"]


class LSTMGRUClassifier(SequenceClassifier):
    """Classify each bar by a stack of GRU and LSTM layers over its window.

    One trunk for all horizons: GRU, LSTM, GRU, ... with dropout between, and one linear head
    on the state at the window's last row.

    Parameters
    ----------
    seq_len : int, default=48
        Rows a window, the row itself included.
    hidden_size : int, default=64
        Width of every layer.
    n_layers : int, default=3
        How many layers; GRUs and LSTMs take turns, a GRU first.
    **shared : dict
        The other parameters of `SequenceClassifier` and `SequenceEstimator`.

    See Also
    --------
    ensemble_kit.estimators.sequence.SequenceEstimator : Parameters, attributes and rules of
        time that all sequence models share.

    References
    ----------
    .. [1] S. Hochreiter and J. Schmidhuber, "Long short-term memory", Neural Computation 9(8), 1997.
    .. [2] K. Cho et al., "Learning phrase representations using RNN encoder-decoder for
       statistical machine translation", EMNLP 2014.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.estimators.lstm_gru import LSTMGRUClassifier
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.where(X[:, 0] > 0, "up", "down")
    >>> model = LSTMGRUClassifier(4, hidden_size=8, max_epochs=3, random_state=0).fit(X, y)
    >>> model.predict_proba(X).shape, model.lookback
    ((200, 2), 3)
    """

    _domains: ClassVar[dict[str, Domain]] = {"hidden_size": WHOLE, "n_layers": WHOLE}

    def __init__(self, seq_len: int = 48, *, hidden_size: int = 64, n_layers: int = 3, **shared: Any) -> None:
        super().__init__(seq_len, **shared)
        self.hidden_size = hidden_size
        self.n_layers = n_layers

    def _build_trunk(self, n_features: int) -> torch.nn.Module:
        return LSTMGRUTrunk(n_features, hidden_size=self.hidden_size, n_layers=self.n_layers, dropout=self.dropout)

    def stream(self, window: Any) -> LSTMGRUStream:
        """Begin to answer row by row, several times faster than `newest_log_proba`.

        Parameters
        ----------
        window : DataFrame or array-like of shape (m, F)
            The newest rows of one instrument so far, as `newest_log_proba` takes them.

        Returns
        -------
        LSTMGRUStream
            What takes the next rows.

        Raises
        ------
        EnsembleKitError
            If `window` has another shape.
        """
        rows = self._window(window)
        network = self.net_.module_.to(resolve_device(self.device)).eval()
        return LSTMGRUStream(network, rows, bound=self._within_bounds, answer=self._newest, n_threads=self.n_threads)


class LSTMGRUStream:
    """The newest window's answer of a fitted `LSTMGRUClassifier`, carried from row to row.

    `LSTMGRUClassifier.stream` makes one.

    Parameters
    ----------
    network : torch.nn.Module
        Trunk and head, in evaluation.
    rows : ndarray of float32, shape (seq_len, F)
        The newest rows so far, as the network sees them.
    bound : callable
        From a row to what the network sees of it.
    answer : callable
        From outputs (H, K) to log-probabilities.
    n_threads : int
        Threads of torch.

    Attributes
    ----------
    last : ndarray of float64, shape (K,) or (H, K)
        Log-probabilities of the newest row.

    Examples
    --------
    >>> import numpy as np
    >>> from ensemble_kit.estimators.lstm_gru import LSTMGRUClassifier
    >>> X = np.random.default_rng(0).normal(size=(200, 3))
    >>> y = np.where(X[:, 0] > 0, "up", "down")
    >>> model = LSTMGRUClassifier(4, hidden_size=8, max_epochs=3, random_state=0).fit(X, y)
    >>> stream = model.stream(X[:199])
    >>> bool(np.allclose(stream.update(X[199]), model.predict_log_proba(X)[-1], atol=1e-6))
    True
    """

    def __init__(
        self,
        network: Any,
        rows: NDArray[np.float32],
        *,
        bound: Callable[[NDArray[np.float32]], NDArray[np.float32]],
        answer: Callable[[torch.Tensor], NDArray[np.float64]],
        n_threads: int,
    ) -> None:
        self._network, self._bound, self._answer, self._n_threads = network, bound, answer, n_threads
        with torch.inference_mode():
            self._states = network.trunk.begin(len(rows))
        for row in rows:
            outputs = self._outputs(row)
        self.last = answer(outputs)

    def update(self, row: Any) -> NDArray[np.float64]:
        """Take the next row.

        Parameters
        ----------
        row : array-like of shape (F,)
            Columns in the order of `fit`.

        Returns
        -------
        ndarray of float64, shape (K,) or (H, K)
            Its log-probabilities, as `predict_log_proba` has them up to the rounding of float32.
        """
        self.last = self._answer(self._outputs(self._bound(np.asarray(row, np.float32))))
        return self.last

    def _outputs(self, row: NDArray[np.float32]) -> torch.Tensor:
        with torch_threads(self._n_threads), torch.inference_mode():
            taken = torch.from_numpy(row).to(self._states[0][0].device)
            outputs: torch.Tensor = self._network.head(self._network.trunk.advance(taken, self._states))
        return outputs.reshape(self._network.n_horizons, -1)
