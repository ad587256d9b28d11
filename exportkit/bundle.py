"""Checkpoints as files: what is in one, whether its bytes are sound, and how to copy tensors into a new one.

A checkpoint of format V2 (TensorFlow's TensorBundle) is ``prefix.index``, a table of names, and the tensors' bytes in
``prefix.data-NNNNN-of-NNNNN``. The index says of every tensor where its bytes are and what their checksum is, so tensors are
copied from file to file without ever being in memory. V1, of before 2017, is one file that holds all; it can be read.
Source of the rules: TensorFlow's ``core/util/tensor_bundle/tensor_bundle.cc`` and ``core/util/tensor_slice_*.cc``.
"""

import errno
import functools
import hashlib
import itertools
import math
import mmap
import ntpath
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from types import MappingProxyType

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError

from exportkit import protos, sstable
from exportkit.errors import EnvironmentFailed, Problem, WeightsError, did_you_mean
from exportkit.sstable import Table, mask, read_varint, slice_key, varint

Extents = tuple[tuple[int, int], ...]
Read = Callable[[int, int], bytes]  # (offset, size) → bytes

_CHUNK = 1 << 20
_DAMAGED = "copy the checkpoint again, or take another one"
_LFS = b"version https://git-lfs.github.com/spec/"
_OBJECT_GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
_VERSION = 1  # kTensorBundleVersion
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
_NOT_IN_KERNEL = (errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.EBADF)
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
        self.format = _format(self.prefix)
        self._path = self.prefix + (".index" if self.format == "V2" else "")
        with _readable(self._path):
            self._table = Table(_content(self._path))
            read = _index_v2 if self.format == "V2" else _index_v1
            self._shards, entries, self._slices = read(self._table)
        self.entries: Mapping[str, Entry] = MappingProxyType(entries)
        _check_shards(self)

    @functools.cached_property
    def digest(self) -> str:
        """The checkpoint's identity: SHA-256 of the index, which holds the checksums of all the data, in hex."""
        return hashlib.sha256(self._table.data).hexdigest()

    @functools.cached_property
    def aliases(self) -> Mapping[str, str]:
        """Variable name → key, of a checkpoint saved by objects (tf.train.Checkpoint); empty for one saved by names.

        A name that several variables have, as is usual outside of graphs, is no name of any and left out.
        """
        if _OBJECT_GRAPH not in self.entries:
            return MappingProxyType({})
        with _readable(self._path):
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
        return _data_path(self.prefix, part.shard, self._shards)

    def verify(self, key: str) -> None:
        """Reads a tensor's bytes, a chunk at a time, and compares them with their checksum.

        Raises:
            WeightsError: they differ, or cannot be read; it names the tensor.
        """
        entry = self.entry(key)
        if self.format == "V1":
            self.read(key)
        for part in entry.parts:
            self._verify(entry, part)

    def _verify(self, entry: Entry, part: Part) -> None:
        path = self.data_path(part)
        with _readable(path), open(path, "rb", buffering=0) as file:
            read = functools.partial(_pread, file.fileno(), part)
            if _checksum(entry.dtype, _count(entry, part.extents), part.size, read) != part.crc32c:
                raise ValueError(f"the bytes of {entry.key!r} do not have their checksum")

    def read(self, key: str) -> np.ndarray:
        """One tensor's verified value; strings are bytes in an object array. For tests and small tensors.

        Raises:
            WeightsError: the bytes do not have their checksum, or are no value of that dtype and shape.
        """
        entry = self.entry(key)
        with _readable(self._path):
            if self.format == "V1":
                return _assemble(entry, [(extents, self._value_v1(entry, extents)) for extents in self._slices[key]])
            self.verify(key)
            return _assemble(entry, [(part.extents, self._value(entry, part)) for part in entry.parts])

    def _value(self, entry: Entry, part: Part) -> np.ndarray:
        """The flat value of one part."""
        with open(self.data_path(part), "rb") as file:
            file.seek(part.offset)
            data = file.read(part.size)
        if entry.dtype == "string":
            return _objects(_split(data, _count(entry, part.extents)))
        dtype = _numpy_dtype(entry.dtype)
        return np.frombuffer(data, dtype.newbyteorder("<")).astype(dtype)

    def _value_v1(self, entry: Entry, extents: Extents) -> np.ndarray:
        """The flat value of one slice, which V1 stores as numbers of a protobuf (``SaveData`` in tensor_slice_writer.h)."""
        saved = protos.saved_tensor_slice_pb2.SavedTensorSlices.FromString(self._table.get(slice_key(entry.key, extents)))
        field, stored = _V1_FIELDS.get(entry.dtype, ("int_val", np.int32))
        values = getattr(saved.data.data, field)
        if entry.dtype == "string":
            return _objects(values)
        numbers, dtype = np.array(values, stored), _numpy_dtype(entry.dtype)
        return numbers.view(dtype) if entry.dtype in _V1_BITS else numbers.astype(dtype)


