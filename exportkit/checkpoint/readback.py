"""The read-back of a data file while it is still written: checksums computed from the bytes that are in the file by then."""

import hashlib
import os
import threading
import time
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import partial

from exportkit.checkpoint import encoding
from exportkit.checkpoint.index import Entry, Part, element_count
from exportkit.checkpoint.reader import Bundle

_TICK_NS = 20_000_000  # two changes of a file within one tick of the kernel's clock (at most 10 ms) have the same time
_LONGEST_NS = 25_000_000  # to wait for a tick; a file whose time lies further ahead is of another machine's clock

_State = tuple[int, int, int, int, int]


class _Aborted(Exception):
    """The file will not be finished."""


class Readback:
    """Reads a data file behind its writer, in a thread of its own, and remembers which parts have their checksum.

    So the proof of a copy takes no time of its own where another core is free: reading goes on while the writer copies, and
    while it waits for the disk. What was not confirmed in time, for whatever reason, is not confirmed.

    Attributes:
        path: the file.
        digest: the SHA-256 of the whole file as it was read, in hex, once the read-back is closed; None where that was not
            asked for, or a part does not have its checksum.
    """

    def __init__(self, path: str, *, digests: bool = False):
        """Open the file, which the writer has created, and start.

        Args:
            path: the file.
            digests: whether to compute the file's digest.
        """
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115 (the thread closes it)
        self.path = path
        self.digest: str | None = None
        self._hash, self._hashed = hashlib.sha256() if digests else None, 0
        self._intact = True
        self._parts: deque[tuple[Entry, Part]] = deque()
        self._written, self._closed, self._aborted = 0, False, False
        self._changed = threading.Condition()
        self._confirmed: set[tuple[str, int, Part]] = set()
        self._state: _State | None = None
        self._thread = threading.Thread(target=self._run, name="readback", daemon=True)
        self._thread.start()

    def expect(self, entry: Entry, part: Part) -> None:
        """Read a part as soon as it is written. Parts come in the order in which they lie in the file."""
        with self._changed:
            self._parts.append((entry, part))
            self._changed.notify()

    def reached(self, end: int) -> None:
        """Note that the file was written up to position `end`."""
        with self._changed:
            self._written = end
            self._changed.notify()

    def close(self) -> None:
        """Wait until all parts were read. The writer has finished the file, and nobody may write to it from now on."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def abort(self) -> None:
        """Stop at once: the file will not be finished."""
        with self._changed:
            self._aborted = True
            self._changed.notify()
        self._thread.join()

    def confirms(self, written: Bundle, entry: Entry, part: Part) -> bool:
        """Return whether this part was read from this very file, which was not changed since, and has its checksum."""
        if self._state is None or _key(entry, part) not in self._confirmed:
            return False
        return _state(written.files[written.data_path(part)].stat) == self._state

    def is_unchanged(self) -> bool:
        """Return whether the file still has its name and was certainly not changed since it was read."""
        return self._state is not None and _state(os.lstat(self.path)) == self._state

    def _run(self) -> None:
        with self._file:
            try:
                while (expected := self._next()) is not None:
                    self._check(*expected)
                    self._hash_to(expected[1])
            except _Aborted:
                return
            _wait_a_tick(os.fstat(self._file.fileno()))
            found = os.fstat(self._file.fileno())
        if self._hash and self._intact and self._hashed == found.st_size:
            self.digest = self._hash.hexdigest()
        if time.time_ns() - found.st_mtime_ns > _TICK_NS:  # else a later change might not show
            self._state = _state(found)

    def _next(self) -> tuple[Entry, Part] | None:
        """Wait for the next part, and return it; None after the last."""
        with self._changed:
            self._changed.wait_for(lambda: self._parts or self._closed or self._aborted)
            if self._aborted:
                raise _Aborted
            return self._parts.popleft() if self._parts else None

    def _check(self, entry: Entry, part: Part) -> None:
        count, found = element_count(entry, part.extents), None
        with suppress(OSError, ValueError, IndexError):
            found = encoding.checksum(entry.dtype, count, part.size, partial(self._read, part))
        if found == part.crc32c:
            self._confirmed.add(_key(entry, part))
        else:
            self._intact = False  # whoever asks for the proof reads it again, and reports why

    def _read(self, part: Part, offset: int, size: int) -> bytes:
        """Return bytes of a part once they are written."""
        start = part.offset + offset
        with self._changed:
            self._changed.wait_for(lambda: self._written >= start + size or self._closed or self._aborted)
            if self._aborted:
                raise _Aborted
        data = os.pread(self._file.fileno(), size, start)
        self._add(start, data)
        return data

    def _hash_to(self, part: Part) -> None:
        """Hash what its checksum did not need of a part, as the lengths of strings are read apart from them."""
        end = part.offset + part.size
        with suppress(OSError):  # then there is no digest
            while self._hash and self._hashed < end:
                if not self._read(part, self._hashed - part.offset, min(encoding.CHUNK, end - self._hashed)):
                    return

    def _add(self, start: int, data: bytes) -> None:
        """Hash the bytes at position `start`, as far as they follow those that are hashed already."""
        if self._hash and start <= self._hashed < start + len(data):
            self._hash.update(data if start == self._hashed else data[self._hashed - start :])
            self._hashed = start + len(data)


def _wait_a_tick(found: os.stat_result) -> None:
    """Wait until a later change of a file that was changed just now has another time."""
    left = found.st_mtime_ns + _TICK_NS - time.time_ns()
    if 0 <= left <= _LONGEST_NS:
        time.sleep((left + 1_000_000) / 1e9)


def _key(entry: Entry, part: Part) -> tuple[str, int, Part]:
    """Return what the checksum of a part is computed from, its place, and that checksum."""
    return entry.dtype, element_count(entry, part.extents), replace(part, shard=0)


def _state(found: os.stat_result) -> _State:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
