"""The Docker Engine: where it is, what it says of its objects, and its event stream.

The `docker` SDK finds the engine and carries the requests: contexts, TLS, API version. The answers
are decoded here, because the SDK's own event stream reports every error, an HTTP 403 or a dead
peer, as a normal end, and decodes across chunk edges wrongly.

Every call blocks and belongs in a thread. All raise `EngineError` and nothing else.
"""

from __future__ import annotations

import contextlib
import socket
import time
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
from sematext_agent.shared.events import NS_PER_SECOND, parse_rfc3339

T = TypeVar("T")

RING_EVENTS = 256
"""How many events the engine keeps (moby, `daemon/events`): of all types, until it ends."""
_CONNECT_SECONDS_MAX = 3
_ANSWER_SECONDS_MAX = 10
_READ_BYTES = 65536
_RUNNING = ("running", "paused")


class EngineError(Exception):
    """The engine did not do what was asked; the text says why."""

    def __init__(self, text: str, *, absent: bool = False, status: int = 0) -> None:
        super().__init__(text)
        self.absent = absent
        """Nothing is there to answer: no socket, or nobody listens on it."""
        self.status = status
        """The HTTP status, where one was answered."""


class Container(msgspec.Struct, frozen=True):
    """What the engine says of a container."""

    id: str
    name: str
    image: str
    labels: dict[str, str]
    running: bool
    created: int = 0
    """Nanoseconds since the epoch, as all times here; 0 where it is not known."""
    started: int = 0
    finished: int = 0
    exit_code: int | None = None
    """Of its last run, if it is not running."""
    probe: str | None = None
    """The command line of its health check, as an exec event spells it."""


class Snapshot(msgspec.Struct, frozen=True):
    """What exists at one moment."""

    containers: dict[str, Container]
    images: dict[str, tuple[str, ...]]
    """The tags of every image, by its id."""
    moment: int
    """When it was taken: nanoseconds since the epoch."""


class _Listed(msgspec.Struct, rename="pascal"):
    """An item of `GET /containers/json`."""

    id: str = msgspec.field(name="Id")
    names: list[str] | None = None
    image: str = ""
    labels: dict[str, str] | None = None
    state: str = ""
    created: int = 0


class _Health(msgspec.Struct):
    test: list[str] | None = msgspec.field(name="Test", default=None)


class _Config(msgspec.Struct, rename="pascal"):
    image: str = ""
    labels: dict[str, str] | None = None
    healthcheck: _Health | None = None
    shell: list[str] | None = None


class _State(msgspec.Struct, rename="pascal"):
    status: str = ""
    """`running`, `paused`, `restarting`, `exited` … Its `Running` is true between restarts too."""
    exit_code: int = 0
    started_at: str = ""
    finished_at: str = ""


class _Inspected(msgspec.Struct, rename="pascal"):
    """The answer of `GET /containers/{id}/json`."""

    id: str = msgspec.field(name="Id")
    name: str = ""
    created: str = ""
    config: _Config = msgspec.field(default_factory=_Config)
    state: _State = msgspec.field(default_factory=_State)


class _Image(msgspec.Struct, rename="pascal"):
    """An item of `GET /images/json`, or the answer of `GET /images/{id}/json`."""

    id: str = msgspec.field(name="Id")
    repo_tags: list[str] | None = None


class _Version(msgspec.Struct, rename="pascal"):
    version: str
    api_version: str = msgspec.field(name="ApiVersion")


class Stream:
    """The open event stream. One thread reads and releases it; any thread may end it."""

    def __init__(self, response: requests.Response) -> None:
        self._raw: urllib3.HTTPResponse = response.raw

    def read(self) -> bytes:
        """Waits for what comes next; empty at the end. Raises EngineError where it is cut."""
        with _errors():
            return self._raw.read1(_READ_BYTES)

    def end(self) -> None:
        """Ends the stream, also for a thread that waits in `read`."""
        with contextlib.suppress(OSError, ValueError, RuntimeError):
            self._raw.shutdown()

    def release(self) -> None:
        """Closes the connection, once nobody reads any more."""
        self._raw.close()


