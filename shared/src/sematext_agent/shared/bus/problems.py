"""What stands between this process and the broker until a person changes something, in one line.

nats-py hands such errors to a callback, and whoever published or asked sees a timeout alone.
"""

from __future__ import annotations

import re
import ssl
import time

NO_TLS = "the broker does not offer TLS, and we ask for it"

_AGAIN_SECONDS = 60.0
_REMEMBERED_MAX = 100

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
    if str(error) == NO_TLS:
        return f"{NO_TLS}: switch TLS on there, or correct NATS_URL and NATS_CA"
    if "authorization violation" in str(error).lower():
        return f"the broker does not let {who} in: correct NATS_USER and NATS_PASSWORD"
    return ""


class Troubles:
    """What has been said lately, so that the same is said once a minute."""

    def __init__(self) -> None:
        self._said: dict[str, float] = {}  # when: monotonic seconds

    def is_news(self, text: str) -> bool:
        """Whether `text` is to be said now."""
        now = time.monotonic()
        if now < self._said.get(text, -_AGAIN_SECONDS) + _AGAIN_SECONDS:
            return False
        if len(self._said) >= _REMEMBERED_MAX:
            self._said.clear()
        self._said[text] = now
        return True
