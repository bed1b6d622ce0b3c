"""A worker in a process of its own: `worker.py STORAGE NAME N_TRIALS SECONDS_A_TRIAL [FILE_TO_WAIT_FOR]`."""

import sys
import time
from pathlib import Path

import optuna

from ensemble_kit.tuning import create_study, tune


def objective(trial):
    x = trial.suggest_float("x", -5.0, 5.0)
    for step in range(4):
        time.sleep(float(sys.argv[4]) / 4)
        trial.report(x**2, step)
    while any(not Path(gate).exists() for gate in sys.argv[5:]):
        time.sleep(0.01)
    return x**2


if __name__ == "__main__":
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = create_study(
        sys.argv[2],
        storage=sys.argv[1],
        directions=["minimize"],
        pruner=optuna.pruners.NopPruner(),
        heartbeat_interval=1,
    )
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    tune(objective, study, n_trials=int(sys.argv[3]))
