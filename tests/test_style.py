"""The rules of this repository that a machine can hold: docs/service-spec.md and the design."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest

from sematext_agent.shared import AGENT_VERSION

ROOT = Path(__file__).parent.parent
SOURCES = sorted([*ROOT.glob("shared/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")])
SERVICES = sorted(path.parent.name for path in ROOT.glob("services/*/pyproject.toml"))
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "misc", "manager"}
SDKS = {"docker", "kubernetes", "nats", "psutil", "fastapi", "uvicorn", "msgspec", "pycurl"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def functions(path: Path) -> Iterator[Function]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            yield node


def length(function: Function) -> int:
    """Lines of a function without its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    first = function.body[0]
    if isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant):
        lines -= (first.end_lineno or 0) - first.lineno + 1
    return lines


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_is_over_70_lines_and_no_file_over_500(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 500
    assert {f.name: length(f) for f in functions(path) if length(f) > 70} == {}


def test_functions_are_short_as_a_rule() -> None:
    lengths = sorted(length(f) for path in SOURCES for f in functions(path))
    assert median(lengths) <= 9
    assert lengths[len(lengths) * 95 // 100] <= 45


def test_no_module_has_a_vague_name_or_that_of_an_sdk_or_of_the_standard_library() -> None:
    places = [*SOURCES, *ROOT.glob("tests/**/*.py")]
    names = {part for path in places for part in path.relative_to(ROOT).with_suffix("").parts}
    assert names & VAGUE == set()
    assert names & SDKS == set()
    modules = {path.stem for path in places} | {path.name for path in ROOT.glob("services/*")}
    assert modules & set(sys.stdlib_module_names) == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is(path: Path) -> None:
    if path.read_text().strip():
        assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("service", SERVICES)
def test_a_service_has_one_name_in_three_spellings(service: str) -> None:
    project = tomllib.loads((ROOT / "services" / service / "pyproject.toml").read_text())["project"]
    command = service.replace("_", "-")
    assert project["name"] == (
        "sematext-agent" if service == "agentctl" else f"sematext-agent-{command}"
    )
    assert project["scripts"][command] == f"sematext_agent.{service}.__main__:main"
    source = ROOT / "services" / service / "src/sematext_agent" / service
    assert (source / "__main__.py").is_file()


def test_every_distribution_takes_its_version_from_the_code() -> None:
    for file in [ROOT / "shared/pyproject.toml", *ROOT.glob("services/*/pyproject.toml")]:
        project = tomllib.loads(file.read_text())
        assert project["project"]["dynamic"] == ["version"], file
        source = (file.parent / project["tool"]["hatch"]["version"]["path"]).read_text()
        assert f'AGENT_VERSION = "{AGENT_VERSION}"' in source, file


def test_every_setting_is_documented() -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    settings = set()
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith("Settings"):
                settings |= {
                    item.target.id.upper()
                    for item in node.body
                    if isinstance(item, ast.AnnAssign)
                    and isinstance(item.target, ast.Name)
                    and not ast.unparse(item.annotation).startswith("ClassVar")
                }
    assert {name for name in settings if f"`{name}`" not in text} == set()


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_holds_hashes_and_no_addresses(name: str) -> None:
    lock = (ROOT / name).read_text()
    assert not re.search(r"https?://|index-url|find-links", lock)
    assert all("--hash=sha256:" in block for block in re.split(r"\n(?=\S)", lock.strip()))
