"""What providers share: keys from the environment, and refusals turned into errors that hold no key."""

from __future__ import annotations

import datetime as dt
import email.utils
import os
import re

from ensemble_kit.exceptions import ProviderError, TryAgainError

__all__ = ["key_from", "missing_client", "refusal", "unreadable", "without_keys"]

#: Too many requests, a server's own fault, or one that is busy: the same request may do later.
_PASSING = frozenset({408, 425, 429, 499, 500, 502, 503, 504, 520, 522, 524})
#: Of what a server says of itself, as much as fits an error's line.
_WORDS = 200


def key_from(*names: str, who: str) -> str:
    """Return the first of some environment variables that is set.

    Parameters
    ----------
    *names : str
        Variables' names, the best first.
    who : str
        Whose key it is.

    Returns
    -------
    str
        The key.

    Raises
    ------
    ProviderError
        If none is set.
    """
    for name in names:
        if key := os.environ.get(name, "").strip():
            return key
    raise ProviderError(
        f"`{names[0]}` must be set in the environment to your {who} key; got none. "
        f"Run `read -rs {names[0]} && export {names[0]}` and type it in: it then stands in no history and no script."
    )


def without_keys(words: object, *names: str) -> str:
    """Return a server's words on one short line, with the values of environment variables blotted out.

    However they are spelt: as they are, escaped, or percent-encoded, in part or more than once.

    Parameters
    ----------
    words : object
        What it said.
    *names : str
        Variables that hold keys.

    Returns
    -------
    str
        The line.
    """
    line = " ".join(str(words).split())
    for name in names:
        if key := os.environ.get(name, "").strip():
            line = re.sub(_any_spelling(key), "***", line, flags=re.IGNORECASE)
    return line if len(line) <= _WORDS else f"{line[: _WORDS - 3]}..."


def refusal(
    status: int, words: object, *names: str, who: str, retry_after: str | None = None
) -> ProviderError | TryAgainError:
    """Return the error for an HTTP status other than 200.

    Parameters
    ----------
    status : int
        The status.
    words : object
        What the server said.
    *names : str
        Environment variables that hold its keys.
    who : str
        The provider.
    retry_after : str, default=None
        The ``Retry-After`` header: seconds, or a date.

    Returns
    -------
    ProviderError or TryAgainError
        To be raised outside of any ``except``, so that the client's own error, whose request holds
        the key, is not chained to it. A `TryAgainError` has a ``retry_after`` in seconds, or None.
    """
    said = without_keys(words, *names)
    got = f"HTTP {status}{f' ({said})' if said else ''}"
    if status in _PASSING:
        again = TryAgainError(f"{who} must answer; got {got}. Ask again later.")
        again.retry_after = _seconds(retry_after)
        return again
    if status in {401, 403}:
        keys = " and ".join(f"`{name}`" for name in names) or "the key"
        return ProviderError(
            f"{keys} must hold what {who} accepts for this request; got {got}. "
            "Check the key, and what its plan includes."
        )
    return ProviderError(f"The request must be one that {who} can answer; got {got}. Check symbol, bar and dates.")


def unreadable(why: object, *names: str, who: str) -> TryAgainError:
    """Return the error for an answer that was cut off, is no JSON, or lacks what it should have.

    Parameters
    ----------
    why : object
        What is wrong with it.
    *names : str
        Environment variables that hold the provider's keys.
    who : str
        The provider.

    Returns
    -------
    TryAgainError
        To be raised outside of any ``except``.
    """
    return TryAgainError(f"{who} must answer whole and readably; got: {without_keys(why, *names)}. Ask again later.")


def missing_client(package: str, extra: str) -> ProviderError:
    """Return the error for a client that is not installed.

    Parameters
    ----------
    package : str
        The client's name.
    extra : str
        The extra that brings it.

    Returns
    -------
    ProviderError
        To be raised.
    """
    return ProviderError(
        f"`{package}` must be installed for these bars; it is not. Run `pip install 'ensemble-kit[{extra}]'`."
    )


def _any_spelling(key: str) -> str:
    """Return a pattern that finds a key, each of its characters plain, after backslashes, or percent-encoded."""
    encoded = ("".join(f"%(?:25)*{byte:02x}" for byte in char.encode()) for char in key)
    return "".join(rf"(?:\\*{re.escape(char)}|{code})" for char, code in zip(key, encoded, strict=True))


def _seconds(retry_after: str | None) -> float | None:
    if retry_after is None:
        return None
    try:
        return max(0.0, float(retry_after))
    except ValueError:
        pass
    try:
        until = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return None
    # HTTP's dates are GMT; one without a zone, or with "-0000", comes out naive.
    until = until.replace(tzinfo=until.tzinfo or dt.UTC)
    return max(0.0, (until - dt.datetime.now(dt.UTC)).total_seconds())
