"""Flow control: whether the next event may be sent now.

Three parts decide, and the condition `receiver` of the service's health shows the result: the
concurrency limiter (how many at once), the throttle (not before), the circuit breaker (at all).
"""

from __future__ import annotations

from collections.abc import Callable

from sematext_agent.forwarder.circuit_breaker import CircuitBreaker
from sematext_agent.forwarder.concurrency_limiter import ConcurrencyLimiter
from sematext_agent.forwarder.destination import Destination, Judgement, Outcome
from sematext_agent.forwarder.throttle import Throttle
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.health import Health
from sematext_agent.shared.retry import Backoff

RETRY_AFTER_SECONDS_MAX = 3600.0
BACKOFF_FIRST_SECONDS = 1.0
BACKOFF_SECONDS_MAX = 30.0
_CONDITION = "receiver"
Uniform = Callable[[float, float], float]
"""A random number between two bounds."""


class FlowControl:
    """The pace of all sends: `begin` each where `may_send`, `end` it with its judgement."""

    def __init__(
        self,
        health: Health,
        destination: Destination,
        clock: Clock,
        uniform: Uniform | None = None,
    ) -> None:
        """Report on `destination` in `health`; `uniform` replaces `random.uniform`."""
        self._health = health
        self._name = destination.name
        self._clock = clock
        self.limiter = ConcurrencyLimiter()
        self.breaker = CircuitBreaker(Backoff(BACKOFF_FIRST_SECONDS, BACKOFF_SECONDS_MAX, uniform))
        self.throttle = Throttle(clock, self._resume)
        self._is_ok_reported = False
        self.on_resume: Callable[[], None] = lambda: None
        """The function that is called at the end of a pause."""
        health.set_condition(_CONDITION, True, destination.initial_status)

    def may_send(self) -> bool:
        """Return whether one more send may begin now."""
        limiter = self.limiter
        is_full = limiter.is_full if self.breaker.is_closed else limiter.in_flight > 0
        return not is_full and not self.throttle.is_active

    def begin(self) -> None:
        """Begin one send."""
        self.limiter.begin()

    def end(self, judgement: Judgement, seconds: float) -> None:
        """End one send, which took `seconds` and was judged so."""
        self.limiter.end()
        match judgement.outcome:
            case Outcome.DELIVERED:
                self._on_delivered()
            case Outcome.REFUSED:
                if self.breaker.record_refusal():
                    self._open(f"refuses every event, {judgement.detail}")
            case Outcome.RETRY:
                self._on_failed(judgement, seconds)
            case Outcome.HOLD:
                self._open(f"holding, {judgement.detail}")
        if judgement.retry_after and judgement.outcome is not Outcome.REFUSED:
            pause_seconds = min(judgement.retry_after, RETRY_AFTER_SECONDS_MAX)
            self.throttle.pause(pause_seconds)
            self._report(False, f"throttled for {pause_seconds:.0f} s, {judgement.detail}")

    def stop(self) -> None:
        """Call `on_resume` no more."""
        self.throttle.stop()

    def _on_delivered(self) -> None:
        self.limiter.record_success()
        self.breaker.record_success()
        if not self._is_ok_reported and not self.throttle.until:
            self._report(True, "takes events")

    def _on_failed(self, judgement: Judgement, seconds: float) -> None:
        if judgement.is_overloaded:
            now = self._clock.monotonic()
            self.limiter.record_overload(now - seconds, now)
        if self.breaker.record_failure():
            self._open(judgement.detail)

    def _open(self, detail: str) -> None:
        pause_seconds = self.breaker.open(self.limiter.in_flight)
        if pause_seconds is not None:
            self.throttle.pause(pause_seconds)
        self._report(False, detail)

    def _resume(self) -> None:
        self.breaker.allow_probe()
        self.on_resume()

    def _report(self, is_ok: bool, detail: str) -> None:
        self._is_ok_reported = is_ok
        self._health.set_condition(_CONDITION, is_ok, f"{self._name} {detail}")
