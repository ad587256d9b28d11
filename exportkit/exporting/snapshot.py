"""What a version's files look like without reading them, and what became of them.

Compared are names, kinds, sizes, inodes, and the times at which content and status changed last. That costs nothing, whatever
the model's size, and finds every mistake; who means to deceive, can. (A hard link to a file changes its status too, and is no
change.)
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Changes:
    """What happened to a version, as names relative to it; `odd` are those added that are no plain files."""

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
        """What is different now."""
        before, after = self._before, dict(_files(self.directory))
        added = sorted(after.keys() - before.keys())
        return Changes(
            added=added,
            changed=sorted(name for name in after.keys() & before.keys() if not _same(before[name], after[name])),
            removed=sorted(before.keys() - after.keys()),
            odd=[name for name in added if not stat.S_ISREG(after[name].st_mode)],
        )


def _files(directory: Path) -> Iterator[tuple[str, os.stat_result]]:
    """Everything below `directory` that is not a directory, by its name in there."""
    for path, directories, files in os.walk(directory):
        links = [name for name in directories if os.path.islink(os.path.join(path, name))]
        for name in [*files, *links]:
            whole = os.path.join(path, name)
            yield os.path.relpath(whole, directory), os.lstat(whole)


def _same(before: os.stat_result, after: os.stat_result) -> bool:
    kept = all(getattr(before, key) == getattr(after, key) for key in ("st_mode", "st_size", "st_mtime_ns", "st_ino"))
    return kept and (before.st_ctime_ns == after.st_ctime_ns or before.st_nlink != after.st_nlink)
