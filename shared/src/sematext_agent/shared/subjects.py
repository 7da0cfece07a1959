"""The subjects, streams and buckets of the bus, each spelled once.

events.<source>.<origin>.<object>.<action>     events.docker.web-01.container.start
dead.<the event's subject>                     refused by the receiver for good
agent.status                                   requests the health of every service
agent.document                                 requests the forwarder's document of an event
agent.shipped.<domain or hub>                  asks the other forwarders what they have delivered
agent.<request>                                any request; the answer comes to an inbox

A dead letter is the event's message as it was: the same payload, the same `Nats-Msg-Id`, and beside
them the headers `DEAD_…_HEADER` below. To replay one, publish its payload on its subject without
the first token, with a `replay_id`: its own id would make it a duplicate.
"""

from __future__ import annotations

import functools
import re

from sematext_agent.shared.events import (
    AgentLifecycle,
    DockerEvent,
    Event,
    Gap,
    KubernetesEvent,
    OutOfMemory,
    PackageChange,
)

SOURCES = ("docker", "kubernetes", "host", "lifecycle")
"""The tokens of the collectors in the subjects of their events."""
EVENTS_STREAM = "EVENTS"
EVENTS_SUBJECTS = "events.>"
DEAD_STREAM = "DEAD"
DEAD_SUBJECTS = "dead.>"
FORWARDER_CONSUMER = "forwarder"
"""The durable consumer of EVENTS that every forwarder pulls from."""
OVERTAKING_CONSUMER = "forwarder_overtaking"
"""A second one while there is a backlog: new events pass the backlog through it."""
CURSORS_BUCKET = "cursors"
"""The key-value bucket of the collectors' cursors."""
HOSTS_BUCKET = "hosts"
"""The key-value bucket of `HostFacts`."""
STATUS_SUBJECT = "agent.status"
DOCUMENT_SUBJECT = "agent.document"
"""A request with an event gets the document that the forwarder makes of it: JSON, or nothing where
it is no event."""
PEERS_SUBJECT = "agent.shipped"
"""The start of the subjects on which forwarders ask each other: a domain, or `hub`, follows. The
word is that of version 0.1.0, which asks on them too."""
REQUEST_SUBJECTS = "agent.>"
"""Requests whose answer comes to an inbox; none changes anything."""

INBOX_PREFIX = "_INBOX"
"""Start of every subject on which a process waits for an answer."""
RELAYED_REPLY_PREFIX = "_R_."
"""Start of it for a request from another account of NATS: the server relays the answer."""

DEAD_REASON_HEADER = "Agent-Dead-Reason"
"""The reason, for a person: ASCII, one line, without any secret."""
DEAD_STATUS_HEADER = "Agent-Dead-Status"
"""The receiver's HTTP status; `0` for an event never sent, as it could not be decoded."""
DEAD_SEQUENCE_HEADER = "Agent-Dead-Sequence"
"""Its number in the stream of events."""
DEAD_TIME_HEADER = "Agent-Dead-Time"
"""The time at which it became a dead letter, RFC 3339."""

_TOKEN_CHARACTERS_MAX = 64
_KEY_CHARACTERS_MAX = 256  # of each part; a line of the protocol may have 4,096
_not_allowed = re.compile(r"[^A-Za-z0-9_:@/=+-]")


@functools.lru_cache(maxsize=1024)
def clean_token(text: str) -> str:
    """Return `text` as one token of a subject: `web.example.org` becomes `web_example_org`.

    NATS forbids white space, `.`, `*` and `>` in a token; other special characters are replaced
    too, so that a subject can be typed.
    """
    return _not_allowed.sub("_", text)[:_TOKEN_CHARACTERS_MAX] or "_"


def consumer_name(consumer: str, domain: str) -> str:
    """Return the name of the forwarder's `consumer` in a domain: no two have the same.

    The subject of an acknowledgement names stream and consumer but no domain: every leaf node
    that has both would take it for its own, and lose an event (nats-server#6440).
    """
    return f"{consumer}-{domain}" if domain else consumer


def bucket_key(*parts: str) -> str:
    """Return the parts as one key of a bucket, which allows even less than a subject does."""
    plain = (re.sub(r"[^A-Za-z0-9_-]", "_", part[:_KEY_CHARACTERS_MAX]) for part in parts)
    return ".".join(part or "_" for part in plain)


def inbox_prefix(user: str) -> str:
    """Return the start of the inboxes of `user`; without a user, NATS' own."""
    return f"{INBOX_PREFIX}_{clean_token(user)}" if user else INBOX_PREFIX


def subject_of(event: Event) -> str:
    """Return the subject on which `event` is published."""
    match event.body:
        case DockerEvent(type=kind, action=action):
            # `exec_start: sh -c …` and `health_status: healthy` carry a text after the action.
            path = "docker", kind, action.partition(":")[0]
        case KubernetesEvent(kind=kind, reason=reason):
            path = "kubernetes", kind, reason
        case OutOfMemory():
            path = "host", "process", "oom_killed"
        case PackageChange(change=change):
            path = "host", "package", change
        case AgentLifecycle(state=state):
            path = "lifecycle", "agent", state
        case Gap(source=source, reason=reason):
            path = source, "gap", reason
    source, thing, action = path
    return ".".join(("events", *map(clean_token, (source, event.origin, thing, action))))


def dead_subject(subject: str) -> str:
    """Return the subject of the dead letter of an event that was published on `subject`."""
    return f"dead.{subject}"


def replay_id(message_id: str, number: int) -> str:
    """Return the id under which the dead letter of that number is published again.

    The forwarder delivers what comes under a new id, even where it knows the event itself.
    """
    return f"{message_id}:replay:{number}"
