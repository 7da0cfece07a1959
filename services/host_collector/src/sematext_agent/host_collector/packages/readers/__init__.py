"""The readers of every kind of scan root."""

from __future__ import annotations

from sematext_agent.host_collector.packages.readers import dpkg, node, python, rpm
from sematext_agent.host_collector.packages.readers.reader import PackageReader

READERS = {
    # The reader of dpkg's database understands every state in between, so a question that waits
    # for its answer on a terminal delays the events of other packages by a minute only.
    "deb": PackageReader(dpkg.fingerprint, dpkg.scan, lock_files=("lock", "lock-frontend")),
    "deb-folder": PackageReader(dpkg.fingerprint_folder, dpkg.scan_folder),
    # During a transaction rpm's database has both versions, so nothing is read until its end.
    "rpm": PackageReader(
        rpm.fingerprint,
        rpm.scan,
        lock_files=(".rpm.lock",),
        lock_seconds_max=float("inf"),
        installed_at=rpm.installed_at,
    ),
    "python": PackageReader(python.fingerprint, python.scan),
    "node": PackageReader(node.fingerprint_folder, node.scan_folder, folders=node.scoped_folders),
    "node-project": PackageReader(node.fingerprint_project, node.scan_project),
}
"""The reader by `ScanRoot.kind`."""
