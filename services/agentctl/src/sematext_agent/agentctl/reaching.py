"""How the commands reach the bus: which broker they talk to, and what they say when it is away."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from sematext_agent.agentctl.state import CommandError, State
from sematext_agent.agentctl.users import password_file
from sematext_agent.shared import bus
from sematext_agent.shared.settings import Secret, ServiceSettings, load_settings

CONNECT_SECONDS_MAX = 3

S = TypeVar("S", bound=ServiceSettings)


def settings_for(url: str, settings: S) -> S:
    """`settings` with the broker at `url`, whose user and password are taken out of it.

    Raises:
        CommandError: the address is none.
    """
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        address = f"{parts.scheme}://{host or '127.0.0.1'}:{parts.port or 4222}"
        if parts.scheme not in ("nats", "tls"):
            raise ValueError(f"{parts.scheme}:// is not the address of a broker")
    except ValueError as error:
        raise CommandError(f"--nats: {error}; write it like nats://127.0.0.1:4222") from None
    if not parts.username:
        return msgspec.structs.replace(settings, nats_url=(address,))
    return msgspec.structs.replace(
        settings,
        nats_url=(address,),
        nats_user=parts.username,
        nats_password=Secret(parts.password or ""),
    )


@contextlib.asynccontextmanager
async def broker(options: argparse.Namespace, user: str = "") -> AsyncIterator[bus.Bus]:
    """The bus that the options, the environment or the agent on this machine lead to.

    At the agent on this machine it logs in as `user`, where one is named, instead of the tap.

    Raises:
        CommandError: it is not in reach, or does not let us in.
    """
    settings = await _first_in_reach(options, user)
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            connection = await bus.connect(settings, "agentctl")
    except TimeoutError:
        raise CommandError(
            f"{settings.nats_url[0]}: what listens there is no NATS server or does not let us in; "
            "set NATS_USER and NATS_PASSWORD, or name another broker with --nats URL"
        ) from None
    try:
        yield connection
    finally:
        connection.on_connection = lambda up: None
        await connection.close()


async def _first_in_reach(options: argparse.Namespace, user: str) -> ServiceSettings:
    """The settings of the broker that was named, or of the first usual place where one listens."""
    settings = load_settings(ServiceSettings, os.environ)
    state = State(options.state)
    if options.nats:
        places = [settings_for(options.nats, settings)]
    elif state.url_file.exists() and not os.environ.get("NATS_URL"):
        here = settings_for(state.url_file.read_text().strip(), settings)
        places = [_logging_in(here, state, user) if user else here, settings]
    else:
        places = [settings_for(url, settings) for url in settings.nats_url]
    problems = []
    for place in places:
        problem = await _why_out_of_reach(place.nats_url[0])
        if problem is None:
            return place
        problems.append(f"{place.nats_url[0]} ({problem})")
    raise CommandError(
        f"no broker at {' or '.join(problems)}; "
        "start the agent with `agentctl up`, or name its broker with --nats URL"
    )


def _logging_in(settings: ServiceSettings, state: State, user: str) -> ServiceSettings:
    password = password_file(state.users, user).read_text().strip()
    return msgspec.structs.replace(settings, nats_user=user, nats_password=Secret(password))


async def _why_out_of_reach(url: str) -> str | None:
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            _, writer = await asyncio.open_connection(parts.hostname, parts.port)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    writer.close()
    return None
