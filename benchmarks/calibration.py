"""Temperatures against scikit-learn's, the measures' seconds, and what each measure says of nulls.

    python benchmarks/calibration.py --repeats 15

One process, one thread, CPU time, runs interleaved, medians. The results are compared before
anything is timed.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import log_softmax
from sklearn.calibration import _TemperatureScaling
from threadpoolctl import threadpool_limits

from ensemble_kit.calibration import TemperatureScaling
from ensemble_kit.metrics import (
    brier_decomposition,
    brier_score,
    brier_skill,
    calibration_slope,
    expected_calibration_error,
    reliability_curve,
)

N_ROWS, N_HORIZONS = 50_000, 6
CLASSES = ["bottom", "peak", "slope"]
EVENTS = ["bottom", "peak"]


def make(n: int, n_horizons: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return true log-probabilities (n, H, K), two classes of which are rare, and classes (n, H) drawn from them."""
    rng = np.random.default_rng(seed)
    true = log_softmax(rng.normal(size=(n, n_horizons, 3)) * 1.5 + [-2, -2, 1.5], axis=2)
    codes = (np.exp(true).cumsum(axis=2) < rng.uniform(size=(n, n_horizons, 1))).sum(axis=2)
    return true, np.minimum(codes, 2)


def timed(functions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return median CPU seconds of each, one after the other in each round; the first round warms up."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(repeats + 1):
        for name, function in functions.items():
            start = time.process_time()
            function()
            seconds[name].append(time.process_time() - start)
    return {name: median(times[1:]) for name, times in seconds.items()}


def time_temperatures(repeats: int) -> None:
    """Compare one horizon's temperature with that of scikit-learn, in value and in time."""
    true, y = make(N_ROWS, 1)
    print(f"temperature of {N_ROWS:,} x 3, CPU milliseconds, median of {repeats}")
    print(f"  {'true T':>6} {'ours':>8} {'sklearn':>8} {'ratio':>6} {'bias=True':>10} {'|T - T sklearn|':>16}")
    for temperature in (0.5, 1.0, 2.0, 5.0):
        z, codes = log_softmax(temperature * true[:, 0], axis=1), y[:, 0]
        ours = TemperatureScaling().fit(z, codes).temperature_[0]
        theirs = 1 / float(_TemperatureScaling().fit(z, codes).beta_)
        if abs(ours - theirs) > 1e-4:
            raise SystemExit(f"temperatures differ: {ours} and {theirs}")
        seconds = timed(
            {
                "ours": lambda z=z, codes=codes: TemperatureScaling().fit(z, codes),
                "sklearn": lambda z=z, codes=codes: _TemperatureScaling().fit(z, codes),
                "bias": lambda z=z, codes=codes: TemperatureScaling(bias=True).fit(z, codes),
            },
            repeats,
        )
        print(
            f"  {temperature:6} {1e3 * seconds['ours']:8.1f} {1e3 * seconds['sklearn']:8.1f} "
            f"{seconds['sklearn'] / seconds['ours']:6.1f} {1e3 * seconds['bias']:10.1f} {abs(ours - theirs):16.1e}"
        )


def time_measures(repeats: int) -> None:
    """Print how long everything takes on all horizons."""
    true, codes = make(N_ROWS, N_HORIZONS)
    y, z = np.array(CLASSES)[codes], 2 * true
    proba = np.exp(true)
    fit = TemperatureScaling(bias=True).fit(z, y)
    prior = [np.mean(y == label) for label in CLASSES]
    known: dict[str, Any] = {"classes": CLASSES}
    seconds = timed(
        {
            "TemperatureScaling().fit": lambda: TemperatureScaling().fit(z, y),
            "TemperatureScaling(bias=True).fit": lambda: TemperatureScaling(bias=True).fit(z, y),
            "TemperatureScaling.transform": lambda: fit.transform(z),
            "brier_score": lambda: brier_score(y, proba, **known),
            "brier_skill": lambda: brier_skill(y, proba, prior, **known),
            "brier_decomposition": lambda: brier_decomposition(y, proba, **known),
            "expected_calibration_error": lambda: expected_calibration_error(y, proba, **known),
            "  of the top label": lambda: expected_calibration_error(y, proba, **known, kind="top_label"),
            "calibration_slope, all classes": lambda: [
                calibration_slope(y[:, h], proba[:, h], **known, event=event)
                for h in range(N_HORIZONS)
                for event in CLASSES
            ],
            "reliability_curve": lambda: reliability_curve(y, proba, **known),
        },
        repeats,
    )
    print(f"\n{N_ROWS:,} x {N_HORIZONS} horizons x 3 classes, CPU seconds, median of {repeats}")
    for name, value in seconds.items():
        print(f"  {name:<36} {value:.3f}")


def print_nulls() -> None:
    """Print what the measures say of probabilities whose worth is known."""
    true, codes = make(2 * N_ROWS, 1)
    y = np.array(CLASSES)[codes[:, 0]]
    fitted, judged = slice(0, N_ROWS), slice(N_ROWS, None)
    shares = np.array([np.mean(y[fitted] == label) for label in CLASSES])
    weighted = log_softmax(true[:, 0] + np.log([8, 8, 1]), axis=1)
    states = {
        "constant prior": np.tile(np.log(shares), (2 * N_ROWS, 1)),
        "noise around the prior": log_softmax(
            np.log(shares) + np.random.default_rng(1).normal(size=(2 * N_ROWS, 3)), axis=1
        ),
        "true probabilities": true[:, 0],
        "over-confident, T = 3": log_softmax(3 * true[:, 0], axis=1),
        "  calibrated": TemperatureScaling().fit(3 * true[fitted, 0], y[fitted]).transform(3 * true[:, 0]),
        "cost-weighted": weighted,
        "  T alone": TemperatureScaling().fit(weighted[fitted], y[fitted]).transform(weighted),
        "  T and offsets": TemperatureScaling(bias=True).fit(weighted[fitted], y[fitted]).transform(weighted),
    }
    rows = {}
    for name, log_proba in states.items():
        given = {"y": y[judged], "proba": np.exp(log_proba[judged]), "classes": CLASSES}
        slopes = [calibration_slope(**given, event=event) for event in EVENTS]
        parts = brier_decomposition(**given, events=EVENTS).mean()
        rows[name] = {
            "ECE events": expected_calibration_error(**given, events=EVENTS).to_numpy().mean(),
            "ECE top": expected_calibration_error(**given, kind="top_label").iloc[0, 0],
            "slope": np.mean([slope for slope, _ in slopes]),
            "intercept": np.mean([intercept for _, intercept in slopes]),
            "Brier skill": brier_skill(prior=shares, **given)[0],
            "reliability": parts["reliability"],
            "resolution": parts["resolution"],
        }
    print(f"\nwhat the measures say, {N_ROWS:,} rows after those fitted on; events are {shares[:2].sum():.1%} of them")
    print(pd.DataFrame.from_dict(rows, orient="index").to_string(float_format=lambda value: f"{value:.5f}"))
    print("A small ECE is what a constant prior gets: read it beside slope, skill and resolution.")


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    args = parser.parse_args()
    with threadpool_limits(1):
        time_temperatures(args.repeats)
        time_measures(max(args.repeats // 3, 1))
        print_nulls()


if __name__ == "__main__":
    main()
