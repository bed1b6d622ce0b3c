"""The examples of the README and the docs run as they stand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
#: Words that each page's example prints.
SAYS = {
    "README.md": ("lightgbm", "max_drawdown"),
    "docs/labels.md": ("n_purged", "bottom", "score"),
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
}


@pytest.mark.parametrize("page", SAYS)
def test_the_example_runs(page, capsys):
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    exec(compile(block, page, "exec"), {})
    out = capsys.readouterr().out
    for word in SAYS[page]:
        assert word in out


def test_every_page_has_its_words():
    assert {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} < set(SAYS)


@pytest.mark.parametrize("page", SAYS)
def test_pictures_are_there(page):
    text = (ROOT / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#:]+)\)", text):
        assert (ROOT / page).parent.joinpath(target).exists(), target
