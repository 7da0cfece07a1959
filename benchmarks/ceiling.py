"""The publish rate of this machine's NATS with prepared messages on a raw socket."""

from __future__ import annotations

import socket
import time
from typing import NamedTuple
from urllib.parse import urlsplit

from measuring import cpu_seconds

_BATCH = 64
_INBOX = b"_INBOX.ceiling"


class Ceiling(NamedTuple):
    """The rate at which a stream accepts messages of a single publisher."""

    events_per_second: float
    nats_cpu_seconds: float
    """CPU of the server for 10,000 messages."""


def publish(url: str, pid: int, subject: str, payload: bytes, events: int, window: int) -> Ceiling:
    """Publish `payload` `events` times with different ids to the server `pid` at `url`.

    At most `window` messages are unacknowledged. A stream must have `subject`.

    Raises:
        RuntimeError: the stream refused a message.
    """
    batches = [
        b"".join(_encoded(subject, payload, number) for number in range(start, stop))
        for start in range(0, events, _BATCH)
        for stop in (min(start + _BATCH, events),)
    ]
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port)) as connection:
        connection.recv(64 * 1024)
        connection.sendall(b'CONNECT {"verbose":false,"headers":true}\r\nSUB %b 1\r\n' % _INBOX)
        cpu, began = cpu_seconds(pid), time.monotonic()
        published = acknowledged = 0
        rest = b""
        for batch in (*batches, b""):
            while published - acknowledged > (window - _BATCH if batch else 0):
                rest += connection.recv(256 * 1024)
                if b'"error"' in rest:
                    raise RuntimeError(rest.decode(errors="replace"))
                acknowledged += rest.count(b"}\r\n")
                rest = rest[rest.rfind(b"}\r\n") + 3 :] if b"}\r\n" in rest else rest
            connection.sendall(batch)
            published = min(published + _BATCH, events)
        seconds = time.monotonic() - began
    return Ceiling(events / seconds, (cpu_seconds(pid) - cpu) / events * 10_000)


def _encoded(subject: str, payload: bytes, number: int) -> bytes:
    header = b"NATS/1.0\r\nNats-Msg-Id: %032d\r\n\r\n" % number
    sizes = b"%d %d" % (len(header), len(header) + len(payload))
    return b"HPUB %b %b %b\r\n%b%b\r\n" % (subject.encode(), _INBOX, sizes, header, payload)
