"""A forwarder that is cut off from the broker: at most 128 of its events are delivered twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from broker import NatsServer
from forwarding import Oracle, Publisher, Start, until_acknowledged
from receiver import Receiver

from sematext_agent.forwarder import consumers, lease, peers
from sematext_agent.forwarder.concurrency_limiter import IN_FLIGHT_MAX
from sematext_agent.shared.bus import Bus, puller

EVENTS = 900
INFO = "CONSUMER.INFO.EVENTS.forwarder"


class OneWayProxy:
    """A way to the broker that can take nothing more from the client, but still brings it all."""

    def __init__(self, server_port: int) -> None:
        self._server_port = server_port
        self._pumps: set[asyncio.Task[None]] = set()
        self.is_open = asyncio.Event()
        self.is_open.set()

    async def listen(self) -> str:
        self._listener = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        return f"nats://127.0.0.1:{self._listener.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        self._listener.close()
        for task in self._pumps:
            task.cancel()
        await asyncio.gather(*self._pumps, return_exceptions=True)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        to_server = await asyncio.open_connection("127.0.0.1", self._server_port)
        always = asyncio.Event()
        always.set()
        self._pumps.add(asyncio.create_task(self._pump(reader, to_server[1], self.is_open)))
        self._pumps.add(asyncio.create_task(self._pump(to_server[0], writer, always)))

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, is_open: asyncio.Event
    ) -> None:
        try:
            while data := await reader.read(65536):
                await is_open.wait()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()


@pytest.fixture
async def proxy(nats_server: NatsServer) -> AsyncIterator[OneWayProxy]:
    proxy = OneWayProxy(nats_server.port)
    yield proxy
    await proxy.close()


@pytest.mark.parametrize("peer_answer_seconds", [peers.ANSWER_SECONDS_MAX])
async def test_a_forwarder_whose_acknowledgements_are_lost_sends_no_more_than_128_events(
    start: Start,
    publisher: Publisher,
    receiver: Receiver,
    verify: Oracle,
    proxy: OneWayProxy,
    connection: Bus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It still gets events; the other forwarder delivers those again, and cannot ask it."""
    monkeypatch.setattr(consumers, "ACK_WAIT_SECONDS", 4)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.7)
    # As a minute after their start: they ask about redeliveries only.
    monkeypatch.setattr(puller, "REDELIVERY_SECONDS", 0)
    await start(nats_url=(await proxy.listen(),))
    await start()
    await publisher.publish(20)
    await verify()
    async with asyncio.timeout(5):
        while (await connection.request_api(INFO))["num_waiting"] < 2:
            await asyncio.sleep(0.02)
    proxy.is_open.clear()
    await publisher.publish(EVENTS)
    await until_acknowledged(connection, 30)  # by the other forwarder, after the ack deadline
    proxy.is_open.set()
    await verify(duplicates_max=IN_FLIGHT_MAX, seconds=20)
