"""Lines of the sources that the tests run, from the data of `make test COVERAGE=1`.

    .venv/bin/python tests/coverage_report.py

Prints every module under 90 % with its reason from coverage_reasons.toml. Exits with 1 for a module
under 90 % without a reason, and for a reason whose module is gone or well covered by now.
"""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

from coverage import Coverage

TESTS = Path(__file__).parent
REASONS_FILE = TESTS / "coverage_reasons.toml"
PERCENT_MIN = 90.0
STALE_PERCENT_MIN = 95.0
"""A reason is stale from here on: a little over the bound, as runs differ by a few lines."""


class Module(NamedTuple):
    """A module of the sources and its lines."""

    name: str
    lines: int
    missing: int

    @property
    def percent(self) -> float:
        """The share of lines that ran, 100 for a module without lines."""
        return 100 * (1 - self.missing / self.lines) if self.lines else 100.0


def measured_modules() -> list[Module]:
    """Return every module of the coverage data, named `service/module.py`."""
    coverage = Coverage(config_file=str(TESTS.parent / "pyproject.toml"))
    coverage.load()
    modules = []
    for file in sorted(coverage.get_data().measured_files()):
        if not Path(file).is_relative_to(TESTS.parent):
            continue  # an example that a test has installed elsewhere
        _, lines, _, missing, _ = coverage.analysis2(file)
        name = file.rpartition("/src/sematext_agent/")[2]
        modules.append(Module(name, len(lines), len(missing)))
    return modules


def problems(modules: list[Module], reasons: dict[str, str]) -> list[str]:
    """Return what must be changed: tests to be written, or reasons to be written or removed."""
    percents = {module.name: module.percent for module in modules}
    unexplained = [
        f"{name}: {percent:.0f} % of lines, and no reason in {REASONS_FILE.name}"
        for name, percent in percents.items()
        if percent < PERCENT_MIN and name not in reasons
    ]
    stale = [
        f"{name}: a reason in {REASONS_FILE.name} that is not needed any more"
        for name in reasons
        if percents.get(name, 100.0) >= STALE_PERCENT_MIN
    ]
    return unexplained + stale


def main() -> int:
    """Print the modules under the bound, the total and the problems; return 1 for a problem."""
    modules = measured_modules()
    reasons: dict[str, str] = tomllib.loads(REASONS_FILE.read_text())
    total = Module("all", sum(m.lines for m in modules), sum(m.missing for m in modules))
    print(f"coverage: {total.percent:.1f} % of {total.lines} lines in {len(modules)} modules")
    for module in modules:
        if module.percent < PERCENT_MIN:
            print(f"{module.percent:5.1f} % {module.name}: {reasons.get(module.name, 'no reason')}")
    failures = problems(modules, reasons)
    print(*failures, sep="\n", end="\n" if failures else "")
    return int(bool(failures))


if __name__ == "__main__":
    sys.exit(main())
