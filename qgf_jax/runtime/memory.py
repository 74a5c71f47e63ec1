"""Memory that the host can still give this process."""

import contextlib
from pathlib import Path

from qgf_jax.errors import UserError


def available_bytes(root: Path = Path("/")) -> int:
    """Bytes that are free for this process, by the kernel and by the control groups above it.

    A batch system or a container sets its limit by a control group. Of what a group uses, files that
    are only cached count as free. `root` is where /proc and /sys are. Raises `UserError` if the system
    says nothing.
    """
    free = []
    with contextlib.suppress(OSError):
        for line in (root / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free.append(int(line.split()[1]) * 1024)
    with contextlib.suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, kinds, path = line.split(":", 2)
            if kinds in ("", "memory"):
                free += _free_in_groups(root / "sys/fs/cgroup" / kinds, path)
    if not free:
        raise UserError("this system does not say how much memory is free: set data.mode")
    return max(0, min(free))


def _free_in_groups(top: Path, path: str) -> list[int]:
    """Free bytes of each group from `path` up. In a container only the host may know `path`."""
    names = ("memory.max", "memory.current", "inactive_file")
    if top.name == "memory":  # version 1 of control groups
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
    free, group = [], top / path.lstrip("/")
    for folder in (group, *group.parents):
        with contextlib.suppress(OSError, ValueError, KeyError):  # "max", or no such group
            limit, used = (int((folder / name).read_text()) for name in names[:2])
            lines = (folder / "memory.stat").read_text().splitlines()
            cached = int(dict(line.split() for line in lines)[names[2]])
            free.append(limit - used + cached)
        if folder == top:
            break
    return free
