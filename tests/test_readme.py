"""The README's first example is what runs here."""

import re
from pathlib import Path

import pytest

README = Path(__file__).parents[1] / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def test_there_is_an_example():
    assert len(BLOCKS) == 1


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.splitlines()[0])
def test_the_example_runs(block, capsys):
    exec(compile(block, str(README), "exec"), {})
    out = capsys.readouterr().out
    assert "lightgbm" in out
    assert "max_drawdown" in out
