"""The 223 causal columns of bars: how many rows, how much is unknown, and how long it takes.

Run it as it is for synthetic bars, or with files of yours: `python examples/features.py a.parquet b.csv`.
"""

import sys
import time

import numpy as np
import pandas as pd
from sklearn.pipeline import make_union

from ensemble_kit import Alpha158, ICTFeatures, IndicatorFeatures, SessionFeatures, make_bars, read_bars
from ensemble_kit.validation import check_no_lookahead

FAMILIES = {"alpha158": 158, "ictfeatures": 48, "indicatorfeatures": 14, "sessionfeatures": 3}


def describe(bars: pd.DataFrame) -> dict[str, object]:
    features = make_union(Alpha158(), ICTFeatures(), IndicatorFeatures(), SessionFeatures())
    features.set_output(transform="pandas")
    began = time.process_time()
    columns = features.fit_transform(bars)
    took = time.process_time() - began
    if columns.shape != (len(bars), sum(FAMILIES.values())) or not columns.index.equals(bars.index):
        raise SystemExit(f"expected one row a bar and {sum(FAMILIES.values())} columns; got {columns.shape}")
    if np.isinf(columns.to_numpy()).any():
        raise SystemExit("expected NaN where nothing is known, never infinity")
    family = columns.columns.str.split("__").str[0]
    unknown = {name: f"{columns.loc[:, family == name].isna().to_numpy().mean():.1%}" for name in FAMILIES}
    leak = check_no_lookahead(features, bars.iloc[-600:], random_state=0)
    return {"rows": len(bars), **unknown, "CPU s": round(took, 2), "look-ahead": "none" if leak.ok else "FOUND"}


def main(*files: str) -> None:
    describe(make_bars(500, random_state=0))  # compile, so that times are those of the second call
    table = {}
    for file in files:
        table[file.rsplit("/", 1)[-1]] = describe(read_bars(file))
    if not files:
        table["synthetic, one instrument"] = describe(make_bars(5000, random_state=0))
        table["synthetic, panel of three"] = describe(make_bars(2000, instruments=["A", "B", "C"], random_state=0))
    print("Share of unknown cells by family, time of all 223 columns, and look-ahead found\n")
    print(pd.DataFrame(table).T.to_string())


if __name__ == "__main__":
    main(*sys.argv[1:])
