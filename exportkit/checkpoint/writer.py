"""Checkpoint files in TensorBundle V2 format: writer.

A V2 checkpoint is ``prefix.index``, a table of names, and the tensors' bytes in ``prefix.data-NNNNN-of-NNNNN``. The index holds
the place and the checksum of every tensor's bytes, so tensors are copied from file to file and are never in memory. Format V1,
from before 2017, keeps everything in one file; it can be read, not written.
Source of the rules: TensorFlow's ``core/util/tensor_bundle/tensor_bundle.cc`` and ``core/util/tensor_slice_*.cc``.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

from exportkit import protos
from exportkit.checkpoint import encoding, sstable
from exportkit.checkpoint.data_file import DataFile, writable
from exportkit.checkpoint.index import VERSION, Entry, Extents, Part, slice_key, slice_shape
from exportkit.checkpoint.locate import looks, resolve
from exportkit.checkpoint.reader import Bundle, data_path
from exportkit.errors import Problem, WeightsError

if TYPE_CHECKING:
    import numpy as np


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
        self._entries: dict[str, Entry] = {}
        self._complete = False
        path = data_path(self.prefix, 0, 1)
        if os.path.exists(path) or os.path.exists(self.prefix + ".index"):
            raise WeightsError(Problem(self.prefix, "a checkpoint is there already", "choose another prefix"))
        self._data = DataFile(path, readback=reads_back, digest=digests)
        self.readback = self._data.readback

    def __enter__(self) -> BundleWriter:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        elif not self._data.closed:
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
        parts = tuple(self._scheduled(bundle, part) for part in entry.parts)
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
        self._data.flush()
        self._write_index(synced=False)
        self._complete = True

    def close(self) -> None:
        """Write the rest of the data and, once that is on disk, the index."""
        if self._data.closed:
            return
        try:
            self._data.close()
            if not self._complete:
                self._write_index(synced=True)
            if self.readback:
                self.readback.close()
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        """Remove the files that were written."""
        self._data.discard()
        for path in (self.prefix + ".index.tmp", *[self.prefix + ".index"] * self._complete):
            with suppress(OSError):
                os.unlink(path)

    def _record(self, entry: Entry) -> None:
        if not entry.key or entry.key in self._entries:
            raise WeightsError(Problem(self.prefix, f"would get a second tensor {entry.key!r}", "give each a name of its own"))
        self._entries[entry.key] = entry
        if self.readback:
            for part in entry.parts:
                self.readback.expect(entry, part)

    def _scheduled(self, bundle: Bundle, part: Part) -> Part:
        """Have a part's bytes copied, and return the part at its new place."""
        return replace(part, shard=0, offset=self._data.copy(bundle.files[bundle.data_path(part)], part.offset, part.size))

    def _append(self, name: str, array: np.ndarray, dtype: str) -> None:
        data = encoding.payload(name, array)
        part = Part(0, self._data.write(data), len(data), encoding.payload_checksum(dtype, array.size, data))
        self._record(Entry(name, dtype, array.shape, part.size, part.crc32c, (part,)))

    def _write_index(self, *, synced: bool) -> None:
        path = self.prefix + ".index"
        with writable(path), open(path + ".tmp", "xb") as file:
            file.write(sstable.table(_index_items(self._entries)))
            file.flush()
            if synced:
                os.fsync(file.fileno())
            os.replace(path + ".tmp", path)


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
