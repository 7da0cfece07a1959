"""The users of the broker and their rights: one user a service, with exactly its subjects.

`agentctl up` writes the rights into the configuration of its broker, and `agentctl users` into a
file that the broker of docker-compose.yml includes.

The rights to publish include requests: JetStream is asked on `$JS.API.…`
(https://docs.nats.io/reference/reference-protocols/nats_api_reference). Answers go to the inbox of
the user who asked, and no two users share one, so nobody receives another user's answers.

A request to JetStream also chooses the subject of its answer, and no right limits that: an answer
could become an event, a cursor, or an order to delete a stream. So users who only read are in an
account of their own, which imports subjects and requests: answers reach its users and nothing else.
"""

from __future__ import annotations

import argparse
import json
import secrets
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec

from sematext_agent.agentctl.state import CommandError, write_private
from sematext_agent.shared.bus import api_prefix
from sematext_agent.shared.subjects import (
    CURSORS_BUCKET,
    DEAD_STREAM,
    DEAD_SUBJECTS,
    EVENTS_STREAM,
    EVENTS_SUBJECTS,
    FORWARDER_CONSUMER,
    HOSTS_BUCKET,
    OVERTAKING_CONSUMER,
    PEERS_SUBJECT,
    RELAYED_REPLY_PREFIX,
    REQUEST_SUBJECTS,
    STATUS_SUBJECT,
    clean_token,
    consumer_name,
    inbox_prefix,
)

TAP = "tap"
"""User that may listen and read, and publish nothing; `nats-url` has its name and password."""
REPLAY = "replay"
"""User that may also replay dead letters."""
SUPERVISOR = "agentctl"
"""User of `agentctl up` itself: it listens as a tap does, and reports on its processes."""
CONSOLE = "console"
ACCOUNT = "AGENT"
"""Account of the streams and of users who write; older versions had only NATS' own `$G`."""
_READERS = (TAP, CONSOLE)
"""Users in the account that can only read."""
_API = api_prefix("")
_STREAMS = (EVENTS_STREAM, DEAD_STREAM, f"KV_{CURSORS_BUCKET}", f"KV_{HOSTS_BUCKET}")


class Rights(msgspec.Struct, frozen=True):
    """Subjects that one user may use; the broker refuses all others."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    never_publish: tuple[str, ...] = ()
    """Subjects excluded from `publish`."""


def _inbox(user: str) -> str:
    return f"{inbox_prefix(user)}.>"


# Answers may go to these inboxes only: a request could otherwise name the subject of an event.
# The server itself passes answers on to the account of readers.
_ANSWERS = (f"{RELAYED_REPLY_PREFIX}>", _inbox(REPLAY), _inbox(SUPERVISOR))


def _bucket(name: str, keys: str) -> tuple[str, ...]:
    """Return the subjects for reading and writing those keys of a bucket."""
    subjects = f"$KV.{name}.{keys}"
    return (
        f"{_API}.STREAM.INFO.KV_{name}",
        f"{_API}.DIRECT.GET.KV_{name}.{subjects}",
        subjects,
    )


def _collector_rights(source: str, *extra: str) -> Rights:
    cursors = _bucket(CURSORS_BUCKET, f"{source}.>")
    return Rights(
        publish=(f"events.{source}.>", *cursors, *extra, *_ANSWERS),
        subscribe=(_inbox(source), STATUS_SUBJECT),
    )


def _consumers(domain: str) -> tuple[str, str]:
    """Return the forwarder's consumer, and the one that overtakes a backlog, by their streams."""
    names = FORWARDER_CONSUMER, OVERTAKING_CONSUMER
    first, second = (f"{EVENTS_STREAM}.{consumer_name(name, domain)}" for name in names)
    return first, second


