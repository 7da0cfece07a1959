"""A connection whose other end is gone, before an answer, in the middle of one, or idle."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from broker import wait_until
from kubernetes_api import ApiServer, Exchange
from kubernetes_running import RunningCollector, revisions, wait_for_events

from sematext_agent.kubernetes_collector import api
from sematext_agent.shared.bus import Bus

Start = Callable[..., RunningCollector]

SOCKETS = Path("/proc/self/net/tcp")
KEEPALIVE = 2


async def never_begins(_: Exchange) -> None:
    await asyncio.sleep(3600)


async def stops_in_the_middle(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.chunk(b'{"metadata":{"resourceVersion":"100"},"items":[')
    await asyncio.sleep(3600)


@pytest.mark.parametrize("answer", [never_begins, stops_in_the_middle])
async def test_a_list_that_does_not_arrive_is_requested_again(
    cluster: ApiServer,
    streams: Bus,
    start_collector: Start,
    monkeypatch: pytest.MonkeyPatch,
    answer: Callable[[Exchange], None],
) -> None:
    for name in ("CONNECT_SECONDS", "HEADERS_SECONDS", "BODY_SECONDS"):
        monkeypatch.setattr(api, name, 0.5)
    cluster.add("one")
    cluster.next_list.append(answer)  # type: ignore[arg-type]
    running = start_collector()
    assert revisions(await wait_for_events(streams, 1, 30)) == [101]
    assert running.count("api_failures", status="0") >= 1


def test_the_kernel_gives_up_on_a_peer_that_is_gone_within_a_minute() -> None:
    created = api._create_socket((socket.AF_INET, socket.SOCK_STREAM, 0, "", ("127.0.0.1", 0)))
    tcp = socket.IPPROTO_TCP
    with created:
        assert created.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        idle, every, times = (
            created.getsockopt(tcp, option)
            for option in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
        )
        assert idle + every * times <= 60
        assert created.getsockopt(tcp, socket.TCP_USER_TIMEOUT) == 60_000


@pytest.mark.skipif(not SOCKETS.exists(), reason="no /proc/self/net/tcp, which shows the timers")
async def test_the_kernel_probes_the_connection_of_an_idle_watch(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    start_collector()
    await wait_until(lambda: len(cluster.watches()) == 1)
    await wait_until(lambda: KEEPALIVE in timers(cluster.port))


def timers(port: int) -> list[int]:
    """Return the timer of each connection to `port`, as the kernel numbers them."""
    rows = [line.split() for line in SOCKETS.read_text().splitlines()[1:]]
    return [int(row[5].split(":")[0], 16) for row in rows if row[2].endswith(f":{port:04X}")]
