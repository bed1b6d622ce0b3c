"""Whole Qlib workflows with our models: trained, stored, scored against returns, traded with costs."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from mlflow import MlflowClient
from qlib_folder import in_qlib, write_folder

from ensemble_kit.metrics import ic_summary

EXAMPLE = Path(__file__).parents[2] / "examples" / "qlib_workflow.yaml"


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("qlib") / "data")


def check_workflow(run):
    """A row a bar and instrument, the label's horizon read off, a backtest with costs."""
    score = run["pred"]["score"]
    assert score.index.names == ["datetime", "instrument"]
    assert score.between(-1, 1).all()
    assert len(score) == len(run["label"]) == 105 * 12
    assert run["horizon"] == 2
    excess = run["port"]["risk"]
    cost, free = excess["excess_return_with_cost"], excess["excess_return_without_cost"]
    assert cost["annualized_return"] < free["annualized_return"]
    assert cost["max_drawdown"] < 0
    assert run["metrics"]["IC"] == pytest.approx(run["ic"].mean())
    report = run["report"]
    assert report["account"].iloc[-1] == pytest.approx(1e6 * (1 + report["return"] - report["cost"]).prod(), rel=1e-3)


def test_from_bars_to_a_backtest(data, tmp_path):
    run = in_qlib("qlib_workflows.py", data, tmp_path, "sized")["sized"]
    check_workflow(run)


@pytest.mark.slow
def test_qlibs_columns_find_a_signal_and_none_in_random_walks(data, tmp_path):
    runs = in_qlib("qlib_workflows.py", data, tmp_path, "walk", "signal")
    for run in runs.values():
        check_workflow(run)
    low, high = interval(runs["walk"]["ic"])
    assert low < 0 < high
    assert interval(runs["signal"]["ic"])[0] > 0.1
    # What the recorder has stored, loaded in a new process.
    for name, scores in in_qlib("qlib_restart.py", data, tmp_path, *runs).items():
        np.testing.assert_array_equal(scores, runs[name]["pred"]["score"])


def interval(ic):
    summary = ic_summary(ic.dropna(), random_state=0)
    return summary["low"], summary["high"]


@pytest.mark.slow
def test_the_example_runs_through_qrun(data, tmp_path):
    config = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    config["qlib_init"]["provider_uri"] = str(data)
    handler, task = config["task"]["dataset"]["kwargs"]["handler"]["kwargs"], config["task"]
    handler |= {"instruments": "signal", "start_time": "2022-01-03", "end_time": "2023-02-24"}
    segments = {
        "train": ["2022-01-03", "2022-07-29"],
        "valid": ["2022-08-01", "2022-09-30"],
        "test": ["2022-10-03", "2023-02-24"],
    }
    task["dataset"]["kwargs"]["segments"] = segments
    trading = task["record"][2]["kwargs"]["config"]
    trading["strategy"]["kwargs"] |= {"topk": 4, "n_drop": 1}
    trading["backtest"] |= {"start_time": "2022-10-03", "end_time": "2023-02-20", "benchmark": "INDEX"}
    (tmp_path / "workflow.yaml").write_text(yaml.safe_dump(config))
    qrun = Path(sys.executable).with_name("qrun")
    done = subprocess.run(
        [qrun, "workflow.yaml"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr[-4000:]
    client = MlflowClient(tracking_uri=f"sqlite:///{tmp_path}/qlib.db")
    (run,) = client.search_runs([client.get_experiment_by_name("workflow").experiment_id])
    assert run.data.metrics["IC"] > 0.1
    assert run.data.metrics["1day.excess_return_with_cost.max_drawdown"] < 0
    assert {file.path for file in client.list_artifacts(run.info.run_id)} >= {"params.pkl", "pred.pkl", "label.pkl"}
