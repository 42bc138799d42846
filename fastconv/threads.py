"""How many threads a model uses by default. A leaf."""

from __future__ import annotations

import os
import platform
from functools import cache

from . import knobs
from .errors import OptionError

_CGROUP = "/sys/fs/cgroup"


def _read(path: str) -> str:
    try:
        with open(path, "rb") as f:
            return f.read().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def quota() -> float | None:
    """Processors that the container's CPU quota allows, or None without a quota.

    Reads cgroup v2 (``cpu.max`` of this process's group and every group above it), else v1.
    """
    limits = []
    groups = [line.split(":", 2) for line in _read("/proc/self/cgroup").splitlines()]
    path = next((g[2] for g in groups if len(g) == 3 and g[0] == "0"), "")
    while True:
        got = _read(f"{_CGROUP}{path}/cpu.max").split()
        if len(got) == 2 and got[0].isdecimal() and got[1].isdecimal() and int(got[1]):
            limits.append(int(got[0]) / int(got[1]))
        if path in ("", "/"):
            break
        path = path.rsplit("/", 1)[0]
    if not limits:
        for folder in ("cpu", "cpu,cpuacct"):
            q = _read(f"{_CGROUP}/{folder}/cpu.cfs_quota_us")
            p = _read(f"{_CGROUP}/{folder}/cpu.cfs_period_us")
            if q.isdecimal() and p.isdecimal() and int(p):
                limits.append(int(q) / int(p))
    return min(limits) if limits else None


@cache
def cpu_name() -> str:
    """The processor as the system names it, with family, model and stepping where it gives them."""
    name, numbers = "", []
    try:
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
            for line in f:
                key, _, value = (part.strip() for part in line.partition(":"))
                if not key:
                    break  # the first processor's lines end here
                if key in ("model name", "Model", "Hardware") and not name:
                    name = value
                elif key in ("cpu family", "model", "stepping", "CPU part", "CPU variant"):
                    numbers.append(value)
    except OSError:
        pass
    name = name or platform.processor() or platform.machine()
    return f"{name} ({'/'.join(numbers)})" if numbers else name


def affinity() -> set[int]:
    """The processors that this process may run on."""
    try:
        return os.sched_getaffinity(0)
    except (AttributeError, OSError):
        return set(range(os.cpu_count() or 1))


def physical(cpus: set[int]) -> int:
    """How many physical cores these processors are (hyper-threads counted once)."""
    cores = set()
    for cpu in cpus:
        folder = f"/sys/devices/system/cpu/cpu{cpu}/topology"
        siblings = _read(f"{folder}/thread_siblings_list")
        cores.add(siblings or cpu)
    return max(1, len(cores))


def default_threads() -> int:
    """Physical cores that this process may use: affinity and container quota count.

    ``FASTCONV_THREADS`` overrides it.
    """
    forced = knobs.THREADS.get()
    if forced is not None:
        return int(forced)
    n = physical(affinity())
    limit = quota()
    if limit is not None:
        n = min(n, max(1, int(limit + 0.5)))
    return max(1, n)


def check_threads(threads: int | None) -> int:
    """``threads`` as asked for; None or 0 means the default.

    Raises:
        OptionError: it is not a whole number from 0 to 4096.
    """
    if threads is None:
        return default_threads()
    if isinstance(threads, bool) or not hasattr(threads, "__index__"):
        raise OptionError(f"threads={threads!r}: expected a whole number, or None for the default")
    n = threads.__index__()
    if not 0 <= n <= 4096:
        raise OptionError(f"threads={n}: expected 0 (the default) to 4096")
    return n or default_threads()
