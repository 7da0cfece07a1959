"""The limits of a service's HTTP port: connections, time, sizes, descriptors, names."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Awaitable, Callable

import h11
import pytest
from broker import wait_until
from http_service import (
    CONNECTIONS_MAX,
    REQUEST,
    Service,
    find_lowest_free_descriptor,
    limited_descriptors,
    open_files,
)
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Receive, Scope, Send

from sematext_agent.shared import incoming_request, listener
from sematext_agent.shared.health import Health
from sematext_agent.shared.http_server import (
    HttpServer,
    OneRequestProtocol,
    build_health_app,
    build_health_server,
    is_loopback,
)
from sematext_agent.shared.incoming_request import (
    BODY_BYTES_MAX,
    HEADER_BYTES_MAX,
    RefusedRequestError,
    is_complete,
)

Serve = Callable[[ASGIApp], Service]


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    """Yield a function that serves an app until the test ends."""
    services: list[Service] = []

    def begin(app: ASGIApp) -> Service:
        services.append(Service(lambda: HttpServer(app)))
        return services[-1]

    yield begin
    for running in services:
        await running.stop()


@pytest.fixture
async def service(serve: Serve) -> Service:
    return serve(build_health_app(Health("test", "host")))


async def test_the_oldest_silent_connection_makes_way_for_a_new_one(service: Service) -> None:
    silent = [await service.connect() for _ in range(CONNECTIONS_MAX)]
    assert (await service.request()).startswith(b"HTTP/1.1 200")
    assert await silent[0].read() == b""
    for client in silent[1:]:
        assert (await client.request()).startswith(b"HTTP/1.1 200")


async def test_a_flood_of_silent_connections_does_not_load_the_server(service: Service) -> None:
    for _ in range(20 * CONNECTIONS_MAX):
        (await service.connect()).writer.write(b"GET / HTTP/1.1\r\n")
    await service.clients[0].read()
    assert service.builds == 0
    answers = await asyncio.gather(service.request(), service.request())
    assert all(answer.startswith(b"HTTP/1.1 200") for answer in answers)
    assert service.builds == 1


async def test_a_request_that_drips_is_given_up_in_time(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(incoming_request, "REQUEST_SECONDS_MAX", 0.2)
    client = await service.connect()

    async def drip() -> None:
        for number in range(1000):
            client.writer.write(b"X-%d: a\r\n" % number)
            await asyncio.sleep(0.02)

    dripping = asyncio.create_task(drip())
    assert await client.read() == b""
    dripping.cancel()


async def test_a_connection_bears_one_request(service: Service) -> None:
    answer = await service.request()
    assert b"\r\nconnection: close\r\n" in answer
    assert (await service.request(REQUEST * 3)).count(b"HTTP/1.1 200") == 1


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"GET / HTTP/1.1\r\nX: " + b"x" * HEADER_BYTES_MAX, 431),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * HEADER_BYTES_MAX + b"\r\n\r\n", 431),
        (b"POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n" % (BODY_BYTES_MAX + 1), 413),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        (b"POST / HTTP/1.1\r\nContent-Length:\r\n 5\r\n\r\n", 400),
        (b"\x16\x03\x01\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
    ],
)
async def test_a_request_that_is_too_large_or_has_no_size_is_refused(
    service: Service, content: bytes, status: int
) -> None:
    assert (await service.request(content)).startswith(b"HTTP/1.1 %d " % status)


_line = st.sampled_from(
    [
        b"Content-Length: 3",
        b"content-length:3 ",
        b"Content-Length : 3",
        b"Content-Length: 3, 3",
        b"Content-Length:",
        b"Content-Length: 30\nX: y",
        b" 3",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding:",
        b" chunked",
        b"X: y",
        b"Expect: 100-continue",
        b"Connection: Upgrade\r\nUpgrade: websocket",
        b"",
    ]
)


@given(
    st.sampled_from([b"GET / HTTP/1.1", b"POST / HTTP/1.0", b"CONNECT a:1 HTTP/1.1", b""]),
    st.lists(_line, max_size=5),
    st.sampled_from([b"\r\n", b"\n"]),
    st.sampled_from([b"", b"abc", b"3\r\nabc\r\n0\r\n\r\n"]),
)
def test_the_server_never_waits_for_more_than_a_whole_request(
    start: bytes, lines: list[bytes], end: bytes, body: bytes
) -> None:
    """It would do so without a limit of time."""
    content = end.join([start, b"Host: a", *lines, b"", body])
    try:
        if not is_complete(content):
            return
    except RefusedRequestError:
        return
    server = h11.Connection(h11.SERVER)
    server.receive_data(content)
    with contextlib.suppress(h11.RemoteProtocolError):
        event = server.next_event()
        while isinstance(event, h11.Request | h11.Data):
            event = server.next_event()
        assert isinstance(event, h11.EndOfMessage)


async def test_requests_beyond_the_bound_wait_for_those_before_them(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "BATCH_SECONDS", 0.01)
    goes_on = asyncio.Event()
    answering = answering_most = 0

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        nonlocal answering, answering_most
        answering += 1
        answering_most = max(answering, answering_most)
        await goes_on.wait()
        answering -= 1
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    service = serve(app)
    requests = [asyncio.create_task(service.request()) for _ in range(3 * CONNECTIONS_MAX)]
    await wait_until(lambda: answering == CONNECTIONS_MAX)
    await asyncio.sleep(0.1)
    goes_on.set()
    assert all(b" 204 " in answer for answer in await asyncio.gather(*requests))
    assert answering_most == CONNECTIONS_MAX


async def test_a_request_that_the_server_fails_on_holds_no_connection(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("bad request")

    with monkeypatch.context() as patch:
        patch.setattr(OneRequestProtocol, "data_received", fail)
        for _ in range(2 * CONNECTIONS_MAX):
            assert await service.request() == b""
    assert (await service.request()).startswith(b"HTTP/1.1 200")


async def test_requests_leave_time_for_the_rest_of_the_process(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "BATCH_SECONDS", 0.2)
    loop = asyncio.get_running_loop()
    begin_seconds = loop.time()
    for _ in range(3 * CONNECTIONS_MAX):
        assert await service.request()
    assert loop.time() - begin_seconds > 0.4


async def test_a_client_that_does_not_read_its_answer_is_disconnected(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "UNREAD_MILLISECONDS_MAX", 200)
    ended = asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        disconnect = asyncio.ensure_future(receive())
        while not disconnect.done():
            await send({"type": "http.response.body", "body": b"x" * 65536, "more_body": True})
            await asyncio.sleep(0)
        ended.set()

    service = serve(app)
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(REQUEST)
        async with asyncio.timeout(10):
            await ended.wait()


async def test_what_is_being_answered_at_the_stop_is_answered(serve: Serve) -> None:
    begun, goes_on = asyncio.Event(), asyncio.Event()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        await goes_on.wait()
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body"})

    service = serve(app)
    request = asyncio.create_task(service.request())
    silent = await service.connect()
    await begun.wait()
    service.task.cancel()
    assert await silent.read() == b""
    assert not request.done()
    goes_on.set()
    assert b" 204 " in await request


async def test_the_last_quarter_of_the_descriptors_is_not_for_connections(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "EXHAUSTED_SECONDS", 0.05)
    app = build_health_app(Health("test", "host"))
    with contextlib.ExitStack() as opened:
        open_files(opened, 40)  # none of the lower ones is free then
        with limited_descriptors(find_lowest_free_descriptor() + 8):
            assert await serve(app).request() == b""
    assert "the rest is for the broker and the receiver" in caplog.text
    assert (await serve(app).request()).startswith(b"HTTP/1.1 200")


async def test_a_listener_outlives_the_lack_of_descriptors(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(listener, "EXHAUSTED_SECONDS", 0.2)
    loop = asyncio.get_running_loop()
    with limited_descriptors(find_lowest_free_descriptor() + 8), contextlib.ExitStack() as opened:
        client = socket.socket()
        client.setblocking(False)
        with contextlib.suppress(OSError):
            open_files(opened, 1000)
        # Not in a thread: the first one imports a module, which takes a descriptor.
        await loop.sock_connect(client, ("127.0.0.1", service.port))
        await wait_until(lambda: "Too many open files" in caplog.text)
        await asyncio.sleep(0.5)
    assert len(caplog.records) < 5
    with client:
        await loop.sock_sendall(client, REQUEST)
        assert (await loop.sock_recv(client, 100)).startswith(b"HTTP/1.1 200")


ReadStatus = Callable[[str, bytes], Awaitable[int]]


@pytest.fixture
async def read_status() -> ReadStatus:
    """Return a function: the status of a health page on an address, under a name."""

    async def read(address: str, name: bytes) -> int:
        service = Service(lambda: build_health_server(Health("test", "host"), address))
        version, header = (b"1.1", b"Host: %s\r\n" % name) if name else (b"1.0", b"")
        answer = await service.request(b"GET /readyz HTTP/%s\r\n%s\r\n" % (version, header))
        await service.stop()
        return int(answer.split()[1])

    return read


@pytest.mark.parametrize(
    "name", [b"evil.example", b"evil.example:8675", b"127.0.0.1.evil.example", b"[", b"10.0.0.1"]
)
async def test_health_on_the_loopback_is_not_shown_under_a_foreign_name(
    read_status: ReadStatus, name: bytes
) -> None:
    """A web page would read it by DNS rebinding."""
    assert await read_status("127.0.0.1", name) == 421


@pytest.mark.parametrize("name", [b"localhost:8675", b"127.0.0.1:8675", b"[::1]:8675", b""])
async def test_health_on_the_loopback_is_shown_under_its_names(
    read_status: ReadStatus, name: bytes
) -> None:
    assert await read_status("127.0.0.1", name) == 503


@pytest.mark.parametrize("name", [b"10.0.0.5:8675", b"forwarder:8675", b"agent.ns.svc.cluster"])
async def test_health_on_a_network_is_shown_under_any_name(
    read_status: ReadStatus, name: bytes
) -> None:
    """Of a probe, of a service in docker-compose, and of Prometheus."""
    assert await read_status("0.0.0.0", name) == 503


@pytest.mark.parametrize(
    ("address", "is_local"),
    [("127.0.0.2", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False)],
)
def test_addresses_of_the_loopback(address: str, is_local: bool) -> None:
    assert is_loopback(address) is is_local
