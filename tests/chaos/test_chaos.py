"""A short part of `make chaos`, at moments that are the same every time."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.__main__ import FAULTS
from chaos.campaign import run
from chaos.fault import Fault

SEED = 1


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.quick], ids=lambda f: f.name)
async def test_nothing_is_lost_and_nothing_told_twice(fault: Fault, tmp_path: Path) -> None:
    outcome = await run(fault, SEED, tmp_path)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.problems == ()
    assert outcome.told > 0
