"""From the kernel's log to the processes that its out-of-memory killer ended. No I/O.

A kill is several records (kernel 6.18; all formats since 4.4 are in the tests' fixtures):

    python3 invoked oom-killer: gfp_mask=…                      who asked for memory, not the victim
    … a dump of about 80 records …
    oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/a,task_memcg=/a/b,task=hog,pid=77,uid=0
    Memory cgroup out of memory: Killed process 77 (hog) total-vm:61116kB, anon-rss:50944kB, …
    Tasks in /a are going to be killed due to memory.oom.group set
    Memory cgroup out of memory: Killed process 77 (hog) …      the same process a second time
    Memory cgroup out of memory: Killed process 78 (sleep) …

Only the `Killed process` record is always there: the kernel writes the others up to the
`oom-kill:` line at most 10 times in 5 s (mm/oom_kill.c, `oom_rs`). It alone makes an event, and the
others, where they are there and are about this process, say where it lived. Kernels before 5.0
write `Task in /a/b killed as a result of limit of /a` in the place of the `oom-kill:` line.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

from sematext_agent.host_collector.cgroup import place
from sematext_agent.host_collector.kmsg import Record, unescape
from sematext_agent.shared.events import NS_PER_SECOND, OutOfMemory

# The name is up to 15 bytes of anything, `) total-vm:1kB` included, so it ends at the last bracket.
# What may stand before `Killed` is spelled out, because other records end with a cgroup's name,
# which may be anything too.
_killed = re.compile(
    r"(?P<memcg>Memory cgroup out of memory: )?(?:Out of memory(?: \(\w+\))?: )?"
    r"Killed process (?P<pid>\d{1,10}),? \((?P<name>.*)\)"
    r"(?P<figures>,? [^)]*total-vm:\d[^)]*anon-rss:\d[^)]*)"
)
_figure = re.compile(r"([A-Za-z][\w-]*)[: ](-?\d{1,15})")
_ASKED = " invoked oom-killer: "
_WHERE = ("oom-kill:", "Task in ", "Tasks in ")
# The limit's cgroup holds the victim's, which tells where the one path ends and the other begins,
# though both may hold any character.
_oom_kill = re.compile(
    r"oom-kill:constraint=CONSTRAINT_(?P<constraint>\w+),.*?,"
    r"(?:global_oom,task_memcg=(?P<host_cgroup>/.*)"
    r"|oom_memcg=(?P<limit>/.*),task_memcg=(?P<cgroup>(?P=limit).*))"
    r",task=.*,pid=(?P<pid>\d{1,10}),uid=(?P<uid>\d{1,10})"
)
_task_in = re.compile(r"Task in (?P<cgroup>/.*) killed as a result of limit of (?P<limit>/.*)")
_tasks_in = re.compile(
    r"Tasks in (?P<cgroup>/.*) are going to be killed due to memory\.oom\.group set"
)

_HEADS_MAX = 10
_HEADS_NS = 5 * NS_PER_SECOND


class _Where(NamedTuple):
    """What the records around a kill say of its place. Paths are still escaped."""

    cgroup: str = ""
    limit_cgroup: str = ""
    constraint: str = ""
    uid: int | None = None


class Kills:
    """Reads the records of one boot in their order, and finds the kills among them."""

    def __init__(self) -> None:
        self.lines = 0
        """How many records told of a kill, repetitions included: what the kernel counts too."""
        self._unfinished = ""
        self._next: tuple[str, _Where] | None = None  # the next victim: its pid, where it is known
        self._last: tuple[str, str, _Where] | None = None  # pid and name of the last kill
        self._group: _Where | None = None
        self._group_first: tuple[str, str] | None = None
        self._heads: deque[int] = deque(maxlen=_HEADS_MAX)

    def add(self, record: Record) -> OutOfMemory | None:
        """The kill that `record` tells of, or None: for most records, and for a repetition."""
        text = record.text
        if record.facility != 0:
            return None  # written by a program
        if match := _killed.fullmatch(text):
            return self._killed(record, match)
        if _ASKED in text:
            self._forget()
            self._heads.append(record.time)
        elif text.startswith(_WHERE):
            self._read_where(text)
        elif record.continued and self._unfinished:
            self._read_where(self._unfinished + text)
        return None

    def _forget(self) -> None:
        self._unfinished, self._next, self._group = "", None, None

    def _read_where(self, text: str) -> None:
        """Takes note of the place that the next kills are about."""
        self._forget()
        if match := _oom_kill.fullmatch(text):
            cgroup, limit = match["cgroup"] or match["host_cgroup"], match["limit"] or ""
            where = _Where(cgroup, limit, match["constraint"].lower(), int(match["uid"]))
            self._next = match["pid"], where
        elif match := _task_in.fullmatch(text):
            self._next = "", _Where(match["cgroup"], match["limit"], "memcg")
        elif match := _tasks_in.fullmatch(text):
            self._begin_group(match["cgroup"])
        else:
            self._unfinished = text

    def _begin_group(self, cgroup: str) -> None:
        """All of `cgroup` is killed next. Its first victim stands right before, and comes again."""
        self._group = _Where(cgroup)
        self._group_first = None
        if self._last is not None:
            pid, name, where = self._last
            self._group_first = pid, name
            if where.cgroup == cgroup or where.cgroup.startswith(f"{cgroup.rstrip('/')}/"):
                self._group = where._replace(cgroup=cgroup, uid=None)

    def _killed(self, record: Record, match: re.Match[str]) -> OutOfMemory | None:
        self.lines += 1
        pid, name = match["pid"], match["name"]
        if self._group is not None and self._group_first == (pid, name):
            return None
        where = self._where(record, pid)
        self._last = pid, name, where
        if not where.constraint and match["memcg"]:
            where = where._replace(constraint="memcg")
        return _body(match, where)

    def _where(self, record: Record, pid: str) -> _Where:
        """What is known of the place of the process `pid`, killed now."""
        if self._group is not None:
            # While the kernel keeps heads back, the next kill may be one outside the group.
            unsure = len(self._heads) == _HEADS_MAX and record.time - self._heads[0] < _HEADS_NS
            return _Where() if unsure else self._group
        expected, self._next = self._next, None
        if expected is None or expected[0] not in ("", pid):
            return _Where()
        return expected[1]


def _body(match: re.Match[str], where: _Where) -> OutOfMemory:
    # The kernel writes kB and means 1,024 bytes.
    figures = {key: int(value) for key, value in _figure.findall(match["figures"])}
    anonymous, file, shared, virtual = (
        figures.get(key, 0) * 1024 for key in ("anon-rss", "file-rss", "shmem-rss", "total-vm")
    )
    cgroup = unescape(where.cgroup)
    container_id, pod_uid = place(cgroup)
    return OutOfMemory(
        process=unescape(match["name"]),
        pid=int(match["pid"]),
        memory=anonymous + file + shared,
        anonymous=anonymous,
        file=file,
        shared=shared,
        virtual=virtual,
        uid=figures.get("UID", where.uid),
        oom_score_adj=figures.get("oom_score_adj"),
        constraint=where.constraint,
        cgroup=cgroup,
        limit_cgroup=unescape(where.limit_cgroup),
        container_id=container_id,
        pod_uid=pod_uid,
    )
