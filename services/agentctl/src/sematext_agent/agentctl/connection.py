"""The way of a command to the bus: the broker it connects to, and the error if that is away."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec

from sematext_agent.agentctl.state import CommandError, StateDirectory
from sematext_agent.agentctl.users import password_file
from sematext_agent.shared import bus
from sematext_agent.shared.settings import Secret, ServiceSettings, load_settings

CONNECT_SECONDS_MAX = 3

S = TypeVar("S", bound=ServiceSettings)


def with_broker_url(settings: S, url: str) -> S:
    """Return `settings` with the broker at `url`, whose user and password move out of it.

    Raises:
        CommandError: `url` is no address of a broker.
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
async def connect_to_broker(options: argparse.Namespace, user: str = "") -> AsyncIterator[bus.Bus]:
    """Yield the bus that the options, the environment or the agent on this machine lead to.

    At the agent on this machine it logs in as `user`, if given, instead of the tap.

    Raises:
        CommandError: the broker cannot be reached, or rejects the login.
    """
    settings = await _find_reachable_broker(options, user)
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


async def _find_reachable_broker(options: argparse.Namespace, user: str) -> ServiceSettings:
    """Return settings for the broker in the options, or for the first usual one that listens."""
    problems = []
    for candidate in _broker_candidates(options, user):
        problem = await _find_connection_problem(candidate.nats_url[0])
        if problem is None:
            return candidate
        problems.append(f"{candidate.nats_url[0]} ({problem})")
    raise CommandError(
        f"no broker at {' or '.join(problems)}; "
        "start the agent with `agentctl up`, or name its broker with --nats URL"
    )


def _broker_candidates(options: argparse.Namespace, user: str) -> list[ServiceSettings]:
    settings = load_settings(ServiceSettings, os.environ)
    state = StateDirectory(options.state)
    if options.nats:
        return [with_broker_url(settings, options.nats)]
    if state.url_file.exists() and not os.environ.get("NATS_URL"):
        local = with_broker_url(settings, state.url_file.read_text().strip())
        return [_with_login(local, state, user) if user else local, settings]
    return [with_broker_url(settings, url) for url in settings.nats_url]


def _with_login(settings: ServiceSettings, state: StateDirectory, user: str) -> ServiceSettings:
    password = password_file(state.users, user).read_text().strip()
    return msgspec.structs.replace(settings, nats_user=user, nats_password=Secret(password))


async def _find_connection_problem(url: str) -> str | None:
    address = urlsplit(url)
    try:
        async with asyncio.timeout(CONNECT_SECONDS_MAX):
            _, writer = await asyncio.open_connection(address.hostname, address.port)
    except TimeoutError:
        return "no answer"
    except OSError as error:
        return os.strerror(error.errno) if error.errno and error.errno > 0 else str(error)
    writer.close()
    return None
