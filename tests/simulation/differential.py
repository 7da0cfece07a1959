"""The same random script on a real nats-server and on the simulated broker, step by step."""

from __future__ import annotations

import asyncio
import json
import random
from abc import ABC, abstractmethod
from typing import Any

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from simulation.broker import Broker
from simulation.network import Connection, Frame, Link
from simulation.streams import Info
from simulation.world import World

from sematext_agent.shared.events import NS_PER_SECOND

ACK_WAIT_SECONDS = 0.5
WAIT_SECONDS = 0.75
"""Longer than the ack deadline and shorter than two of them."""
SETTLE_SECONDS = (0.02, 0.05, 0.2)
"""Times for what a step causes at the real server, which may be slow."""
EXPIRES_SECONDS = 0.3
STREAM_BYTES_MAX = 3000

Delivery = tuple[str, str, int, int, int]


class Step(msgspec.Struct, frozen=True):
    """One operation on a stream and its consumer."""

    verb: str
    number: int = 0
    """Of the message to publish, or an index into the deliveries so far."""
    batch: int = 0
    bytes_max: int = 0
    expires: float = 30.0


def draw_script(seed: int, length: int) -> list[Step]:
    """Return the script of `seed`."""
    dice = random.Random(f"script/{seed}")
    verbs = "publish publish publish pull pull ack ack ack nak nak_later extend wait purge remake"
    steps = []
    for index in range(length):
        verb = dice.choice(verbs.split())
        number = dice.randrange(1000)
        if verb == "publish":
            number = index if dice.random() < 0.85 else dice.randrange(index + 1)
        bytes_max = dice.choice((0, 0, 250, 600))
        expires = dice.choice((30.0, EXPIRES_SECONDS))
        steps.append(Step(verb, number, dice.choice((1, 2, 5)), bytes_max, expires))
    return steps


class Side(ABC):
    """One of the two servers, as the script sees it."""

    def __init__(self, stream: str) -> None:
        self.stream = stream
        self.arrivals: list[tuple[str, ...]] = []
        """What arrived in this step."""
        self.replies: list[str] = []
        """The reply subjects of all deliveries so far."""

    @abstractmethod
    async def request(self, subject: str, payload: bytes, headers: dict[str, str]) -> Any:
        """Return the answer to a request, decoded."""

    @abstractmethod
    async def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Publish without waiting for an answer."""

    async def call(self, call: str, request: Info | None = None) -> Info:
        """Return the answer to a call of JetStream's API."""
        payload = json.dumps(request).encode() if request else b""
        answer: Info = await self.request(f"$JS.API.{call}", payload, {})
        return answer

    def take(self, subject: str, number: str, reply: str, headers: dict[str, str] | None) -> None:
        """Take in a message that arrived for the request `number`."""
        if not reply:
            status = headers or {}
            pending = status.get("Nats-Pending-Messages", "")
            self.arrivals.append((number, status["Status"], status["Description"], pending))
            return
        self.replies.append(reply)
        _, _, _, _, count, sequence, consumer_sequence, _, waiting = reply.split(".")
        self.arrivals.append((number, subject, sequence, count, consumer_sequence, waiting))

    async def set_up(self) -> None:
        """Make the stream and the consumer."""
        stream = {
            "name": self.stream,
            "subjects": [f"{self.stream}.>"],
            "storage": "file",
            "max_bytes": STREAM_BYTES_MAX,
            "discard": "new",
        }
        await self.call(f"STREAM.CREATE.{self.stream}", stream)
        await self.make_consumer()

    async def make_consumer(self) -> None:
        """Make the consumer."""
        config = {
            "durable_name": "c",
            "name": "c",
            "deliver_policy": "all",
            "ack_policy": "explicit",
            "ack_wait": int(ACK_WAIT_SECONDS * NS_PER_SECOND),
            "max_deliver": -1,
            "max_ack_pending": 6,
            "max_waiting": 512,
        }
        request = {"stream_name": self.stream, "config": config}
        await self.call(f"CONSUMER.CREATE.{self.stream}.c", request)

    async def perform(self, index: int, step: Step) -> Any:
        """Do one step and return its direct answer."""
        reply = self.replies[step.number % len(self.replies)] if self.replies else ""
        responses = {
            "ack": b"+ACK",
            "nak": b"-NAK",
            "extend": b"+WPI",
            "nak_later": b'-NAK {"delay": 100000000}',
        }
        if step.verb in responses:
            if reply:
                await self.publish(reply, responses[step.verb])
        elif step.verb == "publish":
            headers = {"Nats-Msg-Id": f"id{step.number}"}
            subject = f"{self.stream}.{step.number % 3}"
            answer = await self.request(subject, b"x" * (step.number % 60), headers)
            return [answer.get("seq"), answer.get("duplicate"), answer.get("error")]
        elif step.verb == "pull":
            wanted = {"batch": step.batch, "expires": int(step.expires * NS_PER_SECOND)}
            if step.bytes_max:
                wanted["max_bytes"] = step.bytes_max
            subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.stream}.c"
            await self.publish(subject, json.dumps(wanted).encode(), f"in.{self.stream}.{index}")
        elif step.verb == "purge":
            last = (await self.call(f"STREAM.INFO.{self.stream}"))["state"]["last_seq"]
            purge = {"seq": max(1, last - step.number % 4)}
            return (await self.call(f"STREAM.PURGE.{self.stream}", purge))["purged"]
        elif step.verb == "remake":
            await self.call(f"CONSUMER.DELETE.{self.stream}.c")
            await self.make_consumer()
        return None

    async def state(self) -> Info:
        """Return what the server says of the stream and of the consumer."""
        consumer = await self.call(f"CONSUMER.INFO.{self.stream}.c")
        stream = (await self.call(f"STREAM.INFO.{self.stream}"))["state"]
        counts = {
            name: consumer[name] for name in ("num_ack_pending", "num_waiting", "num_pending")
        }
        for name in ("delivered", "ack_floor"):
            counts[name] = [consumer[name]["consumer_seq"], consumer[name]["stream_seq"]]
        fields = ("messages", "bytes", "first_seq", "last_seq")
        return counts | {name: stream[name] for name in fields}