def latest(directory: str | os.PathLike[str]) -> str:
    """The prefix of the newest checkpoint in a directory.

    That is the one that the file ``checkpoint`` names, looked for beside that file where the recorded path (often of another
    machine) does not exist; without such a file the only one, or the one with the highest number.

    Raises:
        WeightsError: there is none, it cannot be told which, or the file names one that is gone.
    """
    directory = os.fspath(directory)
    state, known = os.path.join(directory, "checkpoint"), _checkpoints(directory)
    if os.path.isfile(state):
        recorded = _recorded(state)
        for prefix in (os.path.join(directory, recorded), os.path.join(directory, ntpath.basename(recorded))):
            if _is_checkpoint(prefix):
                return prefix
        raise WeightsError(Problem(state, f"names {recorded!r}, which is not there", did_you_mean(recorded, known)))
    if not known:
        raise WeightsError(Problem(directory, "has no checkpoint", _holds(directory)))
    return os.path.join(directory, _newest(directory, known))


def resolve(path: str | os.PathLike[str]) -> str:
    """The prefix that a user means: one, a file of a checkpoint, or a directory (its latest one)."""
    path = os.fspath(path)
    if os.path.isdir(path) and not _is_checkpoint(path):
        return latest(path)
    return re.sub(r"(?<=[^/])\.(index|meta|data-\d{5}-of-\d{5})$", "", path)


def _recorded(state: str) -> str:
    """``model_checkpoint_path`` of a ``checkpoint`` file, which is a CheckpointState in protobuf's text format."""
    with _readable(state):
        with open(state, "rb") as file:
            found = re.search(rb"""^\s*model_checkpoint_path\s*:\s*(["'])(.+?)(?<!\\)\1""", file.read(), re.MULTILINE)
        if not found:
            raise ValueError('it has no line `model_checkpoint_path: "..."`')
        return re.sub(rb"\\([0-7]{1,3}|.)", _unescape, found[2]).decode()


def _unescape(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8) & 255]) if escape[1].isdigit() else escape[1]


def _newest(directory: str, known: list[str]) -> str:
    """The one of names that differ in their last number only in which that is highest."""
    parts = [re.fullmatch(r"(.*?)(\d*)(\D*)", name).groups() for name in known]
    if len({(stem, end) for stem, _, end in parts}) > 1:
        raise WeightsError(Problem(directory, f"has several checkpoints: {', '.join(known)}", "name one of them"))
    return max(zip(parts, known, strict=True), key=lambda pair: int(pair[0][1] or -1))[1]


def _checkpoints(directory: str) -> list[str]:
    """The names of the checkpoints in a directory, V1 too, sorted."""
    with _readable(directory):
        files = sorted(os.listdir(directory))
    v2 = [name.removesuffix(".index") for name in files if name.endswith(".index")]
    return sorted(v2 + [name for name in files if not name.endswith(".index") and _is_table(os.path.join(directory, name))])


def _is_table(path: str) -> bool:
    """Whether a file ends as a V1 checkpoint does."""
    with suppress(OSError), open(path, "rb") as file:
        file.seek(-len(sstable.MAGIC), os.SEEK_END)
        return file.read() == sstable.MAGIC
    return False


def _is_checkpoint(prefix: str) -> bool:
    return os.path.isfile(prefix + ".index") or os.path.isfile(prefix)


def _holds(directory: str) -> str:
    names = sorted(os.listdir(directory))
    return f"it holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "it is empty"


