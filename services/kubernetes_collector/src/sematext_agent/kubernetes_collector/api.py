"""The Kubernetes API over HTTP: a few requests, and one stream that never ends well.

Every way in which a request can fail ends in `ApiError`, which says how to go on: `Patience` waits
as long as the failure deserves. Nothing waits without a deadline, and a peer that has vanished is
noticed: the kernel probes idle connections, and gives up on data that is not acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import copy
import logging
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from types import TracebackType
from typing import Any, Self, TypeVar

import aiohttp
import msgspec

from sematext_agent.kubernetes_collector.credentials import Credentials
from sematext_agent.shared import AGENT_NAME, AGENT_VERSION
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.health import Health
from sematext_agent.shared.retry import Backoff

log = logging.getLogger(__name__)

T = TypeVar("T")

JSON = "application/json"
CONNECT_SECONDS = 10
HEADERS_SECONDS = 30
"""How long the server may think before it begins to answer."""
BODY_SECONDS = 60
"""How long one answer, such as a page of a list, may take to arrive."""
DENIED_SECONDS = 60
"""How long to wait after 403: until somebody grants the permission."""
RETRY_AFTER_SECONDS_MAX = 300
_READ_BUFFER_BYTES = 256 * 1024


class ApiError(Exception):
    """A request that failed. `status` is the HTTP status, or 0 where there was no answer."""

    def __init__(self, status: int, text: str, retry_after: float = 0, token: str = "") -> None:
        super().__init__(f"{status} {text}" if status else text)
        self.status = status
        self.retry_after = retry_after
        """Seconds that the server asked us to wait."""
        self.continue_token = token
        """With 410 on a list: the way to go on, on a newer state of the cluster."""


class _StatusMetadata(msgspec.Struct):
    continue_token: str | None = msgspec.field(default=None, name="continue")


class Status(msgspec.Struct):
    """What the API says went wrong: the body of an error, or an ERROR frame of a watch."""

    code: int | None = None
    message: str | None = None
    reason: str | None = None
    metadata: _StatusMetadata | None = None

    def error(self, status: int = 0, retry_after: float = 0) -> ApiError:
        """The same as an exception; `status` where the body has none."""
        code = self.code or status
        if self.reason in ("Expired", "Gone"):
            code = 410
        token = (self.metadata and self.metadata.continue_token) or ""
        return ApiError(code, self.message or self.reason or "no reason given", retry_after, token)


class Api:
    """One server, one session. Use as a context manager."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_socket),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS),
            headers={
                "User-Agent": f"{AGENT_NAME}/{AGENT_VERSION}",
                # Compressing costs both ends more than the wire between them is worth.
                "Accept-Encoding": "identity",
            },
            read_bufsize=_READ_BUFFER_BYTES,
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def request(
        self,
        method: str,
        path: str,
        params: dict[str, str] | None = None,
        body: Any = None,
        accept: str = JSON,
    ) -> bytes:
        """One request, and the body of its answer. Raises ApiError."""
        async with (
            self.stream(method, path, params, body, accept) as content,
            asyncio.timeout(BODY_SECONDS),
        ):
            return await content.read()

    @contextlib.asynccontextmanager
    async def stream(
        self,
        method: str,
        path: str,
        params: dict[str, str] | None = None,
        body: Any = None,
        accept: str = JSON,
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """One request, and the body of its answer while it arrives.

        Raises:
            ApiError: it failed, or broke off while it was read.
        """
        response = await self._answer(method, path, params, body, accept)
        try:
            yield response.content
        except _FAILURES as error:
            raise _no_answer(error) from error
        finally:
            # An answer read to its end has gone back to the pool already; this ends the others.
            response.close()

    async def _answer(
        self, method: str, path: str, params: dict[str, str] | None, body: Any, accept: str
    ) -> aiohttp.ClientResponse:
        """An answer that is not an error. Whoever we are is asked twice, with new credentials."""
        try:
            response = await self._send(method, path, params, body, accept)
            if response.status == 401:
                response.close()
                await self._credentials.reload()
                response = await self._send(method, path, params, body, accept)
        except aiohttp.ClientSSLError:
            await self._credentials.reload()
            try:
                response = await self._send(method, path, params, body, accept)
            except _FAILURES as error:
                raise _no_answer(error) from error
        except _FAILURES as error:
            raise _no_answer(error) from error
        if response.status >= 300:
            raise await _refusal(response)
        return response

    async def _send(
        self, method: str, path: str, params: dict[str, str] | None, body: Any, accept: str
    ) -> aiohttp.ClientResponse:
        access = await self._credentials.current()
        data = None if body is None else msgspec.json.encode(body)
        headers = access.headers | {"Accept": accept} | ({"Content-Type": JSON} if data else {})
        async with asyncio.timeout(CONNECT_SECONDS + HEADERS_SECONDS):
            return await self._session.request(
                method,
                access.server + path,
                params=params,
                data=data,
                headers=headers,
                ssl=access.tls,
                server_hostname=access.server_hostname,
                proxy=access.proxy,
                allow_redirects=False,
            )


_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)