class Engine:
    """One engine, spoken to in its own API version. Made by `connect`."""

    def __init__(self, client: docker.APIClient, address: str) -> None:
        self._client = client
        self._root = client.base_url
        self.address = address
        found = self._get("/version", _Version)
        self.version = found.version
        self.api_version = found.api_version
        self._root = f"{client.base_url}/v{found.api_version}"

    def close(self) -> None:
        """Closes every idle connection."""
        self._client.close()

    def ring(self) -> list[bytes]:
        """The events that the engine remembers, oldest first: at most RING_EVENTS."""
        now = f"{time.time_ns() // NS_PER_SECOND}.{time.time_ns() % NS_PER_SECOND:09d}"
        answer = self._request("/events", {"since": "0", "until": now})
        return [line for line in answer.content.split(b"\n") if line]

    def follow(self) -> Stream:
        """The event stream: all that the engine remembers, then whatever happens."""
        answer = self._request("/events", {"since": "0"}, stream=True)
        stream = Stream(answer)
        with _errors():
            # Set for the headers; from here on, silence means that nothing happens.
            answer.raw.connection.sock.settimeout(None)
            _keep_alive(answer.raw.connection.sock)
        return stream

    def snapshot(self, closer: Callable[[str, bool], bool] = lambda *_: False) -> Snapshot:
        """All containers and images.

        Args:
            closer: by id and whether it runs, which containers to look at closer, one request
                each, for the times and exit codes that the list does not give.
        """
        moment = time.time_ns()
        containers = {}
        for item in self._get("/containers/json", list[_Listed], all="1"):
            running = item.state in _RUNNING
            found = self.container(item.id) if closer(item.id, running) else None
            containers[item.id] = found or Container(
                id=item.id,
                name=(item.names or [""])[0].removeprefix("/"),
                image=item.image,
                labels=item.labels or {},
                running=running,
                created=item.created * NS_PER_SECOND,
            )
        images = self._get("/images/json", list[_Image])
        return Snapshot(containers, {image.id: _tags(image) for image in images}, moment)

    def container(self, container_id: str) -> Container | None:
        """One container, looked at closely; None where it does not exist."""
        found = self._find(f"/containers/{container_id}/json", _Inspected)
        if found is None:
            return None
        state = found.state
        running = state.status in _RUNNING
        return Container(
            id=found.id,
            name=found.name.removeprefix("/"),
            image=found.config.image,
            labels=found.config.labels or {},
            running=running,
            created=_time(found.created),
            started=_time(state.started_at),
            finished=_time(state.finished_at),
            exit_code=None if running else state.exit_code,
            probe=_probe(found.config),
        )

    def image_tags(self, image_id: str) -> tuple[str, ...]:
        """The tags of an image; none where it does not exist."""
        found = self._find(f"/images/{image_id}/json", _Image)
        return () if found is None else _tags(found)

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
                # Said here, because requests lets REQUESTS_CA_BUNDLE win over its session.
                verify=self._client.verify,
                timeout=(_CONNECT_SECONDS_MAX, _ANSWER_SECONDS_MAX),
            )
            if answer.status_code >= 400:
                text = f"HTTP {answer.status_code} to GET {path}: {answer.text.strip()[:200]}"
                raise EngineError(text, status=answer.status_code)
        return answer


def where(settings: DockerSettings) -> dict[str, Any]:
    """How the SDK reaches the engine: `base_url`, and `tls` if it is to be used."""
    address = settings.docker_transport or settings.docker_host
    place = {"base_url": address} if address else ContextAPI.kwargs_from_context()
    place.setdefault("base_url", "unix:///var/run/docker.sock")
    folder = settings.docker_cert_path
    if folder and not place["base_url"].startswith("unix://"):
        place["tls"] = TLSConfig(
            client_cert=(f"{folder}/cert.pem", f"{folder}/key.pem"),
            ca_cert=f"{folder}/ca.pem",
            verify=True,
        )
    return place


def connect(settings: DockerSettings) -> Engine:
    """The engine that the settings name, asked for its own API version.

    An engine since 29 rounds the times of a stream that is read in an older version.
    """
    with _errors():
        place = where(settings)
        if place["base_url"].startswith("unix://"):
            # The SDK leaves the socket of a failed attempt to the garbage collector.
            with socket.socket(socket.AF_UNIX) as knock:
                knock.settimeout(_CONNECT_SECONDS_MAX)
                knock.connect("/" + place["base_url"].removeprefix("unix://").lstrip("/"))
        client = docker.APIClient(**place, version=MINIMUM_DOCKER_API_VERSION)
        return Engine(client, place["base_url"])


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turns whatever a call to the engine raises into an EngineError."""
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
    """The error beneath the layers of the SDK, of requests and of urllib3."""
    while (beneath := error.__cause__ or error.__context__) is not None:
        error = beneath
    return error


def _keep_alive(connection: socket.socket) -> None:
    """Has the kernel find out that a remote engine is gone: the stream itself may stay silent."""
    if connection.family == socket.AF_UNIX:
        return
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)


def _tags(image: _Image) -> tuple[str, ...]:
    return tuple(tag for tag in image.repo_tags or () if tag != "<none>:<none>")


def _time(text: str) -> int:
    """Nanoseconds since the epoch; 0 for the year 1, with which Go says never, and for no time."""
    try:
        return max(0, parse_rfc3339(text))
    except ValueError:
        return 0


def _probe(config: _Config) -> str | None:
    """A health check's command line as `exec_create` spells it: the arguments joined by blanks."""
    test = (config.healthcheck and config.healthcheck.test) or []
    if len(test) < 2:
        return None
    if test[0] == "CMD-SHELL":
        return " ".join([*(config.shell or ["/bin/sh", "-c"]), test[1]])
    # The first argument and the rest are joined, even if there is no rest.
    return f"{test[1]} {' '.join(test[2:])}" if test[0] == "CMD" else None
