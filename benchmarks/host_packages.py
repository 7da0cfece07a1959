"""The costs of watching packages: `python benchmarks/host_packages.py`.

Makes roots of dpkg, rpm, Python and Node with 1,000, 10,000 and 100,000 packages, and measures for
each, in a process of its own: the CPU time of the first scan, of a rescan of what did not change,
of the scan after one package more; the size of the stored inventory; the most memory it took. Then
a rescan and an idle minute of the host's own roots. Takes about five minutes, most of them to make
the packages, in memory where the machine has such a file system.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import random
import re
import resource
import socket
import sqlite3
import struct
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

# In place of this folder, in which files stand that are named like packages.
sys.path[0] = str(Path(__file__).parents[1] / "tests")

from measuring import cpu_seconds, record

from sematext_agent.host_collector.file_tree import open_tree
from sematext_agent.host_collector.packages.diff import diff_inventories, keep_first_stamps
from sematext_agent.host_collector.packages.inventory import Package, ScanRoot
from sematext_agent.host_collector.packages.inventory_store import InventoryStore
from sematext_agent.host_collector.packages.readers import READERS
from sematext_agent.host_collector.packages.scanner import PackageScanner
from sematext_agent.host_collector.packages.tracked_root import QUIET_SECONDS
from sematext_agent.host_collector.packages.watcher import DirectoryWatcher
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared import bus
from sematext_agent.shared.settings import ServiceSettings

NATS_SERVER = Path(sysconfig.get_path("scripts"), "nats-server")
COUNTS = (1_000, 10_000, 100_000)
_chance = random.Random(1)
_words = [_chance.randbytes(3).hex() for _ in range(4000)]


def _name(number: int) -> str:
    return f"lib{_words[number * 7919 % 4000]}-{_words[number * 104729 % 4000]}{number}"


def make_deb(root: Path, count: int) -> None:
    admin = root / "info"
    admin.mkdir(exist_ok=True)
    text = []
    for number in range(count):
        (admin / f"{_name(number)}.list").touch()
        text.append(
            f"Package: {_name(number)}\nStatus: install ok installed\nPriority: optional\n"
            f"Section: libs\nInstalled-Size: {number}\nMaintainer: Somebody <a@example.org>\n"
            f"Architecture: amd64\nVersion: 1.{number % 97}-{number % 11}\n"
            f"Depends: libc6 (>= 2.36), libgcc-s1 (>= 3.0)\nDescription: a library\n"
            + " of which there is more to say, on several lines\n"
            * 8
        )
    (root / "status").write_text("\n".join(text) + "\n")


def make_rpm(root: Path, count: int) -> None:
    with closing(sqlite3.connect(root / "rpmdb.sqlite")) as database, database:
        database.execute(
            "CREATE TABLE IF NOT EXISTS Packages "
            "(hnum INTEGER PRIMARY KEY AUTOINCREMENT, blob BLOB)"
        )
        database.execute("DELETE FROM Packages")
        database.executemany(
            "INSERT INTO Packages (blob) VALUES (?)",
            ([_header(number)] for number in range(count)),
        )


def _header(number: int) -> bytes:
    """Return a header of about 8 kB, most of it not read here, as in real ones."""
    index, store = b"", b""
    texts = {1000: _name(number), 1001: f"1.{number % 97}", 1002: "3.el9", 1022: "x86_64"}
    for tag, text in texts.items():
        index += struct.pack(">IIII", tag, 6, len(store), 1)
        store += text.encode() + b"\0"
    for tag in range(5000, 5060):
        index += struct.pack(">IIII", tag, 7, len(store), 120)
        store += b"x" * 120
    return struct.pack(">II", len(index) // 16, len(store)) + index + store


def make_python(root: Path, count: int) -> None:
    for number in range(count):
        info = root / f"{_name(number)}-1.{number % 97}.dist-info"
        if not info.exists():
            info.mkdir()
            (info / "METADATA").write_text(
                f"Metadata-Version: 2.1\nName: {_name(number)}\nVersion: 1.{number % 97}\n"
                + "Classifier: Programming Language :: Python\n" * 20
                + "\n"
                + "text\n" * 200
            )
            (info / "RECORD").touch()


def make_node(root: Path, count: int) -> None:
    entries = {}
    for number in range(count):
        folder = root / _name(number)
        folder.mkdir(exist_ok=True)
        (folder / "package.json").touch()
        entries[f"node_modules/{_name(number)}"] = {
            "version": f"1.{number % 97}.0",
            "resolved": f"https://example.org/{_name(number)}.tgz",
            "integrity": "sha512-" + "x" * 86,
        }
    (root / ".package-lock.json").write_text(json.dumps({"packages": entries}))


MAKERS = {"deb": make_deb, "rpm": make_rpm, "python": make_python, "node-project": make_node}


def _cpu_ms(work: Callable[[], object]) -> float:
    before = time.process_time()
    work()
    return (time.process_time() - before) * 1000


def measure(kind: str, count: int, folder: Path) -> None:
    """Print the line of one root, which exists already. Runs in a process of its own."""
    root, reader = ScanRoot(kind, "."), READERS[kind]
    store = InventoryStore()
    packages: tuple[Package, ...] = ()

    def scan() -> None:
        nonlocal packages
        before = store.packages(root)
        result = reader.scan(tree, ".", before, time.time_ns())
        diff_inventories(before, result, reader.installed_at)
        packages = keep_first_stamps(before, result.packages)
        if packages != before:
            store.put(root, packages)

    with open_tree(str(folder)) as tree:
        first, again = _cpu_ms(scan), _cpu_ms(scan)
        _apart(MAKERS[kind], folder, count + 1)
        more = _cpu_ms(scan)
        fingerprint = _cpu_ms(lambda: [reader.fingerprint(tree, ".") for _ in range(100)]) / 100
    assert len(packages) == count + 1
    if kind == "deb":
        record("host collector", f"first look at {count:,} Debian packages, CPU", first, "ms")
    stored = [len(cursor) for _, cursor in store.cursors(root)]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(
        f"{kind:13} {count:7,} {first:9.1f} {again:9.1f} {more:9.1f} {fingerprint:9.3f} "
        f"{sum(stored) / 1024:9.1f} in {len(stored)} {peak:9.0f}",
        flush=True,
    )


def _apart(work: Callable[..., None], *arguments: object) -> None:
    """Do the work in a process of its own, so that its memory is not counted here."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"{work.__name__} failed")


