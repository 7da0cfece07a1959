"""systemd's units: verified by systemd itself, and each command run by hand as its unit says.

Nothing here has systemd for its first process, so what the units ask of it (the user, the
capabilities, no new privileges) is done with setpriv(1), where the tests run as root.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import tempfile
import urllib.error
import urllib.request
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from broker import free_port, wait_for_port
from publishing import connect, create_streams, is_refused, publish
from small_disk import mount_small_disk

ROOT = Path(__file__).parents[2]
UNITS = ROOT / "deploy/systemd"
UV = ROOT / ".venv/bin/uv"
ANALYZE = shutil.which("systemd-analyze") or ""
needs_systemd = pytest.mark.skipif(not ANALYZE, reason="no systemd-analyze on this machine")
PYTHONS = [
    python
    for python in map(shutil.which, ("python3", "/usr/bin/python3"))
    if python
    and not Path(python).resolve().is_relative_to("/root")
    and subprocess.run(
        [python, "-c", "import sys; assert sys.version_info >= (3, 11)"], capture_output=True
    ).returncode
    == 0
]
needs_install = pytest.mark.skipif(
    not (UV.exists() and PYTHONS), reason="no .venv/bin/uv, or no python3 outside of /root"
)


BROKER = "sematext-agent-nats.service"
EXPOSURE_MAX = {
    BROKER: 1.5,
    "sematext-agent@forwarder.service": 1.5,
    "sematext-agent@lifecycle-collector.service": 1.5,
    "sematext-agent@docker-collector.service": 2.0,  # root, for the engine's socket
    "sematext-agent@host-collector.service": 3.0,  # three capabilities, and the kernel's log
}
"""The largest exposure of a unit by `systemd-analyze security`, of 10."""
SERVICES = [unit for unit in EXPOSURE_MAX if unit != BROKER]
RECOVERY_SECONDS_MAX = 30
DYNAMIC_USER = 64321
"""A user id of the range that systemd uses for DynamicUser=yes."""


class Unit:
    """The settings of a unit and its drop-ins, read as systemd reads them."""

    def __init__(self, folder: Path, name: str) -> None:
        self.name = name
        self.instance = name.partition("@")[2].removesuffix(".service")
        template = "sematext-agent@.service" if self.instance else name
        self._values: dict[str, list[str]] = defaultdict(list)
        for file in (folder / template, *sorted((folder / f"{name}.d").glob("*.conf"))):
            for line in file.read_text().splitlines():
                if setting := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
                    self._set(setting[1], setting[2].replace("%i", self.instance))

    def _set(self, key: str, value: str) -> None:
        if not value:
            self._values[key].clear()  # an empty assignment resets the list
        else:
            self._values[key].append(value)

    def __getitem__(self, key: str) -> list[str]:
        """Return all assignments to `key` in their order."""
        return self._values[key]

    def words(self, key: str) -> list[str]:
        return " ".join(self[key]).split()

    def environment(self, root: Path) -> dict[str, str]:
        """Return the environment of the unit's process, with /etc below `root`."""
        environ = dict(pair.split("=", 1) for pair in self["Environment"])
        for path in self["EnvironmentFile"]:
            file = root / path.lstrip("-/")
            if file.exists() or not path.startswith("-"):
                lines = file.read_text().splitlines()
                environ |= dict(x.split("=", 1) for x in lines if x and x[0] != "#")
        return {n: v for n, v in environ.items() if n not in self.words("UnsetEnvironment")}

    def privileges(self) -> list[str]:
        """Return a command prefix that drops the privileges that the unit drops."""
        if os.geteuid() != 0 or not shutil.which("setpriv"):
            return []
        capabilities = ",".join(
            f"+{name.lower()[4:]}" for name in self.words("CapabilityBoundingSet")
        )
        command = ["setpriv", "--no-new-privs", "--clear-groups"]
        if self["DynamicUser"][-1] == "yes":
            command += [f"--reuid={DYNAMIC_USER}", f"--regid={DYNAMIC_USER}"]
        sets = f"-all,{capabilities}".rstrip(",")
        return [*command, f"--bounding-set={sets}", f"--inh-caps={sets}", f"--ambient-caps={sets}"]


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    """Root of a `make install DESTDIR=…`, in a directory that every user may enter."""
    folder = Path(tempfile.mkdtemp(prefix="installed-"))
    folder.chmod(0o755)
    run_installer(folder, "install")
    yield folder
    shutil.rmtree(folder)


