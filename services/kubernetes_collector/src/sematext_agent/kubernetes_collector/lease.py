"""Keeps one of several replicas at work: a Lease (coordination.k8s.io), as client-go holds it.

It only saves the cluster a watch, and nothing else is built on it: two at work for a moment do no
harm, as their events have the same ids, and the bucket refuses the place of the one that was
replaced (`shared.cursors`). Whoever cannot renew the lease in time ends its process, before another
may take it; the next start waits as a standby. An update names the revision it replaces, so of two
that take the lease at once one is refused.

Clocks of different machines are never compared: a standby watches for how long, by its own clock,
the record has not changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import logging
import secrets
import socket
import time
from typing import Annotated

import msgspec

from sematext_agent.kubernetes_collector.api import Api, ApiError
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.restart import RestartRequested
from sematext_agent.shared.service import Runtime, Work

log = logging.getLogger(__name__)

# client-go's own figures: https://pkg.go.dev/k8s.io/client-go/tools/leaderelection
LEASE_SECONDS = 15.0
RENEW_SECONDS = 10.0
"""How long renewing may fail before the holder must have stopped."""
RETRY_SECONDS = 2.0


Int32 = Annotated[int, msgspec.Meta(ge=0, lt=2**31)]


class LeaseLost(RestartRequested):
    """Another replica has the lease, or may have it any moment."""


class _Spec(msgspec.Struct, rename="camel", omit_defaults=True):
    holder_identity: str | None = None
    lease_duration_seconds: Int32 | None = None
    acquire_time: str | None = None
    renew_time: str | None = None
    lease_transitions: Int32 | None = None


class _Metadata(msgspec.Struct, rename="camel", omit_defaults=True):
    name: str
    namespace: str
    resource_version: str = ""


class _Record(msgspec.Struct, rename="camel"):
    metadata: _Metadata
    spec: _Spec
    api_version: str = "coordination.k8s.io/v1"
    kind: str = "Lease"


class Lease:
    """One replica's hold, or hope, on a lease."""

    def __init__(self, api: Api, namespace: str, name: str) -> None:
        self._api = api
        self._all = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._one = f"{self._all}/{name}"
        self._empty = _Record(_Metadata(name, namespace), _Spec())
        self.identity = f"{socket.gethostname()}_{secrets.token_hex(4)}"
        self.holder = ""
        self._seen: _Record | None = None
        self._seen_at = 0.0
        self.renewed_at = 0.0

    async def try_once(self) -> bool:
        """Takes or renews the lease, if it is ours, free, or abandoned. Raises ApiError."""
        asked_at = _clock()
        record = await self._read()
        if self._seen is None or record.metadata != self._seen.metadata:
            self._seen, self._seen_at = record, asked_at
        self.holder = record.spec.holder_identity or ""
        seconds = record.spec.lease_duration_seconds or LEASE_SECONDS
        if self.holder not in ("", self.identity) and asked_at - self._seen_at < seconds:
            return False
        try:
            await self._write(record, self.identity)
        except ApiError as error:
            if error.status != 409:
                raise
            return False
        # Counted from before the request: others may count from the moment it was stored.
        self.holder, self.renewed_at = self.identity, asked_at
        return True

    async def keep(self) -> None:
        """Renews the lease; never returns.

        Raises:
            LeaseLost: another has it, or it could not be renewed for `RENEW_SECONDS`.
        """
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            try:
                async with asyncio.timeout(max(0.0, self.renewed_at + RENEW_SECONDS - _clock())):
                    await self.try_once()
            except (ApiError, TimeoutError) as error:
                log.warning("the lease is not renewed: %s", error or "no answer")
            if self.holder != self.identity:
                raise LeaseLost(f"the lease was taken by {self.holder or 'nobody'}")
            if _clock() - self.renewed_at >= RENEW_SECONDS:
                raise LeaseLost("the lease could not be renewed in time")

    async def release(self) -> None:
        """Gives the lease back, so that a standby need not wait for its end."""
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS):
                record = await self._read()
                if record.spec.holder_identity == self.identity:
                    await self._write(record, "")

    async def _read(self) -> _Record:
        try:
            return msgspec.json.decode(await self._api.request("GET", self._one), type=_Record)
        except DECODE_ERRORS as error:
            raise ApiError(0, f"a lease that is none: {error}") from error
        except ApiError as error:
            if error.status != 404:
                raise
            return self._empty

    async def _write(self, before: _Record, holder: str) -> None:
        now = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
        changes = holder != before.spec.holder_identity
        transitions = (before.spec.lease_transitions or 0) + bool(holder and changes)
        spec = _Spec(
            holder_identity=holder,
            lease_duration_seconds=round(LEASE_SECONDS) if holder else 1,
            acquire_time=now if changes else before.spec.acquire_time,
            renew_time=now,
            lease_transitions=transitions,
        )
        record = msgspec.structs.replace(before, spec=spec)
        if before is self._empty:
            await self._api.request("POST", self._all, body=record)
        else:
            await self._api.request("PUT", self._one, body=record)


async def lead(
    api: Api, runtime: Runtime[KubernetesSettings], work: Work[KubernetesSettings]
) -> None:
    """Does `work` while this replica holds the lease that the settings name, or at once without.

    Raises:
        LeaseLost: in its group of exceptions; the work was cancelled.
    """
    if not runtime.settings.lease:
        await work(runtime)
        return
    lease = Lease(api, *runtime.settings.lease)
    await _acquire(lease, runtime)
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


async def _acquire(lease: Lease, runtime: Runtime[KubernetesSettings]) -> None:
    """Waits until the lease is ours, or the process shall stop."""
    while not runtime.stopping.is_set():
        try:
            async with asyncio.timeout(RENEW_SECONDS):
                held = await lease.try_once()
            detail = "active" if held else f"standby: {lease.holder} is active"
            runtime.health.set_condition("lease", True, detail)
            if held:
                log.info("active, as %s", lease.identity)
                return
        except (ApiError, TimeoutError) as error:
            runtime.health.set_condition(
                "lease", False, f"cannot be read or written: {error or 'no answer'}"
            )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(RETRY_SECONDS):
                await runtime.stopping.wait()


def _clock() -> float:
    """Seconds, counted on while the machine sleeps: a lease ends meanwhile, too."""
    return (
        time.clock_gettime(time.CLOCK_BOOTTIME)
        if hasattr(time, "CLOCK_BOOTTIME")
        else time.monotonic()
    )
