"""The examples of the README and the docs run as they stand."""

import re
import shlex
import subprocess
import sys
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: A python block, what stands behind its language, and the last line of text before it.
BLOCK = re.compile(r"^(?P<before>.*)\n\n?```python(?P<mark>.*)\n(?P<code>(?:.*\n)*?)```$", re.MULTILINE)
#: Words that each page's examples print.
SAYS = {
    "README.md": ("lightgbm", "max_drawdown"),
    "docs/labels.md": ("n_purged", "bottom", "score", "404 events", "it is the weight: True", "309 bets gain"),
    "docs/data.md": ("missing bars      3 in 1 gaps", "4:1", "1 copied rows dropped"),
    "docs/live.md": ("401", "taken", "too early"),
    "docs/streaming.md": ("the same as the batch: True",),
    "docs/qlib.md": ("no leak in 2 columns", "low", "Delta($close, -1)"),
    "docs/parallel.md": ("the same bits: True",),
    "docs/backtest.md": ("outperformance", "reference", "estimate"),
    "docs/tracking.md": ("FINISHED on", "weight_trees_H0"),
    "docs/registry.md": ("is champion, after version 1", "is not promoted", "rolled back"),
    "docs/serving.md": ("SPY/1", "the same positions: True", "400 `bars` must have a price on every row"),
    "docs/tuning.md": ("AUC-PR less the rule's", "num_leaves"),
    "docs/pictures.md": ("structure.pdf", "order_block"),
    "docs/sizing.md": ("reliability", "estimated payoffs", "limited"),
    "docs/confidence.md": ("base_rate", "deflated", "PBO", "direction"),
    "docs/quickstart.md": ("Skill:", "max_drawdown"),
    "docs/reading.md": ("Skill:", "auc_pr_random_walk"),
    "docs/contracts.md": ("looks back 60 bars", "no leak in 48 columns", "must be sorted"),
    "docs/own_parts.md": ("passed:", "no leak in 1 columns", "leak", "votes:"),
    "docs/features.md": ("no leak in 223 columns", "redundant with", "2 fold(s)"),
    "docs/waves.md": ("bars in 496 waves", "sideways_precision", "persistence"),
    "docs/validation.md": (
        "n_purged",
        "score",
        "no leak in 158 columns",
        "close future",
        "lookback 60 holds",
        "too short",
    ),
    "docs/estimators.md": ("lstm_gru", "stop", "lookback 5"),
    "docs/calibration.md": ("temperature", "Brier skill", "as it came"),
    "docs/ensemble.md": ("temperature", "without", "score, calibrate, weigh"),
    "docs/resampling.md": (
        "3120 bars, 169 of volume, 168 of turnover",
        "bars ahead",
        "no leak found",
        "lookback 0 is too short",
        "lookback 100 holds",
    ),
    "docs/panels.md": ("AAA as it is alone: True", "no leak in 316 columns", "close instruments", "matched_return"),
    "docs/nulls.md": ("peak_slope_bottom", "causal rule", "labels shifted", "random walks"),
    "docs/experiments.md": ("12 left out between", "LGBMWindowClassifier(n_estimators=50", "n_trees: no such key"),
}


#: Pages without python.
SAYS_NOTHING = {"docs/index.md", "docs/systems.md", "docs/words.md", "docs/gallery.md"}


def page_text(page):
    return (ROOT / page).read_text(encoding="utf-8")


def pages():
    return {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md") if "_build" not in path.parts}


@pytest.mark.parametrize("page", SAYS)
def test_the_examples_run(page, capsys, monkeypatch):
    """All blocks of a page, in order, in one module: what is defined in it can be pickled."""
    module = types.ModuleType("docs_page")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    blocks = [found["code"] for found in BLOCK.finditer(page_text(page)) if not found["mark"]]
    assert blocks
    for block in blocks:
        exec(compile(block, page, "exec"), module.__dict__)
    out = capsys.readouterr().out
    for word in SAYS[page]:
        assert word in out


def test_every_page_has_its_words():
    systems = {
        page for page in pages() if page.startswith("docs/systems/")
    }  # tests/test_examples.py runs their scripts
    assert pages() | {"README.md"} == set(SAYS) | SAYS_NOTHING | systems


@pytest.mark.parametrize("page", sorted({*SAYS, *SAYS_NOTHING, *pages()}))
def test_no_block_is_left_out_in_silence(page):
    text = page_text(page)
    found = list(BLOCK.finditer(text))
    assert len(found) == text.count("```python")
    if page not in SAYS:
        assert all(block["mark"] for block in found)
    for block in found:
        assert block["mark"] in {"", " no-run"}
        if block["mark"]:
            assert re.search(r"not run\b.*: \w+", block["before"], re.IGNORECASE), (
                "say `Not run here: <why>.` before it"
            )


@pytest.mark.parametrize("page", sorted({*SAYS, *SAYS_NOTHING, *pages()}))
def test_what_is_linked_is_there(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", page_text(page)):
        assert (ROOT / page).parent.joinpath(target).exists(), target


@pytest.mark.slow
def test_the_site_is_built_without_a_warning(tmp_path):
    (recipe,) = re.findall(r"^docs:.*\n\t\$\(BIN\)/sphinx-build (.+)$", page_text("Makefile"), re.MULTILINE)
    *options, out = shlex.split(recipe)
    assert {"-W", "--keep-going", "docs"} <= set(options)
    assert out == "docs/_build/html"
    command = [sys.executable, "-m", "sphinx", *options, tmp_path]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    assert (tmp_path / "api/names/ensemble_kit.features.Alpha158.html").exists()
