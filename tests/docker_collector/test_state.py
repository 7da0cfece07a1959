"""The state and its cursor: contents, bounds, and what survives a restart."""

from __future__ import annotations

import msgspec

from sematext_agent.docker_collector.message import EngineMessage
from sematext_agent.docker_collector.state import (
    CURSOR_BYTES_MAX,
    ContainerState,
    EngineCursor,
    EngineState,
)
from sematext_agent.shared.events import event_id


def message(action: str = "top", container: str = "c1", moment: int = 1) -> EngineMessage:
    attributes = {"name": "web", "image": "nginx"}
    return EngineMessage("container", action, action, container, attributes, "local", moment)


def reloaded(state: EngineState) -> EngineState:
    return EngineState("unix:///s", state.cursor({}))


def test_a_duplicate_is_recognized_also_after_a_restart() -> None:
    state = EngineState("unix:///s", None)
    assert state.is_new
    assert state.record_message(event_id(1), message())
    assert not state.record_message(event_id(1), message())
    after = reloaded(state)
    assert not after.is_new
    assert after.has_message(event_id(1))
    assert not after.has_message(event_id(2))


def test_the_last_512_messages_survive_a_restart() -> None:
    state = EngineState("unix:///s", None)
    for number in range(10_000):
        state.record_message(event_id(number), message())
    after = reloaded(state)
    assert all(after.has_message(event_id(number)) for number in range(10_000 - 512, 10_000))
    assert not after.has_message(event_id(9000))


def test_containers_are_recorded_from_creation_to_destruction() -> None:
    state = EngineState("unix:///s", None)
    for number, action in enumerate(("create", "start", "rename", "top")):
        state.record_message(event_id(action), message(action, moment=number))
    assert reloaded(state).containers == {"c1": ContainerState("web", "nginx", True, 1)}
    state.record_message(event_id("die"), message("die", moment=9))
    assert reloaded(state).containers == {"c1": ContainerState("web", "nginx", False, 9)}
    state.record_message(event_id("destroy"), message("destroy", moment=10))
    assert reloaded(state).containers == {}
    assert "c1" in state.destroyed


def test_a_cursor_is_small_on_a_large_host() -> None:
    """The broker takes a value of 1 MB at most."""
    state = EngineState("unix:///s", None)
    for number in range(10_000):
        container = event_id(number) * 2
        state.containers[container] = ContainerState("n" * 40, "i" * 60, number >= 9_000, 10**18)
        state.record_message(event_id(number), message())
    images: dict[str, tuple[str, ...]] = {
        f"sha256:{event_id(number) * 2}": ("i" * 60,) for number in range(5000)
    }
    cursor = state.cursor(images)
    assert len(cursor) < 1_000_000
    kept = msgspec.json.decode(cursor, type=EngineCursor).containers
    assert sum(container.running for container in kept.values()) == 1000


def test_the_cursor_of_a_usual_host_takes_a_few_kilobytes() -> None:
    state = EngineState("unix:///s", None)
    for number in range(1000):
        state.record_message(event_id(number), message("start", f"{event_id(number % 20)}", number))
    assert len(state.cursor({})) < 8_000


def test_a_cursor_with_long_names_stays_within_its_bound() -> None:
    state = EngineState("unix:///s", None)
    for number in range(5_000):
        state.containers[event_id(number) * 2] = ContainerState(
            "n" * 120, "i" * 160, number < 500, 10**18
        )
    images: dict[str, tuple[str, ...]] = {
        f"sha256:{event_id(number) * 2}": ("t" * 200,) * 5 for number in range(2_000)
    }
    assert len(state.cursor(images)) <= CURSOR_BYTES_MAX
    kept = reloaded(state).containers
    assert all(kept[event_id(number) * 2].running for number in range(500))
