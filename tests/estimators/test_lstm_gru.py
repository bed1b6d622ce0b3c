"""scikit-learn's own checks on the smallest sensible model, and what is special to this family."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.utils.estimator_checks import parametrize_with_checks
from torch import nn

from ensemble_kit.estimators.lstm_gru import LSTMGRUClassifier
from ensemble_kit.estimators.networks.head import WithHead
from ensemble_kit.estimators.networks.lstm_gru import LSTMGRUTrunk

MINI_BATCHES = "mini-batches: repeated rows fall into other batches, and sums of float32 differ in the last bits"
WINDOWS = "a row's answer depends on the rows before it"


def small(seq_len: int) -> LSTMGRUClassifier:
    return LSTMGRUClassifier(
        seq_len,
        hidden_size=8,
        n_layers=1,
        dropout=0.0,
        max_epochs=40,
        batch_size=32,
        learning_rate=0.05,
        random_state=0,
    )


def expected_failures(estimator: LSTMGRUClassifier) -> dict[str, str]:
    failures = {"check_sample_weight_equivalence_on_dense_data": MINI_BATCHES}
    if estimator.seq_len > 1:
        failures |= dict.fromkeys(["check_methods_sample_order_invariance", "check_methods_subset_invariance"], WINDOWS)
    return failures


@parametrize_with_checks([small(1), small(3)], expected_failed_checks=expected_failures)
def test_sklearn_checks(estimator, check):
    check(estimator)


def test_layers_take_turns_and_share_one_head():
    trunk = LSTMGRUTrunk(5, hidden_size=8, n_layers=3, dropout=0.0)
    network = WithHead(trunk, 2, 3, dropout=0.0)
    assert [type(layer) for layer in trunk.layers] == [nn.GRU, nn.LSTM, nn.GRU]
    x = torch.randn(4, 6, 5, generator=torch.Generator().manual_seed(0))
    hidden = x
    for layer in trunk.layers:
        hidden, _ = layer(hidden)
    logits = network(x)
    assert logits.shape == (4, 2, 3)
    assert torch.allclose(logits.flatten(1), network.head(hidden[:, -1]))


def _accuracy(X, y, seed):
    model = LSTMGRUClassifier(
        6, hidden_size=16, n_layers=2, max_epochs=8, batch_size=64, learning_rate=0.01, random_state=seed
    )
    half = len(X) * 2 // 3
    model.fit(X[:half], y[:half])
    return (model.predict(X)[half:] == y[half:]).mean()


def test_learns_what_only_a_sequence_shows():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1800, 4)).astype(np.float32)
    summed = np.convolve(X[:, 1], np.ones(4))[: len(X)]
    y = np.where(summed > 0, "up", "down")
    null = [_accuracy(X, rng.permutation(y), seed) for seed in range(3)]
    assert _accuracy(X, y, 0) > 0.85
    assert max(null) < 0.6
    # The newest row alone says less.
    assert ((X[:, 1] > 0) == (summed > 0)).mean() < 0.7


@pytest.mark.parametrize("seq_len", [1, 7])
def test_size(seq_len):
    X, y = np.zeros((30, 5)), np.arange(30) % 3
    model = LSTMGRUClassifier(seq_len, hidden_size=8, max_epochs=1).fit(X, y)
    gru, lstm = 3 * 8 * (5 + 8 + 2), 4 * 8 * (8 + 8 + 2)
    assert model.n_parameters_ == gru + lstm + 3 * 8 * (8 + 8 + 2) + (8 + 1) * 3
