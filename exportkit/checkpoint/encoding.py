"""What the bytes of a tensor in a checkpoint are: sizes, strings, and the checksums that TensorFlow keeps of them.

Numbers stand one after the other, little-endian. Strings are their lengths as varints, a checksum of the lengths, and the
strings. Source: ``WriteTensor``, ``WriteStringTensor`` and ``WriteVariantTensor`` in TensorFlow's ``tensor_bundle.cc``.
"""

import functools
import itertools
import re
from collections.abc import Callable, Sequence

import google_crc32c
import numpy as np

from exportkit.checkpoint.sstable import mask, read_varint, varint
from exportkit.errors import Problem, WeightsError

Read = Callable[[int, int], bytes]  # (offset, size) → bytes

CHUNK = 1 << 20


@functools.cache
def numpy_dtype(name: str) -> np.dtype:
    """NumPy's dtype of a dtype name; a quantized type is its integers."""
    name = re.sub(r"^q(?=u?int)", "", name)
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # TensorFlow's own dtypes: it depends on this package

        if not hasattr(ml_dtypes, name):
            raise ValueError(f"NumPy has no dtype {name}") from None
        return np.dtype(getattr(ml_dtypes, name))


def fits(dtype: str, count: int, size: int) -> bool:
    """Whether `count` elements can have `size` bytes; a string has at least its length, and all together a checksum."""
    if dtype in ("string", "variant"):
        return size >= count
    return size == count * numpy_dtype(dtype).itemsize


def checksum(dtype: str, count: int, size: int, read: Read) -> int:
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
    for offset in range(start, end, CHUNK):
        crc = google_crc32c.extend(crc, read(offset, min(CHUNK, end - offset)))
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


def _fixed(lengths: list[int]) -> bytes:
    """Lengths as they go into a checksum: in four bytes, or in eight where that is too few."""
    return b"".join(length.to_bytes(4 if length < 1 << 32 else 8, "little") for length in lengths)


def payload(name: str, array: np.ndarray) -> bytes | memoryview:
    """An array's bytes as they stand in a data file."""
    if array.dtype.kind in "OSU":
        return _join([_bytes(name, item) for item in array.ravel().tolist()])
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return memoryview(little.reshape(-1).view(np.uint8))


def payload_checksum(dtype: str, count: int, data: bytes | memoryview) -> int:
    return checksum(dtype, count, len(data), lambda offset, size: bytes(data[offset : offset + size]))


def _bytes(name: str, item: bytes | str) -> bytes:
    if not isinstance(item, bytes | str):
        raise WeightsError(Problem(name, f"a string tensor cannot hold a {type(item).__name__}", "give bytes"))
    return item.encode() if isinstance(item, str) else item


def _join(strings: list[bytes]) -> bytes:
    """The bytes of a string tensor: varint lengths, the checksum of the lengths in fixed width, the strings."""
    lengths = [len(one) for one in strings]
    checksum = mask(google_crc32c.value(_fixed(lengths))).to_bytes(4, "little")
    return b"".join(map(varint, lengths)) + checksum + b"".join(strings)


def split(data: bytes, count: int) -> list[bytes]:
    """The strings of a string tensor's bytes."""
    lengths, at = _lengths(data, count)
    ends = list(itertools.accumulate(lengths, initial=at + 4))
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def objects(values: Sequence[bytes]) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out
