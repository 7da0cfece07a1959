"""The locks of package managers, seen by root and by others."""

from __future__ import annotations

import fcntl
import os
import tempfile
from pathlib import Path

import pytest
from package_managers import locked

from sematext_agent.host_collector.file_tree import open_tree
from sematext_agent.host_collector.packages.readers.locks import is_locked

NOBODY = 65534


def test_a_lock_of_another_process_is_seen_while_it_is_held(tmp_path: Path) -> None:
    with open_tree(str(tmp_path)) as tree:
        assert not is_locked(tree, "lock")
        with locked(tmp_path / "lock"):
            assert is_locked(tree, "lock")
        assert not is_locked(tree, "lock")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_a_lock_that_may_not_be_opened_is_seen_all_the_same() -> None:
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        lock = Path(folder) / "lock"
        lock.touch(mode=0o600)

        def is_seen_by_nobody() -> bool:
            os.seteuid(NOBODY)
            try:
                with open_tree("/") as tree:
                    return is_locked(tree, str(lock))
            finally:
                os.seteuid(0)

        with lock.open("w") as file:
            assert not is_seen_by_nobody()
            fcntl.lockf(file, fcntl.LOCK_EX)
            assert is_seen_by_nobody()
        assert not is_seen_by_nobody()
