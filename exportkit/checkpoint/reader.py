"""An opened checkpoint: the entries of its index, and the bytes of its tensors, checked against their checksums.

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
from pathlib import Path
from types import MappingProxyType

import numpy as np

from exportkit import protos
from exportkit.checkpoint import encoding, locate
from exportkit.checkpoint.held import HeldFile, link
from exportkit.checkpoint.sstable import Table
from exportkit.errors import Problem, WeightsError, did_you_mean

Extents = tuple[tuple[int, int], ...]
_V1Slices = dict[str, list[tuple[Extents, Table]]]  # tensor → its slices, each with the file that has it

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
    """The entry of one tensor in a checkpoint's index.

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
            read = _index_v2 if self.format == "V2" else _index_v1
            entries: dict[str, Entry]
            self._slices: _V1Slices
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
        with locate.readable(self._path):
            graph = protos.trackable_object_graph_pb2.TrackableObjectGraph.FromString(self.read(_OBJECT_GRAPH).item())
        saved = [attribute for node in graph.nodes for attribute in node.attributes]
        uses = Counter(one.full_name for one in saved)
        return MappingProxyType(
            {one.full_name: one.checkpoint_key for one in saved if uses[one.full_name] == 1 and one.full_name}
        )

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

    def linked(self, directory: Path) -> str:
        """Return a prefix in `directory` under which other processes can open the checkpoint while it is open here."""
        room = directory / f"checkpoint-{self.digest[:16]}"
        if not room.exists():
            link(self.files, room)
        return str(room / os.path.basename(self.prefix))

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
            if encoding.checksum(entry.dtype, _count(entry, part.extents), part.size, read) != part.crc32c:
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
        with self.files[self.data_path(part)].open() as descriptor:
            data = locate.pread(descriptor, part.size, part.offset)
        if entry.dtype == "string":
            return encoding.objects(encoding.split(data, _count(entry, part.extents)))
        dtype = encoding.numpy_dtype(entry.dtype)
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)


def _table(file: HeldFile) -> Table:
    with locate.readable(file.path):
        return Table(locate.content(file))


def _index_v2(tables: Sequence[Table]) -> tuple[int, dict[str, Entry], _V1Slices]:
    """Return the number of shards and the entries of a V2 index, which is one table; it has no slices of V1."""
    (table,) = tables
    items = list(table.items())
    if not items or items[0][0] != b"":
        raise ValueError("it does not begin with a header")
    (_, header), *items = items
    shards = _shards(protos.BundleHeaderProto.FromString(header))
    saved = {key: protos.BundleEntryProto.FromString(value) for key, value in items}
    if [key for key, _ in items] != sorted(saved):
        raise ValueError("its keys are not in order")
    sliced = {key: _slices(key.decode(), proto, saved) for key, proto in saved.items() if proto.slices}
    inner = {slice_key(key.decode(), part.extents or ()) for key, parts in sliced.items() for part in parts}
    entries = [_entry(key.decode(), proto, sliced.get(key)) for key, proto in saved.items() if key not in inner]
    for entry in entries:
        _check(entry, shards)
    return shards, {entry.key: entry for entry in entries}, {}


def _shards(header: protos.BundleHeaderProto) -> int:
    """Return the number of data files, of a BundleHeaderProto that can be read (``BundleReader::BundleReader``)."""
    if header.endianness != header.LITTLE:
        raise ValueError("a big-endian machine wrote it, and its numbers are the wrong way round")
    if header.version.min_consumer > VERSION or VERSION in header.version.bad_consumers:
        raise ValueError(f"its format is newer than any that is known (version {header.version.min_consumer})")
    return header.num_shards


def _slices(name: str, proto: protos.BundleEntryProto, saved: Mapping[bytes, protos.BundleEntryProto]) -> tuple[Part, ...]:
    """Return the parts of a partitioned tensor: each slice has an entry of its own, under an encoded key."""
    parts = []
    for extents in map(_extents, proto.slices):
        one = saved.get(slice_key(name, extents))
        if one is None or one.dtype != proto.dtype:
            raise ValueError(f"a slice of {name!r} is missing")
        parts.append(Part(one.shard_id, one.offset, one.size, one.crc32c, extents))
    return tuple(parts)


def _extents(tensor_slice: protos.TensorSliceProto) -> Extents:
    return tuple((one.start, one.length if one.HasField("length") else -1) for one in tensor_slice.extent)


def _entry(name: str, proto: protos.BundleEntryProto, parts: tuple[Part, ...] | None) -> Entry:
    if proto.shape.unknown_rank:
        raise ValueError(f"{name!r} has no shape")
    shape = tuple(dim.size for dim in proto.shape.dim)
    if parts is None:
        parts = (Part(proto.shard_id, proto.offset, proto.size, proto.crc32c),)
    return Entry(name, _dtype_name(proto.dtype), shape, sum(part.size for part in parts), proto.crc32c, parts)


def _check(entry: Entry, shards: int) -> None:
    """Raise ValueError for what no writer writes: a shape, slice or size that contradicts another."""
    counts = [_count(entry, part.extents) for part in entry.parts]
    for part, count in zip(entry.parts, counts, strict=True):
        if not 0 <= part.shard < shards or part.offset < 0 or part.size < 0:
            raise ValueError(f"{entry.key!r} lies outside of its {shards} data files")
        if not encoding.fits(entry.dtype, count, part.size):
            raise ValueError(f"{entry.key!r} is {entry.dtype} {list(entry.shape)} and has {part.size} bytes")
    if entry.parts[0].extents is not None:
        _check_cover(entry, counts)


