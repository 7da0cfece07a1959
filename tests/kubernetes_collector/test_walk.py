"""The walk of docs/architecture.md: one revision from the watch request to the observation.

Each function passes the revision on to the next, and no file is entered a second time.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterator
from itertools import groupby
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from kubernetes_api import encode_frame, kubelet_event
from walk_table import read_walk

from sematext_agent.kubernetes_collector import pipeline
from sematext_agent.kubernetes_collector.retry_policy import RetryPolicy
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.kubernetes_collector.translate import Cluster
from sematext_agent.shared import merge
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime

WALK = [
    ("events_resource.py", "EventsResource._read"),
    ("events_resource.py", "LineSplitter.split"),
    ("events_resource.py", "EventsResource.watch_lines"),
    ("frames.py", "decode_frame"),
    ("frames.py", "FrameReader.decode_lines"),
    ("watch.py", "EventWatcher.watch_once"),
    ("watch.py", "EventWatcher.list_and_watch"),
    ("watch.py", "EventWatcher.watch_forever"),
    ("translate.py", "translate"),
    ("filters.py", "EventFilters.find_exclusion"),
    ("repeats.py", "RepeatLimiter.admit"),
    ("observations.py", "EventObserver._with_cursor"),
    ("observations.py", "EventObserver._observe_frames"),
    ("observations.py", "EventObserver.observe"),
    ("merge.py", "merge"),
    ("enrichment.py", "enrich"),
]
"""File and function, in the order in which they return or yield the revision."""
SIDES = {"retry_policy.py", "recovery.py"}
"""Files that are informed on the way and pass nothing on."""


COLLECTOR = Path(pipeline.__file__).parent
MERGE = Path(merge.__file__)


class Content:
    """The body of a watch with one frame; the profiler runs from its arrival on."""

    def __init__(self, profiler: Profiler) -> None:
        self._profiler = profiler

    def read_nowait(self) -> bytes:
        event = kubelet_event("one")
        event["metadata"]["resourceVersion"] = "101"
        # A kind whose details are never requested.
        event["involvedObject"]["kind"] = "Namespace"
        self._profiler.start()
        return encode_frame("ADDED", event)


class Profiler:
    """The functions of the collector that returned or yielded, in their order."""

    def __init__(self) -> None:
        self.returns: list[tuple[str, str]] = []

    def start(self) -> None:
        sys.setprofile(self._on_event)

    def _on_event(self, frame: FrameType, event: str, _: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "return" and (path.parent == COLLECTOR or path == MERGE):
            self.returns.append((path.name, frame.f_code.co_qualname))


class OneFrameApi:
    """An API server whose watch brings one frame."""

    def __init__(self, profiler: Profiler) -> None:
        self._profiler = profiler

    async def request(self, *_: object, **__: object) -> bytes:
        return b'{"metadata":{"resourceVersion":"100"},"items":[]}'

    @contextlib.asynccontextmanager
    async def stream(self, *_: object, **__: object) -> AsyncIterator[Content]:
        yield Content(self._profiler)


class StoredCursor:
    async def read(self, _: str) -> bytes:
        return b'{"revision":100,"seen":1.0}'


@pytest.fixture
def profiler() -> Iterator[Profiler]:
    yield Profiler()
    sys.setprofile(None)


async def test_one_revision_passes_each_file_once(profiler: Profiler) -> None:
    bus: Any = None
    api: Any = OneFrameApi(profiler)
    cursors: Any = StoredCursor()
    health = Health("kubernetes", "host")
    settings = KubernetesSettings(kubernetes_events_enrichment=True)
    runtime = Runtime(settings, health, bus, asyncio.Event())
    runtime.cursors = cursors
    retries = RetryPolicy(health, runtime.stopping)
    observations = pipeline.watch_cluster(api, retries, Cluster("uid", "prod"), runtime, None)
    async with contextlib.aclosing(observations):
        async for observation in observations:
            sys.setprofile(None)
            if observation.event is not None:
                break
    assert [step for step in profiler.returns if step in WALK][: len(WALK)] == WALK
    assert {file for file, _ in profiler.returns} - {file for file, _ in WALK} <= SIDES
    files = [file for file, _ in groupby(file for file, _ in WALK)]
    assert len(files) == len(set(files))


def test_the_documented_walk_is_that_of_the_calls() -> None:
    documented = [(file.rpartition("/")[2], function) for file, function in read_walk("kubernetes")]
    assert documented == [step for step in WALK if step in documented]
    assert [file for file, _ in documented] == list(dict.fromkeys(file for file, _ in WALK))
