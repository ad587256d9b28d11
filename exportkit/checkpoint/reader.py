"""An opened checkpoint: the entries of its index, and the bytes of its tensors, checked against their checksums."""

from __future__ import annotations

import functools
import hashlib
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING

from exportkit import files, protos
from exportkit.checkpoint import encoding, locate
from exportkit.checkpoint.held import HeldFile
from exportkit.checkpoint.index import Entry, Extents, Part, V1Slices, element_count, read_v1, read_v2, slice_key, slice_shape
from exportkit.checkpoint.sstable import Table
from exportkit.errors import Problem, WeightsError, did_you_mean

if TYPE_CHECKING:
    import numpy as np

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_V1_FIELDS = {
    "float32": ("float_val", "float32"),
    "float64": ("double_val", "float64"),
    "float16": ("half_val", "uint16"),
    "complex64": ("scomplex_val", "float32"),
    "complex128": ("dcomplex_val", "float64"),
    "int64": ("int64_val", "int64"),
    "bool": ("bool_val", "bool"),
    "string": ("string_val", "object"),
}
_MOST_OBJECT_GRAPH = 64 * files.MIB  # 100 to 300 bytes an object: some 200,000 objects
_V1_BITS = ("float16", "complex64", "complex128")  # stored as their bits, or as pairs


class Bundle:
    """An opened checkpoint: its index in memory, its data never.

    Its files stay open, so that it stays what it was, whatever training saves or deletes under their names.

    Attributes:
        prefix: the path that all its files begin with.
        format: ``V2`` or ``V1``.
        entries: what it holds, in byte order of the names; a partitioned variable is one entry.
        files: its files, held open, by their paths.
    """

    def __init__(self, prefix: str | os.PathLike[str]):
        """Read the index and check that the data files can be what it describes.

        Raises:
            WeightsError: no checkpoint is there, or it is damaged, incomplete or of a kind that cannot be read.
        """
        self.prefix = os.fspath(prefix)
        self.format = locate.format_of(self.prefix)
        self._path = f"{self.prefix}.index" if self.format == "V2" else self.prefix
        paths = [self._path] if self.format == "V2" else locate.v1_files(self.prefix)
        with locate.readable(self._path):
            self.files = {path: HeldFile(path) for path in paths}
        self._tables = list(map(_table, self.files.values()))
        with locate.readable(self._path):
            read = read_v2 if self.format == "V2" else read_v1
            entries: dict[str, Entry]
            self._slices: V1Slices
            self._shards, entries, self._slices = read(self._tables)
        self.entries: Mapping[str, Entry] = MappingProxyType(entries)
        self.files |= _shard_files(self)

    @functools.cached_property
    def digest(self) -> str:
        """The checkpoint's identity: SHA-256 of the index, which holds the checksums of all the data, in hex."""
        identity = hashlib.sha256()
        for table in self._tables:
            identity.update(table.data)
        return identity.hexdigest()

    @property
    def is_object_based(self) -> bool:
        """Return whether tf.train.Checkpoint wrote it, which saves by objects and writes no graph."""
        return _OBJECT_GRAPH in self.entries

    @functools.cached_property
    def aliases(self) -> Mapping[str, str]:
        """Variable name → key in a checkpoint saved by objects (tf.train.Checkpoint); empty for one saved by names.

        A name that several variables have, as is usual outside of graphs, identifies none of them and is left out.
        """
        if not self.is_object_based:
            return MappingProxyType({})
        nodes = self._object_graph().nodes
        uses = Counter(one.full_name for node in nodes for one in node.attributes)
        return MappingProxyType(
            {
                one.full_name: one.checkpoint_key
                for node in nodes
                for one in node.attributes
                if uses[one.full_name] == 1 and one.full_name
            }
        )

    def _object_graph(self) -> protos.TrackableObjectGraph:
        """Return the graph of objects that tf.train.Checkpoint wrote.

        Raises:
            WeightsError: it is none, is too large, or would take far more memory than it has bytes.
        """
        entry = self.entry(_OBJECT_GRAPH)
        with locate.readable(self._path):
            if entry.dtype != "string" or entry.shape or entry.size > _MOST_OBJECT_GRAPH:
                raise ValueError(
                    f"its object graph is {entry.dtype} {list(entry.shape)} of {entry.size:,} bytes; "
                    f"it has to be one string, of {_MOST_OBJECT_GRAPH:,} bytes at most"
                )
            data = self.read(_OBJECT_GRAPH).item()
            if not protos.fits(protos.TrackableObjectGraph, data):
                raise ValueError("its object graph expands to far more memory than it has bytes")
            return protos.TrackableObjectGraph.FromString(data)

    def entry(self, key: str) -> Entry:
        """Return the entry of that name.

        Raises:
            WeightsError: there is none; it names the nearest ones.
        """
        if key not in self.entries:
            raise WeightsError(Problem(self.prefix, f"has no tensor {key!r}", did_you_mean(key, self.entries)))
        return self.entries[key]

    def data_path(self, part: Part) -> str:
        """Return the path of the file that holds the part."""
        return data_path(self.prefix, part.shard, self._shards)

    def places(self) -> dict[str, str]:
        """Return the last name of each file → a path by which other processes can open it while it is open here."""
        return {os.path.basename(path): file.place for path, file in self.files.items()}

    def verify(self, key: str) -> None:
        """Read a tensor's bytes, a chunk at a time, and compare them with their checksum.

        Raises:
            WeightsError: they differ, or cannot be read; it names the tensor.
        """
        entry = self.entry(key)
        if self.format == "V1":
            self.read(key)
        for part in entry.parts:
            self.verify_part(entry, part)

    def verify_part(self, entry: Entry, part: Part) -> None:
        """Like `verify`, for one of the entry's parts."""
        path = self.data_path(part)
        with locate.readable(path), self.files[path].open() as descriptor:
            read = functools.partial(_pread, descriptor, part)
            if encoding.checksum(entry.dtype, element_count(entry, part.extents), part.size, read) != part.crc32c:
                raise ValueError(f"the bytes of {entry.key!r} do not have their checksum")

    def read(self, key: str) -> np.ndarray:
        """Return one tensor's value, verified; strings are bytes in an object array. For tests and small tensors.

        Raises:
            WeightsError: the bytes do not have their checksum, or do not make a value of its dtype and shape.
        """
        entry = self.entry(key)
        with locate.readable(self._path):
            if self.format == "V1":
                return _assemble(entry, [(extents, _value_v1(entry, extents, table)) for extents, table in self._slices[key]])
            self.verify(key)
            return _assemble(entry, [(part.extents, self._value(entry, part)) for part in entry.parts])

    def _value(self, entry: Entry, part: Part) -> np.ndarray:
        """Return the value of one part as a flat array."""
        import numpy as np

        with self.files[self.data_path(part)].open() as descriptor:
            data = locate.pread(descriptor, part.size, part.offset)
        if entry.dtype == "string":
            return encoding.objects(encoding.split(data, element_count(entry, part.extents)))
        dtype = encoding.numpy_dtype(entry.dtype)
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)


