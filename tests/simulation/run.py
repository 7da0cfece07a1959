"""One run of a scenario, from the start of the processes to the judgement."""

from __future__ import annotations

import asyncio
import importlib
import logging
import random
from collections.abc import Callable
from functools import partial

import msgspec
from simulation.broker import Broker, StoreCopy
from simulation.oracle import Finding, Oracle
from simulation.processes import Process, Source, collector_main, forwarder_main
from simulation.receiver import Mode, Receiver
from simulation.scenario import BROKER_KINDS, SETTLE_SECONDS, Fault, Scenario
from simulation.world import AnomalyError, World

from sematext_agent.forwarder import forward as forward_module
from sematext_agent.forwarder import in_flight
from sematext_agent.shared.collector import WINDOW_EVENTS_MAX
from sematext_agent.shared.subjects import EVENTS_STREAM, FORWARDER_CONSUMER, OVERTAKING_CONSUMER

FRESH_AFTER_SECONDS = 240.0
"""From the last fault to the events whose delay is judged."""
FRESH_EVENTS = 12
FRESH_PAUSE_SECONDS = 5.0
FRESH_SECONDS_MAX = 120.0
INSPECT_SECONDS = 5.0
BUFFER_FRAMES_MAX = 10_000
COPY_PAUSE_SECONDS = 1.0


class Verdict(msgspec.Struct, frozen=True):
    """The outcome of a run."""

    scenario: Scenario
    digest: str
    events: int
    posts: int
    seconds: float
    """Simulated seconds."""
    excused_copies: int
    """Duplicates of what was in flight at a fault."""
    forgotten_copies: int
    """Duplicates that took two faults."""
    findings: list[Finding]
    history: list[str]

    @property
    def kinds(self) -> set[str]:
        """The kinds of its findings."""
        return {finding.kind for finding in self.findings}