def _format(prefix: str) -> str:
    """``V2`` or ``V1``; WeightsError with what is near by where no checkpoint is."""
    if os.path.isfile(prefix + ".index"):
        return "V2"
    if os.path.isfile(prefix):
        return "V1"
    directory, name = os.path.split(prefix)
    if not os.path.isdir(directory or "."):
        raise WeightsError(Problem(prefix, "no checkpoint is there", f"there is no directory {directory} either"))
    raise WeightsError(
        Problem(
            prefix, "no checkpoint is there", did_you_mean(name, _checkpoints(directory or ".")) or _holds(directory or ".")
        )
    )


def _content(path: str) -> bytes | mmap.mmap:
    """The bytes of an index, which is small, or of a V1 file, which holds all the data."""
    with open(path, "rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise WeightsError(Problem(path, "is a Git LFS pointer, not a checkpoint", "run `git lfs pull`"))
        if os.path.getsize(path) == 0:
            raise ValueError("it is empty")
        file.seek(0)
        return file.read() if path.endswith(".index") else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@contextmanager
def _readable(path: str) -> Iterator[None]:
    """Whatever malformed bytes make of a parser becomes one WeightsError that names the file."""
    try:
        yield
    except (ValueError, IndexError, KeyError, OverflowError, DecodeError) as error:
        raise WeightsError(Problem(path, f"is damaged: {error}", _DAMAGED)) from error
    except OSError as error:
        raise WeightsError(Problem(path, f"cannot be read: {error.strerror}")) from error


def _index_v2(table: Table) -> tuple[int, dict[str, Entry], None]:
    """Number of shards and entries of a V2 index."""
    keys, values = zip(*table.items(), strict=True)
    if keys[0] != b"" or list(keys) != sorted(set(keys)):
        raise ValueError("its keys are not in order")
    shards = _shards(protos.tensor_bundle_pb2.BundleHeaderProto.FromString(values[0]))
    saved = dict(zip(keys[1:], map(protos.tensor_bundle_pb2.BundleEntryProto.FromString, values[1:]), strict=True))
    sliced = {key: _slices(key.decode(), proto, saved) for key, proto in saved.items() if proto.slices}
    inner = {slice_key(key.decode(), part.extents) for key, parts in sliced.items() for part in parts}
    entries = [_entry(key.decode(), proto, sliced.get(key)) for key, proto in saved.items() if key not in inner]
    for entry in entries:
        _check(entry, shards)
    return shards, {entry.key: entry for entry in entries}, None


def _index_v1(table: Table) -> tuple[int, dict[str, Entry], dict[str, list[Extents]]]:
    """Entries of a V1 file, and of each the slices that it was saved in."""
    saved = protos.saved_tensor_slice_pb2.SavedTensorSlices.FromString(table.get(b"")).meta.tensor
    entries, slices = {}, {}
    for one in sorted(saved, key=lambda one: one.name.encode()):
        entry = Entry(one.name, protos.dtype_name(one.type), tuple(dim.size for dim in one.shape.dim), 0, 0, ())
        size = 0 if entry.dtype == "string" else _count(entry, None) * _numpy_dtype(entry.dtype).itemsize
        entries[one.name], slices[one.name] = replace(entry, size=size), [_extents(extents) for extents in one.slice]
    return 0, entries, slices


def _shards(header) -> int:
    """The number of data files, of a BundleHeaderProto that we can read (``BundleReader::BundleReader``)."""
    if header.endianness != header.LITTLE:
        raise ValueError("a big-endian machine wrote it, and its numbers are the wrong way round")
    if header.version.min_consumer > _VERSION or _VERSION in header.version.bad_consumers:
        raise ValueError(f"its format is newer than any that is known (version {header.version.min_consumer})")
    return header.num_shards


def _slices(name: str, proto, saved: Mapping[bytes, object]) -> tuple[Part, ...]:
    """The parts of a partitioned tensor: each slice has an entry of its own, under an encoded key."""
    parts = []
    for extents in map(_extents, proto.slices):
        one = saved.get(slice_key(name, extents))
        if one is None:
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
    return Entry(name, protos.dtype_name(proto.dtype), shape, sum(part.size for part in parts), proto.crc32c, parts)


def _check(entry: Entry, shards: int) -> None:
    """Refuses what no writer writes: a shape, slice or size that the others contradict."""
    counts = [_count(entry, part.extents) for part in entry.parts]
    for part, count in zip(entry.parts, counts, strict=True):
        if not 0 <= part.shard < shards or part.offset < 0 or part.size < 0:
            raise ValueError(f"{entry.key!r} lies outside of its {shards} data files")
        if not _fits(entry.dtype, count, part.size):
            raise ValueError(f"{entry.key!r} is {entry.dtype} {list(entry.shape)} and has {part.size} bytes")
    if sum(counts) < math.prod(entry.shape):
        raise ValueError(f"the slices of {entry.key!r} do not cover it")


def _fits(dtype: str, count: int, size: int) -> bool:
    """Whether `count` elements can have `size` bytes; a string has at least its length, and all together a checksum."""
    if dtype in ("string", "variant"):
        return size >= count
    return size == count * _numpy_dtype(dtype).itemsize


def _count(entry: Entry, extents: Extents | None) -> int:
    """The number of elements of a tensor or of one slice of it."""
    shape = entry.shape if extents is None else _slice_shape(entry, extents)
    if any(size < 0 for size in shape):
        raise ValueError(f"{entry.key!r} has the shape {list(shape)}")
    return math.prod(shape)


def _slice_shape(entry: Entry, extents: Extents) -> tuple[int, ...]:
    if len(extents) != len(entry.shape) or any(
        start < 0 or start + length > size for (start, length), size in zip(extents, entry.shape, strict=True)
    ):
        raise ValueError(f"a slice of {entry.key!r} goes beyond its shape {list(entry.shape)}")
    return tuple(size if length == -1 else length for (_, length), size in zip(extents, entry.shape, strict=True))


def _check_shards(bundle: Bundle) -> None:
    """Refuses data files that are missing or too short for the index."""
    needed: dict[str, int] = defaultdict(int)
    for entry in bundle.entries.values():
        for part in entry.parts:
            path = bundle.data_path(part)
            needed[path] = max(needed[path], part.offset + part.size)
    problems = [problem for path, size in needed.items() if (problem := _shard_problem(path, size))]
    if problems:
        raise WeightsError(*problems)


def _shard_problem(path: str, needed: int) -> Problem | None:
    try:
        with open(path, "rb") as file:
            pointer, size = file.read(len(_LFS)) == _LFS, os.fstat(file.fileno()).st_size
    except OSError as error:
        return Problem(path, f"cannot be read: {error.strerror}", "the index needs it: copy all files of the checkpoint")
    if size >= needed:
        return None
    if pointer:
        return Problem(path, "is a Git LFS pointer, not the data", "run `git lfs pull`")
    mixed = "it was cut short, or index and data are of two different saves: copy both again"
    return Problem(path, f"has {size} bytes, and the index needs {needed}", mixed)


def _data_path(prefix: str, shard: int, shards: int) -> str:
    return f"{prefix}.data-{shard:05d}-of-{shards:05d}"


def _pread(descriptor: int, part: Part, offset: int, size: int) -> bytes:
    return os.pread(descriptor, size, part.offset + offset)


def _checksum(dtype: str, count: int, size: int, read: Read) -> int:
    """The masked checksum that TensorFlow stores for `count` elements of `dtype`.

    Args:
        size: bytes of all of them.
        read: gives the bytes (offset, size) of them.

    Raises:
        ValueError, IndexError: strings whose lengths do not add up.
    """
    if dtype == "string":
        return mask(_string_crc(count, size, read))
    if dtype == "variant":
        return mask(_variant_crc(count, read(0, size)))
    return mask(_crc(0, 0, size, read))


def _crc(crc: int, start: int, end: int, read: Read) -> int:
    for offset in range(start, end, _CHUNK):
        crc = google_crc32c.extend(crc, read(offset, min(_CHUNK, end - offset)))
    return crc


def _string_crc(count: int, size: int, read: Read) -> int:
    """``WriteStringTensor``: the lengths in fixed width, then their own checksum, then the strings."""
    lengths, at = _lengths(read(0, min(size, 10 * count + 4)), count)
    if at + 4 + sum(lengths) != size:
        raise ValueError("the lengths of its strings do not add up to its size")
    crc = google_crc32c.value(_fixed(lengths))
    return _crc(crc, at, size, read)


def _lengths(data: bytes, count: int) -> tuple[list[int], int]:
    """`count` varints, and the position behind them."""
    lengths, at = [], 0
    for _ in range(count):
        length, at = read_varint(data, at)
        lengths.append(length)
    return lengths, at


def _variant_crc(count: int, data: bytes) -> int:
    """``WriteVariantTensor``: of each its length in 8 bytes, its bytes, and the checksum so far."""
    crc = at = 0
    for _ in range(count):
        length, at = read_varint(data, at)
        end = at + length + 4
        crc = google_crc32c.extend(crc, length.to_bytes(8, "little") + data[at:end])
        at = end
    return crc


def _split(data: bytes, count: int) -> list[bytes]:
    """The strings of a string tensor's bytes."""
    lengths, at = _lengths(data, count)
    ends = list(itertools.accumulate(lengths, initial=at + 4))
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def _objects(values: Sequence[bytes]) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out


def _assemble(entry: Entry, values: list[tuple[Extents | None, np.ndarray]]) -> np.ndarray:
    """A tensor of its flat slices."""
    dtype = object if entry.dtype == "string" else _numpy_dtype(entry.dtype)
    whole = np.zeros(entry.shape, dtype)
    for extents, value in values:
        shape = entry.shape if extents is None else _slice_shape(entry, extents)
        at = tuple(slice(start, start + size) for (start, _), size in zip(extents or (), shape, strict=False))
        whole[at] = value.reshape(shape)[()]
    return whole


@functools.cache
def _numpy_dtype(name: str) -> np.dtype:
    """NumPy's dtype of a dtype name; a quantized type is its integers."""
    name = re.sub(r"^q(?=u?int)", "", name)
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # TensorFlow's own dtypes: it depends on this package

        if not hasattr(ml_dtypes, name):
            raise ValueError(f"a tensor of dtype {name} has no bytes") from None
        return np.dtype(getattr(ml_dtypes, name))


class BundleWriter:
    """Writes a new V2 checkpoint of one data file, a tensor at a time; nothing of it is valid before it is closed.

    As a context manager it closes at the end, and removes what it wrote where the block fails::

        with BundleWriter("out/variables") as writer:
            writer.copy("dense/kernel", Bundle("runs/model.ckpt-100"), "dense/kernel/ExponentialMovingAverage")
            writer.add("step", np.int64(100))

    The bytes depend on the tensors and their order only; they are those that TensorFlow's SaveV2 would write.
    """

    def __init__(self, prefix: str | os.PathLike[str]):
        """Creates the data file.

        Raises:
            WeightsError: a checkpoint of that prefix is there already.
            EnvironmentFailed: the file cannot be written.
        """
        self.prefix = os.fspath(prefix)
        self._path = _data_path(self.prefix, 0, 1)
        self._entries: dict[str, Entry] = {}
        self._end = 0
        self._pending = _Range("", 0, 0)
        if os.path.exists(self._path) or os.path.exists(self.prefix + ".index"):
            raise WeightsError(Problem(self.prefix, "a checkpoint is there already", "choose another prefix"))
        with _writable(self._path):
            self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)

    def __enter__(self) -> "BundleWriter":
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is None:
            self.close()
        else:
            self._discard()

    def copy(self, name: str, bundle: Bundle, key: str) -> None:
        """Copies a tensor's bytes and checksums; a partitioned one keeps its slices.

        Args:
            name: the name it gets.
            bundle: where it is.
            key: its name there.

        Raises:
            WeightsError: it is not there, or its data file ends too early.
            EnvironmentFailed: the bytes cannot be written.
        """
        entry = bundle.entry(key)
        if bundle.format == "V1":
            return self._append(name, bundle.read(key), entry.dtype)
        parts = tuple(self._copy(bundle, part) for part in entry.parts)
        self._record(replace(entry, key=name, parts=parts))

    def add(self, name: str, array: np.ndarray) -> None:
        """Writes a tensor from memory; the elements of a string tensor are bytes, or str for UTF-8.

        Raises:
            WeightsError: the array's dtype is none that TensorFlow has.
            EnvironmentFailed: the bytes cannot be written.
        """
        array = np.asarray(array)
        dtype = "string" if array.dtype.kind in "OSU" else array.dtype.name
        if dtype not in protos.DTYPE_NAMES:
            raise WeightsError(Problem(name, f"TensorFlow has no dtype {dtype}", "convert the array"))
        self._append(name, array, dtype)

    def close(self) -> None:
        """Writes what is left of the data and, once that is on disk, the index."""
        try:
            self._flush()
            with _writable(self._path):
                os.fsync(self._file)
                os.close(self._file)
            self._write_index()
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        for path in (self._path, self.prefix + ".index.tmp"):
            with suppress(OSError):
                os.unlink(path)
        with suppress(OSError):
            os.close(self._file)

    def _record(self, entry: Entry) -> None:
        if not entry.key or entry.key in self._entries:
            raise WeightsError(
                Problem(self.prefix, f"a second tensor {entry.key!r}" if entry.key else "a tensor without a name")
            )
        self._entries[entry.key] = entry

    def _copy(self, bundle: Bundle, part: Part) -> Part:
        """Puts a part at the end, or only notes that it continues the range of bytes that is to be copied next."""
        source = _Range(bundle.data_path(part), part.offset, part.size)
        if not self._pending.continues_in(source):
            self._flush()
            self._pending = replace(source, size=0)
        self._pending = replace(self._pending, size=self._pending.size + part.size)
        return replace(part, shard=0, offset=self._end + self._pending.size - part.size)

    def _flush(self) -> None:
        """Copies the bytes that were only noted so far."""
        pending, self._pending = self._pending, _Range("", 0, 0)
        if not pending.size:
            return
        with _readable(pending.path):
            source = open(pending.path, "rb", buffering=0)  # noqa: SIM115 (a failure to read it is another error)
        with source, _writable(self._path):
            done = _copy(source.fileno(), self._file, pending.size, pending.offset, self._end)
        if done < pending.size:
            raise WeightsError(Problem(pending.path, "became shorter while it was copied", "wait until training has saved it"))
        self._end += done

    def _append(self, name: str, array: np.ndarray, dtype: str) -> None:
        self._flush()
        data, offset = _payload(name, array), self._end
        with _writable(self._path):
            self._end = _write(self._file, data, offset)
        part = Part(0, offset, len(data), _payload_checksum(dtype, array.size, data))
        self._record(Entry(name, dtype, array.shape, part.size, part.crc32c, (part,)))

    def _write_index(self) -> None:
        path = self.prefix + ".index"
        with _writable(path), open(path + ".tmp", "xb") as file:
            file.write(sstable.table(_index_items(self._entries)))
            file.flush()
            os.fsync(file.fileno())
            os.replace(path + ".tmp", path)


