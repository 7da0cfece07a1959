"""The examples of CONTRIBUTING.md run as they stand there."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from broker import NatsServer, wait_for_streams, wait_until

from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import Event, PackageChange, encode, format_rfc3339
from sematext_agent.shared.subjects import CURSORS_BUCKET, bucket_key, subject_of

ROOT = Path(__file__).parents[2]
SECONDS_MAX = 30
_BLOCK = re.compile(r'^```(\w+) title="(.+?)"\n(.*?)^```$', re.MULTILINE | re.DOTALL)

Start = Callable[..., subprocess.Popen[bytes]]


class Block(NamedTuple):
    """One block of code in CONTRIBUTING.md."""

    language: str
    path: str
    text: str


def blocks() -> list[Block]:
    """Return the blocks that name a file."""
    return [Block(*match) for match in _BLOCK.findall((ROOT / "CONTRIBUTING.md").read_text())]


def apply_diff(text: str, diff: str) -> str:
    """Return `text` with the one hunk of `diff` applied; its context has to be there once."""
    lines = diff.splitlines(keepends=True)
    before = "".join(line[1:] for line in lines if line[0] in " -")
    after = "".join(line[1:] for line in lines if line[0] in " +")
    assert text.count(before) == 1, f"the context is not there once: {before}"
    return text.replace(before, after)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a folder with the forwarder and the examples."""
    folder = tmp_path / "checkout"
    shutil.copytree(ROOT / "services/forwarder/src", folder / "services/forwarder/src")
    for language, path, text in blocks():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(apply_diff(file.read_text(), text) if language == "diff" else text)
    return folder


@pytest.fixture
def start(checkout: Path, nats_server: NatsServer, tmp_path: Path) -> Iterator[Start]:
    """Return a function that starts a service, with the examples before the repository's code."""
    processes: list[subprocess.Popen[bytes]] = []

    def start_service(module: str, **settings: object) -> subprocess.Popen[bytes]:
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(map(str, sorted(checkout.glob("services/*/src")))),
            "NATS_URL": nats_server.url,
            "HOSTNAME_ALIAS": "web-01",
            **{name.upper(): str(value) for name, value in settings.items()},
        }
        with (tmp_path / "documents").open("ab") as output:
            command = [sys.executable, "-m", f"sematext_agent.{module}"]
            processes.append(subprocess.Popen(command, env=environment, stdout=output))
        return processes[-1]

    yield start_service
    for process in processes:
        process.kill()
        process.wait()


def lines(file: Path) -> list[dict[str, Any]]:
    """Return the objects in a file of JSON lines; the last line may not be whole yet."""
    whole = file.read_text().rpartition("\n")[0] if file.exists() else ""
    return [json.loads(line) for line in whole.splitlines()]


def append(file: Path, text: str) -> None:
    with file.open("a") as opened:
        opened.write(text)


async def until_cursor_is_stored(connection: Bus) -> None:
    """Wait until the collector has stored its first cursor, and so knows where the log ends."""
    async with asyncio.timeout(SECONDS_MAX):
        key = bucket_key("dpkg", "web-01")
        while (await connection.get_entry(CURSORS_BUCKET, key)).value is None:
            await asyncio.sleep(0.05)


async def test_the_collector_publishes_changes_also_those_while_it_was_killed(
    start: Start, tmp_path: Path, connection: Bus
) -> None:
    log, documents = tmp_path / "dpkg.log", tmp_path / "documents"
    log.write_text("2026-11-29 15:00:00 install before:amd64 <none> 1\n")
    settings = {"dpkg_log": log, "dpkg_interval": "50ms"}
    start("forwarder")
    await wait_for_streams(connection)

    def values(field: str) -> list[str]:
        return [document[field] for document in lines(documents) if field in document]

    collector = start("dpkg_collector", **settings)
    await until_cursor_is_stored(connection)
    append(log, "2026-11-29 15:04:05 install nginx:amd64 <none> 1.27-1\n")
    await wait_until(lambda: values("package.version") == ["1.27-1"], SECONDS_MAX)
    collector.send_signal(signal.SIGKILL)
    collector.wait()
    append(log, "2026-11-29 15:04:06 upgrade nginx:amd64 1.27-1 1.28-1\n")
    start("dpkg_collector", **settings)
    await wait_until(lambda: values("package.version") == ["1.27-1", "1.28-1"], SECONDS_MAX)
    log.write_text("")
    await wait_until(lambda: values("gap.reason") == ["rotated"], SECONDS_MAX)


async def test_the_destination_writes_an_event_once(
    start: Start, tmp_path: Path, connection: Bus
) -> None:
    file = tmp_path / "events.jsonl"
    start("forwarder", json_lines=file)
    await wait_for_streams(connection)
    body = PackageChange(change="installed", manager="deb", name="nginx", version="1.27-1")
    event = Event(id="1", time=format_rfc3339(1), origin="web-01", agent="0.1.0", body=body)
    for _ in range(2):
        await connection.publish(subject_of(event), encode(event), event.id)
    await wait_until(lambda: bool(lines(file)), SECONDS_MAX)
    assert lines(file) == [json.loads(encode(event))]


def test_the_tests_of_the_examples_pass(checkout: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(checkout / "services/dpkg_collector/src")}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(checkout)]
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("arguments", [["format", "--check"], ["check"]], ids=" ".join)
def test_the_examples_are_formatted_and_clean(checkout: Path, arguments: list[str]) -> None:
    files = [str(checkout / path) for language, path, _ in blocks() if language == "python"]
    configuration = ["--config", str(ROOT / "pyproject.toml")]
    command = [sys.executable, "-m", "ruff", *arguments, *configuration, *files]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_distribution_is_built_as_the_others_are(checkout: Path) -> None:
    example = tomllib.loads((checkout / "services/dpkg_collector/pyproject.toml").read_text())
    sibling = tomllib.loads((ROOT / "services/host_collector/pyproject.toml").read_text())
    assert example["project"].keys() == sibling["project"].keys()
    assert example["build-system"] == sibling["build-system"]
    assert example["tool"] == sibling["tool"]