class RealSide(Side):
    """A real nats-server."""

    def __init__(self, stream: str, client: Client) -> None:
        super().__init__(stream)
        self._client = client

    async def start(self) -> None:
        """Listen for what is delivered."""

        async def on_message(message: Msg) -> None:
            number = message.subject.rpartition(".")[2]
            self.take(message.subject, number, message.reply, message.headers)

        await self._client.subscribe(f"in.{self.stream}.*", cb=on_message)

    async def request(self, subject: str, payload: bytes, headers: dict[str, str]) -> Any:
        """Return the answer to a request, decoded."""
        answer = await self._client.request(subject, payload, 5, headers=headers or None)
        return json.loads(answer.data)

    async def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Publish without waiting for an answer."""
        await self._client.publish(subject, payload, reply)


class ModelSide(Side):
    """The simulated broker."""

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._world = World(0)
        self._broker = Broker(self._world)
        self._broker.start()
        self._answer = b""
        self._connection = Connection(Link(self._world, "test"), self._broker, lambda frames: None)
        self._connection.answer = self._on_frame  # type: ignore[method-assign]
        self._receive(Frame("SUB", 1, f"in.{stream}.*"))
        self._receive(Frame("SUB", 2, "answers.*"))

    def _receive(self, frame: Frame) -> None:
        self._broker.receive(self._connection, [frame])

    def _on_frame(self, frame: Frame) -> None:
        if frame.sid == 2:
            self._answer = frame.payload
        else:
            self.take(frame.subject, frame.subject.rpartition(".")[2], frame.reply, frame.headers)

    def advance(self, now: float) -> None:
        """Let as much time pass as on the real side."""
        self._world.run(now)
        self._broker.tick()

    async def request(self, subject: str, payload: bytes, headers: dict[str, str]) -> Any:
        """Return the answer to a request, decoded."""
        self._receive(Frame("PUB", 0, subject, "answers.1", payload, headers or None))
        return json.loads(self._answer)

    async def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Publish without waiting for an answer."""
        self._receive(Frame("PUB", 0, subject, reply, payload))


async def compare(client: Client, seed: int, length: int, tries: int = 3) -> list[str]:
    """Run one script on both sides; return what differs at the first step that does.

    Times that lie within milliseconds of a deadline may differ once, and not at every try.
    """
    for number in range(tries):
        if not (difference := await _compare(client, seed, length, f"S{seed}-{number}")):
            break
    return difference


async def _compare(client: Client, seed: int, length: int, stream: str) -> list[str]:
    real, model = RealSide(stream, client), ModelSide(stream)
    clock = asyncio.get_running_loop().time
    begun = clock()
    await real.start()
    for side in (real, model):
        await side.set_up()
    for index, step in enumerate(draw_script(seed, length)):
        answers = []
        model.advance(clock() - begun)
        for side in (real, model):
            side.arrivals.clear()
            answers.append(await side.perform(index, step))
        await asyncio.sleep(WAIT_SECONDS if step.verb == "wait" else 0)
        for settle_seconds in SETTLE_SECONDS:
            await asyncio.sleep(settle_seconds)
            model.advance(clock() - begun)
            states = [[await side.state(), sorted(side.arrivals)] for side in (real, model)]
            if states[0] == states[1]:
                break
        real_state, model_state = (
            [answer, *state] for answer, state in zip(answers, states, strict=True)
        )
        if real_state != model_state:
            return [
                f"script {seed} step {index} {step}",
                f"real  {real_state}",
                f"model {model_state}",
            ]
    return []
