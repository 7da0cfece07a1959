"""Problems of the connection that last until a person changes something, in one line each.

nats-py hands such errors to a callback, while whoever published or requested sees a timeout alone.
"""

from __future__ import annotations

import re
import ssl

NO_TLS = "the broker does not offer TLS, and we ask for it"

# As the server writes it, in the small letters that nats-py makes of it.
_violation = re.compile(r"permissions violation for (publish|subscription) to \"(.*)\"")
_revoked_inbox = re.compile(r"(?i)permissions violation for subscription to \W*_INBOX")


def find_violation(error: BaseException) -> tuple[str, str] | None:
    """Return the action and the subject that are not allowed, or None for any other error.

    The action is `publish` or `subscription`; the subject is in small letters.
    """
    match = _violation.search(str(error).lower())
    return (match[1], match[2]) if match else None


def is_inbox_revoked(error: BaseException) -> bool:
    """Return whether the broker ended a subscription on which answers arrive."""
    return _revoked_inbox.search(str(error)) is not None


def describe_problem(error: BaseException, user: str) -> str:
    """Return the problem and its remedy, or an empty text for an error that waiting ends."""
    client = f"the user {user}" if user else "a client without NATS_USER"
    if violation := find_violation(error):
        action, subject = violation
        verb = "publish to" if action == "publish" else "listen on"
        return (
            f"the broker does not let {client} {verb} {subject}: "
            "allow it there, or correct NATS_USER"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the broker's certificate is not accepted ({error.verify_message}): "
            "mend it there, or name its authority in NATS_CA"
        )
    if isinstance(error, ssl.SSLError) and "alert" in str(error).lower():
        return f"the broker refuses our side of TLS ({error.reason}): see NATS_CERT and NATS_KEY"
    if str(error) == NO_TLS:
        return f"{NO_TLS}: switch TLS on there, or correct NATS_URL and NATS_CA"
    if "authorization violation" in str(error).lower():
        return f"the broker does not let {client} in: correct NATS_USER and NATS_PASSWORD"
    return ""
