"""How the commands reach the bus: which broker they talk to, and what they say when it is away."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import datetime
import os
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec

from agentctl.state import CommandError, State
from shared import bus
from shared.events import SECOND
from shared.retry import Backoff
from shared.settings import Secret, ServiceSettings, load

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
        settings, nats_url=(address,), nats_user=parts.username,
        nats_password=Secret(parts.password or ""),
    )  # fmt: skip


@contextlib.asynccontextmanager
async def broker(options: argparse.Namespace) -> AsyncIterator[bus.Bus]:
    """The bus that the options, the environment or the agent on this machine lead to.

    Raises:
        CommandError: it is not in reach, or does not let us in.
    """
    settings = await _first_in_reach(options)
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


async def _first_in_reach(options: argparse.Namespace) -> ServiceSettings:
    """The settings of the broker that was named, or of the first usual place where one listens."""
    settings = load(ServiceSettings, os.environ)
    remembered = State(options.state).url_file
    if options.nats:
        places = [settings_for(options.nats, settings)]
    elif remembered.exists() and not os.environ.get("NATS_URL"):
        places = [settings_for(remembered.read_text().strip(), settings), settings]
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


async def lookup(connection: bus.Bus, call: str) -> dict[str, Any] | None:
    """What JetStream says of a stream or a consumer; None where there is none. Raises BusError."""
    try:
        return await connection.api(call)
    except bus.Refused as refusal:
        if refusal.code != HTTPStatus.NOT_FOUND:
            raise
        return None


async def follow(
    connection: bus.Bus, stream: str, subject: str, since: datetime.datetime | int
) -> AsyncGenerator[bus.Message, None]:
    """What is stored on `subject` from `since` on (a time or a sequence), then what comes.

    It outlives the broker's restarts, and waits for the stream to be made: it goes on behind the
    last message it had.
    """
    backoff = Backoff(0.05, 1)
    while True:
        try:
            made = await connection.api(
                f"CONSUMER.CREATE.{stream}",
                {"stream_name": stream, "config": _onlooker(subject, since)},
            )
        except bus.BusError:
            await asyncio.sleep(backoff.next_seconds())
            continue
        backoff.reset()
        puller = connection.pull(stream, made["name"], window=256)
        watching = asyncio.create_task(_stop_when_missing(puller))
        try:
            async with aclosing(puller.__aiter__()) as messages:  # type: ignore[type-var]
                async for message in messages:
                    since = message.sequence + 1
                    yield message
        finally:
            watching.cancel()


def _onlooker(subject: str, since: datetime.datetime | int) -> dict[str, Any]:
    """A consumer that acknowledges nothing, and that the server forgets when nobody asks it."""
    start = (
        {"deliver_policy": "by_start_sequence", "opt_start_seq": since}
        if isinstance(since, int)
        else {"deliver_policy": "by_start_time", "opt_start_time": since.isoformat()}
    )
    return start | {
        "filter_subject": subject,
        "ack_policy": "none",
        "mem_storage": True,
        "inactive_threshold": 30 * SECOND,
    }


async def _stop_when_missing(puller: bus.Puller) -> None:
    await puller.missing.wait()
    puller.stop()
