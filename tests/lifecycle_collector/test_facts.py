"""The facts of the host: their sources, and their way into the bucket."""

from __future__ import annotations

import asyncio
import platform
from pathlib import Path

import msgspec
import psutil
import pytest

from sematext_agent.lifecycle_collector import cloud
from sematext_agent.lifecycle_collector.facts import (
    maintain_facts,
    read_host_facts,
    read_os_release,
)
from sematext_agent.lifecycle_collector.settings import LifecycleSettings
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import HostFacts
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.settings import SettingsError, load_settings
from sematext_agent.shared.subjects import HOSTS_BUCKET, bucket_key

UBUNTU = """\
# made by the vendor
NAME="Ubuntu"
VERSION_ID="24.04"
PRETTY_NAME='Ubuntu 24.04 LTS'

broken line
"""


def write(root: Path, name: str, text: str) -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def test_the_facts_are_those_of_this_machine() -> None:
    facts = read_host_facts("web-01")
    assert facts.hostname == "web-01"
    assert facts.os_family == platform.system().lower()
    assert facts.kernel == platform.release()
    assert facts.cpu_count == psutil.cpu_count()
    assert facts.memory_bytes == psutil.virtual_memory().total
    assert facts.boot_id


def test_the_distribution_is_that_of_the_mounted_host(tmp_path: Path) -> None:
    write(tmp_path, "etc/os-release", UBUNTU)
    facts = read_host_facts("web-01", str(tmp_path))
    assert (facts.distro_name, facts.distro_version) == ("Ubuntu", "24.04")


def test_a_link_out_of_the_mounted_host_is_not_followed(
    tmp_path: Path,
) -> None:
    write(tmp_path, "usr/lib/os-release", UBUNTU)
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/os-release").symlink_to("/nowhere/os-release")
    assert read_os_release(tmp_path)["NAME"] == "Ubuntu"


def test_a_host_without_a_distribution_has_none(tmp_path: Path) -> None:
    assert read_host_facts("web-01", str(tmp_path)).distro_name == ""


def runtime_on(connection: Bus, **environ: str) -> Runtime[LifecycleSettings]:
    settings = load_settings(LifecycleSettings, {"HOSTNAME_ALIAS": "web.example", **environ})
    health = Health("lifecycle", settings.hostname)
    return Runtime(settings, health, connection, asyncio.Event())


async def stored(connection: Bus) -> HostFacts:
    """Return the facts in the bucket, once there are any."""
    async with asyncio.timeout(10):
        while True:
            value = await connection.get(HOSTS_BUCKET, bucket_key("web.example"))
            if value is not None:
                return msgspec.json.decode(value, type=HostFacts)
            await asyncio.sleep(0.01)


async def test_the_facts_are_stored_while_the_cloud_is_still_being_asked(
    connection: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.manager.create_key_value(bucket=HOSTS_BUCKET)
    answered = asyncio.Event()

    async def answer(url: str) -> dict[str, str]:
        await answered.wait()
        return {"cloud_provider": "aws", "cloud_region": "eu-west-1"}

    monkeypatch.setattr(cloud, "read_cloud_facts", answer)
    keeping = asyncio.create_task(maintain_facts(runtime_on(connection)))
    first = await stored(connection)
    assert (first.hostname, first.cloud_provider) == ("web.example", "")
    answered.set()
    async with asyncio.timeout(10):
        while (await stored(connection)).cloud_provider != "aws":
            await asyncio.sleep(0.01)
    keeping.cancel()


async def test_the_facts_are_stored_once_the_bucket_exists(
    connection: Bus,
) -> None:
    runtime = runtime_on(connection, CLOUD_METADATA_ENABLED="false")
    keeping = asyncio.create_task(maintain_facts(runtime))
    await asyncio.sleep(0.05)  # long enough for one refused attempt
    await connection.manager.create_key_value(bucket=HOSTS_BUCKET)
    assert (await stored(connection)).hostname == "web.example"
    keeping.cancel()


async def test_the_facts_are_read_again_and_a_cloud_that_is_turned_off_is_not_asked(
    connection: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await connection.manager.create_key_value(bucket=HOSTS_BUCKET)

    async def answer(url: str) -> dict[str, str]:
        raise AssertionError("the cloud was asked")

    monkeypatch.setattr(cloud, "read_cloud_facts", answer)
    runtime = runtime_on(connection, CLOUD_METADATA_ENABLED="false", HOST_FACTS_INTERVAL="10ms")
    keeping = asyncio.create_task(maintain_facts(runtime))
    await stored(connection)
    await connection.put(HOSTS_BUCKET, bucket_key("web.example"), b'{"hostname": "old"}')
    async with asyncio.timeout(10):
        while (await stored(connection)).hostname == "old":
            await asyncio.sleep(0.01)
    assert not keeping.done()
    keeping.cancel()


@pytest.mark.parametrize(
    "environ",
    [
        {"CLOUD_METADATA_URL": "169.254.169.254"},
        {"HEARTBEAT_INTERVAL": "0s"},
        {"HOST_FACTS_INTERVAL": "0s"},
    ],
)
def test_a_setting_that_cannot_be_used_names_its_variable(environ: dict[str, str]) -> None:
    (variable,) = environ
    with pytest.raises(SettingsError, match=variable):
        load_settings(LifecycleSettings, environ)
