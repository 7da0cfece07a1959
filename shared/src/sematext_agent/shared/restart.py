"""How a process ends that can go on only from its start."""

from __future__ import annotations


class RestartRequested(Exception):  # noqa: N818 - it is what shall happen, not what went wrong
    """A foreseen reason to start anew: `shared.service.run` says it in a line, and exits with 1.

    The supervisor starts the process again. What was not foreseen comes with its traceback.
    """
