"""Files that are held open: they can be read as they were, whatever is saved or deleted under their names later."""

import errno
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from exportkit.files import descriptor as open_descriptor

WRITTEN, REPLACED, DELETED = "was written to", "was saved anew", "was deleted"
_MOST = 256  # descriptors that a process may have open before files are no longer held; the usual limit is 1,024
_MOST_RUNS = 100_000  # holes of a file that are counted, in about 0.2 seconds


class HeldFile:
    """A file that is opened once: neither a rename over its name nor its removal changes what is read.

    If the process has many files open already, it is opened again for each read, and must still be the same file.

    Attributes:
        path: the name that it was opened by.
        size: its bytes when it was opened.
    """

    def __init__(self, path: str):
        """Open the file.

        Raises:
            OSError: it cannot be opened, or is no regular file.
        """
        self.path = path
        descriptor = open_descriptor(path)
        self._was = os.fstat(descriptor)
        self.size = self._was.st_size
        self._descriptor = descriptor if descriptor < _MOST else None
        if self._descriptor is None:
            os.close(descriptor)
        else:
            weakref.finalize(self, os.close, descriptor).atexit = False

    @contextmanager
    def open(self) -> Iterator[int]:
        """Yield a descriptor to read from with `os.pread`.

        Raises:
            OSError: it is not held, and its name no longer leads to it.
        """
        if self._descriptor is not None:
            yield self._descriptor
            return
        descriptor = open_descriptor(self.path)
        try:
            if not os.path.samestat(os.fstat(descriptor), self._was):
                raise OSError(errno.ESTALE, "another file has its name by now", self.path)
            yield descriptor
        finally:
            os.close(descriptor)

    @property
    def stat(self) -> os.stat_result:
        """What the file was when it was opened."""
        return self._was

    def holes(self) -> int:
        """Return how many of its bytes lie in holes: they are zeros, and the disk holds nothing for them.

        That is 0 where the file system does not report them, and of a file with more than `_MOST_RUNS` what the disk does not
        hold.
        """
        stored = self._was.st_blocks * 512
        if stored >= self.size or not hasattr(os, "SEEK_HOLE"):
            return 0
        found = at = 0
        with self.open() as descriptor, suppress(OSError):
            for _ in range(_MOST_RUNS):
                start = _seek(descriptor, at, os.SEEK_HOLE, self.size)
                at = _seek(descriptor, start, os.SEEK_DATA, self.size)
                found += at - start
                if at == self.size:
                    return found
            return self.size - stored
        return 0

    @property
    def place(self) -> str:
        """A path to the file for any process while this one holds it; the file's absolute path if there is no such path."""
        held = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        return held if self._descriptor is not None and os.path.exists(held) else os.path.abspath(self.path)

    def is_written_to(self) -> bool:
        """Return whether the file itself, whatever its name is now, was written to since it was opened."""
        try:
            with self.open() as descriptor:
                now = os.fstat(descriptor)
        except OSError:
            return False
        return (now.st_size, now.st_mtime_ns) != (self._was.st_size, self._was.st_mtime_ns)

    def is_replaced(self) -> bool:
        """Return whether its name leads to another file now."""
        try:
            return not os.path.samestat(os.stat(self.path), self._was)
        except OSError:
            return False


def _seek(descriptor: int, start: int, what: int, size: int) -> int:
    """Return where the next hole or the next data begins, from `start` on; `size` if there is none."""
    try:
        return min(os.lseek(descriptor, start, what), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        raise


def fate(files: Mapping[str, HeldFile]) -> str | None:
    """Return what happened to files since they were opened, as the end of a sentence about them; None if nothing did."""
    if any(file.is_written_to() for file in files.values()):
        return WRITTEN
    if any(file.is_replaced() for file in files.values()):
        return REPLACED
    return DELETED if any(not os.path.exists(path) for path in files) else None
