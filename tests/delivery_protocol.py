"""The delivery protocol as a model that is small enough to visit every state of it.

One collector, one broker, one forwarder and one receiver; a few events, and a few faults at any
moments. `explore` visits every state that can be reached, and checks in each of them:

- Nothing acknowledged is lost: it is in the stream and not acknowledged there, or was received.
- An event is received under one id. It is received twice only if a 2xx was lost, or a forwarder
  died between a 2xx and its acknowledgement; after several faults, at most once for each fault.
- Every run without further faults ends, and ends with everything received.

Each step names the code that it stands for. `Rules` can break one rule of the protocol at a time.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

Id = tuple[int, int]
"""An event's id: the event's number at the source, and 0; a made-up number where ids are random."""
Step = tuple[str, "State"]


class Rules(NamedTuple):
    """The rules of the protocol. Each can be switched off, to see what it is for."""

    cursor_after_puback: bool = True
    unanswered_publish_is_repeated: bool = True
    ids_from_the_source: bool = True
    acknowledge_after_2xx: bool = True
    delivered_ids: bool = True


class State(NamedTuple):
    """The state of all four, and what is on its way between them."""

    faults: int
    """The number of faults that may still happen."""
    # The collector. What it remembers goes with it; its cursor is in the bucket.
    collector: bool = True
    start: int = 0
    read: int = 0
    safe: frozenset[Id] = frozenset()
    cursor: int = 0
    publishes: frozenset[Id] = frozenset()
    pubacks: frozenset[Id] = frozenset()
    # The broker. What it has stored survives it.
    server: bool = True
    stream: tuple[Id, ...] = ()
    trimmed: int = 0
    window: frozenset[Id] = frozenset()
    """The ids that the stream takes for duplicates."""
    acknowledged: frozenset[int] = frozenset()
    """The sequences that are acknowledged."""
    # The forwarder, which remembers nothing after its end.
    forwarder: bool = True
    in_flight: frozenset[int] = frozenset()
    posts: frozenset[Id] = frozenset()
    """Stored by the receiver; the 2xx is on its way."""
    delivered_ids: frozenset[Id] = frozenset()
    # The history, for the promises.
    received: tuple[Id, ...] = ()
    promised: frozenset[int] = frozenset()
    """The events that were acknowledged to a collector."""
    excused: frozenset[int] = frozenset()
    """The events that one fault may have had received twice."""


def steps(state: State, events: int, rules: Rules) -> Iterator[Step]:
    """Yield what can happen next without any fault."""
    yield from _collector(state, events, rules)
    yield from _broker(state)
    yield from _forwarder(state, rules)
    if not state.collector:  # collector._pump: read_cursor
        yield (
            "start the collector",
            state._replace(collector=True, start=state.start + 1, read=state.cursor),
        )
    if not state.server:  # nats-server, rebuildDedupe: the ids of what it still stores
        kept = frozenset(state.stream[state.trimmed :])
        yield "start the server", state._replace(server=True, window=kept)
    if not state.forwarder:
        yield "start the forwarder", state._replace(forwarder=True)


def _collector(s: State, events: int, rules: Rules) -> Iterator[Step]:
    if not s.collector or not s.server:  # Bus.begin_publish waits while the broker is away
        return

    def id_of(event: int) -> Id:  # events.event_id
        return event, 0 if rules.ids_from_the_source else s.start

    if s.read < events:  # Window.put
        identity = id_of(s.read)
        yield f"publish {identity}", s._replace(read=s.read + 1, publishes=s.publishes | {identity})
    for event in range(s.cursor, s.read):  # Window._repeat
        identity = id_of(event)
        unanswered = identity not in s.publishes | s.pubacks | s.safe
        if unanswered and rules.unanswered_publish_is_repeated:
            yield f"publish {identity} again", s._replace(publishes=s.publishes | {identity})
    for identity in s.pubacks:  # Window._is_safe
        yield (
            f"PubAck {identity}",
            s._replace(
                pubacks=s.pubacks - {identity},
                safe=s.safe | {identity},
                promised=s.promised | {identity[0]},
            ),
        )
    moved = s.read if not rules.cursor_after_puback else s.cursor
    while moved < s.read and id_of(moved) in s.safe:  # Window._advance
        moved += 1
    if moved > s.cursor:  # collector._store_cursors
        yield f"store the cursor {moved}", s._replace(cursor=moved)


def _broker(s: State) -> Iterator[Step]:
    if not s.server:
        return
    for identity in s.publishes:
        stored = () if identity in s.window else (identity,)
        yield (
            f"store {identity}",
            s._replace(
                publishes=s.publishes - {identity},
                pubacks=s.pubacks | {identity},
                stream=s.stream + stored,
                window=s.window | {identity},
            ),
        )
    for sequence in range(s.trimmed, len(s.stream)):  # Puller, Intake.receive
        if s.forwarder and sequence not in s.in_flight | s.acknowledged:
            yield f"deliver #{sequence}", s._replace(in_flight=s.in_flight | {sequence})
    trimmed = s.trimmed
    while trimmed in s.acknowledged:
        trimmed += 1
    if s.forwarder and trimmed > s.trimmed:  # Trimmer.trim
        yield f"trim up to #{trimmed}", s._replace(trimmed=trimmed)


def _forwarder(s: State, rules: Rules) -> Iterator[Step]:
    for sequence in s.in_flight:
        identity = s.stream[sequence]
        delivered = identity in s.delivered_ids
        if not delivered and identity not in s.posts:  # Sender.send_ready; else a duplicate
            yield (
                f"post {identity}",
                s._replace(
                    posts=s.posts | {identity}, received=tuple(sorted((*s.received, identity)))
                ),
            )
        if (delivered or not rules.acknowledge_after_2xx) and s.server:  # Acknowledgements.run
            forgotten = frozenset() if rules.delivered_ids else frozenset({identity})
            yield (
                f"acknowledge #{sequence}",
                s._replace(
                    in_flight=s.in_flight - {sequence},
                    acknowledged=s.acknowledged | {sequence},
                    delivered_ids=s.delivered_ids - forgotten,
                ),
            )
    for identity in s.posts:  # Settlement._on_delivered
        yield (
            f"2xx for {identity}",
            s._replace(posts=s.posts - {identity}, delivered_ids=s.delivered_ids | {identity}),
        )


def faults(state: State) -> Iterator[Step]:
    """Yield what can go wrong next."""
    if not state.faults:
        return
    s = state._replace(faults=state.faults - 1)
    for identity in s.pubacks:  # Bus._expire: PublishTimeout
        yield f"lose the PubAck {identity}", s._replace(pubacks=s.pubacks - {identity})
    for identity in s.posts:  # Outcome.RETRY of an answer that never came
        yield (
            f"lose the 2xx for {identity}",
            s._replace(posts=s.posts - {identity}, excused=s.excused | {identity[0]}),
        )
    for identity in s.window:
        yield f"the duplicate window of {identity} ends", s._replace(window=s.window - {identity})
    if s.collector:
        yield (
            "kill the collector",
            s._replace(
                collector=False,
                read=s.cursor,
                safe=frozenset(),
                publishes=frozenset(),
                pubacks=frozenset(),
            ),
        )
    if s.forwarder:
        answered = {identity for q in s.in_flight if (identity := s.stream[q]) in s.delivered_ids}
        yield (
            "kill the forwarder",
            s._replace(
                forwarder=False,
                in_flight=frozenset(),
                posts=frozenset(),
                delivered_ids=frozenset(),
                excused=s.excused | {identity[0] for identity in s.posts | answered},
            ),
        )
    if s.server:
        # What it has stored is there, but it may forget acknowledgements it has just been given.
        down = s._replace(server=False, publishes=frozenset(), pubacks=frozenset())
        yield "kill the server", down
        if forgotten := s.acknowledged - set(range(s.trimmed)):
            yield (
                "kill the server, which forgets acknowledgements",
                down._replace(acknowledged=s.acknowledged - forgotten),
            )


def problem_of(state: State, faults_at_first: int) -> str:
    """Return what is wrong with a state; empty where nothing is."""
    waiting = {
        state.stream[sequence][0]
        for sequence in range(state.trimmed, len(state.stream))
        if sequence not in state.acknowledged
    }
    received = Counter(event for event, _ in state.received)
    if lost := (state.promised | set(range(state.cursor))) - waiting - set(received):
        return f"lost: {sorted(lost)}"
    if len(set(state.received)) > len(received):
        return "received under two ids"
    happened = faults_at_first - state.faults
    for event, times in received.items():
        allowed = happened if happened > 1 else event in state.excused
        if times - 1 > allowed:
            return f"received twice: {event}"
    return ""


class Violation(Exception):  # noqa: N818
    """A state that must not be, with the shortest way to it."""


def explore(events: int, fault_count: int, rules: Rules = Rules()) -> int:  # noqa: B008
    """Visit every state; return how many there are.

    Raises:
        Violation: one of them breaks a promise.
    """
    first = State(faults=fault_count)
    came_from: dict[State, tuple[str, State | None]] = {first: ("start", None)}
    calm: dict[State, list[State]] = {}  # where each state can go without a fault
    waiting = deque([first])
    while waiting:
        state = waiting.popleft()
        if problem := problem_of(state, fault_count):
            raise Violation(_trace(state, came_from, problem))
        without_fault = list(steps(state, events, rules))
        if not without_fault and len({event for event, _ in state.received}) < events:
            raise Violation(_trace(state, came_from, "stuck, and not everything is received"))
        calm[state] = [after for _, after in without_fault]
        for name, after in (*without_fault, *faults(state)):
            if after not in came_from:
                came_from[after] = name, state
                waiting.append(after)
    _check_that_every_calm_run_ends(calm)
    return len(came_from)


def _check_that_every_calm_run_ends(calm: dict[State, list[State]]) -> None:
    """Remove, again and again, the states that lead only to removed states."""
    left = {state: len(afters) for state, afters in calm.items()}
    before: dict[State, list[State]] = {}
    for state, afters in calm.items():
        for after in afters:
            before.setdefault(after, []).append(state)
    ended = [state for state, count in left.items() if count == 0]
    for state in ended:  # which grows meanwhile
        for earlier in before.get(state, ()):
            left[earlier] -= 1
            if left[earlier] == 0:
                ended.append(earlier)
    if len(ended) < len(calm):
        raise Violation("some run without faults goes on for ever")


def _trace(
    state: State | None, came_from: dict[State, tuple[str, State | None]], problem: str
) -> str:
    names = [problem]
    while state is not None:
        name, state = came_from[state]
        names.append(name)
    return "\n  ".join(("", *reversed(names)))
