"""Connections between the processes and the broker: ordered, late, and cut by faults."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import NamedTuple, Protocol

from simulation.world import World

LATENCY_SECONDS = (0.0002, 0.002)


class Frame(NamedTuple):
    """One command of the protocol of NATS, in either direction."""

    verb: str
    """PUB, SUB, UNSUB, PING and CLOSE to the broker; MSG, PONG and RESET to the client."""
    sid: int = 0
    subject: str = ""
    reply: str = ""
    payload: bytes = b""
    headers: dict[str, str] | None = None


CLOSE = Frame("CLOSE")
RESET = Frame("RESET")


class Server(Protocol):
    """The broker, as connections see it."""

    epoch: int
    """A number for each life of the broker; 0 while it is down."""

    def receive(self, connection: Connection, frames: list[Frame]) -> None:
        """Take what a client has sent."""


class Link:
    """The network between one process and the broker, which holds what it cannot carry."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.random: random.Random = world.stream(f"network/{name}")
        self._blocked: dict[str, int] = {"up": 0, "down": 0}
        self._held: dict[str, list[Callable[[], None]]] = {"up": [], "down": []}

    @property
    def is_cut(self) -> bool:
        """True while no new connection comes about."""
        return any(self._blocked.values())

    def cut(self, *directions: str) -> None:
        """Hold what goes `up` to the broker, or `down` from it."""
        for direction in directions:
            self._blocked[direction] += 1

    def heal(self, *directions: str) -> None:
        """Undo one `cut`."""
        for direction in directions:
            self._blocked[direction] -= 1
            if not self._blocked[direction]:
                held, self._held[direction] = self._held[direction], []
                for flush in held:
                    flush()

    def carry(self, direction: str, flush: Callable[[], None]) -> None:
        """Call `flush` now, or when the direction is free."""
        if self._blocked[direction]:
            self._held[direction].append(flush)
        else:
            flush()

    def latency(self) -> float:
        """Return how many seconds the next batch takes."""
        return self.random.uniform(*LATENCY_SECONDS)


class Pipe:
    """One direction of a connection: batches arrive in the order in which they were sent."""

    def __init__(self, link: Link, direction: str, deliver: Callable[[list[Frame]], None]) -> None:
        self._link = link
        self._direction = direction
        self._deliver = deliver
        self._frames: list[Frame] = []
        self._is_scheduled = False

    def send(self, frame: Frame) -> None:
        """Send with everything else that is sent until the batch arrives."""
        self._frames.append(frame)
        if not self._is_scheduled:
            self._is_scheduled = True
            self._link.world.call_later(self._link.latency(), self._arrive)

    def _arrive(self) -> None:
        self._link.carry(self._direction, self._flush)

    def _flush(self) -> None:
        self._is_scheduled = False
        frames, self._frames = self._frames, []
        self._deliver(frames)


class Connection:
    """One TCP connection of a client to one life of the broker."""

    def __init__(
        self, link: Link, server: Server, on_frames: Callable[[list[Frame]], None]
    ) -> None:
        self._server = server
        self.epoch = server.epoch
        self.subscriptions: dict[int, str] = {}
        self.is_open = True
        self._to_server = Pipe(link, "up", self._on_server)
        self._to_client = Pipe(link, "down", on_frames)

    def send(self, frame: Frame) -> None:
        """Send from the client to the broker."""
        self._to_server.send(frame)

    def answer(self, frame: Frame) -> None:
        """Send from the broker to the client."""
        self._to_client.send(frame)

    def _on_server(self, frames: list[Frame]) -> None:
        if self._server.epoch != self.epoch:
            self._to_client.send(RESET)
        elif self.is_open:
            self._server.receive(self, frames)
