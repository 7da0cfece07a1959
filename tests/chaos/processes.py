"""Faults of the processes and the broker, a function each, all in `FAULTS`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from functools import partial

from chaos.fault import Fault, Missing, Strike, pause
from chaos.stage import Stage

from sematext_agent.shared.bus import JetStreamError
from sematext_agent.shared.subjects import OVERTAKING_CONSUMER

FREEZE_SECONDS = 20.0


async def ended(stage: Stage, part: str, number: signal.Signals, times: int = 2) -> None:
    """End a process; its supervisor starts it again."""
    for _ in range(times):
        await pause(stage)
        await getattr(stage, part).restart_with(number)


async def frozen(stage: Stage, part: str, index: int | None = None) -> None:
    target = getattr(stage, part) if index is None else getattr(stage, part)[index]
    await pause(stage)
    target.send(signal.SIGSTOP)
    await asyncio.sleep(FREEZE_SECONDS)
    target.send(signal.SIGCONT)


async def everything_restarted(stage: Stage) -> None:
    """Stop and start all processes in the order of `agentctl up`: the broker stops last."""
    await pause(stage)
    for part in reversed(stage.parts):
        await part.end()
    for part in stage.parts:
        part.start()


async def everything_ended_at_once(stage: Stage) -> None:
    """Stop all at once: the broker may end before the forwarder could acknowledge."""
    await pause(stage)
    await asyncio.gather(*(part.end() for part in stage.parts))
    for part in stage.parts:
        part.start()


async def everything_killed(stage: Stage) -> None:
    await pause(stage)
    for part in stage.parts:
        part.send(signal.SIGKILL)


async def consumer_deleted(stage: Stage) -> None:
    await pause(stage)
    await stage.api("CONSUMER.DELETE.EVENTS.forwarder")


async def broker_restarted_without_consumer(stage: Stage) -> None:
    await pause(stage)
    await stage.broker.end()
    shutil.rmtree(next(stage.store.glob("jetstream/*/streams/EVENTS/obs/forwarder")))
    stage.broker.start()


@contextlib.asynccontextmanager
async def small_stream(stage: Stage) -> AsyncIterator[None]:
    stage.environ["STREAM_BYTES_MAX"] = str(1024 * 1024)
    yield


async def stream_full(stage: Stage) -> None:
    """Stop the receiver until the stream is full, and a little longer."""
    await stage.receiver.close()
    stage.source.append(3_000)
    while (await stage.api("STREAM.INFO.EVENTS"))["state"]["bytes"] < 0.98 * 1024 * 1024:
        await asyncio.sleep(0.1)
    await asyncio.sleep(1)
    await stage.receiver.open()


@contextlib.asynccontextmanager
async def small_disk(stage: Stage) -> AsyncIterator[None]:
    """Give the broker's store a disk of 400 MB of its own."""
    mount = ("mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(stage.store))
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        raise Missing("a disk of its own takes root and the right to mount")
    try:
        yield
    finally:
        subprocess.run(("umount", "-l", str(stage.store)), check=True)


async def disk_full(stage: Stage) -> None:
    """Fill the disk with a file, and remove it some seconds later."""
    await pause(stage)
    waste = stage.store / "waste"
    with waste.open("wb") as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024 * 1024))
    await asyncio.sleep(5)
    waste.unlink()


async def permissions_revoked(stage: Stage, permissions: str, password: str = "") -> None:
    """Revoke rights of the agent's user at the broker, and restore them some seconds later."""
    await pause(stage)
    stage.permit(permissions, **({"password": password} if password else {}))
    stage.broker.send(signal.SIGHUP)
    await asyncio.sleep(8)
    assert "Failed to reload" not in stage.broker.log.read_text()
    stage.permit()
    stage.broker.send(signal.SIGHUP)


async def one_of_two_killed(stage: Stage) -> None:
    await pause(stage)
    stage.forwarders[1].send(signal.SIGKILL)


async def backlog(stage: Stage, events: int = 20_000) -> None:
    """Stop the receiver until `events` events wait in the stream."""
    await stage.receiver.close()
    stage.source.append(events)
    while (await stage.api("STREAM.INFO.EVENTS"))["state"]["messages"] < events:
        await asyncio.sleep(0.2)
    await stage.receiver.open()


