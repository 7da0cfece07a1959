"""The errors of the bus, as its callers see them."""

from __future__ import annotations

from sematext_agent.shared.restart import RestartRequested


class BusError(Exception):
    """A request that the bus did not carry out; trying again is right."""


class PublishTimeout(BusError):  # noqa: N818 - it reads better than with a suffix
    """A publish without an acknowledgement in time; it may have been stored all the same."""


class JetStreamError(BusError):
    """An error that JetStream answered, such as a full stream."""

    def __init__(self, code: int, description: str) -> None:
        """Keep `code`, which is an HTTP status, and make one text of both."""
        super().__init__(f"{description} ({code})")
        self.code = code


class RevisionConflict(BusError):  # noqa: N818
    """A key that is not at the revision to be replaced; nothing was stored."""


class ConnectionLost(RestartRequested):
    """A client that is closed for good or reads no more: only a new process helps."""
