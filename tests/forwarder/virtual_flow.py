"""A flow control in virtual time, for the tests of it."""

from __future__ import annotations

import asyncio
from typing import Any

from forwarder.virtual_time import VirtualClock

from sematext_agent.forwarder.circuit_breaker import Circuit
from sematext_agent.forwarder.destination import Answer
from sematext_agent.forwarder.flow_control import FlowControl
from sematext_agent.forwarder.sematext import judge
from sematext_agent.shared.health import Health


class NamedDestination:
    """Stands for a destination, as far as flow control needs one."""

    name = "http://r"
    initial_status = "http://r: nothing was sent yet"


class VirtualFlow:
    """A flow control on a clock of its own, whose backoff is as long as it can be."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.health = Health("forwarder", "test")
        self.resumed = 0
        """The number of pauses that have ended."""
        self.control = asyncio.run(self._create())

    async def _create(self) -> FlowControl:
        destination: Any = NamedDestination()
        control = FlowControl(self.health, destination, self.clock, lambda low, high: high)
        control.on_resume = self._on_resume
        loop: Any = self.clock
        control.throttle._loop = loop
        return control

    def _on_resume(self) -> None:
        self.resumed += 1

    def end(self, answer: Answer, seconds: float = 0.0) -> None:
        """End a send that is in flight with `answer`."""
        self.control.end(judge(answer), seconds)

    def send(self, answer: Answer, seconds: float = 0.0) -> None:
        """Begin a send and end it."""
        self.control.begin()
        self.end(answer, seconds)

    def circuit(self) -> Circuit:
        """Return the state of the circuit breaker."""
        return self.control.breaker.state

    @property
    def condition(self) -> tuple[bool, str]:
        """The health condition `receiver`."""
        condition = self.health.report().conditions["receiver"]
        return condition.ok, condition.detail
