"""Follows every root of the host and of the running containers.

One round is plain, blocking work: look for new processes, search for roots where something new
runs or appeared, look at the roots that may have changed.
"""

from __future__ import annotations

import logging
import os
import time
from errno import EACCES, EPERM

from sematext_agent.host_collector.packages import roots
from sematext_agent.host_collector.packages.containers import ContainerGone, name_and_image, tree_of
from sematext_agent.host_collector.packages.followed import QUIET_SECONDS, Followed, Told
from sematext_agent.host_collector.packages.inventory import Origin, Root
from sematext_agent.host_collector.packages.notify import Notifier
from sematext_agent.host_collector.packages.processes import HOST, Processes
from sematext_agent.host_collector.packages.readers import manager_of
from sematext_agent.host_collector.packages.roots import Place
from sematext_agent.host_collector.packages.slots import Slots
from sematext_agent.host_collector.packages.tree import Forbidden, Tree, Unreadable
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.settings import SettingsError

log = logging.getLogger(__name__)

ROUND_SECONDS = 4.0
"""The most between two rounds, and how often new processes, and containers with them, are looked
for: listing them is most of what an idle host costs. A root of the host is looked at as often,
although the kernel tells of its changes."""
UNWATCHED_SECONDS = 1.0
"""How often a root is looked at that could not be watched."""
CONTAINER_SECONDS = 30.0
"""How often a root in a container is looked at that is watched."""
CHANGING_SECONDS = 0.15
"""The least between two rounds: while some root changes."""
ROOTS_MAX = 2000
_WARNED_MAX = 1000
GONE_MAX = 128
"""How many roots that are gone are remembered, should they come back: the longest gone go first."""


