"""HTTP POSTs over libcurl's multi interface and asyncio.

pycurl, because 10,000 POSTs cost 0.3 CPU seconds with it and 1.1 to 1.6 with aiohttp: see
benchmarks/forwarder.py. libcurl names the sockets and the deadline that it waits for. One epoll
holds the sockets, and the event loop watches that epoll's descriptor. pycurl's `AsyncCurlMulti`
registers every socket at the event loop instead, at twice the CPU.

A POST goes to the configured address and nowhere else: no redirect is followed, no proxy is taken
from the environment, no cookie is kept, certificates are verified.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import select
import ssl
from pathlib import Path

import pycurl  # type: ignore[import-untyped]

from sematext_agent.forwarder.destination import Answer, OnAnswer
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared import AGENT_NAME, AGENT_VERSION
from sematext_agent.shared.settings import SettingsError

_ANSWER_BYTES_KEPT = 2048
_ANSWER_BYTES_MAX = 1024 * 1024
_IDLE_SECONDS_MAX = 30
"""Bound of a reused connection's idle time, below the 60 s and more after which servers close."""
_CONNECTIONS_MAX = 128

# Errors of libcurl after which the head of the answer is complete: its body is cut short, or longer
# than is read.
_COMPLETE_HEAD_ERRORS = (pycurl.E_PARTIAL_FILE, pycurl.E_WRITE_ERROR, pycurl.E_FILESIZE_EXCEEDED)
_EVENTS = {
    pycurl.POLL_IN: select.EPOLLIN,
    pycurl.POLL_OUT: select.EPOLLOUT,
    pycurl.POLL_INOUT: select.EPOLLIN | select.EPOLLOUT,
}


_DELIVERED = Answer(200)


