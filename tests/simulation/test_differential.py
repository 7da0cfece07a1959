"""The simulated broker does what a real nats-server does."""

from __future__ import annotations

import asyncio

import nats
import pytest
from broker import NatsServer
from simulation.differential import compare

SCRIPTS = range(30)
STEPS = 30


@pytest.mark.timeout(120)
async def test_the_simulated_broker_answers_random_scripts_as_the_real_one(
    nats_server: NatsServer,
) -> None:
    client = await nats.connect(nats_server.url)
    try:
        differences = await asyncio.gather(*(compare(client, seed, STEPS) for seed in SCRIPTS))
    finally:
        await client.close()
    assert [difference for difference in differences if difference] == []
