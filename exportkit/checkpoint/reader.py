"""An opened checkpoint: what its index says of every tensor, and the tensors' bytes, verified.

Source of the rules: ``BundleReader`` in TensorFlow's ``core/util/tensor_bundle/tensor_bundle.cc``; for V1
``core/util/tensor_slice_reader.cc``.
"""

import functools
import hashlib
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from exportkit import protos
from exportkit.checkpoint import encoding, locate
from exportkit.checkpoint.sstable import Table
from exportkit.errors import Problem, WeightsError, did_you_mean

Extents = tuple[tuple[int, int], ...]

_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
VERSION = 1  # kTensorBundleVersion
_V1_FIELDS = {
    "float32": ("float_val", np.float32),
    "float64": ("double_val", np.float64),
    "float16": ("half_val", np.uint16),
    "complex64": ("scomplex_val", np.float32),
    "complex128": ("dcomplex_val", np.float64),
    "int64": ("int64_val", np.int64),
    "bool": ("bool_val", np.bool_),
    "string": ("string_val", np.object_),
}
_dtype_name = functools.cache(protos.dtype_name)
_V1_BITS = ("float16", "complex64", "complex128")  # stored as their bits, or as pairs


@dataclass(frozen=True, slots=True)
class Part:
    """One contiguous piece of a tensor's bytes.

    Attributes:
        shard: number of the data file.
        offset: where the piece begins in that file, in bytes.
        size: its length, in bytes.
        crc32c: its checksum, masked, as stored.
        extents: (start, length) in each dimension of the tensor, length -1 for all of it; None if this is the whole tensor.
    """

    shard: int
    offset: int
    size: int
    crc32c: int
    extents: Extents | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """What a checkpoint says of one tensor.

    Attributes:
        key: the tensor's name.
        dtype: ``float32``, ``string``, ``bfloat16``: the names of `protos.dtype_name`.
        shape: its static shape.
        size: bytes of its data; of a partitioned one, of all slices together.
        crc32c: the checksum of the data, masked, as stored; 0 where it is partitioned or the format is V1.
        parts: where its bytes are: one Part, or one per slice in the order in which they were saved; empty in V1.
    """

    key: str
    dtype: str
    shape: tuple[int, ...]
    size: int
    crc32c: int
    parts: tuple[Part, ...]


