"""Settlement: from the destination's answer to an acknowledgement, a retry or a dead letter."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sematext_agent.forwarder.acknowledgements import Acknowledgements
from sematext_agent.forwarder.dead_letters import DeadLetters
from sematext_agent.forwarder.delivered_ids import DeliveredIds
from sematext_agent.forwarder.delivery import Delivery
from sematext_agent.forwarder.destination import Answer, Destination, Judgement, Outcome
from sematext_agent.forwarder.flow_control import FlowControl, Uniform
from sematext_agent.forwarder.metrics import DeliveryMetrics
from sematext_agent.forwarder.output import write_document
from sematext_agent.forwarder.sender import Sender
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.events import NS_PER_SECOND
from sematext_agent.shared.retry import Backoff

log = logging.getLogger(__name__)

ATTEMPTS_MAX = 100
"""An event that failed so often while others were delivered becomes a dead letter. At half a minute
between two attempts that takes most of an hour; left for longer, it would keep the stream from
being trimmed until that is full."""
CONFIRM_SECONDS = 0.5
"""Pause before the second attempt that confirms a refusal."""


@dataclass(slots=True)
class Settlement:
    """The decision about each delivery that `sender` has an answer for; `run` makes it."""

    settings: ForwarderSettings
    clock: Clock
    destination: Destination
    flow: FlowControl
    sender: Sender
    delivered_ids: DeliveredIds
    acknowledgements: Acknowledgements
    dead_letters: DeadLetters
    metrics: DeliveryMetrics
    uniform: Uniform | None = None
    """The source of randomness in place of `random.uniform`."""

    async def run(self) -> None:
        """Settle every delivery that is answered, for ever."""
        answers, has_answers = self.sender.answers, self.sender.has_answers
        while True:
            await has_answers.wait()
            has_answers.clear()
            delivered = 0
            while answers:
                delivered += self._settle(*answers.popleft())
            self.metrics.delivered.inc(delivered)  # once for all, because it takes a lock

    def _settle(self, delivery: Delivery, answer: Answer) -> bool:
        """Settle one delivery; return whether it was delivered."""
        judgement = self.destination.judge(answer)
        seconds = self.clock.monotonic() - delivery.sent_at
        self.flow.end(judgement, seconds)
        if self.settings.logging_request_tracking:
            log.info("event %s, %.0f ms: %s", delivery.id, seconds * 1000, judgement.detail)
        match judgement.outcome:
            case Outcome.DELIVERED:
                self._on_delivered(delivery)
            case Outcome.PRINTED:
                self.acknowledgements.finish(delivery)
            case Outcome.REFUSED:
                self._on_refused(delivery, judgement)
            case Outcome.RETRY:
                self._on_failed(delivery, judgement)
            case Outcome.HOLD:
                self.sender.send_again(delivery, 0)
        self.sender.send_ready()
        return judgement.outcome is Outcome.DELIVERED

    def _on_delivered(self, delivery: Delivery) -> None:
        self.delivered_ids.add(delivery.id)
        latency_ns = max(0, self.clock.wall_ns() - delivery.event_time_ns)
        self.metrics.latency.observe(latency_ns / NS_PER_SECOND)
        if self.settings.logging_write_events:
            write_document(delivery.document, self.settings)
        self.acknowledgements.finish(delivery)

    def _on_refused(self, delivery: Delivery, judgement: Judgement) -> None:
        if delivery.was_refused:
            status = judgement.status
            self.dead_letters.add(delivery, status, judgement.detail, str(status))
        else:
            delivery.was_refused = True
            self.sender.send_again(delivery, CONFIRM_SECONDS)

    def _on_failed(self, delivery: Delivery, judgement: Judgement) -> None:
        backoff = delivery.backoff = delivery.backoff or Backoff(0.5, 30, self.uniform)
        if backoff.failures >= ATTEMPTS_MAX and self.flow.breaker.is_closed:
            detail = f"failed {backoff.failures} times while others went through"
            self.dead_letters.add(
                delivery, judgement.status, f"{detail}, {judgement.detail}", "attempts"
            )
        else:
            self.sender.send_again(delivery, backoff.draw_delay_seconds())
