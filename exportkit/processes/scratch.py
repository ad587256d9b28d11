"""Directories for what tasks leave lying about: removed when they end, and what a killed run left, by the next one.

A run's directory is held by a lock (flock) on itself, which ends with the run, however that ends.
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
    """Create a temporary directory, and remove it when the context ends; a fork that leaves the context does not remove it."""
    remove_stale(Path(tempfile.gettempdir()))
    path, lock = _made()
    ours = os.getpid()
    try:
        yield path
    finally:
        if os.getpid() == ours:
            shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def remove_stale(where: Path) -> list[Path]:
    """Remove the directories below `where` that nobody holds any more, and return them."""
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


def _made() -> tuple[Path, int]:
    """A new directory and its lock; another run may sweep it away before it is held."""
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        with suppress(FileNotFoundError):
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
            with suppress(OSError):  # where directories cannot be locked, nobody can take them for left behind either
                fcntl.flock(lock, fcntl.LOCK_EX)
            if os.path.lexists(path):
                return path, lock
            os.close(lock)
