"""ProbSparse attention against the published formulation, distilling, and where samples come from."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from ensemble_kit.estimators.informer import InformerClassifier
from ensemble_kit.estimators.networks import informer
from ensemble_kit.estimators.networks.informer import (
    Distilling,
    InformerTrunk,
    ProbSparseAttention,
    prob_sparse_attention,
)
from ensemble_kit.estimators.networks.layers import SelfAttention
from ensemble_kit.exceptions import EnsembleKitError


def reference(queries, keys, values, samples, n_active):
    """Attend as published: every query's sampled keys are laid out, (B, H, L, U, D), then multiplied."""
    n_windows, n_heads, length, width = queries.shape
    laid_out = keys.unsqueeze(2).expand(-1, -1, length, -1, -1)  # (B, H, L, L, D)
    sampled = laid_out[:, :, torch.arange(length)[:, None], samples]  # (B, H, L, U, D)
    scores = (queries.unsqueeze(3) @ sampled.transpose(3, 4)).squeeze(3)  # (B, H, L, U)
    sparsity = scores.max(-1).values - scores.sum(-1) / length
    window, head = torch.arange(n_windows)[:, None, None], torch.arange(n_heads)[:, None]
    active = window, head, sparsity.topk(n_active).indices  # (B, H, u)
    weights = torch.softmax(queries[active] @ keys.transpose(2, 3) / math.sqrt(width), -1)
    gathered = values.mean(2, keepdim=True).repeat(1, 1, length, 1)
    gathered[active] = weights @ values
    return gathered


def heads(*shape, seed=0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=dtype).requires_grad_() for _ in range(3)]


def samples_of(length, number, seed=0):
    return torch.randint(length, (length, number), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("at_a_time", [1, 4000, 2**20])
@pytest.mark.parametrize("shape", [(4, 2, 16, 4), (3, 4, 48, 16), (5, 2, 205, 8)])
def test_identical_to_the_published_formulation(shape, at_a_time, monkeypatch):
    monkeypatch.setattr(informer, "_SCORES_AT_A_TIME", at_a_time)
    length = shape[2]
    n_active = min(length, 5 * math.ceil(math.log(length)))
    samples = samples_of(length, n_active)
    upstream = heads(*shape, seed=1)[0].detach()
    outputs, gradients = [], []
    for attend in (reference, prob_sparse_attention):
        given = heads(*shape)
        output = attend(*given, samples, n_active)
        output.backward(upstream)
        outputs.append(output.detach())
        gradients.append([one.grad for one in given])
    assert_allclose(outputs[1], outputs[0], atol=1e-5)
    for got, expected in zip(gradients[1], gradients[0], strict=True):
        assert expected.abs().max() > 0.01
        assert_allclose(got, expected, atol=1e-5)


def test_only_the_sharpest_query_attends():
    queries, keys, values = (one.detach() for one in heads(1, 1, 6, 4))
    queries[0, 0, 3] *= 50
    everyone = torch.arange(6).expand(6, -1)
    got = prob_sparse_attention(queries, keys, values, everyone, 1)[0, 0]
    attended = torch.softmax(queries[0, 0, 3] @ keys[0, 0].T / 2, -1) @ values[0, 0]
    for position in range(6):
        assert_allclose(got[position], attended if position == 3 else values[0, 0].mean(0), atol=1e-6)
    # Judged by the key it likes least alone, it does not stand out.
    least = (queries[0, 0] @ keys[0, 0].T).argmin(-1, keepdim=True)
    got = prob_sparse_attention(queries, keys, values, least, 1)[0, 0]
    assert_allclose(got[3], values[0, 0].mean(0), atol=1e-6)


@pytest.mark.parametrize(
    ("length", "factor", "n_active"), [(1, 5, 1), (2, 1, 1), (3, 5, 3), (15, 5, 15), (16, 5, 15), (205, 5, 30)]
)
def test_how_many_attend(length, factor, n_active):
    attention = ProbSparseAttention(8, 2, length=length, factor=factor)
    assert attention.n_active == n_active
    assert attention.samples.shape == (length, n_active)
    assert attention.samples.max() < length
    x = torch.randn(3, length, 8, generator=torch.Generator().manual_seed(0))
    full = SelfAttention(8, 2)
    full.load_state_dict({name: value for name, value in attention.state_dict().items() if name != "samples"})
    assert torch.equal(attention(x), full(x)) == (n_active == length)


def test_one_fixed_draw_in_evaluation_a_new_one_for_each_batch_in_training():
    attention = ProbSparseAttention(8, 2, length=40, factor=1)
    x = torch.randn(6, 40, 8, generator=torch.Generator().manual_seed(0))

    def draws():
        attention.generator = torch.Generator().manual_seed(3)
        return attention.train()(x), attention(x)

    before = torch.get_rng_state()
    first, second = draws()
    assert not torch.equal(first, second)
    assert all(map(torch.equal, draws(), (first, second)))
    attention.eval()
    assert torch.equal(attention(x), attention(x))
    assert_allclose(attention(x)[4:5].detach(), attention(x[4:5]).detach(), atol=1e-6)
    assert torch.equal(torch.get_rng_state(), before)


def test_distilling_by_hand():
    distilling = Distilling(2)
    with torch.no_grad():  # each channel passes; the second takes its older neighbour
        distilling.convolution.weight.zero_()
        distilling.convolution.weight[0, 0, 1] = distilling.convolution.weight[1, 1, 0] = 1
        distilling.convolution.bias.zero_()
    x = torch.tensor([[[1.0, 5.0], [-1.0, 6.0], [-2.0, 4.0], [-3.0, 9.0], [7.0, 8.0]]])
    expected = [[1, 5], [math.expm1(-1), 6], [7, 9]]  # the maxima over 0-1, 1-3 and 3-4
    assert_allclose(distilling(x).detach()[0], expected, atol=1e-6)


@pytest.mark.parametrize("length", [1, 2, 3, 5, 48, 205])
def test_the_window_is_halved_between_blocks(length):
    trunk = InformerTrunk(3, seq_len=length, d_model=8, n_heads=2, n_layers=3, factor=5, dropout=0.0).eval()
    x = torch.randn(4, length, 3, generator=torch.Generator().manual_seed(0))
    lengths, last = [], []
    for layer in trunk.layers:
        layer.register_forward_hook(lambda _, given, __: lengths.append(given[0].shape[1]))
    trunk.layers.register_forward_hook(lambda _, __, output: last.append(output))
    states = trunk(x)
    assert torch.equal(states, trunk.norm(last[0][:, -1]))  # the newest position
    assert states.shape == (4, trunk.n_outputs) == (4, 8)
    halves = [length, math.ceil(length / 2), math.ceil(length / 4)]
    assert lengths == [halves[0], halves[0], halves[1], halves[1], halves[2]]
    assert [len(block.attention.samples) for block in trunk.layers[::2]] == halves
    assert_allclose(trunk(x[1:2]).detach(), states[1:2].detach(), atol=1e-5)


def test_the_draw_belongs_to_the_model():
    X = np.random.default_rng(0).normal(size=(120, 3))
    y = np.arange(120) % 2
    model = InformerClassifier(
        24, d_model=8, n_heads=2, factor=1, dropout=0.0, max_epochs=2, batch_size=32, random_state=0
    )
    expected = model.fit(X, y).predict_proba(X)
    torch.manual_seed(99)  # nothing is taken from the process's generator
    assert_array_equal(model.fit(X, y).predict_proba(X), expected)
    assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(X), expected)
    # The stored draw is what the answer depends on.
    attention = model.net_.module_.trunk.layers[0].attention
    attention.samples.copy_(samples_of(24, attention.n_active, seed=5))
    assert np.abs(model.predict_proba(X) - expected).max() > 1e-6


