"""From what was read to events: each message once, gaps told, and what they hid made up for."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterator

from sematext_agent.docker_collector import reconcile
from sematext_agent.docker_collector.backlog import Item, Lines, Lost, Ring
from sematext_agent.docker_collector.connection import Connection
from sematext_agent.docker_collector.engine import RING_EVENTS, Container, EngineError, Snapshot
from sematext_agent.docker_collector.filters import Filter
from sematext_agent.docker_collector.knowledge import Containers, Images
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.state import State
from sematext_agent.docker_collector.translate import Known, Message, decode, identity, translate
from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import NS_PER_SECOND, Event, Gap, event_id, format_rfc3339
from sematext_agent.shared.health import Health

log = logging.getLogger(__name__)

_ON_ITS_WAY = 2 * NS_PER_SECOND
"""How long a message may take through the stream before an audit counts it as missed."""


class Follower:
    """Takes the items of the backlog in order, and knows what has been before."""

    def __init__(
        self,
        settings: DockerSettings,
        host: str,
        started: int,
        state: State,
        connection: Connection,
        health: Health,
    ) -> None:
        """
        Args:
            settings: what is told.
            host: the identity of this host in event ids.
            started: since when messages are told on the first run, in nanoseconds since the epoch.
            state: how far the collector is.
            connection: to ask the engine, and to tell that the stream is not to be trusted.
            health: counts.
        """
        self._probes_told = settings.container_events_healthchecks
        self._host = host
        self._origin = settings.hostname
        self._started = started
        self._state = state
        self._connection = connection
        self._filter = Filter(settings)
        self._containers = Containers()
        self._images = Images(state.images)
        self._left_out = health.add_counter("messages_left_out", "Messages not told.", "reason")
        self._missed = health.add_counter("messages_missed", "Messages only an audit brought.")

    def cursor(self) -> bytes:
        """The cursor that holds once all that was taken is safe."""
        return self._state.cursor(self._images.tags)

    async def take(self, item: Item) -> AsyncIterator[Event | None]:
        """The events in an item; None for a message that is not told."""
        match item:
            case Lines(pieces):
                for piece in pieces:
                    for line in piece.split(b"\n"):
                        yield await self._on_line(line)
            case Ring():
                self._connection.ring_taken()
                async for event in self._on_ring(item):
                    yield event
            case Lost(count):
                yield self._gap("overflow", count, "more happened than could be held in memory")
            case Snapshot():
                for event in self._on_snapshot(item):
                    yield event
                yield None

    async def _on_line(self, line: bytes) -> Event | None:
        message = self._decode(line)
        return None if message is None else await self._on_message(message)

    def _decode(self, line: bytes) -> Message | None:
        try:
            return decode(line)
        except DECODE_ERRORS as error:
            self._left_out.labels("unreadable").inc()
            log.warning("skipped a message that cannot be read (%s): %r", error, line[:200])
            return None

    async def _on_message(self, message: Message) -> Event | None:
        identifier = identity(message, self._host)
        of_container = message.type == "container"
        if not self._state.note(identifier, message):
            # Told already; but which exec is a health check's is learned from it again.
            if of_container and message.verb == "exec_create":
                await self._look_closer(message)
                self._containers.learn(message)
            return None
        exit_code = None
        if of_container:
            if self._containers.needs_inspection(message):
                exit_code = await self._look_closer(message)
            self._containers.learn(message)
        reason = self._why_not(message)
        image_tags = await self._image_tags(message) if message.type == "image" else ()
        labels = self._containers.labels.get(message.id)
        if of_container and message.verb == "destroy":
            self._containers.forget(message.id)
        if reason:
            self._left_out.labels(reason).inc()
            return None
        return translate(message, identifier, self._origin, Known(labels, image_tags, exit_code))

    def _why_not(self, message: Message) -> str:
        """Why a message is not told, in a word; empty if it is."""
        if (
            message.type == "container"
            and self._containers.is_noise(message)
            and (message.verb == "health_status" or not self._probes_told)
        ):
            return "healthcheck"
        if not self._filter.wants(message.type, message.verb):
            return "excluded"
        given = message.attributes
        if message.type == "container" and message.id:
            name, image = given.get("name", ""), given.get("image", "")
        elif (seen := self._state.containers.get(given.get("container", ""))) is not None:
            # A network or a volume that the container joins or leaves.
            name, image = seen.name, seen.image
        else:
            return ""
        return "" if self._filter.wants_container(name, image) else "container"

    async def _look_closer(self, message: Message) -> int | None:
        """Learns what only an inspection tells; returns the exit code that a label hides."""
        if not self._containers.needs_inspection(message):
            return None
        container = await self._inspect(message.id)
        if container is None or message.verb != "die":
            return None
        # It may have run again since.
        if abs(container.finished - message.nanoseconds) > _ON_ITS_WAY:
            return None
        return container.exit_code if self._containers.hides_exit_code(message.id) else None

    async def _inspect(self, container_id: str) -> Container | None:
        if (engine := self._connection.engine) is None:
            return None
        try:
            container = await asyncio.to_thread(engine.container, container_id)
        except EngineError as error:
            log.debug("cannot inspect %s: %s", container_id, error)
            if not error.status:
                return None
            container = None
        if container is None:
            self._containers.does_not_exist(container_id)
        else:
            self._containers.know(container, closely=True)
        return container

    async def _image_tags(self, message: Message) -> tuple[str, ...]:
        self._images.learn(message)
        if message.verb == "delete":
            return self._images.deleted(message)
        if message.verb == "pull":
            # It names no image id, so that whose tag it is now must be asked.
            self._connection.want_snapshot()
        if message.verb != "untag":
            return ()
        now = None
        if self._images.is_ambiguous(message) and (engine := self._connection.engine):
            try:
                now = await asyncio.to_thread(engine.image_tags, message.id)
            except EngineError as error:
                log.debug("cannot inspect %s: %s", message.id, error)
        return self._images.untagged(message, now)

    async def _on_ring(self, ring: Ring) -> AsyncIterator[Event | None]:
        """What the engine remembers: shows whether it has forgotten, and what was not brought."""
        messages = [message for line in ring.lines if (message := self._decode(line))]
        unknown = [not self._state.knows(identity(m, self._host)) for m in messages]
        if ring.snapshot is not None:
            self._know(ring.snapshot)
        if self._state.is_new:
            self._begin(ring.snapshot, messages)
        else:
            if (gap := self._gap_before(messages, unknown)) is not None:
                yield gap
            if ring.snapshot is None:
                self._audit(ring.moment, messages, unknown)
            else:
                self._ask_what_changed()
        for message in messages:
            yield await self._on_message(message)
        yield None

    def _begin(self, snapshot: Snapshot | None, messages: list[Message]) -> None:
        """The first run: what was before is known from now on, and not told."""
        for message in messages:
            if message.nanoseconds < self._started:
                self._state.note(identity(message, self._host), message)
        if snapshot is not None:
            self._state.take_over(snapshot)
        self._state.latest = max(self._state.latest, self._started)
        self._state.is_new = False

    def _gap_before(self, messages: list[Message], unknown: list[bool]) -> Event | None:
        """The gap before what the engine remembers, if what was read last is not in it."""
        if all(unknown) and self._state.has_read:
            full = len(messages) >= RING_EVENTS
            self._state.forget_recent()
            if not full:
                return self._gap(
                    "engine_restarted", None, "the engine has restarted and forgotten", messages
                )
        elif not (len(messages) >= RING_EVENTS and unknown[0]):
            return None
        detail = f"more happened than the {RING_EVENTS} events that the engine remembers"
        return self._gap("overflow", None, detail, messages)

    def _gap(
        self, reason: str, lost: int | None, detail: str, after: list[Message] | None = None
    ) -> Event:
        """A gap since the latest message; what changed in it will be found by comparison."""
        self._state.unreconciled = True
        self._ask_what_changed()
        until = after[0].nanoseconds if after else time.time_ns()
        since = min(self._state.latest, until)
        return Event(
            id=event_id("docker", self._host, "gap", reason, since),
            time=format_rfc3339(until),
            origin=self._origin,
            agent=AGENT_VERSION,
            body=Gap(
                source="docker",
                reason=reason,
                since=format_rfc3339(since),
                until=format_rfc3339(until),
                detail=detail,
                lost=lost,
            ),
        )

    def _audit(self, moment: int, messages: list[Message], unknown: list[bool]) -> None:
        """Counts what the stream should have brought by now, and replaces a stream that did not."""
        missed = sum(
            new and message.nanoseconds < moment - _ON_ITS_WAY
            for message, new in zip(messages, unknown, strict=True)
        )
        if missed:
            log.warning("the stream did not bring %d events: opening another", missed)
            self._missed.inc(missed)
            self._connection.renew()

    def _know(self, snapshot: Snapshot) -> None:
        for container in snapshot.containers.values():
            self._containers.know(container, closely=bool(container.started))
        self._images.know(snapshot.images)

    def _ask_what_changed(self) -> None:
        if self._state.unreconciled:
            self._connection.want_snapshot()

    def _on_snapshot(self, snapshot: Snapshot) -> Iterator[Event]:
        """What a gap hid, as events that say they are synthetic."""
        self._know(snapshot)
        if not self._state.unreconciled:
            return
        state = self._state
        for action, moment, container in reconcile.missing(
            state.containers, state.destroyed, snapshot
        ):
            state.follow(action, container.id, moment, container.name, container.image)
            if action == "destroy":
                self._containers.forget(container.id)
            if self._filter.wants("container", action) and self._filter.wants_container(
                container.name, container.image
            ):
                yield reconcile.synthetic(action, moment, container, self._host, self._origin)
        state.unreconciled = False