def rescan_of_this_host() -> str:
    """Read the host's own roots once more although nothing changed, as every PKG_INTERVAL."""
    scanner = PackageScanner(HostSettings(), InventoryStore(), DirectoryWatcher())
    while not scanner.packages or scanner.wait_seconds < 1:
        scanner.scan()
        time.sleep(QUIET_SECONDS)
    scanner._schedule.request_rescan()  # noqa: SLF001
    cpu = _cpu_ms(scanner.scan)
    time.sleep(QUIET_SECONDS)
    cpu += _cpu_ms(scanner.scan)
    record("host collector", f"rescan of {scanner.packages} packages, CPU", cpu, "ms")
    return f"{scanner.packages} packages in {len(scanner.roots)} roots: {cpu:.0f} ms of CPU"


async def idle(folder: Path, seconds: float) -> str:
    """Run the real process before a real broker, while nothing happens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = f"nats://127.0.0.1:{port}"
    command = [str(NATS_SERVER), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder)]
    server = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    connection = await bus.connect(ServiceSettings(nats_url=(url,)), "benchmark")
    await connection.manager.add_stream(bus.StreamConfig(name="EVENTS", subjects=["events.>"]))
    await connection.manager.create_key_value(bucket="cursors")
    environment = os.environ | {"NATS_URL": url, "OOM_ENABLED": "false"}
    collector = subprocess.Popen(
        [sys.executable, "-m", "sematext_agent.host_collector"], env=environment
    )
    try:
        await asyncio.sleep(10)
        before = cpu_seconds(collector.pid)
        await asyncio.sleep(seconds)
        share = (cpu_seconds(collector.pid) - before) / seconds
        status = Path(f"/proc/{collector.pid}/status").read_text()
        resident, peak = (
            int(re.findall(rf"{name}:\s+(\d+)", status)[0]) / 1024 for name in ("VmRSS", "VmHWM")
        )
        record("host collector", "idle CPU", share * 100, "% of a core")
        record("host collector", "peak memory", peak, "MB")
        return f"{share:.3%} of a core, {resident:.0f} MB resident, {peak:.0f} MB at most"
    finally:
        collector.terminate()
        collector.wait()
        await connection.close()
        server.terminate()
        server.wait()


def main() -> None:
    print(f"{'CPU ms':13} packages     first    rescan  one more     print stored kB  peak MB")
    # Making and deleting 300,000 files and directories takes minutes on many disks.
    in_memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    counts = [int(argument) for argument in sys.argv[1:]] or COUNTS
    for count in counts:
        for kind, make in MAKERS.items():
            with tempfile.TemporaryDirectory(dir=in_memory) as folder:
                _apart(make, Path(folder), count)
                _apart(measure, kind, count, Path(folder))
    print("rescan of this host,", rescan_of_this_host())
    with tempfile.TemporaryDirectory() as folder:
        print("idle:", asyncio.run(idle(Path(folder), 60)))


if __name__ == "__main__":
    main()
