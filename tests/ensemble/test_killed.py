"""Whatever happens to a run and to its files, the next one ends with the same bits."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

JOB = Path(__file__).with_name("killed_job.py")


def run(what, folder, times, seed=0):
    done = subprocess.run(
        [sys.executable, JOB, what, folder, str(times), str(seed)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    return done.stdout


@pytest.mark.parametrize("times", [3, pytest.param(100, marks=pytest.mark.slow)])
def test_runs_that_are_killed_at_random_moments(tmp_path, times):
    assert f"{times} killed" in run("kill", tmp_path, times)


@pytest.mark.parametrize("times", [2, pytest.param(40, marks=pytest.mark.slow)])
def test_files_that_are_torn_or_flipped(tmp_path, times):
    assert "the same bits" in run("damage", tmp_path, times)


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_disk_that_is_full(tmp_path, times):
    assert "the same bits" in run("fill", tmp_path, times)
