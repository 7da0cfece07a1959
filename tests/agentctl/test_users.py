"""Who may what at a real broker: each user tries what is its own, and what is not."""

from __future__ import annotations

import asyncio
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing, suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from broker import NatsServer, eventually

from sematext_agent.agentctl.broker import _take_over
from sematext_agent.agentctl.users import (
    REPLAY,
    TAP,
    USERS,
    authorization,
    password_file,
    passwords,
)
from sematext_agent.forwarder.consumers import consumer_config
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.stream_configs import stream_configs
from sematext_agent.shared import bus
from sematext_agent.shared.bus import Bus, BusError
from sematext_agent.shared.settings import Secret, ServiceSettings
from sematext_agent.shared.stream_reader import follow_messages
from sematext_agent.shared.subjects import (
    CURSORS_BUCKET,
    EVENTS_STREAM,
    FORWARDER_CONSUMER,
    HOSTS_BUCKET,
    STATUS_SUBJECT,
)

STREAMS = ("EVENTS", "DEAD", "KV_cursors", "KV_hosts")
COLLECTORS = {"lifecycle", "docker", "host", "kubernetes"}
READERS = {"tap", "console", "replay", "agentctl"}
LogIn = Callable[[str], Awaitable["LoggedIn"]]


class LoggedIn:
    """A user at the broker, and what the broker refused it."""

    def __init__(self, connection: Bus) -> None:
        self.bus = connection
        self.troubles: list[str] = []
        self._tries = 0
        connection.on_problem = self.troubles.append

    async def is_refused(self, subject: str, reply: str = "") -> bool:
        """Whether the broker refuses a message on `subject`, which its sender is not told."""
        await self.bus._client.publish(subject, b"{}", reply)
        return await self._has_trouble_with(subject)

    async def is_deaf_to(self, subject: str) -> bool:
        end = await self.bus.subscribe(subject, _ignore)
        refused = await self._has_trouble_with(subject)
        await end()
        return refused

    async def _has_trouble_with(self, subject: str) -> bool:
        """Refusals come in the order of what they refuse, so one more is the last of them."""
        self._tries += 1
        last = f" never.allowed.{self._tries}:"
        await self.bus._client.publish(last[1:-1], b"")
        await eventually(lambda: any(last in trouble for trouble in self.troubles))
        return any(f" {subject.lower()}:" in trouble for trouble in self.troubles)


async def _ignore(message: Any) -> None:
    pass


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    text = authorization(passwords(tmp_path / "users"), open_tap=True)
    server = NatsServer(tmp_path, text)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def log_in(server: NatsServer) -> AsyncIterator[LogIn]:
    connections = []

    async def as_user(user: str) -> LoggedIn:
        password = password_file(server.store / "users", user).read_text().strip() if user else ""
        settings = ServiceSettings(
            nats_url=(server.url,), nats_user=user, nats_password=Secret(password)
        )
        connections.append(await bus.connect(settings, user))
        return LoggedIn(connections[-1])

    yield as_user
    for connection in connections:
        await connection.close()


@pytest.fixture
async def forwarder(log_in: LogIn) -> LoggedIn:
    """Logged in, and with everything made that it owns."""
    forwarder = await log_in(FORWARDER_CONSUMER)
    for config in stream_configs(ForwarderSettings()):
        await forwarder.bus.request_api(f"STREAM.CREATE.{config['name']}", config)
    await forwarder.bus.request_api(
        f"CONSUMER.CREATE.{EVENTS_STREAM}.{FORWARDER_CONSUMER}",
        {"stream_name": EVENTS_STREAM, "config": consumer_config(1)},
    )
    return forwarder


def event_of(source: str) -> str:
    return f"events.{source}.web-01.thing.happened"


