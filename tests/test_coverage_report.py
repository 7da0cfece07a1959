"""The rules of tests/coverage_report.py: exactly the modules under the bound have a reason."""

from __future__ import annotations

from coverage_report import Module, problems

COVERED = Module("shared/events.py", 100, 4)
NEARLY_COVERED = Module("shared/retry.py", 100, 8)
UNCOVERED = Module("shared/tls.py", 100, 20)


def test_a_module_under_the_bound_needs_a_reason() -> None:
    assert problems([COVERED, NEARLY_COVERED, UNCOVERED], {}) == [
        "shared/tls.py: 80 % of lines, and no reason in coverage_reasons.toml"
    ]
    assert (
        problems([COVERED, NEARLY_COVERED, UNCOVERED], {"shared/tls.py": "needs a certificate"})
        == []
    )


def test_a_reason_is_stale_for_a_well_covered_or_absent_module() -> None:
    reasons = {"shared/events.py": "-", "shared/retry.py": "-", "shared/gone.py": "-"}
    assert problems([COVERED, NEARLY_COVERED], reasons) == [
        f"shared/{name}.py: a reason in coverage_reasons.toml that is not needed any more"
        for name in ("events", "gone")
    ]


def test_a_module_without_lines_is_covered() -> None:
    assert Module("console/__init__.py", 0, 0).percent == 100
