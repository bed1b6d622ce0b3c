"""A Qlib data folder of synthetic bars, and what is asked of Qlib in processes of its own.

pyqlib changes global state when it is started (logging, MLflow, exit handlers), so it is never
started in the test process.
"""

from __future__ import annotations

import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ensemble_kit.datasets import make_bars

N_DAYS, N_INSTRUMENTS = 300, 12
MARKETS = {"walk": 0.0, "signal": 2.0}


def daily_panel(market: str) -> pd.DataFrame:
    """Daily bars with naive dates, as Qlib has them."""
    names = [f"{market[0].upper()}{i:02d}" for i in range(N_INSTRUMENTS)]
    bars = make_bars(N_DAYS, instruments=names, signal=MARKETS[market], bar="390min", random_state=len(market))
    dates = bars.index.levels[0].tz_localize(None).normalize()
    return bars.set_axis(bars.index.set_levels(dates, level=0)).astype(np.float32)


def write_folder(folder: Path) -> Path:
    """Write the bars of both markets, with a factor of 0.5 and a benchmark, as Qlib's own dump script would."""
    panels = {market: daily_panel(market) for market in MARKETS}
    days = panels["walk"].index.levels[0]
    for name in ("calendars", "instruments", "features"):
        (folder / name).mkdir(parents=True)
    (folder / "calendars" / "day.txt").write_text("\n".join(days.strftime("%Y-%m-%d")) + "\n")
    span = f"\t{days[0]:%Y-%m-%d}\t{days[-1]:%Y-%m-%d}\n"
    everything = {"INDEX": panels["walk"].groupby(level=0).mean()}
    for market, panel in panels.items():
        parts = {name: part.droplevel(1) for name, part in panel.groupby(level=1)}
        (folder / "instruments" / f"{market}.txt").write_text("".join(name + span for name in parts))
        everything |= parts
    (folder / "instruments" / "all.txt").write_text("".join(name + span for name in everything))
    for name, part in everything.items():
        home = folder / "features" / name.lower()
        home.mkdir()
        for field, values in part.assign(factor=np.float32(0.5)).items():
            np.hstack([0, values.to_numpy()]).astype("<f4").tofile(home / f"{field}.day.bin")
    return folder


def in_qlib(script: str, data: Path, work: Path, *names: str) -> Any:
    """Run a script of this folder in a process of its own; it pickles what it found to ``found.pkl``."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name(script), data, *names],
        cwd=work,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return pickle.loads((work / "found.pkl").read_bytes())


def start_qlib(data: str) -> None:
    """Start Qlib in this process: one kernel, runs in a database of the working folder."""
    import qlib

    recorder = {
        "class": "MLflowExpManager",
        "module_path": "qlib.workflow.expm",
        "kwargs": {"uri": f"sqlite:///{Path.cwd()}/qlib.db", "default_exp_name": "tests"},
    }
    qlib.init(provider_uri=data, region="us", kernels=1, exp_manager=recorder, logging_level=40)