# What only its owner may publish, by owner. Every other user tries all of it.
OWN: dict[str, list[str]] = {
    **{source: [event_of(source), f"$KV.cursors.{source}.web-01"] for source in COLLECTORS},
    FORWARDER_CONSUMER: [
        "dead.events.docker.web-01.x",
        "$JS.ACK.EVENTS.forwarder.1.1.1.1.0",
        "$JS.ACK.hub.account.EVENTS.forwarder.1.1.1.1.0.token",
        "$JS.API.STREAM.UPDATE.EVENTS",
        "$JS.API.STREAM.CREATE.DEAD",
        "$JS.API.STREAM.PURGE.EVENTS",
        "$JS.API.CONSUMER.CREATE.EVENTS.forwarder",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.forwarder",
        "$JS.API.CONSUMER.CREATE.EVENTS.forwarder_overtaking",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.forwarder_overtaking",
        "$JS.API.CONSUMER.DELETE.EVENTS.forwarder_overtaking",
        "$JS.ACK.EVENTS.forwarder_overtaking.1.1.1.1.0",
        event_of(FORWARDER_CONSUMER),
        "agent.shipped.hub",
        "_INBOX_forwarder.answers",
    ],
    REPLAY: ["$JS.API.STREAM.MSG.DELETE.DEAD"],
}
# What nobody may.
NOBODYS = [
    "events.elsewhere.web-01.x",
    "$KV.cursors.elsewhere.web-01",
    "$JS.API.STREAM.DELETE.EVENTS",
    "$JS.API.CONSUMER.DELETE.EVENTS.forwarder",
    "$JS.API.CONSUMER.CREATE.EVENTS",
    "$JS.API.CONSUMER.DURABLE.CREATE.EVENTS.x",
    "$JS.API.CONSUMER.CREATE.EVENTS.forwarder.events.>",
    "$JS.API.STREAM.SNAPSHOT.EVENTS",
    "$JS.API.META.LEADER.STEPDOWN",
    "$SYS.REQ.SERVER.PING",
    "made.up",
]


@pytest.mark.parametrize("user", [*USERS, ""])
async def test_what_belongs_to_another_is_refused(
    user: str, log_in: LogIn, forwarder: LoggedIn
) -> None:
    name = user or TAP  # who brings no name is the tap
    logged_in = await log_in(user)
    others = [s for owner, subjects in OWN.items() if owner != name for s in subjects]
    tried = [*others, *NOBODYS, "$KV.hosts.web-01"]
    may = {subject for subject in tried if subject.startswith("events.") and name == REPLAY}
    may |= {"$KV.hosts.web-01"} if name == "lifecycle" else set()
    allowed = [subject for subject in tried if not await logged_in.is_refused(subject)]
    assert set(allowed) == may


@pytest.mark.parametrize("user", USERS)
async def test_nobody_hears_the_answers_to_another(
    user: str, log_in: LogIn, forwarder: LoggedIn
) -> None:
    logged_in = await log_in(user)
    inboxes = [f"_INBOX_{other}.>" for other in USERS if other != user]
    subjects = [*inboxes, ">", "*.>", "$JS.>", "$KV.>"]
    subjects += [] if user == TAP else ["_INBOX.>"]
    subjects += [] if user in READERS else ["events.>", "dead.>"]
    assert [s for s in subjects if not await logged_in.is_deaf_to(s)] == []


@pytest.mark.parametrize("source", sorted(COLLECTORS))
async def test_a_collector_publishes_its_events_and_keeps_its_cursor(
    source: str, log_in: LogIn, forwarder: LoggedIn
) -> None:
    collector = await log_in(source)
    assert (await collector.bus.publish(event_of(source), b"{}", "1")).seq == 1
    await collector.bus.wait_until_ready(CURSORS_BUCKET)
    await collector.bus.replace(CURSORS_BUCKET, f"{source}.web-01.part", b"here", 0)
    assert await collector.bus.get(CURSORS_BUCKET, f"{source}.web-01.part") == b"here"
    assert await collector.bus.get(CURSORS_BUCKET, f"{source}.web-01.none") is None
    with pytest.raises(BusError):
        async with asyncio.timeout(10):
            await collector.bus.get(CURSORS_BUCKET, "other.web-01")
    assert collector.troubles == [
        f"the broker does not let the user {source} publish to $js.api.direct.get.kv_cursors."
        "$kv.cursors.other.web-01: allow it there, or correct NATS_USER"
    ]


async def test_the_lifecycle_collector_tells_the_forwarder_of_its_host(
    log_in: LogIn, forwarder: LoggedIn
) -> None:
    await (await log_in("lifecycle")).bus.put(HOSTS_BUCKET, "web-01", b"{}")
    assert await forwarder.bus.keys(HOSTS_BUCKET) == ["web-01"]
    assert await forwarder.bus.get(HOSTS_BUCKET, "web-01") == b"{}"


