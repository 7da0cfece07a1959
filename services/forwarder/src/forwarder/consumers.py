"""The durable consumers on the stream of events: what they are called and what they are like."""

from __future__ import annotations

from typing import Any

from shared.events import SECOND
from shared.subjects import FORWARDER, OVERTAKING

ACK_WAIT_SECONDS = 15
"""After so long without a word on it, the stream delivers an event again."""
MAX_ACK_PENDING = 2048
"""How many events all forwarders together may hold unacknowledged."""


def consumer_name(domain: str) -> str:
    """The durable consumer's name, of which no two domains have the same.

    The subject of an acknowledgement names stream and consumer but no domain: every leaf node
    that has both would take it for its own, and lose an event (nats-server#6440).
    """
    return f"{FORWARDER}-{domain}" if domain else FORWARDER


def overtaking_name(domain: str) -> str:
    """That of the consumer through which new events overtake a backlog."""
    return f"{OVERTAKING}-{domain}" if domain else OVERTAKING


def consumer_config(first_sequence: int, name: str = FORWARDER) -> dict[str, Any]:
    """The durable consumer, which begins at `first_sequence` where it has to be made."""
    config: dict[str, Any] = {
        "durable_name": name,
        "name": name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT_SECONDS * SECOND,
        # Attempts are the forwarder's to count: at a limit here the message would be hidden.
        "max_deliver": -1,
        "max_ack_pending": MAX_ACK_PENDING,
        "max_waiting": 512,
    }
    if first_sequence > 1:
        config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": first_sequence}
    return config