class Follower:
    """All the roots, and what is new about them.

    Raises SettingsError where `HOST_ROOT` is no directory.
    """

    def __init__(self, settings: HostSettings, known: Slots, notifier: Notifier) -> None:
        self._settings = settings
        self._known = known
        self._notifier = notifier
        root = settings.host_root.rstrip("/")
        if root and not os.path.isdir(root):
            raise SettingsError(f"HOST_ROOT={root}", "no such directory", "mount the host there")
        # In a container the procfs of the host is below its mounted root.
        proc = f"{root}/proc" if root and os.path.isdir(f"{root}/proc/1") else "/proc"
        self._host_root = root
        # In a sandbox of systemd the file system is the host's, but not our namespace: HOST_ROOT=/.
        self._processes = Processes(proc, "1" if settings.host_root else "self")
        self._names: dict[str, tuple[str, str]] = {}
        self._search_at: dict[str, float] = {}
        """When a tree has to be searched at all the places."""
        self._named: dict[str, set[Place]] = {}
        """The places that processes have named since the last round, by the tree."""
        self._processes_at = 0.0
        self._rescan_at = 0.0
        self._warned: set[str] = set()
        self._searched: set[str] = set()
        """The trees in which roots were searched since the start."""
        self.roots: dict[Root, Followed] = {}
        self.packages = 0
        """How many there were at the end of the last round."""
        for kept in known.roots:
            self._follow(kept, self._origin(kept))

    @property
    def containers(self) -> int:
        """How many containers are seen."""
        return len(self._processes.containers)

    @property
    def failures(self) -> list[Followed]:
        """The roots of the host that cannot be read."""
        return [one for one in self.roots.values() if one.failure and not one.root.container_id]

    @property
    def wait_seconds(self) -> float:
        """How long the next round may be off."""
        now = time.monotonic()
        looks = [
            one.look_at - now
            for one in self.roots.values()
            if one.changed_since or (not one.is_watched and one.gone_since is None)
        ]
        looks += [at - now for at in self._search_at.values()]
        return min(ROUND_SECONDS, max(CHANGING_SECONDS, min(looks, default=ROUND_SECONDS)))

    def round(self) -> list[Told]:
        """Looks once at everything that is due; returns what is new."""
        now = time.monotonic()
        self._take_notes(now)
        self._look_at_processes(now)
        followed: dict[str, list[Followed]] = {tree_id: [] for tree_id in self._trees()}
        for one in self.roots.values():
            if one.root.container_id in followed:
                followed[one.root.container_id].append(one)
            else:
                one.leave(now)
        told: list[Told] = []
        for tree_id, its in followed.items():
            due = [one for one in its if one.look_at <= now]
            places = self._places_of(tree_id, now)
            if due or places:
                told += self._enter(tree_id, due, places, now)
        self._forget_long_gone()
        self.packages = sum(one.count for one in self.roots.values())
        return told

    def _trees(self) -> list[str]:
        """The file systems that are wanted, the host's first: what two of them share is its."""
        host = [HOST] if self._settings.pkg_enabled else []
        return host + (
            list(self._processes.containers) if self._settings.pkg_container_enabled else []
        )

    def _places_of(self, tree_id: str, now: float) -> list[Place]:
        """Where roots of the tree have to be searched for now, the usual places first."""
        places = sorted(self._named.pop(tree_id, ()))
        if self._search_at.get(tree_id, now + 1) > now:
            return places
        del self._search_at[tree_id]
        if not tree_id:
            places += [place for path in self._settings.pkg_paths for place in roots.named(path)]
        return [*roots.PLACES, *places, *sorted(self._processes.hints.get(tree_id, ()))]

    def _enter(
        self, tree_id: str, due: list[Followed], places: list[Place], now: float
    ) -> list[Told]:
        """Looks into one file system: for new roots, and at those that are due."""
        try:
            with tree_of(self._processes, tree_id, self._host_root) as tree:
                if places:
                    due += self._search(tree_id, tree, places)
                return self._look(tree, due, now)
        except ContainerGone:
            for one in due:
                one.leave(now)
        except OSError as error:
            remedy = "run as root with CAP_SYS_PTRACE" if error.errno in (EACCES, EPERM) else ""
            self._warn_once(f"cannot look into {_where(tree_id)}: {error.strerror} {remedy}")
            for one in due:
                one.look_at = now + CONTAINER_SECONDS
        return []

    def _look(self, tree: Tree, due: list[Followed], now: float) -> list[Told]:
        """Looks at the roots that are due in one file system."""
        told: list[Told] = []
        for one in due:
            news = one.look(tree, self._known, now)
            if news is not None:
                told.append(news)
            if one.gone_since is None and (news is not None or not one.is_watched):
                one.watch(tree, self._notifier)
            if one.changed_since is None and one.look_at <= now:
                one.look_at = now + _calm_seconds(one)
        return told

    def _search(self, tree_id: str, tree: Tree, places: list[Place]) -> list[Followed]:
        """Looks for roots that are not followed yet; returns them."""
        for path in roots.parents(tree):
            self._notifier.watch(tree, path, tree_id)
        if not tree_id:
            self._warn_of_forbidden_paths(tree)
        name, image = self._name_and_image(tree_id)
        for one in self.roots.values():
            if one.root.container_id == tree_id:
                # What is known from before keeps its path, whatever else leads there too.
                one.inode = tree.inode(one.root.path)
                one.origin = self._origin(one.root, name, image)
        inodes = {one.inode for one in self.roots.values() if one.inode}
        new: list[Followed] = []
        for found in roots.find(tree, places, self._settings.pkg_kinds):
            root = Root(found.kind, found.path, tree_id)
            if root not in self.roots and found.inode not in inodes and not self._is_full():
                began_empty = found.began_empty and tree_id in self._known.settled
                origin = self._origin(root, name, image)
                new.append(self._follow(root, origin, began_empty, found.inode))
        self._searched.add(tree_id)
        return new

    def _warn_of_forbidden_paths(self, tree: Tree) -> None:
        for path in self._settings.pkg_paths:
            try:
                tree.names(path.strip("/"))
            except Forbidden:
                self._warn_once(
                    f"PKG_PATHS={path}: may not be read by user {os.geteuid()}; give it the right, "
                    "or name another path"
                )
            except (OSError, Unreadable):
                continue  # it may be there later

    def _is_full(self) -> bool:
        full = len(self.roots) >= ROOTS_MAX
        if full:
            self._warn_once(f"more than {ROOTS_MAX} places hold packages: the rest is not told")
        return full

    def _warn_once(self, text: str) -> None:
        if text not in self._warned:
            if len(self._warned) >= _WARNED_MAX:
                self._warned.clear()
            self._warned.add(text)
            log.warning("%s", text)

    def _follow(
        self,
        root: Root,
        origin: Origin,
        began_empty: bool = False,
        inode: tuple[int, int] | None = None,
    ) -> Followed:
        one = self.roots[root] = Followed(root, origin, began_empty)
        one.inode = inode
        return one

    def _origin(self, root: Root, name: str = "", image: str = "") -> Origin:
        return Origin(self._settings.hostname, manager_of(root.kind, root.path), name, image)

    def _name_and_image(self, container: str) -> tuple[str, str]:
        if container == HOST:
            return "", ""
        if container not in self._names:
            # Docker keeps its record of a container beside the /etc/hostname it mounts into it.
            beside = self._processes.mounted(container, "/etc/hostname").rpartition("/")[0]
            with tree_of(self._processes, HOST, self._host_root) as host:
                self._names[container] = name_and_image(host, container, beside.strip("/"))
        return self._names[container]

    def _take_notes(self, now: float) -> None:
        """Makes due what the kernel says has changed."""
        keys, lost = self._notifier.read()
        for key in keys:
            if isinstance(key, Root) and key in self.roots:
                self.roots[key].look_at = 0.0
            elif isinstance(key, str):
                self._search_at.setdefault(key, now + QUIET_SECONDS)
        if lost:
            self._rescan_at = 0.0

    def _look_at_processes(self, now: float) -> None:
        """Looks for new processes; and at everything anew when that is due."""
        rescan = now >= self._rescan_at
        if rescan:
            self._rescan_at = now + self._settings.pkg_interval
            self._processes.forget()
            for one in self.roots.values():
                one.read_again()
        elif now < self._processes_at:
            return
        self._processes_at = now + ROUND_SECONDS
        self._named = self._processes.look()
        if self._processes.forbidden and self._settings.pkg_container_enabled:
            self._warn_once(
                "what other users run is hidden: packages of their environments and of containers "
                "are not told; run as root with CAP_SYS_PTRACE"
            )
        for tree_id in self._trees():
            if rescan or tree_id not in self._searched:
                self._search_at[tree_id] = now

    def _forget_long_gone(self) -> None:
        gone = sorted(
            (one for one in self.roots.values() if one.gone_since is not None),
            key=lambda one: one.gone_since or 0.0,
        )
        for one in gone[: max(0, len(gone) - GONE_MAX)]:
            del self.roots[one.root]
            self._known.forget(one.root)
        trees = {root.container_id for root in self.roots} | {HOST, *self._processes.containers}
        self._known.settled &= trees
        self._searched &= {HOST, *self._processes.containers}
        self._names = {name: self._names[name] for name in self._names.keys() & trees}

    def settling(self) -> list[str]:
        """The trees of which every root has its inventory, and that was not noted yet."""
        waiting = {
            one.root.container_id
            for one in self.roots.values()
            if one.gone_since is None and one.root not in self._known
        }
        return list(self._searched - self._known.settled - waiting)


def _where(tree_id: str) -> str:
    return f"container {tree_id[:12]}" if tree_id else "the host"


def _calm_seconds(one: Followed) -> float:
    """When a root that is as it was read is looked at again, although nobody called."""
    if not one.is_watched:
        return UNWATCHED_SECONDS if one.gone_since is None else ROUND_SECONDS
    return CONTAINER_SECONDS if one.root.container_id else ROUND_SECONDS
