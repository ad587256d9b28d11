"""How much memory new processes can get: what the machine has left, and what the control groups of this process allow."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
_V2 = ("memory.max", "memory.current", "")


def available(proc: Path = Path("/proc"), groups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return how many bytes can be allocated before the kernel has to kill a process; None where that is not known.

    What files have in memory counts as free, for the kernel drops it. Source: Documentation/admin-guide/cgroup-v1/memory.rst
    and cgroup-v2.rst of Linux.

    Args:
        proc: the directory of procfs.
        groups: the directory of cgroupfs.
    """
    try:
        machine = _numbers(proc / "meminfo")
        free = 1024 * (machine["MemAvailable:"] + machine.get("SwapFree:", 0))
        return min([free, *_allowed(proc / "self" / "cgroup", groups)])
    except (OSError, ValueError, KeyError):
        return None


def _allowed(own: Path, groups: Path) -> Iterator[int]:
    """Yield what each control group with a limit allows in addition: those of this process, and all above them."""
    for line in own.read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        root, names = (groups / "memory", _V1) if controllers else (groups, _V2)
        group = root / path.lstrip("/")
        for one in (group, *group.parents):
            with suppress(OSError, ValueError, KeyError):  # no limit, or in a container a group that is not there
                yield _left(one, *names)
            if one == root:
                break


def _left(group: Path, limit: str, usage: str, prefix: str) -> int:
    most, used = (int((group / name).read_text()) for name in (limit, usage))
    known = _numbers(group / "memory.stat")
    return max(0, most - used + known[f"{prefix}inactive_file"] + known[f"{prefix}active_file"])


def _numbers(file: Path) -> dict[str, int]:
    """Return the first number of each line of a file by the line's first word."""
    return {name: int(number) for name, number, *_ in map(str.split, file.read_text().splitlines())}
