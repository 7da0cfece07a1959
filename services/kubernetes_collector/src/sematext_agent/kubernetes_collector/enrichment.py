"""Optional enrichment: the owner and the labels of an event's object, read from the API.

Cached details are attached at once. Otherwise the object is requested, and the event waits for at
most `HELD_SECONDS`, with those behind it, while the watch is read on. Then it is passed on without
details: its id does not depend on them.

Only metadata is requested, never contents. The requests have a budget of their own, and answers are
cached by the object's uid, empty ones too.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections import OrderedDict, deque
from collections.abc import AsyncGenerator
from typing import NamedTuple

import msgspec

from sematext_agent.kubernetes_collector.api import Api, ApiError
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.events import Event, KubernetesEvent
from sematext_agent.shared.health import Health

HELD_SECONDS = 0.3
"""The longest that an event waits for an answer."""
HELD_MAX = 1000
"""The most events that wait; beyond, the first is passed on without details."""
REQUEST_SECONDS = 5.0
"""The longest a request may take. An answer too late for its event serves the next."""
REQUESTS_PER_SECOND = 20.0
REQUESTS_BURST = 50.0
DETAILS_SECONDS = 600.0
NO_DETAILS_SECONDS = 60.0
"""The life of an empty answer in the cache: deleted, forbidden, no answer."""
_REMEMBERED_MAX = 4096
_LABELS_MAX = 32
_MESSAGE_BYTES_MAX = 64 * 1024
"""An event whose message is longer stays as it is: it must not grow beyond what the bus takes."""

METADATA_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=1"
_CORE, _APPS, _BATCH = "/api/v1", "/apis/apps/v1", "/apis/batch/v1"
RESOURCES = {
    "CronJob": (_BATCH, "cronjobs"),
    "DaemonSet": (_APPS, "daemonsets"),
    "Deployment": (_APPS, "deployments"),
    "HorizontalPodAutoscaler": ("/apis/autoscaling/v2", "horizontalpodautoscalers"),
    "Ingress": ("/apis/networking.k8s.io/v1", "ingresses"),
    "Job": (_BATCH, "jobs"),
    "Node": (_CORE, "nodes"),
    "PersistentVolumeClaim": (_CORE, "persistentvolumeclaims"),
    "Pod": (_CORE, "pods"),
    "ReplicaSet": (_APPS, "replicasets"),
    "Service": (_CORE, "services"),
    "StatefulSet": (_APPS, "statefulsets"),
}
"""The path of each kind that is requested; never one that holds secrets."""
_OWNED = ("Job", "ReplicaSet")
"""Owners that have owners: the owner of a deployment's pod is the deployment."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class _OwnerReference(msgspec.Struct):
    kind: str
    name: str
    uid: str
    controller: bool | None = None


class _ObjectMetadata(msgspec.Struct, rename="camel"):
    uid: str
    labels: dict[str, str] | None = None
    owner_references: list[_OwnerReference] | None = None


class _PartialObject(msgspec.Struct):
    metadata: _ObjectMetadata


class ObjectDetails(msgspec.Struct, frozen=True):
    """The owner and the labels of an object, as they are cached."""

    owner: str = ""
    labels: dict[str, str] = {}
    expires_at: float = 0.0
    """Seconds of the monotonic clock."""


