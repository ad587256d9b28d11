"""Files that are held open: they can be read as they were, whatever is saved or deleted under their names later."""

import errno
import os
import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from exportkit.files import descriptor as open_descriptor

WRITTEN, REPLACED, DELETED = "was written to", "was saved anew", "was deleted"
_MOST = 256  # descriptors that a process may have open before files are no longer held; the usual limit is 1,024


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
        descriptor = open_descriptor(path, hollow=True)
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
        descriptor = open_descriptor(self.path, hollow=True)
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


def fate(files: Mapping[str, HeldFile]) -> str | None:
    """Return what happened to files since they were opened, as the end of a sentence about them; None if nothing did."""
    if any(file.is_written_to() for file in files.values()):
        return WRITTEN
    if any(file.is_replaced() for file in files.values()):
        return REPLACED
    return DELETED if any(not os.path.exists(path) for path in files) else None
