"""Feeding windows of 205 bars x 80 columns: from the matrix, against materialised ones.

    python benchmarks/windows.py
    python benchmarks/windows.py --quick

Batches of 128, shuffled, as `fit` is fed them. The default is a skorch net as it comes: its data
set, one `__getitem__` a window, torch's collate; its windows lie ready in one array, and the time
to make that is not counted. The batches are asserted equal first. CPU seconds are of both on the
same bars, interleaved: of going through the batches, and of a whole `fit` of one epoch whose
network does almost nothing. Peak memory is that of such a `fit` in a fresh process, above the
libraries and the matrix. The array of all windows has an exact size, and is made only as far as
`--materialised` says. Needs Linux (/proc).

The default's seconds vary threefold with whether the C library gives each batch's memory back to
the system. Its best case: MALLOC_TRIM_THRESHOLD_=1000000000 MALLOC_MMAP_THRESHOLD_=1000000000.
"""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from skorch import NeuralNetClassifier
from skorch.callbacks import Callback
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ensemble_kit.estimators import SequenceClassifier

SEQ_LEN, N_FEATURES, BATCH_SIZE = 205, 80, 128
BYTES_A_BAR = SEQ_LEN * N_FEATURES * np.float32().nbytes
MIB = 2**20


class Newest(nn.Module):
    """The newest row of each window."""

    n_outputs = N_FEATURES

    def forward(self, x: Tensor) -> Tensor:
        """Return it."""
        return x[:, -1]


class Feed(SequenceClassifier):
    """A sequence model whose network costs next to nothing."""

    def _build_trunk(self, n_features: int) -> nn.Module:  # noqa: ARG002 - the base says so
        return Newest()


class Iterator(Callback):
    """What a net takes its batches from."""

    def on_train_begin(self, net, X=None, y=None, **_):
        """Make another one like the net's."""
        self.batches = net.get_iterator(net.get_dataset(X, y), training=True)


def make_columns(n_bars: int) -> tuple[np.ndarray, np.ndarray]:
    """Return seeded columns and classes."""
    rng = np.random.default_rng(0)
    return rng.normal(size=(n_bars, N_FEATURES)).astype(np.float32), rng.integers(0, 3, n_bars)


def materialise(X: np.ndarray) -> np.ndarray:
    """Return all windows as one array, made without a second copy."""
    windows = np.zeros((len(X), SEQ_LEN, N_FEATURES), dtype=np.float32)
    for row in range(len(X)):
        first = max(0, row - SEQ_LEN + 1)
        windows[row, SEQ_LEN - 1 - row + first :] = X[first : row + 1]
    return windows


def fit_ours(X: np.ndarray, y: np.ndarray, **net_params: object) -> None:
    """Feed an epoch from the matrix."""
    Feed(
        SEQ_LEN,
        max_epochs=1,
        batch_size=BATCH_SIZE,
        validation_fraction=0.0,
        device="cpu",
        random_state=0,
        net_params=net_params,
    ).fit(X, y)


def fit_default(windows: np.ndarray, y: np.ndarray, **net_params: object) -> None:
    """Feed an epoch from the array of all windows."""
    NeuralNetClassifier(
        nn.Sequential(Newest(), nn.Linear(N_FEATURES, 3)),
        criterion=nn.CrossEntropyLoss,
        optimizer=torch.optim.AdamW,
        max_epochs=1,
        batch_size=BATCH_SIZE,
        iterator_train__shuffle=True,
        train_split=None,
        verbose=0,
        **net_params,
    ).fit(windows, y)


def batches_of(fit: Callable[..., None], source: np.ndarray, y: np.ndarray) -> DataLoader:
    """Return what a net takes its batches from, in the order of one seed."""
    iterator = Iterator()
    fit(source, y, callbacks=[iterator], iterator_train__generator=torch.Generator().manual_seed(0))
    return iterator.batches


