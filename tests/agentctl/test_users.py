"""The rights at a real broker: each user tries its own subjects, and those of others."""

from __future__ import annotations

import asyncio
import stat
from contextlib import aclosing
from pathlib import Path

import pytest
from broker import NatsServer, wait_until
from broker_users import COLLECTORS, READERS, BrokerUser, LogIn, event_subject

from sematext_agent.agentctl.broker import move_streams_to_account
from sematext_agent.agentctl.users import (
    REPLAY,
    TAP,
    USERS,
    ensure_passwords,
    password_file,
)
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.stream_configs import stream_configs
from sematext_agent.shared import bus
from sematext_agent.shared.bus import BusError
from sematext_agent.shared.settings import Secret, ServiceSettings
from sematext_agent.shared.subjects import (
    CURSORS_BUCKET,
    EVENTS_STREAM,
    FORWARDER_CONSUMER,
    HOSTS_BUCKET,
)

# Subjects that only their owner may publish on. Every other user tries all of them.
OWNED: dict[str, list[str]] = {
    **{source: [event_subject(source), f"$KV.cursors.{source}.web-01"] for source in COLLECTORS},
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
        event_subject(FORWARDER_CONSUMER),
        "agent.shipped.hub",
        "_INBOX_forwarder.answers",
    ],
    REPLAY: ["$JS.API.STREAM.MSG.DELETE.DEAD"],
}
# Subjects that nobody may publish on.
FORBIDDEN = [
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
async def test_the_subjects_of_another_user_are_forbidden(
    user: str, log_in: LogIn, forwarder: BrokerUser
) -> None:
    name = user or TAP  # a client without a name is the tap
    logged_in = await log_in(user)
    foreign = [s for owner, subjects in OWNED.items() if owner != name for s in subjects]
    tried = [*foreign, *FORBIDDEN, "$KV.hosts.web-01"]
    expected = {subject for subject in tried if subject.startswith("events.") and name == REPLAY}
    expected |= {"$KV.hosts.web-01"} if name == "lifecycle" else set()
    allowed = [subject for subject in tried if not await logged_in.cannot_publish(subject)]
    assert set(allowed) == expected


@pytest.mark.parametrize("user", USERS)
async def test_no_user_can_receive_the_answers_for_another(
    user: str, log_in: LogIn, forwarder: BrokerUser
) -> None:
    logged_in = await log_in(user)
    inboxes = [f"_INBOX_{name}.>" for name in USERS if name != user]
    subjects = [*inboxes, ">", "*.>", "$JS.>", "$KV.>"]
    subjects += [] if user == TAP else ["_INBOX.>"]
    subjects += [] if user in READERS else ["events.>", "dead.>"]
    assert [s for s in subjects if not await logged_in.cannot_subscribe(s)] == []


@pytest.mark.parametrize("source", sorted(COLLECTORS))
async def test_a_collector_publishes_its_events_and_keeps_its_cursor(
    source: str, log_in: LogIn, forwarder: BrokerUser
) -> None:
    collector = await log_in(source)
    assert (await collector.bus.publish(event_subject(source), b"{}", "1")).seq == 1
    await collector.bus.wait_until_ready(CURSORS_BUCKET)
    await collector.bus.replace(CURSORS_BUCKET, f"{source}.web-01.part", b"here", 0)
    assert await collector.bus.get(CURSORS_BUCKET, f"{source}.web-01.part") == b"here"
    assert await collector.bus.get(CURSORS_BUCKET, f"{source}.web-01.none") is None
    read = "$JS.API.DIRECT.GET.KV_cursors.$KV.cursors.other.web-01"
    assert await collector.cannot_publish(read, collector.bus.new_inbox())
    assert collector.problems[:1] == [
        f"the broker does not let the user {source} publish to $js.api.direct.get.kv_cursors."
        "$kv.cursors.other.web-01: allow it there, or correct NATS_USER"
    ]


async def test_the_forwarder_reads_the_host_facts_of_the_lifecycle_collector(
    log_in: LogIn, forwarder: BrokerUser
) -> None:
    await (await log_in("lifecycle")).bus.put(HOSTS_BUCKET, "web-01", b"{}")
    assert await forwarder.bus.keys(HOSTS_BUCKET) == ["web-01"]
    assert await forwarder.bus.get(HOSTS_BUCKET, "web-01") == b"{}"


async def test_the_forwarder_pulls_acknowledges_dead_letters_and_trims(
    log_in: LogIn, forwarder: BrokerUser
) -> None:
    await (await log_in("docker")).bus.publish(event_subject("docker"), b"{}", "1")
    puller = forwarder.bus.create_puller(EVENTS_STREAM, FORWARDER_CONSUMER, 8)
    async with asyncio.timeout(10), aclosing(aiter(puller)) as messages:  # type: ignore[type-var]
        message = await anext(messages)
        await forwarder.bus.extend_ack_deadline(message)
        await forwarder.bus.publish(f"dead.{message.subject}", message.data, "1")
        await forwarder.bus.acknowledge(message)
    await forwarder.bus.request_api(f"STREAM.PURGE.{EVENTS_STREAM}", {"seq": 2})
    # A gap event of its own, and requests and answers between forwarders.
    await forwarder.bus.publish(event_subject(FORWARDER_CONSUMER), b"{}", "2")
    await forwarder.bus.send("agent.shipped.hub", b"{}", forwarder.bus.new_inbox())
    await forwarder.bus.send(forwarder.bus.new_inbox(), b"{}")
    info = await forwarder.bus.request_api(f"CONSUMER.INFO.{EVENTS_STREAM}.{FORWARDER_CONSUMER}")
    assert info["ack_floor"]["stream_seq"] == 1
    assert forwarder.problems == []


async def test_the_streams_of_an_older_version_are_moved_to_the_account(
    accounts_server: NatsServer, log_in: LogIn
) -> None:
    """The older version had one account for all."""
    accounts = accounts_server.store / "nats.conf"
    text = accounts.read_text()
    accounts_server.stop()
    accounts_server.configure("")
    accounts_server.start()
    older = await log_in(FORWARDER_CONSUMER)
    for config in stream_configs(ForwarderSettings()):
        await older.bus.request_api(f"STREAM.CREATE.{config['name']}", config)
    await older.bus.publish(event_subject("docker"), b"{}", "1")
    await older.bus.put(CURSORS_BUCKET, "docker.web-01", b"here")
    await older.bus.close()
    accounts_server.stop()
    for _ in range(2):  # as at every start
        move_streams_to_account(accounts_server.store)
        accounts_server.configure(text)
        accounts_server.start()
        forwarder, docker = await log_in(FORWARDER_CONSUMER), await log_in("docker")
        assert (await forwarder.bus.request_api("STREAM.INFO.EVENTS"))["state"]["messages"] == 1
        assert await docker.bus.get(CURSORS_BUCKET, "docker.web-01") == b"here"
        assert not (await docker.bus.publish(event_subject("docker"), b"{}", "1")).seq > 1
        accounts_server.stop()


async def test_a_forbidden_publish_fails_at_once_with_the_reason(
    log_in: LogIn, forwarder: BrokerUser
) -> None:
    docker = await log_in("docker")
    with pytest.raises(BusError, match=r"does not let the user docker publish to events\.host"):
        async with asyncio.timeout(bus.ACKNOWLEDGEMENT_SECONDS_MAX - 1):
            await docker.bus.publish(event_subject("host"), b"{}", "1")


async def test_an_unknown_user_gets_one_line(
    accounts_server: NatsServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    settings = ServiceSettings(
        nats_url=(accounts_server.url,), nats_user="docker", nats_password=Secret("not-to-be-seen")
    )
    connecting = asyncio.create_task(bus.connect(settings, "test"))
    await wait_until(lambda: bool(caplog.records))
    await asyncio.sleep(0.7)  # another attempt
    connecting.cancel()
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == "the broker does not let the user docker in: correct NATS_USER and NATS_PASSWORD"
    assert "not-to-be-seen" not in caplog.text


def test_passwords_are_created_once_and_for_their_owner_alone(tmp_path: Path) -> None:
    created = ensure_passwords(tmp_path / "users")
    assert len(set(created.values())) == len(USERS)
    assert min(map(len, created.values())) >= 32
    assert ensure_passwords(tmp_path / "users") == created
    for user in USERS:
        file = password_file(tmp_path / "users", user)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
