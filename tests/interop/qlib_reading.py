"""Qlib's data in our Pipelines, and what is refused. A script of `in_qlib`."""

import pickle
import sys
import warnings
from pathlib import Path

import pandas as pd
from sklearn.base import clone
from sklearn.pipeline import make_pipeline, make_union

from ensemble_kit import IndicatorFeatures, LGBMWindowClassifier, WalkForwardSplit, check_no_lookahead
from ensemble_kit.features import Alpha158
from ensemble_kit.interop.qlib import ClassifierModel, QlibFeatures, qlib_bars
from ensemble_kit.labels import next_direction
from ensemble_kit.validation import walk_forward_predict

#: Recursive and expanding ones among them: where the rows asked for begin must not matter.
FIELDS = ["EMA($close, 10) / $close", "Mean($close, 0) / $close", "Corr($close, Log($volume + 1), 10)", "$factor"]
EXPRESSIONS = [
    "$close",
    "Ref($close, 3)",
    "Ref($close, -2) / Ref($close, -1) - 1",
    "Mean(Ref($close, -3), 5)",
    "Delta($close, -1)",
    "If(Gt($open, $close), Delta($high, -4), $low)",
    "Ref(Ref($close, -2), -1)",
]


def refused(what):
    try:
        what()
    except ValueError as error:
        return type(error).__name__, str(error)
    return None


