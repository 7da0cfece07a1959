"""The end of a process that can go on only from its start."""

from __future__ import annotations


class RestartRequested(Exception):  # noqa: N818 - it is a request, not an error
    """A foreseen reason to start anew: `shared.service.run` logs it in a line and exits with 1.

    The supervisor starts the process again. Any other error is logged with its traceback.
    """
