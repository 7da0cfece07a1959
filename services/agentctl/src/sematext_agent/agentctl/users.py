"""Who may say and hear what on the broker: one user a service, each with exactly its subjects.

The one place that knows. `agentctl up` writes it into the configuration of its broker, and
`agentctl users` into a file that the broker of docker-compose.yml includes.

What a user may publish to includes what it may ask: JetStream is asked on `$JS.API.…`
(https://docs.nats.io/reference/reference-protocols/nats_api_reference). Answers come to the inbox
of whoever asked, and no two users share one, so that none hears another's answers.

Who asks JetStream also chooses the subject of the answer, and no right limits that: an answer could
become an event, a cursor, or an order to delete a stream. So those who only read are in an account
of their own, which imports what they may hear and ask: answers reach them, and nothing else there.
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
"""May listen and read, and publish nothing. Its name and password stand in `nats-url`."""
REPLAY = "replay"
"""May put dead letters back among the events as well."""
OVERSEER = "agentctl"
"""`agentctl up` itself: listens as a tap does, and answers for its processes."""
CONSOLE = "console"
ACCOUNT = "AGENT"
"""Of the streams, and of whoever writes; before there were two, NATS' own `$G` was the only one."""
_READERS = (TAP, CONSOLE)
"""The users in the account of those who only read."""
_API = api_prefix("")
_STREAMS = (EVENTS_STREAM, DEAD_STREAM, f"KV_{CURSORS_BUCKET}", f"KV_{HOSTS_BUCKET}")


class Rights(msgspec.Struct, frozen=True):
    """What one user may do; whatever is not named is refused."""

    publish: tuple[str, ...]
    subscribe: tuple[str, ...]
    never_publish: tuple[str, ...] = ()
    """Of `publish`, what it may not all the same."""


def _inbox(user: str) -> str:
    return f"{inbox_prefix(user)}.>"


# Where answers to questions may go. Not just anywhere, or who asks could choose an event's subject.
# The server itself brings an answer to who reads.
_ANSWERS = (f"{RELAYED_REPLY_PREFIX}>", _inbox(REPLAY), _inbox(OVERSEER))


def _bucket(name: str, keys: str) -> tuple[str, ...]:
    """Reading and writing those keys of a bucket."""
    subjects = f"$KV.{name}.{keys}"
    return (
        f"{_API}.STREAM.INFO.KV_{name}",
        f"{_API}.DIRECT.GET.KV_{name}.{subjects}",
        subjects,
    )


def _collector(source: str, *more: str) -> Rights:
    return Rights(
        publish=(f"events.{source}.>", *_bucket(CURSORS_BUCKET, f"{source}.>"), *more, *_ANSWERS),
        subscribe=(_inbox(source), STATUS_SUBJECT),
    )


def _consumers(domain: str) -> tuple[str, str]:
    """From which the forwarder takes events, the second one only for a while."""
    first, second = (
        consumer_name(name, domain) for name in (FORWARDER_CONSUMER, OVERTAKING_CONSUMER)
    )
    return f"{EVENTS_STREAM}.{first}", f"{EVENTS_STREAM}.{second}"


def _keeping(domain: str) -> tuple[str, ...]:
    """What keeps and empties the streams of the broker, or of a leaf node's domain."""
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


def _forwarder(domains: tuple[str, ...]) -> Rights:
    return Rights(
        publish=(
            *(subject for domain in domains for subject in _keeping(domain)),
            DEAD_SUBJECTS,
            f"events.{FORWARDER_CONSUMER}.>",
            # What it asks other forwarders, and what it answers them.
            f"{PEERS_SUBJECT}.>",
            _inbox(FORWARDER_CONSUMER),
            *_ANSWERS,
        ),
        subscribe=(_inbox(FORWARDER_CONSUMER), REQUEST_SUBJECTS),
    )


def _reader(
    user: str,
    domains: tuple[str, ...],
    publish: tuple[str, ...] = (),
    subscribe: tuple[str, ...] = (),
) -> Rights:
    """Listens, asks, and reads streams and buckets, through consumers of its own."""
    reading = ("CONSUMER.CREATE", "CONSUMER.MSG.NEXT", "CONSUMER.INFO", "DIRECT.GET")
    asking = (
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
            *(f"{_API}.{call}" for call in asking),
            *(f"{_API}.{call}.{stream}.>" for call in reading for stream in _STREAMS),
            *publish,
        ),
        # The forwarder's consumers are not theirs: what they took from one would come late.
        never_publish=(
            *(
                f"{_API}.CONSUMER.{call}.{consumer}{rest}"
                for domain in domains
                for consumer in _consumers(domain)
                for call, rest in (("CREATE", ""), ("CREATE", ".>"), ("MSG.NEXT", ""))
            ),
            f"{PEERS_SUBJECT}.>",  # a matter of forwarders alone
        ),
        subscribe=(_inbox(user), EVENTS_SUBJECTS, DEAD_SUBJECTS, *subscribe),
    )


