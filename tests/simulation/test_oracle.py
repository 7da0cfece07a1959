"""The simulation finds a promise broken where the code is broken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from simulation.isolated import run_isolated
from simulation.scenario import Fault, Scenario

from sematext_agent.forwarder.delivered_ids import DeliveredIds
from sematext_agent.forwarder.delivery import Delivery
from sematext_agent.forwarder.lease import AckLease
from sematext_agent.forwarder.settlement import Settlement
from sematext_agent.shared.collector import PublishWindow

FAULTS = [
    Fault(kind="receiver_error", at=10.0, seconds=5.0),
    Fault(kind="broker_kill", at=25.0, seconds=2.0, value=3.0),
    Fault(kind="disk_full", at=40.0, seconds=8.0),
]


def acknowledge(settlement: Settlement, delivery: Delivery, _: object) -> None:
    """Acknowledge a failed delivery."""
    settlement.acknowledgements.finish(delivery)


def give_up(window: PublishWindow, entry: Any, answer: Any) -> None:
    """Count an event as safe, whatever the answer to its publish was."""
    answer.exception()
    entry.is_safe = True
    window._advance()


@pytest.mark.parametrize(
    ("owner", "name", "broken", "kind"),
    [
        (Settlement, "_on_failed", acknowledge, "LOST"),
        (PublishWindow, "_on_answer", give_up, "LOST"),
        (DeliveredIds, "__contains__", lambda ids, id: False, "COPIES"),  # noqa: A006
    ],
)
def test_broken_code_is_found(
    owner: type, name: str, broken: Callable[..., object], kind: str, monkeypatch: Any
) -> None:
    scenario = Scenario(seed=1, rate=10, seconds=50, faults=FAULTS)
    assert run_isolated(scenario).findings == []
    monkeypatch.setattr(owner, name, broken)
    assert kind in run_isolated(scenario).kinds


def test_a_lease_that_never_expires_is_found(monkeypatch: Any) -> None:
    faults = [
        Fault(kind="receiver_down", at=18.0, seconds=10.0),
        Fault(kind="stop", at=20.0, seconds=40.0, target="forwarder0"),
    ]
    scenario = Scenario(seed=1, forwarders=2, rate=10, seconds=30, faults=faults)
    assert run_isolated(scenario).findings == []
    monkeypatch.setattr(AckLease, "is_expired", lambda lease: False)
    assert "COPIES" in run_isolated(scenario).kinds
