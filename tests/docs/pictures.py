"""The pictures of the live page in docs/console.md, with an hour of invented events.

PYTHONPATH=tests .venv/bin/python tests/docs/pictures.py      # needs chromium with its driver
"""

from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker import NatsServer, free_port, wait_for_port, wait_for_streams
from browser import Browser, chromium

from sematext_agent.shared import AGENT_VERSION, bus
from sematext_agent.shared.events import (
    AgentLifecycle,
    Body,
    DockerEvent,
    Event,
    Gap,
    KubernetesEvent,
    OutOfMemory,
    PackageChange,
    encode,
    event_id,
    format_rfc3339,
)
from sematext_agent.shared.settings import ServiceSettings
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_STATUS_HEADER,
    dead_subject,
    subject_of,
)

DOCS = Path(__file__).parents[2] / "docs"
HOUR_SECONDS = 3600
NS_PER_SECOND = 1_000_000_000
EVENTS = 700
SERVICES = ("forwarder", "console", "docker_collector", "lifecycle_collector")
APPS = ("shop", "cart", "payments")


def body(draw: random.Random) -> tuple[Body, str]:
    """Return an invented body and its origin."""
    app, host = draw.choice(APPS), draw.choice(("web-01", "web-02"))
    version = f"1.{draw.randrange(4, 9)}"
    kind = draw.choices(("docker", "kubernetes", "oom", "package", "agent"), (52, 28, 6, 11, 3))[0]
    match kind:
        case "docker":
            action = draw.choice(("create", "start", "start", "die", "health_status: healthy"))
            code = {"exitCode": draw.choice(("0", "0", "0", "137", "1"))} if action == "die" else {}
            attributes = {"name": app, "image": f"{app}:{version}", **code}
            identity = f"{draw.getrandbits(256):064x}"
            container = DockerEvent(
                type="container", action=action, actor_id=identity, attributes=attributes
            )
            return container, host
        case "kubernetes":
            is_warning = draw.random() < 0.6
            scheduled = f"Successfully assigned shop/{app} to node-2"
            return KubernetesEvent(
                uid=f"{draw.getrandbits(64):x}",
                resource_version=str(draw.getrandbits(24)),
                reason="FailedScheduling" if is_warning else "Scheduled",
                message="0/3 nodes are available: 3 Insufficient memory."
                if is_warning
                else scheduled,
                type="Warning" if is_warning else "Normal",
                cluster="prod",
                namespace="shop",
                kind="Pod",
                name=f"{app}-7c9f{draw.randrange(16, 99)}",
                count=draw.randrange(1, 9) if is_warning else 1,
            ), "prod"
        case "oom":
            memory = draw.randrange(200, 900) * 1024 * 1024
            return OutOfMemory(process=app, pid=draw.randrange(900, 30000), memory=memory), host
        case "package":
            return PackageChange(
                change="installed", manager="deb", name="openssl", version=f"3.0.{version}"
            ), host
    return AgentLifecycle(state=draw.choice(("started", "stopped")), run=f"{draw.random()}"), host


def event(draw: random.Random, time_ns: int) -> Event:
    invented, origin = body(draw)
    return Event(
        id=event_id(draw.random(), time_ns),
        time=format_rfc3339(time_ns),
        origin=origin,
        agent=AGENT_VERSION,
        body=invented,
    )


def gap(now_ns: int) -> Event:
    since, until = (format_rfc3339(now_ns - minutes * 60 * NS_PER_SECOND) for minutes in (33, 29))
    detail = "the engine keeps 256 events and has forgotten older ones"
    missing = Gap(source="docker", reason="forgotten", since=since, until=until, detail=detail)
    return Event(
        id=event_id("gap", since),
        time=until,
        origin="web-01",
        agent=AGENT_VERSION,
        body=missing,
    )


async def fill(url: str, draw: random.Random) -> None:
    """Publish an hour of events, and store two dead letters."""
    connection = await bus.connect(ServiceSettings(nats_url=(url,)), "test")
    await wait_for_streams(connection)
    now_ns = time.time_ns()
    ages = sorted((draw.uniform(2, HOUR_SECONDS) for _ in range(EVENTS)), reverse=True)
    for past in [event(draw, now_ns - int(age * NS_PER_SECOND)) for age in ages] + [gap(now_ns)]:
        await connection.publish(subject_of(past), encode(past), past.id)
    headers = {DEAD_REASON_HEADER: "tags must be a list", DEAD_STATUS_HEADER: "400"}
    for dead in (event(draw, now_ns), event(draw, now_ns)):
        subject = dead_subject(subject_of(dead))
        await connection.publish(subject, encode(dead), dead.id, headers)
    await connection.close()


async def flow(url: str, draw: random.Random, seconds: float) -> None:
    """Publish three events a second, as if they happened now."""
    connection = await bus.connect(ServiceSettings(nats_url=(url,)), "test")
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        new = event(draw, time.time_ns())
        await connection.publish(subject_of(new), encode(new), new.id)
        await asyncio.sleep(0.3)
    await connection.close()


@contextmanager
def running(folder: Path) -> Iterator[tuple[str, int]]:
    """Run a broker and the services; yield the broker's address and the page's port."""
    server, port = NatsServer(folder), free_port()
    server.start()
    environment = os.environ | {
        "NATS_URL": server.url,
        "HOSTNAME_ALIAS": "web-01",
        "INFRA_TOKEN": "",
        "CONSOLE_PORT": str(port),
        "CLOUD_METADATA_ENABLED": "false",
        "DOCKER_TRANSPORT": f"unix://{folder}/none",
        "TZ": "UTC",
    }
    with (folder / "output").open("wb") as output:
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", f"sematext_agent.{name}"],
                env=environment,
                stdout=output,
                stderr=output,
            )
            for name in SERVICES
        ]
    try:
        wait_for_port(port, seconds=30)
        yield server.url, port
    finally:
        for process in processes:
            process.kill()
            process.wait()
        server.stop()


def take(browser: Browser, name: str, width: int, height: int, scheme: str, query: str) -> None:
    """Save one picture of the page."""
    browser.resize(width, height, is_phone=width < 500)
    browser.prefer(scheme)
    browser.open(query)
    time.sleep(3)
    browser.driver.save_screenshot(str(DOCS / f"{name}.png"))


def main() -> None:
    """Write docs/console-*.png."""
    os.environ["TZ"] = "UTC"
    draw = random.Random(7)
    with tempfile.TemporaryDirectory() as folder, running(Path(folder)) as (url, port):
        asyncio.run(fill(url, draw))
        with chromium(f"http://127.0.0.1:{port}/") as browser:
            browser.open()
            asyncio.run(flow(url, draw, 12))
            flowing = subprocess.Popen([sys.executable, __file__, url])
            try:
                time.sleep(8)
                take(browser, "console-light", 1160, 760, "light", "")
                filters = "?q=payments&severity=error,warning"
                take(browser, "console-dark", 1160, 640, "dark", filters)
                take(browser, "console-phone", 360, 720, "light", "")
            finally:
                flowing.kill()
                flowing.wait()


if __name__ == "__main__":
    if len(sys.argv) > 1:
        asyncio.run(flow(sys.argv[1], random.Random(8), 300))
    else:
        main()
