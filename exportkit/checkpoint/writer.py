"""Checkpoint files in TensorBundle V2 format: writer.

A V2 checkpoint is ``prefix.index``, a table of names, and the tensors' bytes in ``prefix.data-NNNNN-of-NNNNN``. The index holds
the place and the checksum of every tensor's bytes, so tensors are copied from file to file and are never in memory. Format V1,
from before 2017, keeps everything in one file; it can be read, not written.
Source of the rules: TensorFlow's ``core/util/tensor_bundle/tensor_bundle.cc`` and ``core/util/tensor_slice_*.cc``.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from exportkit import protos
from exportkit.checkpoint import encoding, sstable
from exportkit.checkpoint.held import HeldFile
from exportkit.checkpoint.index import VERSION, Entry, Extents, Part, slice_key, slice_shape
from exportkit.checkpoint.locate import looks, readable, resolve
from exportkit.checkpoint.readback import Readback
from exportkit.checkpoint.reader import Bundle, data_path
from exportkit.errors import Problem, WeightsError, system_error

if TYPE_CHECKING:
    import numpy as np

_NOT_IN_KERNEL = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM)
_STEP = 1 << 26  # bytes that are copied at a time: what reads them back follows that far behind
_WRITE = 2  # SYNC_FILE_RANGE_WRITE (linux/fs.h)
_WORTH = 1 << 24  # bytes: what is less is on the disk sooner than a thread can be started for it


def open_checkpoint(path: str | os.PathLike[str]) -> Bundle:
    """Open the checkpoint at a prefix, at one of its files, or the latest one in a directory.

    Training may save and delete checkpoints in that directory at the same time; while it does, the directory is read again.

    Raises:
        WeightsError: there is none, or it cannot be read.
    """
    for _ in looks(path):
        try:
            return Bundle(resolve(path))
        except WeightsError as error:
            refused = error
    raise refused


class BundleWriter:
    """Writer of a new V2 checkpoint with one data file, tensor by tensor; the checkpoint is valid only after `close`.

    As a context manager it closes at the end, and removes what it wrote if the block fails::

        with BundleWriter("out/variables") as writer:
            writer.copy("dense/kernel", Bundle("runs/model.ckpt-100"), "dense/kernel/ExponentialMovingAverage")
            writer.add("step", np.int64(100))

    The bytes depend only on the tensors and their order; they are those that TensorFlow's SaveV2 would write.
    """

    def __init__(self, prefix: str | os.PathLike[str], *, reads_back: bool = False, digests: bool = False):
        """Create the data file.

        Args:
            reads_back: whether the file is read again while it is written; `readback` knows what was found then.
            digests: whether its SHA-256 is computed from what is read again.

        Raises:
            WeightsError: a checkpoint with this prefix exists.
            EnvironmentFailed: the file cannot be written.
        """
        self.prefix = os.fspath(prefix)
        self._path = data_path(self.prefix, 0, 1)
        self._entries: dict[str, Entry] = {}
        self._end = 0
        self._pending: _Range | None = None
        self._complete = False
        self._writing_back: ThreadPoolExecutor | None = None
        if os.path.exists(self._path) or os.path.exists(self.prefix + ".index"):
            raise WeightsError(Problem(self.prefix, "a checkpoint is there already", "choose another prefix"))
        with _writable(self._path):
            self._file = open(self._path, "xb", buffering=0)  # noqa: SIM115 (it stays open until close)
            self.readback = Readback(self._path, digests=digests) if reads_back else None

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        elif not self._file.closed:
            self._discard()

    def copy(self, name: str, bundle: Bundle, key: str) -> None:
        """Copy a tensor's bytes and checksums; a partitioned tensor keeps its slices.

        Args:
            name: the name of the copy.
            bundle: the checkpoint to copy from.
            key: the tensor's name in `bundle`.

        Raises:
            WeightsError: `bundle` does not hold the tensor, or its data file ends too early.
            EnvironmentFailed: the bytes cannot be written.
        """
        entry = bundle.entry(key)
        if bundle.format == "V1":
            return self._append(name, bundle.read(key), entry.dtype)
        parts = tuple(self._schedule(bundle, part) for part in entry.parts)
        self._record(replace(entry, key=name, parts=parts))

    def add(self, name: str, array: np.ndarray | np.generic | bytes | str) -> None:
        """Write a tensor from memory; the elements of a string tensor are bytes, or str, which is stored as UTF-8.

        Raises:
            WeightsError: TensorFlow does not have the array's dtype.
            EnvironmentFailed: the bytes cannot be written.
        """
        import numpy as np

        array = np.asarray(array, object if isinstance(array, bytes | str) else None)  # else NumPy drops zero bytes at the end
        dtype = "string" if array.dtype.kind in "OSU" else array.dtype.name
        if dtype not in protos.DTYPE_NAMES:
            raise WeightsError(Problem(name, f"TensorFlow has no dtype {dtype}", "convert the array"))
        self._append(name, array, dtype)

    def complete(self) -> None:
        """Write the rest of the data and the index: then the checkpoint can be read, while `close` brings it onto the disk.

        Nothing can be added afterwards. After a power cut before the end of `close`, the index may be there without its data.

        Raises:
            EnvironmentFailed: a file cannot be written.
        """
        self._flush()
        self._write_index(synced=False)
        self._complete = True

    def close(self) -> None:
        """Write the rest of the data and, once that is on disk, the index."""
        if self._file.closed:
            return
        try:
            self._flush()
            self._stop_writing_back()
            with _writable(self._path), self._file:
                os.fsync(self._file.fileno())
            if not self._complete:
                self._write_index(synced=True)
            if self.readback:
                self.readback.close()
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        """Remove the files that were written."""
        self._stop_writing_back()
        self._file.close()
        if self.readback:
            self.readback.abort()
        for path in (self._path, self.prefix + ".index.tmp", *[self.prefix + ".index"] * self._complete):
            with suppress(OSError):
                os.unlink(path)

    def _record(self, entry: Entry) -> None:
        if not entry.key or entry.key in self._entries:
            raise WeightsError(Problem(self.prefix, f"would get a second tensor {entry.key!r}", "give each a name of its own"))
        self._entries[entry.key] = entry
        if self.readback:
            for part in entry.parts:
                self.readback.expect(entry, part)

    def _schedule(self, bundle: Bundle, part: Part) -> Part:
        """Add a part's bytes to the range that is copied next, and return the part at its new place.

        Parts that follow each other in the source file are copied in one piece; any other part starts a new range.
        """
        source = _Range(bundle.files[bundle.data_path(part)], part.offset, part.size)
        if self._pending is None or not self._pending.continues_in(source):
            self._flush()
            self._pending = replace(source, size=0)
        self._pending = replace(self._pending, size=self._pending.size + part.size)
        return replace(part, shard=0, offset=self._end + self._pending.size - part.size)

    def _flush(self) -> None:
        """Copy the pending range."""
        pending, self._pending = self._pending, None
        if pending is None or not pending.size:
            return
        path, rest = pending.file.path, pending.size
        with ExitStack() as opened:
            with readable(path):  # a failure to read is another error than a failure to write
                source = opened.enter_context(pending.file.open())
            with _writable(self._path):
                while rest and (step := self._copy(source, min(rest, _STEP), pending.offset + pending.size - rest)):
                    rest -= step
        if rest:
            raise WeightsError(Problem(path, "became shorter while it was copied", "wait until training has saved it"))

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

    def _append(self, name: str, array: np.ndarray, dtype: str) -> None:
        self._flush()
        data, offset = encoding.payload(name, array), self._end
        with _writable(self._path):
            self._reach(_write(self._file.fileno(), data, offset))
        part = Part(0, offset, len(data), encoding.payload_checksum(dtype, array.size, data))
        self._record(Entry(name, dtype, array.shape, part.size, part.crc32c, (part,)))

    def _write_index(self, *, synced: bool) -> None:
        path = self.prefix + ".index"
        with _writable(path), open(path + ".tmp", "xb") as file:
            file.write(sstable.table(_index_items(self._entries)))
            file.flush()
            if synced:
                os.fsync(file.fileno())
            os.replace(path + ".tmp", path)


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
def _writable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise system_error(error, path) from error


def _index_items(entries: Mapping[str, Entry]) -> list[tuple[bytes, bytes]]:
    """Return the keys and values of an index, sorted."""
    header = protos.tensor_bundle_pb2.BundleHeaderProto(num_shards=1)
    header.version.producer = VERSION
    items = {b"": header}
    for entry in entries.values():
        items |= _entry_items(entry)
    return [(key, proto.SerializeToString(deterministic=True)) for key, proto in sorted(items.items())]


def _entry_items(entry: Entry) -> dict[bytes, object]:
    """Return the index entry of a tensor, and one for each of its slices."""
    whole = _entry_proto(entry.dtype, entry.shape)
    items = {entry.key.encode(): whole}
    for part in entry.parts:
        proto = whole
        if part.extents is not None:
            _add_slice(whole, part.extents)
            proto = items[slice_key(entry.key, part.extents)] = _entry_proto(entry.dtype, slice_shape(entry, part.extents))
        proto.shard_id, proto.offset, proto.size, proto.crc32c = part.shard, part.offset, part.size, part.crc32c
    return items


def _entry_proto(dtype: str, shape: tuple[int, ...]):
    proto = protos.tensor_bundle_pb2.BundleEntryProto(dtype=protos.DTYPE_NAMES[dtype])
    proto.shape.SetInParent()
    for size in shape:
        proto.shape.dim.add(size=size)
    return proto


def _add_slice(proto, extents: Extents) -> None:
    added = proto.slices.add()
    for start, length in extents:
        extent = added.extent.add(start=start)
        if length != -1:
            extent.length = length
