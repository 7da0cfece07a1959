"""The bus: NATS with JetStream, and the only package that knows its client.

nats-py 2.16 loses its liveness in several ways, and each is closed here, once:

- A message that it cannot decode ends its reader for good: see `client`.
- Its publishes and its closed connections leave callers waiting: see `publisher` and `connection`.
- Its way of fetching messages loses requests and messages: see `puller`.
"""

from __future__ import annotations

from sematext_agent.shared.bus.client import Msg, TolerantClient

# isort: split
# Behind `client`, which decides what the import of nats-py brings along.
from nats.js.api import ConsumerConfig, StreamConfig

from sematext_agent.shared.bus.buckets import BucketEntry
from sematext_agent.shared.bus.bus import Bus, connect
from sematext_agent.shared.bus.errors import (
    BusError,
    ConnectionLost,
    JetStreamError,
    PublishTimeout,
    RevisionConflict,
)
from sematext_agent.shared.bus.publisher import ACKNOWLEDGEMENT_SECONDS_MAX, PublishAck
from sematext_agent.shared.bus.puller import Message, Puller, api_prefix

__all__ = [
    "ACKNOWLEDGEMENT_SECONDS_MAX",
    "BucketEntry",
    "Bus",
    "BusError",
    "ConnectionLost",
    "ConsumerConfig",
    "JetStreamError",
    "Message",
    "Msg",
    "PublishAck",
    "PublishTimeout",
    "Puller",
    "RevisionConflict",
    "StreamConfig",
    "TolerantClient",
    "api_prefix",
    "connect",
]