def _check_cover(entry: Entry, counts: list[int]) -> None:
    """Raise ValueError for slices that leave gaps or overlap; `counts` are their numbers of elements."""
    if sum(counts) != _count(entry, None):
        raise ValueError(f"the slices of {entry.key!r} do not make up the whole")


def _count(entry: Entry, extents: Extents | None) -> int:
    """Return the number of elements of a tensor, or of one slice of it."""
    shape = entry.shape if extents is None else slice_shape(entry, extents)
    if any(size < 0 for size in shape):
        raise ValueError(f"{entry.key!r} has the shape {list(shape)}")
    return math.prod(shape)


def slice_shape(entry: Entry, extents: Extents) -> tuple[int, ...]:
    """Return the shape of a slice.

    Raises:
        ValueError: it is not within the tensor.
    """
    shape = tuple(size if length == -1 else length for (_, length), size in zip(extents, entry.shape, strict=False))
    ends = [start + size for (start, _), size in zip(extents, shape, strict=False)]
    if len(extents) != len(entry.shape) or any(
        not 0 <= one[0] <= end <= size for one, end, size in zip(extents, ends, entry.shape, strict=True)
    ):
        raise ValueError(f"a slice of {entry.key!r} goes beyond its shape {list(entry.shape)}")
    return shape


def _index_v1(tables: Sequence[Table]) -> tuple[int, dict[str, Entry], _V1Slices]:
    """Return 0, the entries in the files of a V1 checkpoint, and the slices that each was saved in."""
    entries: dict[str, Entry] = {}
    slices: _V1Slices = defaultdict(list)
    for table in tables:
        for one in protos.SavedTensorSlices.FromString(table.get(b"")).meta.tensor:
            entry = _entry_v1(one, len(table.data))
            if entries.setdefault(one.name, entry) != entry:
                raise ValueError(f"its files disagree on {one.name!r}")
            slices[one.name] += [(_extents(extents), table) for extents in one.slice]
    for entry in entries.values():
        _check_cover(entry, [_count(entry, extents) for extents, _ in slices[entry.key]])
    return 0, {name: entries[name] for name in sorted(entries, key=str.encode)}, slices


def _value_v1(entry: Entry, extents: Extents, table: Table) -> np.ndarray:
    """Return one slice's value as a flat array; V1 stores numbers of a protobuf (``SaveData`` in tensor_slice_writer.h)."""
    saved = protos.SavedTensorSlices.FromString(table.get(slice_key(entry.key, extents)))
    field, stored = _V1_FIELDS.get(entry.dtype, ("int_val", np.int32))
    values = getattr(saved.data.data, field)
    if entry.dtype == "string":
        return encoding.objects(values)
    numbers: np.ndarray = np.array(values, stored)
    dtype = encoding.numpy_dtype(entry.dtype)
    return numbers.view(dtype) if entry.dtype in _V1_BITS else numbers.astype(dtype)


def _entry_v1(saved: protos.SavedSliceMeta, most: int) -> Entry:
    """Return the entry of a SavedSliceMeta in a file of `most` bytes, of which an element takes one at least."""
    entry = Entry(saved.name, protos.dtype_name(saved.type), tuple(dim.size for dim in saved.shape.dim), 0, 0, ())
    count = _count(entry, None)
    if count > most:
        raise ValueError(f"{entry.key!r} has the shape {list(entry.shape)}")
    return replace(entry, size=0 if entry.dtype == "string" else count * encoding.numpy_dtype(entry.dtype).itemsize)


def _shard_files(bundle: Bundle) -> dict[str, HeldFile]:
    """Return the data files by their paths.

    Raises:
        WeightsError: some are missing, or too short for the index.
    """
    needed: dict[str, int] = defaultdict(int)
    for entry in bundle.entries.values():
        for part in entry.parts:
            path = bundle.data_path(part)
            needed[path] = max(needed[path], part.offset + part.size)
    found: dict[str, HeldFile] = {}
    problems: list[Problem] = []
    for path, size in needed.items():
        try:
            found[path] = locate.open_shard(path, size)
        except WeightsError as error:
            problems += error.problems
    if problems:
        raise WeightsError(*problems)
    return found


def data_path(prefix: str, shard: int, shards: int) -> str:
    return f"{prefix}.data-{shard:05d}-of-{shards:05d}"


def _pread(descriptor: int, part: Part, offset: int, size: int) -> bytes:
    return os.pread(descriptor, size, part.offset + offset)


def _assemble(entry: Entry, values: list[tuple[Extents | None, np.ndarray]]) -> np.ndarray:
    """Return the tensor that flat slices make up."""
    dtype = object if entry.dtype == "string" else encoding.numpy_dtype(entry.dtype)
    whole = np.zeros(entry.shape, dtype)
    for extents, value in values:
        shape = entry.shape if extents is None else slice_shape(entry, extents)
        at = tuple(slice(start, start + size) for (start, _), size in zip(extents or (), shape, strict=False))
        whole[at] = value.reshape(shape)[()]
    return whole


def slice_key(name: str, extents: Iterable[tuple[int, int]]) -> bytes:
    """Return the key of a slice of a partitioned variable (``EncodeTensorNameSlice`` in TensorFlow's saved_tensor_slice_util).

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
    """Return a number as OrderedCode writes it: the leading ones (zeros, if negative) count the bytes, seven bits in each."""
    length = (value if value >= 0 else ~value).bit_length() // 7 + 1
    header = ((1 << length) - 1) << 7 * length
    return (value & ((1 << 8 * length) - 1) ^ header).to_bytes(length, "big")
