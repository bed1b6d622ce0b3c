"""Segments, tokens, merges and towers against the same thing written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import nn

from ensemble_kit.estimators.lu_transformer import LuTransformerClassifier
from ensemble_kit.estimators.networks.layers import EncoderBlock, SinusoidalEncoding
from ensemble_kit.estimators.networks.lu_transformer import LuTransformerTrunk, Merge
from ensemble_kit.exceptions import EnsembleKitError

F = 3


def trunk_of(seq_len, **parameters):
    settings = {"d_model": 8, "n_heads": 2, "n_layers": 2, "segment_length": 4, "num_tokens": 32, "dropout": 0.0}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LuTransformerTrunk(F, seq_len=seq_len, **(settings | parameters)).eval()


def windows_of(seq_len, n=5):
    return torch.randn(n, seq_len, F, generator=torch.Generator().manual_seed(1))


def written_out(trunk, window, *, segment_length, num_tokens):
    """Return the state of one window, segment by segment, bar by bar, pair by pair."""
    length = len(window)
    per_token = segment_length * math.ceil(length / (segment_length * num_tokens))
    n_tokens = math.ceil(length / per_token)
    padded = torch.cat([torch.zeros(n_tokens * per_token - length, F), window])
    embedded, recurred = [], []
    for token in padded.split(per_token):
        segments = token.split(segment_length)
        embedded.append(sum(trunk.embed(segment.flatten()) for segment in segments) / len(segments))
        recurred.append(sum(recur(trunk.recur, segment) for segment in segments) / len(segments))
    for layer in trunk.time_tower:
        embedded = merge(layer, embedded) if isinstance(layer, Merge) else list(layer(torch.stack(embedded)[None])[0])
    while len(recurred) > 1:
        recurred = merge(trunk.recurrent_tower[math.ceil(math.log2(n_tokens)) - levels_left(recurred)], recurred)
    return torch.cat([embedded[-1], trunk.recurrent_tower[-1](recurred[0])])


def recur(gru, bars):
    cell = nn.GRUCell(F, gru.hidden_size)
    cell.load_state_dict({name.removesuffix("_l0"): value for name, value in gru.state_dict().items()})
    state = torch.zeros(gru.hidden_size)
    for bar in bars:
        state = cell(bar, state)
    return state


def levels_left(tokens):
    return math.ceil(math.log2(len(tokens)))


def merge(layer, tokens):
    if len(tokens) % 2:
        tokens = [torch.zeros_like(tokens[0]), *tokens]
    pairs = zip(tokens[::2], tokens[1::2], strict=True)
    return [newer + layer.mix(torch.cat([older, newer])) for older, newer in pairs]


@pytest.mark.parametrize(
    ("seq_len", "segment_length", "num_tokens"), [(1, 4, 8), (3, 4, 8), (8, 4, 8), (21, 4, 8), (33, 4, 4), (7, 1, 8)]
)
@pytest.mark.parametrize("n_layers", [1, 3])
def test_the_same_as_written_out(seq_len, segment_length, num_tokens, n_layers):
    trunk = trunk_of(seq_len, segment_length=segment_length, num_tokens=num_tokens, n_layers=n_layers)
    x = windows_of(seq_len)
    with torch.inference_mode():
        states = trunk(x)
        assert states.shape == (5, trunk.n_outputs) == (5, 16)
        expected = [written_out(trunk, one, segment_length=segment_length, num_tokens=num_tokens) for one in x]
    assert_allclose(states, torch.stack(expected), atol=2e-6)


@pytest.mark.parametrize(
    ("seq_len", "segment_length", "num_tokens", "layout"),
    [
        (205, 16, 32, (13, 1, 16)),
        (1, 16, 32, (1, 1, 16)),
        (512, 16, 32, (32, 1, 16)),
        (513, 16, 32, (17, 2, 16)),
        (1000, 16, 4, (4, 16, 16)),
        (9, 2, 1, (1, 5, 2)),
    ],
)
def test_tokens_are_bounded_and_every_bar_is_seen(seq_len, segment_length, num_tokens, layout):
    trunk = trunk_of(seq_len, segment_length=segment_length, num_tokens=num_tokens).double()
    assert trunk.layout == layout
    assert layout[0] <= num_tokens
    assert math.prod(layout) - seq_len < layout[1] * layout[2]  # no token of padding alone
    seen = []
    for layer in trunk.time_tower:
        layer.register_forward_hook(lambda _, given, __: seen.append(given[0].shape[1]))
    x = windows_of(seq_len, n=2).double().requires_grad_()
    state = trunk(x)
    assert max(seen) == layout[0]
    for half in state.chunk(2, dim=1):
        (gradient,) = torch.autograd.grad((half * torch.arange(8)).sum(), x, retain_graph=True)
        assert (gradient.abs().amax(2) > 0).all()


@pytest.mark.parametrize("seq_len", [13, 14, 15])
def test_windows_are_padded_in_front(seq_len):
    short, whole = trunk_of(seq_len), trunk_of(16)
    x = windows_of(seq_len)
    assert_allclose(
        short(x).detach(), whole(torch.cat([torch.zeros(5, 16 - seq_len, F), x], dim=1)).detach(), atol=1e-6
    )


def test_order_counts_within_and_between_segments():
    trunk, x = trunk_of(16), windows_of(16)
    state = trunk(x).detach()
    within, between = x.clone(), x.clone()
    within[:, [0, 1]] = x[:, [1, 0]]
    between[:, :8] = x[:, [4, 5, 6, 7, 0, 1, 2, 3]]
    for other in (within, between):
        for was, became in zip(state.chunk(2, dim=1), trunk(other).detach().chunk(2, dim=1), strict=True):
            assert (was - became).abs().amax(1).min() > 1e-4


@pytest.mark.parametrize("n_layers", [1, 2, 6])
def test_merges_stand_between_blocks_while_there_are_tokens(n_layers):
    trunk = trunk_of(20, n_layers=n_layers)  # 5 tokens, 3, 2, 1
    kinds = [type(layer) for layer in trunk.time_tower]
    assert kinds[0] is SinusoidalEncoding
    assert kinds.count(EncoderBlock) == n_layers
    assert kinds.count(Merge) == min(n_layers - 1, 3)
    assert [type(layer) for layer in trunk.recurrent_tower] == [Merge] * 3 + [nn.LayerNorm]


def test_a_window_does_not_depend_on_its_batch():
    trunk, x = trunk_of(45, d_model=16, n_layers=3), windows_of(45, n=9)
    assert_allclose(trunk(x[4:5]).detach(), trunk(x)[4:5].detach(), atol=1e-6)


def test_learns_across_a_long_window():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1800, 3)).astype(np.float32)
    summed = np.convolve(X[:, 1], np.ones(20))[: len(X)]
    y = np.where(summed > 0, "up", "down")
    model = LuTransformerClassifier(
        32, d_model=16, segment_length=8, max_epochs=12, batch_size=64, learning_rate=5e-3, random_state=0
    )
    model.fit(X[:1200], y[:1200])
    assert (model.predict(X)[1200:] == y[1200:]).mean() > 0.8
    assert ((X[:, 1] > 0) == (summed > 0)).mean() < 0.6  # the newest row alone says little


def test_heads_must_share_the_width():
    with pytest.raises(EnsembleKitError, match="`d_model` must make a width that is a multiple of `n_heads`; got"):
        LuTransformerClassifier(4, d_model=10, n_heads=4).fit(np.zeros((20, 2)), np.arange(20) % 2)


def test_size():
    X, y = np.zeros((60, 5)), np.arange(60) % 3
    model = LuTransformerClassifier(33, d_model=8, n_heads=2, segment_length=4, max_epochs=1).fit(X, y)
    block = (8 + 1) * 3 * 8 + (8 + 1) * 8 + (8 + 1) * 32 + (32 + 1) * 8 + 2 * 16
    merge_ = 2 * 16 + (16 + 1) * 8
    tokens = (4 * 5 + 1) * 8 + 3 * 8 * (5 + 8 + 2)  # linear, GRU
    time, recurrent = 2 * block + merge_ + 16, 4 * merge_ + 16  # 9 tokens, 5, 3, 2, 1
    assert model.n_parameters_ == tokens + time + recurrent + (16 + 1) * 3
