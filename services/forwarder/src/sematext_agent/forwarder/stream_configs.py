"""The configurations of the streams and buckets, in the JSON of JetStream's own API.

https://docs.nats.io/reference/reference-protocols/nats_api_reference
"""

from __future__ import annotations

from sematext_agent.forwarder.consumers import Info
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared.events import EVENT_BYTES_MAX, NS_PER_SECOND
from sematext_agent.shared.subjects import (
    CURSORS_BUCKET,
    DEAD_STREAM,
    DEAD_SUBJECTS,
    EVENTS_STREAM,
    EVENTS_SUBJECTS,
    HOSTS_BUCKET,
)

DUPLICATE_WINDOW_SECONDS = 15 * 60
HEADER_BYTES_MAX = 8 * 1024
HOSTS_BYTES_MAX = 64 * 1024 * 1024


def stream_configs(settings: ForwarderSettings) -> list[Info]:
    """Return the configurations of the streams and of the two buckets, in the order of creation."""
    common: Info = {
        "retention": "limits",
        "storage": "file",
        "num_replicas": settings.stream_replicas,
        "max_msg_size": EVENT_BYTES_MAX + HEADER_BYTES_MAX,
        "duplicate_window": DUPLICATE_WINDOW_SECONDS * NS_PER_SECOND,
        "allow_direct": True,
    }
    events = common | {
        "name": EVENTS_STREAM,
        "subjects": [EVENTS_SUBJECTS],
        "max_bytes": settings.stream_bytes_max,
        # A refused publish holds its collector at its cursor; a dropped event would be lost.
        "discard": "new",
    }
    dead = common | {
        "name": DEAD_STREAM,
        "subjects": [DEAD_SUBJECTS],
        "max_bytes": settings.dead_bytes_max,
        # An event of the greatest size still fits when the headers of a dead letter are added.
        "max_msg_size": EVENT_BYTES_MAX + 2 * HEADER_BYTES_MAX,
        "discard": "old",
    }
    buckets = [
        _bucket(CURSORS_BUCKET, settings.cursors_bytes_max, settings.stream_replicas),
        _bucket(HOSTS_BUCKET, HOSTS_BYTES_MAX, settings.stream_replicas),
    ]
    # The largest is the last: it takes what the disk has left.
    return [*buckets, *([] if settings.nats_domain else [dead]), events]


def _bucket(name: str, bytes_max: int, replicas: int) -> Info:
    """Return the configuration of a key-value bucket, which is a stream (NATS' ADR-8)."""
    return {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_bytes": bytes_max,
        "max_msgs_per_subject": 1,
        "discard": "new",
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
    }
