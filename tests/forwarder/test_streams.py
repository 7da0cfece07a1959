"""The forwarder owns its streams: it provisions them, anew when they vanish, and trims them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from broker import NatsServer, wait_until
from virtual_time import ManualClock

from sematext_agent.forwarder import stream_configs, trimmer
from sematext_agent.forwarder import streams as streams_module
from sematext_agent.forwarder.consumers import consumer_config
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.streams import StreamKeeper
from sematext_agent.shared import bus
from sematext_agent.shared.events import EVENT_BYTES_MAX
from sematext_agent.shared.health import Health
from sematext_agent.shared.settings import ServiceSettings
from sematext_agent.shared.subjects import CURSORS_BUCKET, DEAD_STREAM, EVENTS_STREAM, HOSTS_BUCKET

SETTINGS = ForwarderSettings(stream_bytes_max=8 * 1024 * 1024)
NAMES = (EVENTS_STREAM, DEAD_STREAM, f"KV_{CURSORS_BUCKET}", f"KV_{HOSTS_BUCKET}")


@pytest.fixture
def streams(connection: bus.Bus) -> StreamKeeper:
    return StreamKeeper(connection, SETTINGS, Health("forwarder", "test"))


@pytest.fixture
async def kept(
    streams: StreamKeeper, connection: bus.Bus, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[bus.Puller]:
    """Yield a puller of the streams' consumer, while the streams are inspected often."""
    monkeypatch.setattr(streams_module, "INSPECT_SECONDS", 0.05)
    puller = streams.puller
    puller.resize(100)

    async def take() -> None:
        async for message in puller:
            await connection.acknowledge(message)

    tasks = [asyncio.create_task(streams.keep()), asyncio.create_task(take())]
    await streams.ready.wait()
    yield puller
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def fill(connection: bus.Bus, messages: int, size: int = 100) -> None:
    await asyncio.gather(
        *(connection.publish("events.test", b"x" * size, f"{n}") for n in range(messages))
    )


async def test_streams_are_provisioned_as_configured(
    streams: StreamKeeper, connection: bus.Bus
) -> None:
    await streams.provisioner.provision()
    for config in streams.provisioner.configs:
        actual = (await connection.request_api(f"STREAM.INFO.{config['name']}"))["config"]
        assert {name: actual[name] for name in config} == config
    events = (await connection.request_api("STREAM.INFO.EVENTS"))["config"]
    assert (events["retention"], events["discard"], events["storage"]) == ("limits", "new", "file")
    consumer = (await connection.request_api("CONSUMER.INFO.EVENTS.forwarder"))["config"]
    assert consumer["ack_wait"] == 15_000_000_000
    assert consumer["max_deliver"] == -1
    await connection.put(HOSTS_BUCKET, "web-01", b"{}")
    assert await connection.get(HOSTS_BUCKET, "web-01") == b"{}"


async def test_provisioning_twice_changes_nothing(
    streams: StreamKeeper, connection: bus.Bus
) -> None:
    await streams.provisioner.provision()
    await fill(connection, 3)
    await streams.provisioner.provision()
    assert (await connection.request_api("STREAM.INFO.EVENTS"))["state"]["messages"] == 3


async def test_changed_settings_update_the_streams(
    streams: StreamKeeper, connection: bus.Bus
) -> None:
    await streams.provisioner.provision()
    larger = ForwarderSettings(stream_bytes_max=16 * 1024 * 1024)
    await StreamKeeper(connection, larger, Health("forwarder", "other")).provisioner.provision()
    config = (await connection.request_api("STREAM.INFO.EVENTS"))["config"]
    assert config["max_bytes"] == 16 * 1024 * 1024


async def test_a_stream_that_cannot_be_changed_is_used_as_it_is(
    streams: StreamKeeper, connection: bus.Bus
) -> None:
    await connection.request_api(
        "STREAM.CREATE.EVENTS",
        {"name": "EVENTS", "subjects": ["events.>"], "storage": "memory", "num_replicas": 1},
    )
    await streams.provisioner.provision()
    assert "the stream EVENTS stays as it is" in streams.provisioner._health.last_error