class Bundle:
    """An opened checkpoint: its index, never its data.

    Attributes:
        prefix: the path that all its files begin with.
        format: ``V2`` or ``V1``.
        entries: what it holds, in byte order of the names; a partitioned variable is one entry.
    """

    def __init__(self, prefix: str | os.PathLike[str]):
        """Reads the index and checks that the data files can be what it describes.

        Raises:
            WeightsError: no checkpoint is there, or it is damaged, incomplete or of a kind that cannot be read.
        """
        self.prefix = os.fspath(prefix)
        self.format = locate.format_of(self.prefix)
        self._path = f"{self.prefix}.index" if self.format == "V2" else self.prefix
        self._tables = list(map(_table, [self._path] if self.format == "V2" else locate.v1_files(self.prefix)))
        with locate.readable(self._path):
            read = _index_v2 if self.format == "V2" else _index_v1
            self._shards, entries, self._slices = read(self._tables)
        self.entries: Mapping[str, Entry] = MappingProxyType(entries)
        _check_shards(self)

    @functools.cached_property
    def digest(self) -> str:
        """The checkpoint's identity: SHA-256 of the index, which holds the checksums of all the data, in hex."""
        identity = hashlib.sha256()
        for table in self._tables:
            identity.update(table.data)
        return identity.hexdigest()

    @functools.cached_property
    def aliases(self) -> Mapping[str, str]:
        """Variable name → key, of a checkpoint saved by objects (tf.train.Checkpoint); empty for one saved by names.

        A name that several variables have, as is usual outside of graphs, is no name of any and left out.
        """
        if _OBJECT_GRAPH not in self.entries:
            return MappingProxyType({})
        with locate.readable(self._path):
            graph = protos.trackable_object_graph_pb2.TrackableObjectGraph.FromString(self.read(_OBJECT_GRAPH).item())
        saved = [attribute for node in graph.nodes for attribute in node.attributes]
        uses = Counter(one.full_name for one in saved)
        return MappingProxyType(
            {one.full_name: one.checkpoint_key for one in saved if uses[one.full_name] == 1 and one.full_name}
        )

    def entry(self, key: str) -> Entry:
        """The entry of that name; WeightsError with the nearest names where there is none."""
        if key not in self.entries:
            raise WeightsError(Problem(self.prefix, f"has no tensor {key!r}", did_you_mean(key, self.entries)))
        return self.entries[key]

    def data_path(self, part: Part) -> str:
        """The file that holds the part."""
        return data_path(self.prefix, part.shard, self._shards)

    def verify(self, key: str) -> None:
        """Reads a tensor's bytes, a chunk at a time, and compares them with their checksum.

        Raises:
            WeightsError: they differ, or cannot be read; it names the tensor.
        """
        entry = self.entry(key)
        if self.format == "V1":
            self.read(key)
        for part in entry.parts:
            self.verify_part(entry, part)

    def verify_part(self, entry: Entry, part: Part) -> None:
        """As `verify`, of one of the entry's parts."""
        path = self.data_path(part)
        with locate.readable(path), open(path, "rb", buffering=0) as file:
            read = functools.partial(_pread, file.fileno(), part)
            if encoding.checksum(entry.dtype, _count(entry, part.extents), part.size, read) != part.crc32c:
                raise ValueError(f"the bytes of {entry.key!r} do not have their checksum")

    def read(self, key: str) -> np.ndarray:
        """One tensor's verified value; strings are bytes in an object array. For tests and small tensors.

        Raises:
            WeightsError: the bytes do not have their checksum, or are no value of that dtype and shape.
        """
        entry = self.entry(key)
        with locate.readable(self._path):
            if self.format == "V1":
                return _assemble(entry, [(extents, _value_v1(entry, extents, table)) for extents, table in self._slices[key]])
            self.verify(key)
            return _assemble(entry, [(part.extents, self._value(entry, part)) for part in entry.parts])

    def _value(self, entry: Entry, part: Part) -> np.ndarray:
        """The flat value of one part."""
        with open(self.data_path(part), "rb") as file:
            file.seek(part.offset)
            data = file.read(part.size)
        if entry.dtype == "string":
            return encoding.objects(encoding.split(data, _count(entry, part.extents)))
        dtype = encoding.numpy_dtype(entry.dtype)
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)


def _table(path: str) -> Table:
    with locate.readable(path):
        return Table(locate.content(path))


def _index_v2(tables: Sequence[Table]) -> tuple[int, dict[str, Entry], None]:
    """Number of shards and entries of a V2 index, which is one table."""
    (table,) = tables
    (first, header), *items = list(table.items()) or [(None, b"")]
    if first != b"":
        raise ValueError("it does not begin with a header")
    shards = _shards(protos.tensor_bundle_pb2.BundleHeaderProto.FromString(header))
    saved = {key: protos.tensor_bundle_pb2.BundleEntryProto.FromString(value) for key, value in items}
    if [key for key, _ in items] != sorted(saved):
        raise ValueError("its keys are not in order")
    sliced = {key: _slices(key.decode(), proto, saved) for key, proto in saved.items() if proto.slices}
    inner = {slice_key(key.decode(), part.extents) for key, parts in sliced.items() for part in parts}
    entries = [_entry(key.decode(), proto, sliced.get(key)) for key, proto in saved.items() if key not in inner]
    for entry in entries:
        _check(entry, shards)
    return shards, {entry.key: entry for entry in entries}, None


def _shards(header) -> int:
    """The number of data files, of a BundleHeaderProto that we can read (``BundleReader::BundleReader``)."""
    if header.endianness != header.LITTLE:
        raise ValueError("a big-endian machine wrote it, and its numbers are the wrong way round")
    if header.version.min_consumer > VERSION or VERSION in header.version.bad_consumers:
        raise ValueError(f"its format is newer than any that is known (version {header.version.min_consumer})")
    return header.num_shards


