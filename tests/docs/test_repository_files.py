"""The files at the root of the repository, and what they call, refer to and promise."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from sematext_agent.shared import AGENT_VERSION

ROOT = Path(__file__).parents[2]
PROJECTS = [ROOT / "shared/pyproject.toml", *ROOT.glob("services/*/pyproject.toml")]


def load(path: str) -> dict[str, Any]:
    """Return the YAML of a file; the word `on`, which YAML 1.1 takes for true, stays a word."""
    text = re.sub(r"^on:", '"on":', (ROOT / path).read_text(), flags=re.MULTILINE)
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def test_the_licence_is_the_whole_text_and_every_distribution_has_it() -> None:
    text = (ROOT / "LICENSE").read_text()
    assert text.split("\n")[1].strip() == "Apache License"
    assert all(f"\n   {number}. " in text for number in range(1, 10))
    assert "END OF TERMS AND CONDITIONS" in text
    for file in PROJECTS:
        assert tomllib.loads(file.read_text())["project"]["license"] == "Apache-2.0", file


def test_one_version_is_everywhere() -> None:
    released = re.findall(r"^## \[(\d.*?)\] - \d{4}-\d\d-\d\d$", changelog(), re.MULTILINE)
    chart = load("deploy/helm/Chart.yaml")
    assert released[0] == chart["version"] == chart["appVersion"] == AGENT_VERSION
    supported = re.findall(r"^\| (\d+\.\d+)\.x \| yes \|$", read("SECURITY.md"), re.MULTILINE)
    assert supported == [AGENT_VERSION.rpartition(".")[0]]


def changelog() -> str:
    return read("CHANGELOG.md")


def read(path: str) -> str:
    return (ROOT / path).read_text()


def test_the_changelog_has_the_form_of_keep_a_changelog() -> None:
    sections = re.findall(r"^## (.*)$", changelog(), re.MULTILINE)
    assert sections[0] == "[Unreleased]"
    kinds = set(re.findall(r"^### (.*)$", changelog(), re.MULTILINE))
    assert kinds <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def hooks() -> list[dict[str, Any]]:
    (repository,) = load(".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    listed: list[dict[str, Any]] = repository["hooks"]
    return listed


def test_the_hooks_run_commands_that_exist() -> None:
    for hook in hooks():
        assert hook["language"] == "system"
        command = shlex.split(hook["entry"])
        if command[0] == "sh":
            command = command[2].split()
        assert command[0].startswith(".venv/bin/")
        assert (ROOT / command[0]).is_file(), hook["id"]


@pytest.mark.parametrize("hook", ["ruff-format", "ruff-check"])
def test_a_hook_takes_this_file(hook: str) -> None:
    (entry,) = (listed["entry"] for listed in hooks() if listed["id"] == hook)
    command = [*shlex.split(entry), str(Path(__file__).relative_to(ROOT))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_workflow_calls_the_script_of_every_ci_with_the_least_rights() -> None:
    workflow = load(".github/workflows/ci.yml")
    assert {"push", "pull_request"} <= workflow["on"].keys()
    assert workflow["permissions"] == {"contents": "read"}
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    assert [step["run"] for step in steps if "run" in step] == [".ci/run"]
    assert (ROOT / ".ci/run").stat().st_mode & 0o111
    for step in steps:
        assert re.fullmatch(r"[\w-]+/[\w-]+@[\w.]+", step.get("uses", "a/b@c")), step
    assert "://" not in read(".github/workflows/ci.yml")


@pytest.mark.parametrize("template", ["bug", "proposal"])
def test_an_issue_template_is_a_form(template: str) -> None:
    form = load(f".github/ISSUE_TEMPLATE/{template}.yml")
    assert {"name", "description", "body"} <= form.keys()
    identifiers = [item["id"] for item in form["body"] if item["type"] != "markdown"]
    assert len(set(identifiers)) == len(identifiers) > 0
    for item in form["body"]:
        assert item["type"] in {"markdown", "textarea", "input", "dropdown"}
        assert item["attributes"].get("label") or item["attributes"].get("value")
        assert item["type"] != "dropdown" or item["attributes"]["options"]


def test_the_other_templates_are_there() -> None:
    assert load(".github/ISSUE_TEMPLATE/config.yml") == {"blank_issues_enabled": True}
    assert "make test" in read(".github/pull_request_template.md")


def test_the_editor_settings_agree_with_the_formatter() -> None:
    text = read(".editorconfig")
    sections = dict(re.findall(r"^\[(.+)\]\n((?:[^\[\n].*\n|\n)*)", text, re.MULTILINE))
    line_length = tomllib.loads(read("pyproject.toml"))["tool"]["ruff"]["line-length"]
    assert f"max_line_length = {line_length}" in sections["*.py"]
    assert "indent_style = tab" in sections["Makefile"]
    assert text.startswith("root = true\n")


def test_every_target_of_make_in_the_docs_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), re.MULTILINE))
    for name in ("README.md", "CONTRIBUTING.md"):
        named = set(re.findall(r"\bmake ([a-z-]+)(?=[ `\n])", code_of(read(name))))
        assert named <= targets, name


def code_of(text: str) -> str:
    """Return the code of a page: indented blocks, and what is between backticks."""
    blocks = re.findall(r"^ {4}.*\n", text, re.MULTILINE)
    return "".join(blocks) + "\n".join(re.findall(r"`[^`\n]+`", text))


def test_shell_scripts_are_valid() -> None:
    bash = shutil.which("bash")
    assert bash is not None
    for script in (ROOT / ".ci/run", *ROOT.glob("deploy/**/*.sh"), *ROOT.glob("tests/*.sh")):
        done = subprocess.run([bash, "-n", script], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
