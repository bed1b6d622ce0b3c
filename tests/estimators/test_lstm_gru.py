"""What is special to GRU and LSTM in turn."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from ensemble_kit.estimators.lstm_gru import LSTMGRUClassifier
from ensemble_kit.estimators.networks.head import WithHead
from ensemble_kit.estimators.networks.lstm_gru import LSTMGRUTrunk


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


@pytest.mark.parametrize("seq_len", [1, 7])
def test_size(seq_len):
    X, y = np.zeros((30, 5)), np.arange(30) % 3
    model = LSTMGRUClassifier(seq_len, hidden_size=8, max_epochs=1).fit(X, y)
    gru, lstm = 3 * 8 * (5 + 8 + 2), 4 * 8 * (8 + 8 + 2)
    assert model.n_parameters_ == gru + lstm + 3 * 8 * (8 + 8 + 2) + (8 + 1) * 3