class Transport:
    """POSTs of documents to the one address of the settings."""

    def __init__(self, settings: ForwarderSettings) -> None:
        """Prepare requests in the running event loop.

        Raises:
            SettingsError: the authority's file cannot be used.
        """
        self._settings = settings
        self._authorities = _authorities(settings)
        self._loop = asyncio.get_running_loop()
        self._epoll = select.epoll()
        self._registered: set[int] = set()
        self._deadline = math.inf
        """Time of the loop's clock at which libcurl wants to be called."""
        self._timer: asyncio.TimerHandle | None = None
        self._is_timeout_scheduled = False
        self._is_closed = False
        self._idle: list[_Request] = []
        self._running: dict[pycurl.Curl, _Request] = {}
        self._multi = pycurl.CurlMulti()
        self._multi.setopt(pycurl.M_MAXCONNECTS, _CONNECTIONS_MAX)
        self._multi.setopt(pycurl.M_SOCKETFUNCTION, self._on_socket)
        self._multi.setopt(pycurl.M_TIMERFUNCTION, self._on_timer)
        self._loop.add_reader(self._epoll.fileno(), self._on_ready)

    def post(self, document: bytes, on_answer: OnAnswer) -> None:
        """Post `document` and call `on_answer` later, once."""
        request = self._idle.pop() if self._idle else _Request(self._settings, self._authorities)
        request.begin(document, on_answer)
        self._running[request.curl] = request
        self._multi.add_handle(request.curl)

    def close(self) -> None:
        """End every request, whose outcome is then unknown, and close every connection."""
        self._loop.remove_reader(self._epoll.fileno())
        if self._timer is not None:
            self._timer.cancel()
        self._is_closed = True
        for request in self._running.values():
            self._multi.remove_handle(request.curl)
        for request in (*self._running.values(), *self._idle):
            request.curl.close()
        self._multi.close()
        self._epoll.close()

    # libcurl calls the next two inside its own functions, so they only note its wishes.

    def _on_socket(self, wish: int, descriptor: int, _multi: object, _data: object) -> None:
        if wish not in _EVENTS:  # POLL_REMOVE, or POLL_NONE
            self._registered.discard(descriptor)
            # libcurl may have closed it already, which took it out of the epoll.
            with contextlib.suppress(OSError):
                self._epoll.unregister(descriptor)
        elif descriptor in self._registered:
            self._epoll.modify(descriptor, _EVENTS[wish])
        else:
            self._registered.add(descriptor)
            self._epoll.register(descriptor, _EVENTS[wish])

    def _on_timer(self, milliseconds: int) -> None:
        if milliseconds == 0:
            if not self._is_timeout_scheduled:
                self._is_timeout_scheduled = True
                self._loop.call_soon(self._on_timeout)
            return
        now = self._loop.time()
        self._deadline = now + milliseconds / 1000 if milliseconds > 0 else math.inf
        # libcurl moves its deadline with every request. A timer that fires too early checks the
        # deadline again, because a new timer for each request costs more.
        if self._timer is not None and self._timer.when() > self._deadline:
            self._timer.cancel()
            self._timer = None
        if self._timer is None and self._deadline < math.inf:
            self._timer = self._loop.call_at(self._deadline, self._on_deadline)

    def _on_deadline(self) -> None:
        self._timer = None
        if self._loop.time() >= self._deadline:
            self._on_timeout()
        elif self._deadline < math.inf:
            self._timer = self._loop.call_at(self._deadline, self._on_deadline)

    def _on_timeout(self) -> None:
        if self._is_closed:
            return
        self._is_timeout_scheduled = False
        self._deadline = math.inf
        self._multi.socket_action(pycurl.SOCKET_TIMEOUT, 0)
        self._collect()

    def _on_ready(self) -> None:
        for descriptor, events in self._epoll.poll(0):
            wishes = 0
            if events & ~select.EPOLLOUT:  # readable, closed or broken: reading shows which
                wishes |= pycurl.CSELECT_IN
            if events & select.EPOLLOUT:
                wishes |= pycurl.CSELECT_OUT
            self._multi.socket_action(descriptor, wishes)
        self._collect()

    def _collect(self) -> None:
        remaining = 1
        while remaining:
            remaining, succeeded, failed = self._multi.info_read()
            for curl in succeeded:
                self._end(curl, 0, "")
            for curl, code, message in failed:
                self._end(curl, code, message)

    def _end(self, curl: pycurl.Curl, code: int, message: str) -> None:
        self._multi.remove_handle(curl)
        request = self._running.pop(curl)
        answer, on_answer = request.answer(code, message), request.on_answer
        self._idle.append(request)
        on_answer(answer)


class _Request:
    """An easy handle of libcurl, configured once and used for request after request."""

    def __init__(self, settings: ForwarderSettings, authorities: str) -> None:
        self.curl = pycurl.Curl()
        self.on_answer: OnAnswer
        self._redact = settings.redact
        self._body = bytearray()
        self._received = 0
        _configure(self.curl, settings, authorities)
        self.curl.setopt(pycurl.WRITEFUNCTION, self._on_body)

    def begin(self, document: bytes, on_answer: OnAnswer) -> None:
        """Make the handle ready for its next request."""
        self.on_answer = on_answer
        self._body.clear()
        self._received = 0
        self.curl.setopt(pycurl.POSTFIELDS, document)

    def _on_body(self, part: bytes) -> int:
        self._received += len(part)
        self._body += part[: _ANSWER_BYTES_KEPT - len(self._body)]
        # Any number but that of the bytes received makes libcurl end the request.
        return len(part) if self._received <= _ANSWER_BYTES_MAX else -1

    def answer(self, code: int, message: str) -> Answer:
        """Return the answer, from libcurl's error `code` (0 for none) and `message`."""
        status = self.curl.getinfo(pycurl.RESPONSE_CODE)
        if code == 0 or code in _COMPLETE_HEAD_ERRORS or self._body:
            if 200 <= status < 300:
                return _DELIVERED if status == 200 else Answer(status)
            # The receiver may repeat the token in its answer.
            body = self._redact(self._body.decode(errors="replace"))
            return Answer(status, body, float(self.curl.getinfo(pycurl.RETRY_AFTER)))
        if self.curl.getinfo(pycurl.HTTP_CONNECTCODE) == 407:
            return Answer(407)
        problem = self._redact(message) or f"libcurl's error {code}"
        return Answer(0, problem=problem, timed_out=code == pycurl.E_OPERATION_TIMEDOUT)


