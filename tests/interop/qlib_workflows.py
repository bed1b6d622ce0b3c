"""Two small workflows, as `qrun` runs them: train, predict, analyse, backtest. A script of `in_qlib`."""

import pickle
import sys
import warnings
from pathlib import Path

TREES = {
    "class": "LGBMWindowClassifier",
    "module_path": "ensemble_kit",
    "kwargs": {"seq_len": 5, "n_estimators": 25, "random_state": 0},
}
SPLIT = {"class": "WalkForwardSplit", "module_path": "ensemble_kit", "kwargs": {"n_splits": 2, "purge": 2}}
ENSEMBLE = {
    "class": "WalkForwardVotingClassifier",
    "module_path": "ensemble_kit",
    "kwargs": {"cv": SPLIT, "estimators": [["trees", TREES]]},
}
#: From bars to positions: our own columns, an ensemble, a sizer.
SIZED = {
    "class": "SizedClassifier",
    "module_path": "ensemble_kit",
    "kwargs": {
        "model": {
            "class": "sklearn.pipeline.Pipeline",
            "kwargs": {
                "steps": [
                    ["columns", {"class": "IndicatorFeatures", "module_path": "ensemble_kit"}],
                    ["vote", ENSEMBLE],
                ]
            },
        }
    },
}
LABEL = ["Ref($close, -2) / Ref($close, -1) - 1"]
PRICES = ["open", "high", "low", "close", "volume"]
LOADER = {
    "class": "QlibDataLoader",
    "kwargs": {"config": {"feature": [[f"${name}" for name in PRICES], PRICES], "label": [LABEL, ["LABEL0"]]}},
}
SEGMENTS = {"train": ("2022-01-03", "2022-07-29"), "valid": ("2022-08-01", "2022-09-30")}


def alpha158(market):
    return {
        "class": "Alpha158",
        "module_path": "qlib.contrib.data.handler",
        "kwargs": {"instruments": market, "label": LABEL},
    }


def bars(market):
    return {
        "class": "DataHandlerLP",
        "module_path": "qlib.data.dataset.handler",
        "kwargs": {"instruments": market, "data_loader": LOADER, "learn_processors": [{"class": "DropnaLabel"}]},
    }


def task(estimator, handler):
    record = {"module_path": "qlib.workflow.record_temp"}
    backtest = {
        "strategy": {
            "class": "TopkDropoutStrategy",
            "module_path": "qlib.contrib.strategy",
            "kwargs": {"signal": "<PRED>", "topk": 4, "n_drop": 1},
        },
        "backtest": {
            "start_time": "2022-10-03",
            "end_time": "2023-02-20",
            "account": 1e6,
            "benchmark": "INDEX",
            "exchange_kwargs": {"deal_price": "close", "open_cost": 0.0005, "close_cost": 0.0015, "min_cost": 5},
        },
    }
    segments = SEGMENTS | {"test": ("2022-10-03", "2023-02-24")}
    return {
        "model": {
            "class": "ClassifierModel",
            "module_path": "ensemble_kit.interop.qlib",
            "kwargs": {"estimator": estimator},
        },
        "dataset": {
            "class": "DatasetH",
            "module_path": "qlib.data.dataset",
            "kwargs": {"handler": handler, "segments": segments},
        },
        "record": [
            record | {"class": "SignalRecord"},
            record | {"class": "SigAnaRecord"},
            record | {"class": "PortAnaRecord", "kwargs": {"config": backtest}},
        ],
    }


def main(data, *names):
    from qlib_folder import start_qlib

    start_qlib(data)
    from qlib.model.trainer import task_train

    found = {}
    workflows = {
        "walk": (ENSEMBLE, alpha158("walk")),
        "signal": (ENSEMBLE, alpha158("signal")),
        "sized": (SIZED, bars("signal")),
    }
    for name in names:
        recorder = task_train(task(*workflows[name]), experiment_name=name)
        keys = {
            "pred": "pred.pkl",
            "label": "label.pkl",
            "ic": "sig_analysis/ic.pkl",
            "port": "portfolio_analysis/port_analysis_1day.pkl",
            "report": "portfolio_analysis/report_normal_1day.pkl",
        }
        found[name] = {key: recorder.load_object(path) for key, path in keys.items()}
        found[name]["metrics"] = recorder.list_metrics()
        found[name]["horizon"] = recorder.load_object("params.pkl").horizon_
    Path("found.pkl").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    # Qlib's own warnings of pandas and MLflow; errors of ours are looked at in the other tests.
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
