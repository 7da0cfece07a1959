"""Measures of the code: lengths, attributes, openings of docstrings, words that are ruled out.

`python tests/code_measures.py [PATH ...]` prints them for the sources, or for the paths given, with
every place that breaks a rule of docs/glossary.md. `tests/test_style.py` holds the sources to them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parent.parent

CLASS_ATTRIBUTES_P95_MAX = 12
CLASS_ATTRIBUTES_MAX = 14
FUNCTION_LINES_P95_MAX = 25
FILE_LINES_MAX = 400

NAMES_RULED_OUT = frozenset(
    [
        "about",
        "asked",
        "both",
        "come",
        "due",
        "each",
        "found",
        "given",
        "gone",
        "here",
        "in_words",
        "its",
        "known",
        "late",
        "letter",
        "letters",
        "made",
        "none",
        "one",
        "ones",
        "other",
        "others",
        "said",
        "seen",
        "sent",
        "some",
        "taken",
        "their",
        "theirs",
        "there",
        "these",
        "they",
        "this",
        "those",
        "told",
        "what",
        "which",
        "who",
        "whom",
        "whose",
        "well",
    ]
)
"""Pronouns, participles and adverbs: as the whole name of a variable, function or attribute."""
WORDS_RULED_OUT = re.compile(
    r"(?i)\b(tells?|telling|told|untold|bury|buried|burial|lookout|vigil|patience|onlooker)\b"
)
"""In names, comments, docstrings, logs and documentation: docs/glossary.md has the terms."""
CONTRACT_TEXTS = ("(not told by the engine, but found afterwards)",)
"""Texts of delivered documents since 0.1.0, which users search for: they stay as they are."""
NAME_PARTS_RULED_OUT = frozenset(
    [
        "bury",
        "burial",
        "burials",
        "buried",
        "doubt",
        "doubts",
        "doubtful",
        "lookout",
        "onlooker",
        "patience",
        "room",
        "said",
        "say",
        "says",
        "tell",
        "telling",
        "tells",
        "told",
        "untold",
        "vigil",
    ]
)
"""As a part of a name, between underscores: `make_room`."""
OPENING_RULED_OUT = re.compile(
    r"(What|Whether|How|When|Who|Whose|Which|Where|Why|Since when|So (many|long|often))\b"
)
CLASS_OPENING_RULED_OUT = re.compile(
    r"(Decodes|Hands|Holds|Joins|Keeps|Makes|Publishes|Reads|Runs|Sends|Stores|Translates|Turns"
    r"|Watches|Writes)\b"
)
"""A class is a thing: its docstring opens with a noun."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources() -> list[Path]:
    """Return every module of the services and of what they share."""
    return sorted([*ROOT.glob("shared/src/**/*.py"), *ROOT.glob("services/*/src/**/*.py")])


def percentile(values: list[int], percent: int) -> int:
    """Return the value that `percent` of `values` do not exceed, 0 of none."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)] if values else 0


def functions(tree: ast.AST) -> Iterator[Function]:
    """Yield every function and method in `tree`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def classes(tree: ast.AST) -> Iterator[ast.ClassDef]:
    """Yield every class in `tree`."""
    return (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef))


def function_lines(function: Function) -> int:
    """Return the lines of a function without its docstring."""
    lines = (function.end_lineno or 0) - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= (function.body[0].end_lineno or 0) - function.body[0].lineno + 1
    return lines


def is_struct(node: ast.ClassDef) -> bool:
    """Return whether a class is a settings or wire struct, which has as many fields as it needs."""
    bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
    return bool(bases & {"Struct", "_Body", "ServiceSettings", "NamedTuple", "Enum"})


