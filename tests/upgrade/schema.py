"""The schema of everything that one version writes and another reads: messages, records, cursors.

    .venv/bin/python tests/upgrade/schema.py        # adds additions to schema.json, nothing else

Fields are only added, with a default, and at the end where a struct is written as an array.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import msgspec

from sematext_agent.docker_collector import state as docker
from sematext_agent.host_collector.kernel import cursor as oom
from sematext_agent.host_collector.packages import inventory, inventory_store
from sematext_agent.kubernetes_collector.cursor import WatchCursor
from sematext_agent.lifecycle_collector.translate import RunRecord
from sematext_agent.shared import events, health, subjects

SNAPSHOT = Path(__file__).parent / "schema.json"
STRUCTS: dict[str, Any] = {
    **{body.__name__: body for body in events.Body.__args__},
    "Event": events.Event,
    "HostFacts": events.HostFacts,
    "Report": health.Report,
    "Condition": health.Condition,
    "docker cursor": docker.EngineCursor,
    "docker container": docker.ContainerState,
    "oom cursor": oom.KernelLogCursor,
    "kubernetes cursor": WatchCursor,
    "lifecycle cursor": RunRecord,
    "packages slot": inventory_store._InventorySlot,
    "packages index": inventory_store.StoreIndex,
    "package": inventory.Package,
    "packages root": inventory.ScanRoot,
}
WORDS = {
    word
    for name, value in vars(subjects).items()
    if name.isupper() and name[0] != "_"
    for word in ((value,) if isinstance(value, str) else value)
}
"""Subjects and their tokens, streams, consumers, buckets and headers."""
Schema = dict[str, dict[str, str]]


def current() -> Schema:
    """Return the type of each field by struct, and `, optional` where it has a default."""
    schema: Schema = {"subjects": dict.fromkeys(sorted(WORDS), "a word of the bus")}
    for name, struct in STRUCTS.items():
        schema[name] = {"tag": str(struct.__struct_config__.tag)}
        for field in msgspec.structs.fields(struct):
            form = msgspec.json.schema(field.type)
            form.pop("$defs", None)  # the structs within have their own entries
            optional = "" if field.required else ", optional"
            schema[name][field.encode_name] = json.dumps(form) + optional
    return schema


def _may_replace(kind: str, by: str) -> bool:
    """Return whether a field's schema is the same, or the same with more values of an enum."""
    if kind == by:
        return True
    before, _, optional = kind.partition(", optional")
    now, _, still = by.partition(", optional")
    if optional != still or not before.startswith('{"enum"') or not now.startswith('{"enum"'):
        return False
    return set(json.loads(before)["enum"]) <= set(json.loads(now)["enum"])


def problems(kept: Schema, now: Schema) -> list[str]:
    """Return the differences that break a reader or a writer of the kept schema."""
    differences = []
    for name, fields in kept.items():
        has = now.get(name, {})
        differences += [
            f"{name}.{field} was `{kind}` and is `{has.get(field, 'gone')}`"
            for field, kind in fields.items()
            if not _may_replace(kind, has.get(field, "gone"))
        ]
        added = [field for field in has if field not in fields]
        if name != "subjects":
            differences += [
                f"{name}.{field} is new and has no default"
                for field in added
                if not has[field].endswith(", optional")
            ]
        struct = STRUCTS.get(name)
        if struct and struct.__struct_config__.array_like and [*has][: len(fields)] != [*fields]:
            differences.append(f"{name} is written as an array, and its order has changed")
    return differences


def main() -> int:
    """Write additions to the snapshot; return 1 for any other difference."""
    now = current()
    kept: Schema = json.loads(SNAPSHOT.read_text()) if SNAPSHOT.exists() else {}
    if differences := problems(kept, now):
        print("\n".join(["not only additions; schema.json stays as it is:", *differences]))
        return 1
    SNAPSHOT.write_text(json.dumps(now, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
