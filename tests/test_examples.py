"""The scripts in examples/ run as they stand."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


#: What each script prints, and how many pictures it leaves.
SAYS = {
    "beliefs": ("never seen", 3),
    "features": ("look-ahead", 0),
    "fusion": ("the same positions: True", 1),
    "gold_waves": ("On the test block", 2),
    "holdout": ("auc_pr_surrogate", 12),
    "labels": ("buy_sell_hold", 1),
    "regime": ("no penalty for error", 34),
    "ticks": ("rule: heavier side", 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.py")), ids=lambda script: script.stem)
def test_the_example_runs(script, tmp_path):
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    words, n_pictures = SAYS[script.stem]
    assert words in done.stdout
    assert "FOUND" not in done.stdout
    assert len(list(tmp_path.rglob("*.png"))) == n_pictures
