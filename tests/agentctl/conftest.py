"""Commands as real processes, whose output a test can wait for."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from broker import eventually


class Command:
    """A running command, with the lines it printed so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.out: list[str] = []
        self.err: list[str] = []
        assert process.stdout is not None
        assert process.stderr is not None
        self._readings = [
            asyncio.create_task(self._read(process.stdout, self.out)),
            asyncio.create_task(self._read(process.stderr, self.err)),
        ]

    async def _read(self, stream: asyncio.StreamReader, lines: list[str]) -> None:
        async for line in stream:
            lines.append(line.decode().rstrip("\n"))

    async def shows(self, text: str, times: int = 1) -> str:
        """Waits until `text` stands in so many lines of the output; returns the last of them."""

        def found() -> list[str]:
            return [line for line in self.out if text in line]

        try:
            await eventually(lambda: len(found()) >= times, seconds=30)
        except TimeoutError:
            raise AssertionError(f"no {text!r} in {self.out}, {self.err}") from None
        return found()[times - 1]

    async def end(self, number: signal.Signals | None = None) -> int:
        """Waits for its end, after a signal where one is given; returns the exit status."""
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(30):
            status = await self.process.wait()
            await asyncio.gather(*self._readings)
        return status


Start = Callable[..., Awaitable[Command]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts `python <arguments>`, and kills what a test left running."""
    commands: list[Command] = []

    async def start_one(*arguments: object, **environ: str) -> Command:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *map(str, arguments),
            stdout=PIPE,
            stderr=PIPE,
            env=os.environ | {"HOSTNAME_ALIAS": "web-01", "NATS_URL": ""} | environ,
        )
        commands.append(Command(process))
        return commands[-1]

    yield start_one
    for command in commands:
        if command.process.returncode is None:
            await command.end(signal.SIGKILL)
