"""The path of a line: forward through its stages only, with inspections beside it."""

from __future__ import annotations

import sys
import threading
import time
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any

from fake_engine import message
from walk_table import read_walk

from sematext_agent import docker_collector
from sematext_agent.docker_collector.buffer import EventLines
from sematext_agent.docker_collector.engine import EngineContainer
from sematext_agent.docker_collector.pipeline import EventPipeline
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.shared.events import DockerEvent, Event
from sematext_agent.shared.health import Health

SOURCES = Path(docker_collector.__file__).parent
PATH = [
    "pipeline.py",
    "decoder.py",
    "deduplicator.py",
    "inspections.py",
    "message.py",
    "state.py",
    "lookup.py",
    "containers.py",
    "filters.py",
    "translate.py",
]
"""The files of a container's message, in the order of docs/architecture.md."""
BESIDE = {"inspections.py", "message.py", "state.py"}
"""Files that a stage calls and that hand nothing on."""


class ScriptedEngine:
    """An engine whose inspections wait until so many of them are under way."""

    def __init__(self, parallel: int) -> None:
        self._barrier = threading.Barrier(parallel, timeout=5)
        self.inspected: list[str] = []

    def container(self, container_id: str) -> EngineContainer | None:
        self.inspected.append(container_id)
        self._barrier.wait()
        time.sleep(0.05 if container_id == "c1" else 0)
        return EngineContainer(container_id, "web", "nginx", {"of": container_id}, running=True)


def new_pipeline(engine: ScriptedEngine | None = None) -> EventPipeline:
    connection: Any = SimpleNamespace(engine=engine)
    state = EngineState("", b'{"address":""}')
    return EventPipeline(DockerSettings(), "host", state, connection, Health("docker", "web-01"))


def lines(*actions: tuple[str, str]) -> EventLines:
    """Return a batch of one message for each action and container id."""
    texts = [
        message("container", action, container, {"name": "web", "image": "nginx"})
        for action, container in actions
    ]
    return EventLines([b"\n".join(texts)])


async def process(pipeline: EventPipeline, batch: EventLines) -> list[Event]:
    return [event async for event in pipeline.process(batch) if event is not None]


async def test_a_line_enters_the_file_of_each_stage_once() -> None:
    pipeline = new_pipeline()
    files: list[str] = []

    def record(frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.parent == SOURCES and files[-1:] != [path.name]:
            files.append(path.name)

    batch = lines(("start", "c1"))
    sys.setprofile(record)
    try:
        event = await anext(pipeline.process(batch))
    finally:
        sys.setprofile(None)
    assert event is not None
    assert files == PATH


def test_the_documented_walk_has_every_stage_of_the_path() -> None:
    documented = [file.rpartition("/")[2] for file, _ in read_walk("docker")]
    begin = documented.index(PATH[0])
    stages = [file for file in PATH if file not in BESIDE]
    assert documented[begin : begin + len(stages)] == stages


async def test_the_inspections_of_a_batch_run_at_once_and_the_events_keep_their_order() -> None:
    engine = ScriptedEngine(parallel=3)
    batch = lines(("die", "c1"), ("die", "c2"), ("die", "c3"))
    events = await process(new_pipeline(engine), batch)
    bodies = [event.body for event in events if isinstance(event.body, DockerEvent)]
    assert [body.actor_id for body in bodies] == ["c1", "c2", "c3"]
    assert sorted(engine.inspected) == ["c1", "c2", "c3"]


async def test_a_container_is_inspected_once_for_all_messages_of_a_batch() -> None:
    engine = ScriptedEngine(parallel=1)
    await process(new_pipeline(engine), lines(("die", "c1"), ("kill", "c1"), ("exec_die", "c1")))
    assert engine.inspected == ["c1"]


async def test_a_container_that_its_batch_describes_is_not_inspected() -> None:
    engine = ScriptedEngine(parallel=1)
    await process(new_pipeline(engine), lines(("create", "c1"), ("start", "c1"), ("die", "c1")))
    assert engine.inspected == []


async def test_a_duplicate_is_not_inspected() -> None:
    engine = ScriptedEngine(parallel=1)
    pipeline = new_pipeline(engine)
    batch = lines(("die", "c1"), ("destroy", "c1"))
    assert len(await process(pipeline, batch)) == 2
    assert await process(pipeline, batch) == []
    assert engine.inspected == ["c1"]
