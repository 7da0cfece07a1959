"""Optional: the owner and the labels of the object that an event is about, asked of the API.

Nothing waits for long and nothing is lost. What is known is attached at once; what is not is asked
for, and the event waits in its place for `HELD_SECONDS` at most, with those behind it, while the
watch is read on. Then it goes as it is. Its id was made before, so it is the same event with and
without.

Only metadata is asked for, never contents; the requests have a budget of their own, and what was
found is remembered by the object's uid, and so is that nothing was.
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
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.events import Event, KubernetesEvent
from sematext_agent.shared.health import Health

HELD_SECONDS = 0.3
"""How long an event waits for an answer."""
HELD_MAX = 1000
"""How many wait; beyond, the first goes as it is."""
REQUEST_SECONDS = 5.0
"""How long a request may take. An answer that is late for its event serves the next."""
REQUESTS_PER_SECOND = 20.0
REQUESTS_BURST = 50.0
FOUND_SECONDS = 600.0
NOTHING_SECONDS = 60.0
"""How long it is remembered that there was nothing to learn: gone, forbidden, no answer."""
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
"""The kinds that are asked for, and where they are. Never what holds secrets."""
_OWNED = ("Job", "ReplicaSet")
"""Owners that have owners: of a pod of a deployment, the deployment is meant."""
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


class _Owner(msgspec.Struct):
    kind: str
    name: str
    uid: str
    controller: bool | None = None


class _Metadata(msgspec.Struct, rename="camel"):
    uid: str
    labels: dict[str, str] | None = None
    owner_references: list[_Owner] | None = None


class _PartialObject(msgspec.Struct):
    metadata: _Metadata


class Details(msgspec.Struct, frozen=True):
    """What is known of an object."""

    owner: str = ""
    labels: dict[str, str] = {}
    forget_at: float = 0.0
    """By the event loop's clock."""


