"""The JSON of a watch's frames, one a line, and of a list's pages."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator

import msgspec

from sematext_agent.kubernetes_collector.api import ApiError, ApiStatus
from sematext_agent.kubernetes_collector.metrics import WatchMetrics
from sematext_agent.kubernetes_collector.translate import RawEvent
from sematext_agent.shared.decode_errors import DECODE_ERRORS

log = logging.getLogger(__name__)

LINE_BYTES_MAX = 8 * 1024 * 1024
"""Longer than any event can be: etcd takes 1.5 MB."""
UNDECODABLE_TRIES = 3
"""The tries for a line that cannot be decoded, before it is left out."""


class UndecodableError(Exception):
    """A line or an item that is not of the form that the API documents."""


class Frame(msgspec.Struct, frozen=True):
    """A line of a watch."""

    kind: str
    """`ADDED`, `MODIFIED`, `DELETED`, `BOOKMARK` or a type that the API may add."""
    revision: int
    event: RawEvent | None
    """The event of ADDED and MODIFIED only.

    DELETED is an event's end of life after an hour, with the event as it was; BOOKMARK is a
    revision alone. Neither is news.
    """


class FrameReader:
    """The decoder of lines and items, with a memory of the line that cannot be decoded."""

    def __init__(self, metrics: WatchMetrics) -> None:
        self._metrics = metrics
        self._undecodable_line = b""
        self._tries = 0

    def decode_lines(self, lines: list[bytes]) -> tuple[list[Frame], ApiError | None]:
        """Return the frames of `lines`, up to the error that ends the watch, where there is one.

        A line that cannot be decoded ends the watch: the next one repeats the line. It is left out
        when it cannot be decoded for the third time.
        """
        frames = []
        for line in lines:
            try:
                frames.append(decode_frame(line))
            except UndecodableError as error:
                if self._may_retry(line):
                    return frames, ApiError(0, f"a line that cannot be decoded: {error}")
                self._leave_out(error)
            except ApiError as error:
                return frames, error
        return frames, None

    def decode_items(
        self, items: list[msgspec.Raw] | None, after_revision: int
    ) -> Iterator[RawEvent]:
        """Yield the events of a page that are newer than `after_revision`."""
        for item in items or ():
            try:
                revision, event = decode_item(item)
            except UndecodableError as error:
                self._leave_out(error)
                continue
            if revision > after_revision:
                yield event

    def _may_retry(self, line: bytes) -> bool:
        self._tries = self._tries + 1 if line == self._undecodable_line else 1
        self._undecodable_line = line
        return self._tries < UNDECODABLE_TRIES

    def _leave_out(self, error: UndecodableError) -> None:
        self._metrics.undecodable.inc()
        log.warning("record left out: it cannot be decoded: %s", error)


class _EventFrame(msgspec.Struct):
    """A frame with an event: nearly every frame, so it is decoded in one pass."""

    type: str
    object: RawEvent


class _OtherFrame(msgspec.Struct):
    type: str
    object: msgspec.Raw


class _PageMetadata(msgspec.Struct):
    resource_version: str = msgspec.field(name="resourceVersion")
    continue_token: str | None = msgspec.field(default=None, name="continue")


class ListPage(msgspec.Struct):
    """A page of a list."""

    metadata: _PageMetadata
    items: list[msgspec.Raw] | None = None

    @property
    def revision(self) -> int:
        """The revision of the cluster that the list shows."""
        return _parse_revision(self.metadata.resource_version)

    @property
    def token(self) -> str:
        """The token of the next page; empty on the last."""
        return self.metadata.continue_token or ""


def _parse_revision(text: str) -> int:
    """Return a resourceVersion as a number; raise ValueError where no cluster can have it."""
    revision = int(text)
    if not 0 <= revision < 2**63:
        raise ValueError(f"not a resourceVersion: {text[:80]}")
    return revision


_frame_decoder = msgspec.json.Decoder(_EventFrame)
_other_frame_decoder = msgspec.json.Decoder(_OtherFrame)
_event_decoder = msgspec.json.Decoder(RawEvent)
_status_decoder = msgspec.json.Decoder(ApiStatus)
_page_decoder = msgspec.json.Decoder(ListPage)


def decode_frame(line: bytes) -> Frame:
    """Return the frame of a line; bytes that are not UTF-8 are replaced.

    Raises:
        UndecodableError: the line is not a frame.
        ApiError: the line is an ERROR frame, which ends the watch.
    """
    if len(line) > LINE_BYTES_MAX:
        raise UndecodableError(f"a line of more than {LINE_BYTES_MAX} bytes")
    try:
        frame = _frame_decoder.decode(line)
        event = frame.object if frame.type in ("ADDED", "MODIFIED") else None
        return Frame(frame.type, _parse_revision(frame.object.metadata.resource_version), event)
    except (*DECODE_ERRORS, ValueError) as error:
        _raise_error_frame(line)
        repaired = line.decode(errors="replace").encode()
        if repaired != line:
            return decode_frame(repaired)
        raise UndecodableError(str(error)) from error


def _raise_error_frame(line: bytes) -> None:
    """Raise the ApiError of an ERROR frame; return for any other line."""
    with contextlib.suppress(*DECODE_ERRORS):
        frame = _other_frame_decoder.decode(line)
        if frame.type == "ERROR":
            raise _status_decoder.decode(frame.object).to_error(status=500)


def decode_page(body: bytes) -> ListPage:
    """Return a page of a list; raise ApiError where `body` is not one."""
    try:
        page = _page_decoder.decode(body)
        page.revision  # noqa: B018 - it must be a number
        return page
    except (*DECODE_ERRORS, ValueError) as error:
        raise ApiError(0, f"not a list of events: {error}") from error


def decode_item(item: msgspec.Raw) -> tuple[int, RawEvent]:
    """Return an item of a list with its revision; raise UndecodableError where it is none."""
    try:
        event = _event_decoder.decode(item)
        return _parse_revision(event.metadata.resource_version), event
    except (*DECODE_ERRORS, ValueError) as error:
        raise UndecodableError(str(error)) from error
