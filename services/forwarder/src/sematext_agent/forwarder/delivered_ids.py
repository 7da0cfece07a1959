"""A bounded memory of the ids of delivered events.

JetStream redelivers an event whose acknowledgement was lost: with a connection, or with a broker
that was killed before it had stored the state of its consumers. An event whose id is remembered is
acknowledged and not sent again.
"""

from __future__ import annotations

import hashlib
from collections import deque

IDS_MAX = 100_000
"""About 10 MB, and far more than the 500 to 1,500 events that a killed broker redelivers."""


class DeliveredIds:
    """The last `ids_max` ids that were added, as 16-byte digests, in the order of addition."""

    def __init__(self, ids_max: int | None = None) -> None:
        """Begin empty; `IDS_MAX` is the default bound."""
        self._ids_max = IDS_MAX if ids_max is None else ids_max
        self._digests: set[bytes] = set()
        # A dict would keep the order too, but finding its first key passes over every deleted
        # key before it: up to 90 us an event with 100,000 ids.
        self._order: deque[bytes] = deque()

    def add(self, id: str) -> None:  # noqa: A002
        """Remember `id`, and forget the oldest id at the bound; a known id keeps its place."""
        digest = _digest(id)
        if digest in self._digests:
            return
        self._digests.add(digest)
        self._order.append(digest)
        if len(self._order) > self._ids_max:
            self._digests.remove(self._order.popleft())

    def __contains__(self, id: str) -> bool:  # noqa: A002
        return _digest(id) in self._digests

    def __len__(self) -> int:
        return len(self._digests)


def _digest(id: str) -> bytes:  # noqa: A002
    return hashlib.blake2b(id.encode(errors="surrogateescape"), digest_size=16).digest()
