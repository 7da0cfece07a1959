"""What an answer of the receiver means for the event and for the flow.

The receiver documents no status codes, so these are HTTP's own meanings, and the shippers' whose
classes proved right: a wrong token must never turn good events into dead letters, and a document
that cannot be taken must never stand in the way of the next.
"""

from __future__ import annotations

import enum

import msgspec

from sematext_agent.forwarder.transport import Answer
from sematext_agent.shared.decode_errors import DECODE_ERRORS


class Verdict(enum.Enum):
    """The four outcomes of a POST."""

    DELIVERED = "delivered"
    """The receiver has it."""
    RETRY = "retry"
    """Not now: the same document later."""
    REFUSED = "refused"
    """Not this document, ever."""
    HOLD = "hold"
    """Nothing of ours, until somebody corrects the settings or the receiver."""


# Server errors that say something of the request and not of the moment: Not Implemented, HTTP
# Version Not Supported. Nothing another try would change.
_NEVER = frozenset({501, 505})
_NOT_NOW = frozenset({408, 425, 429})
_CROWDED = frozenset({429, 503})

_HOLD_REMEDIES = {
    401: "the token is not accepted: check INFRA_TOKEN and REGION",
    403: "the token is not accepted: check INFRA_TOKEN and REGION",
    404: "nothing is at this address: check INFRA_TOKEN, REGION and EVENTS_RECEIVER_URL",
    407: "the proxy wants credentials: check PROXY_USERNAME and PROXY_PASSWORD",
    511: "the network wants a login first",
}
_REDIRECT = "the address redirects, which is not followed: check EVENTS_RECEIVER_URL"


def judge(answer: Answer) -> Verdict:
    """The outcome of a POST that was answered so."""
    status = answer.status
    if 200 <= status < 300:
        return Verdict.DELIVERED
    if status in _HOLD_REMEDIES or 300 <= status < 400:
        return Verdict.HOLD
    if status in _NOT_NOW or (status >= 500 and status not in _NEVER) or status < 200:
        return Verdict.RETRY
    return Verdict.REFUSED


def is_crowded(answer: Answer) -> bool:
    """Whether the answer, or its absence, says that the receiver gets too much at once."""
    return answer.status in _CROWDED or answer.timed_out


def in_words(answer: Answer) -> str:
    """The answer for a person, in one line, with the remedy where one is known."""
    if not answer.status:
        return f"no answer: {answer.problem}"
    remedy = _HOLD_REMEDIES.get(answer.status) or (_REDIRECT if answer.status < 400 else "")
    said = _reason(answer.body)
    return f"answered {answer.status}" + "".join(f": {part}" for part in (said, remedy) if part)


class _Error(msgspec.Struct):
    """The form in which Sematext's receivers are known to explain themselves."""

    error: str


def _reason(body: str) -> str:
    """What the receiver said, from its JSON or as it stands."""
    try:
        text = msgspec.json.decode(body, type=_Error).error
    except DECODE_ERRORS:
        text = body
    return " ".join(text.split())[:200]
