"""The structure of the host collector: two halves that do not know each other, and few levels."""

from __future__ import annotations

import functools

import grimp

ROOT = "sematext_agent.host_collector"
LEVELS_MAX = 7


def test_no_chain_of_imports_has_more_than_seven_modules() -> None:
    graph = grimp.build_graph(ROOT)

    @functools.cache
    def chain(module: str) -> tuple[str, ...]:
        """Return the longest chain of imports that begins with `module`."""
        chains = [chain(imported) for imported in graph.find_modules_directly_imported_by(module)]
        return (module, *max(chains, key=len, default=()))

    longest = max(map(chain, graph.modules), key=len)
    assert longest[0] == f"{ROOT}.__main__"
    assert len(longest) <= LEVELS_MAX, longest


def test_the_two_halves_do_not_import_each_other() -> None:
    graph = grimp.build_graph(ROOT)
    kernel, packages = f"{ROOT}.kernel", f"{ROOT}.packages"
    assert graph.find_children(kernel)
    assert graph.find_children(packages)
    for importer, imported in ((kernel, packages), (packages, kernel)):
        assert not graph.chain_exists(importer, imported, as_packages=True)
