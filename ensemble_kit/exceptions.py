"""The errors a user can mend: one small class a cause, all of them `ValueError`."""

__all__ = [
    "BarsError",
    "BrokerError",
    "BrokerUnreachableError",
    "EnsembleKitError",
    "JournalError",
    "LeakageError",
    "ProviderError",
    "TrackingError",
    "TryAgainError",
]


class EnsembleKitError(ValueError):
    """Base of every error that says what is wrong, where, and how to mend it."""


class BarsError(EnsembleKitError):
    """Bars (or the file that holds them) cannot be used as they are."""


class LeakageError(EnsembleKitError):
    """Rows of the future would reach a fit, a score or a size."""


class TrackingError(EnsembleKitError):
    """A run, a registered model or its file cannot be found or read."""


class ProviderError(EnsembleKitError):
    """Whoever gives bars refuses, cannot be reached, or answers what cannot be used."""


class TryAgainError(ProviderError):
    """Too many requests, a server's fault or a cut connection: later it may work.

    Attributes
    ----------
    retry_after : float or None
        Seconds that the provider asks to wait; None where it says nothing.
    """

    retry_after: float | None = None


class BrokerError(EnsembleKitError):
    """A broker refuses an order, cannot be reached, or holds what the journal knows nothing of."""


class JournalError(EnsembleKitError):
    """The database behind a service does not answer: what it has committed stays, nothing else was done."""


class BrokerUnreachableError(BrokerError):
    """No answer from the broker: an order on its way may have arrived or not, so it must be looked up."""
