"""Faults between the forwarder and the receiver, all in `FAULTS`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path

from certificates import Authority
from chaos.fault import Fault, Missing, pause
from chaos.stage import Stage
from receiver import Reply, Request

Script = Reply | Callable[[Request], Reply]

REPLY_SECONDS = 5.0
HASTY_SECONDS = 3
"""Request timeout of the forwarder where the receiver is slow."""
JUMP_SECONDS = 3600
_FAKETIME = [*Path("/usr/lib").glob("*/faketime/libfaketime.so.1")]


async def answers(stage: Stage, reply: Script) -> None:
    """Let the receiver answer every request with `reply` for a while."""
    await pause(stage)
    stage.receiver.reply = reply
    await asyncio.sleep(REPLY_SECONDS)
    stage.receiver.reply = Reply()


def refuses_some(request: Request) -> Reply:
    """Refuse one event in sixteen for good, and accept the others."""
    return Reply(413 if request.document["event.id"].startswith("7") else 200)


@contextlib.asynccontextmanager
async def hasty(stage: Stage) -> AsyncIterator[None]:
    """Give the forwarder a short request timeout."""
    stage.environ["REQUEST_TIMEOUT"] = f"{HASTY_SECONDS}s"
    yield


@contextlib.asynccontextmanager
async def over_tls(stage: Stage) -> AsyncIterator[None]:
    """Give the receiver a certificate of an authority that the forwarder trusts."""
    if shutil.which("openssl") is None:
        raise Missing("it takes the openssl command")
    authority = Authority(stage.folder, "authority")
    authority.issue("expired", days=-1)
    stage.receiver.tls = authority.server("receiver")
    stage.environ["EVENTS_RECEIVER_CA"] = str(authority.certificate)
    yield


async def certificate_expires(stage: Stage) -> None:
    """Show an expired certificate to every new connection for a while."""
    await pause(stage)
    assert stage.receiver.tls is not None
    for name, seconds in (("expired", REPLY_SECONDS), ("receiver", 0.0)):
        files = stage.folder / f"{name}.crt", stage.folder / f"{name}.key"
        stage.receiver.tls.load_cert_chain(*files)
        await stage.receiver.close()  # ends open connections
        await stage.receiver.open()
        await asyncio.sleep(seconds)


@contextlib.asynccontextmanager
async def by_name(stage: Stage) -> AsyncIterator[None]:
    """Give the forwarder a hosts file of its own, with a name for the receiver."""
    hosts, resolver = stage.folder / "hosts", stage.folder / "resolv.conf"
    hosts.write_text("127.0.0.1 receiver.test localhost\n")
    resolver.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    mounts = f"mount --bind {hosts} /etc/hosts && mount --bind {resolver} /etc/resolv.conf"
    stage.prefix = ("unshare", "-m", "sh", "-c", f'{mounts} && exec "$@"', "sh")
    if os.geteuid() or subprocess.run((*stage.prefix, "true"), capture_output=True).returncode:
        raise Missing("a hosts file of its own takes root and the right to mount")
    stage.receiver_host = "receiver.test"
    stage.environ["EVENTS_RECEIVER_ALLOW_HTTP"] = "true"
    yield


async def name_unknown(stage: Stage) -> None:
    """Remove the receiver's name and end all connections to it, for a while."""
    await pause(stage)
    hosts = stage.folder / "hosts"
    hosts.write_text("127.0.0.1 localhost\n")
    await stage.receiver.close()
    await stage.receiver.open()
    await asyncio.sleep(REPLY_SECONDS)
    hosts.write_text("127.0.0.1 receiver.test localhost\n")


@contextlib.asynccontextmanager
async def false_clock(stage: Stage) -> AsyncIterator[None]:
    """Let a file set the forwarder's wall clock."""
    if not _FAKETIME:
        raise Missing("it takes libfaketime")
    (stage.folder / "clock").write_text("+0")
    stage.environ |= {
        "LD_PRELOAD": str(_FAKETIME[0]),
        "FAKETIME_TIMESTAMP_FILE": str(stage.folder / "clock"),
        "FAKETIME_NO_CACHE": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }
    yield


async def clock_jumps(stage: Stage) -> None:
    """Set the wall clock an hour forward, two hours back, and right again."""
    for offset in (JUMP_SECONDS, -JUMP_SECONDS, 0):
        await pause(stage)
        (stage.folder / "clock").write_text(f"{offset:+d}")
    await pause(stage)


def _answers(name: str, reply: Script, quick: bool = False) -> Fault:
    return Fault(name, partial(answers, reply=reply), quick=quick)


def _delays(name: str, reply: Reply) -> Fault:
    return Fault(name, partial(answers, reply=reply), scene=hasty)


_STATUSES = (302, 400, 401, 403, 404, 408, 413, 429, 500, 503)

FAULTS = (
    *(_answers(f"answers {status}", Reply(status)) for status in _STATUSES),
    _answers("503 and Retry-After: 3", Reply(503, headers={"Retry-After": "3"})),
    _answers("413 for one event in sixteen", refuses_some),
    _delays("slow header", Reply(seconds=HASTY_SECONDS / 2)),
    _delays("slower header than it waits for", Reply(seconds=HASTY_SECONDS * 1.5)),
    _delays("slow body", Reply(how="drip-body", body=b"x" * 5)),
    _delays("slower body than it waits for", Reply(how="drip-body", body=b"x" * 30)),
    _delays("hangs", Reply(how="hang", stores=False)),
    _delays("hangs after storing", Reply(how="hang")),
    _answers("reset", Reply(how="reset", stores=False)),
    _answers("half-close", Reply(how="half-close", stores=False)),
    _answers("cut after storing", Reply(how="cut"), quick=True),
    _answers("garbage", Reply(how="garbage", stores=False)),
    _answers("garbage after storing", Reply(how="garbage")),
    _answers("closes kept connections", Reply(how="close")),
    Fault("expired certificate", certificate_expires, scene=over_tls),
    Fault("name unknown", name_unknown, scene=by_name),
    Fault("clock jumps by an hour", clock_jumps, scene=false_clock),
)
