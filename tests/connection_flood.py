"""Connections that say nothing, held open against a port of this machine."""

from __future__ import annotations

import contextlib
import http.client
import resource
import select
import socket
import time

CONNECTIONS = 1200


class SilentConnections(contextlib.ExitStack):
    """Connections to a port, all of them made, until the block ends."""

    def __init__(self, port: int, count: int = CONNECTIONS) -> None:
        """Open `count` connections."""
        super().__init__()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * count + 500), hard))
        self.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        address = "127.0.0.1", port
        self._sockets = [
            self.enter_context(socket.create_connection(address, timeout=30)) for _ in range(count)
        ]

    @property
    def open_count(self) -> int:
        """The number of those that the other side has not closed."""
        poll = select.poll()
        for connection in self._sockets:
            poll.register(connection, select.POLLIN)
        return len(self._sockets) - len(poll.poll(0))


def get_status(port: int, path: str = "/healthz", host: str = "127.0.0.1") -> int:
    """Return the status of a page, or 0 without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path, headers={"Host": host})
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def until_status(port: int, status: int, seconds: float = 20) -> float:
    """Wait until `/healthz` answers `status`; return the seconds that it took."""
    begin = time.monotonic()
    while get_status(port) != status:
        assert time.monotonic() - begin < seconds
        time.sleep(0.05)
    return time.monotonic() - begin
