"""The scan roots that exist in a file system."""

from __future__ import annotations

from pathlib import Path

from package_run import write_distribution

from sematext_agent.host_collector.file_tree import open_tree
from sematext_agent.host_collector.packages.inventory import KINDS
from sematext_agent.host_collector.packages.readers import READERS
from sematext_agent.host_collector.packages.scan_patterns import PATTERNS
from sematext_agent.host_collector.packages.scan_roots import find_scan_roots


def test_there_is_a_reader_for_every_kind() -> None:
    assert set(READERS) == KINDS


def test_a_directory_with_two_paths_is_one_root(host: Path) -> None:
    (host / "usr/lib64").symlink_to("lib")
    write_distribution(host / "usr/lib/python3.11/site-packages", "a", "1.0")
    with open_tree(str(host)) as tree:
        paths = [match.path for match in find_scan_roots(tree, PATTERNS, ("python3",), READERS)]
    assert sorted(paths) == ["usr/lib/python3.11/site-packages", "usr/lib/python3/dist-packages"]


def test_only_roots_of_the_wanted_package_managers_are_found(host: Path) -> None:
    write_distribution(host / "usr/lib/python2.7/dist-packages", "old", "1.0")
    (host / "usr/lib/node_modules").mkdir()
    with open_tree(str(host)) as tree:
        assert [
            match.path for match in find_scan_roots(tree, PATTERNS, ("python2", "deb"), READERS)
        ] == ["usr/lib/python2.7/dist-packages"]
