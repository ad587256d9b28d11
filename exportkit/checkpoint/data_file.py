"""A checkpoint's data file while it is written: ranges of other files are copied into it, in the kernel where that can."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

from exportkit.checkpoint import encoding
from exportkit.checkpoint.held import HeldFile
from exportkit.checkpoint.locate import readable
from exportkit.checkpoint.readback import Readback
from exportkit.errors import Problem, WeightsError, system_error

_NOT_IN_KERNEL = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
_STEP = 1 << 26  # bytes that are copied at a time: what reads them back follows that far behind
_WRITE = 2  # SYNC_FILE_RANGE_WRITE (linux/fs.h)
_WORTH = 1 << 24  # bytes: what is less is on the disk sooner than a thread can be started for it


class DataFile:
    """A new file that grows at its end.

    Args:
        readback: whether the file is read again while it is written.
        digest: whether its SHA-256 is computed from what is read again.

    Attributes:
        readback: what is found when it is read again; None where it is not.

    Raises:
        EnvironmentFailed: the file cannot be created.
    """

    def __init__(self, path: str, *, readback: bool, digest: bool):
        self._path, self._end = path, 0
        self._pending: _Range | None = None
        self._writing_back: ThreadPoolExecutor | None = None
        with writable(path):
            self._file = open(path, "xb", buffering=0)  # noqa: SIM115 (it stays open until close)
            self.readback = Readback(path, digests=digest) if readback else None

    @property
    def closed(self) -> bool:
        return self._file.closed

    def copy(self, file: HeldFile, offset: int, size: int) -> int:
        """Add a range of a file, and return its place; `flush` copies it.

        Ranges that follow each other in their file are copied in one piece.

        Raises:
            WeightsError, EnvironmentFailed: as `flush`, for ranges before this one.
        """
        source = _Range(file, offset, 0)
        if self._pending is None or not self._pending.continues_in(source):
            self.flush()
            self._pending = source
        place = self._end + self._pending.size
        self._pending = replace(self._pending, size=self._pending.size + size)
        return place

    def write(self, data: bytes | memoryview) -> int:
        """Add bytes from memory, and return their place.

        Raises:
            WeightsError, EnvironmentFailed: as `flush`.
        """
        self.flush()
        place = self._end
        with writable(self._path):
            self._reach(_write(self._file.fileno(), data, place))
        return place

    def flush(self) -> None:
        """Copy what `copy` has added.

        Raises:
            WeightsError: the file to copy from cannot be read, or ends too early.
            EnvironmentFailed: the bytes cannot be written.
        """
        pending, self._pending = self._pending, None
        if pending is None or not pending.size:
            return
        path, rest = pending.file.path, pending.size
        with ExitStack() as opened:
            with readable(path):  # a failure to read is another error than a failure to write
                source = opened.enter_context(pending.file.open())
            with writable(self._path):
                while rest and (step := self._copy(source, min(rest, _STEP), pending.offset + pending.size - rest)):
                    rest -= step
        if rest:
            raise WeightsError(Problem(path, "became shorter while it was copied", "wait until training has saved it"))

    def close(self) -> None:
        """Write the rest, and wait until all is on the disk. Raises what `flush` raises."""
        self.flush()
        self._stop_writing_back()
        with writable(self._path), self._file:
            os.fsync(self._file.fileno())

    def discard(self) -> None:
        """Remove the file."""
        self._stop_writing_back()
        self._file.close()
        if self.readback:
            self.readback.abort()
        with suppress(OSError):
            os.unlink(self._path)

    def _copy(self, source: int, size: int, offset: int) -> int:
        """Copy at most `size` bytes of an open file to the end, and return how many there were."""
        done = _copy(source, self._file.fileno(), size, offset, self._end)
        self._write_back(done, self._end)
        self._reach(self._end + done)
        return done

    def _reach(self, end: int) -> None:
        self._end = end
        if self.readback:
            self.readback.reached(end)

    def _write_back(self, size: int, at: int) -> None:
        """Have the kernel write `size` bytes at position `at` to the disk, so that fsync has less to wait for.

        In a thread of its own, which waits for the disk's queue. Where there is no such call, or it is refused, fsync does it
        all; errors of the disk are its to report, too.
        """
        if size < _WORTH or (call := _sync_file_range()) is None:
            return
        self._writing_back = self._writing_back or ThreadPoolExecutor(1)
        start, length, flags = ctypes.c_int64(at), ctypes.c_int64(size), ctypes.c_uint(_WRITE)
        self._writing_back.submit(partial(call, self._file.fileno(), start, length, flags))

    def _stop_writing_back(self) -> None:
        if self._writing_back is not None:
            self._writing_back.shutdown(cancel_futures=True)
            self._writing_back = None


@dataclass(frozen=True)
class _Range:
    """A range of `size` bytes of a file, from `offset` on."""

    file: HeldFile
    offset: int
    size: int

    def continues_in(self, other: _Range) -> bool:
        return self.file is other.file and self.offset + self.size == other.offset


def _copy(source: int, target: int, size: int, offset: int, at: int) -> int:
    """Copy at most `size` bytes of an open file to position `at` of another, and return how many there were."""
    done = _copy_in_kernel(source, target, size, offset, at)
    return done + _copy_by_buffer(source, target, size - done, offset + done, at + done)


def _copy_in_kernel(source: int, target: int, size: int, offset: int, at: int) -> int:
    """Copy with copy_file_range, and return the number of bytes copied.

    Where file system and alignment allow it (btrfs, xfs), the kernel shares the blocks.
    """
    done = 0
    while done < size and hasattr(os, "copy_file_range"):
        try:
            step = os.copy_file_range(source, target, size - done, offset + done, at + done)
        except OSError as error:
            if error.errno in _NOT_IN_KERNEL:
                break
            raise
        if step == 0:
            break
        done += step
    return done


def _copy_by_buffer(source: int, target: int, size: int, offset: int, at: int) -> int:
    done = 0
    while done < size and (data := os.pread(source, min(encoding.CHUNK, size - done), offset + done)):
        done = _write(target, data, at + done) - at
    return done


def _write(target: int, data: bytes | memoryview, at: int) -> int:
    """Write all of `data` at position `at`, and return the position behind it."""
    rest = memoryview(data)
    while rest:
        step = os.pwrite(target, rest[: encoding.CHUNK], at)
        rest, at = rest[step:], at + step
    return at


@cache
def _sync_file_range() -> Any:
    """Return Linux's function of that name; None where the C library has none."""
    return getattr(ctypes.CDLL(None), "sync_file_range", None)


@contextmanager
def writable(path: str) -> Iterator[None]:
    """Raise EnvironmentFailed for an OSError, which is one of the file that is written."""
    try:
        yield
    except OSError as error:
        raise system_error(error, path) from error
