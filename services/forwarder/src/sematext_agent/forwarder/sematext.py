"""The event receiver of Sematext Cloud as a destination.

The receiver documents no status codes, so they have HTTP's own meanings. A wrong token must never
turn good events into dead letters, and a refused document must never block the next one.
"""

from __future__ import annotations

import msgspec

from sematext_agent.forwarder.destination import Answer, Judgement, OnAnswer, Outcome
from sematext_agent.forwarder.documents import build_document, encode
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.transport import Transport
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import Event, HostFacts

# Not Implemented and HTTP Version Not Supported are about the request: a retry changes nothing.
_REFUSED_SERVER_ERRORS = frozenset({501, 505})
_RETRIED_CLIENT_ERRORS = frozenset({408, 425, 429})
_OVERLOADED = frozenset({429, 503})
_DETAIL_CHARACTERS_MAX = 200

_HOLD_REMEDIES = {
    401: "the token is not accepted: check INFRA_TOKEN and REGION",
    403: "the token is not accepted: check INFRA_TOKEN and REGION",
    404: "nothing is at this address: check INFRA_TOKEN, REGION and EVENTS_RECEIVER_URL",
    407: "the proxy wants credentials: check PROXY_USERNAME and PROXY_PASSWORD",
    511: "the network wants a login first",
}
_REDIRECT = "the address redirects, which is not followed: check EVENTS_RECEIVER_URL"
_DELIVERED = Judgement(Outcome.DELIVERED, 200, "answered 200")


class Sematext:
    """Sematext's documents, sent over HTTP to the event receiver."""

    def __init__(self, settings: ForwarderSettings, transport: Transport) -> None:
        """Send over `transport`, which belongs to this destination from now on."""
        self.name = settings.receiver
        self.initial_status = f"{settings.receiver}: nothing was sent yet"
        self._tags = settings.tags
        self._transport = transport

    def encode(self, event: Event, facts: HostFacts | None) -> bytes:
        """Return the document for `event`, as JSON."""
        return encode(build_document(event, facts, self._tags))

    def send(self, document: bytes, on_answer: OnAnswer) -> None:
        """Post `document`, and call `on_answer` later, once."""
        self._transport.post(document, on_answer)

    def judge(self, answer: Answer) -> Judgement:
        """Return the meaning of the receiver's `answer`."""
        return judge(answer)

    def close(self) -> None:
        """Close every connection."""
        self._transport.close()


def judge(answer: Answer) -> Judgement:
    """Return the meaning of the receiver's `answer`."""
    status = answer.status
    if status == 200 and not answer.retry_after:
        return _DELIVERED
    return Judgement(
        _outcome(status),
        status,
        describe(answer),
        answer.retry_after,
        status in _OVERLOADED or answer.timed_out,
    )


def _outcome(status: int) -> Outcome:
    if 200 <= status < 300:
        return Outcome.DELIVERED
    if status in _HOLD_REMEDIES or 300 <= status < 400:
        return Outcome.HOLD
    if status < 200 or status in _RETRIED_CLIENT_ERRORS:
        return Outcome.RETRY
    if status >= 500 and status not in _REFUSED_SERVER_ERRORS:
        return Outcome.RETRY
    return Outcome.REFUSED


def describe(answer: Answer) -> str:
    """Return the answer for a person, in one line, with the remedy where one is known."""
    if not answer.status:
        return f"no answer: {answer.problem}"
    remedy = _REDIRECT if 300 <= answer.status < 400 else _HOLD_REMEDIES.get(answer.status)
    parts = (_explanation(answer.body), remedy)
    return f"answered {answer.status}" + "".join(f": {part}" for part in parts if part)


class _Error(msgspec.Struct):
    """The form in which Sematext's receivers are known to explain an error."""

    error: str


def _explanation(body: str) -> str:
    """Return the receiver's explanation, from its JSON or as it stands."""
    try:
        text = msgspec.json.decode(body, type=_Error).error
    except DECODE_ERRORS:
        text = body
    return " ".join(text.split())[:_DETAIL_CHARACTERS_MAX]
