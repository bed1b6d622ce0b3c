"""What the models stored by `qlib_workflows.py` say after a restart. A script of `in_qlib`."""

import pickle
import sys
import warnings
from pathlib import Path


def main(data, *names):
    from qlib_folder import start_qlib

    start_qlib(data)
    from qlib.workflow import R

    scores = {}
    for name in names:
        (recorder,) = R.list_recorders(experiment_name=name).values()
        dataset = recorder.load_object("dataset")
        # Qlib stores how the data are made, and not the data.
        dataset.handler.setup_data()
        scores[name] = recorder.load_object("params.pkl").predict(dataset)
    Path("found.pkl").write_bytes(pickle.dumps(scores))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
