"""Which files of a version were added, changed or removed, found without reading them.

Compared are names, file types, sizes, inodes, and the times of the last change of content and of status. That costs nothing,
whatever the model's size, and finds every mistake; it does not stop somebody who wants to deceive. (A hard link to a file
changes its status too, and does not count as a change.)
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from exportkit.version.claim import numbers


@dataclass(frozen=True)
class Changes:
    """What changed in a version, as names relative to it; those of directories end in a slash.

    `odd` are those added that are neither plain files nor directories.
    """

    added: list[str]
    changed: list[str]
    removed: list[str]
    odd: list[str]

    def __str__(self) -> str:
        parts = {"added": self.added, "changed": self.changed, "removed": self.removed}
        return "; ".join(f"{what} {', '.join(names)}" for what, names in parts.items() if names)


class Watch:
    """Remembers what is below `directory`."""

    def __init__(self, directory: Path):
        self.directory = directory
        self._before = dict(_files(directory))

    def changes(self) -> Changes:
        """Return what has changed since."""
        before, after = self._before, dict(_files(self.directory))
        added = sorted(after.keys() - before.keys())
        return Changes(
            added=added,
            changed=sorted(name for name in after.keys() & before.keys() if not _same(before[name], after[name])),
            removed=sorted(before.keys() - after.keys()),
            odd=[name for name in added if not (stat.S_ISREG(after[name].st_mode) or name.endswith("/"))],
        )


class Siblings:
    """Remembers the versions in a base path, and those that other exports are writing there."""

    def __init__(self, base: Path):
        self.base = base
        self._known = numbers(base) | {n for n in map(_staged, os.listdir(base)) if n is not None}

    def appeared(self) -> list[int]:
        """Return the versions that are there now, were not before, and were not being written then."""
        return sorted(numbers(self.base) - self._known)


def _staged(name: str) -> int | None:
    """Return the version whose staging directory is called `name`; None where it is not one."""
    number = name.removeprefix(".").removesuffix(".staging")
    return int(number) if name == f".{number}.staging" and number.isascii() and number.isdecimal() else None


def _files(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Yield everything below `directory`: its name relative to it, and its status."""
    for path, directories, files in os.walk(directory):
        for name in [*files, *directories]:
            whole = os.path.join(path, name)
            status = os.lstat(whole)
            yield os.path.relpath(whole, directory) + "/" * stat.S_ISDIR(status.st_mode), status


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    if stat.S_ISDIR(before.st_mode):
        return (before.st_mode, before.st_ino) == (after.st_mode, after.st_ino)
    kept = all(getattr(before, key) == getattr(after, key) for key in ("st_mode", "st_size", "st_mtime_ns", "st_ino"))
    return kept and (before.st_ctime_ns == after.st_ctime_ns or before.st_nlink != after.st_nlink)