def class_attributes(node: ast.ClassDef) -> set[str]:
    """Return the attributes that a class declares or that its methods assign on `self`."""
    names = {
        item.target.id
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    for inner in ast.walk(node):
        match inner:
            case ast.Attribute(value=ast.Name(id="self"), attr=name, ctx=ast.Store()):
                names.add(name)
    return names


def bound_names(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Yield every name that `tree` binds, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef):
            yield node.name, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr, node.lineno


def docstrings(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the docstrings of `tree`, its classes and its functions, with their lines."""
    for node in [tree, *classes(tree), *functions(tree)]:
        if text := ast.get_docstring(node):
            yield text, getattr(node, "lineno", 1)


def value_docstrings(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Yield the docstrings below constants, fields and attributes, with their lines."""
    for node in [tree, *classes(tree), *functions(tree)]:
        for statement, below in pairwise(node.body):
            match statement, below:
                case ast.Assign() | ast.AnnAssign(), ast.Expr(ast.Constant(str(text))):
                    yield text, below.lineno


def word_findings(path: Path) -> Iterator[str]:
    """Yield every word that is ruled out in the file at `path`, of any kind, one line each."""
    where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    text = path.read_text()
    for contract_text in CONTRACT_TEXTS:
        text = text.replace(contract_text, "")
    for number, line in enumerate(text.splitlines(), 1):
        if word := WORDS_RULED_OUT.search(line):
            yield f"{where}:{number}: the word {word[0]!r}"


def size_findings(path: Path) -> Iterator[str]:
    """Yield a line for a module that is too long, and one for every `fmt: skip` in it."""
    where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    lines = path.read_text().splitlines()
    if len(lines) > FILE_LINES_MAX:
        yield f"{where}: {len(lines)} lines, over {FILE_LINES_MAX}"
    for number, line in enumerate(lines, 1):
        if re.search(r"#\s*fmt: skip", line):
            yield f"{where}:{number}: fmt: skip"


def findings(path: Path) -> Iterator[str]:
    """Yield every place in the module at `path` that breaks a rule, one line each."""
    tree = ast.parse(path.read_text())
    where = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    yield from size_findings(path)
    yield from word_findings(path)
    for node in classes(tree):
        attributes = len(class_attributes(node))
        if not is_struct(node) and attributes > CLASS_ATTRIBUTES_MAX:
            yield f"{where}:{node.lineno}: class {node.name} has {attributes} attributes"
        if CLASS_OPENING_RULED_OUT.match(ast.get_docstring(node) or ""):
            yield f"{where}:{node.lineno}: the docstring of class {node.name} opens with a verb"
    for name, line in bound_names(tree):
        plain = name.strip("_").lower()
        if plain in NAMES_RULED_OUT or NAME_PARTS_RULED_OUT & set(plain.split("_")):
            yield f"{where}:{line}: the name {name}"
    for docstring, line in docstrings(tree):
        if OPENING_RULED_OUT.match(docstring):
            yield f"{where}:{line}: a docstring opens with {docstring.split()[0]!r}"


def table(paths: list[Path]) -> str:
    """Return the measures of `paths`, one a line."""
    trees = [ast.parse(path.read_text()) for path in paths]
    per_function = [function_lines(f) for tree in trees for f in functions(tree)]
    per_class = [
        len(class_attributes(c)) for tree in trees for c in classes(tree) if not is_struct(c)
    ]
    per_file = [len(path.read_text().splitlines()) for path in paths]
    openings = [
        bool(OPENING_RULED_OUT.match(text))
        for tree in trees
        for text, _ in (*docstrings(tree), *value_docstrings(tree))
    ]
    rows = [
        (f"{label}: median/p95/max", f"{median(v):g}/{percentile(v, 95)}/{max(v)}")
        for label, v in (
            ("function lines", per_function),
            ("class attributes", per_class),
            ("file lines", per_file),
        )
        if v
    ]
    rows.append(
        ("docstrings that open with a relative clause", f"{sum(openings)} of {len(openings)}")
    )
    return "\n".join(f"{label:<45} {value}" for label, value in rows)


def main(arguments: list[str]) -> int:
    """Print the measures and the findings; return 1 where there are findings."""
    roots = [Path(argument).resolve() for argument in arguments]
    paths = [p for path in roots for p in (sorted(path.rglob("*.py")) if path.is_dir() else [path])]
    paths = paths or sources()
    problems = [problem for path in paths for problem in findings(path)]
    print(table(paths), *problems, f"{len(problems)} findings", sep="\n")
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
