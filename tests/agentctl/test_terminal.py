"""agentctl at a keyboard: in a real pseudo-terminal, and in real shells."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
import time
from typing import Any

import msgspec
import pytest
from broker import NatsServer
from commands import Start

from sematext_agent.shared.bus import Bus, StreamConfig
from sematext_agent.shared.events import DockerEvent, Event, KubernetesEvent, encode, format_rfc3339
from sematext_agent.shared.health import Condition, Report
from sematext_agent.shared.subjects import STATUS_SUBJECT, subject_of

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class TerminalSession:
    """A command in a pseudo-terminal of its own, with its output and its keyboard."""

    def __init__(
        self, *arguments: str, columns: int = 120, environ: dict[str, str] | None = None
    ) -> None:
        self._keyboard, screen = pty.openpty()
        fcntl.ioctl(screen, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm", "NO_COLOR": ""} | (environ or {})
        environment.pop("COLUMNS", None)  # as pytest-xdist sets it; it overrides the terminal's
        self.process = subprocess.Popen(
            [sys.executable, "-m", "sematext_agent.agentctl", *arguments],
            stdin=screen,
            stdout=screen,
            stderr=screen,
            env=environment,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )
        os.close(screen)
        os.set_blocking(self._keyboard, False)
        self.shown = ""

    def read(self) -> str:
        with contextlib.suppress(OSError):  # nothing new, or closed by its end
            self.shown += os.read(self._keyboard, 65536).decode()
        return self.shown

    def shows(self, text: str, seconds: float = 30) -> str:
        deadline = time.monotonic() + seconds
        while text not in self.read():
            assert time.monotonic() < deadline, f"no {text!r} in {self.shown!r}"
            time.sleep(0.02)
        return self.shown

    def press(self, key: str) -> None:
        os.write(self._keyboard, key.encode())

    def end(self) -> int:
        status = self.process.wait(30)
        self.read()
        os.close(self._keyboard)
        return status

    @property
    def lines(self) -> list[str]:
        """Lines that were shown, without colours."""
        return COLOUR.sub("", self.shown).splitlines()


@pytest.fixture
async def events(connection: Bus) -> Bus:
    await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    return connection


async def publish(bus: Bus, body: DockerEvent | KubernetesEvent, origin: str = "web-01") -> None:
    number = time.time_ns()
    event = Event(id=str(number), time=format_rfc3339(number), origin=origin, agent="1", body=body)
    await bus.publish(subject_of(event), encode(event), event.id)


def died(name: str, code: str) -> DockerEvent:
    attributes = {"name": name, "exitCode": code}
    return DockerEvent(type="container", action="die", actor_id="0", attributes=attributes)


async def test_tap_is_aligned_and_coloured_and_ctrl_c_ends_it_cleanly(
    events: Bus, nats_server: NatsServer
) -> None:
    await publish(events, died("good", "0"), "a-longer-name")
    await publish(events, died("bad", "1"))
    tap = TerminalSession("tap", "--nats", nats_server.url)
    shown = tap.shows("exit code 1")
    assert "\x1b[1;31mcontainer bad die" in shown  # an error is red
    assert "\x1b[1;31mcontainer good" not in shown
    tap.press("\x03")
    assert tap.end() == 130
    assert "Traceback" not in tap.shown
    first, second = (line for line in tap.lines if "container" in line)
    assert first.index("container") == second.index("container")


@pytest.mark.parametrize("environ", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
async def test_colours_can_be_turned_off(
    events: Bus, nats_server: NatsServer, environ: dict[str, str]
) -> None:
    await publish(events, died("bad", "1"))
    tap = TerminalSession("tap", "--nats", nats_server.url, environ=environ)
    assert "\x1b" not in tap.shows("container bad die")
    tap.press("\x03")
    tap.end()


async def test_a_closed_pipe_ends_the_tap_though_no_event_comes(
    events: Bus, nats_server: NatsServer
) -> None:
    await publish(events, died("web", "0"))
    command = (
        f"{sys.executable} -m sematext_agent.agentctl tap --nats {nats_server.url} | head -n 1"
    )
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "\x1b" not in done.stdout
    assert "container web die" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("--object", "Container"), ["shop-web", "shop-db"]),
        (("--object", "pod"), ["shop-pod"]),
        (("--name", "*-DB"), ["shop-db"]),
        (("--severity", "error"), ["shop-db"]),
        (("--severity", "warning"), ["shop-db", "shop-pod"]),
        (("--source", "docker", "--severity", "info", "--grep", "shop-web"), ["shop-web"]),
    ],
    ids=lambda value: " ".join(value),
)
async def test_filters_select_by_object_name_and_severity(
    events: Bus, nats_server: NatsServer, start: Start, arguments: tuple[str, ...], names: list[str]
) -> None:
    pod = KubernetesEvent(
        uid="1", resource_version="1", message="m", kind="Pod", name="shop-pod", type="Warning"
    )
    await publish(events, died("shop-web", "0"))
    await publish(events, died("shop-db", "1"))
    await publish(events, pod)
    tap = await start("-m", "sematext_agent.agentctl", "tap", *arguments, "--nats", nats_server.url)
    await tap.shows(names[-1])
    await asyncio.sleep(0.3)  # nothing shows that no more events come
    assert [name for line in tap.out for name in re.findall(r"shop-\w+", line)] == names


async def test_status_fits_a_narrow_terminal_and_colours_what_is_not_ready(
    connection: Bus, nats_server: NatsServer
) -> None:
    report = Report(
        service="docker",
        origin="a-host-with-a-long-name.example.org",
        version="0.1.0",
        ready=False,
        started=time.time(),
        figures={},
        conditions={"source": Condition(False, "the Docker Engine at " + "far away " * 10)},
    )

    async def answer(message: Any) -> None:
        await connection.send(message.reply, msgspec.json.encode(report))

    await connection.subscribe(STATUS_SUBJECT, answer)
    await connection.flush()
    status = TerminalSession("status", "--nats", nats_server.url, columns=44)
    await until_ended(status)
    assert status.end() == 1
    assert max(map(len, status.lines)) <= 44
    assert "\x1b[1;31m  ! source: the Docker Engine" in status.shown


async def until_ended(command: TerminalSession) -> None:
    """Read the output meanwhile, so that neither the terminal nor this event loop blocks."""
    while command.process.poll() is None:
        command.read()
        await asyncio.sleep(0.02)


SHELLS = {
    "bash": 'eval "$("$0" completion bash)"; COMP_WORDS=(agentctl sta); COMP_CWORD=1;'
    ' _shtab_agentctl agentctl sta agentctl; echo "${COMPREPLY[@]}"',
    "zsh": 'autoload -Uz compinit; compinit -u -D; eval "$("$0" completion zsh)";'
    " [[ $_comps[agentctl] == _shtab_agentctl ]] && echo status",
    "fish": '$argv[1] completion fish | source; complete -C "agentctl sta"',
}


@pytest.mark.parametrize("shell", SHELLS)
def test_a_real_shell_completes_the_command(shell: str) -> None:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"no {shell} on this machine")
    agentctl = os.path.join(os.path.dirname(sys.executable), "agentctl")
    done = subprocess.run(
        [program, "-c", SHELLS[shell], agentctl], capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split()[:1] == ["status"], done.stderr
