"""What a Kubernetes API server, or a proxy before it, says; and the stored place read back."""

from __future__ import annotations

import asyncio
import contextlib
import time
from types import SimpleNamespace
from typing import Any

import msgspec
from fuzz.bus_targets import runtime

from sematext_agent.kubernetes_collector.api import ApiError, Patience, _refusal
from sematext_agent.kubernetes_collector.cluster import identify
from sematext_agent.kubernetes_collector.frames import (
    Lines,
    Undecodable,
    decode_frame,
    decode_item,
    decode_page,
)
from sematext_agent.kubernetes_collector.lease import Lease
from sematext_agent.kubernetes_collector.place import Place, gap
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.kubernetes_collector.translate import Cluster, translate
from sematext_agent.kubernetes_collector.watch import Follower, Metrics
from sematext_agent.shared.events import decode, encode, parse_rfc3339
from sematext_agent.shared.settings import SettingsError
from sematext_agent.shared.subjects import subject_of

_CLUSTER = Cluster("u1", "prod")
_NOW = 1_700_000_000 * 10**9


def _is_tellable(raw: Any) -> None:
    event = translate(raw, _CLUSTER, _NOW)
    subject_of(event)
    parse_rfc3339(event.time)
    assert decode(encode(event)) == event


def frame(data: bytes) -> None:
    """Lines of a watch, cut anywhere."""
    lines = Lines()
    cut = len(data) // 2
    for line in (*lines.feed(data[:cut]), *lines.feed(data[cut:] + b"\n")):
        with contextlib.suppress(Undecodable, ApiError):
            _, _, raw = decode_frame(line)
            if raw is not None:
                _is_tellable(raw)


def page(data: bytes) -> None:
    """A page of a list."""
    with contextlib.suppress(ApiError):
        for item in decode_page(data).items or []:
            with contextlib.suppress(Undecodable):
                _is_tellable(decode_item(item)[1])


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
    """The body of an error; and the same bytes as a `Retry-After`."""
    refused = asyncio.run(_refusal(_Body(data)))  # type: ignore[arg-type]
    assert refused.status
    headers = {"Retry-After": data.decode("utf-8", "surrogateescape")}
    refused = asyncio.run(_refusal(_Body(b"", **headers)))  # type: ignore[arg-type]
    assert 0 <= refused.retry_after <= 300


class _Api:
    """Stands for the API: it answers everything with the same bytes."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    async def request(self, *_: Any, **__: Any) -> bytes:
        return self._data


def namespace(data: bytes) -> None:
    """The namespace kube-system, which names the cluster."""
    with contextlib.suppress(ApiError, SettingsError):
        api: Any = _Api(data)
        asyncio.run(identify(api, KubernetesSettings()))


def lease(data: bytes) -> None:
    """The lease of several replicas."""
    with contextlib.suppress(ApiError):
        api: Any = _Api(data)
        asyncio.run(Lease(api, "ns", "name").try_once())


def place(data: bytes) -> None:
    """The stored place in the cluster's history."""

    async def restore() -> Follower:
        at = runtime(KubernetesSettings(), data)
        api: Any = SimpleNamespace()
        follower = Follower(
            api, Patience(at.health, at.stopping), _CLUSTER, at, Metrics(at.health), ""
        )
        await follower._restore()
        return follower

    before = asyncio.run(restore())._place
    if before is not None:
        assert before.revision >= 0
        missing = gap(_CLUSTER, "", before, "restored", time.time(), 1)
        assert missing is not None
        assert decode(encode(missing)) == missing
        assert msgspec.json.decode(msgspec.json.encode(before), type=Place) == before


TARGETS = {
    "kubernetes_frame": frame,
    "kubernetes_page": page,
    "kubernetes_status": status,
    "kubernetes_namespace": namespace,
    "kubernetes_lease": lease,
    "kubernetes_place": place,
}