class ObjectLookups:
    """The cache of object details by uid, and the requests that fill it."""

    def __init__(self, api: Api, health: Health, clock: Clock) -> None:
        self._api = api
        self.clock = clock
        self._details: OrderedDict[str, ObjectDetails] = OrderedDict()
        self._requests: dict[str, asyncio.Task[None]] = {}
        self._forbidden: dict[str, float] = {}  # by kind, the time until which it is not requested
        self._budget, self._budget_at = REQUESTS_BURST, 0.0
        self._lookups = health.add_counter(
            "object_lookups", "Objects requested for the enrichment of events.", "result"
        )

    def request(self, event: Event | None) -> asyncio.Task[None] | None:
        """Return the request for the event's object; None where there is nothing to wait for."""
        if event is None or not isinstance(body := event.body, KubernetesEvent):
            return None
        if body.kind not in RESOURCES or not body.object_uid:
            return None
        cached = self._details.get(body.object_uid)
        if cached is not None and cached.expires_at > self.clock.monotonic():
            return None
        if not _NAME.fullmatch(body.name) or (
            body.namespace and not _NAME.fullmatch(body.namespace)
        ):
            return None
        if body.object_uid not in self._requests and not self._may_request(body.kind):
            return None
        return self._begin_request(body.kind, body.namespace, body.name, body.object_uid)

    def attach(self, event: Event | None) -> Event | None:
        """Return the event with the cached details of its object."""
        if event is None or not isinstance(body := event.body, KubernetesEvent):
            return event
        cached = self._details.get(body.object_uid)
        if cached is None or not (cached.owner or cached.labels):
            return event
        if len(body.message) > _MESSAGE_BYTES_MAX:
            return event
        body = msgspec.structs.replace(body, owner=cached.owner, labels=cached.labels)
        return msgspec.structs.replace(event, body=body)

    def close(self) -> None:
        """Cancel the requests without an answer."""
        for task in self._requests.values():
            task.cancel()

    def _may_request(self, kind: str) -> bool:
        now = self.clock.monotonic()
        if self._forbidden.get(kind, 0.0) > now:
            return False
        earned = (now - self._budget_at) * REQUESTS_PER_SECOND
        self._budget, self._budget_at = min(REQUESTS_BURST, self._budget + earned), now
        if self._budget < 1:
            self._lookups.labels("over_budget").inc()
            return False
        return True

    def _begin_request(self, kind: str, namespace: str, name: str, uid: str) -> asyncio.Task[None]:
        """Return the request for one object: the one on its way, or a new one."""
        if uid not in self._requests:
            self._budget -= 1
            task = asyncio.create_task(self._look_up(kind, namespace, name, uid))
            task.add_done_callback(lambda _: self._requests.pop(uid, None))
            self._requests[uid] = task
        return self._requests[uid]

    async def _look_up(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Request one object and cache the answer, whatever it is."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                details = await self._read(kind, namespace, name, uid)
            result = "found" if details else "other_object"
        except (ApiError, TimeoutError, msgspec.DecodeError) as error:
            details = None
            status = error.status if isinstance(error, ApiError) else 0
            result = {403: "forbidden", 404: "gone"}.get(status, "failed")
            if status == 403:
                self._forbidden[kind] = self.clock.monotonic() + NO_DETAILS_SECONDS
        self._lookups.labels(result).inc()
        self._details[uid] = details or ObjectDetails(
            expires_at=self.clock.monotonic() + NO_DETAILS_SECONDS
        )
        self._details.move_to_end(uid)
        while len(self._details) > _REMEMBERED_MAX:
            self._details.popitem(last=False)

    async def _read(self, kind: str, namespace: str, name: str, uid: str) -> ObjectDetails | None:
        """Return the details of one object; None where the API has another of that name."""
        group, resource = RESOURCES[kind]
        scope = f"/namespaces/{namespace}" if namespace else ""
        path = f"{group}{scope}/{resource}/{name}"
        answer = await self._api.request("GET", path, accept=METADATA_ONLY)
        metadata = msgspec.json.decode(answer, type=_PartialObject).metadata
        if metadata.uid != uid:
            return None
        owner = ""
        for reference in metadata.owner_references or ():
            if reference.controller:
                owner = await self._find_owner(reference, namespace)
        labels = dict(sorted((metadata.labels or {}).items())[:_LABELS_MAX])
        return ObjectDetails(owner, labels, self.clock.monotonic() + DETAILS_SECONDS)

    async def _find_owner(self, reference: _OwnerReference, namespace: str) -> str:
        """Return `Deployment/web` for a reference to one of its replica sets."""
        if reference.kind in _OWNED and _NAME.fullmatch(reference.name):
            if reference.uid not in self._details:
                await self._begin_request(reference.kind, namespace, reference.name, reference.uid)
            if owner := self._details.get(reference.uid, ObjectDetails()).owner:
                return owner
        return f"{reference.kind}/{reference.name}"


class _HeldObservation(NamedTuple):
    observation: Observation
    lookup: asyncio.Task[None] | None
    until: float

    def is_complete(self, now: float) -> bool:
        return self.lookup is None or self.lookup.done() or now >= self.until


async def enrich(
    source: AsyncGenerator[Observation, None], objects: ObjectLookups
) -> AsyncGenerator[Observation, None]:
    """Yield the observations of `source`, in their order, with the details of their objects."""
    clock = objects.clock
    held: deque[_HeldObservation] = deque()
    arriving: asyncio.Future[Observation | None] | None = None
    try:
        ended = False
        while held or not ended:
            if held and (held[0].is_complete(clock.monotonic()) or len(held) > HELD_MAX):
                first = held.popleft().observation
                yield Observation(objects.attach(first.event), first.cursor, first.cursor_name)
                continue
            if arriving is None and not ended:
                arriving = asyncio.ensure_future(anext(source, None))
            await _wait_for_next(arriving, held[0] if held else None, clock)
            if arriving is not None and arriving.done():
                observation, arriving = arriving.result(), None
                ended = observation is None
                if observation is not None:
                    until = clock.monotonic() + HELD_SECONDS
                    lookup = objects.request(observation.event)
                    held.append(_HeldObservation(observation, lookup, until))
    finally:
        objects.close()
        if arriving is not None:
            arriving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await arriving
        await source.aclose()


async def _wait_for_next(
    arriving: asyncio.Future[Observation | None] | None,
    first: _HeldObservation | None,
    clock: Clock,
) -> None:
    """Wait until an observation arrives, or the first that is held is complete."""
    waiting: set[asyncio.Future[object]] = set()
    if arriving is not None:
        waiting.add(arriving)  # type: ignore[arg-type]
    if first is not None and first.lookup is not None:
        waiting.add(first.lookup)  # type: ignore[arg-type]
    seconds = None if first is None else max(0.0, first.until - clock.monotonic())
    await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