def _stream_management(domain: str) -> tuple[str, ...]:
    """Return the subjects for owning the streams of the broker, or of a leaf node's domain."""
    api = api_prefix(domain)
    consumers = _consumers(domain)
    return (
        *(
            f"{api}.STREAM.{verb}.{stream}"
            for verb in ("INFO", "CREATE", "UPDATE")
            for stream in _STREAMS
        ),
        f"{api}.STREAM.NAMES",
        f"{api}.STREAM.PURGE.{EVENTS_STREAM}",
        f"{api}.STREAM.MSG.GET.{EVENTS_STREAM}",
        *(
            f"{api}.CONSUMER.{verb}.{consumer}"
            for verb in ("INFO", "CREATE", "MSG.NEXT")
            for consumer in consumers
        ),
        f"{api}.CONSUMER.DELETE.{consumers[1]}",
        *(f"$JS.ACK.{consumer}.>" for consumer in consumers),
        *(f"$JS.ACK.*.*.{consumer}.>" for consumer in consumers),  # of a later nats-server
        # The facts of the hosts: their keys are listed through a consumer without a name.
        f"{api}.DIRECT.GET.KV_{HOSTS_BUCKET}.>",
        f"{api}.CONSUMER.CREATE.KV_{HOSTS_BUCKET}",
        f"{api}.CONSUMER.INFO.KV_{HOSTS_BUCKET}.*",
    )


def _forwarder_rights(domains: tuple[str, ...]) -> Rights:
    return Rights(
        publish=(
            *(subject for domain in domains for subject in _stream_management(domain)),
            DEAD_SUBJECTS,
            f"events.{FORWARDER_CONSUMER}.>",
            # Requests to other forwarders, and answers to theirs.
            f"{PEERS_SUBJECT}.>",
            _inbox(FORWARDER_CONSUMER),
            *_ANSWERS,
        ),
        subscribe=(_inbox(FORWARDER_CONSUMER), REQUEST_SUBJECTS),
    )


def _reader_rights(
    user: str,
    domains: tuple[str, ...],
    publish: tuple[str, ...] = (),
    subscribe: tuple[str, ...] = (),
) -> Rights:
    """Return the rights to listen, to ask, and to read streams through consumers of its own."""
    stream_calls = ("CONSUMER.CREATE", "CONSUMER.MSG.NEXT", "CONSUMER.INFO", "DIRECT.GET")
    calls = (
        "INFO",
        "STREAM.NAMES",
        "STREAM.LIST",
        "STREAM.INFO.*",
        "STREAM.MSG.GET.*",
        "DIRECT.GET.*",
        "CONSUMER.NAMES.*",
        "CONSUMER.LIST.*",
        f"CONSUMER.CREATE.KV_{CURSORS_BUCKET}",
        f"CONSUMER.CREATE.KV_{HOSTS_BUCKET}",
    )
    return Rights(
        publish=(
            REQUEST_SUBJECTS,
            *(f"{_API}.{call}" for call in calls),
            *(f"{_API}.{call}.{stream}.>" for call in stream_calls for stream in _STREAMS),
            *publish,
        ),
        # Not the forwarder's consumers: a message pulled from one would be delivered late.
        never_publish=(
            *(
                f"{_API}.CONSUMER.{call}.{consumer}{rest}"
                for domain in domains
                for consumer in _consumers(domain)
                for call, rest in (("CREATE", ""), ("CREATE", ".>"), ("MSG.NEXT", ""))
            ),
            f"{PEERS_SUBJECT}.>",  # for forwarders only
        ),
        subscribe=(_inbox(user), EVENTS_SUBJECTS, DEAD_SUBJECTS, *subscribe),
    )


def rights(*domains: str) -> Mapping[str, Rights]:
    """Return the rights by user; `domains` are leaf nodes whose streams the forwarder also owns."""
    all_domains = ("", *domains)
    return {
        "lifecycle": _collector_rights("lifecycle", *_bucket(HOSTS_BUCKET, ">")),
        "docker": _collector_rights("docker"),
        "host": _collector_rights("host"),
        "kubernetes": _collector_rights("kubernetes"),
        FORWARDER_CONSUMER: _forwarder_rights(all_domains),
        # Clients that log in without a name, such as `nats sub`, use the common inbox.
        CONSOLE: _reader_rights(
            CONSOLE,
            all_domains,
            publish=(_inbox(""), *map(_inbox, _READERS)),
            subscribe=(STATUS_SUBJECT,),
        ),
        SUPERVISOR: _reader_rights(
            SUPERVISOR, all_domains, publish=_ANSWERS, subscribe=(STATUS_SUBJECT,)
        ),
        TAP: _reader_rights(TAP, all_domains, subscribe=(_inbox(""),)),
        # The console may log in so, and answers status requests as every service does.
        REPLAY: _reader_rights(
            REPLAY,
            all_domains,
            publish=(EVENTS_SUBJECTS, f"{_API}.STREAM.MSG.DELETE.{DEAD_STREAM}", *_ANSWERS),
            subscribe=(STATUS_SUBJECT,),
        ),
    }


