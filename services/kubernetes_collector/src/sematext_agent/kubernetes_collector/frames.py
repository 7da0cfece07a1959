"""A watch on the wire: one JSON frame a line, in chunks cut anywhere. Pure."""

from __future__ import annotations

import contextlib

import msgspec

from sematext_agent.kubernetes_collector.api import ApiError, Status
from sematext_agent.kubernetes_collector.translate import RawEvent
from sematext_agent.shared.decode_errors import DECODE_ERRORS

LINE_BYTES_MAX = 8 * 1024 * 1024
"""Longer than any event can be: etcd takes 1.5 MB."""


class Undecodable(Exception):  # noqa: N818 - it is one, and reads better than with a suffix
    """A line or an item that is not what it should be."""


class Lines:
    """Joins chunks and cuts them at line feeds, and at nothing else that Unicode calls a line."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._bytes = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes. One that is too long comes cut, so as to be refused."""
        if b"\n" not in chunk:
            if self._bytes <= LINE_BYTES_MAX:
                self._parts.append(chunk)
                self._bytes += len(chunk)
            return []
        self._parts.append(chunk)
        lines = b"".join(self._parts).split(b"\n")
        rest = lines.pop()
        self._parts, self._bytes = [rest], len(rest)
        return [line[: LINE_BYTES_MAX + 1] for line in lines if line.strip()]


class _Frame(msgspec.Struct):
    """A frame that tells of an event: nearly every one, so it is decoded in one pass."""

    type: str
    object: RawEvent


class _OtherFrame(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _PageMetadata(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion")
    continue_token: str | None = msgspec.field(default=None, name="continue")


class Page(msgspec.Struct):
    """A page of a list."""

    metadata: _PageMetadata
    items: list[msgspec.Raw] | None = None

    @property
    def revision(self) -> int:
        """The state of the cluster that the list shows."""
        return _revision(self.metadata.resource_version)

    @property
    def token(self) -> str:
        """How to get the next page; empty on the last."""
        return self.metadata.continue_token or ""


def _revision(written: str) -> int:
    """A resourceVersion as a number. Raises ValueError where it is none that a cluster has."""
    revision = int(written)
    if not 0 <= revision < 2**63:
        raise ValueError(f"a resourceVersion that is none: {written[:80]}")
    return revision


_frame = msgspec.json.Decoder(_Frame)
_other_frame = msgspec.json.Decoder(_OtherFrame)
_event = msgspec.json.Decoder(RawEvent)
_status = msgspec.json.Decoder(Status)
_page = msgspec.json.Decoder(Page)


def decode_frame(line: bytes) -> tuple[str, int, RawEvent | None]:
    """A line's type, its revision, and its event where it tells of one.

    Only ADDED and MODIFIED do. DELETED is an event's end of life after an hour, with the event as
    it was, and BOOKMARK a revision alone.

    Raises:
        Undecodable: the line is none of them.
        ApiError: the line is an ERROR frame: the watch is over.
    """
    if len(line) > LINE_BYTES_MAX:
        raise Undecodable(f"a line of more than {LINE_BYTES_MAX} bytes")
    try:
        frame = _frame.decode(line)
        event = frame.object if frame.type in ("ADDED", "MODIFIED") else None
        return frame.type, _revision(frame.object.metadata.resource_version), event
    except (*DECODE_ERRORS, ValueError) as error:
        _raise_if_error(line)
        repaired = line.decode(errors="replace").encode()
        if repaired != line:
            return decode_frame(repaired)
        raise Undecodable(str(error)) from error


def _raise_if_error(line: bytes) -> None:
    """Raises the ApiError that an ERROR frame is; other lines are not its matter."""
    with contextlib.suppress(*DECODE_ERRORS):
        frame = _other_frame.decode(line)
        if frame.type == "ERROR":
            raise _status.decode(frame.object).error(status=500)


def decode_page(body: bytes) -> Page:
    """A page of a list. Raises ApiError where it is none."""
    try:
        page = _page.decode(body)
        page.revision  # noqa: B018 - it must be a number
        return page
    except (*DECODE_ERRORS, ValueError) as error:
        raise ApiError(0, f"a list that is none: {error}") from error


def decode_item(item: msgspec.Raw) -> tuple[int, RawEvent]:
    """An item of a list and its revision. Raises Undecodable."""
    try:
        event = _event.decode(item)
        return _revision(event.metadata.resource_version), event
    except (*DECODE_ERRORS, ValueError) as error:
        raise Undecodable(str(error)) from error
