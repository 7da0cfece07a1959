"""The reader of the kernel's log: on the real one, and on scripts of its rare answers."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.host_collector.kernel import log_reader
from sematext_agent.host_collector.kernel.log_reader import (
    KernelLogReader,
    KernelRecord,
    open_device,
    parse_record,
    unescape,
)


def readable() -> bool:
    try:
        os.close(open_device(["/dev/kmsg"]))
    except OSError:
        return False
    return True


real = pytest.mark.skipif(not readable(), reason="the kernel's log cannot be read here")


def write_record(text: str) -> None:
    """Write a record as a program. Without the line's end it stays hidden until the next."""
    with open("/dev/kmsg", "wb", buffering=0) as device:
        device.write(f"{text}\n".encode())


def read_all(log: KernelLogReader) -> list[KernelRecord]:
    records = log.read()
    while not log.is_drained:
        records += log.read()
    return records


@pytest.fixture
def script() -> Iterator[tuple[KernelLogReader, socket.socket]]:
    """Return a log whose records the test sends: a read of this socket is one whole message too."""
    log_end, kernel_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    log_end.setblocking(False)
    log = KernelLogReader(log_end.detach())
    yield log, kernel_end
    log.close()
    kernel_end.close()


def test_a_record_is_read_with_all_its_parts() -> None:
    raw = b"3,1243,1878084160,-;Killed process 1 (\\xc3\\xa9)\n SUBSYSTEM=pci\n DEVICE=+pci:0\n"
    assert parse_record(raw, 1_000) == KernelRecord(
        sequence=1243,
        time=1878084161000,
        facility=0,
        continued=False,
        text="Killed process 1 (\\xc3\\xa9)",
    )
    assert parse_record(b"30,1,2,c,caller=T123;a;b,c\n", 0) == KernelRecord(
        sequence=1, time=2000, facility=3, continued=True, text="a;b,c"
    )


@pytest.mark.parametrize("raw", [b"", b"x", b"1,2,3;x", b"a,b,c,-;x", b"1,2,3,-"])
def test_anything_but_a_record_is_a_value_error(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"not a record|invalid literal"):
        parse_record(raw, 0)


@given(st.binary())
def test_parse_takes_any_bytes(raw: bytes) -> None:
    try:
        parse_record(raw, 0)
    except ValueError:
        return


@given(st.text(st.characters(codec="utf-8")))
def test_unescape_undoes_what_the_kernel_escaped(text: str) -> None:
    escaped = "".join(
        chr(byte) if 32 <= byte < 127 and byte != ord("\\") else f"\\x{byte:02x}"
        for byte in text.encode()
    )
    assert unescape(escaped) == text


def test_a_malformed_record_is_counted_and_the_next_is_read(
    script: tuple[KernelLogReader, socket.socket],
) -> None:
    log, kernel = script
    kernel.send(b"nonsense")
    kernel.send(b"6,7,8,-;text\n")
    assert [record.sequence for record in log.read()] == [7]
    assert (log.malformed_records, log.is_drained) == (1, True)


def test_after_records_were_overwritten_it_goes_on_at_the_oldest(
    script: tuple[KernelLogReader, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel answers EPIPE once. Who takes that for the end loses every later kill."""
    log, _ = script
    answers: list[bytes | OSError] = [
        BrokenPipeError(errno.EPIPE, "overwritten"),
        b"6,900,8,-;oldest\n",
        BlockingIOError(),
    ]

    def read(descriptor: int, size: int) -> bytes:
        answer = answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer

    monkeypatch.setattr(os, "read", read)
    assert [record.sequence for record in log.read()] == [900]


def test_an_end_of_the_log_is_a_fault(script: tuple[KernelLogReader, socket.socket]) -> None:
    log, kernel = script
    kernel.shutdown(socket.SHUT_WR)
    with pytest.raises(OSError, match="which it never does"):
        log.read()


def test_one_read_is_bounded(
    script: tuple[KernelLogReader, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log_reader, "_BATCH_RECORDS_MAX", 2)
    log, kernel = script
    for number in range(3):
        kernel.send(b"6,%d,8,-;text\n" % number)
    assert [record.sequence for record in log.read()] == [0, 1]
    assert not log.is_drained
    assert [record.sequence for record in log.read()] == [2]
    assert log.is_drained


async def test_a_record_seen_being_written_sets_the_clock_right(
    script: tuple[KernelLogReader, socket.socket],
) -> None:
    """The clock of printk may be minutes off: here it is 100 s behind, then ahead."""
    log, kernel = script
    never = asyncio.Event()
    behind = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000 - 100_000_000
    kernel.send(b"6,1,%d,-;from before\n" % behind)
    (backlog,) = log.read()
    assert 99e9 < time.time_ns() - backlog.time < 101e9
    kernel.send(b"6,2,%d,-;live\n" % behind)
    kernel.send(b"6,3,%d,-;live\n" % (behind + 1))
    await log.wait(never, 5)
    first, second = log.read()
    assert time.time_ns() - 1e9 < second.time <= time.time_ns()
    assert second.time - first.time == 1000
    # Even unless it was waited for: no record is from the future.
    kernel.send(b"6,4,%d,-;ahead\n" % (behind + 200_000_000))
    (ahead,) = log.read()
    assert time.time_ns() - 1e9 < ahead.time <= time.time_ns()


async def test_waiting_ends_at_a_stop_and_at_its_time_and_costs_nothing(
    script: tuple[KernelLogReader, socket.socket],
) -> None:
    log, kernel = script
    never = asyncio.Event()
    log.read()
    used = time.process_time()
    await log.wait(never, 0.2)
    assert time.process_time() - used < 0.05
    stopping = asyncio.Event()
    asyncio.get_running_loop().call_later(0.02, stopping.set)
    async with asyncio.timeout(5):
        await log.wait(stopping, 60)
    # Records that nobody takes must not turn the loop.
    kernel.send(b"6,1,8,-;text\n")
    await log.wait(never, 60)
    used = time.process_time()
    await asyncio.sleep(0.3)
    assert time.process_time() - used < 0.05


def test_a_device_that_is_not_the_log_is_refused(tmp_path: Path) -> None:
    """Some containers have a link to /dev/null under its name, which reads as an endless end."""
    link = tmp_path / "kmsg"
    link.symlink_to("/dev/null")
    with pytest.raises(OSError, match="not the kernel's log"):
        open_device([str(link)])
    with pytest.raises(FileNotFoundError):
        open_device([str(tmp_path / "missing"), str(link)])


@real
def test_the_second_path_is_tried(tmp_path: Path) -> None:
    os.close(open_device([str(tmp_path / "missing"), "/dev/kmsg"]))


@real
async def test_the_real_log_is_read_from_its_oldest_record_and_then_followed() -> None:
    never = asyncio.Event()
    log = KernelLogReader(open_device(["/dev/kmsg"]))
    try:
        old = read_all(log)
        assert [r.sequence for r in old] == sorted({r.sequence for r in old})
        assert any(record.facility == 0 for record in old)
        assert all(0 < record.time < time.time_ns() + 1e9 for record in old)
        before = time.time_ns()
        asyncio.get_running_loop().call_later(0.05, write_record, "agent test: \u00e9")
        records: list[KernelRecord] = []
        while not records:
            async with asyncio.timeout(5):
                await log.wait(never, 5)
            records += [record for record in log.read() if "agent test" in record.text]
        (record,) = records
        assert record.facility == 1
        assert unescape(record.text) == "agent test: \u00e9"
        assert before <= record.time <= time.time_ns()
        assert log.malformed_records == 0
    finally:
        log.close()
