"""The simulated broker: subjects, JetStream's API, and the lives that faults give it."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from simulation.consumers import Consumer, ConsumerState
from simulation.network import RESET, Connection, Frame
from simulation.streams import Info, StoredMessage, Stream, StreamCopy, error, wall_ns
from simulation.world import World

from sematext_agent.shared.events import format_rfc3339

TICK_SECONDS = 0.1
"""Granularity of ack deadlines, heartbeats and expiries."""
CHECKPOINT_SECONDS = 0.25
"""Pause between two writes of a consumer's state to the disk."""
CHECKPOINTS_MAX = 40

_NO_RESPONDERS = {"Status": "503"}
OnMessage = Callable[[StoredMessage], None]


class StoreCopy(NamedTuple):
    """A backup of the whole store."""

    streams: dict[str, StreamCopy]
    consumers: dict[tuple[str, str], tuple[Info, ConsumerState]]


class Broker:
    """One nats-server with JetStream in a file store that is synced at every write.

    A stream therefore loses nothing in a crash, but the state of a consumer, which the server
    writes later, falls back to an earlier one.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self.epoch = 0
        self._lives = 0
        self.streams: dict[str, Stream] = {}
        self.consumers: dict[tuple[str, str], Consumer] = {}
        self.is_disk_full = False
        self.on_ack: OnMessage = lambda message: None
        """Called with each acknowledged message of the stream of events."""
        self.on_purge: Callable[[str, StoredMessage], None] = lambda stream, message: None
        self.on_store: Callable[[str, StoredMessage], None] = lambda stream, message: None
        self._connections: dict[Connection, None] = {}
        self._listeners: dict[str, dict[tuple[Connection, int], None]] = {}
        self._checkpoints: dict[tuple[str, str], deque[tuple[float, ConsumerState]]] = {}

    # Lives

    def start(self) -> None:
        """Begin a life on what is stored."""
        self._lives += 1
        self.epoch = self._lives
        self._world.record(f"broker starts, life {self.epoch}")
        self._world.call_later(TICK_SECONDS, self._tick, self.epoch)
        self._world.call_later(0, self._checkpoint, self.epoch)

    def stop(self) -> None:
        """End in order: nothing is forgotten."""
        for key, consumer in self.consumers.items():
            self._store_state(key, consumer)
        self.kill(0.0)

    def kill(self, forgotten_seconds: float) -> None:
        """Die at once; consumers fall back to their state of so many seconds ago."""
        self._world.record(f"broker dies and forgets {forgotten_seconds:.3f} s")
        limit = self._world.now - forgotten_seconds
        self.epoch = 0
        for connection in self._connections:
            connection.answer(RESET)
        self._connections.clear()
        self._listeners.clear()
        for name, stream in self.streams.items():
            stream.reload(stream.copy(), self._world.now)
            self._world.record(f"{name} has {stream.first} to {stream.last}")
        for key, consumer in self.consumers.items():
            stored = [state for when, state in self._checkpoints.get(key, ()) if when <= limit]
            consumer.reload(stored[-1] if stored else self._checkpoints[key][0][1])
            for pending in consumer.state.pending.values():
                pending.since = self._world.now
            self._checkpoints[key].clear()

    def backup(self) -> StoreCopy:
        """Return a copy of the store."""
        return StoreCopy(
            {name: stream.copy() for name, stream in self.streams.items()},
            {key: (c.config, c.state.copy()) for key, c in self.consumers.items()},
        )

    def restore(self, copy: StoreCopy) -> None:
        """Put a backup in the place of the store; the broker must be down."""
        now = self._world.now
        self.streams.clear()
        self.consumers.clear()
        self._checkpoints.clear()
        for stored in copy.streams.values():
            self._add_stream(Stream(stored.config, now)).reload(stored, now)
        for (name, _), (config, state) in copy.consumers.items():
            self._add_consumer(name, config).reload(state)

    def _tick(self, epoch: int) -> None:
        if epoch != self.epoch:
            return
        self.tick()
        self._world.call_later(TICK_SECONDS, self._tick, epoch)

    def tick(self) -> None:
        """Do what is to be done by now."""
        for consumer in self.consumers.values():
            if consumer.state.pending or consumer.requests:
                consumer.tick(self._world.now)

    def _checkpoint(self, epoch: int) -> None:
        if epoch != self.epoch:
            return
        for key, consumer in self.consumers.items():
            self._store_state(key, consumer)
        self._world.call_later(CHECKPOINT_SECONDS, self._checkpoint, epoch)

    def _store_state(self, key: tuple[str, str], consumer: Consumer) -> None:
        if consumer.is_changed:
            states = self._checkpoints.setdefault(key, deque(maxlen=CHECKPOINTS_MAX))
            states.append((self._world.now, consumer.state.copy()))
            consumer.is_changed = False

    # Connections

    def receive(self, connection: Connection, frames: list[Frame]) -> None:
        """Take what a client has sent."""
        self._connections.setdefault(connection)
        for frame in frames:
            match frame.verb:
                case "PUB":
                    self._publish(frame)
                case "SUB":
                    connection.subscriptions[frame.sid] = frame.subject
                    listeners = self._listeners.setdefault(frame.subject, {})
                    listeners[connection, frame.sid] = None
                case "UNSUB":
                    self._unsubscribe(connection, frame.sid)
                case "PING":
                    connection.answer(Frame("PONG", frame.sid))
                case "CLOSE":
                    self._close(connection)

    def _unsubscribe(self, connection: Connection, sid: int) -> None:
        subject = connection.subscriptions.pop(sid, None)
        if subject is not None:
            self._listeners[subject].pop((connection, sid))
            if not self._listeners[subject]:
                del self._listeners[subject]

    def _close(self, connection: Connection) -> None:
        connection.is_open = False
        for sid in list(connection.subscriptions):
            self._unsubscribe(connection, sid)
        self._connections.pop(connection, None)
        for consumer in self.consumers.values():
            consumer.drop_requests(self._has_listener)

    def _find_listeners(self, subject: str) -> list[tuple[Connection, int]]:
        parent = f"{subject.rpartition('.')[0]}.*"
        return [*self._listeners.get(subject, ()), *self._listeners.get(parent, ())]

    def _has_listener(self, subject: str) -> bool:
        return bool(self._find_listeners(subject))

    def _send(
        self, to: str, subject: str, reply: str, data: bytes, headers: dict[str, str] | None
    ) -> bool:
        listeners = self._find_listeners(to)
        for connection, sid in listeners:
            connection.answer(Frame("MSG", sid, subject, reply, data, headers))
        return bool(listeners)

    def _answer(self, frame: Frame, data: bytes, headers: dict[str, str] | None = None) -> None:
        if frame.reply:
            self._send(frame.reply, frame.reply, "", data, headers)

    # Publishes

    def _publish(self, frame: Frame) -> None:
        subject = frame.subject
        if subject.startswith("$JS.API."):
            self._on_request(frame, subject[len("$JS.API.") :])
        elif subject.startswith("$JS.ACK."):
            self._on_response(frame)
        elif (stream := self._find_stream(subject)) is not None:
            self._store(stream, frame)
        elif not self._send(subject, subject, frame.reply, frame.payload, frame.headers):
            self._answer(frame, b"", _NO_RESPONDERS)

    def _find_stream(self, subject: str) -> Stream | None:
        return next((s for s in self.streams.values() if s.takes(subject)), None)

    def _store(self, stream: Stream, frame: Frame) -> None:
        if self.is_disk_full:
            return  # until it is started again the server neither stores nor answers
        now = self._world.now
        answer = stream.store(frame.subject, frame.headers, frame.payload, now)
        self._answer(frame, json.dumps(answer).encode())
        if "error" not in answer and "duplicate" not in answer:
            self.on_store(stream.name, stream.messages[answer["seq"]])
            for (name, _), consumer in self.consumers.items():
                if name == stream.name:
                    consumer.deliver(now)

    def _on_response(self, frame: Frame) -> None:
        _, _, stream, name, _, sequence, *_ = frame.subject.split(".")
        consumer = self.consumers.get((stream, name))
        if consumer is not None:
            consumer.respond(int(sequence), frame.payload, self._world.now)
            if frame.reply:
                self._answer(frame, b"")

    # JetStream's API

    def _on_request(self, frame: Frame, call: str) -> None:
        kind, _, rest = call.partition(".")
        verb, _, name = rest.partition(".")
        if call.startswith("CONSUMER.MSG.NEXT."):
            self._on_pull(frame, call.removeprefix("CONSUMER.MSG.NEXT."))
        elif call.startswith("DIRECT.GET."):
            self._on_direct_get(frame, *call.removeprefix("DIRECT.GET.").split(".", 1))
        else:
            request = json.loads(frame.payload) if frame.payload else {}
            handle = {"STREAM": self._on_stream_call, "CONSUMER": self._on_consumer_call}[kind]
            self._answer(frame, json.dumps(handle(verb, name, request)).encode())

    def _on_pull(self, frame: Frame, name: str) -> None:
        stream, _, consumer = name.partition(".")
        if (stream, consumer) in self.consumers:
            self.consumers[stream, consumer].request(frame.reply, frame.payload, self._world.now)
        else:
            self._answer(frame, b"", _NO_RESPONDERS)

    def _on_direct_get(self, frame: Frame, name: str, subject: str) -> None:
        stream = self.streams.get(name)
        if stream is None:
            self._answer(frame, b"", _NO_RESPONDERS)
        elif (entry := stream.find_last(subject)) is None:
            missing = {"Status": "404", "Description": "Message Not Found"}
            self._answer(frame, b"", missing)
        else:
            sequence, message = entry
            headers = {
                **(message.headers or {}),
                "Nats-Stream": name,
                "Nats-Subject": subject,
                "Nats-Sequence": str(sequence),
                "Nats-Time-Stamp": format_rfc3339(message.time_ns),
            }
            self._answer(frame, message.data, headers)

    def _on_stream_call(self, verb: str, name: str, request: Info) -> Info:
        if verb == "MSG":
            name = name.removeprefix("GET.")
        if verb == "NAMES":
            return {"total": len(self.streams), "streams": list(self.streams) or None}
        if verb == "CREATE":
            if name not in self.streams:
                self._add_stream(Stream(request, self._world.now))
            return self._stream_info(name)
        if name not in self.streams:
            return error(404, 10059, "stream not found")
        stream = self.streams[name]
        match verb:
            case "MSG":
                return _read_message(stream, request["seq"])
            case "UPDATE":
                stream.config = request
            case "PURGE":
                purged = self.purge(name, request.get("seq", 0))
                return {"success": True, "purged": purged}
            case "DELETE":
                self._delete_stream(name)
                return {"success": True}
        return self._stream_info(name)

    def _stream_info(self, name: str) -> Info:
        count = sum(stream == name for stream, _ in self.consumers)
        return self.streams[name].info(count)

    def _add_stream(self, stream: Stream) -> Stream:
        self.streams[stream.name] = stream
        stream.on_purge = lambda message: self.on_purge(stream.name, message)
        return stream

    def _delete_stream(self, name: str) -> None:
        for stream, consumer in list(self.consumers):
            if stream == name:
                self.delete_consumer(stream, consumer)
        del self.streams[name]

    def purge(self, name: str, first: int) -> int:
        """Drop the messages of a stream before `first`; 0 drops all."""
        stream = self.streams[name]
        purged = stream.purge(first)
        self._world.record(f"purged {purged} of {name}, now from {stream.first}")
        for (owner, _), consumer in self.consumers.items():
            if owner == name and purged:
                consumer.on_purge(stream.first)
        return purged

    def _on_consumer_call(self, verb: str, name: str, request: Info) -> Info:
        stream, _, consumer = name.partition(".")
        if stream not in self.streams:
            return error(404, 10059, "stream not found")
        existing = self.consumers.get((stream, consumer))
        if verb == "CREATE":
            if existing is None:
                existing = self._add_consumer(stream, request["config"])
            elif request.get("action") == "create" and existing.config != request["config"]:
                return error(400, 10148, "consumer already exists")
        if existing is None:
            return error(404, 10014, "consumer not found")
        if verb == "DELETE":
            self.delete_consumer(stream, consumer)
            return {"success": True}
        info = existing.info()
        info["created"] = format_rfc3339(wall_ns(existing.created_at))
        return info

    def _add_consumer(self, stream: str, config: Info) -> Consumer:
        key = stream, config["name"]
        consumer = Consumer(self.streams[stream], config, self._send, self._world.now)
        consumer.on_ack = lambda sequence, message: self._on_ack(key, sequence, message)
        self.consumers[key] = consumer
        self._checkpoints[key] = deque(maxlen=CHECKPOINTS_MAX)
        self._store_state(key, consumer)
        return consumer

    def _on_ack(self, key: tuple[str, str], sequence: int, message: StoredMessage) -> None:
        if key[0] == "EVENTS":
            self.on_ack(message)

    def delete_consumer(self, stream: str, name: str) -> None:
        """Delete a consumer; whoever pulls from it learns so."""
        consumer = self.consumers.pop((stream, name), None)
        if consumer is not None:
            consumer.end_requests("Consumer Deleted")


def _read_message(stream: Stream, sequence: int) -> Info:
    """Return the answer to a request for one message."""
    message = stream.messages.get(sequence)
    if message is None:
        return error(404, 10037, "no message found")
    stored = {"subject": message.subject, "seq": sequence, "time": format_rfc3339(message.time_ns)}
    return {"message": stored}
