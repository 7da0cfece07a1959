"""The errors of decoding untrusted bytes."""

from __future__ import annotations

import msgspec

DECODE_ERRORS = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""Errors of a msgspec decoder: another form, no UTF-8, nested too deep."""
