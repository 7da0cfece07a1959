"""The judge of a run: at the moment itself, and at the end."""

from __future__ import annotations

from collections import Counter

import msgspec
from simulation.receiver import Receiver
from simulation.streams import StoredMessage
from simulation.world import ProcessLoop, World

COPIES_PER_FAULT_MAX = 128
"""What may be in flight at one fault: docs/guarantees.md."""
MEMORY_SECONDS = 20.0
"""A process that dies so soon after an answer may not have acknowledged the event."""


class Finding(msgspec.Struct, frozen=True):
    """A broken promise."""

    kind: str
    """LOST, COPIES, STALL, STALE, ANOMALY or MEMORY."""
    text: str


class _Store(msgspec.Struct):
    """One document at the receiver."""

    at: float
    loop: ProcessLoop
    is_answered: bool = False


class Oracle:
    """Knows every event of the sources, and what has become of it."""

    def __init__(self, world: World, receiver: Receiver, is_broker_faulty: bool) -> None:
        self._world = world
        self._is_broker_faulty = is_broker_faulty
        self.emitted: dict[str, float] = {}
        """By id: the time at which the source had it."""
        self.delivered: dict[str, float] = {}
        """By id: the time at which the receiver stored it first."""
        self.dead: set[str] = set()
        self.excused: set[str] = set()
        """Events that an operator has purged."""
        self.is_operator_purge = False
        self.findings: list[Finding] = []
        self.excused_copies = 0
        """Duplicates of what was in flight."""
        self.forgotten_copies = 0
        """Duplicates that took two faults, which no guarantee excludes."""
        self.broker_ended_at = -1.0
        self.copies: Counter[str] = Counter()
        self._stores: dict[str, list[_Store]] = {}
        self._deaths: dict[ProcessLoop, float] = {}
        receiver.on_store = self._on_store
        receiver.on_answered = self._on_answered

    def add_finding(self, kind: str, text: str) -> None:
        """Take in a broken promise."""
        self._world.record(f"BROKEN {kind} {text}")
        self.findings.append(Finding(kind, text))

    def record_death(self, loop: ProcessLoop, is_orderly: bool) -> None:
        """Take in that a process has ended; an orderly end alone must not leave duplicates."""
        if not is_orderly or self._is_broker_faulty:
            self._deaths[loop] = self._world.now

    def is_safe(self, event_id: str) -> bool:
        """Return whether nobody has to keep the event any more."""
        return (
            event_id in self.delivered
            or event_id in self.dead
            or event_id in self.excused
            or event_id not in self.emitted  # a gap event of the agent itself
        )

    @property
    def missing(self) -> list[str]:
        """The events that are not safe yet."""
        return [event_id for event_id in self.emitted if not self.is_safe(event_id)]

    # The moment itself

    def on_ack(self, message: StoredMessage) -> None:
        """Judge an acknowledgement."""
        if not self.is_safe(message.id):
            self.add_finding("LOST", f"acknowledged though nobody has it: {message.id}")

    def on_purge(self, stream: str, message: StoredMessage) -> None:
        """Judge a message that a purge takes."""
        if stream != "EVENTS" or self.is_safe(message.id):
            return
        if self.is_operator_purge:
            self.excused.add(message.id)
        else:
            self.add_finding("LOST", f"purged though nobody has it: {message.id}")

    def on_stored(self, stream: str, message: StoredMessage) -> None:
        """Take in a dead letter."""
        if stream == "DEAD":
            self.dead.add(message.id)

    def _on_store(self, event_id: str, loop: ProcessLoop) -> None:
        stores = self._stores.setdefault(event_id, [])
        if stores:
            if all(map(self._was_in_flight, stores)):
                self.excused_copies += 1
            elif all(map(self._was_forgotten, stores)):
                self.forgotten_copies += 1
            else:
                self.copies[event_id] += 1
                self._world.record(f"{loop} delivers a duplicate of {event_id}")
        stores.append(_Store(self._world.now, loop))
        self.delivered.setdefault(event_id, self._world.now)

    def _was_in_flight(self, store: _Store) -> bool:
        """Return whether nobody alive could know of a store."""
        death = self._deaths.get(store.loop, float("inf"))
        return not store.is_answered or death - store.at < MEMORY_SECONDS

    def _was_forgotten(self, store: _Store) -> bool:
        """Return whether it took two faults: the memory died, and the broker fell back."""
        is_dead = store.loop in self._deaths
        return self._was_in_flight(store) or (is_dead and self.broker_ended_at > store.at)

    def _on_answered(self, event_id: str, loop: ProcessLoop) -> None:
        for store in self._stores[event_id]:
            if store.loop is loop:
                store.is_answered = True

    # The end

    def judge_end(self, faults: int, waiting: int) -> None:
        """Judge the whole, after everything had the time to be delivered."""
        if missing := self.missing:
            kind = "STALL" if waiting else "LOST"
            self.add_finding(kind, f"{len(missing)} events did not arrive, first {missing[0]}")
        elif waiting:
            self.add_finding("STALL", f"{waiting} messages are not acknowledged")
        if self.copies:
            self.add_finding("COPIES", f"{self.copies.total()} duplicates without an excuse")
        if self.excused_copies > COPIES_PER_FAULT_MAX * faults:
            text = f"{self.excused_copies} duplicates in flight at {faults} faults"
            self.add_finding("COPIES", text)
        for anomaly in self._world.anomalies:
            self.findings.append(Finding("ANOMALY", anomaly))

    def judge_freshness(self, since: float, until: float, seconds_max: float) -> None:
        """Judge the delay of events that happened between two times."""
        for event_id, emitted_at in self.emitted.items():
            if since <= emitted_at < until:
                delay = self.delivered.get(event_id, float("inf")) - emitted_at
                if delay > seconds_max and event_id not in self.dead | self.excused:
                    self.add_finding("STALE", f"{event_id} took {delay:.0f} s")
                    return