async def test_the_largest_event_fits_and_a_larger_one_does_not(
    streams: StreamKeeper, connection: bus.Bus
) -> None:
    await streams.provisioner.provision()
    await connection.publish("events.test", b"x" * EVENT_BYTES_MAX, "i" * 200)
    with pytest.raises(bus.JetStreamError, match="size exceeds maximum"):
        await connection.publish("events.test", b"x" * (EVENT_BYTES_MAX + 9000), "j")


async def test_a_full_stream_refuses_new_events(streams: StreamKeeper, connection: bus.Bus) -> None:
    await streams.provisioner.provision()
    with pytest.raises(bus.JetStreamError, match="maximum bytes"):
        await fill(connection, 40, EVENT_BYTES_MAX)


@pytest.mark.parametrize("name", NAMES)
async def test_a_stream_that_vanishes_is_made_again(
    kept: bus.Puller, connection: bus.Bus, name: str
) -> None:
    await asyncio.sleep(0.5)  # the start has provisioned everything
    await connection.request_api(f"STREAM.DELETE.{name}")

    async def exists() -> bool:
        try:
            await connection.request_api(f"STREAM.INFO.{name}")
        except bus.BusError:
            return False
        return True

    async with asyncio.timeout(10):
        while not await exists():
            await asyncio.sleep(0.02)
    await fill(connection, 1)


async def test_a_consumer_that_vanishes_begins_again_where_it_was(
    kept: bus.Puller, connection: bus.Bus, streams: StreamKeeper
) -> None:
    await fill(connection, 50)
    await wait_until(lambda: streams.trimmer.first_undelivered == 51)
    await connection.request_api("CONSUMER.DELETE.EVENTS.forwarder")
    async with asyncio.timeout(10):
        while True:
            try:
                info = await connection.request_api("CONSUMER.INFO.EVENTS.forwarder")
                break
            except bus.BusError:
                await asyncio.sleep(0.02)
    assert info["config"]["opt_start_seq"] == 51
    assert info["num_pending"] == 0


async def test_after_a_consumer_was_made_anew_redeliveries_are_expected(
    streams: StreamKeeper, connection: bus.Bus
) -> None:
    """Also where this forwarder had no request open, which would have shown it."""
    await streams.provisioner.provision()
    await streams.inspect()
    await streams.inspect()
    assert not streams.puller.expects_redelivery()
    await connection.request_api("CONSUMER.DELETE.EVENTS.forwarder")
    await streams.provisioner.provision()
    await streams.inspect()
    assert streams.puller.expects_redelivery()


async def test_a_consumer_of_a_new_stream_begins_at_its_first_event(
    kept: bus.Puller, connection: bus.Bus, streams: StreamKeeper
) -> None:
    """Its sequences count from 1 again: beginning at the old one would skip events."""
    await fill(connection, 50)
    await wait_until(lambda: streams.trimmer.first_undelivered == 51)
    await connection.request_api("STREAM.DELETE.EVENTS")
    await wait_until(lambda: streams.trimmer.first_undelivered == 1)
    assert consumer_config(1)["deliver_policy"] == "all"
    await connection.publish("events.test", b"y", "new")
    await wait_until(lambda: streams.trimmer.first_undelivered == 2)


async def test_delivered_events_are_trimmed_where_space_is_short(
    kept: bus.Puller, connection: bus.Bus
) -> None:
    """More than the stream holds goes through it."""
    for _ in range(5):
        for part in range(20):
            message_id = f"{_}-{part}"
            while True:
                try:
                    await connection.publish("events.test", b"x" * EVENT_BYTES_MAX, message_id)
                    break
                except bus.JetStreamError:
                    await asyncio.sleep(0.05)


