"""How fast each family of sequence models trains and answers, and what the wrapping costs.

    python benchmarks/networks.py
    python benchmarks/networks.py --quick
    python benchmarks/networks.py --device cuda --windows 12800

Windows of 205 rows x 80 columns, batches of 128, default networks, one thread; CPU seconds, or the
clock's around synchronised kernels on a GPU. What is compared takes turns, epoch by epoch:

- `fit` from its first batch to its last, with the same network, optimizer, gradient clipping and
  batches in a plain loop of torch. The plain loop's batches lie ready and are copied, as a loop
  that shuffles must gather them. Its loss over the first epoch is asserted equal first.
- precision="bf16" with float32.
- ProbSparse attention, forward and backward, with the published formulation of the tests; their
  outputs and gradients are asserted equal first.
- Training of LuTransformer with that of the plain transformer, of the same width and layers.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from skorch.callbacks import Callback
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from ensemble_kit.estimators import (
    CNNClassifier,
    FusionClassifier,
    InformerClassifier,
    LSTMAttentionClassifier,
    LSTMGRUClassifier,
    LuTransformerClassifier,
    SequenceEstimator,
    SequenceRegressor,
    TransformerClassifier,
    WaveTransformerRegressor,
)
from ensemble_kit.estimators._torch import resolve_device
from ensemble_kit.estimators.networks.informer import ProbSparseAttention, prob_sparse_attention

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "estimators"))

from test_informer import reference

N_FEATURES, BATCH_SIZE = 80, 128

FAMILIES: dict[str, SequenceEstimator] = {
    "LSTMGRU": LSTMGRUClassifier(),
    "LSTMAttention": LSTMAttentionClassifier(),
    "CNN": CNNClassifier(),
    "Transformer": TransformerClassifier(),
    "Transformer, causal": TransformerClassifier(causal=True),
    "Informer": InformerClassifier(),
    "LuTransformer": LuTransformerClassifier(),
    "Fusion of two": FusionClassifier([("cnn", CNNClassifier()), ("lstm_gru", LSTMGRUClassifier())]),
    "WaveTransformer": WaveTransformerRegressor(),
}


class Watch(Callback):
    """Times the training of a net, and keeps what a plain loop needs to repeat the first one."""

    def __init__(self, clock: Callable[[], float]):
        self.clock = clock
        self.first = True
        self.batches: list[Any] = []

    def on_train_begin(self, net, **_):
        """Keep the untrained network, and start."""
        if self.first:
            self.module = deepcopy(net.module_)
        self.start = self.clock()

    def on_batch_begin(self, net, batch=None, **_):  # noqa: ARG002 - skorch calls it so
        """Keep the batch."""
        if self.first:
            self.batches.append(batch)

    def on_train_end(self, net, **_):  # noqa: ARG002 - skorch calls it so
        """Stop."""
        self.seconds = self.clock() - self.start
        self.first = False


class Setting:
    """Rows, targets, the device and its clock."""

    def __init__(self, n_windows: int, seq_len: int, device: str):
        rng = np.random.default_rng(0)
        self.X = rng.normal(size=(n_windows, N_FEATURES)).astype(np.float32)
        self.labels = rng.integers(0, 3, n_windows)
        self.quantities = rng.normal(size=(n_windows, 2))
        self.seq_len = seq_len
        self.device = resolve_device(device)

    def clock(self) -> float:
        """Return the seconds that count on the device."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def timed(self, function: Callable[[], object]) -> float:
        """Return the seconds that a call takes."""
        start = self.clock()
        function()
        return self.clock() - start

    def trained(self, family: str, **parameters: Any) -> tuple[Callable[[], float], SequenceEstimator, Watch]:
        """Return what trains a model for another epoch and returns its seconds, the model, its watch."""
        watch = Watch(self.clock)
        model = deepcopy(FAMILIES[family]).set_params(
            seq_len=self.seq_len,
            batch_size=BATCH_SIZE,
            max_epochs=1,
            validation_fraction=0.0,
            device=str(self.device),
            random_state=0,
            net_params={"callbacks": [watch]},
            **parameters,
        )
        y = self.quantities if isinstance(model, SequenceRegressor) else self.labels
        model.fit(self.X, y).set_params(warm_start=True)

        def epoch() -> float:
            model.fit(self.X, y)
            return watch.seconds

        return epoch, model, watch

    def plain_loop(self, model: SequenceEstimator, watch: Watch) -> Callable[[], float]:
        """Return what trains the network for an epoch and returns the mean loss."""
        module = watch.module
        optimizer = torch.optim.AdamW(
            module.parameters(), lr=model.learning_rate, weight_decay=model.weight_decay, fused=True
        )

        def loss_of(output: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
            if isinstance(model, SequenceRegressor):
                return (output.squeeze(-1) - truth) ** 2
            return cross_entropy(output.flatten(0, -2), truth.flatten(), reduction="none").view_as(truth)

        def epoch() -> float:
            module.train()
            total = 0.0
            for gathered, (truth, weight) in watch.batches:
                x = gathered.clone().to(self.device)
                optimizer.zero_grad()
                loss = (loss_of(module(x), truth.to(self.device)) * weight.to(self.device)).mean()
                loss.backward()
                clip_grad_norm_(module.parameters(), model.gradient_clip)
                optimizer.step()
                total += loss.item() * len(x)
            return total / len(self.X)

        return epoch


def answers(model: SequenceEstimator, X: np.ndarray) -> np.ndarray:
    """Return probabilities, or quantities."""
    return model.predict(X) if isinstance(model, SequenceRegressor) else model.predict_proba(X)


def ratio(slow: Iterable[float], fast: Iterable[float]) -> str:
    """Return the median of the paired ratios, and how far they spread."""
    ratios = np.array(list(slow)) / np.array(list(fast))
    return f"{np.median(ratios):4.2f} ({ratios.min():.2f} to {ratios.max():.2f})"


def compare_family(setting: Setting, family: str, repeats: int) -> str:
    """Return a family's line of the table."""
    epoch, model, watch = setting.trained(family)
    low_epoch, low_model, _ = setting.trained(family, precision="bf16")
    plain = setting.plain_loop(model, watch)
    expected = plain()
    got = model.epochs_[0]["train_loss"]
    # The same bits on a CPU; a GPU may add up in another order.
    if not math.isclose(got, expected, rel_tol=1e-12 if setting.device.type == "cpu" else 1e-3):
        raise SystemExit(f"{family}: a loss of {got}, of {expected} in the plain loop: no ratio.")
    turns = (
        epoch,
        lambda: setting.timed(plain),
        low_epoch,
        lambda: setting.timed(lambda: answers(model, setting.X)),
        lambda: setting.timed(lambda: answers(low_model, setting.X)),
    )
    answers(model, setting.X), answers(low_model, setting.X)  # warms up
    ours, theirs, low, answered, low_answered = np.array([[turn() for turn in turns] for _ in range(repeats)]).T
    latency = np.median([setting.timed(lambda: answers(model, setting.X[:1])) for _ in range(30)])
    n = len(setting.X)
    return (
        f"{family:<20} {model.n_parameters_:>10,} {n / np.median(ours):>9,.0f} {n / np.median(answered):>9,.0f} "
        f"{1000 * latency:>8.2f}   {ratio(theirs, ours)}   {ratio(ours, low)}   {ratio(answered, low_answered)}"
    )


def compare_attention(setting: Setting, repeats: int) -> str:
    """Return the ratio of the published ProbSparse attention to ours."""
    width, n_heads = 64, 4
    attention = ProbSparseAttention(width, n_heads, length=setting.seq_len, factor=5)
    samples = attention.samples.to(setting.device)
    heads = torch.randn(4, BATCH_SIZE, n_heads, setting.seq_len, width // n_heads, device=setting.device)

    def run(attend: Callable[..., torch.Tensor]) -> list[torch.Tensor]:
        given = [part.clone().requires_grad_() for part in heads[:3]]
        output = attend(*given, samples, attention.n_active)
        output.backward(heads[3])
        return [output.detach(), *(part.grad for part in given)]

    for expected, got in zip(run(reference), run(prob_sparse_attention), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)
    both = [partial(run, attend) for attend in (reference, prob_sparse_attention)]
    seconds = np.array([[setting.timed(each) for each in both] for _ in range(3 * repeats)])
    return (
        f"published {np.median(seconds[:, 0]):.3f} s, ours {np.median(seconds[:, 1]):.3f} s, ratio {ratio(*seconds.T)}"
    )


def compare_segments(setting: Setting, repeats: int) -> str:
    """Return the ratio of the transformer's training time to LuTransformer's."""
    epochs = [setting.trained(family)[0] for family in ("Transformer", "LuTransformer")]
    return ratio(*np.array([[epoch() for epoch in epochs] for _ in range(repeats)]).T)


def cpu_flags() -> str:
    """Return which units for bfloat16 the processor has."""
    info = Path("/proc/cpuinfo")
    known = info.read_text().split() if info.exists() else []
    return ", ".join(f"{flag} {'yes' if flag in known else 'no'}" for flag in ("avx512_bf16", "amx_bf16"))


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", help="cpu, cuda, or auto")
    parser.add_argument("--windows", type=int, default=512)
    parser.add_argument("--seq-len", type=int, default=205)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="windows of 48 rows")
    args = parser.parse_args()
    if args.quick:
        args.seq_len = 48
    torch.set_num_threads(1)
    setting = Setting(args.windows, args.seq_len, args.device)
    where = f"CPU ({cpu_flags()})" if setting.device.type == "cpu" else torch.cuda.get_device_name(setting.device)
    print(f"{where}, torch {torch.__version__}; {args.windows:,} windows of {args.seq_len} x {N_FEATURES}")
    print("windows a second in training and prediction, ms for one; then ratios, medians and spread of")
    print(f"{args.repeats} epochs: plain loop's seconds / ours; float32 / bf16 in training and in prediction")
    print(
        f"{'':<20} {'parameters':>10} {'train':>9} {'predict':>9} {'one, ms':>8}   {'plain':<21}   {'bf16':<21} predict"
    )
    for family in FAMILIES:
        print(compare_family(setting, family, args.repeats), flush=True)
    print(f"ProbSparse, forward and backward: {compare_attention(setting, args.repeats)}")
    print(f"training of LuTransformer against Transformer: ratio {compare_segments(setting, args.repeats)}")


if __name__ == "__main__":
    main()
