"""A million bars through `backtest`, and the same orders in backtesting.py on a size that both can do.

    python benchmarks/backtest.py
    python benchmarks/backtest.py --bars 1000000 --there-bars 20000 --repeats 5

The same number of bars as one instrument and as a panel of a hundred, for positions that hold,
change a little on every bar, and turn round on every bar; CPU seconds with all frames and metrics,
medians after a call that compiles. Against backtesting.py (whole units, commission) the equity is
held equal to the cent at every bar first; the two are timed by turns.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
import warnings
from collections.abc import Callable
from statistics import median

import numpy as np
import pandas as pd

from ensemble_kit.datasets import make_bars
from ensemble_kit.sizing import Costs, backtest

CASH, RATE = 1_000_000.0, 1e-4


def seconds(function: Callable[[], object]) -> float:
    """Return the CPU time of one call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def ours(bars: pd.DataFrame, repeats: int, names: int) -> dict[str, float]:
    """Return CPU seconds by kind of position."""
    n, rng = len(bars), np.random.default_rng(0)
    weights = {
        "turned every 28 bars": np.sign(np.sin(np.arange(n) // names / 9)),
        "another on every bar": rng.uniform(-1, 1, n),
        "turned on every bar": np.where(np.arange(n) // names % 2, 1.0, -1.0),
    }
    costs = Costs(commission_bps=1, spread_bps=1, borrow_rate=0.02)
    found = {}
    for name, weight in weights.items():

        def run(weight: np.ndarray = weight) -> None:
            # A frame's index remembers what it was asked once; bars that have just been read know nothing.
            backtest(bars.set_axis(bars.index.copy(deep=True)), weight / names, costs=costs)

        found[name] = median([seconds(run) for _ in range(repeats + 1)][1:])
    return found


def side_by_side(n: int, repeats: int) -> tuple[float, float, int]:
    """Return CPU seconds of both, and the number of fills, once they agree."""
    try:
        import backtesting
    except ModuleNotFoundError:
        raise SystemExit("backtesting.py is not here: pip install backtesting") from None
    bars = make_bars(n, random_state=0)
    weights = np.repeat(np.random.default_rng(0).uniform(-0.9, 0.9, n // 5 + 1), 5)[:n]
    weights[0] = 0  # it cannot decide at the first bar

    class Targets(backtesting.Strategy):
        def init(self) -> None:
            pass

        def next(self) -> None:
            order = int(weights[len(self.data) - 1] * self.equity / self.data.Close[-1]) - self.position.size
            if order:
                (self.buy if order > 0 else self.sell)(size=abs(order))

    engine = backtesting.Backtest(bars.rename(columns=str.capitalize), Targets, cash=CASH, commission=RATE)

    def there() -> pd.Series:
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # its progress bar
            warnings.simplefilter("ignore")  # of what is still open at the end
            return engine.run()["_equity_curve"]["Equity"]

    def here() -> object:
        return backtest(bars, weights, costs=RATE * 1e4, cash=CASH, lot_size=1)

    result = here()
    apart = np.abs(result.equity.to_numpy() - there().to_numpy()).max()
    if apart >= 0.005:
        raise SystemExit(f"the two differ by {apart:.4f}")
    pairs = [(seconds(here), seconds(there)) for _ in range(repeats)]
    return *(median(column) for column in zip(*pairs, strict=True)), len(result.fills)


def main() -> None:
    """Read the arguments and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", type=int, default=1_000_000, help="bars in all")
    parser.add_argument("--instruments", type=int, default=100, help="of the panel")
    parser.add_argument("--there-bars", type=int, default=20_000, help="bars that backtesting.py gets, too")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    each = args.bars // args.instruments
    names = [f"s{i:03d}" for i in range(args.instruments)]
    table = {
        f"1 x {args.bars:,}": ours(make_bars(args.bars, random_state=0), args.repeats, 1),
        f"{len(names)} x {each:,}": ours(make_bars(each, instruments=names, random_state=0), args.repeats, len(names)),
    }
    print(pd.DataFrame(table).rename_axis("position, CPU s").round(3).to_string(), end="\n\n")
    here, there, fills = side_by_side(args.there_bars, args.repeats)
    print(f"{args.there_bars:,} bars, {fills:,} fills, equity equal to the cent at every bar; CPU s")
    print(f"  ensemble_kit    {here:8.4f}\n  backtesting.py  {there:8.4f}   {there / here:,.0f}x")


if __name__ == "__main__":
    main()
