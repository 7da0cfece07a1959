"""What stands between this process and the broker until a person changes something, in one line.

nats-py hands such errors to a callback, and whoever published or asked sees a timeout alone.
"""

from __future__ import annotations

import re
import ssl

# As the server writes it, in the small letters that nats-py makes of it.
_violation = re.compile(r"permissions violation for (publish|subscription) to \"(.*)\"")


def forbidden(error: BaseException) -> tuple[str, str] | None:
    """If it is that: `publish` or `subscription`, and the subject in small letters."""
    found = _violation.search(str(error).lower())
    return (found[1], found[2]) if found else None


def in_words(error: BaseException, user: str) -> str:
    """What is wrong, for what does not pass by waiting; nothing for any other error."""
    who = f"the user {user}" if user else "a client without NATS_USER"
    if found := forbidden(error):
        action, subject = found
        verb = "publish to" if action == "publish" else "listen on"
        return (
            f"the broker does not let {who} {verb} {subject}: allow it there, or correct NATS_USER"
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"the broker's certificate is not accepted ({error.verify_message}): "
            "mend it there, or name its authority in NATS_CA"
        )
    if isinstance(error, ssl.SSLError) and "alert" in str(error).lower():
        return f"the broker refuses our side of TLS ({error.reason}): see NATS_CERT and NATS_KEY"
    if "authorization violation" in str(error).lower():
        return f"the broker does not let {who} in: correct NATS_USER and NATS_PASSWORD"
    return ""