def _no_answer(error: BaseException) -> ApiError:
    return ApiError(0, str(error) or error.__class__.__name__)


async def _refusal(response: aiohttp.ClientResponse) -> ApiError:
    """The error that `response` is, whoever wrote it: the API, or a proxy before it."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            body = await response.content.read(64 * 1024)
    except _FAILURES:
        body = b""
    finally:
        response.close()
    seconds = response.headers.get("Retry-After", "")
    retry_after = min(float(seconds), RETRY_AFTER_SECONDS_MAX) if seconds.isdecimal() else 0.0
    try:
        status = msgspec.json.decode(body, type=Status)
    except DECODE_ERRORS:
        status = Status(message=response.reason)
    status.code = response.status
    return status.error(retry_after=retry_after)


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """A socket that notices a peer that is gone: in 60 s idle, or with data on the way."""
    family, kind, protocol, _, _ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
    return made


class Patience:
    """How to go on after a failure: how long to wait, and what to say meanwhile."""

    def __init__(self, health: Health, stopping: asyncio.Event) -> None:
        self._health = health
        self._stopping = stopping
        self._failures = health.add_counter("api_failures", "Requests that failed.", "status")
        self._namespace = ""
        self._failing: dict[str, str] = {}  # by namespace, what fails there

    def about(self, namespace: str) -> Patience:
        """The same, for the requests of one of several namespaces: all must do well."""
        other = copy.copy(self)
        other._namespace = namespace  # noqa: SLF001
        return other

    def well(self, detail: str) -> None:
        """States that requests do as they should, unless those of another namespace fail."""
        self._failing.pop(self._namespace, None)
        failing = next(iter(self._failing.values()), None)
        self._health.set_condition("cluster", failing is None, failing or detail)

    def _fails(self, detail: str) -> None:
        self._health.last_error = detail
        namespace = f"namespace {self._namespace}: " if self._namespace else ""
        self._failing[self._namespace] = namespace + detail
        self._health.set_condition("cluster", False, self._failing[self._namespace])

    async def after(self, error: ApiError, backoff: Backoff, seconds_min: float = 0) -> None:
        """Waits for as long as `error` deserves, or until the process shall stop."""
        self._failures.labels(str(error.status)).inc()
        rules = ": deploy/kubernetes has the rules" if error.status == 403 else ""
        self._fails(f"{error}{rules}")
        seconds = DENIED_SECONDS if error.status == 403 else backoff.draw_delay_seconds()
        await self.pause(max(seconds, error.retry_after, seconds_min))

    async def pause(self, seconds: float) -> None:
        """Waits `seconds`, or until the process shall stop."""
        if seconds > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await self._stopping.wait()

    async def persist(self, attempt: Callable[[], Awaitable[T]]) -> T | None:
        """What `attempt` returns, however often it takes; None when the process shall stop.

        Raises:
            ApiError: 410, which trying again does not mend.
        """
        backoff = Backoff(0.2, 30)
        while not self._stopping.is_set():
            try:
                done = await attempt()
                self._failing.pop(self._namespace, None)
                return done
            except ApiError as error:
                if error.status == 410:
                    raise
                await self.after(error, backoff)
        return None
