"""The dry run, for which no token is needed: documents are printed and none is sent."""

from __future__ import annotations

from sematext_agent.forwarder.destination import Answer, Judgement, OnAnswer, Outcome
from sematext_agent.forwarder.documents import build_document, encode
from sematext_agent.forwarder.output import write_document
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared.events import Event, HostFacts

_PRINTED = Judgement(Outcome.PRINTED, detail="printed")


class DryRun:
    """A destination on standard output."""

    def __init__(self, settings: ForwarderSettings) -> None:
        """Print what would be sent with `settings`."""
        self.name = "standard output"
        self.initial_status = "dry run: without INFRA_TOKEN nothing is sent"
        self._settings = settings

    def encode(self, event: Event, facts: HostFacts | None) -> bytes:
        """Return the document for `event`, as JSON."""
        return encode(build_document(event, facts, self._settings.tags))

    def send(self, document: bytes, on_answer: OnAnswer) -> None:
        """Print `document`."""
        write_document(document, self._settings)
        on_answer(Answer(0))

    def judge(self, _answer: Answer) -> Judgement:
        """Return that the document was printed."""
        return _PRINTED

    def close(self) -> None:
        """Do nothing."""
