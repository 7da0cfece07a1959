"""Every decoder of foreign bytes: for any input it returns, or raises its documented error.

`corpus/<decoder>/` has real inputs, and a small example of each fault found so far. Each file is
decoded as it is, and then with many changes; `make fuzz` tries more of them. A failure prints the
changed input: keep it as a further file.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fuzz import bus_targets, docker_targets, host_targets, kubernetes_targets
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

TARGETS: dict[str, Callable[[bytes], None]] = {
    **bus_targets.TARGETS,
    **docker_targets.TARGETS,
    **host_targets.TARGETS,
    **kubernetes_targets.TARGETS,
}
CORPUS = Path(__file__).parent / "corpus"
FILES = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
SECONDS_MAX = 1.0
"""CPU time for an input: over a hundred times that of the slowest."""

# Pieces of JSON that have broken decoders before: types, bounds, depth, encodings, times.
_PIECES = [
    b"null",
    b"true",
    b"0",
    b"-1",
    b"1.5",
    b"1e308",
    b"1e999",
    b"NaN",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"18446744073709551616",
    b"9" * 400,
    b'""',
    b'"\\u0000"',
    b'"\\n"',
    b'"\\ud800"',
    b'"\xff"',
    b'"\x1b[31m"',
    b'"%s"' % (b"x" * 5000),
    b'"0001-01-01T00:00:00Z"',
    b'"9999-12-31T23:59:60Z"',
    b'"20261123T150405+0100"',
    b'"2026-W48-1T15:04:05Z"',
    b"[]",
    b"{}",
    b"[[[]]]",
    b'{"":{}}',
    b"[" * 3000 + b"]" * 3000,
    b'"%s"' % (b"9" * 4400),
    b'"-1"',
]
_BYTES = [b"\0", b"\n", b"\r\n", b"\xff", b"\xc3", b" ", b".", b":", b"\x80\0\0\0", b"\xff" * 4]
_HOLE = "\u241a"
_CHANGES = settings(
    max_examples=int(os.environ.get("FUZZ_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=set(Phase) - {Phase.explain},
)


@st.composite
def inputs(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Draw a changed seed, or any bytes at all."""
    data = draw(st.sampled_from(seeds))
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        pass
    else:
        if draw(st.integers(0, 3)):
            data = draw(_with_another_value(value))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.sampled_from([0, 1, 4, 40]))
        piece = draw(st.sampled_from(_BYTES) | st.binary(max_size=8))
        data = data[:at] + piece + data[at + length :]
    return data if draw(st.integers(0, 19)) else draw(st.binary(max_size=200))


@st.composite
def _with_another_value(draw: st.DrawFn, value: object) -> bytes:
    """Draw JSON in which a value is replaced or removed."""
    holder = {"": value}
    inside: object = holder
    key: object = ""
    while (node := inside[key]) and isinstance(node, dict | list):  # type: ignore[index]
        if not draw(st.integers(0, 9)):
            break
        inside = node
        key = draw(st.sampled_from(list(node) if isinstance(node, dict) else range(len(node))))
    if draw(st.integers(0, 9)):
        inside[key] = _HOLE  # type: ignore[index]
    else:
        del inside[key]  # type: ignore[attr-defined]
    text = json.dumps(holder.get(""), ensure_ascii=False).encode()
    return text.replace(f'"{_HOLE}"'.encode(), draw(st.sampled_from(_PIECES)), 1)


@pytest.fixture(autouse=True)
def _no_log() -> Iterator[None]:
    """Disable logging: skipped inputs would make thousands of entries."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_every_file_of_the_corpus(path: Path) -> None:
    began = time.process_time()
    TARGETS[path.parent.name](path.read_bytes())
    assert time.process_time() - began < SECONDS_MAX


@pytest.mark.parametrize("name", TARGETS)
def test_changed_inputs_raise_nothing_unexpected(name: str) -> None:
    seeds = [path.read_bytes() for path in FILES if path.parent.name == name]
    assert seeds, f"no corpus for {name}"

    @_CHANGES
    @given(inputs(seeds))
    def check(data: bytes) -> None:
        TARGETS[name](data)

    check()
