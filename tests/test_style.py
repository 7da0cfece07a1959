"""The rules of this repository that a machine can check: docs/glossary.md, docs/service-spec.md."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import Counter
from pathlib import Path
from statistics import median

import code_measures
import pytest
from code_measures import ROOT

from sematext_agent.shared import AGENT_VERSION

SOURCES = code_measures.sources()
TESTS = sorted([*ROOT.glob("tests/**/*.py"), *ROOT.glob("benchmarks/*.py")])
SERVICES = sorted(path.parent.name for path in ROOT.glob("services/*/pyproject.toml"))
SCRIPTS = sorted(
    [
        ROOT / "Makefile",
        ROOT / "pyproject.toml",
        ROOT / "docker-compose.yml",
        ROOT / ".ci/run",
        *ROOT.glob("tests/*.sh"),
        *(path for path in ROOT.glob("deploy/**/*") if path.is_file()),
    ]
)
LIST_OF_WORDS = ROOT / "tests/code_measures.py"
"""The module that has to spell the words that are ruled out."""
VAGUE = {"utils", "util", "helpers", "helper", "common", "base", "misc", "manager"}
SDKS = {"docker", "kubernetes", "nats", "psutil", "fastapi", "uvicorn", "msgspec", "pycurl"}
CLOCKS_OF_THEIR_OWN = {"shared/clock.py", "shared/summary.py"}
"""The clock of the system, and the date of today for a person at a terminal."""
_AMBIENT = re.compile(r"\b(time\.(time|monotonic|perf_counter)\w*|random\.\w+|datetime\.now)\(")


def relative(path: Path) -> str:
    """Return a path below the root, for the name of a test."""
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_a_module_follows_the_rules_of_names_words_and_sizes(path: Path) -> None:
    assert list(code_measures.findings(path)) == []


@pytest.mark.parametrize("path", sorted({*TESTS} - {LIST_OF_WORDS}), ids=relative)
def test_a_test_module_has_no_ruled_out_word_and_at_most_400_lines(path: Path) -> None:
    assert [*code_measures.word_findings(path), *code_measures.size_findings(path)] == []


def test_scripts_have_no_ruled_out_word() -> None:
    """Documents have tests of their own: tests/docs/test_pages.py."""
    assert [line for path in SCRIPTS for line in code_measures.word_findings(path)] == []


def test_functions_and_classes_are_small_as_a_rule() -> None:
    trees = [ast.parse(path.read_text()) for path in SOURCES]
    lines = [code_measures.function_lines(f) for t in trees for f in code_measures.functions(t)]
    assert median(lines) <= 9
    assert code_measures.percentile(lines, 95) <= code_measures.FUNCTION_LINES_P95_MAX
    assert max(lines) <= 60
    attributes = [
        len(code_measures.class_attributes(node))
        for tree in trees
        for node in code_measures.classes(tree)
        if not code_measures.is_struct(node)
    ]
    assert code_measures.percentile(attributes, 95) <= code_measures.CLASS_ATTRIBUTES_P95_MAX
    assert max(attributes) <= code_measures.CLASS_ATTRIBUTES_MAX


def test_a_class_name_is_unique_in_the_sources() -> None:
    names = Counter(
        node.name for path in SOURCES for node in code_measures.classes(ast.parse(path.read_text()))
    )
    assert {name for name, times in names.items() if times > 1} == set()


def test_no_module_has_a_vague_name_or_that_of_an_sdk_or_of_the_standard_library() -> None:
    paths = [*SOURCES, *ROOT.glob("tests/**/*.py")]
    names = {part for path in paths for part in path.relative_to(ROOT).with_suffix("").parts}
    assert names & VAGUE == set()
    assert names & SDKS == set()
    modules = {path.stem for path in paths} | {path.name for path in ROOT.glob("services/*")}
    assert modules & set(sys.stdlib_module_names) == set()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_every_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text()))


def test_clock_and_randomness_are_handed_in() -> None:
    """What reads them of its own accord cannot be simulated: see `shared.service.Runtime`."""
    assert {
        "/".join(path.parts[-2:])
        for path in SOURCES
        if _AMBIENT.search(re.sub(r"`[^`]*`", "", path.read_text()))
    } == CLOCKS_OF_THEIR_OWN


def test_kinds_and_groups_of_tests_name_existing_files() -> None:
    """`conftest.py` of this directory has both; their keys are the beginnings of paths."""
    table = ast.parse((ROOT / "tests/conftest.py").read_text())
    keys = [
        key
        for node in table.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) in ("KINDS", "GROUPS")
        for key in ast.literal_eval(node.value)
    ]
    assert len(keys) > 10
    assert [key for key in keys if not any(ROOT.glob(f"tests/{key.rstrip('/')}*"))] == []


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
