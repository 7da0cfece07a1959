"""A connection until its request has arrived whole: bounded in time and size.

It is read here and not by the server, so that a client which is silent, slow or verbose costs a
socket and a few bytes, and so that it is read alike before and after the server is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

REQUEST_SECONDS_MAX = 10.0
"""Time from the connection to the last byte of its request."""
HEADER_BYTES_MAX = 16 * 1024
BODY_BYTES_MAX = 16 * 1024

# As the server itself looks for it, or it could wait for bytes that never come.
_header_end = re.compile(rb"\n\r?\n")
_length = re.compile(rb"(?im)^(content-length|transfer-encoding)[ \t]*:(.*)$")


class RefusedRequestError(Exception):
    """A request that the server does not get to see."""

    def __init__(self, status: HTTPStatus) -> None:
        """Refuse it with `status`."""
        super().__init__(status.phrase)
        self.status = status


def is_complete(content: bytes | bytearray) -> bool:
    """Return whether `content` is a whole request, with its body.

    Raises:
        RefusedRequestError: it is too large, or does not say how large it is.
    """
    end = _header_end.search(content)
    header_bytes = end.end() if end else len(content)
    if header_bytes > HEADER_BYTES_MAX:
        raise RefusedRequestError(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE)
    if end is None:
        return False
    return len(content) >= header_bytes + _read_body_bytes(bytes(content[:header_bytes]))


def _read_body_bytes(header: bytes) -> int:
    body_bytes = 0
    for name, value in _length.findall(header):
        if name.lower() == b"transfer-encoding":
            raise RefusedRequestError(HTTPStatus.LENGTH_REQUIRED)
        if not re.fullmatch(rb"\d{1,9}", value.strip()):
            raise RefusedRequestError(HTTPStatus.BAD_REQUEST)
        body_bytes = max(body_bytes, int(value))
    if body_bytes > BODY_BYTES_MAX:
        raise RefusedRequestError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    return body_bytes


class IncomingRequest:
    """A connection that sends its request."""

    def __init__(
        self,
        connection: socket.socket,
        on_complete: Callable[[IncomingRequest], Any],
        on_close: Callable[[IncomingRequest], Any],
    ) -> None:
        """Read from `connection`; one of the two functions is called, once."""
        connection.setblocking(False)
        self.connection = connection
        self.content = bytearray()
        self._on_complete = on_complete
        self._on_close = on_close
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(connection, self._read)
        self._deadline = self._loop.call_later(REQUEST_SECONDS_MAX, self.close)

    def close(self) -> None:
        """Give the connection up."""
        self._detach()
        self.connection.close()
        self._on_close(self)

    def _detach(self) -> None:
        self._deadline.cancel()
        self._loop.remove_reader(self.connection)

    def _read(self) -> None:
        try:
            received = self.connection.recv(HEADER_BYTES_MAX + BODY_BYTES_MAX)
        except BlockingIOError:
            return
        except OSError:
            received = b""
        if not received:
            self.close()
            return
        self.content += received
        try:
            if is_complete(self.content):
                self._detach()
                self._on_complete(self)
        except RefusedRequestError as refusal:
            answer = f"HTTP/1.1 {refusal.status.value} {refusal.status.phrase}\r\n"
            with contextlib.suppress(OSError):
                self.connection.send(f"{answer}connection: close\r\n\r\n".encode())
            self.close()