def _configure(curl: pycurl.Curl, settings: ForwarderSettings, authorities: str) -> None:
    """Set every option that is the same for all requests."""
    curl.setopt(pycurl.URL, settings.address.reveal())
    curl.setopt(pycurl.PROTOCOLS, pycurl.PROTO_HTTP | pycurl.PROTO_HTTPS)
    curl.setopt(pycurl.POST, 1)
    headers = ["Content-Type: application/json", "Accept: application/json", "Expect:"]
    curl.setopt(pycurl.HTTPHEADER, headers)
    # The headers are for the receiver alone, not for a proxy on the way.
    curl.setopt(pycurl.HEADEROPT, pycurl.HEADER_SEPARATE)
    curl.setopt(pycurl.USERAGENT, f"{AGENT_NAME}/{AGENT_VERSION}")
    curl.setopt(pycurl.HTTP_VERSION, pycurl.CURL_HTTP_VERSION_1_1)
    curl.setopt(pycurl.FOLLOWLOCATION, 0)
    curl.setopt(pycurl.CONNECTTIMEOUT_MS, int(settings.connect_timeout * 1000))
    curl.setopt(pycurl.TIMEOUT_MS, int(settings.request_timeout * 1000))
    curl.setopt(pycurl.MAXAGE_CONN, _IDLE_SECONDS_MAX)
    curl.setopt(pycurl.NOSIGNAL, 1)
    curl.setopt(pycurl.SSLVERSION, pycurl.SSLVERSION_TLSv1_2)
    curl.setopt(pycurl.SSL_VERIFYPEER, 1)
    curl.setopt(pycurl.SSL_VERIFYHOST, 2)
    curl.setopt(pycurl.CAINFO, authorities)
    # Both are set even when empty: libcurl would read them from the environment otherwise.
    curl.setopt(pycurl.PROXY, _proxy(settings))
    curl.setopt(pycurl.NOPROXY, "")
    if settings.proxy_username:
        curl.setopt(pycurl.PROXYUSERNAME, settings.proxy_username)
        curl.setopt(pycurl.PROXYPASSWORD, settings.proxy_password.reveal())
    curl.setopt(pycurl.PROXY_CAINFO, authorities)


def _proxy(settings: ForwarderSettings) -> str:
    if not settings.proxy_host:
        return ""
    host = settings.proxy_host
    if ":" in host and not host.startswith("["):
        host = f"[{host}]"
    return f"{'https' if settings.proxy_secure else 'http'}://{host}:{settings.proxy_port}"


def _authorities(settings: ForwarderSettings) -> str:
    """Return the PEM file of the trusted authorities: the setting's, or that of this system."""
    chosen = settings.events_receiver_ca
    if chosen:
        try:
            ssl.create_default_context(cafile=chosen)
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"EVENTS_RECEIVER_CA={chosen}", f"cannot be used ({error})", "name a PEM file"
            ) from None
        return chosen
    # The OpenSSL in pycurl does not know the path of this system.
    paths = ssl.get_default_verify_paths()
    for path in (paths.cafile, paths.openssl_cafile, *_AUTHORITY_FILES):
        if path and Path(path).is_file():
            return path
    if settings.receiver.startswith("https:"):
        raise SettingsError(
            "EVENTS_RECEIVER_CA",
            "this system has no file of trusted authorities",
            "install ca-certificates or name a PEM file",
        )
    return ""


_AUTHORITY_FILES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Alpine
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora, Red Hat
    "/etc/ssl/ca-bundle.pem",  # SUSE
    "/etc/ssl/cert.pem",  # macOS, BSD
)