async def test_events_that_are_not_delivered_are_never_trimmed(
    streams: StreamKeeper, connection: bus.Bus
) -> None:
    await streams.provisioner.provision()
    await fill(connection, 20, EVENT_BYTES_MAX)
    await streams.inspect()
    state = (await connection.request_api("STREAM.INFO.EVENTS"))["state"]
    assert state["messages"] == 20
    assert streams.status.lag == 20


async def deliver_all(connection: bus.Bus, prefix: str, events: int) -> None:
    """Publish events, and acknowledge each at the consumer, as a forwarder does."""
    publishes = (connection.publish("events.a", b"x", f"{prefix}{n}") for n in range(events))
    await asyncio.gather(*publishes)
    taken = 0
    async for message in connection.create_puller("EVENTS", "forwarder", events):
        await connection.acknowledge(message)
        taken += 1
        if taken == events:
            break
    await connection.flush()


async def test_events_of_a_store_that_was_put_back_to_a_copy_are_not_trimmed_undelivered(
    connection: bus.Bus,
    nats_server: NatsServer,
    manual_clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Their sequences are those of events that were delivered before."""
    monkeypatch.setattr(trimmer, "HISTORY_EVENTS_MIN", 10)
    streams = StreamKeeper(connection, SETTINGS, Health("forwarder", "test"), manual_clock)
    await streams.provisioner.provision()
    await deliver_all(connection, "a", 20)
    backup = await asyncio.to_thread(nats_server.save)
    nats_server.start()
    await connection.wait_until_connected()
    await deliver_all(connection, "b", 40)
    await eventually_delivered(streams, 61)

    await asyncio.to_thread(nats_server.put_back, backup)
    nats_server.start()
    await connection.wait_until_connected()
    publishes = (connection.publish("events.a", b"x", f"c{n}") for n in range(60))
    await asyncio.gather(*publishes)
    manual_clock.advance(stream_configs.DUPLICATE_WINDOW_SECONDS + 1)
    await streams.inspect()
    stream = await connection.request_api("STREAM.INFO.EVENTS")
    consumer = await connection.request_api("CONSUMER.INFO.EVENTS.forwarder")
    assert stream["state"]["last_seq"] == 80
    assert stream["state"]["first_seq"] <= 21
    assert consumer["num_pending"] == 60


async def eventually_delivered(streams: StreamKeeper, first_undelivered: int) -> None:
    """Inspect until all events before this one count as delivered."""
    async with asyncio.timeout(10):
        while streams.trimmer.first_undelivered != first_undelivered:
            await streams.inspect()


async def test_a_stream_that_was_put_back_to_a_copy_keeps_a_whole_duplicate_window(
    streams: StreamKeeper, manual_clock: ManualClock
) -> None:
    """A collector may publish again what the copy does not have."""
    purged: list[int] = []

    class Broker:
        async def request_api(self, call: str, request: dict[str, int], domain: str) -> None:
            purged.append(request["seq"])

    def info(last_sequence: int) -> dict[str, Any]:
        state = {"first_seq": 1, "last_seq": last_sequence, "bytes": 0}
        return {"created": "x", "state": state, "config": {"max_bytes": 1000}}

    def delivered(sequence: int) -> dict[str, Any]:
        return {"ack_floor": {"stream_seq": sequence}}

    broker: Any = Broker()
    trimming = trimmer.Trimmer(broker, "", manual_clock)
    await trimming.trim(info(50_000), delivered(50_000))
    await trimming.trim(info(20_000), delivered(20_000))  # the copy
    assert trimming.first_undelivered == 20_001
    manual_clock.advance(stream_configs.DUPLICATE_WINDOW_SECONDS - 1)
    await trimming.trim(info(60_000), delivered(60_000))
    manual_clock.advance(2)
    await trimming.trim(info(60_000), delivered(60_000))
    assert purged == [20_001]
    assert trimming.resume_sequence(info(50_000)) == 1  # where the consumer is not in the copy


async def test_nothing_is_trimmed_by_the_numbers_of_before_a_disturbance(
    kept: bus.Puller,
    streams: StreamKeeper,
    connection: bus.Bus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Between the inspection and the request the broker's store may have been put back."""
    monkeypatch.setattr(trimmer, "HISTORY_EVENTS_MIN", 0)
    monkeypatch.setattr(stream_configs, "DUPLICATE_WINDOW_SECONDS", -1)
    request_info = streams._consumer.request_info

    async def request_info_and_disturb() -> dict[str, Any]:
        info = await request_info()
        streams.puller.expect_redelivery()
        return info

    monkeypatch.setattr(streams._consumer, "request_info", request_info_and_disturb)
    await fill(connection, 10)
    async with asyncio.timeout(10):
        while (await request_info())["ack_floor"]["stream_seq"] != 10:
            await asyncio.sleep(0.02)
    await streams.inspect()
    assert (await connection.request_api("STREAM.INFO.EVENTS"))["state"]["messages"] == 10


async def test_history_is_kept_for_taps_and_then_trimmed(
    kept: bus.Puller, connection: bus.Bus, streams: StreamKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(connection, 100)
    await wait_until(lambda: streams.trimmer.first_undelivered == 101)
    assert (await connection.request_api("STREAM.INFO.EVENTS"))["state"]["messages"] == 100
    monkeypatch.setattr(trimmer, "HISTORY_EVENTS_MIN", 30)
    assert (await connection.request_api("STREAM.INFO.EVENTS"))["state"]["messages"] == 100
    monkeypatch.setattr(stream_configs, "DUPLICATE_WINDOW_SECONDS", 0.1)
    async with asyncio.timeout(10):
        while (await connection.request_api("STREAM.INFO.EVENTS"))["state"]["messages"] != 30:
            await asyncio.sleep(0.02)


async def test_provisioning_waits_for_a_broker_that_is_away(
    nats_server: NatsServer, streams: StreamKeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bus, "ACKNOWLEDGEMENT_SECONDS_MAX", 0.5)
    nats_server.stop()
    making = asyncio.create_task(streams.provisioner.provision())
    await asyncio.sleep(0.3)
    assert not making.done()
    nats_server.start()
    await asyncio.wait_for(making, 10)


@pytest.fixture
async def on_a_small_disk(nats_server: NatsServer) -> AsyncIterator[bus.Bus]:
    """Yield a connection to a broker that may reserve 300 MiB, and not the defaults' 1.2 GiB."""
    nats_server.stop()
    nats_server.configure("jetstream { max_file_store: 300MiB }")
    nats_server.start()
    connected = await bus.connect(ServiceSettings(nats_url=(nats_server.url,)), "test")
    yield connected
    await connected.close()


async def test_the_stream_of_events_takes_what_a_small_disk_has(on_a_small_disk: bus.Bus) -> None:
    for _ in range(2):  # a second start finds it so, and leaves it
        health = Health("forwarder", "test")
        streams = StreamKeeper(on_a_small_disk, ForwarderSettings(), health)
        await streams.provisioner.provision()
        events = (await on_a_small_disk.request_api("STREAM.INFO.EVENTS"))["config"]
        assert events["max_bytes"] == 64 * 1024 * 1024
        assert health.last_error == ""
        await streams.inspect()
        assert health.report().figures["stream_limit_bytes"] == 64 * 1024 * 1024


async def test_a_disk_that_is_too_small_shows_in_health(on_a_small_disk: bus.Bus) -> None:
    settings = ForwarderSettings(dead_bytes_max=1024 * 1024 * 1024)
    health = Health("forwarder", "test")
    making = asyncio.create_task(
        StreamKeeper(on_a_small_disk, settings, health).provisioner.provision()
    )

    def detail() -> str:
        return health.report().conditions["streams"].detail

    await wait_until(lambda: "no room" in detail())
    assert detail() == (
        "the broker's disk has no room for the 1073741824 bytes of the stream DEAD; make room, or "
        "set STREAM_BYTES_MAX and DEAD_BYTES_MAX lower (500)"
    )
    making.cancel()
