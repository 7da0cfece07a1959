"""Which events the receiver has already: a bounded memory of their ids.

The stream delivers an event again when its acknowledgement was lost: with a connection, or with a
broker that was killed before it had written its consumers down. An id found here is acknowledged
without a second POST.
"""

from __future__ import annotations

import hashlib
from collections import deque

IDS_MAX = 100_000
"""About 10 MB, and more than a broker that is killed delivers again (facts: 500 to 1,500)."""


class RecentIds:
    """The last `ids_max` ids that were added, as 16-byte digests; an id grows no younger."""

    def __init__(self, ids_max: int = IDS_MAX) -> None:
        self._ids_max = ids_max
        self._digests: set[bytes] = set()
        # For their order. A dict would keep it too, but its first key is found by passing over all
        # that were deleted before it: with 100,000 ids up to 90 us an event.
        self._order: deque[bytes] = deque()

    def add(self, id: str) -> None:  # noqa: A002
        """Remembers `id`, and forgets the oldest where there is no room."""
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
