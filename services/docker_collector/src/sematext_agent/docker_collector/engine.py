"""The Docker Engine: its address, its objects, its history of events and its event stream.

The `docker` SDK finds the engine and carries the requests: contexts, TLS, API version. The answers
are decoded here, because the SDK's own event stream reports every error, an HTTP 403 or a dead
peer, as a normal end, and decodes across chunk edges wrongly.

Every call blocks and belongs in a thread. All raise `EngineError` and nothing else.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import docker
import msgspec
import requests
import urllib3
from docker.constants import MINIMUM_DOCKER_API_VERSION
from docker.context import ContextAPI
from docker.errors import DockerException
from docker.tls import TLSConfig

from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.events import NS_PER_SECOND, parse_rfc3339

T = TypeVar("T")

HISTORY_EVENTS = 256
"""The events that an engine remembers (moby, `daemon/events`): of all types, until it ends."""
_CONNECT_SECONDS_MAX = 3
_ANSWER_SECONDS_MAX = 10
_READ_BYTES = 65536
_RUNNING = ("running", "paused")


class EngineError(Exception):
    """A request that the engine did not fulfil; the text says why."""

    def __init__(self, text: str, *, absent: bool = False, status: int = 0) -> None:
        super().__init__(text)
        self.absent = absent
        """True where nothing answers: no socket, or nobody listens on it."""
        self.status = status
        """The HTTP status of the answer; 0 without an answer."""


class EngineContainer(msgspec.Struct, frozen=True):
    """A container as a list or an inspection shows it."""

    id: str
    name: str
    image: str
    labels: dict[str, str]
    running: bool
    created_ns: int = 0
    """In nanoseconds since the epoch, as all times here; 0 where it is unknown."""
    started_ns: int = 0
    finished_ns: int = 0
    exit_code: int | None = None
    """The exit code of the last run, unless it is running."""
    health_check: str | None = None
    """The command line of its health check, as an exec event spells it."""


class Snapshot(msgspec.Struct, frozen=True):
    """The containers and images of one moment."""

    containers: dict[str, EngineContainer]
    images: dict[str, tuple[str, ...]]
    """The tags of every image, by its id."""
    taken_ns: int
    """In nanoseconds since the epoch."""


class _ListedContainer(msgspec.Struct, rename="pascal"):
    """An item of `GET /containers/json`."""

    id: str = msgspec.field(name="Id")
    names: list[str] | None = None
    image: str = ""
    labels: dict[str, str] | None = None
    state: str = ""
    created: int = 0


class _HealthCheckConfig(msgspec.Struct):
    test: list[str] | None = msgspec.field(name="Test", default=None)


class _EngineContainerConfig(msgspec.Struct, rename="pascal"):
    image: str = ""
    labels: dict[str, str] | None = None
    healthcheck: _HealthCheckConfig | None = None
    shell: list[str] | None = None


class _RunState(msgspec.Struct, rename="pascal"):
    status: str = ""
    """`running`, `paused`, `restarting`, `exited` … Its `Running` is true between restarts too."""
    exit_code: int = 0
    started_at: str = ""
    finished_at: str = ""


class _InspectedContainer(msgspec.Struct, rename="pascal"):
    """The answer of `GET /containers/{id}/json`."""

    id: str = msgspec.field(name="Id")
    name: str = ""
    created: str = ""
    config: _EngineContainerConfig = msgspec.field(default_factory=_EngineContainerConfig)
    state: _RunState = msgspec.field(default_factory=_RunState)


class _EngineImage(msgspec.Struct, rename="pascal"):
    """An item of `GET /images/json`, or the answer of `GET /images/{id}/json`."""

    id: str = msgspec.field(name="Id")
    repo_tags: list[str] | None = None


class _EngineVersion(msgspec.Struct, rename="pascal"):
    version: str
    api_version: str = msgspec.field(name="ApiVersion")


class EventStream:
    """An open event stream. One thread reads and releases it; any thread may end it."""

    def __init__(self, response: requests.Response) -> None:
        self._raw: urllib3.HTTPResponse = response.raw

    def read(self) -> bytes:
        """Wait for the next bytes and return them; empty at the end.

        Raises:
            EngineError: the stream was cut.
        """
        with _errors():
            return self._raw.read1(_READ_BYTES)

    def end(self) -> None:
        """End the stream, also for a thread that waits in `read`."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._raw.shutdown()

    def release(self) -> None:
        """Close the connection, once nobody reads any more."""
        self._raw.close()


