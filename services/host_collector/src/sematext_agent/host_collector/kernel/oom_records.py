"""From records of the kernel's log to the processes that its out-of-memory killer ended. No I/O.

A kill is several records (kernel 6.18; all formats since 4.4 are in the tests' fixtures):

    python3 invoked oom-killer: gfp_mask=…                      who asked for memory, not the victim
    … a dump of about 80 records …
    oom-kill:constraint=CONSTRAINT_MEMCG,…,oom_memcg=/a,task_memcg=/a/b,task=hog,pid=77,uid=0
    Memory cgroup out of memory: Killed process 77 (hog) total-vm:61116kB, anon-rss:50944kB, …
    Tasks in /a are going to be killed due to memory.oom.group set
    Memory cgroup out of memory: Killed process 77 (hog) …      the same process a second time
    Memory cgroup out of memory: Killed process 78 (sleep) …

Only the `Killed process` record is always there: the kernel limits the others, up to the
`oom-kill:` record, to 10 in 5 s (mm/oom_kill.c, `oom_rs`). It alone makes an event. The others,
where they are there and are about this process, add its cgroup. Kernels before 5.0 write
`Task in /a/b killed as a result of limit of /a` in the place of the `oom-kill:` record.
"""

from __future__ import annotations

import re
from collections import deque
from typing import NamedTuple

from sematext_agent.host_collector.cgroups import find_owner
from sematext_agent.host_collector.kernel.log_reader import KernelRecord, unescape
from sematext_agent.shared.events import NS_PER_SECOND, OutOfMemory

# The name is up to 15 bytes of anything, `) total-vm:1kB` included, so it ends at the last bracket.
# What may precede `Killed` is spelled out: other records end with a cgroup's name, also anything.
_kill = re.compile(
    r"(?P<memcg>Memory cgroup out of memory: )?(?:Out of memory(?: \(\w+\))?: )?"
    r"Killed process (?P<pid>\d{1,10}),? \((?P<name>.*)\)"
    r"(?P<figures>,? [^)]*total-vm:\d[^)]*anon-rss:\d[^)]*)"
)
_figure = re.compile(r"([A-Za-z][\w-]*)[: ](-?\d{1,15})")
_DUMP_START = " invoked oom-killer: "
_CONTEXT_STARTS = ("oom-kill:", "Task in ", "Tasks in ")
# The limit's cgroup is a prefix of the victim's, which separates the two paths although both may
# hold any character.
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

# The kernel's rate limit of dumps.
_DUMPS_MAX = 10
_DUMPS_NS = 5 * NS_PER_SECOND


class _KillContext(NamedTuple):
    """The cgroup of a kill, from the records around it. Paths are still escaped."""

    cgroup: str = ""
    limit_cgroup: str = ""
    constraint: str = ""
    uid: int | None = None


class _Victim(NamedTuple):
    """A killed process: its pid, which is empty where it is not known, and its name."""

    pid: str
    name: str


class OomRecordReader:
    """The kills among the records of one boot, which are read in their order."""

    def __init__(self) -> None:
        self.kill_records = 0
        """Records of a kill, repetitions included: the number that the kernel counts too."""
        self._partial_line = ""
        self._next: tuple[str, _KillContext] | None = None  # the next victim's pid, if known
        self._last: tuple[_Victim, _KillContext] | None = None
        self._group: _KillContext | None = None
        self._group_first: _Victim | None = None
        self._dump_times: deque[int] = deque(maxlen=_DUMPS_MAX)

    def read(self, record: KernelRecord) -> OutOfMemory | None:
        """Return the kill in `record`, or None: for most records, and for a repetition."""
        text = record.text
        if record.facility != 0:
            return None  # written by a program
        if match := _kill.fullmatch(text):
            return self._read_kill(record, match)
        if _DUMP_START in text:
            self._reset_context()
            self._dump_times.append(record.time)
        elif text.startswith(_CONTEXT_STARTS):
            self._read_context(text)
        elif record.continued and self._partial_line:
            self._read_context(self._partial_line + text)
        return None

    def _reset_context(self) -> None:
        self._partial_line, self._next, self._group = "", None, None

    def _read_context(self, text: str) -> None:
        """Note the cgroup of the next kills."""
        self._reset_context()
        if match := _oom_kill.fullmatch(text):
            cgroup, limit = match["cgroup"] or match["host_cgroup"], match["limit"] or ""
            constraint, uid = match["constraint"].lower(), int(match["uid"])
            self._next = match["pid"], _KillContext(cgroup, limit, constraint, uid)
        elif match := _task_in.fullmatch(text):
            self._next = "", _KillContext(match["cgroup"], match["limit"], "memcg")
        elif match := _tasks_in.fullmatch(text):
            self._begin_group(match["cgroup"])
        else:
            self._partial_line = text

    def _begin_group(self, cgroup: str) -> None:
        """Expect kills of all of `cgroup`; the victim right before is repeated among them."""
        self._group = _KillContext(cgroup)
        self._group_first = None
        if self._last is not None:
            victim, context = self._last
            self._group_first = victim
            if context.cgroup == cgroup or context.cgroup.startswith(f"{cgroup.rstrip('/')}/"):
                self._group = context._replace(cgroup=cgroup, uid=None)

    def _read_kill(self, record: KernelRecord, match: re.Match[str]) -> OutOfMemory | None:
        self.kill_records += 1
        victim = _Victim(match["pid"], match["name"])
        if self._group is not None and self._group_first == victim:
            return None
        context = self._context_of(record, victim.pid)
        self._last = victim, context
        if not context.constraint and match["memcg"]:
            context = context._replace(constraint="memcg")
        return _out_of_memory(match, context)

    def _context_of(self, record: KernelRecord, pid: str) -> _KillContext:
        """Return the context of the kill of `pid`; empty where it is not certain."""
        if self._group is not None:
            # While the kernel limits its dumps, this kill may be one outside the group.
            times = self._dump_times
            is_limited = len(times) == _DUMPS_MAX and record.time - times[0] < _DUMPS_NS
            return _KillContext() if is_limited else self._group
        expected, self._next = self._next, None
        if expected is None or expected[0] not in ("", pid):
            return _KillContext()
        return expected[1]


def _out_of_memory(match: re.Match[str], context: _KillContext) -> OutOfMemory:
    # The kernel writes kB and means 1,024 bytes.
    figures = {key: int(value) for key, value in _figure.findall(match["figures"])}
    anonymous, file, shared, virtual = (
        figures.get(key, 0) * 1024 for key in ("anon-rss", "file-rss", "shmem-rss", "total-vm")
    )
    cgroup = unescape(context.cgroup)
    container_id, pod_uid = find_owner(cgroup)
    return OutOfMemory(
        process=unescape(match["name"]),
        pid=int(match["pid"]),
        memory=anonymous + file + shared,
        anonymous=anonymous,
        file=file,
        shared=shared,
        virtual=virtual,
        uid=figures.get("UID", context.uid),
        oom_score_adj=figures.get("oom_score_adj"),
        constraint=context.constraint,
        cgroup=cgroup,
        limit_cgroup=unescape(context.limit_cgroup),
        container_id=container_id,
        pod_uid=pod_uid,
    )
