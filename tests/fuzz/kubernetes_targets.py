"""The answers of a Kubernetes API server, or of a proxy before it; and the stored cursor."""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import msgspec
from fuzz.bus_targets import runtime

from sematext_agent.kubernetes_collector.api import ApiError, read_error
from sematext_agent.kubernetes_collector.cluster import identify
from sematext_agent.kubernetes_collector.cursor import WatchCursor, list_gap, read_watch_cursor
from sematext_agent.kubernetes_collector.events_resource import LineSplitter
from sematext_agent.kubernetes_collector.frames import (
    UndecodableError,
    decode_frame,
    decode_item,
    decode_page,
)
from sematext_agent.kubernetes_collector.lease import Lease
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.kubernetes_collector.translate import Cluster, translate
from sematext_agent.shared.clock import SYSTEM_CLOCK
from sematext_agent.shared.events import decode, encode, parse_rfc3339
from sematext_agent.shared.settings import SettingsError
from sematext_agent.shared.subjects import subject_of

_CLUSTER = Cluster("u1", "prod")
_NOW = 1_700_000_000 * 10**9


def _check_translation(raw: Any) -> None:
    event = translate(raw, _CLUSTER, _NOW)
    subject_of(event)
    parse_rfc3339(event.time)
    assert decode(encode(event)) == event


def frame(data: bytes) -> None:
    """Lines of a watch, cut anywhere."""
    splitter = LineSplitter()
    cut = len(data) // 2
    for line in (*splitter.split(data[:cut]), *splitter.split(data[cut:] + b"\n")):
        with contextlib.suppress(UndecodableError, ApiError):
            raw = decode_frame(line).event
            if raw is not None:
                _check_translation(raw)


def page(data: bytes) -> None:
    """Decode a page of a list."""
    with contextlib.suppress(ApiError):
        for item in decode_page(data).items or []:
            with contextlib.suppress(UndecodableError):
                _check_translation(decode_item(item)[1])


class _Body:
    """An answer of HTTP, as far as an error is read from it."""

    status, reason = 500, "Internal Server Error"

    def __init__(self, data: bytes, **headers: str) -> None:
        self._data = data
        self.headers = headers
        self.content = self

    async def read(self, size: int) -> bytes:
        return self._data[:size]

    def close(self) -> None:
        pass


def status(data: bytes) -> None:
    """Decode the body of an error; and the same bytes as a `Retry-After`."""
    error = asyncio.run(read_error(_Body(data)))  # type: ignore[arg-type]
    assert error.status
    headers = {"Retry-After": data.decode("utf-8", "surrogateescape")}
    error = asyncio.run(read_error(_Body(b"", **headers)))  # type: ignore[arg-type]
    assert 0 <= error.retry_after <= 300


class _Api:
    """Stands for the API: it answers everything with the same bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def request(self, *_: Any, **__: Any) -> bytes:
        return self._data


def namespace(data: bytes) -> None:
    """Decode the namespace kube-system, which identifies the cluster."""
    with contextlib.suppress(ApiError, SettingsError):
        api: Any = _Api(data)
        asyncio.run(identify(api, KubernetesSettings()))


def lease(data: bytes) -> None:
    """Decode the lease of several replicas."""
    with contextlib.suppress(ApiError):
        api: Any = _Api(data)
        asyncio.run(Lease(api, "ns", "name", SYSTEM_CLOCK).acquire())


def cursor(data: bytes) -> None:
    """Decode the stored cursor in the cluster's history."""
    before = asyncio.run(read_watch_cursor(runtime(KubernetesSettings(), data), "u1"))
    if before is not None:
        assert before.revision >= 0
        missing = list_gap(_CLUSTER, "", before, "restored", time.time(), 1)
        assert missing is not None
        assert decode(encode(missing)) == missing
        assert msgspec.json.decode(msgspec.json.encode(before), type=WatchCursor) == before


TARGETS = {
    "kubernetes_frame": frame,
    "kubernetes_page": page,
    "kubernetes_status": status,
    "kubernetes_namespace": namespace,
    "kubernetes_lease": lease,
    "kubernetes_cursor": cursor,
}
