"""The registry's champion, taken over between bars, and taken back where its first predictions fail."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import numpy as np

from ensemble_kit.exceptions import EnsembleKitError
from ensemble_kit.live._kept import Kept
from ensemble_kit.live.records import Decision
from ensemble_kit.live.rehearsal import rehearse
from ensemble_kit.live.trader import Outcome, Trader
from ensemble_kit.tracking import CHAMPION, load_card, load_model, roll_back
from ensemble_kit.tracking._aliases import aliases_of

__all__ = ["ChampionWatch"]

#: Bars that a version is rehearsed on besides the history that one row needs.
_BARS = 400
#: Positions this much beyond a bound are rounding.
_ROUNDING = 1e-9


def _at_once(move: Callable[[], Any]) -> Future[Any]:
    done: Future[Any] = Future()
    done.set_result(move())
    return done


class ChampionWatch:
    """Look at the registry now and then, and let its champion trade once it has passed the checks.

    A new champion is loaded and rehearsed (`rehearse`) beside the one that trades, which never
    waits for it; then they are swapped between two bars. Its first decisions are checked, too:
    where the model fails, asks for a position beyond the bounds, or says the same of each bar
    while the old one did not, the old one, which is kept until then, trades again from the next
    bar on. Whenever a version fails, the registry's champion is rolled back to the version that trades,
    and the journal holds why.

    Parameters
    ----------
    name : str
        The registered model.
    trader : Trader
        Whose `version` is ``<name>/<number>``.
    every : float, default=30.0
        Seconds from one look to the next.
    n_first : int, default=20
        Decisions of a new version that are checked.
    max_seconds : float, default=1.0
        What one bar may take a new version.

    Attributes
    ----------
    between_bars : callable
        Makes a move of the trader where no bar is being taken, and returns a Future; the service
        sets its own. At once, by default.

    Notes
    -----
    A registry that does not answer changes nothing: the service goes on with the version it has,
    and what could not be rolled back is, once it answers. A copy of each version that takes over
    is kept beside the journal: `ensemble-kit serve` begins with the version that decided last, and
    a champion that came meanwhile is rehearsed beside that one.
    """

    def __init__(
        self, name: str, trader: Trader, *, every: float = 30.0, n_first: int = 20, max_seconds: float = 1.0
    ) -> None:
        if not every > 0 or n_first < 1:
            raise EnsembleKitError(
                f"`every` must be above 0 seconds and `n_first` at least 1; got {every:g} and {n_first}."
            )
        self.name, self.trader, self.every, self.n_first, self.max_seconds = name, trader, every, n_first, max_seconds
        self.between_bars: Callable[[Callable[[], Any]], Future[Any]] = _at_once
        self._looking, self._wake, self._ended = threading.Lock(), threading.Event(), False
        self._thread: threading.Thread | None = None
        self._refused: set[int] = set()
        self._to_roll_back: tuple[int, str] | None = None
        self._old: tuple[Any, Any, str] | None = None
        self._first: list[Decision] = []
        self._most = 1.0
        self._said = ""
        self._kept = Kept(trader.journal.engine)

    # ------------------------------------------------------------------ the thread

    def start(self) -> None:
        """Begin to look, in a thread of its own."""
        # A daemon: a registry that hangs must not keep a service from ending.
        self._thread = threading.Thread(target=self._keep_looking, name="champion", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._ended = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout=2.0)

    def _keep_looking(self) -> None:
        while not self._ended:
            try:
                self.look()
            except Exception as error:  # noqa: BLE001 - nothing here may end the watch
                self._tell("error", f"the watch of the registry failed: {type(error).__name__}: {error}")
            self._wake.wait(self.every)
            self._wake.clear()

    # ------------------------------------------------------------------ one look

    def look(self) -> str:
        """Look at the registry now, and take over a new champion if it passes.

        Returns
        -------
        str
            What was found.
        """
        with self._looking:
            try:
                self._roll_back()
                champion = aliases_of(self.name).get(CHAMPION)
            except Exception as error:  # noqa: BLE001 - a store fails in its own way, and the service goes on
                why = " ".join(str(error).split())[:300]
                return self._tell("error", f"the registry does not answer, {self.trader.version} goes on: {why}")
            # A version that failed gets another chance once another one has been champion.
            self._refused &= {champion}
            if champion is None or champion in self._refused or f"{self.name}/{champion}" == self.trader.version:
                self._said = ""
                return f"{self.trader.version} goes on"
            return self._take_over(champion)

    def _take_over(self, number: int) -> str:
        version, trader = f"{self.name}/{number}", self.trader
        try:
            uri = f"models:/{self.name}/{number}"
            model, card = load_model(uri), load_card(uri)
            bars = trader.journal.bars(newest=max(_BARS, int(card.get("min_history", 0)) + _BARS // 2))
            passed = rehearse(
                model,
                card,
                bars,
                old=trader.model,
                old_card=trader.card,
                max_position=getattr(trader.limits, "max_position", None),
                max_seconds=self.max_seconds,
            )
            old = (trader.model, trader.card, trader.version)
            self._keep(version, model, card, beside=old[2])

            def swap() -> None:
                trader.swap(model, card=card, version=version)
                self._old, self._first, self._most = old, [], passed.most

            self.between_bars(swap).result()
        except Exception as error:  # noqa: BLE001 - whatever fails in a model's files or in the model
            why = " ".join(str(error).split())[:300]
            self._refused.add(number)
            self._to_roll_back = (number, why)
            said = self._tell("model", f"{version} is not taken over, {trader.version} goes on: {why}")
            self._try_to_roll_back()
            return said
        return self._tell(
            "model", f"{version} takes over from {old[2]}; {1000 * passed.seconds:.1f} ms a bar in rehearsal"
        )

    def _keep(self, version: str, model: Any, card: Any, *, beside: str) -> None:
        try:
            self._kept.keep(version, model, card, beside=beside)
        except Exception as error:  # noqa: BLE001 - a full disk must not keep a version from trading
            self._tell("error", f"no copy of {version} was kept: {type(error).__name__}: {error}")

    # ------------------------------------------------------------------ the first predictions

    def check_first(self, outcomes: Sequence[Outcome]) -> None:
        """Check what a version has decided that took over not long ago, and go back to the old one where that fails.

        Parameters
        ----------
        outcomes : sequence of Outcome
            What `Trader.take` returned just now; to be called where no bar is being taken.
        """
        if self._old is None:
            return
        made = [one.decision for one in outcomes if one.status == "taken" and one.decision is not None]
        self._first += [decision for decision in made if decision.version == self.trader.version]
        if why := self._fault():
            model, card, version = self._old
            failed, self._old = self.trader.version, None
            number = int(failed.rpartition("/")[2])
            self._refused.add(number)
            self._to_roll_back = (number, why)
            self.trader.swap(model, card=card, version=version)
            self._tell("model", f"{version} takes over again from {failed}: {why}")
            self._wake.set()
        elif len(self._first) >= self.n_first:
            self._tell("model", f"{self.trader.version} has passed: its first {len(self._first)} predictions are sound")
            self._old = None

    def _fault(self) -> str:
        for decision in self._first:
            if decision.proba is None or decision.wanted is None:
                return f"at {decision.time}, {decision.reason}"
            if abs(decision.wanted) > self._most + _ROUNDING:
                return f"at {decision.time}, it asked for a position of {decision.wanted:g}, beyond {self._most:g}"
        if len(self._first) >= self.n_first and _is_constant(self._first):
            known = self.trader.journal.decisions(newest=len(self._first) + self.n_first)
            before = [one for one in known if self._old is not None and one.version == self._old[2]]
            if before and not _is_constant(before):
                return f"its first {len(self._first)} predictions are all the same"
        return ""

    # ------------------------------------------------------------------ the way back

    def _try_to_roll_back(self) -> None:
        try:
            self._roll_back()
        except Exception as error:  # noqa: BLE001 - the next look tries again
            self._tell("error", f"the registry was not rolled back: {' '.join(str(error).split())[:300]}")

    def _roll_back(self) -> None:
        if self._to_roll_back is None:
            return
        number, why = self._to_roll_back
        # Somebody may have named another champion meanwhile: that one has not failed.
        if aliases_of(self.name).get(CHAMPION) == number:
            try:
                # By number: where the alias was moved by hand, the champion before it is another one.
                trades = int(self.trader.version.rpartition("/")[2])
                now = roll_back(self.name, why=f"version {number} failed in the live service: {why}", to=trades)
                self._tell("model", f"the registry's champion is version {now} again, instead of {number}")
            except EnsembleKitError as error:  # none before it: somebody must name one
                self._tell("error", f"the registry's champion stays version {number}: {error}")
        self._to_roll_back = None

    def _tell(self, kind: str, text: str) -> str:
        """Write an event down, unless it is the one that was written last."""
        if text != self._said:
            self._said = text
            self.trader.journal.add_event(kind, text, at=self.trader.clock())
        return text


def _is_constant(decisions: Sequence[Decision]) -> bool:
    said = [list(decision.proba.values()) for decision in decisions if decision.proba is not None]
    return len(said) > 1 and bool(np.ptp(np.array(said), axis=0).max() <= _ROUNDING)
