"""The state directory: the files of one agent on this machine, through which commands find it.

lock            held while the agent runs, with its process id
nats-url        address of its broker, with the tap's: `nats --server "$(cat nats-url)"`
users/          password of each user of the broker, by name
nats.conf       configuration that the broker was started with
nats-server.log
jetstream/      events, and each collector's cursor
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit


class CommandError(Exception):
    """A command that cannot be carried out. The text is one line: the reason and the remedy."""


def default_directory(environ: Mapping[str, str]) -> Path:
    """Return the system's directory for root, and the user's own for others (XDG)."""
    if os.geteuid() == 0:
        return Path("/var/lib/sematext-agent")
    home = environ.get("XDG_STATE_HOME") or Path.home() / ".local/state"
    return Path(home, "sematext-agent")


class StateDirectory:
    """One state directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.absolute()
        self.url_file = self.directory / "nats-url"
        self.users = self.directory / "users"
        self._lock_file = self.directory / "lock"

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Create the directory, and keep every other agent out of it.

        Raises:
            CommandError: another agent runs on it, or it cannot be written.
        """
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = self._lock_file.open("a+")
        except OSError as error:
            raise CommandError(
                f"{self.directory}: cannot be written ({error.strerror}); name another --state"
            ) from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.seek(0)
                raise CommandError(
                    f"an agent is running already with its state in {self.directory} "
                    f"(process {lock.read().strip()}); stop it, or give this one another --state"
                ) from None
            with contextlib.suppress(OSError):  # a full disk: the number only helps people
                lock.truncate(0)
                os.write(lock.fileno(), f"{os.getpid()}\n".encode())
            yield

    def write_broker_url(self, user: str, password: str) -> str:
        """Return the address for the broker: a free port at first, and the same one from then on.

        Another port replaces it only where somebody else has taken it meanwhile. The file
        `nats-url` gets the address with `user` and `password`; the result has neither.
        """
        port = 0
        if self.url_file.exists():
            port = urlsplit(self.url_file.read_text().strip()).port or 0
        address = f"127.0.0.1:{find_free_port(port)}"
        write_private(self.url_file, f"nats://{user}:{password}@{address}\n")
        return f"nats://{address}"


def find_free_port(port: int) -> int:
    """Return `port` of the loopback if it is free, or any free one."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return find_free_port(0)
        return int(probe.getsockname()[1])


def write_private(path: Path, text: str, mode: int = 0o600) -> None:
    """Write a file that only its owner can read, and that nobody sees half written."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w") as file:
        file.write(text)
    new.replace(path)
