"""The table of docs/metrics.md: every metric in the sources.

.venv/bin/python tests/metric_table.py      # updates the table
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from sematext_agent.shared.health import METRICS_PREFIX

ROOT = Path(__file__).parent.parent
DOCUMENT = ROOT / "docs/metrics.md"
_MARKS = "<!-- table -->\n", "<!-- end of table -->\n"
_OWNERS = {"shared/health.py": "every service", "shared/collector.py": "every collector"}


class Metric(NamedTuple):
    """A metric as the sources spell it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    owner: str
    text: str

    @property
    def series(self) -> tuple[str, ...]:
        """The names for a query."""
        if self.kind == "histogram":
            return tuple(f"{self.name}_{part}" for part in ("bucket", "sum", "count"))
        return (self.name,)


@cache
def metrics() -> tuple[Metric, ...]:
    """Return every metric of the sources, those of every service first."""
    sources = [*ROOT.glob("shared/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")]
    by_name: dict[str, Metric] = {}
    for path in sorted(sources, key=_order):
        for metric in _metrics_in(path):
            by_name.setdefault(metric.name, metric)
    return tuple(by_name.values())


def _order(path: Path) -> tuple[bool, bool, str]:
    """Return a sort key: `shared` before the services, and health.py first."""
    return "services" in path.parts, path.name != "health.py", str(path)


def _metrics_in(path: Path) -> Iterator[Metric]:
    """Yield the metrics whose names stand in a module."""
    inside = str(path).rpartition("/src/sematext_agent/")[2]
    owner = _OWNERS.get(inside, inside.partition("/")[0])
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call) or not node.args:
            continue
        function = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        function = node.func.id if isinstance(node.func, ast.Name) else function
        kind = {
            "add_figure": "gauge",
            "add_gauge": "gauge",
            "add_counter": "counter",
            "Latency": "histogram",
        }
        if function not in kind or isinstance(node.args[0], ast.Name):
            continue  # in health.py the name is an argument
        constants = [a.value for a in node.args if isinstance(a, ast.Constant)]
        if isinstance(node.args[0], ast.JoinedStr):  # the prefix and the name
            constants.insert(0, ast.literal_eval(node.args[0].values[-1]))
        name, text, *labels = map(str, constants)
        name = METRICS_PREFIX + name + ("_total" if function == "add_counter" else "")
        yield Metric(name, kind[function], tuple(labels), owner, text)


def table() -> str:
    """Return a table of the metrics of each owner, in Markdown."""
    lines = []
    for owner, owned in groupby(metrics(), key=lambda metric: metric.owner):
        lines += ["", f"**{owner.capitalize().replace('_', ' ')}**", ""]
        lines += ["| metric | type | meaning |", "| --- | --- | --- |"]
        for metric in owned:
            labels = ", ".join(f"`{label}`" for label in metric.labels)
            kind = f"{metric.kind} by {labels}" if labels else metric.kind
            lines.append(f"| `{metric.name}` | {kind} | {metric.text} |")
    return "\n".join(lines) + "\n\n"


def documented_table() -> str:
    """Return the table in the document."""
    begin, end = _MARKS
    return DOCUMENT.read_text().partition(begin)[2].partition(end)[0]


def main() -> None:
    """Write the table into the document."""
    begin, end = map(re.escape, _MARKS)
    text = DOCUMENT.read_text()
    table_text = table()
    DOCUMENT.write_text(
        re.sub(f"(?<={begin}).*(?={end})", lambda _: table_text, text, flags=re.DOTALL)
    )


if __name__ == "__main__":
    main()