def _slices(name: str, proto, saved: Mapping[bytes, object]) -> tuple[Part, ...]:
    """The parts of a partitioned tensor: each slice has an entry of its own, under an encoded key."""
    parts = []
    for extents in map(_extents, proto.slices):
        one = saved.get(slice_key(name, extents))
        if one is None or one.dtype != proto.dtype:
            raise ValueError(f"a slice of {name!r} is missing")
        parts.append(Part(one.shard_id, one.offset, one.size, one.crc32c, extents))
    return tuple(parts)


def _extents(tensor_slice) -> Extents:
    return tuple((one.start, one.length if one.HasField("length") else -1) for one in tensor_slice.extent)


def _entry(name: str, proto, parts: tuple[Part, ...] | None) -> Entry:
    if proto.shape.unknown_rank:
        raise ValueError(f"{name!r} has no shape")
    shape = tuple(dim.size for dim in proto.shape.dim)
    if parts is None:
        parts = (Part(proto.shard_id, proto.offset, proto.size, proto.crc32c),)
    return Entry(name, _dtype_name(proto.dtype), shape, sum(part.size for part in parts), proto.crc32c, parts)


def _check(entry: Entry, shards: int) -> None:
    """Refuses what no writer writes: a shape, slice or size that the others contradict."""
    counts = [_count(entry, part.extents) for part in entry.parts]
    for part, count in zip(entry.parts, counts, strict=True):
        if not 0 <= part.shard < shards or part.offset < 0 or part.size < 0:
            raise ValueError(f"{entry.key!r} lies outside of its {shards} data files")
        if not encoding.fits(entry.dtype, count, part.size):
            raise ValueError(f"{entry.key!r} is {entry.dtype} {list(entry.shape)} and has {part.size} bytes")
    if entry.parts[0].extents is not None:
        _check_cover(entry, counts)


def _check_cover(entry: Entry, counts: list[int]) -> None:
    """Refuses slices that leave gaps or overlap; `counts` are their numbers of elements."""
    if sum(counts) != _count(entry, None):
        raise ValueError(f"the slices of {entry.key!r} do not make up the whole")


def _count(entry: Entry, extents: Extents | None) -> int:
    """The number of elements of a tensor or of one slice of it."""
    shape = entry.shape if extents is None else slice_shape(entry, extents)
    if any(size < 0 for size in shape):
        raise ValueError(f"{entry.key!r} has the shape {list(shape)}")
    return math.prod(shape)


def slice_shape(entry: Entry, extents: Extents) -> tuple[int, ...]:
    """The shape of a slice; ValueError where it is not within the tensor."""
    shape = tuple(size if length == -1 else length for (_, length), size in zip(extents, entry.shape, strict=False))
    ends = [start + size for (start, _), size in zip(extents, shape, strict=False)]
    if len(extents) != len(entry.shape) or any(
        not 0 <= one[0] <= end <= size for one, end, size in zip(extents, ends, entry.shape, strict=True)
    ):
        raise ValueError(f"a slice of {entry.key!r} goes beyond its shape {list(entry.shape)}")
    return shape


def _index_v1(tables: Sequence[Table]) -> tuple[int, dict[str, Entry], dict[str, list[tuple[Extents, Table]]]]:
    """Entries of the files of a V1 checkpoint, and of each the slices that it was saved in, with the file that has them."""
    entries: dict[str, Entry] = {}
    slices: dict[str, list[tuple[Extents, Table]]] = defaultdict(list)
    for table in tables:
        for one in protos.saved_tensor_slice_pb2.SavedTensorSlices.FromString(table.get(b"")).meta.tensor:
            entry = _entry_v1(one, len(table.data))
            if entries.setdefault(one.name, entry) != entry:
                raise ValueError(f"its files disagree on {one.name!r}")
            slices[one.name] += [(_extents(extents), table) for extents in one.slice]
    for entry in entries.values():
        _check_cover(entry, [_count(entry, extents) for extents, _ in slices[entry.key]])
    return 0, {name: entries[name] for name in sorted(entries, key=str.encode)}, slices