USERS = rights()
"""Every user, by name. A service is the user of its own name."""


def format_accounts(
    passwords: Mapping[str, str],
    open_tap: bool = False,
    accounts: Mapping[str, object] | None = None,
    domains: Iterable[str] = (),
) -> str:
    """Return the accounts and users of the broker, in the language of its configuration.

    With `open_tap` a client without name and password is the tap; otherwise it is rejected.
    `accounts` are further ones, such as the server's own; `domains` as in `rights`.
    """
    rights_by_user = rights(*domains)

    def users(names: Iterable[str]) -> list[dict[str, object]]:
        return [_format_user(name, passwords[name], rights_by_user[name]) for name in names]

    streams = [{"stream": subject} for subject in (EVENTS_SUBJECTS, DEAD_SUBJECTS)]
    services = [{"service": subject} for subject in rights_by_user[TAP].publish]
    own_accounts = {
        ACCOUNT: {
            "jetstream": "enabled",
            "users": users(name for name in USERS if name not in _READERS),
            # A request may have several answers.
            "exports": [*streams, *({**export, "response_type": "Stream"} for export in services)],
        },
        "READERS": {
            "users": users(_READERS),
            "imports": [
                {kind: {"account": ACCOUNT, "subject": subject}}
                for export in (*streams, *services)
                for kind, subject in export.items()
            ],
        },
    }
    # The server reads JSON, all but the escapes of `ensure_ascii`.
    text = json.dumps({**own_accounts, **(accounts or {})}, ensure_ascii=False, indent=1)
    return f"accounts {text}\n" + (f"no_auth_user: {TAP}\n" if open_tap else "")


def _format_user(name: str, password: str, rights: Rights) -> dict[str, object]:
    return {
        "user": name,
        "password": password,
        "permissions": {
            "publish": {"allow": rights.publish, "deny": rights.never_publish},
            "subscribe": {"allow": rights.subscribe},
        },
    }


_MOVED = (
    "nats/accounts.conf replaces nats/authorization.conf: stop the broker, rename jetstream/$G in "
    f"its store to jetstream/{ACCOUNT}, and have it include the new file (docker-compose.yml does)"
)


def set_up(options: argparse.Namespace) -> int:
    """`agentctl users`: write the broker's file and missing passwords, and keep existing ones."""
    for domain in options.domain:
        if clean_token(domain) != domain:
            raise CommandError(f"--domain {domain}: a domain has letters, digits, - and _ alone")
    mode = 0o444 if options.shared else 0o600
    try:
        text = format_accounts(
            ensure_passwords(options.directory, mode), options.open_tap, domains=options.domain
        )
        file = options.directory / "nats" / "accounts.conf"
        if not file.exists() and file.with_name("authorization.conf").exists():
            print(_MOVED, file=sys.stderr)
        # An equal file is left alone: a broker may reload it whenever it is written.
        if not file.exists() or file.read_text() != text:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(file, text, mode)
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}; name another DIR") from None
    return 0


def password_file(directory: Path, user: str) -> Path:
    """Return the file with the password of `user`: in a folder of its own, which can be mounted."""
    return directory / user / "password"


def ensure_passwords(directory: Path, mode: int = 0o600) -> dict[str, str]:
    """Return the passwords in `directory` by user, after generating the missing ones.

    Raises:
        OSError: the directory cannot be read or written.
    """
    passwords = {}
    for user in USERS:
        file = password_file(directory, user)
        if not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(file, secrets.token_urlsafe(24) + "\n", mode)
        passwords[user] = file.read_text().strip()
    return passwords
