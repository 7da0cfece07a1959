"""The lease that keeps one of several replicas active: coordination.k8s.io, as client-go holds it.

The lease saves the cluster a watch, and correctness does not depend on it. Two active replicas do
no harm: their events have the same ids, and the bucket refuses the cursor of the replica that was
replaced (`shared.cursors`). A holder that cannot renew the lease in time ends its process before
another may take it; the next start waits as a standby. An update names the revision it replaces, so
of two replicas that take the lease at once one is refused.

Clocks of different machines are never compared: a standby measures with its own clock how long the
record has not changed. That clock counts while the machine sleeps, as the lease ends meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import secrets
import socket
from typing import Annotated

import msgspec

from sematext_agent.kubernetes_collector.api import Api, ApiError
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.restart import RestartRequested
from sematext_agent.shared.service import Runtime, Work
from sematext_agent.shared.waiting import wait_for_event

log = logging.getLogger(__name__)

# client-go's own figures: https://pkg.go.dev/k8s.io/client-go/tools/leaderelection
LEASE_SECONDS = 15.0
RENEW_SECONDS = 10.0
"""The time without a renewal after which the holder must have stopped."""
RETRY_SECONDS = 2.0


Int32 = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class LeaseLost(RestartRequested):
    """Another replica has the lease, or may take it at any moment."""


class _LeaseSpec(msgspec.Struct, rename="camel", omit_defaults=True):
    holder_identity: str | None = None
    lease_duration_seconds: Int32 | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: Int32 | None = None


class _LeaseMetadata(msgspec.Struct, rename="camel", omit_defaults=True):
    name: str
    namespace: str
    resource_version: str = ""


class _LeaseRecord(msgspec.Struct, rename="camel"):
    metadata: _LeaseMetadata
    spec: _LeaseSpec
    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"


class Lease:
    """One replica's claim to a lease."""

    def __init__(self, api: Api, namespace: str, name: str, clock: Clock) -> None:
        self._api = api
        self._clock = clock
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._path = f"{self._collection}/{name}"
        self._empty = _LeaseRecord(_LeaseMetadata(name, namespace), _LeaseSpec())
        self.identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self.holder = ""
        self._last: _LeaseRecord | None = None
        self._changed_at = 0.0
        self.renewed_at = 0.0

    async def acquire(self) -> bool:
        """Take or renew the lease, if it is ours, free or abandoned; return whether we hold it.

        Raises:
            ApiError: the lease cannot be read or written.
        """
        requested_at = self._clock.boottime()
        record = await self._read()
        if self._last is None or record.metadata != self._last.metadata:
            self._last, self._changed_at = record, requested_at
        self.holder = record.spec.holder_identity or ""
        seconds = record.spec.lease_duration_seconds or LEASE_SECONDS
        if self.holder not in ("", self.identity) and requested_at - self._changed_at < seconds:
            return False
        try:
            await self._write(record, self.identity)
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        # Counted from before the request: others may count from the moment it was stored.
        self.holder, self.renewed_at = self.identity, requested_at
        return True

    async def keep(self) -> None:
        """Renew the lease; never return.

        Raises:
            LeaseLost: another has it, or it could not be renewed for `RENEW_SECONDS`.
        """
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                async with asyncio.timeout(max(0.0, self._seconds_left())):
                    await self.acquire()
            except (ApiError, TimeoutError) as error:
                log.warning("lease not renewed: %s (trying again)", error or "no answer")
            if self.holder != self.identity:
                raise LeaseLost(f"the lease was taken by {self.holder or 'nobody'}")
            if self._seconds_left() <= 0:
                raise LeaseLost("the lease could not be renewed in time")

    def _seconds_left(self) -> float:
        return self.renewed_at + RENEW_SECONDS - self._clock.boottime()

    async def release(self) -> None:
        """Give the lease back, so that a standby need not wait for its end."""
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS):
                record = await self._read()
                if record.spec.holder_identity == self.identity:
                    await self._write(record, "")

    async def _read(self) -> _LeaseRecord:
        try:
            return msgspec.json.decode(
                await self._api.request("GET", self._path), type=_LeaseRecord
            )
        except DECODE_ERRORS as error:
            raise ApiError(0, f"not a lease: {error}") from error
        except ApiError as error:
            if error.status != 404:
                raise
            return self._empty

    async def _write(self, before: _LeaseRecord, holder: str) -> None:
        moment = datetime.datetime.fromtimestamp(self._clock.wall_ns() / 1e9, datetime.UTC)
        now = f"{moment:%Y-%m-%dT%H:%M:%S.%fZ}"
        changes = holder != before.spec.holder_identity
        transitions = (before.spec.lease_transitions or 0) + bool(holder and changes)
        spec = _LeaseSpec(
            holder_identity=holder,
            lease_duration_seconds=round(LEASE_SECONDS) if holder else 1,
            acquire_time=now if changes else before.spec.acquire_time,
            renew_time=now,
            lease_transitions=transitions,
        )
        record = msgspec.structs.replace(before, spec=spec)
        if before is self._empty:
            await self._api.request("POST", self._collection, body=record)
        else:
            await self._api.request("PUT", self._path, body=record)


async def lead(
    api: Api, runtime: Runtime[KubernetesSettings], work: Work[KubernetesSettings]
) -> None:
    """Run `work` while this replica holds the lease of the settings, or at once without one.

    Raises:
        LeaseLost: in a group of exceptions; `work` was cancelled.
    """
    if not runtime.settings.lease:
        await work(runtime)
        return
    namespace, name = runtime.settings.lease
    lease = Lease(api, namespace, name, runtime.clock)
    await _stand_by(lease, runtime)
    if runtime.stopping.is_set():
        await lease.release()
        return
    try:
        async with asyncio.TaskGroup() as tasks:
            keeper = tasks.create_task(lease.keep(), name="lease")
            await work(runtime)
            keeper.cancel()
    finally:
        await lease.release()


async def _stand_by(lease: Lease, runtime: Runtime[KubernetesSettings]) -> None:
    """Wait until this replica holds the lease, or the service stops."""
    while not runtime.stopping.is_set():
        try:
            async with asyncio.timeout(RENEW_SECONDS):
                held = await lease.acquire()
            detail = "active" if held else f"standby: {lease.holder} is active"
            runtime.health.set_condition("lease", True, detail)
            if held:
                log.info("active: lease held as %s", lease.identity)
                return
        except (ApiError, TimeoutError) as error:
            runtime.health.set_condition(
                "lease", False, f"cannot be read or written: {error or 'no answer'}"
            )
        await wait_for_event(runtime.stopping, RETRY_SECONDS)
