"""One supervised process: started again whenever it ends, until it is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Callable, Mapping

from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.health import Condition
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.service import EXIT_SETTINGS
from sematext_agent.shared.waiting import wait_for_event

STEADY_SECONDS = 60
"""Running time after which the end of a process counts as its first failure again."""
_LINE_BYTES_MAX = 1024 * 1024
_PR_SET_PDEATHSIG = 1  # prctl(2)


class SupervisedProcess:
    """A process that is started again, with a growing pause, whenever it ends by itself."""

    def __init__(
        self,
        name: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        show: Callable[[str, str], None],
        with_output: bool = True,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Prepare the process; `run` starts it.

        `show` is called with the name and each line of its log (stderr), and with `with_output`
        of its stdout as well.
        """
        self.name = name
        self.condition = Condition(False, "not started yet")
        self.last_line = ""
        """Last line that it printed; after `EXIT_SETTINGS` the problem with its settings."""
        self._command = command
        self._environment = environment
        self._show = show
        self._stdout = asyncio.subprocess.PIPE if with_output else asyncio.subprocess.DEVNULL
        self._clock = clock
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> int:
        """Keep the process running until `stop`; return its last exit status.

        Also return when the process could not use its settings (`EXIT_SETTINGS`), because another
        start would fail in the same way.
        """
        backoff = Backoff(0.5, 30)
        try:
            while True:
                begin = self._clock.monotonic()
                status = await self._run_once()
                if self._stopping.is_set() or status == EXIT_SETTINGS:
                    return status
                if self._clock.monotonic() - begin > STEADY_SECONDS:
                    backoff.reset()
                pause = backoff.draw_delay_seconds()
                end = f"ended with {_format_status(status)}, starts again in {pause:.1f} s"
                self.condition = Condition(False, end)
                self._show(self.name, end)
                if await wait_for_event(self._stopping, pause):
                    return status
        finally:
            self.condition = Condition(False, "stopped")
            self._ended.set()

    async def stop(self, seconds: float) -> None:
        """Send SIGTERM, and SIGKILL after `seconds`; return when the process has ended."""
        self._stopping.set()
        self.send_signal(signal.SIGTERM)
        if not await wait_for_event(self._ended, seconds):
            self._show(self.name, f"killed: it did not stop within {seconds:.0f} s")
            self.send_signal(signal.SIGKILL)
            await self._ended.wait()

    def restart(self) -> None:
        """Send SIGTERM; `run` starts the process again when it has ended."""
        self.send_signal(signal.SIGTERM)

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it runs."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _run_once(self) -> int:
        # A session of its own: the terminal's Ctrl-C is for agentctl, which stops them in order.
        try:
            self._process = process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=self._stdout,
                stderr=asyncio.subprocess.PIPE,
                limit=_LINE_BYTES_MAX,
                start_new_session=True,
                preexec_fn=_end_with_parent(os.getpid()),
            )
        except OSError as error:  # such as no memory left: the others go on
            self._show(self.name, f"cannot be started: {error}")
            return 1
        if self._stopping.is_set():
            self.send_signal(signal.SIGTERM)
        self.condition = Condition(True, f"process {process.pid}")
        streams = filter(None, (process.stdout, process.stderr))
        await asyncio.gather(*map(self._read_lines, streams))
        return await process.wait()

    async def _read_lines(self, stream: asyncio.StreamReader) -> None:
        while True:
            try:
                line = await stream.readline()
            except ValueError:
                self._show(self.name, f"(a line of more than {_LINE_BYTES_MAX} bytes)")
                continue
            if not line:
                return
            self.last_line = line.decode(errors="replace").rstrip()
            self._show(self.name, self.last_line)


def _end_with_parent(parent: int) -> Callable[[], None] | None:
    """Return what a new process runs before its program: a request to be killed with `parent`.

    It leaves no process behind when agentctl itself is killed. The signal is SIGKILL, because an
    end that nobody ordered must not be reported as an orderly stop.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # the parent ended just before the kernel was asked

    return prepare


def _format_status(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    return signal.Signals(-status).name
