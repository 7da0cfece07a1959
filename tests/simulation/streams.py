"""The streams of the simulated broker, after the source of nats-server 2.15 and what it did."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from virtual_time import WALL_START_NS

from sematext_agent.shared.events import NS_PER_SECOND, format_rfc3339

Info = dict[str, Any]

EXPECTED_REVISION = "Nats-Expected-Last-Subject-Sequence"


def wall_ns(now: float) -> int:
    """Return the wall time at the simulated second `now`."""
    return WALL_START_NS + round(now * NS_PER_SECOND)


def error(code: int, err_code: int, description: str) -> Info:
    """Return an answer of JetStream that is an error."""
    return {"error": {"code": code, "err_code": err_code, "description": description}}


def header_bytes(headers: dict[str, str] | None) -> int:
    """Return the length of headers on the wire."""
    if not headers:
        return 0
    return 12 + sum(len(name) + len(value) + 4 for name, value in headers.items())


class StoredMessage(NamedTuple):
    """One message of a stream."""

    subject: str
    headers: dict[str, str] | None
    data: bytes
    time_ns: int

    @property
    def id(self) -> str:
        """The id it was published with, or an empty text."""
        return (self.headers or {}).get("Nats-Msg-Id", "")

    @property
    def size(self) -> int:
        """Bytes on the disk: `fileStoreMsgSize` of the server."""
        head = header_bytes(self.headers)
        return 30 + len(self.subject) + len(self.data) + (4 + head if head else 0)


class StreamCopy(NamedTuple):
    """A stream as a backup holds it."""

    config: Info
    created: str
    messages: dict[int, StoredMessage]
    first: int
    last: int


class Stream:
    """One stream in a file, with one replica."""

    def __init__(self, config: Info, now: float) -> None:
        self.config = config
        self.created = format_rfc3339(wall_ns(now))
        self.messages: dict[int, StoredMessage] = {}
        self.first = 1
        self.last = 0
        self.bytes = 0
        self._ids: dict[str, int] = {}
        self._id_times: deque[tuple[float, str]] = deque()
        self._last_by_subject: dict[str, int] = {}
        self.on_purge: Callable[[StoredMessage], None] = lambda message: None
        """Called with each message before a purge takes it."""

    @property
    def name(self) -> str:
        """Its name."""
        return str(self.config["name"])

    def takes(self, subject: str) -> bool:
        """Return whether the stream has this subject; all of its own end with `>`."""
        return any(subject.startswith(own[:-1]) for own in self.config["subjects"])

    def store(self, subject: str, headers: dict[str, str] | None, data: bytes, now: float) -> Info:
        """Store a message and return the answer to its publish."""
        self._forget_ids(now)
        message = StoredMessage(subject, headers, data, wall_ns(now))
        if (stored := self._ids.get(message.id)) is not None:
            return {"stream": self.name, "seq": stored, "duplicate": True}
        expected = (headers or {}).get(EXPECTED_REVISION)
        revision = self._last_by_subject.get(subject, 0)
        if expected is not None and int(expected) != revision:
            return error(400, 10071, f"wrong last sequence: {revision}")
        only_last = self.config.get("max_msgs_per_subject") == 1
        replaced = self.messages.get(revision) if only_last else None
        size = message.size
        if self.config["discard"] == "new":
            left = self.config["max_bytes"] - self.bytes + (replaced.size if replaced else 0)
            if size > left:
                return error(400, 10077, "maximum bytes exceeded")
        self.last += 1
        self._add(self.last, message, now)
        if replaced is not None:
            self._remove(revision)
        while self.config["discard"] == "old" and self.bytes > self.config["max_bytes"]:
            self._remove(self.first)
        return {"stream": self.name, "seq": self.last}

    def _add(self, sequence: int, message: StoredMessage, now: float) -> None:
        self.messages[sequence] = message
        self.bytes += message.size
        self._last_by_subject[message.subject] = sequence
        if message.id:
            self._ids[message.id] = sequence
            self._id_times.append((now, message.id))

    def _remove(self, sequence: int) -> None:
        self.bytes -= self.messages.pop(sequence).size
        while self.first <= self.last and self.first not in self.messages:
            self.first += 1

    def _forget_ids(self, now: float) -> None:
        window = self.config.get("duplicate_window", 120 * NS_PER_SECOND) / NS_PER_SECOND
        while self._id_times and self._id_times[0][0] <= now - window:
            del self._ids[self._id_times.popleft()[1]]

    def purge(self, first: int) -> int:
        """Drop every message before `first`; 0 drops all."""
        first = min(first or self.last + 1, self.last + 1)
        purged = 0
        for sequence in range(self.first, first):
            if (message := self.messages.pop(sequence, None)) is not None:
                self.on_purge(message)
                self.bytes -= message.size
                purged += 1
        self.first = max(self.first, first)
        return purged

    def find_last(self, subject: str) -> tuple[int, StoredMessage] | None:
        """Return the last message on `subject`."""
        sequence = self._last_by_subject.get(subject, 0)
        message = self.messages.get(sequence)
        return (sequence, message) if message else None

    def count_from(self, sequence: int) -> int:
        """Return the number of messages from `sequence` on, in a stream without holes."""
        return max(0, self.last - max(sequence, self.first) + 1)

    def info(self, consumer_count: int) -> Info:
        """Return the answer to STREAM.INFO."""
        return {
            "config": self.config,
            "created": self.created,
            "state": {
                "messages": len(self.messages),
                "bytes": self.bytes,
                "first_seq": self.first if self.last else 0,
                "last_seq": self.last,
                "consumer_count": consumer_count,
            },
        }

    def copy(self) -> StreamCopy:
        """Return what a backup would hold."""
        return StreamCopy(self.config, self.created, dict(self.messages), self.first, self.last)

    def reload(self, copy: StreamCopy, now: float) -> None:
        """Begin another life from what is stored: the ids of the window are read from it."""
        self.config, self.created, _, self.first, self.last = copy
        self.messages, self.bytes = {}, 0
        self._ids.clear()
        self._id_times.clear()
        self._last_by_subject.clear()
        for sequence, message in copy.messages.items():
            self._add(sequence, message, (message.time_ns - WALL_START_NS) / NS_PER_SECOND)
        self._forget_ids(now)