@dataclass(frozen=True)
class _Range:
    """`size` bytes of a file, from `offset` on."""

    path: str
    offset: int
    size: int

    def continues_in(self, other: "_Range") -> bool:
        return self.path == other.path and self.offset + self.size == other.offset


def _copy(source: int, target: int, size: int, offset: int, at: int) -> int:
    """Copies bytes of one open file to position `at` of another; how many there were, at most `size`."""
    done = _copy_in_kernel(source, target, size, offset, at)
    return done + _copy_by_buffer(source, target, size - done, offset + done, at + done)


def _copy_in_kernel(source: int, target: int, size: int, offset: int, at: int) -> int:
    """How many bytes the kernel copied; it shares the blocks where the file system can do that (btrfs, xfs)."""
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
    while done < size and (data := os.pread(source, min(_CHUNK, size - done), offset + done)):
        done = _write(target, data, at + done) - at
    return done


def _write(target: int, data: bytes | memoryview, at: int) -> int:
    """Writes all of `data` at position `at`; the position behind it."""
    rest = memoryview(data)
    while rest:
        step = os.pwrite(target, rest[:_CHUNK], at)
        rest, at = rest[step:], at + step
    return at


@contextmanager
def _writable(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise EnvironmentFailed(Problem(path, f"cannot be written: {error.strerror}")) from error


def _index_items(entries: Mapping[str, Entry]) -> list[tuple[bytes, bytes]]:
    """The keys and values of an index, sorted."""
    header = protos.tensor_bundle_pb2.BundleHeaderProto(num_shards=1)
    header.version.producer = _VERSION
    items = {b"": header}
    for entry in entries.values():
        items |= _entry_items(entry)
    return [(key, proto.SerializeToString(deterministic=True)) for key, proto in sorted(items.items())]


def _entry_items(entry: Entry) -> dict[bytes, object]:
    """The entry of a tensor, and one of each slice that it has."""
    whole = _entry_proto(entry.dtype, entry.shape)
    items = {entry.key.encode(): whole}
    for part in entry.parts:
        proto = whole
        if part.extents is not None:
            _add_slice(whole, part.extents)
            proto = items[slice_key(entry.key, part.extents)] = _entry_proto(entry.dtype, _slice_shape(entry, part.extents))
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


def _payload(name: str, array: np.ndarray) -> bytes | memoryview:
    """An array's bytes as they stand in a data file."""
    if array.dtype.kind in "OSU":
        return _join([_bytes(name, item) for item in array.ravel().tolist()])
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return memoryview(little.reshape(-1).view(np.uint8))


def _payload_checksum(dtype: str, count: int, data: bytes | memoryview) -> int:
    return _checksum(dtype, count, len(data), lambda offset, size: bytes(data[offset : offset + size]))


def _bytes(name: str, item: bytes | str) -> bytes:
    if not isinstance(item, bytes | str):
        raise WeightsError(Problem(name, f"a string tensor cannot hold a {type(item).__name__}", "give bytes"))
    return item.encode() if isinstance(item, str) else item


def _join(strings: list[bytes]) -> bytes:
    """The bytes of a string tensor: varint lengths, the checksum of the lengths in fixed width, the strings."""
    lengths = [len(one) for one in strings]
    checksum = mask(google_crc32c.value(_fixed(lengths))).to_bytes(4, "little")
    return b"".join(map(varint, lengths)) + checksum + b"".join(strings)


def _fixed(lengths: list[int]) -> bytes:
    """Lengths as they go into a checksum: in four bytes, or in eight where that is too few."""
    return b"".join(length.to_bytes(4 if length < 1 << 32 else 8, "little") for length in lengths)


@dataclass(frozen=True)
class Proof:
    """What was found equal.

    Attributes:
        tensors: how many have the checksums of their source.
        size: bytes that were read back from the written data files.
    """

    tensors: int
    size: int


def prove(written: Bundle | str, names: Mapping[str, tuple[Bundle, str]]) -> Proof:
    """Reads a written checkpoint back, in the order of the file, and compares it with where its tensors came from.

    Args:
        written: the checkpoint, or its prefix.
        names: of each tensor in it that was copied, the checkpoint that it came from and its key there.

    Raises:
        WeightsError: names all tensors that are missing, differ from their source or do not have their checksum.
    """
    written = written if isinstance(written, Bundle) else Bundle(written)
    problems = [problem for name, source in names.items() if (problem := _differs(written, name, *source))]
    pieces = [(part.shard, part.offset, entry, part) for entry in written.entries.values() for part in entry.parts]
    for _, _, entry, part in sorted(pieces, key=lambda piece: piece[:2]):
        try:
            written._verify(entry, part)
        except WeightsError as error:
            problems += error.problems
    if problems:
        raise WeightsError(*problems)
    return Proof(len(names), sum(entry.size for entry in written.entries.values()))


def _differs(written: Bundle, name: str, source: Bundle, key: str) -> Problem | None:
    """What is wrong with a tensor's checksums, by those of its source."""
    if name not in written.entries:
        return Problem(written.prefix, f"lacks {name!r}", "export again")
    if _fingerprint(written.entries[name]) == _source_fingerprint(source, key):
        return None
    return Problem(written.prefix, f"{name!r} is not the tensor {key!r} of {source.prefix}", "export again")


def _fingerprint(entry: Entry) -> tuple:
    return entry.dtype, entry.shape, tuple((part.size, part.crc32c, part.extents) for part in entry.parts)


def _source_fingerprint(source: Bundle, key: str) -> tuple:
    """Dtype, shape and checksums; of V1, which has no checksums of tensors, those that its value gets in V2."""
    entry = source.entry(key)
    if source.format == "V2":
        return _fingerprint(entry)
    data = _payload(key, array := source.read(key))
    return entry.dtype, entry.shape, ((len(data), _payload_checksum(entry.dtype, array.size, data), None),)
