"""From the changes of a root to events and cursors. No I/O."""

from __future__ import annotations

from collections.abc import Iterator

from sematext_agent.host_collector.packages.inventory import InventoryChange, RootDiff
from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.events import Event, PackageChange, event_id, format_rfc3339


def translate(diff: RootDiff) -> Iterator[Observation]:
    """Yield the events of `diff` and its cursors, no cursor before the last event.

    The ids of the events are the same whenever they are made.
    """
    ids = [_event_id(diff, change) for change in diff.changes]
    transaction = event_id(*ids)
    cursors = iter(diff.cursors)
    remaining = len(ids)
    for identity, change in zip(ids, diff.changes, strict=True):
        remaining -= 1
        name, cursor = next(cursors) if not remaining else ("", None)
        yield Observation(_event(identity, diff, change, transaction), cursor, name)
    for name, cursor in cursors:
        yield Observation(None, cursor, name)


def _event_id(diff: RootDiff, change: InventoryChange) -> str:
    package = change.package
    return event_id(
        "package",
        diff.origin.host,
        diff.root.container_id,
        diff.root.kind,
        diff.root.path,
        change.change,
        package.name,
        package.version,
        package.architecture,
        package.stamp,
    )


def _event(identity: str, diff: RootDiff, change: InventoryChange, transaction: str) -> Event:
    package, origin = change.package, diff.origin
    is_installed = change.change == "installed"
    body = PackageChange(
        change=change.change,
        manager=origin.manager,
        name=package.name,
        version=package.version,
        architecture=package.architecture,
        previous_version=change.other_version if is_installed else "",
        next_version="" if is_installed else change.other_version,
        # A host has one database of deb or rpm, and many directories of the others.
        path="" if origin.manager in ("deb", "rpm") else f"/{diff.root.path}",
        transaction=transaction,
        container_id=diff.root.container_id,
        container_name=origin.container_name,
        container_image=origin.container_image,
    )
    return Event(
        id=identity,
        time=format_rfc3339(change.time_ns),
        origin=origin.host,
        agent=AGENT_VERSION,
        body=body,
    )