def _value_v1(entry: Entry, extents: Extents, table: Table) -> np.ndarray:
    """The flat value of one slice, which V1 stores as numbers of a protobuf (``SaveData`` in tensor_slice_writer.h)."""
    saved = protos.saved_tensor_slice_pb2.SavedTensorSlices.FromString(table.get(slice_key(entry.key, extents)))
    field, stored = _V1_FIELDS.get(entry.dtype, ("int_val", np.int32))
    values = getattr(saved.data.data, field)
    if entry.dtype == "string":
        return encoding.objects(values)
    numbers, dtype = np.array(values, stored), encoding.numpy_dtype(entry.dtype)
    return numbers.view(dtype) if entry.dtype in _V1_BITS else numbers.astype(dtype)


def _entry_v1(saved, most: int) -> Entry:
    """The entry of a SavedSliceMeta in a file of `most` bytes, of which an element takes one at least."""
    entry = Entry(saved.name, protos.dtype_name(saved.type), tuple(dim.size for dim in saved.shape.dim), 0, 0, ())
    count = _count(entry, None)
    if count > most:
        raise ValueError(f"{entry.key!r} has the shape {list(entry.shape)}")
    return replace(entry, size=0 if entry.dtype == "string" else count * encoding.numpy_dtype(entry.dtype).itemsize)


def _check_shards(bundle: Bundle) -> None:
    """Refuses data files that are missing or too short for the index."""
    needed: dict[str, int] = defaultdict(int)
    for entry in bundle.entries.values():
        for part in entry.parts:
            path = bundle.data_path(part)
            needed[path] = max(needed[path], part.offset + part.size)
    problems = [problem for path, size in needed.items() if (problem := locate.shard_problem(path, size))]
    if problems:
        raise WeightsError(*problems)


def data_path(prefix: str, shard: int, shards: int) -> str:
    return f"{prefix}.data-{shard:05d}-of-{shards:05d}"


def _pread(descriptor: int, part: Part, offset: int, size: int) -> bytes:
    return os.pread(descriptor, size, part.offset + offset)


def _assemble(entry: Entry, values: list[tuple[Extents | None, np.ndarray]]) -> np.ndarray:
    """A tensor of its flat slices."""
    dtype = object if entry.dtype == "string" else encoding.numpy_dtype(entry.dtype)
    whole = np.zeros(entry.shape, dtype)
    for extents, value in values:
        shape = entry.shape if extents is None else slice_shape(entry, extents)
        at = tuple(slice(start, start + size) for (start, _), size in zip(extents or (), shape, strict=False))
        whole[at] = value.reshape(shape)[()]
    return whole


def slice_key(name: str, extents: Iterable[tuple[int, int]]) -> bytes:
    """The key that a slice of a partitioned variable has (``EncodeTensorNameSlice`` in TensorFlow's saved_tensor_slice_util).

    Args:
        name: the whole variable's name.
        extents: (start, length) of each dimension; length -1 for all of it.
    """
    extents = list(extents)
    escaped = name.encode().replace(b"\0", b"\0\xff")
    key = _ordered_unsigned(0) + escaped + b"\0\1" + _ordered_unsigned(len(extents))
    return key + b"".join(_ordered_signed(number) for extent in extents for number in extent)


def _ordered_unsigned(value: int) -> bytes:
    digits = value.to_bytes((value.bit_length() + 7) // 8, "big")
    return bytes([len(digits)]) + digits


def _ordered_signed(value: int) -> bytes:
    """A number as OrderedCode writes it: the leading ones (zeros, if negative) count the bytes, seven bits in each."""
    length = (value if value >= 0 else ~value).bit_length() // 7 + 1
    header = ((1 << length) - 1) << 7 * length
    return (value & ((1 << 8 * length) - 1) ^ header).to_bytes(length, "big")
