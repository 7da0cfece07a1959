"""The parts of the agent, and how each is kept running."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path

import msgspec

from sematext_agent.shared.health import Condition
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.service import EXIT_SETTINGS

FIRST, SECOND, LAST = range(3)
CONSOLE = "console"
STEADY_SECONDS = 60
"""A part that ran for so long before it ended starts again at once, as if for the first time."""
_LINE_BYTES_MAX = 1024 * 1024
_PR_SET_PDEATHSIG = 1  # prctl(2)
_SECRETS = {"INFRA_TOKEN", "INFRA_TOKEN_FILE", "PROXY_PASSWORD", "PROXY_PASSWORD_FILE"}


class Part(msgspec.Struct, frozen=True):
    """One service of the agent."""

    name: str
    module: str
    stops: int = SECOND
    """`FIRST`: what it tells of the stop must still be shipped. `LAST`: it ships for the others."""
    keeps_secrets: bool = False
    """Whether it is given the token; nobody else needs it."""

    def is_here(self, environ: Mapping[str, str]) -> bool:
        """Whether it is installed and has something to look at."""
        return _is_installed(self.module) and (
            self.name != "kubernetes" or _knows_a_cluster(environ)
        )

    def environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """What it may know of `environ`."""
        return dict(environ) if self.keeps_secrets else without_secrets(environ)


PARTS = (
    Part("lifecycle", "sematext_agent.lifecycle_collector", FIRST),
    Part("docker", "sematext_agent.docker_collector"),
    Part("host", "sematext_agent.host_collector"),
    Part("kubernetes", "sematext_agent.kubernetes_collector"),
    Part(CONSOLE, "sematext_agent.console"),
    Part("forwarder", "sematext_agent.forwarder", LAST, keeps_secrets=True),
)


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """`environ` as those may know it who send nothing to Sematext."""
    return {name: value for name, value in environ.items() if name not in _SECRETS}


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None and find_spec(f"{module}.__main__") is not None


def _knows_a_cluster(environ: Mapping[str, str]) -> bool:
    """Whether there is a configuration of kubectl, or this is a pod."""
    if environ.get("KUBECONFIG") or environ.get("KUBERNETES_SERVICE_HOST"):
        return True
    return Path.home().joinpath(".kube/config").is_file()


class Supervised:
    """One process that is started again whenever it ends, until it is told to stop."""

    def __init__(
        self,
        name: str,
        command: tuple[str, ...],
        environment: Mapping[str, str],
        show: Callable[[str, str], None],
        with_output: bool = True,
    ) -> None:
        """`show` is given every line of its log, and with `with_output` what it prints as well."""
        self.name = name
        self.condition = Condition(False, "not started yet")
        self.last_line = ""
        """Of what it printed: with settings that it cannot use, what is wrong with them."""
        self._command = command
        self._environment = environment
        self._show = show
        self._stdout = asyncio.subprocess.PIPE if with_output else asyncio.subprocess.DEVNULL
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None

    async def run(self) -> int:
        """Keeps it running until `stop`. Returns its last exit status.

        It also returns when the process could not use its settings (`EXIT_SETTINGS`): it would
        not the next time either.
        """
        backoff = Backoff(0.5, 30)
        try:
            while True:
                began = time.monotonic()
                status = await self._run_once()
                if self._stopping.is_set() or status == EXIT_SETTINGS:
                    return status
                if time.monotonic() - began > STEADY_SECONDS:
                    backoff.reset()
                pause = backoff.draw_delay_seconds()
                self._say(False, f"ended with {_in_words(status)}, starts again in {pause:.1f} s")
                self._show(self.name, self.condition.detail)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._stopping.wait(), pause)
                    return status
        finally:
            self._say(False, "stopped")
            self._ended.set()

    async def stop(self, seconds: float) -> None:
        """Asks it to end, and makes it end after `seconds`. Returns when it has."""
        self._stopping.set()
        self._signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._ended.wait(), seconds)
        except TimeoutError:
            self._show(self.name, f"did not stop within {seconds:.0f} s and is killed")
            self.kill()
            await self._ended.wait()

    def restart(self) -> None:
        """Asks it to end; it is started again then."""
        self._signal(signal.SIGTERM)

    def kill(self) -> None:
        """Ends it at once."""
        self._signal(signal.SIGKILL)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _say(self, ok: bool, detail: str) -> None:
        self.condition = Condition(ok, detail)

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
            self._signal(signal.SIGTERM)
        self._say(True, f"process {process.pid}")
        streams = filter(None, (process.stdout, process.stderr))
        await asyncio.gather(*map(self._read, streams))
        return await process.wait()

    async def _read(self, stream: asyncio.StreamReader) -> None:
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
    """What a new process does before its program: it asks the kernel to end it with `parent`.

    So that nothing is left behind when agentctl itself is killed. SIGKILL, because a stop that
    nobody ordered must not be told as an orderly one.
    """
    if sys.platform != "linux":
        return None
    prctl = ctypes.CDLL(None).prctl

    def prepare() -> None:
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)  # it ended just now, before the kernel was asked

    return prepare


def _in_words(status: int) -> str:
    if status >= 0:
        return f"status {status}"
    return signal.Signals(-status).name
