"""Qlib's bars and expressions in our Pipelines, read by a Qlib that really runs."""

import numpy as np
import pandas as pd
import pytest
from qlib_folder import daily_panel, in_qlib, write_folder

from ensemble_kit.bars import check_bars


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    work = tmp_path_factory.mktemp("qlib_reading")
    return in_qlib("qlib_reading.py", write_folder(work / "data"), work)


def test_bars_are_those_of_the_folder(found):
    # The bin files hold float32; `vwap`, of which the folder knows nothing, is left out.
    written = daily_panel("walk").assign(factor=np.float32(0.5)).astype(np.float64)
    pd.testing.assert_frame_equal(found["panel"], written, check_exact=True, check_index_type=False)
    assert check_bars(found["panel"]) is found["panel"]
    two = written.loc["2022-03-01":"2022-03-04"].loc[(slice(None), ["W01", "W03"]), :]
    pd.testing.assert_frame_equal(found["two"], two, check_exact=True, check_index_type=False)


def test_how_far_an_expression_looks_ahead(found):
    assert list(found["ahead"].values()) == [0, 0, 2, 3, 1, 4, 3], found["ahead"]


def test_qlibs_alpha158_is_ours_on_the_same_bars(found):
    of_qlib, ours = found["alpha158"]
    assert of_qlib.columns.equals(ours.columns)
    np.testing.assert_allclose(of_qlib, ours, rtol=1e-4, atol=1e-4)


def test_rows_do_not_depend_on_where_the_rows_begin(found):
    np.testing.assert_array_equal(found["newest"], found["whole"][-600:])
    np.testing.assert_array_equal(found["reloaded"], found["whole"])


def test_nothing_looks_ahead(found):
    assert found["audit"].ok
    assert found["audit of a model"].ok
    assert found["covered"] > 2000


AHEAD = "`fields` must look at their own bar and earlier ones; got 'Mean(Ref($close, -3), 5)' (3 ahead), "
PEEKING = (
    "`dataset` features must look at their own bar and earlier ones; got 'Ref($close,-2)/Ref($close,-1)-1' (2 ahead), "
    "'Delta($open, -1)' (1 ahead). What looks ahead is a label: give it to Qlib's handler as one."
)
WINDOW = "`fields` must have whole numbers as windows, or shares between 0 and 1 for EMA; got '{}'. "
EXPECTED = {
    "ahead": ("LeakageError", AHEAD + "'Delta($close, -1)' (1 ahead). What looks ahead is a label: "),
    "resampled": ("EnsembleKitError", "`fields` must not resample; got \"TResample($close, '1W', 'last')\": "),
    "unknown operator": ("EnsembleKitError", "`fields` must hold expressions that Qlib knows; got 'Foo($close)': The "),
    "constant": ("EnsembleKitError", "`fields` must hold expressions of Qlib's columns; got '1', a constant. Write"),
    "text": ("EnsembleKitError", "`fields` must be a list of expressions; got '$close'. Pass ['$close / "),
    "names": ("EnsembleKitError", "`names` must name each of the 2 field(s) once; got ['a', 'a']. Leave it out to "),
    "one instrument": ("BarsError", "`X` must be a panel with an index (datetime, instrument), its times naive as "),
    "zone": ("BarsError", "`X` must be a panel with an index (datetime, instrument), its times naive as Qlib's; got"),
    "late": ("BarsError", "`X` must have times that Qlib's provider knows; got 2022-01-08 00:00:00 (60 such times). "),
    "instrument": ("BarsError", "`X` must have instruments that Qlib's provider knows; got NOPE (1 such instruments)"),
    "no bars": ("BarsError", "`instruments` must have bars from 2030-01-01 to None; Qlib has none of 'walk'. Widen"),
    "horizon": ("LeakageError", "`horizon` must be at least 2, as far as the label Ref($close, -2) / Ref($close, -1)"),
    "handler": ("LeakageError", PEEKING),
    "nested handler": ("LeakageError", PEEKING),
    "handler at prediction": ("LeakageError", PEEKING.partition(", 'Delta")[0] + ". What looks ahead"),
    "no such column": (
        "EnsembleKitError",
        "`fields` must be of columns that Qlib's provider has; got ['$nope'], and it",
    ),
    "no such column nor instrument": (
        "EnsembleKitError",
        "`fields` must be of columns that Qlib's provider has; got [",
    ),
    "no such instrument": ("BarsError", "`instruments` must have bars from None to None; Qlib has none of ZZZ, YYY. "),
    "no such market": (
        "BarsError",
        "`instruments` and `freq` must be those of Qlib's provider folder; got 'csi9' and ",
    ),
    "no such frequency": (
        "BarsError",
        "`instruments` and `freq` must be those of Qlib's provider folder; got 'walk' a",
    ),
    "no such frequency, features": ("EnsembleKitError", "`fields` must be what Qlib can compute at freq='7min'; got "),
    "part of a window ahead": ("EnsembleKitError", WINDOW.format("EMA($close,-0.5)")),
    "text as a window": ("EnsembleKitError", "`fields` must have whole numbers as windows, or shares between 0 and 1 "),
    "part of a window": ("EnsembleKitError", "`fields` must be what Qlib can compute at freq='day'; got ['Ref($close,"),
}


@pytest.mark.parametrize("case", EXPECTED)
def test_what_is_refused(found, case):
    kind, message = found["refused"][case]
    assert kind == EXPECTED[case][0]
    assert message.startswith(EXPECTED[case][1])


def test_refusals_are_all_looked_at(found):
    assert found["refused"].keys() == EXPECTED.keys()
    assert found["horizon"] == 5
    assert found["horizon of nested loaders"] == 2
    message = "`qlib` must be started before its data are read; got none. Call "
    message += "`qlib.init(provider_uri=..., kernels=1)` first."
    assert found["not started"] == found["not started, features"] == ("EnsembleKitError", message)
