"""The pages of the documentation: lines, words, links, decisions and the picture."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from urllib.parse import unquote
from xml.etree import ElementTree

import pytest
from code_measures import WORDS_RULED_OUT

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", ".github/*.md", "tests/**/*.md")
    for page in ROOT.glob(pattern)
)
DECISIONS = sorted(ROOT.glob("docs/decisions/*.md"))
SERVICES = sorted(ROOT.glob("services/*/src/sematext_agent/*"))
PICTURE = ROOT / "docs/architecture.dot"
LINE_CHARACTERS_MAX = 120
_SVG = "{http://www.w3.org/2000/svg}"

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


@each_page
def test_no_line_is_too_long(page: Path) -> None:
    lines = enumerate(page.read_text().splitlines(), 1)
    assert [number for number, line in lines if len(line) > LINE_CHARACTERS_MAX] == []


@each_page
def test_no_word_is_ruled_out(page: Path) -> None:
    text = page.read_text()
    if page.name == "glossary.md":  # the last column has the words that are not used
        text = re.sub(r"^\|.*", "", text, flags=re.MULTILINE)
    lines = enumerate(text.splitlines(), 1)
    assert [(number, line) for number, line in lines if WORDS_RULED_OUT.search(line)] == []


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^ {4}.*$", "", text, flags=re.MULTILINE)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = unquote(target).partition("#")
        file = page.parent / path if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


@each_page
def test_paths_of_the_repository_exist(page: Path) -> None:
    folders = "benchmarks|deploy|docs|services|shared|tests"
    # The tables of the walks name files below sematext_agent/; tests/test_walks.py has them.
    text = re.sub(r"<!-- walk: \w+ -->\n\n(\|.*\n)+", "", page.read_text())
    for path in re.findall(rf"`((?:{folders})/[\w./-]+)`", text):
        assert (ROOT / path).exists(), path


def anchors(page: Path) -> set[str]:
    """Return the anchors of the headings of a page, as hosts of repositories make them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.stem)
def test_a_decision_has_a_number_a_status_and_a_date(page: Path) -> None:
    title, empty, status = page.read_text().split("\n")[:3]
    assert title.startswith(f"# {int(page.name[:4])}. ")
    assert empty == ""
    assert re.match(r"Status: (accepted|superseded), \d{4}-\d\d-\d\d\b", status)


def test_decisions_are_numbered_without_holes() -> None:
    assert [int(page.name[:4]) for page in DECISIONS] == [*range(1, len(DECISIONS) + 1)]


def section(title: str) -> list[tuple[str, str]]:
    """Return the rows of the table in a section of docs/architecture.md."""
    text = (ROOT / "docs/architecture.md").read_text().split(f"\n## {title}\n")[1]
    return re.findall(r"^\| (.+?) \| (.+?) \|$", text.partition("\n## ")[0], re.MULTILINE)


@pytest.mark.parametrize("service", SERVICES, ids=lambda service: service.name)
def test_a_service_has_the_files_that_the_architecture_names(service: Path) -> None:
    rows = dict(section("The files of a service"))
    own, _, nested = rows[service.name].partition(", and for each source ")
    files = re.findall(r"`([\w./]+)`", rows["every service"] + own)
    for folder in re.findall(r"`(\w+/)`", nested):
        files += [folder + file for file in re.findall(r"`(\w+\.py)`", nested)]
    assert len(files) > 1
    for file in files:
        assert (service / file).exists(), file


def test_the_architecture_names_every_module_of_shared() -> None:
    text = (ROOT / "docs/architecture.md").read_text()
    folder = ROOT / "shared/src/sematext_agent/shared"
    modules = {f"`{file.name}`" for file in folder.glob("*.py") if file.stem != "__init__"}
    assert {module for module in modules if module not in text} == set()
    rows = {name for cell, _ in section("The code") for name in re.findall(r"`(\w+\.py)`", cell)}
    assert {name for name in rows if not (folder / name).is_file()} == set()


def test_the_picture_shows_every_node_label_and_edge_of_its_source() -> None:
    nodes, edges = parse_dot(PICTURE.read_text())
    shown_nodes: dict[str, set[str]] = {}
    shown_edges = set()
    for group in ElementTree.parse(PICTURE.with_suffix(".svg")).iter(f"{_SVG}g"):
        title = group.findtext(f"{_SVG}title", "")
        if group.get("class") == "node":
            shown_nodes[title] = {text.text or "" for text in group.iter(f"{_SVG}text")}
        elif group.get("class") == "edge":
            shown_edges.add(tuple(title.split("->")))
    assert shown_nodes == nodes, "run the command in docs/architecture.dot"
    assert shown_edges == edges, "run the command in docs/architecture.dot"


def parse_dot(text: str) -> tuple[dict[str, set[str]], set[tuple[str, ...]]]:
    """Return the nodes with the lines of their labels, and the edges, of a simple dot file."""
    nodes: dict[str, set[str]] = {}
    edges: set[tuple[str, ...]] = set()
    for line in text.splitlines():
        if edge := re.match(r"\s*(\w+|\{[\w ]+\}) -> (\w+)", line):
            edges |= {(start, edge[2]) for start in edge[1].strip("{}").split()}
        elif node := re.fullmatch(r'\s*(\w+)(?: \[label="([^"]*)".*\])?', line):
            nodes[node[1]] = set((node[2] or node[1]).split("\\n"))
    return nodes, edges


@pytest.mark.skipif(not shutil.which("dot"), reason="no dot (Debian's graphviz has it)")
def test_the_source_of_the_picture_can_be_rendered(tmp_path: Path) -> None:
    done = subprocess.run(
        ["dot", "-Tsvg", PICTURE, "-o", tmp_path / "picture.svg"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "<svg" in (tmp_path / "picture.svg").read_text()