class Engine:
    """A client of one engine in the engine's own API version. `connect` makes it."""

    def __init__(self, client: docker.APIClient, address: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._client = client
        self._clock = clock
        self._root = client.base_url
        self.address = address
        version = self._get("/version", _EngineVersion)
        self.version = version.version
        self.api_version = version.api_version
        self._root = f"{client.base_url}/v{version.api_version}"

    def close(self) -> None:
        """Close every idle connection."""
        self._client.close()

    def history(self) -> list[bytes]:
        """Return the events that the engine remembers, oldest first: at most HISTORY_EVENTS."""
        seconds, nanoseconds = divmod(self._clock.wall_ns(), NS_PER_SECOND)
        now = f"{seconds}.{nanoseconds:09d}"
        answer = self._request("/events", {"since": "0", "until": now})
        return [line for line in answer.content.split(b"\n") if line]

    def open_stream(self) -> EventStream:
        """Return the event stream: the history, then every event as it happens."""
        answer = self._request("/events", {"since": "0"}, stream=True)
        stream = EventStream(answer)
        with _errors():
            # Set for the headers; from here on, silence means that nothing happens.
            answer.raw.connection.sock.settimeout(None)
            _keep_alive(answer.raw.connection.sock)
        return stream

    def snapshot(self, inspects: Callable[[str, bool], bool] = lambda *_: False) -> Snapshot:
        """Return all containers and images.

        Args:
            inspects: called with a container's id and whether it runs; True for an inspection, one
                request, which gives the times and the exit code that the list lacks.
        """
        taken_ns = self._clock.wall_ns()
        containers = {}
        for item in self._get("/containers/json", list[_ListedContainer], all="1"):
            running = item.state in _RUNNING
            inspected = self.container(item.id) if inspects(item.id, running) else None
            containers[item.id] = inspected or EngineContainer(
                id=item.id,
                name=(item.names or [""])[0].removeprefix("/"),
                image=item.image,
                labels=item.labels or {},
                running=running,
                created_ns=item.created * NS_PER_SECOND,
            )
        images = self._get("/images/json", list[_EngineImage])
        return Snapshot(containers, {image.id: _tags(image) for image in images}, taken_ns)

    def container(self, container_id: str) -> EngineContainer | None:
        """Return a container from an inspection; None where it does not exist."""
        container = self._find(f"/containers/{container_id}/json", _InspectedContainer)
        if container is None:
            return None
        config, state = container.config, container.state
        running = state.status in _RUNNING
        return EngineContainer(
            id=container.id,
            name=container.name.removeprefix("/"),
            image=config.image,
            labels=config.labels or {},
            running=running,
            created_ns=_parse_time(container.created),
            started_ns=_parse_time(state.started_at),
            finished_ns=_parse_time(state.finished_at),
            exit_code=None if running else state.exit_code,
            health_check=_health_check(config),
        )

    def image_tags(self, image_id: str) -> tuple[str, ...]:
        """Return the tags of an image; none where it does not exist."""
        image = self._find(f"/images/{image_id}/json", _EngineImage)
        return () if image is None else _tags(image)

    def _find(self, path: str, wanted: type[T]) -> T | None:
        try:
            return self._get(path, wanted)
        except EngineError as error:
            if error.status == 404:
                return None
            raise

    def _get(self, path: str, wanted: type[T], **parameters: str) -> T:
        with _errors():
            return msgspec.json.decode(self._request(path, parameters).content, type=wanted)

    def _request(
        self, path: str, parameters: dict[str, str], *, stream: bool = False
    ) -> requests.Response:
        with _errors():
            answer: requests.Response = self._client.get(
                self._root + path,
                params=parameters,
                stream=stream,
                # For each request: in a session requests lets REQUESTS_CA_BUNDLE win over it.
                verify=self._client.verify,
                timeout=(_CONNECT_SECONDS_MAX, _ANSWER_SECONDS_MAX),
            )
            if answer.status_code >= 400:
                text = f"HTTP {answer.status_code} to GET {path}: {answer.text.strip()[:200]}"
                raise EngineError(text, status=answer.status_code)
        return answer


def client_arguments(settings: DockerSettings) -> dict[str, Any]:
    """Return the arguments of the SDK's client: `base_url`, and `tls` where it is used."""
    address = settings.docker_transport or settings.docker_host
    arguments = {"base_url": address} if address else ContextAPI.kwargs_from_context()
    arguments.setdefault("base_url", "unix:///var/run/docker.sock")
    folder = settings.docker_cert_path
    if folder and not arguments["base_url"].startswith("unix://"):
        arguments["tls"] = TLSConfig(
            client_cert=(f"{folder}/cert.pem", f"{folder}/key.pem"),
            ca_cert=f"{folder}/ca.pem",
            verify=True,
        )
    return arguments


def connect(settings: DockerSettings, clock: Clock = SYSTEM_CLOCK) -> Engine:
    """Return the engine that the settings name, in its own API version.

    An engine since 29 rounds the times of a stream that is read in an older version.
    """
    with _errors():
        arguments = client_arguments(settings)
        if arguments["base_url"].startswith("unix://"):
            # The SDK leaves the socket of a failed attempt to the garbage collector.
            with socket.socket(socket.AF_UNIX) as knock:
                knock.settimeout(_CONNECT_SECONDS_MAX)
                knock.connect("/" + arguments["base_url"].removeprefix("unix://").lstrip("/"))
        client = docker.APIClient(**arguments, version=MINIMUM_DOCKER_API_VERSION)
        return Engine(client, arguments["base_url"], clock)


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn every error of a call to the engine into an EngineError."""
    try:
        yield
    except (
        DockerException,
        requests.RequestException,
        urllib3.exceptions.HTTPError,
        OSError,
        ValueError,
        msgspec.MsgspecError,
        RecursionError,
    ) as error:
        cause = _cause(error)
        absent = isinstance(cause, FileNotFoundError | ConnectionRefusedError)
        raise EngineError(str(cause), absent=absent) from error


def _cause(error: BaseException) -> BaseException:
    """Return the error beneath the layers of the SDK, of requests and of urllib3."""
    while (beneath := error.__cause__ or error.__context__) is not None:
        error = beneath
    return error


def _keep_alive(connection: socket.socket) -> None:
    """Make the kernel detect a remote engine that is gone: the stream itself may stay silent."""
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _tags(image: _EngineImage) -> tuple[str, ...]:
    return tuple(tag for tag in image.repo_tags or () if tag != "<none>:<none>")


def _parse_time(text: str) -> int:
    """Return nanoseconds since the epoch; 0 for no time, and for the year 1, which is Go's zero."""
    try:
        return max(0, parse_rfc3339(text))
    except ValueError:
        return 0


def _health_check(config: _EngineContainerConfig) -> str | None:
    """Return a health check's command line as `exec_create` spells it, joined by blanks."""
    test = (config.healthcheck and config.healthcheck.test) or []
    if len(test) < 2:
        return None
    if test[0] == "CMD-SHELL":
        return " ".join([*(config.shell or ["/bin/sh", "-c"]), test[1]])
    # The first argument and the rest are joined, even if there is no rest.
    return f"{test[1]} {' '.join(test[2:])}" if test[0] == "CMD" else None
