"""Problems of the connection: one line with the remedy each."""

from __future__ import annotations

import pytest

from sematext_agent.shared.bus.problems import (
    NO_TLS,
    describe_problem,
    find_violation,
    is_inbox_revoked,
)

PUBLISH = Exception('nats: permissions violation for publish to "events.a"')
INBOX = Exception("nats: 'Permissions Violation for Subscription to \"_INBOX.abc.*\"'")


@pytest.mark.parametrize(
    ("error", "user", "line"),
    [
        (PUBLISH, "docker", "the broker does not let the user docker publish to events.a: allow"),
        (PUBLISH, "", "the broker does not let a client without NATS_USER publish to events.a: "),
        (INBOX, "docker", "the broker does not let the user docker listen on _inbox.abc.*: allow"),
        (
            Exception("nats: 'Authorization Violation'"),
            "u",
            "the broker does not let the user u in",
        ),
        (Exception(NO_TLS), "u", f"{NO_TLS}: switch TLS on there"),
    ],
)
def test_a_problem_is_described_with_its_remedy(error: Exception, user: str, line: str) -> None:
    assert describe_problem(error, user).startswith(line)


def test_an_error_that_waiting_ends_is_no_problem() -> None:
    assert describe_problem(ConnectionRefusedError(111, "refused"), "docker") == ""


def test_a_violation_names_its_action_and_its_subject() -> None:
    assert find_violation(PUBLISH) == ("publish", "events.a")
    assert find_violation(Exception("nats: timeout")) is None
    assert (is_inbox_revoked(INBOX), is_inbox_revoked(PUBLISH)) == (True, False)