def assert_equal(X: np.ndarray, y: np.ndarray) -> None:
    """Stop unless both feed the same batches."""
    same = [
        torch.equal(x, other) and torch.equal(truth[:, 0], other_truth)
        for (x, (truth, _)), (other, other_truth) in zip(
            batches_of(fit_ours, X, y), batches_of(fit_default, materialise(X), y), strict=True
        )
    ]
    if not all(same):
        raise SystemExit(f"{same.count(False)} of {len(same)} batches differ: no ratio.")


def memory(field: str) -> int:
    """Return a line of the process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def peak(ours: bool, n_bars: int) -> int:
    """Return the most memory that an epoch holds above libraries and matrix, in bytes."""
    torch.set_num_threads(1)
    few, classes = make_columns(2 * BATCH_SIZE)
    fit_ours(few, classes) if ours else fit_default(materialise(few), classes)  # what is loaded late
    X, y = make_columns(n_bars)
    Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
    before = memory("VmRSS")
    fit_ours(X, y) if ours else fit_default(materialise(X), y)
    return memory("VmHWM") - before


def timed(function: Callable[[], object]) -> float:
    """Return CPU seconds of the process."""
    start = time.process_time()
    function()
    return time.process_time() - start


def compare_memory(n_bars: int, n_materialised: int) -> None:
    """Print the peaks of both and their ratio for all bars."""
    runs = [(False, n_materialised // 2), (False, n_materialised), (True, n_bars)]
    # A process each. Not forked: a fork after torch's threads hangs.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        half, some, ours = pool.map(peak, *zip(*runs, strict=True))
    slope = (some - half) / (n_materialised - n_materialised // 2)
    full = n_bars * BYTES_A_BAR
    print("peak memory above libraries and matrix")
    print(
        f"  default, {n_materialised:>7,} bars   {some / MIB:9,.0f} MiB measured: {slope:,.0f} bytes for each more bar"
    )
    print(f"  default, {n_bars:>7,} bars   {full / MIB:9,.0f} MiB: {BYTES_A_BAR:,} bytes a bar, not made")
    print(f"  ours,    {n_bars:>7,} bars   {ours / MIB:9,.0f} MiB measured: {ours / full:.2%}")


def compare_time(n_bars: int, n_materialised: int, repeats: int) -> None:
    """Time both, interleaved, and print medians and their ratio."""
    X, y = make_columns(n_materialised)
    windows = materialise(X)
    drain = partial(deque, maxlen=0)
    parts = {
        "batches alone": [
            partial(drain, batches_of(fit, source, y)) for fit, source in ((fit_default, windows), (fit_ours, X))
        ],
        "whole fit": [partial(fit_default, windows, y), partial(fit_ours, X, y)],
    }
    print(f"CPU seconds an epoch of {n_materialised:,} bars, median of {repeats}, one thread")
    for name, (default, ours) in parts.items():
        seconds = np.array([(timed(default), timed(ours)) for _ in range(repeats + 1)])[1:]  # the first warms up
        ratios = seconds[:, 0] / seconds[:, 1]
        theirs, mine = np.median(seconds, axis=0)
        print(
            f"  {name:<14} default {theirs:.3f}, ours {mine:.3f}: ratio {np.median(ratios):.1f} "
            f"(from {ratios.min():.1f} to {ratios.max():.1f})"
        )
    spent = timed(partial(drain, batches_of(fit_ours, *make_columns(n_bars))))
    print(f"  batches alone, ours, {n_bars:,} bars: {spent:.3f}")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=200_000)
    parser.add_argument("--materialised", type=int, default=20_000, help="bars that the default is run on")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="a quarter of the bars for the default, three repeats")
    args = parser.parse_args()
    if args.quick:
        args.materialised, args.repeats = args.materialised // 4, 3
    torch.set_num_threads(1)
    assert_equal(*make_columns(2_000))
    print(f"windows of {SEQ_LEN} x {N_FEATURES}, batches of {BATCH_SIZE}, equal in both")
    compare_memory(args.bars, args.materialised)
    compare_time(args.bars, args.materialised, args.repeats)


if __name__ == "__main__":
    main()
