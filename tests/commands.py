"""Commands as real processes, whose output a test can wait for."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from broker import wait_until


class Command:
    """A running command, with the lines that it printed so far."""

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
        """Wait until `times` lines of the output contain `text`; return the last of them."""

        def matches() -> list[str]:
            return [line for line in self.out if text in line]

        try:
            await wait_until(lambda: len(matches()) >= times, seconds=30)
        except TimeoutError:
            raise AssertionError(f"no {text!r} in {self.out}, {self.err}") from None
        return matches()[times - 1]

    async def end(self, number: signal.Signals | None = None) -> int:
        """Wait for the end, after a signal if one is given; return the exit status."""
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(30):
            status = await self.process.wait()
            await asyncio.gather(*self._readings)
        return status


class Start(Protocol):
    """A function that starts `python <arguments>` with additions to the environment."""

    async def __call__(self, *arguments: object, **environ: str) -> Command:
        """Return the running command."""


@asynccontextmanager
async def start_commands() -> AsyncIterator[Start]:
    """Yield a function that starts commands, and kill those that still run at the end."""
    commands: list[Command] = []

    async def start(*arguments: object, **environ: str) -> Command:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *map(str, arguments),
            stdout=PIPE,
            stderr=PIPE,
            env=os.environ | {"HOSTNAME_ALIAS": "web-01", "NATS_URL": ""} | environ,
        )
        commands.append(Command(process))
        return commands[-1]

    try:
        yield start
    finally:
        for command in commands:
            if command.process.returncode is None:
                await command.end(signal.SIGKILL)
