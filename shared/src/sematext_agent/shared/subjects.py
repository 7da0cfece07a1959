"""Every subject, stream and bucket on the bus, spelled once.

events.<source>.<origin>.<object>.<action>     events.docker.web-01.container.start
dead.<the event's subject>                     refused by the receiver for good
agent.status                                   asks every service how it is
agent.document                                 asks the forwarder what it makes of an event
agent.shipped.<domain or hub>                  asks the other forwarders what they have shipped
agent.<question>                               asks who knows; the answer comes to an inbox

A dead letter is the event's message as it was: the same payload, the same `Nats-Msg-Id`, and beside
them the headers `DEAD_…` below. To replay one, publish its payload on its subject without the first
token, with a `replay_id`: the streams know its own id already.
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

EVENTS_STREAM = "EVENTS"
EVENTS_SUBJECTS = "events.>"
DEAD_STREAM = "DEAD"
DEAD_SUBJECTS = "dead.>"
FORWARDER_CONSUMER = "forwarder"
"""The durable consumer of EVENTS that every forwarder pulls from."""
OVERTAKING_CONSUMER = "forwarder_overtaking"
"""The one beside it while there is a backlog: new events come through it, out of their turn."""
CURSORS_BUCKET = "cursors"
"""The key-value bucket in which each collector keeps how far it is at its source."""
HOSTS_BUCKET = "hosts"
"""The key-value bucket of `HostFacts`."""
STATUS_SUBJECT = "agent.status"
DOCUMENT_SUBJECT = "agent.document"
"""Whoever sends an event here as a request gets the document that the forwarder ships of it: JSON,
or nothing where it is no event."""
PEERS_SUBJECT = "agent.shipped"
"""Before a domain, or `hub`: which of these events another forwarder has shipped or in hand."""
REQUEST_SUBJECTS = "agent.>"
"""Whatever is asked with an answer to an inbox, and changes nothing."""

INBOX_PREFIX = "_INBOX"
"""How every subject begins on which somebody waits for an answer."""
RELAYED_REPLY_PREFIX = "_R_."
"""How it begins where who asks is in another account of NATS: the server hands the answer on."""

DEAD_REASON_HEADER = "Agent-Dead-Reason"
"""Why, for a person: ASCII, one line, without any secret."""
DEAD_STATUS_HEADER = "Agent-Dead-Status"
"""The receiver's HTTP status; `0` for what was never sent, because it could not be decoded."""
DEAD_SEQUENCE_HEADER = "Agent-Dead-Sequence"
"""Its number in the stream of events."""
DEAD_TIME_HEADER = "Agent-Dead-Time"
"""When it was given up, RFC 3339."""

_TOKEN_CHARACTERS_MAX = 64
_KEY_CHARACTERS_MAX = 256  # of each part; a line of the protocol may have 4,096
_not_allowed = re.compile(r"[^A-Za-z0-9_:@/=+-]")


@functools.lru_cache(maxsize=1024)
def clean_token(text: str) -> str:
    """`text` as one token of a subject or of a key: `web.example.org` becomes `web_example_org`.

    NATS forbids white space, `.`, `*` and `>` in a token; the rest of what is not plain is
    replaced too, so that a subject can be typed.
    """
    return _not_allowed.sub("_", text)[:_TOKEN_CHARACTERS_MAX] or "_"


def consumer_name(consumer: str, domain: str) -> str:
    """What `consumer` of the forwarder is called in a domain: no two have the same name.

    The subject of an acknowledgement names stream and consumer but no domain: every leaf node
    that has both would take it for its own, and lose an event (nats-server#6440).
    """
    return f"{consumer}-{domain}" if domain else consumer


def bucket_key(*parts: str) -> str:
    """The parts as one key of a bucket, which allows even less than a subject does."""
    plain = (re.sub(r"[^A-Za-z0-9_-]", "_", part[:_KEY_CHARACTERS_MAX]) for part in parts)
    return ".".join(part or "_" for part in plain)


def inbox_prefix(user: str) -> str:
    """How the subjects begin to which `user` is answered; without a user, NATS' own beginning."""
    return f"{INBOX_PREFIX}_{clean_token(user)}" if user else INBOX_PREFIX


def subject_of(event: Event) -> str:
    """The subject on which `event` is published."""
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
    """Where an event that was published on `subject` goes when it is refused for good."""
    return f"dead.{subject}"


def replay_id(message_id: str, replay: int) -> str:
    """The id under which a dead letter is published again, for the `replay`-th time from 1.

    The forwarder ships what comes under a new id, even where it knows the event itself.
    """
    return f"{message_id}:replay:{replay}"
