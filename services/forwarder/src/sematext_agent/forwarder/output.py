"""Documents on standard output."""

from __future__ import annotations

import sys

from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared.logs import escape_json


def write_document(document: bytes, settings: ForwarderSettings) -> None:
    """Print `document` as one line of JSON, without the secrets of `settings`."""
    sys.stdout.write(escape_json(settings.redact(document.decode())) + "\n")
    sys.stdout.flush()
