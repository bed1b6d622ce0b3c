"""Two seconds of the load that `benchmarks/load.py` puts on a service for a minute."""

import importlib.util
from pathlib import Path

import pytest

FILE = Path(__file__).parents[2] / "benchmarks" / "load.py"


@pytest.mark.slow
def test_predictions_under_load_while_bars_come_in():
    spec = importlib.util.spec_from_file_location("load", FILE)
    load = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(load)
    said = load.measure(2.0, 200.0)
    assert said["requests"] == 400
    assert said["errors"] == {}
    assert set(said["bars"]) == {"taken"}