async def test_the_forwarder_pulls_acknowledges_buries_and_trims(
    log_in: LogIn, forwarder: LoggedIn
) -> None:
    await (await log_in("docker")).bus.publish(event_of("docker"), b"{}", "1")
    puller = forwarder.bus.create_puller(EVENTS_STREAM, FORWARDER_CONSUMER, 8)
    async with asyncio.timeout(10), aclosing(aiter(puller)) as messages:  # type: ignore[type-var]
        message = await anext(messages)
        await forwarder.bus.extend_ack_deadline(message)
        await forwarder.bus.publish(f"dead.{message.subject}", message.data, "1")
        await forwarder.bus.acknowledge(message)
    await forwarder.bus.request_api(f"STREAM.PURGE.{EVENTS_STREAM}", {"seq": 2})
    # A gap of its own, and what forwarders ask and answer each other.
    await forwarder.bus.publish(event_of(FORWARDER_CONSUMER), b"{}", "2")
    await forwarder.bus.send("agent.shipped.hub", b"{}", forwarder.bus.new_inbox())
    await forwarder.bus.send(forwarder.bus.new_inbox(), b"{}")
    info = await forwarder.bus.request_api(f"CONSUMER.INFO.{EVENTS_STREAM}.{FORWARDER_CONSUMER}")
    assert info["ack_floor"]["stream_seq"] == 1
    assert forwarder.troubles == []


@pytest.mark.parametrize("user", [*sorted(READERS), ""])
async def test_a_reader_reads_what_is_stored_and_hears_what_comes(
    user: str, log_in: LogIn, forwarder: LoggedIn
) -> None:
    docker, lifecycle = await log_in("docker"), await log_in("lifecycle")
    await docker.bus.publish(event_of("docker"), b"first", "1")
    await docker.bus.put(CURSORS_BUCKET, "docker.web-01", b"here")
    await lifecycle.bus.put(HOSTS_BUCKET, "web-01", b"{}")
    reader = await log_in(user)
    heard: list[str] = []

    async def hear(message: Any) -> None:
        heard.append(message.subject)

    await reader.bus.subscribe("events.>", hear)
    async with (
        asyncio.timeout(10),
        aclosing(follow_messages(reader.bus, EVENTS_STREAM, "events.>", 1)) as messages,
    ):
        assert (await anext(messages)).data == b"first"
        await docker.bus.publish(event_of("docker"), b"second", "2")
        assert (await anext(messages)).data == b"second"
    await eventually(lambda: heard == [event_of("docker")])
    assert await reader.bus.get(CURSORS_BUCKET, "docker.web-01") == b"here"
    assert await reader.bus.get(HOSTS_BUCKET, "web-01") == b"{}"
    assert (await reader.bus.request_api("STREAM.INFO.DEAD"))["state"]["messages"] == 0
    assert (await reader.bus.request_api("CONSUMER.INFO.EVENTS.forwarder"))["num_pending"] == 2
    assert reader.troubles == []


# Whatever a reader may ask, with what it would make of the answer, which is the server's.
AIMS = [
    "events.docker.web-01.x.y",
    "dead.events.docker.web-01.x",
    "$KV.cursors.docker.web-01",
    "$KV.hosts.web-01",
    "$JS.API.STREAM.PURGE.EVENTS",
    "$JS.API.STREAM.DELETE.DEAD",
    "$JS.API.CONSUMER.DELETE.EVENTS.forwarder",
]
REQUESTS = [
    ("STREAM.INFO.EVENTS", {}),
    ("STREAM.MSG.GET.EVENTS", {"seq": 1}),
    ("DIRECT.GET.EVENTS", {"seq": 1}),
    ("CONSUMER.INFO.EVENTS.forwarder", {}),
    # The message itself, and then one without a body, which orders as much as it can.
    ("CONSUMER.MSG.NEXT.EVENTS.onlooker", {"batch": 9, "no_wait": True}),
]


@pytest.mark.parametrize("user", ["tap", "console", ""])
async def test_what_a_reader_is_answered_can_become_nothing_else(
    user: str, log_in: LogIn, forwarder: LoggedIn
) -> None:
    """Who asks JetStream names the subject of the answer, also one that it may not publish to."""
    docker = await log_in("docker")
    await docker.bus.publish(event_of("docker"), b"{}", "1")
    await docker.bus.put(CURSORS_BUCKET, "docker.web-01", b"here")
    reader = await log_in(user)
    config = {"name": "onlooker", "ack_policy": "none", "filter_subject": "events.>"}
    await reader.bus.request_api(
        "CONSUMER.CREATE.EVENTS.onlooker.events.>", {"stream_name": "EVENTS", "config": config}
    )
    before = [await forwarder.bus.request_api(f"STREAM.INFO.{stream}") for stream in STREAMS]
    for aim in AIMS:
        for call, request in REQUESTS:
            await reader.bus.send(f"$JS.API.{call}", msgspec.json.encode(request), aim)
        # A consumer that delivers by itself, with a sign of life that has no body.
        pushing = {
            **config,
            "name": f"to-{AIMS.index(aim)}",
            "deliver_subject": aim,
            "idle_heartbeat": 100_000_000,
        }
        with suppress(BusError):
            await reader.bus.request_api(
                f"CONSUMER.CREATE.EVENTS.{pushing['name']}.events.>",
                {"stream_name": "EVENTS", "config": pushing},
            )
    # The server answers in order; a few signs of life would have come as well.
    await reader.bus.request_api("STREAM.INFO.EVENTS")
    await asyncio.sleep(0.5)
    after = [await forwarder.bus.request_api(f"STREAM.INFO.{stream}") for stream in STREAMS]
    assert [one["state"]["last_seq"] for one in after] == [
        one["state"]["last_seq"] for one in before
    ]
    assert [one["state"]["messages"] for one in after] == [1, 0, 1, 0]
    assert await docker.bus.get(CURSORS_BUCKET, "docker.web-01") == b"here"
    await forwarder.bus.request_api(f"CONSUMER.INFO.{EVENTS_STREAM}.{FORWARDER_CONSUMER}")
    assert reader.troubles == []


