"""What can come of asking the broker for something, and of a publish in particular."""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.restart import RestartRequested


class BusError(Exception):
    """The bus did not do what was asked; the text says why. Trying again is right."""


class PublishTimeout(BusError):  # noqa: N818 - it is one, and reads better than with a suffix
    """A publish was not acknowledged in time; it may have been stored all the same."""


class JetStreamError(BusError):
    """JetStream answered a publish with an error, such as a full stream."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


class RevisionConflict(BusError):  # noqa: N818
    """A key is not at the revision that was to be replaced, so nothing was stored."""


class ConnectionLost(RestartRequested):
    """The client is closed for good or deaf: only a new process helps."""


class PublishAck(msgspec.Struct, frozen=True):
    """JetStream's word that a message is stored."""

    seq: int
    duplicate: bool = False
    """True where the id was stored before, and this copy was not."""


class BucketEntry(NamedTuple):
    """What a bucket holds under a key."""

    value: bytes | None
    """None where there is nothing, or nothing any more."""
    revision: int
    """What a write replaces; 0 where nothing was ever stored."""


class _PublishAnswer(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: dict[str, Any] | None = None


_answer = msgspec.json.Decoder(_PublishAnswer)


def decode_publish_answer(payload: bytes, header: bytes) -> PublishAck | BusError:
    """What came of a publish, by the message that answers it."""
    if header and header.startswith(b"NATS/1.0 503"):
        return JetStreamError(503, "no stream takes this subject")
    try:
        reply = _answer.decode(payload)
    except DECODE_ERRORS as error:
        return PublishTimeout(f"an answer that is none: {error}")
    if refusal := reply.error:
        description = refusal.get("description", "refused without a reason")
        return JetStreamError(refusal.get("code", 0), description)
    return PublishAck(reply.seq, reply.duplicate)
