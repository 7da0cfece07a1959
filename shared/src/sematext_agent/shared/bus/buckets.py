"""Key-value buckets on the bus."""

from __future__ import annotations

from typing import NamedTuple

import nats.errors
import nats.js.errors
from nats.aio.client import Client
from nats.js.kv import KeyValue

from sematext_agent.shared.bus.errors import BusError, RevisionConflict


class BucketEntry(NamedTuple):
    """The entry of a bucket under a key."""

    value: bytes | None
    """None where there is no value, or none any more."""
    revision: int
    """The revision that a write replaces; 0 where nothing was ever stored."""


class Buckets:
    """The buckets of the broker and of its leaf nodes, each looked up once."""

    def __init__(self, client: Client) -> None:
        """Read and write through `client`."""
        self._client = client
        self._buckets: dict[tuple[str, str], KeyValue] = {}

    async def open(self, name: str, domain: str = "") -> KeyValue:
        """Return the bucket of that name. Raises nats.errors.Error where there is none now."""
        if (name, domain) not in self._buckets:
            jetstream = self._client.jetstream(domain=domain or None)
            self._buckets[name, domain] = await jetstream.key_value(name)
        return self._buckets[name, domain]

    async def get_entry(self, bucket: str, key: str, domain: str) -> BucketEntry:
        """Return the value of `key` and its revision. Raises BusError."""
        try:
            entry = await (await self.open(bucket, domain)).get(key)
            return BucketEntry(entry.value, entry.revision or 0)
        except nats.js.errors.KeyNotFoundError as missing:
            # A deleted key leaves a mark, which has a revision too.
            return BucketEntry(None, missing.entry.revision if missing.entry else 0)
        except nats.errors.Error as error:
            raise BusError(f"cannot read {bucket}/{key}: {error}") from error

    async def put(self, bucket: str, key: str, value: bytes) -> None:
        """Store `value` under `key`. Raises BusError."""
        try:
            await (await self.open(bucket)).put(key, value)
        except nats.errors.Error as error:
            raise BusError(f"cannot write {bucket}/{key}: {error}") from error

    async def replace(self, bucket: str, key: str, value: bytes, revision: int) -> int:
        """Store `value` in place of `revision`. Raises RevisionConflict and BusError."""
        try:
            return await (await self.open(bucket)).update(key, value, last=revision)
        except nats.js.errors.KeyWrongLastSequenceError as error:
            raise RevisionConflict(f"{bucket}/{key} is not at revision {revision}") from error
        except nats.errors.Error as error:
            raise BusError(f"cannot write {bucket}/{key}: {error}") from error

    async def keys(self, bucket: str, domain: str) -> list[str]:
        """Return the keys of a bucket. Raises BusError."""
        try:
            return await (await self.open(bucket, domain)).keys()
        except nats.js.errors.NoKeysError:
            return []
        except nats.errors.Error as error:
            raise BusError(f"cannot list {bucket}: {error}") from error
