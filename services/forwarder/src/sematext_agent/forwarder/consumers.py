"""The durable consumers on the stream of events: what they are like."""

from __future__ import annotations

from typing import Any

from sematext_agent.shared.events import NS_PER_SECOND
from sematext_agent.shared.subjects import FORWARDER_CONSUMER

ACK_WAIT_SECONDS = 15
"""After so long without a word on it, the stream delivers an event again."""
MAX_ACK_PENDING = 2048
"""How many events all forwarders together may hold unacknowledged."""


def consumer_config(first_sequence: int, name: str = FORWARDER_CONSUMER) -> dict[str, Any]:
    """The durable consumer, which begins at `first_sequence` where it has to be made."""
    config: dict[str, Any] = {
        "durable_name": name,
        "name": name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT_SECONDS * NS_PER_SECOND,
        # Attempts are the forwarder's to count: at a limit here the message would be hidden.
        "max_deliver": -1,
        "max_ack_pending": MAX_ACK_PENDING,
        "max_waiting": 512,
    }
    if first_sequence > 1:
        config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": first_sequence}
    return config
