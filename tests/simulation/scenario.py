"""A scenario: the processes, the source, the constants and the faults. It is drawn from a seed."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import msgspec

SETTLE_SECONDS = 5400.0
"""Simulated time after the last fault in which everything must be delivered."""

KINDS = (
    "kill",
    "stop",
    "term",
    "broker_kill",
    "cut",
    "receiver_down",
    "receiver_slow",
    "receiver_throttle",
    "receiver_error",
    "receiver_mute",
    "receiver_hold",
    "purge",
    "consumer_deleted",
    "restore",
    "disk_full",
)

BROKER_KINDS = frozenset(
    ["broker_kill", "cut", "purge", "consumer_deleted", "restore", "disk_full"]
)
"""Faults after which acknowledgements may be missing."""


class Fault(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One fault, from `at` on."""

    kind: str
    at: float
    """Simulated seconds since the start."""
    seconds: float = 0.0
    """How long it lasts; for `restore`, the age of the copy."""
    target: str = ""
    """The process, for `kill`, `stop`, `term` and `cut`."""
    value: float = 0.0
    """`cut`: 0 both ways, 1 up, 2 down. `broker_kill`: forgotten seconds. Receivers: see `Mode`."""


class Scenario(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that decides a run."""

    seed: int
    collectors: int = 1
    forwarders: int = 1
    rate: float = 5.0
    """Events a second of each collector."""
    seconds: float = 120.0
    """How long the sources go on."""
    refused_every: int = 0
    """The receiver refuses each event whose number is a multiple of this; 0 for none."""
    receiver_rate: float = 0.0
    """Events a second that the receiver takes before it answers 429, always; 0 for any number."""
    constants: dict[str, Any] = msgspec.field(default_factory=dict)
    """Constants of the code under test, by `module.NAME`."""
    faults: list[Fault] = msgspec.field(default_factory=list)
    expected_break: str = ""
    """The kind of finding that the code of today is known to have; empty for none."""
    causes: list[str] = msgspec.field(default_factory=list)
    """The `traits` that suffice for the same break in another scenario."""
    comment: str = ""

    @property
    def traits(self) -> set[str]:
        """The kinds of its faults, and `refused` and `rate` for such a receiver."""
        kinds = {fault.kind for fault in self.faults}
        receiver = {"refused": self.refused_every, "rate": self.receiver_rate}
        return kinds | {trait for trait, value in receiver.items() if value}

    @property
    def last_fault_end(self) -> float:
        """The simulated second at which the last fault is over."""
        return max((f.at + f.seconds for f in self.faults), default=0.0)


def read(path: Path) -> Scenario:
    """Return the scenario that a file holds."""
    return msgspec.json.decode(path.read_bytes(), type=Scenario)


SMALL_CONSTANTS = {
    "trimmer.HISTORY_EVENTS_MIN": 50,
    "overtaking.BEHIND_EVENTS": 300,
    "overtaking.NEAR_EVENTS": 50,
    "stream_configs.DUPLICATE_WINDOW_SECONDS": 300,
}
"""Bounds that make rare states frequent."""


def draw(seed: int) -> Scenario:
    """Return the scenario of `seed`: one to four kinds of faults, each once or a few times."""
    dice = random.Random(f"scenario/{seed}")
    collectors, forwarders = dice.choice((1, 1, 2)), dice.choice((1, 2, 2, 3))
    seconds = dice.choice((120.0, 240.0, 400.0))
    rate = round(min(4000 / seconds / collectors, 0.3 * 100 ** dice.random()), 2)
    targets = [f"collector{i}" for i in range(collectors)]
    targets += 2 * [f"forwarder{i}" for i in range(forwarders)]
    kinds = dice.sample(KINDS, dice.randint(1, 4))
    faults = [
        _draw_fault(dice, kind, seconds, rate * collectors, targets)
        for kind in kinds
        for _ in range(dice.choice((1, 1, 2, 3)))
    ]
    # An outage behind a restored store, for what was stored twice has to wait to be mistaken.
    faults += [
        Fault(kind="receiver_down", at=round(fault.at + dice.uniform(-5, 5), 2), seconds=60.0)
        for fault in faults
        if fault.kind == "restore" and dice.random() < 0.5
    ]
    return Scenario(
        seed=seed,
        collectors=collectors,
        forwarders=forwarders,
        rate=rate,
        seconds=seconds,
        refused_every=dice.choice((0, 0, 0, 7)),
        constants=SMALL_CONSTANTS if dice.random() < 0.6 else {},
        faults=sorted(faults, key=lambda fault: fault.at),
    )


def _draw_fault(
    dice: random.Random, kind: str, length: float, rate: float, targets: list[str]
) -> Fault:
    at = round(dice.uniform(20, length * 0.8), 2)
    seconds = round(dice.choice((0.5, 3.0, 12.0, 40.0, 90.0)) * dice.uniform(0.5, 1.5), 2)
    value = 0.0
    match kind:
        case "cut":
            value = float(dice.randrange(3))
        case "broker_kill":
            value = round(dice.choice((0.0, 0.3, 1.0, 3.0)) * dice.uniform(0.5, 1.5), 3)
        case "receiver_slow":
            value = round(dice.choice((0.3, 2.0, 10.0)) * dice.uniform(0.5, 1.5), 2)
        case "receiver_throttle":
            value = round(max(2.0, rate * dice.uniform(2, 6)), 1)
        case "restore":
            seconds = min(seconds, at - 10)
        case "purge" | "consumer_deleted" | "term":
            seconds = 0.0
    target = dice.choice(targets) if kind in ("kill", "stop", "term", "cut") else ""
    return Fault(kind=kind, at=at, seconds=seconds, target=target, value=value)