def test_training_draws_from_the_seed_of_the_fit():
    X = np.random.default_rng(0).normal(size=(64, 3)).astype(np.float32)
    y = np.arange(64) % 2
    model = InformerClassifier(24, d_model=8, n_heads=2, factor=1, dropout=0.0, max_epochs=1, random_state=0)
    generators = {layer.generator for layer in _attentions(model.fit(X, y))}
    assert len(generators) == 1
    assert None not in generators


def _attentions(model):
    return [layer for layer in model.net_.module_.modules() if isinstance(layer, ProbSparseAttention)]


def test_learns_across_a_long_window():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(1800, 3)).astype(np.float32)
    summed = np.convolve(X[:, 1], np.ones(20))[: len(X)]
    y = np.where(summed > 0, "up", "down")
    model = InformerClassifier(32, d_model=16, max_epochs=12, batch_size=64, learning_rate=5e-3, random_state=0)
    model.fit(X[:1200], y[:1200])
    assert (model.predict(X)[1200:] == y[1200:]).mean() > 0.8
    assert ((X[:, 1] > 0) == (summed > 0)).mean() < 0.6  # the newest row alone says little


def test_heads_must_share_the_width():
    with pytest.raises(EnsembleKitError, match="`d_model` must make a width that is a multiple of `n_heads`; got"):
        InformerClassifier(4, d_model=10, n_heads=4).fit(np.zeros((20, 2)), np.arange(20) % 2)


@pytest.mark.parametrize("seq_len", [1, 48])
def test_size(seq_len):
    model = InformerClassifier(seq_len, d_model=8, n_heads=2, max_epochs=1).fit(np.zeros((30, 5)), np.arange(30) % 3)
    block = (8 + 1) * 3 * 8 + (8 + 1) * 8 + (8 + 1) * 32 + (32 + 1) * 8 + 2 * 16
    assert model.n_parameters_ == (3 * 5 + 1) * 8 + 2 * block + (3 * 8 + 1) * 8 + 16 + (8 + 1) * 3
