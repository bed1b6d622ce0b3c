"""A replay in a process of its own, which is killed: `killed_replay.py STORE N_BARS`.

With `KILL_AT=n` in the environment it kills itself just before its n-th commit; the product knows nothing of it.
"""

import os
import signal
import sys

from sqlalchemy import event
from trading_parts import HISTORY, LIVE, make_trader, quick_store

from ensemble_kit.live.replay import replay
from ensemble_kit.live.store import open_store


def kill_at(engine, left):
    def count(_):
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(engine, "commit", count)


def main(url, n_bars):
    engine = open_store(url) if "postgresql" in url else quick_store(url)
    if "KILL_AT" in os.environ:
        kill_at(engine, int(os.environ["KILL_AT"]))
    trader = make_trader(engine)
    print("ready", flush=True)  # noqa: T201 - to whoever kills it
    replay(trader, LIVE[: int(n_bars)], history=HISTORY)
    trader.close()
    engine.dispose()


if __name__ == "__main__":
    main(*sys.argv[1:])
