"""The schedule of searches for scan roots: which file system, when, and where in it."""

from __future__ import annotations

from sematext_agent.host_collector.packages.processes import HOST, ProcessList
from sematext_agent.host_collector.packages.scan_patterns import (
    PATTERNS,
    ScanPattern,
    patterns_of_path,
)
from sematext_agent.host_collector.settings import HostSettings

PROCESSES_SECONDS = 4.0
"""Interval in which processes, and containers with them, are listed: most of an idle host's cost.
"""


class SearchSchedule:
    """The file systems to search. Times are seconds of the monotonic clock."""

    def __init__(self, settings: HostSettings, processes: ProcessList) -> None:
        self._settings = settings
        self._processes = processes
        self._search_times: dict[str, float] = {}
        """The times of the next searches with all patterns, by the container's id."""
        self._new_patterns: dict[str, set[ScanPattern]] = {}
        """The patterns that processes added in the last update, by the container's id."""
        self._update_at = 0.0
        self._rescan_at = 0.0
        self._searched: set[str] = set()

    @property
    def file_systems(self) -> list[str]:
        """The host and the running containers that are scanned, by their ids.

        The host comes first, so that a root which a container shares with it is the host's.
        """
        host = [HOST] if self._settings.pkg_enabled else []
        return host + (
            list(self._processes.containers) if self._settings.pkg_container_enabled else []
        )

    @property
    def searched(self) -> set[str]:
        """The running file systems that were searched since the start."""
        return self._searched & {HOST, *self._processes.containers}

    @property
    def next_search_at(self) -> float:
        """The time of the next search with all patterns; infinite where none is planned."""
        wanted = self._search_times.keys() & set(self.file_systems)
        return min((self._search_times[name] for name in wanted), default=float("inf"))

    def request_rescan(self) -> None:
        """Make the next update a full rescan."""
        self._rescan_at = 0.0

    def request_search(self, container_id: str, at: float) -> None:
        """Plan a search of the file system, unless one is planned already."""
        self._search_times.setdefault(container_id, at)

    def update(self, now: float) -> bool:
        """List processes where it is time to; return whether every root has to be read again."""
        is_rescan = now >= self._rescan_at
        if is_rescan:
            self._rescan_at = now + self._settings.pkg_interval
            self._processes.forget()
        elif now < self._update_at:
            return False
        self._update_at = now + PROCESSES_SECONDS
        self._new_patterns = self._processes.update()
        self._searched = self.searched
        # The notifications of a container that ended may come after its end.
        wanted = self._search_times.keys() & set(self.file_systems)
        self._search_times = {name: self._search_times[name] for name in wanted}
        for container_id in self.file_systems:
            if is_rescan or container_id not in self._searched:
                self._search_times[container_id] = now
        return is_rescan

    def next_patterns(self, container_id: str, now: float) -> list[ScanPattern]:
        """Return where to search the file system now, the usual directories first.

        The caller searches there: the next call returns these patterns no more.
        """
        patterns = sorted(self._new_patterns.pop(container_id, ()))
        if self._search_times.get(container_id, now + 1) > now:
            return patterns
        del self._search_times[container_id]
        if container_id == HOST:
            for path in self._settings.pkg_paths:
                patterns += patterns_of_path(path)
        return [*PATTERNS, *patterns, *sorted(self._processes.patterns.get(container_id, ()))]

    def note_searched(self, container_id: str) -> None:
        """Note that the file system was searched with all patterns at least once."""
        self._searched.add(container_id)
