"""Directories for a run's temporary files: removed when the run ends; those that a killed run left, by the next run.

A run holds a lock (flock) on its directory. The kernel releases it when the run ends, however that ends.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PREFIX = "exportkit-tasks-"


@contextmanager
def scratch() -> Iterator[Path]:
    """Create a temporary directory, and remove it when the context ends; in a fork of this process it is not removed."""
    remove_stale(Path(tempfile.gettempdir()))
    path, lock = _create_locked()
    ours = os.getpid()
    try:
        yield path
    finally:
        if os.getpid() == ours:
            shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def remove_stale(where: Path) -> list[Path]:
    """Remove the directories below `where` whose run has ended, and return them."""
    removed = []
    for path in sorted(where.glob(f"{PREFIX}*")):
        with suppress(OSError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
                removed.append(path)
            finally:
                os.close(lock)
    return removed


def _create_locked() -> tuple[Path, int]:
    """Create a directory and lock it; try again if another run removed it before it was locked."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # a file system without locks: no other run can lock, and so remove, it either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.lexists(path):
                return path, lock
            os.close(lock)
