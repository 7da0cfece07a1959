"""What bytes that somebody else wrote can raise when they are decoded."""

from __future__ import annotations

import msgspec

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""All that a decoder of msgspec raises: not of the form, not UTF-8, nested too deep."""