async def test_everybody_answers_a_reader_and_nobody_anywhere_else(
    log_in: LogIn, forwarder: LoggedIn
) -> None:
    """Who asks names the subject of the answer: it must not become an event."""
    names = [*sorted(COLLECTORS), "console", "agentctl"]
    services = [*[await log_in(name) for name in names], forwarder]
    for service in services:

        async def answer(message: Any, service: LoggedIn = service) -> None:
            await service.bus.send(message.reply, b"{}")

        await service.bus.subscribe(STATUS_SUBJECT, answer)
        await service.bus.flush()
    for user in ("", *READERS):
        reader = await log_in(user)
        answers = await reader.bus.request_all(STATUS_SUBJECT, 0.5)
        # The console is in the account of those who only read, where nobody else's questions come.
        assert len(answers) == len(services) - (user in ("replay", "agentctl"))
        assert not await reader.is_refused(STATUS_SUBJECT, reply=event_of("elsewhere"))
    await eventually(lambda: all(len(s.troubles) for s in services))
    assert all("publish to events.elsewhere" in s.troubles[0] for s in services)


async def test_what_an_older_version_stored_is_taken_over(
    server: NatsServer, log_in: LogIn
) -> None:
    """It had one account for all."""
    accounts = server.store / "nats.conf"
    text = accounts.read_text()
    server.stop()
    server.configure("")
    server.start()
    older = await log_in(FORWARDER_CONSUMER)
    for config in stream_configs(ForwarderSettings()):
        await older.bus.request_api(f"STREAM.CREATE.{config['name']}", config)
    await older.bus.publish(event_of("docker"), b"{}", "1")
    await older.bus.put(CURSORS_BUCKET, "docker.web-01", b"here")
    await older.bus.close()
    server.stop()
    for _ in range(2):  # again and again, at every start
        _take_over(server.store)
        server.configure(text)
        server.start()
        forwarder, docker = await log_in(FORWARDER_CONSUMER), await log_in("docker")
        assert (await forwarder.bus.request_api("STREAM.INFO.EVENTS"))["state"]["messages"] == 1
        assert await docker.bus.get(CURSORS_BUCKET, "docker.web-01") == b"here"
        assert not (await docker.bus.publish(event_of("docker"), b"{}", "1")).seq > 1
        server.stop()


async def test_a_publish_that_is_refused_fails_at_once_and_says_why(
    log_in: LogIn, forwarder: LoggedIn
) -> None:
    docker = await log_in("docker")
    with pytest.raises(BusError, match=r"does not let the user docker publish to events\.host"):
        async with asyncio.timeout(bus.ACKNOWLEDGEMENT_SECONDS_MAX - 1):
            await docker.bus.publish(event_of("host"), b"{}", "1")


async def test_a_user_who_is_unknown_is_told_in_one_line(
    server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    settings = ServiceSettings(
        nats_url=(server.url,), nats_user="docker", nats_password=Secret("not-to-be-seen")
    )
    connecting = asyncio.create_task(bus.connect(settings, "test"))
    await eventually(lambda: bool(caplog.records))
    await asyncio.sleep(0.7)  # another attempt
    connecting.cancel()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "the broker does not let the user docker in: correct NATS_USER and NATS_PASSWORD"
    assert "not-to-be-seen" not in caplog.text


def test_passwords_are_made_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    made = passwords(tmp_path / "users")
    assert len(set(made.values())) == len(USERS)
    assert min(map(len, made.values())) >= 32
    assert passwords(tmp_path / "users") == made
    for user in USERS:
        file = password_file(tmp_path / "users", user)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
