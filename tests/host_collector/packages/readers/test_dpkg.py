"""deb: real packages, installed by a real dpkg into a directory that stands for a host."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
from broker import wait_until
from package_managers import Apt, Dpkg, locked
from package_run import PackageRun

from sematext_agent.host_collector.file_tree import UnreadableError, open_tree
from sematext_agent.host_collector.packages.inventory import Package
from sematext_agent.host_collector.packages.readers import dpkg as reader
from sematext_agent.shared.events import PackageChange


@pytest.fixture
def dpkg(tmp_path: Path) -> Dpkg:
    root = tmp_path / "host"
    root.mkdir()
    return Dpkg(root)


async def test_each_installation_and_removal_is_one_event_within_two_seconds(dpkg: Dpkg) -> None:
    """The version carries the epoch; a package that leaves its configuration is removed too."""
    first, second = dpkg.build("alpha", "2:1.0-1"), dpkg.build("beta", "3.1")
    async with PackageRun(dpkg.root) as run:
        await asyncio.to_thread(dpkg, "-i", first, second)
        summaries = await run.expect_events(2)
        assert summaries == ["installed deb alpha 2:1.0-1", "installed deb beta 3.1"]
        bodies = [event.body for event in run.events if isinstance(event.body, PackageChange)]
        assert len({body.transaction for body in bodies}) == 1
        assert bodies[0].architecture == "all"
        await asyncio.to_thread(dpkg, "-r", "alpha")
        assert (await run.expect_events(3))[2:] == ["removed deb alpha 2:1.0-1"]
        await asyncio.to_thread(dpkg, "-P", "beta")
        assert (await run.expect_events(4))[3:] == ["removed deb beta 3.1"]


async def test_apt_get_installs_upgrades_reinstalls_and_removes(dpkg: Dpkg) -> None:
    """One command, in which apt runs dpkg several times; dependencies are events too."""
    apt = Apt(dpkg)
    for name in ("alpha", "beta"):
        dpkg.build(name, "1.0", "Depends: core\n")
    dpkg.build("core", "1.0")
    await asyncio.to_thread(apt.update)
    async with PackageRun(dpkg.root) as run:
        await asyncio.to_thread(apt, "install", "alpha", "beta")
        summaries = await run.expect_events(3)
        assert summaries == [f"installed deb {name} 1.0" for name in ("alpha", "beta", "core")]
        await asyncio.to_thread(apt, "install", "--reinstall", "alpha", "core")
        dpkg.build("alpha", "2.0", "Depends: core\n")
        dpkg.build("core", "1.1")
        await asyncio.to_thread(apt.update)
        await asyncio.to_thread(apt, "upgrade")
        assert (await run.expect_events(7))[3:] == [
            "removed deb alpha 1.0 -> 2.0",
            "installed deb alpha 2.0 <- 1.0",
            "removed deb core 1.0 -> 1.1",
            "installed deb core 1.1 <- 1.0",
        ]
        await asyncio.to_thread(apt, "remove", "alpha")
        assert (await run.expect_events(8))[7:] == ["removed deb alpha 2.0"]
        await asyncio.to_thread(apt, "purge", "--autoremove", "beta", "core")
        assert (await run.expect_events(10))[8:] == ["removed deb beta 1.0", "removed deb core 1.1"]


async def test_an_upgrade_is_two_linked_events_and_a_downgrade_too(dpkg: Dpkg) -> None:
    old, new = dpkg.build("alpha", "1.0"), dpkg.build("alpha", "1.1")
    dpkg("-i", old)
    async with PackageRun(dpkg.root) as run:
        await asyncio.to_thread(dpkg, "-i", new)
        summaries = await run.expect_events(2)
        assert summaries == ["removed deb alpha 1.0 -> 1.1", "installed deb alpha 1.1 <- 1.0"]
        await asyncio.to_thread(dpkg, "-i", old)
        summaries = await run.expect_events(4)
        assert summaries[2:] == ["removed deb alpha 1.1 -> 1.0", "installed deb alpha 1.0 <- 1.1"]


async def test_a_version_that_is_removed_and_installed_again_has_three_ids(dpkg: Dpkg) -> None:
    """Three events with three ids: the stream must not take the third for the first."""
    package = dpkg.build("alpha", "1.0")
    async with PackageRun(dpkg.root) as run:
        commands: list[list[str | Path]] = [["-i", package], ["-P", "alpha"], ["-i", package]]
        for count, arguments in enumerate(commands):
            await asyncio.to_thread(dpkg, *arguments)
            await run.expect_events(count + 1)
        assert [word.split()[0] for word in run.summaries()] == [
            "installed",
            "removed",
            "installed",
        ]


async def test_a_reinstallation_a_hold_and_triggers_emit_no_event(dpkg: Dpkg) -> None:
    package = dpkg.build(
        "alpha", "1.0", triggers="interest-noawait /usr/share/doc\n", postinst="#!/bin/sh\nexit 0\n"
    )
    waking = dpkg.build("beta", "1.0")
    dpkg("-i", package)
    async with PackageRun(dpkg.root) as run:
        await asyncio.to_thread(dpkg, "-i", package)
        await asyncio.to_thread(
            subprocess.run, dpkg.command("--set-selections"), input=b"alpha hold\n", check=True
        )
        await run.pass_time()
        assert run.summaries() == []
        # The other package wakes the trigger of the first, which passes through two states.
        await asyncio.to_thread(dpkg, "-i", waking)
        assert await run.expect_events(1) == ["installed deb beta 1.0"]
        await asyncio.to_thread(dpkg, "-r", "beta")
        assert (await run.expect_events(2))[1:] == ["removed deb beta 1.0"]


async def test_a_package_is_installed_once_it_is_configured(dpkg: Dpkg) -> None:
    """Half-configured: not installed yet, and an upgrade has not happened yet."""
    flag = dpkg.root.parent / "may"
    broken = dpkg.build("alpha", "2.0", postinst=f"#!/bin/sh\ntest -e {flag}\n")
    dpkg("-i", dpkg.build("alpha", "1.0"))
    async with PackageRun(dpkg.root) as run:
        failed = await asyncio.to_thread(
            subprocess.run, dpkg.command("-i", broken), capture_output=True, check=False
        )
        assert failed.returncode != 0
        assert "half-configured" in (dpkg.admin / "status").read_text()
        await run.pass_time()
        assert run.summaries() == []
        flag.touch()
        await asyncio.to_thread(dpkg, "--configure", "alpha")
        summaries = await run.expect_events(2)
        assert summaries == ["removed deb alpha 1.0 -> 2.0", "installed deb alpha 2.0 <- 1.0"]


async def test_no_event_is_emitted_before_dpkg_has_finished(dpkg: Dpkg) -> None:
    """While it runs it holds its lock; its events come after that, as one transaction."""
    gate, started = dpkg.root.parent / "gate", dpkg.root.parent / "started"
    script = f"#!/bin/sh\ntouch {started}\nwhile test ! -e {gate}; do sleep 0.05; done\n"
    slow = dpkg.build("slow", "1.0", postinst=script)
    packages = [dpkg.build(f"quick-{n}", "1.0") for n in range(3)]
    async with PackageRun(dpkg.root) as run:
        running = asyncio.create_task(asyncio.to_thread(dpkg, "-i", *packages, slow))
        await wait_until(started.exists)
        await run.pass_time(2)
        assert run.summaries() == []
        gate.touch()
        await running
        assert len(await run.expect_events(4)) == 4


@pytest.mark.parametrize("lock", ["lock", "lock-frontend"])
async def test_no_event_is_emitted_while_a_lock_is_held(dpkg: Dpkg, lock: str) -> None:
    """Be it dpkg's own, or apt's, which keeps it from its first dpkg to its last."""
    dpkg("-i", dpkg.build("alpha", "1.0"))
    async with PackageRun(dpkg.root) as run:
        with locked(dpkg.admin / lock):
            status = (dpkg.admin / "status").read_text()
            (dpkg.admin / "status-new").write_text(status.replace("1.0", "1.1"))
            (dpkg.admin / "status-new").rename(dpkg.admin / "status")
            await run.pass_time(1.5)
            assert run.summaries() == []
        assert len(await run.expect_events(2)) == 2


async def test_three_hundred_packages_at_once_are_three_hundred_events(dpkg: Dpkg) -> None:
    info = dpkg.admin / "info"
    text = ""
    for number in range(300):
        (info / f"mass-{number}.list").write_text("/.\n")
        text += (
            f"Package: mass-{number}\nStatus: install ok installed\nMaintainer: x\n"
            f"Architecture: amd64\nVersion: 1.{number}\nDescription: x\n\n"
        )
    async with PackageRun(dpkg.root) as run:
        (dpkg.admin / "status-new").write_text(text)
        (dpkg.admin / "status-new").rename(dpkg.admin / "status")
        summaries = await run.expect_events(300)
        assert len(set(summaries)) == 300
        assert (
            len({e.body.transaction for e in run.events if isinstance(e.body, PackageChange)}) == 1
        )


async def test_a_damaged_database_never_means_that_packages_were_removed(dpkg: Dpkg) -> None:
    """Emptied, cut off inside a stanza or between two, filled with zeros, or deleted.

    The inventory stays, health has the reason, and changes are events once it is whole again.
    """
    dpkg("-i", *[dpkg.build(name, "1.0") for name in ("alpha", "beta", "gamma")])
    status = dpkg.admin / "status"
    whole = status.read_bytes()
    async with PackageRun(dpkg.root) as run:
        for damaged in (b"", whole[:-20], whole[: whole.index(b"\n\n") + 2], b"\0" * len(whole)):
            (dpkg.admin / "status-new").write_bytes(damaged)
            (dpkg.admin / "status-new").rename(status)
            await run.pass_time(1)
            assert run.summaries() == []
            assert not run.health.report().conditions["packages"].ok
        status.unlink()
        await run.pass_time(1)
        status.write_bytes(whole)
        await asyncio.to_thread(dpkg, "-r", "beta")
        assert await run.expect_events(1, seconds=12) == ["removed deb beta 1.0"]
        assert run.health.report().conditions["packages"].ok


def test_every_state_of_dpkg_counts_as_installed_removed_or_in_between(tmp_path: Path) -> None:
    """By the third word of Status alone; what is in between keeps what it was."""
    states = {
        "install ok installed": True,
        "hold ok installed": True,
        "deinstall ok installed": True,
        "install ok triggers-pending": True,
        "install ok triggers-awaited": True,
        "install ok unpacked": None,
        "install reinstreq half-installed": None,
        "install ok half-configured": None,
        "deinstall ok config-files": False,
        "purge ok not-installed": False,
    }
    text = "".join(
        f"Package: p{n}\nStatus: {state}\nArchitecture: amd64\nVersion: 2\n\n"
        for n, state in enumerate(states)
    )
    (tmp_path / "db").mkdir()
    (tmp_path / "db/status").write_text(text)
    before = tuple(Package(f"p{n}", "1", "amd64") for n in range(len(states)))
    with open_tree(str(tmp_path)) as tree:
        versions = {p.name: p.version for p in reader.scan(tree, "db", before, 0).packages}
        expected = {True: "2", None: "1"}
        assert versions == {
            f"p{n}": expected[kept] for n, kept in enumerate(states.values()) if kept is not False
        }
        (tmp_path / "db/status").write_text(text[: text.rindex("Version")].replace("purge", "x"))
        assert len(reader.scan(tree, "db", before, 0).packages) == len(versions)
        (tmp_path / "db/status").write_text(text[: text.index("Version")])
        with pytest.raises(UnreadableError, match="gives p0 no version"):
            reader.scan(tree, "db", before, 0)
        (tmp_path / "db/status").write_text(text.replace("not-installed", "odd"))
        with pytest.raises(UnreadableError, match="no state that dpkg knows"):
            reader.scan(tree, "db", before, 0)


def test_an_image_without_dpkg_lists_one_file_a_package(tmp_path: Path) -> None:
    """Distroless: `status.d`, with checksums beside the packages, and no Status at all."""
    folder = tmp_path / "status.d"
    folder.mkdir()
    (folder / "base").write_text("Package: base-files\nVersion: 12\nArchitecture: amd64\n")
    (folder / "base.md5sums").write_text("0 x\n")
    with open_tree(str(tmp_path)) as tree:
        packages = reader.scan_folder(tree, "status.d", (), 0).packages
    assert [(p.name, p.version, p.architecture) for p in packages] == [
        ("base-files", "12", "amd64")
    ]