def _table(file: HeldFile) -> Table:
    with locate.readable(file.path):
        return Table(locate.content(file))


def _value_v1(entry: Entry, extents: Extents, table: Table) -> np.ndarray:
    """Return one slice's value as a flat array; V1 stores numbers of a protobuf (``SaveData`` in tensor_slice_writer.h)."""
    import numpy as np

    saved = protos.SavedTensorSlices.FromString(table.get(slice_key(entry.key, extents)))
    field, stored = _V1_FIELDS.get(entry.dtype, ("int_val", "int32"))
    values = getattr(saved.data.data, field)
    if entry.dtype == "string":
        return encoding.objects(values)
    numbers: np.ndarray = np.array(values, stored)
    dtype = encoding.numpy_dtype(entry.dtype)
    return numbers.view(dtype) if entry.dtype in _V1_BITS else numbers.astype(dtype)


def _shard_files(bundle: Bundle) -> dict[str, HeldFile]:
    """Return the data files by their paths.

    Raises:
        WeightsError: some are missing, or too short for the index.
    """
    parts: dict[str, list[tuple[int, int, str]]] = defaultdict(list)
    for entry in bundle.entries.values():
        for part in entry.parts:
            parts[bundle.data_path(part)].append((part.offset, part.offset + part.size, entry.key))
    with locate.readable(bundle._path):
        needed = {path: _bytes_needed(found) for path, found in parts.items()}
    found: dict[str, HeldFile] = {}
    problems: list[Problem] = []
    for path, size in needed.items():
        try:
            found[path] = locate.open_shard(path, size)
        except WeightsError as error:
            problems += error.problems
    if problems:
        raise WeightsError(*locate.few(problems))
    return found


def _bytes_needed(parts: Iterable[tuple[int, int, str]]) -> int:
    """Return how many bytes of a data file its parts (start, end, tensor) need.

    Raises:
        ValueError: two of them share bytes; no writer does that, and a small file could be read and copied without end.
    """
    last, before = 0, ""
    for start, end, key in sorted(parts):
        if start < last and start < end:
            raise ValueError(f"{before!r} and {key!r} have bytes in common")
        if end > last:
            last, before = end, key
    return last


def data_path(prefix: str, shard: int, shards: int) -> str:
    return f"{prefix}.data-{shard:05d}-of-{shards:05d}"


def _pread(descriptor: int, part: Part, offset: int, size: int) -> bytes:
    return os.pread(descriptor, size, part.offset + offset)


def _assemble(entry: Entry, values: list[tuple[Extents | None, np.ndarray]]) -> np.ndarray:
    """Return the tensor that flat slices make up."""
    import numpy as np

    dtype = object if entry.dtype == "string" else encoding.numpy_dtype(entry.dtype)
    whole = np.zeros(entry.shape, dtype)
    for extents, value in values:
        shape = entry.shape if extents is None else slice_shape(entry, extents)
        at = tuple(slice(start, start + size) for (start, _), size in zip(extents or (), shape, strict=False))
        whole[at] = value.reshape(shape)[()]
    return whole
