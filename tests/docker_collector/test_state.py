"""The cursor: what it holds, and that it stays small and cheap."""

from __future__ import annotations

import msgspec

from sematext_agent.docker_collector.state import CURSOR_BYTES_MAX, Cursor, Seen, State
from sematext_agent.docker_collector.translate import Message
from sematext_agent.shared.events import event_id


def message(action: str = "top", container: str = "c1", moment: int = 1) -> Message:
    given = {"name": "web", "image": "nginx"}
    return Message("container", action, action, container, given, "local", moment)


def reloaded(state: State) -> State:
    return State("unix:///s", state.cursor({}))


def test_a_message_is_noted_once_and_still_after_a_restart() -> None:
    state = State("unix:///s", None)
    assert state.is_new
    assert state.note(event_id(1), message())
    assert not state.note(event_id(1), message())
    after = reloaded(state)
    assert not after.is_new
    assert after.knows(event_id(1))
    assert not after.knows(event_id(2))


def test_the_last_512_messages_are_stored_whatever_came_before() -> None:
    state = State("unix:///s", None)
    for number in range(10_000):
        state.note(event_id(number), message())
    after = reloaded(state)
    assert all(after.knows(event_id(number)) for number in range(10_000 - 512, 10_000))
    assert not after.knows(event_id(9000))


def test_containers_are_followed_from_their_creation_to_their_end() -> None:
    state = State("unix:///s", None)
    for number, action in enumerate(("create", "start", "rename", "top")):
        state.note(event_id(action), message(action, moment=number))
    assert reloaded(state).containers == {"c1": Seen("web", "nginx", True, 1)}
    state.note(event_id("die"), message("die", moment=9))
    assert reloaded(state).containers == {"c1": Seen("web", "nginx", False, 9)}
    state.note(event_id("destroy"), message("destroy", moment=10))
    assert reloaded(state).containers == {}
    assert "c1" in state.destroyed


def test_a_cursor_is_small_on_a_large_host() -> None:
    """The broker takes a value of 1 MB at most."""
    state = State("unix:///s", None)
    for number in range(10_000):
        container = event_id(number) * 2
        state.containers[container] = Seen("n" * 40, "i" * 60, number >= 9_000, 10**18)
        state.note(event_id(number), message())
    images = {f"sha256:{event_id(number) * 2}": ("i" * 60,) for number in range(5000)}
    cursor = state.cursor(images)
    assert len(cursor) < 1_000_000
    kept = msgspec.json.decode(cursor, type=Cursor).containers
    assert sum(seen.running for seen in kept.values()) == 1000


def test_the_cursor_of_a_usual_host_takes_a_few_kilobytes() -> None:
    state = State("unix:///s", None)
    for number in range(1000):
        state.note(event_id(number), message("start", f"{event_id(number % 20)}", number))
    assert len(state.cursor({})) < 8_000


def test_a_cursor_stays_below_what_the_broker_takes_however_long_the_names_are() -> None:
    state = State("unix:///s", None)
    for number in range(5_000):
        state.containers[event_id(number) * 2] = Seen("n" * 120, "i" * 160, number < 500, 10**18)
    images = {f"sha256:{event_id(number) * 2}": ("t" * 200,) * 5 for number in range(2_000)}
    assert len(state.cursor(images)) <= CURSOR_BYTES_MAX
    kept = reloaded(state).containers
    assert all(kept[event_id(number) * 2].running for number in range(500))