class _HistoryHandler(logging.Handler):
    """Every log line of a simulated process in the history."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        self._world.record(
            f"{asyncio._get_running_loop()} {record.levelname} {record.getMessage()}"
        )


class Simulation:
    """The whole agent of a scenario."""

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        world = self.world = World(scenario.seed)
        self.broker = Broker(world)
        self.receiver = Receiver(world, scenario.refused_every, scenario.receiver_rate)
        is_broker_faulty = any(fault.kind in BROKER_KINDS for fault in scenario.faults)
        oracle = self.oracle = Oracle(world, self.receiver, is_broker_faulty)
        self.broker.on_ack = oracle.on_ack
        self.broker.on_purge = oracle.on_purge
        self.broker.on_store = oracle.on_stored
        self.processes: dict[str, Process] = {}
        self._copies: dict[float, StoreCopy] = {}
        for number in range(scenario.collectors):
            source = Source(f"host{number}", self._times(number))
            self._add_process(f"collector{number}", collector_main(source))
            for index, when in enumerate(source.times, 1):
                world.call_at(when, oracle.emitted.__setitem__, source.event_id(index), when)
        for number in range(scenario.forwarders):
            self._add_process(f"forwarder{number}", forwarder_main(self.receiver))
        for fault in scenario.faults:
            self._schedule(fault)

    def _times(self, number: int) -> list[float]:
        """Return when the events of a source happen: steadily, then a few to judge freshness."""
        scenario = self.scenario
        dice = self.world.stream(f"source/{number}")
        count = int(scenario.seconds * scenario.rate)
        steady = sorted(round(dice.uniform(1, scenario.seconds), 6) for _ in range(count))
        return steady + [
            max(self._fresh_since, scenario.seconds) + index * FRESH_PAUSE_SECONDS
            for index in range(FRESH_EVENTS)
        ]

    @property
    def _fresh_since(self) -> float:
        return self.scenario.last_fault_end + FRESH_AFTER_SECONDS

    def _add_process(self, name: str, main: Callable[..., object]) -> None:
        process = Process(name, self.world, self.broker, self.oracle, main)  # type: ignore[arg-type]
        self.processes[name] = process
        self.world.call_later(0, process.start)

    # Faults

    def _schedule(self, fault: Fault) -> None:
        self.world.call_at(fault.at, self._strike, fault)
        if fault.kind == "restore":
            at = fault.at - fault.seconds
            self.world.call_at(at, lambda: self._copies.setdefault(fault.at, self.broker.backup()))

    def _strike(self, fault: Fault) -> None:
        self.world.record(f"FAULT {fault.kind} {fault.target} {fault.seconds} s {fault.value}")
        strikes: dict[str, Callable[[Fault], None]] = {
            "broker_kill": self._kill_broker,
            "cut": self._cut,
            "purge": self._purge,
            "consumer_deleted": self._delete_consumer,
            "restore": self._restore,
            "disk_full": self._fill_disk,
        }
        if fault.kind in strikes:
            strikes[fault.kind](fault)
        elif fault.kind.startswith("receiver_"):
            mode = Mode(fault.kind.removeprefix("receiver_"), fault.value)
            self.receiver.modes.append(mode)
            self.world.call_later(fault.seconds, self.receiver.modes.remove, mode)
        else:
            self._strike_process(self.processes[fault.target], fault)

    def _strike_process(self, process: Process, fault: Fault) -> None:
        if fault.kind == "kill":
            process.kill(max(fault.seconds, 0.1))
        elif fault.kind == "term":
            process.terminate()
        elif process.loop is not None and not process.loop.is_frozen:
            loop = process.loop
            process.freeze(True)

            def thaw() -> None:
                if process.loop is loop:
                    process.freeze(False)

            self.world.call_later(fault.seconds, thaw)

    def _kill_broker(self, fault: Fault) -> None:
        self._end_broker(partial(self.broker.kill, fault.value), fault.seconds)

    def _end_broker(self, end: Callable[[], None], down_seconds: float) -> bool:
        """End the broker by `end`, unless it is down already; return whether it was up."""
        if not self.broker.epoch:
            return False
        end()
        self.oracle.broker_ended_at = self.world.now
        self.world.call_later(max(down_seconds, 0.1), self.broker.start)
        return True

    def _cut(self, fault: Fault) -> None:
        link = self.processes[fault.target].link
        directions = (("up", "down"), ("up",), ("down",))[int(fault.value)]
        link.cut(*directions)
        self.world.call_later(fault.seconds, link.heal, *directions)

    def _purge(self, fault: Fault) -> None:
        if EVENTS_STREAM in self.broker.streams and self.broker.epoch:
            self.oracle.is_operator_purge = True
            self.broker.purge(EVENTS_STREAM, 0)
            self.oracle.is_operator_purge = False

    def _delete_consumer(self, fault: Fault) -> None:
        if self.broker.epoch:
            self.broker.delete_consumer(EVENTS_STREAM, FORWARDER_CONSUMER)

    def _restore(self, fault: Fault) -> None:
        if fault.at in self._copies and self._end_broker(self.broker.stop, COPY_PAUSE_SECONDS):
            self.broker.restore(self._copies[fault.at])
            self.world.record("the store is put back to an earlier copy")

    def _fill_disk(self, fault: Fault) -> None:
        self.broker.is_disk_full = True
        self.world.call_later(fault.seconds, self._free_disk)

    def _free_disk(self) -> None:
        self.broker.is_disk_full = False
        self._end_broker(self.broker.stop, COPY_PAUSE_SECONDS)  # as the disk watchdog does

    # The run

    def run(self) -> Verdict:
        """Let everything happen, and judge it."""
        self.broker.start()
        fresh_until = max(self._fresh_since, self.scenario.seconds) + 60.0
        end = fresh_until + SETTLE_SECONDS
        try:
            while self.world.now < end:
                self.world.run(self.world.now + INSPECT_SECONDS)
                self._inspect_memory()
                if self.world.now > fresh_until and not (self._waiting() or self.oracle.missing):
                    break
        except AnomalyError as anomaly:
            self.world.report_anomaly(str(anomaly))
        since = fresh_until - 60.0
        self.oracle.judge_freshness(since, fresh_until, FRESH_SECONDS_MAX)
        self.oracle.judge_end(len(self.scenario.faults), self._waiting())
        return Verdict(
            self.scenario,
            self.world.digest,
            len(self.oracle.emitted),
            self.receiver.posts,
            self.world.now,
            self.oracle.excused_copies,
            self.oracle.forgotten_copies,
            self.oracle.findings,
            self.world.history,
        )

    def _waiting(self) -> int:
        """Return how many messages are not acknowledged."""
        consumers = self.broker.consumers
        if (EVENTS_STREAM, FORWARDER_CONSUMER) not in consumers:
            return 1
        info = consumers[EVENTS_STREAM, FORWARDER_CONSUMER].info()
        overtaking = (EVENTS_STREAM, OVERTAKING_CONSUMER) in consumers
        return int(info["num_pending"] + info["num_ack_pending"] + overtaking)

    def _inspect_memory(self) -> None:
        for process in self.processes.values():
            if process.client is None or process.report is None:
                continue
            figures = process.report().figures
            bounds = {
                "events_in_flight": in_flight.EVENTS_MAX * 2,
                "events_in_flight_bytes": in_flight.BYTES_MAX * 2,
                "events_unacknowledged": WINDOW_EVENTS_MAX + 1,
            }
            for name, bound in bounds.items():
                if figures.get(name, 0) > bound:
                    self.oracle.add_finding("MEMORY", f"{process.name}: {name} {figures[name]}")
            if len(process.client._buffer) > BUFFER_FRAMES_MAX:
                self.oracle.add_finding("MEMORY", f"{process.name}: the buffer of the client")


def simulate(scenario: Scenario) -> Verdict:
    """Run `scenario` in this process, which is changed by it: see `isolated.run_isolated`."""
    random.seed(scenario.seed)  # for the backoffs that no randomness is handed to
    forward_module._tune_garbage_collector = lambda: None
    for name, value in scenario.constants.items():
        module, _, constant = name.rpartition(".")
        setattr(importlib.import_module(f"sematext_agent.forwarder.{module}"), constant, value)
    simulation = Simulation(scenario)
    root = logging.getLogger()
    root.handlers = [_HistoryHandler(simulation.world)]
    root.setLevel(logging.INFO)
    return simulation.run()