def run_installer(folder: Path, action: str, **environ: str) -> str:
    defaults = {"DESTDIR": str(folder), "UV": str(UV), "PYTHON": PYTHONS[0]}
    environ = {**os.environ, **defaults, **environ}
    done = subprocess.run(
        [UNITS / "install.sh", action], env=environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@needs_systemd
@needs_install
@pytest.mark.install
def test_systemd_verifies_the_units(installed: Path, tmp_path: Path) -> None:
    """The commands are those of the installation, as systemd looks for them."""
    shutil.copytree(installed / "etc/systemd/system", tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob("*.service"):
        if file.is_file():
            file.write_text(file.read_text().replace("/opt", f"{installed}/opt"))
    environ = os.environ | {"SYSTEMD_UNIT_PATH": f"{tmp_path}:"}
    units = ["sematext-agent.target", *EXPOSURE_MAX, "sematext-agent@kubernetes-collector.service"]
    done = subprocess.run(
        [ANALYZE, "verify", "--man=no", *units], env=environ, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("unit", EXPOSURE_MAX)
def test_a_unit_is_no_more_exposed_than_its_service_needs(unit: str) -> None:
    environ = os.environ | {"SYSTEMD_UNIT_PATH": f"{UNITS}:"}
    done = subprocess.run(
        [ANALYZE, "security", "--offline=true", "--no-pager", unit],
        env=environ,
        capture_output=True,
        text=True,
    )
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd-analyze has no --offline (before systemd 250)")
    exposure = re.search(r"exposure level for \S+: ([\d.]+)", done.stdout)
    assert exposure, done.stdout + done.stderr
    assert float(exposure[1]) <= EXPOSURE_MAX[unit]


def test_collectors_stop_before_the_forwarder_and_the_forwarder_before_the_broker() -> None:
    """Stops have the reverse order of After=, all in one transaction by PartOf=."""
    units = {name: Unit(UNITS, name) for name in EXPOSURE_MAX}
    for name, unit in units.items():
        assert unit["PartOf"] == ["sematext-agent.target"]
        if name != BROKER:
            assert BROKER in unit.words("After")
        if name.endswith("-collector.service"):
            assert "sematext-agent@forwarder.service" in unit.words("After")
    target = re.findall(r"Wants=(.*)", (UNITS / "sematext-agent.target").read_text())
    assert set(" ".join(target).split()) == units.keys()


@needs_install
def test_a_second_install_keeps_the_configuration_and_uninstall_leaves_only_that(
    tmp_path: Path,
) -> None:
    """Without the program itself, which `installed` has."""
    for name in ("agent.env", "nats.conf"):
        (tmp_path / "etc/sematext-agent").mkdir(parents=True, exist_ok=True)
        (tmp_path / "etc/sematext-agent" / name).write_text("mine\n")
    printed = run_installer(tmp_path, "install", PREFIX="/srv/agent", UV="true")
    assert "systemctl enable --now" in printed
    template = tmp_path / "etc/systemd/system/sematext-agent@.service"
    assert "ExecStart=/srv/agent/bin/%i\n" in template.read_text()
    run_installer(tmp_path, "uninstall", PREFIX="/srv/agent")
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert sorted(path.name for path in left) == ["agent.env", "nats.conf"]
    assert {path.read_text() for path in left} == {"mine\n"}


class Host:
    """The processes of the units, started and stopped in their order."""

    def __init__(self, root: Path, state: Path) -> None:
        self.root = root
        self.units = root / "etc/systemd/system"
        self.state, self.runtime = state, Path(tempfile.mkdtemp(prefix="run-"))
        if os.geteuid() == 0:
            for directory in (self.state, self.runtime):
                os.chown(directory, DYNAMIC_USER, DYNAMIC_USER)
        broker = self.broker_port = free_port()
        self.ports = {name: free_port() for name in SERVICES}
        configuration = root / "etc/sematext-agent"
        nats = (UNITS / "nats.conf").read_text()
        nats = nats.replace("/var/lib/sematext-agent", str(state)).replace("4222", str(broker))
        (configuration / "nats.conf").write_text(nats)
        agent = (configuration / "agent.env").read_text()
        agent = (
            re.sub(r"127.0.0.1:\d+", f"127.0.0.1:{broker}", agent)
            + "CLOUD_METADATA_ENABLED=false\n"
        )
        (configuration / "agent.env").write_text(agent)
        for name, port in self.ports.items():
            file = configuration / f"{Unit(UNITS, name).instance}.env"
            file.write_text(f"API_SERVER_PORT={port}\n")
        self.processes: dict[str, Process] = {}

    async def start(self, name: str) -> None:
        unit = Unit(self.units, name)
        (line,) = unit["ExecStart"]
        command = line.replace("/opt/", f"{self.root}/opt/").replace("/etc/", f"{self.root}/etc/")
        self.processes[name] = await asyncio.create_subprocess_exec(
            *unit.privileges(),
            *shlex.split(command),
            cwd="/",
            stdin=DEVNULL,
            stderr=PIPE,
            stdout=DEVNULL,
            start_new_session=True,
            env=unit.environment(self.root)
            | {"STATE_DIRECTORY": str(self.state), "RUNTIME_DIRECTORY": str(self.runtime)},
        )

    async def keep_running(self, name: str) -> None:
        """Start a service again whenever it ends, as Restart=always asks for."""
        unit = Unit(self.units, name)
        assert unit["Restart"] == ["always"]
        while True:
            await self.start(name)
            await self.processes[name].communicate()
            await asyncio.sleep(int(unit["RestartSec"][-1]))

    async def until_ready(self, name: str) -> None:
        url = f"http://127.0.0.1:{self.ports[name]}/readyz"
        while self.processes[name].returncode is None:
            with contextlib.suppress(OSError, urllib.error.HTTPError):
                await asyncio.to_thread(urllib.request.urlopen, url, timeout=5)
                return
            await asyncio.sleep(0.1)
        raise AssertionError(await self.stop(name))

    async def stop(self, name: str) -> str:
        """Stop a process and return its log."""
        process = self.processes[name]
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        _, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return errors.decode()


@pytest.fixture
async def host(installed: Path, tmp_path: Path) -> AsyncIterator[Host]:
    state = Path(tempfile.mkdtemp(prefix="state-"))
    running = Host(installed, state)
    yield running
    for process in running.processes.values():
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # systemd ends what is left of a unit
        await process.communicate()
    shutil.rmtree(state)
    shutil.rmtree(running.runtime)


@needs_install
@pytest.mark.install
async def test_every_unit_gets_ready_with_its_rights(host: Host) -> None:
    async with asyncio.timeout(120):
        for name in EXPOSURE_MAX:
            await host.start(name)
        await asyncio.gather(*map(host.until_ready, SERVICES))
        logs = {name: await host.stop(name) for name in [*SERVICES[1:], SERVICES[0], BROKER]}
    if os.geteuid() == 0 and os.access("/dev/kmsg", os.R_OK):
        assert "/dev/kmsg cannot be read" not in logs["sematext-agent@host-collector.service"]
    assert not [log for log in logs.values() if "Traceback" in log]


@needs_install
@pytest.mark.install
async def test_a_broker_that_was_started_on_a_full_disk_takes_events_once_there_is_room(
    host: Host,
) -> None:
    password = Unit(host.units, BROKER).environment(host.root)["NATS_PASSWORD"]
    url = f"nats://127.0.0.1:{host.broker_port}"
    with mount_small_disk(host.state) as disk:
        if disk is None:
            pytest.skip("a disk of its own takes root and the right to mount")
        keeping = asyncio.create_task(host.keep_running(BROKER))
        try:
            async with asyncio.timeout(60), connect(url, "agent", password) as connection:
                await create_streams(connection)
                await publish(connection, "before")
                disk.fill()
                host.processes[BROKER].terminate()
                await host.processes[BROKER].wait()
                await asyncio.to_thread(wait_for_port, host.broker_port)
                assert await is_refused(connection, "meanwhile")
                disk.make_room()
                async with asyncio.timeout(RECOVERY_SECONDS_MAX):
                    await publish(connection, "meanwhile")
        finally:
            keeping.cancel()
            await asyncio.wait([keeping])


@needs_install
@pytest.mark.install
def test_only_the_forwarder_gets_the_token(installed: Path) -> None:
    with (installed / "etc/sematext-agent/agent.env").open("a") as file:
        file.write("INFRA_TOKEN=t0ken\nPROXY_PASSWORD=word\n")
    units = {name: Unit(UNITS, name).environment(installed) for name in EXPOSURE_MAX}
    for name, environ in units.items():
        forwards = name == "sematext-agent@forwarder.service"
        assert ("INFRA_TOKEN" in environ, "PROXY_PASSWORD" in environ) == (forwards, forwards)
        assert re.fullmatch("p[0-9a-f]{40}", environ["NATS_PASSWORD"])
