"""Alpha158 by pyqlib's own expression engine, in a process of its own.

pyqlib changes global state on import (numpy's error state, logging, MLflow), so it never
runs in the test process. Run as a script, this file reads frames and writes columns.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

FIELDS = ("open", "high", "low", "close", "volume", "vwap")


def alpha158_by_qlib(cases: Mapping[str, pd.DataFrame]) -> dict[str, NDArray[np.float32]]:
    """Return Qlib's 158 columns for frames of one instrument each, whose rows are the calendar."""
    with tempfile.TemporaryDirectory() as folder:
        write_provider(Path(folder), list(cases.values()))
        done = subprocess.run(
            [sys.executable, __file__, folder], capture_output=True, text=True, check=False, cwd=folder, timeout=300
        )
        if done.returncode:
            raise RuntimeError(f"pyqlib failed:\n{done.stdout}\n{done.stderr}")
        with np.load(Path(folder) / "columns.npz") as columns:
            return {name: columns[f"s{i}"] for i, name in enumerate(cases)}


def write_provider(folder: Path, frames: Sequence[pd.DataFrame], names: Sequence[str] | None = None) -> None:
    """Write a Qlib data folder: frame i is instrument ``s<i>``, its row t the calendar's day t."""
    names = [f"s{i}" for i in range(len(frames))] if names is None else names
    # Alpha158 looks at the order of rows only, so that all frames can share one calendar.
    days = pd.date_range("1700-01-01", periods=max(map(len, frames)), unit="s").strftime("%Y-%m-%d")
    (folder / "calendars").mkdir()
    (folder / "instruments").mkdir()
    (folder / "calendars" / "day.txt").write_text("\n".join(days) + "\n")
    spans = [f"{name}\t{days[0]}\t{days[len(frame) - 1]}" for name, frame in zip(names, frames, strict=True)]
    (folder / "instruments" / "all.txt").write_text("\n".join(spans) + "\n")
    for name, frame in zip(names, frames, strict=True):
        home = folder / "features" / name
        home.mkdir(parents=True)
        for field in FIELDS:
            values = frame[field] if field in frame else pd.Series(np.nan, index=frame.index)
            np.hstack([0, values.to_numpy(np.float32)]).astype("<f4").tofile(home / f"{field}.day.bin")


def init_qlib(folder: Path) -> None:
    """Start pyqlib on a data folder, one kernel, quietly."""
    import qlib

    recorder = {
        "class": "MLflowExpManager",
        "module_path": "qlib.workflow.expm",
        "kwargs": {"uri": f"sqlite:///{folder}/mlflow.db", "default_exp_name": "oracle"},
    }
    qlib.init(provider_uri=str(folder), kernels=1, exp_manager=recorder, logging_level=40)


def columns_by_qlib() -> pd.DataFrame:
    """Return the 158 columns of every instrument of the folder that pyqlib was started on."""
    from qlib.contrib.data.loader import Alpha158DL
    from qlib.data import D

    fields, names = Alpha158DL.get_feature_config()
    table = D.features(D.instruments("all"), fields, freq="day", disk_cache=0)
    table.columns = names
    return table


def main(folder: Path) -> None:
    """Compute and store what `alpha158_by_qlib` reads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init_qlib(folder)
        table = columns_by_qlib()
    parts = {str(name).lower(): part.to_numpy(np.float32) for name, part in table.groupby(level="instrument")}
    np.savez(folder / "columns.npz", **parts)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
