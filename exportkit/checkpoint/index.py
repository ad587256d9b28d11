"""The index of a checkpoint: the entry of every tensor, read from its tables and checked.

Source of the rules: ``BundleReader`` in TensorFlow's ``core/util/tensor_bundle/tensor_bundle.cc``; for V1
``core/util/tensor_slice_reader.cc``.
"""

import functools
import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from exportkit import protos
from exportkit.checkpoint import encoding
from exportkit.checkpoint.sstable import Table

Extents = tuple[tuple[int, int], ...]
V1Slices = dict[str, list[tuple[Extents, Table]]]  # tensor → its slices, each with the file that has it

VERSION = 1  # kTensorBundleVersion
MOST_DIMENSIONS = 254  # TensorShape::MaxDimensions (tensor_shape.h)
_MOST_ELEMENTS = (1 << 63) - 1
_MOST_SLICES = 128  # of a tensor that is cut along several dimensions
_dtype_name = functools.cache(protos.dtype_name)


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


def read_v2(tables: Sequence[Table]) -> tuple[int, dict[str, Entry], V1Slices]:
    """Return the number of shards and the entries of a V2 index, which is one table; it has no slices of V1."""
    (table,) = tables
    items = list(table.items())
    if not items or items[0][0] != b"":
        raise ValueError("it does not begin with a header")
    (_, header), *items = items
    shards = _shards(protos.BundleHeaderProto.FromString(header))
    saved = {key: protos.BundleEntryProto.FromString(value) for key, value in items}
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
    if header.version.producer < 0:
        raise ValueError(f"its format has the version {header.version.producer}, which no writer has")
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
    counts = [element_count(entry, part.extents) for part in entry.parts]
    for part, count in zip(entry.parts, counts, strict=True):
        if not 0 <= part.shard < shards or part.offset < 0 or part.size < 0:
            raise ValueError(f"{entry.key!r} lies outside of its {shards} data files")
        if entry.dtype in ("string", "variant") and max(count, part.size >> 6) > encoding.MOST_STRINGS:
            raise ValueError(f"{entry.key!r} has {count:,} strings in {part.size:,} bytes, too many to be read")
        if not encoding.fits(entry.dtype, count, part.size):
            raise ValueError(f"{entry.key!r} is {entry.dtype} {list(entry.shape)} and has {part.size} bytes")
    if slices := [part.extents for part in entry.parts if part.extents is not None]:
        _check_cover(entry, slices, counts)


def _check_cover(entry: Entry, extents: Sequence[Extents], counts: list[int]) -> None:
    """Raise ValueError for slices that leave gaps or overlap; `counts` are their numbers of elements."""
    if sum(counts) != element_count(entry, None) or _overlap(entry, extents):
        raise ValueError(f"the slices of {entry.key!r} do not make up the whole")


def _overlap(entry: Entry, extents: Sequence[Extents]) -> bool:
    """Return whether slices within the shape of `entry` overlap (``TensorSliceSet::Register``); empty ones do not."""
    shapes = [slice_shape(entry, one) for one in extents]
    boxes = sorted(
        [(start, start + size) for (start, _), size in zip(one, shape, strict=True)]
        for one, shape in zip(extents, shapes, strict=True)
        if math.prod(shape)
    )
    cut = [axis for axis in range(len(entry.shape)) if any(box[axis] != boxes[0][axis] for box in boxes)]
    if len(cut) == 1:
        return any(one[cut[0]][1] > other[cut[0]][0] for one, other in itertools.pairwise(boxes))
    if len(boxes) > _MOST_SLICES:
        raise ValueError(f"{entry.key!r} has {len(boxes)} slices along {len(cut)} dimensions")
    pairs = itertools.combinations(boxes, 2)
    return any(all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True)) for one, other in pairs)


def element_count(entry: Entry, extents: Extents | None) -> int:
    """Return the number of elements of a tensor, or of one slice of it."""
    shape = entry.shape if extents is None else slice_shape(entry, extents)
    if len(shape) > MOST_DIMENSIONS:
        raise ValueError(f"{entry.key!r} has {len(shape)} dimensions")
    if any(size < 0 for size in shape) or (count := math.prod(shape)) > _MOST_ELEMENTS:
        raise ValueError(f"{entry.key!r} has the shape {list(shape)}")
    return count


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


def read_v1(tables: Sequence[Table]) -> tuple[int, dict[str, Entry], V1Slices]:
    """Return 0, the entries in the files of a V1 checkpoint, and the slices that each was saved in."""
    entries: dict[str, Entry] = {}
    slices: V1Slices = defaultdict(list)
    for table in tables:
        for one in protos.SavedTensorSlices.FromString(table.get(b"")).meta.tensor:
            entry = _entry_v1(one, len(table.data))
            if entries.setdefault(one.name, entry) != entry:
                raise ValueError(f"its files disagree on {one.name!r}")
            slices[one.name] += [(_extents(extents), table) for extents in one.slice]
    for entry in entries.values():
        extents = [one for one, _ in slices[entry.key]]
        _check_cover(entry, extents, [element_count(entry, one) for one in extents])
    return 0, {name: entries[name] for name in sorted(entries, key=str.encode)}, slices


def _entry_v1(saved: protos.SavedSliceMeta, most: int) -> Entry:
    """Return the entry of a SavedSliceMeta in a file of `most` bytes, of which an element takes one at least."""
    entry = Entry(saved.name, protos.dtype_name(saved.type), tuple(dim.size for dim in saved.shape.dim), 0, 0, ())
    count = element_count(entry, None)
    if count > most:
        raise ValueError(f"{entry.key!r} has the shape {list(entry.shape)}")
    return replace(entry, size=0 if entry.dtype == "string" else count * encoding.item_size(entry.dtype))


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
