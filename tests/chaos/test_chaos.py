"""The quick faults of `make chaos`, with the same seed in every run."""

from __future__ import annotations

from pathlib import Path

import pytest
from chaos.__main__ import FAULTS
from chaos.campaign import run
from chaos.fault import Fault

SEED = 1


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.quick], ids=lambda f: f.name)
async def test_a_fault_loses_and_duplicates_nothing(fault: Fault, tmp_path: Path) -> None:
    outcome = await run(fault, SEED, tmp_path)
    if outcome.skipped:
        pytest.skip(outcome.skipped)
    assert outcome.problems == ()
    assert outcome.delivered > 0
