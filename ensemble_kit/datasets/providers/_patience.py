"""How long to wait before asking again, and how often to ask at all."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TypeVar

from ensemble_kit.exceptions import ProviderError, TryAgainError

__all__ = ["Pace", "Pages", "Patience"]

_logger = logging.getLogger(__name__)
_clock = time.monotonic
_sleep = time.sleep

_LONGEST = 60.0
_MINUTE = 60.0

T = TypeVar("T")


@dataclass
class _Time:
    """Until when one request may take, all of its tries and pages together."""

    who: str
    seconds: float
    until: float

    def check(self) -> None:
        if _clock() > self.until:
            raise ProviderError(
                f"{self.who} must give all pages within {self.seconds:g} s; it still has more. "
                "Ask for less at once, or give a longer `patience`."
            )


#: What `Patience.ask` allows the request that is being made; a client lies between it and the pages.
_time: ContextVar[_Time | None] = ContextVar("time", default=None)


@dataclass(frozen=True)
class Patience:
    """How long to go on asking a provider that asks to be asked again.

    The n-th wait is 2^(n - 1) seconds, at most 60, less a random part of up to a half, so that
    many who were refused together do not come back together; or what the provider's
    ``Retry-After`` says, where that is longer.

    Attributes
    ----------
    tries : int
        How often one request is made at most.
    seconds : float
        How long one request may take in all, its pages and waits included, but for waits at a plan's own pace. A wait
        that would not end in time is not begun.

    Examples
    --------
    >>> from ensemble_kit.datasets.providers.fetch import Patience
    >>> Patience(tries=1).ask(lambda: "bars", "yahoo")
    'bars'
    """

    tries: int = 6
    seconds: float = 300.0

    def __post_init__(self) -> None:
        if self.tries < 1 or not self.seconds > 0:
            raise ProviderError(
                f"`patience` must allow at least one try and some time; got tries={self.tries}, "
                f"seconds={self.seconds:g}. Leave it out for 6 tries in 300 s."
            )

    def ask(self, call: Callable[[], T], who: str) -> T:
        """Call until it answers.

        Parameters
        ----------
        call : callable
            Makes the request. Only its `TryAgainError` is followed by another call.
        who : str
            The provider.

        Returns
        -------
        object
            What it returned.

        Raises
        ------
        ProviderError
            If tries or time are used up.
        """
        with _timed(_Time(who, self.seconds, _clock() + self.seconds)) as time:
            return self._ask(call, who, time)

    def _ask(self, call: Callable[[], T], who: str, time: _Time) -> T:
        for made in range(1, self.tries + 1):
            try:
                return call()
            except TryAgainError as error:
                last = error
            wait = max(last.retry_after or 0.0, _back_off(made))
            if made == self.tries or _clock() + wait > time.until:
                break
            _logger.info("%s Asking again in %.1f s (%d of %d tries made).", last, wait, made, self.tries)
            _sleep(wait)
        raise ProviderError(
            f"{who} must answer within {self.tries} tries and {self.seconds:g} s; got no answer in {made}, and was to "
            f"wait {wait:.0f} s more. At last: {last} Ask for less at once, or give a longer `patience`."
        ) from last


@contextmanager
def _timed(time: _Time) -> Iterator[_Time]:
    before = _time.set(time)
    try:
        yield time
    finally:
        _time.reset(before)


def _back_off(made: int) -> float:
    return min(_LONGEST, 2.0 ** (made - 1)) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class Pace:
    """Lets no more than so many requests out in any minute; the next waits for its turn.

    It stands before every single request, each page included: a refusal on the sixth page
    would cost the five before it.

    Parameters
    ----------
    per_minute : int
        As many as the provider's plan allows.

    Raises
    ------
    ProviderError
        If that is none.
    """

    def __init__(self, per_minute: int) -> None:
        if per_minute < 1:
            raise ProviderError(f"`per_minute` must be at least 1; got {per_minute}. Give what the plan allows.")
        self.per_minute = per_minute
        self._made: deque[float] = deque(maxlen=per_minute)
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Return when the next request may be made, and count it."""
        with self._lock:
            if len(self._made) == self.per_minute and (turn := self._made[0] + _MINUTE - _clock()) > 0:
                _sleep(turn)
                if time := _time.get():
                    time.until += turn
            self._made.append(_clock())


class Pages:
    """The pages of one answer: each at its turn, none of them twice, all in the time that `Patience` allows.

    Parameters
    ----------
    pace : Pace
        The provider's.
    who : str
        The provider.
    """

    def __init__(self, pace: Pace, who: str) -> None:
        self._pace = pace
        self._who = who
        self._asked: set[str] = set()

    def turn(self, address: str) -> None:
        """Return when the next page may be asked for.

        Parameters
        ----------
        address : str
            Where it lies, with all that tells it from the others.

        Raises
        ------
        ProviderError
            If it was asked for before, so that there would be no end, or the time is over.
        """
        if address in self._asked:
            raise ProviderError(
                f"{self._who} must name a new page after each; it named the same one twice. "
                "Ask for less at once, and tell the provider."
            )
        if self._asked and (time := _time.get()):
            time.check()
        self._asked.add(address)
        self._pace.wait()
