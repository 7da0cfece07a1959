"""The Kubernetes API over HTTP: single requests, and answers read while they arrive.

Every failure of a request becomes an `ApiError`; `RetryPolicy` decides the pause after it. Nothing
waits without a deadline, and a vanished peer is noticed: the kernel probes idle connections, and
gives up on data that is not acknowledged.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from types import TracebackType
from typing import Any, NamedTuple, Self

import aiohttp
import msgspec

from sematext_agent.kubernetes_collector.credentials import Credentials
from sematext_agent.shared import AGENT_NAME, AGENT_VERSION
from sematext_agent.shared.decode_errors import DECODE_ERRORS

JSON = "application/json"
CONNECT_SECONDS = 10
HEADERS_SECONDS = 30
"""The time until the server begins to answer."""
BODY_SECONDS = 60
"""The time in which one answer, such as a page of a list, arrives."""
RETRY_AFTER_SECONDS_MAX = 300
_READ_BUFFER_BYTES = 256 * 1024


class ApiError(Exception):
    """A failed request. `status` is the HTTP status, or 0 where there was no answer."""

    def __init__(self, status: int, text: str, retry_after: float = 0, token: str = "") -> None:
        super().__init__(f"{status} {text}" if status else text)
        self.status = status
        self.retry_after = retry_after
        """The pause that the server demands, in seconds."""
        self.continue_token = token
        """After 410 on a list: the token that continues it in a newer state of the cluster."""


class _StatusMetadata(msgspec.Struct):
    continue_token: str | None = msgspec.field(default=None, name="continue")


class ApiStatus(msgspec.Struct):
    """An error as the API reports it: the body of an answer, or an ERROR frame of a watch."""

    code: int | None = None
    message: str | None = None
    reason: str | None = None
    metadata: _StatusMetadata | None = None

    def to_error(self, status: int = 0, retry_after: float = 0) -> ApiError:
        """Return the same as an exception; `status` stands in where the body has none."""
        code = self.code or status
        if self.reason in ("Expired", "Gone"):
            code = 410
        token = (self.metadata and self.metadata.continue_token) or ""
        return ApiError(code, self.message or self.reason or "no reason given", retry_after, token)


class _ApiRequest(NamedTuple):
    """One request; `body` is sent as JSON."""

    method: str
    path: str
    params: dict[str, str] | None = None
    body: Any = None
    accept: str = JSON


class Api:
    """The session with one API server; a context manager."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, socket_factory=_create_socket),
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
        traceback: TracebackType | None,
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
        """Send one request and return the body of its answer; raise ApiError where it fails."""
        request = _ApiRequest(method, path, params, body, accept)
        async with self._open(request) as content, asyncio.timeout(BODY_SECONDS):
            return await content.read()

    def stream(
        self, path: str, params: dict[str, str]
    ) -> contextlib.AbstractAsyncContextManager[aiohttp.StreamReader]:
        """Send one GET and yield the body of its answer while it arrives.

        Raises:
            ApiError: the request failed, or the answer broke off.
        """
        return self._open(_ApiRequest("GET", path, params))

    @contextlib.asynccontextmanager
    async def _open(self, request: _ApiRequest) -> AsyncIterator[aiohttp.StreamReader]:
        response = await self._answer(request)
        try:
            yield response.content
        except _FAILURES as error:
            raise _connection_error(error) from error
        finally:
            # An answer read to its end has gone back to the pool already; this ends the others.
            response.close()

    async def _answer(self, request: _ApiRequest) -> aiohttp.ClientResponse:
        """Return an answer that is not an error; after 401, try once more with new credentials."""
        try:
            response = await self._send(request)
            if response.status == 401:
                response.close()
                await self._credentials.reload()
                response = await self._send(request)
        except aiohttp.ClientSSLError:
            await self._credentials.reload()
            try:
                response = await self._send(request)
            except _FAILURES as error:
                raise _connection_error(error) from error
        except _FAILURES as error:
            raise _connection_error(error) from error
        if response.status >= 300:
            raise await read_error(response)
        return response

    async def _send(self, request: _ApiRequest) -> aiohttp.ClientResponse:
        access = await self._credentials.current()
        data = None if request.body is None else msgspec.json.encode(request.body)
        headers = access.headers | {"Accept": request.accept}
        if data:
            headers["Content-Type"] = JSON
        async with asyncio.timeout(CONNECT_SECONDS + HEADERS_SECONDS):
            return await self._session.request(
                request.method,
                access.server + request.path,
                params=request.params,
                data=data,
                headers=headers,
                ssl=access.tls,
                server_hostname=access.server_hostname,
                proxy=access.proxy,
                allow_redirects=False,
            )


_FAILURES = (aiohttp.ClientError, OSError, TimeoutError)


def _connection_error(error: BaseException) -> ApiError:
    return ApiError(0, str(error) or error.__class__.__name__)


async def read_error(response: aiohttp.ClientResponse) -> ApiError:
    """Return the error in `response`, written by the API or by a proxy before it."""
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
        status = msgspec.json.decode(body, type=ApiStatus)
    except DECODE_ERRORS:
        status = ApiStatus(message=response.reason)
    status.code = response.status
    return status.to_error(retry_after=retry_after)


def _create_socket(address: aiohttp.AddrInfoType) -> socket.socket:
    """Return a socket that notices a vanished peer in 60 s, idle or with data on the way."""
    family, kind, protocol, _, _ = address
    created = socket.socket(family, kind, protocol)
    created.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        created.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 30)
        created.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 10)
        created.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3)
        created.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 60_000)
    return created