def rights(*domains: str) -> Mapping[str, Rights]:
    """By user. `domains` are those of leaf nodes whose streams the forwarder keeps as well."""
    everywhere = ("", *domains)
    return {
        "lifecycle": _collector("lifecycle", *_bucket(HOSTS_BUCKET, ">")),
        "docker": _collector("docker"),
        "host": _collector("host"),
        "kubernetes": _collector("kubernetes"),
        FORWARDER_CONSUMER: _forwarder(everywhere),
        # Clients that log in without a name, such as `nats sub`, have the inbox of no user.
        CONSOLE: _reader(
            CONSOLE,
            everywhere,
            publish=(_inbox(""), *map(_inbox, _READERS)),
            subscribe=(STATUS_SUBJECT,),
        ),
        OVERSEER: _reader(OVERSEER, everywhere, publish=_ANSWERS, subscribe=(STATUS_SUBJECT,)),
        TAP: _reader(TAP, everywhere, subscribe=(_inbox(""),)),
        # It may be the console, which answers for itself as every service does.
        REPLAY: _reader(
            REPLAY,
            everywhere,
            publish=(EVENTS_SUBJECTS, f"{_API}.STREAM.MSG.DELETE.{DEAD_STREAM}", *_ANSWERS),
            subscribe=(STATUS_SUBJECT,),
        ),
    }


USERS = rights()
"""By name: every user. A service is the user of its own name."""


def authorization(
    passwords: Mapping[str, str],
    open_tap: bool = False,
    accounts: Mapping[str, object] | None = None,
    domains: Iterable[str] = (),
) -> str:
    """What the broker's configuration says of its users, in the broker's own language.

    With `open_tap` whoever brings neither name nor password is the tap; otherwise nobody gets in.
    `accounts` are further ones, such as the server's own; `domains` as in `rights`.
    """
    may = rights(*domains)

    def users(names: Iterable[str]) -> list[dict[str, object]]:
        return [
            {
                "user": name,
                "password": passwords[name],
                "permissions": {
                    "publish": {"allow": may[name].publish, "deny": may[name].never_publish},
                    "subscribe": {"allow": may[name].subscribe},
                },
            }
            for name in names
        ]

    heard = [{"stream": subject} for subject in (EVENTS_SUBJECTS, DEAD_SUBJECTS)]
    asked = [{"service": subject} for subject in may[TAP].publish]
    both = {
        ACCOUNT: {
            "jetstream": "enabled",
            "users": users(name for name in USERS if name not in _READERS),
            # A question may have several answers.
            "exports": [*heard, *({**one, "response_type": "Stream"} for one in asked)],
        },
        "READERS": {
            "users": users(_READERS),
            "imports": [
                {kind: {"account": ACCOUNT, "subject": subject}}
                for one in (*heard, *asked)
                for kind, subject in one.items()
            ],
        },
    }
    # The server reads JSON, all but the escapes of `ensure_ascii`.
    text = json.dumps({**both, **(accounts or {})}, ensure_ascii=False, indent=1)
    return f"accounts {text}\n" + (f"no_auth_user: {TAP}\n" if open_tap else "")


_MOVED = (
    "nats/accounts.conf replaces nats/authorization.conf: stop the broker, rename jetstream/$G in "
    f"its store to jetstream/{ACCOUNT}, and have it include the new file (docker-compose.yml does)"
)


def set_up(options: argparse.Namespace) -> int:
    """`agentctl users`: writes the broker's part and the passwords, and keeps those there are."""
    for domain in options.domain:
        if clean_token(domain) != domain:
            raise CommandError(f"--domain {domain}: a domain has letters, digits, - and _ alone")
    mode = 0o444 if options.shared else 0o600
    try:
        text = authorization(
            passwords(options.directory, mode), options.open_tap, domains=options.domain
        )
        file = options.directory / "nats" / "accounts.conf"
        if not file.exists() and file.with_name("authorization.conf").exists():
            print(_MOVED, file=sys.stderr)
        # Left alone where nothing changes: a broker may read it anew whenever it is written.
        if not file.exists() or file.read_text() != text:
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(file, text, mode)
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}; name another DIR") from None
    return 0


def password_file(directory: Path, user: str) -> Path:
    """Where the password of `user` stands: each in a folder of its own, which can be mounted."""
    return directory / user / "password"


def passwords(directory: Path, mode: int = 0o600) -> dict[str, str]:
    """By user: the password in `directory`, made up where there is none yet.

    Raises:
        OSError: the directory cannot be read or written.
    """
    found = {}
    for user in USERS:
        file = password_file(directory, user)
        if not file.exists():
            file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_private(file, secrets.token_urlsafe(24) + "\n", mode)
        found[user] = file.read_text().strip()
    return found