def main(data):
    found = {
        "not started": refused(qlib_bars),
        "not started, features": refused(lambda: QlibFeatures(["$close"]).fit([[0.0]])),
    }
    from qlib_folder import start_qlib

    start_qlib(data)
    from qlib.contrib.data.loader import Alpha158DL
    from qlib.data.dataset import DatasetH
    from qlib.data.dataset.handler import DataHandlerLP
    from qlib_workflows import LOADER

    from ensemble_kit.interop._qlib_expressions import bars_ahead

    panel = qlib_bars("walk")
    found["panel"] = panel
    found["two"] = qlib_bars(["W03", "W01"], "2022-03-01", "2022-03-04")
    found["ahead"] = {field: bars_ahead(field) for field in EXPRESSIONS}

    few = panel[panel.index.get_level_values(1).isin(["W00", "W05"])]
    fields, names = Alpha158DL.get_feature_config()
    of_qlib = QlibFeatures(fields, names=names).set_output(transform="pandas").fit_transform(few)
    found["alpha158"] = of_qlib, Alpha158().set_output(transform="pandas").fit_transform(few)

    features = QlibFeatures(FIELDS).fit(panel)
    found["whole"], found["newest"] = features.transform(panel), features.transform(panel.iloc[-600:])
    found["reloaded"] = pickle.loads(pickle.dumps(features)).transform(panel)
    found["audit"] = check_no_lookahead(QlibFeatures(FIELDS), few, n_prefixes=4)
    union = make_union(QlibFeatures(FIELDS), IndicatorFeatures(("momentum",)))
    model = make_pipeline(union, LGBMWindowClassifier(3, n_estimators=5, random_state=0))
    model.set_output(transform="pandas")
    fitted = clone(model).fit(*next_direction(few).align(few))
    found["audit of a model"] = check_no_lookahead(fitted, few, n_prefixes=2)
    labels = next_direction(panel)
    X, y = labels.align(panel)
    out = walk_forward_predict(model, X, y, cv=WalkForwardSplit(2, t1=labels.t1), method="predict_proba")
    found["covered"] = int(out.covered.sum())

    late = few.set_axis(few.index.set_levels(few.index.levels[0] + pd.Timedelta("1D"), level=0))
    other = few.rename(index={"W05": "NOPE"}, level=1).sort_index()
    utc = few.set_axis(few.index.set_levels(few.index.levels[0].tz_localize("UTC"), level=0))
    handler = DataHandlerLP(instruments="walk", data_loader=LOADER, learn_processors=[])
    dataset = DatasetH(handler, {"train": ("2022-01-03", "2022-12-30")})
    tree = LGBMWindowClassifier(3, n_estimators=5)

    def loading(fields, *, nested=False):
        loader = {"class": "QlibDataLoader", "module_path": "qlib.data.dataset.loader"}
        label = ["Ref($close, -2) / Ref($close, -1) - 1"]
        if nested:
            loaders = [loader | {"kwargs": {"config": {"feature": fields}}}]
            loaders.append(loader | {"kwargs": {"config": {"label": label}}})
            loader = {"class": "NestedDataLoader", "module_path": "qlib.data.dataset.loader"}
            loader["kwargs"] = {"dataloader_l": loaders}
        else:
            loader["kwargs"] = {"config": {"feature": fields, "label": label}}
        segments = {"train": ("2022-01-03", "2022-11-30"), "test": ("2022-12-01", "2022-12-30")}
        return DatasetH(DataHandlerLP(instruments="walk", data_loader=loader, learn_processors=[]), segments)

    causal = ClassifierModel(tree)
    causal.fit(loading(["$close / Ref($close, 5)"], nested=True))
    found["horizon of nested loaders"] = causal.horizon_
    peeking = ["$close / Ref($close, 5)", "Ref($close,-2)/Ref($close,-1)-1", "Delta($open, -1)"]
    found["refused"] = {
        "ahead": refused(lambda: QlibFeatures(["$open", *EXPRESSIONS[3:5]]).fit(few)),
        "resampled": refused(lambda: QlibFeatures(["TResample($close, '1W', 'last')"]).fit(few)),
        "unknown operator": refused(lambda: QlibFeatures(["Foo($close)"]).fit(few)),
        "constant": refused(lambda: QlibFeatures(["1"]).fit(few)),
        "text": refused(lambda: QlibFeatures("$close").fit(few)),
        "names": refused(lambda: QlibFeatures(["$close", "$open"], names=["a", "a"]).fit(few)),
        "one instrument": refused(lambda: QlibFeatures(["$close"]).fit(few.xs("W00", level=1))),
        "zone": refused(lambda: QlibFeatures(["$close"]).fit(utc)),
        "late": refused(lambda: features.transform(late)),
        "instrument": refused(lambda: features.transform(other)),
        "no bars": refused(lambda: qlib_bars("walk", "2030-01-01")),
        "horizon": refused(lambda: ClassifierModel(tree, horizon=1).fit(dataset)),
        "handler": refused(lambda: ClassifierModel(tree).fit(loading(peeking))),
        "nested handler": refused(lambda: ClassifierModel(tree).fit(loading(peeking, nested=True))),
        "handler at prediction": refused(lambda: causal.predict(loading(peeking[1:2]))),
        "no such column": refused(lambda: QlibFeatures(["$nope"]).fit(few).transform(few)),
        "no such column nor instrument": refused(lambda: QlibFeatures(["$nope"]).fit(other).transform(other)),
        "no such instrument": refused(lambda: qlib_bars(["W00", "ZZZ", "YYY"])),
        "no such market": refused(lambda: qlib_bars("csi9")),
        "no such frequency": refused(lambda: qlib_bars("walk", freq="7min")),
        "no such frequency, features": refused(lambda: QlibFeatures(["$close"], freq="7min").fit(few).transform(few)),
        "part of a window ahead": refused(lambda: QlibFeatures(["EMA($close,-0.5)"]).fit(few)),
        "text as a window": refused(lambda: QlibFeatures(["Ref($close,'-1')"]).fit(few)),
        "part of a window": refused(lambda: QlibFeatures(["Ref($close,1.5)"]).fit(few).transform(few)),
    }
    # A longer horizon than the label's is only more careful.
    careful = ClassifierModel(tree, horizon=5)
    careful.fit(dataset)
    found["horizon"] = careful.horizon_
    Path("found.pkl").write_bytes(pickle.dumps(found))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(sys.argv[1])