class Objects:
    """What is known of the cluster's objects, by uid; asks the API for more."""

    def __init__(self, api: Api, health: Health) -> None:
        self._api = api
        self._known: OrderedDict[str, Details] = OrderedDict()
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._forbidden: dict[str, float] = {}  # kinds, and until when they are not asked for
        self._budget, self._budget_at = REQUESTS_BURST, 0.0
        self._lookups = health.add_counter(
            "object_lookups", "Objects asked for, for events.", "result"
        )

    def ask(self, event: Event | None) -> asyncio.Task[None] | None:
        """The request for what `event` is about; None where there is nothing to wait for."""
        if event is None or not isinstance(body := event.body, KubernetesEvent):
            return None
        if body.kind not in RESOURCES or not body.object_uid:
            return None
        known = self._known.get(body.object_uid)
        if known is not None and known.forget_at > _clock():
            return None
        if not _NAME.fullmatch(body.name) or (
            body.namespace and not _NAME.fullmatch(body.namespace)
        ):
            return None
        if body.object_uid not in self._asking and not self._may_ask(body.kind):
            return None
        return self._begin(body.kind, body.namespace, body.name, body.object_uid)

    def enrich(self, event: Event | None) -> Event | None:
        """The event, with what is known of its object."""
        if event is None or not isinstance(body := event.body, KubernetesEvent):
            return event
        known = self._known.get(body.object_uid)
        if known is None or not (known.owner or known.labels):
            return event
        if len(body.message) > _MESSAGE_BYTES_MAX:
            return event
        body = msgspec.structs.replace(body, owner=known.owner, labels=known.labels)
        return msgspec.structs.replace(event, body=body)

    def close(self) -> None:
        """Ends the requests that are on their way."""
        for task in self._asking.values():
            task.cancel()

    def _may_ask(self, kind: str) -> bool:
        now = _clock()
        if self._forbidden.get(kind, 0.0) > now:
            return False
        earned = (now - self._budget_at) * REQUESTS_PER_SECOND
        self._budget, self._budget_at = min(REQUESTS_BURST, self._budget + earned), now
        if self._budget < 1:
            self._lookups.labels("over_budget").inc()
            return False
        return True

    def _begin(self, kind: str, namespace: str, name: str, uid: str) -> asyncio.Task[None]:
        """The request for one object: the one on its way, or a new one."""
        if uid not in self._asking:
            self._budget -= 1
            task = asyncio.create_task(self._look_up(kind, namespace, name, uid))
            task.add_done_callback(lambda _: self._asking.pop(uid, None))
            self._asking[uid] = task
        return self._asking[uid]

    async def _look_up(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Asks for one object and remembers the answer, whatever it is."""
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                details = await self._read(kind, namespace, name, uid)
            result = "found" if details else "other_object"
        except (ApiError, TimeoutError, msgspec.DecodeError) as error:
            details = None
            status = error.status if isinstance(error, ApiError) else 0
            result = {403: "forbidden", 404: "gone"}.get(status, "failed")
            if status == 403:
                self._forbidden[kind] = _clock() + NOTHING_SECONDS
        self._lookups.labels(result).inc()
        self._known[uid] = details or Details(forget_at=_clock() + NOTHING_SECONDS)
        self._known.move_to_end(uid)
        while len(self._known) > _REMEMBERED_MAX:
            self._known.popitem(last=False)

    async def _read(self, kind: str, namespace: str, name: str, uid: str) -> Details | None:
        """What the API says of one object; None where it is not the one of that uid."""
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
                owner = await self._owner(reference, namespace)
        labels = dict(sorted((metadata.labels or {}).items())[:_LABELS_MAX])
        return Details(owner, labels, _clock() + FOUND_SECONDS)

    async def _owner(self, reference: _Owner, namespace: str) -> str:
        """`Deployment/web`, from a reference to one of its replica sets."""
        if reference.kind in _OWNED and _NAME.fullmatch(reference.name):
            if reference.uid not in self._known:
                await self._begin(reference.kind, namespace, reference.name, reference.uid)
            if owner := self._known.get(reference.uid, Details()).owner:
                return owner
        return f"{reference.kind}/{reference.name}"


class _Held(NamedTuple):
    observed: Observation
    lookup: asyncio.Task[None] | None
    until: float

    @property
    def is_due(self) -> bool:
        return self.lookup is None or self.lookup.done() or _clock() >= self.until


async def enriched(
    source: AsyncGenerator[Observation, None], objects: Objects
) -> AsyncGenerator[Observation, None]:
    """What `source` yields, in its order, with what is known of each event's object."""
    held: deque[_Held] = deque()
    arriving: asyncio.Future[Observation | None] | None = None
    try:
        ended = False
        while held or not ended:
            if held and (held[0].is_due or len(held) > HELD_MAX):
                first = held.popleft().observed
                yield Observation(objects.enrich(first.event), first.cursor, first.cursor_name)
                continue
            if arriving is None and not ended:
                arriving = asyncio.ensure_future(anext(source, None))
            await _until_something(arriving, held[0] if held else None)
            if arriving is not None and arriving.done():
                observed, arriving = arriving.result(), None
                ended = observed is None
                if observed is not None:
                    held.append(_hold(observed, objects))
    finally:
        objects.close()
        if arriving is not None:
            arriving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await arriving
        await source.aclose()


def _hold(observed: Observation, objects: Objects) -> _Held:
    return _Held(observed, objects.ask(observed.event), _clock() + HELD_SECONDS)


async def _until_something(
    arriving: asyncio.Future[Observation | None] | None, first: _Held | None
) -> None:
    """Waits until more arrives or the first that is held falls due."""
    waiting: set[asyncio.Future[object]] = set()
    if arriving is not None:
        waiting.add(arriving)  # type: ignore[arg-type]
    if first is not None and first.lookup is not None:
        waiting.add(first.lookup)  # type: ignore[arg-type]
    seconds = None if first is None else max(0.0, first.until - _clock())
    await asyncio.wait(waiting, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)


def _clock() -> float:
    return asyncio.get_running_loop().time()