async def overtaken(stage: Stage, then: Strike) -> None:
    """Strike with `then` once new events overtake the backlog of a longer outage."""
    await backlog(stage, 80_000)
    async with asyncio.timeout(120):
        while True:
            with contextlib.suppress(JetStreamError):
                consumer = await stage.api(f"CONSUMER.INFO.EVENTS.{OVERTAKING_CONSUMER}")
                if consumer["ack_floor"]["consumer_seq"]:
                    break
            await asyncio.sleep(0.1)
    await then(stage)


async def overtaking_consumer_deleted(stage: Stage) -> None:
    await stage.api(f"CONSUMER.DELETE.EVENTS.{OVERTAKING_CONSUMER}")


async def oversize(stage: Stage) -> None:
    """Append events over the size limit, and more just under it than a window holds."""
    stage.source.append(20, size=300 * 1024)
    stage.source.append(200, size=250 * 1024)


_PUBLISH = ', permissions: { publish: { deny: ">" } }'
_SUBSCRIBE = ', permissions: { subscribe: { deny: ">" } }'

FAULTS = (
    Fault("collector SIGTERM", partial(ended, part="collector", number=signal.SIGTERM)),
    Fault("collector SIGKILL", partial(ended, part="collector", number=signal.SIGKILL), quick=True),
    Fault("collector SIGSTOP 20 s", partial(frozen, part="collector")),
    Fault("forwarder SIGTERM", partial(ended, part="forwarder", number=signal.SIGTERM)),
    Fault("forwarder SIGKILL", partial(ended, part="forwarder", number=signal.SIGKILL), ended=2),
    Fault("forwarder SIGSTOP 20 s", partial(frozen, part="forwarder"), ended=1),
    Fault("nats-server SIGTERM", partial(ended, part="broker", number=signal.SIGTERM)),
    Fault("nats-server SIGKILL", partial(ended, part="broker", number=signal.SIGKILL), quick=True),
    Fault("nats-server SIGSTOP 20 s", partial(frozen, part="broker")),
    Fault("everything stopped and started", everything_restarted),
    Fault("everything SIGTERM at once", everything_ended_at_once, ended=1),
    Fault("everything SIGKILL at once", everything_killed, ended=1),
    Fault("consumer deleted", consumer_deleted),
    Fault("consumer gone while NATS was down", broker_restarted_without_consumer),
    Fault("stream full", stream_full, scene=small_stream, quick=True),
    Fault("disk full", disk_full, scene=small_disk),
    Fault("may not publish", partial(permissions_revoked, permissions=_PUBLISH)),
    Fault("may not subscribe", partial(permissions_revoked, permissions=_SUBSCRIBE)),
    # The client closes for good then, so the forwarder ends and is started again.
    Fault(
        "password changed",
        partial(permissions_revoked, permissions="", password="another"),
        ended=1,
    ),
    Fault("one of two forwarders SIGKILL", one_of_two_killed, ended=1, forwarders=2),
    Fault(
        "one of two forwarders SIGSTOP 20 s",
        partial(frozen, part="forwarders", index=1),
        ended=1,
        forwarders=2,
    ),
    Fault("a backlog of 20,000 events", backlog),
    Fault("new events overtake a backlog", partial(overtaken, then=pause)),
    Fault(
        "overtaking: forwarder SIGKILL",
        partial(overtaken, then=partial(ended, part="forwarder", number=signal.SIGKILL)),
        ended=2,
    ),
    Fault(
        "overtaking: nats-server SIGKILL",
        partial(overtaken, then=partial(ended, part="broker", number=signal.SIGKILL)),
    ),
    Fault(
        "overtaking: one of two SIGKILL",
        partial(overtaken, then=one_of_two_killed),
        ended=1,
        forwarders=2,
    ),
    Fault(
        "overtaking: consumer deleted",
        partial(overtaken, then=overtaking_consumer_deleted),
    ),
    Fault("oversize events", oversize),
)
