"""The bytes of a tensor in a checkpoint: sizes, strings, and the checksums that TensorFlow stores for them.

Numbers are stored one after the other, little-endian. A string tensor is the lengths of its strings as varints, a checksum of
the lengths, and the strings.
Source: ``WriteTensor``, ``WriteStringTensor`` and ``WriteVariantTensor`` in TensorFlow's ``tensor_bundle.cc``.
"""

from __future__ import annotations

import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import google_crc32c

from exportkit.checkpoint.sstable import mask, read_varint, varint
from exportkit.errors import Problem, WeightsError

if TYPE_CHECKING:
    import numpy as np  # imported where a value is made: sizes need none, and it takes a tenth of a second

Read = Callable[[int, int], bytes]  # (offset, size) → bytes

CHUNK = 1 << 20
MOST_STRINGS = 1 << 24  # elements, of at most 64 bytes each on average: their lengths are held in memory

_ITEM_SIZES = {  # of the dtypes that every NumPy and ml_dtypes has
    **dict.fromkeys(("bool", "int8", "uint8", "qint8", "quint8"), 1),
    **dict.fromkeys(("int16", "uint16", "qint16", "quint16", "float16", "bfloat16"), 2),
    **dict.fromkeys(("int32", "uint32", "qint32", "float32"), 4),
    **dict.fromkeys(("int64", "uint64", "float64", "complex64"), 8),
    "complex128": 16,
}


def item_size(dtype: str) -> int:
    """Return the bytes of an element.

    Raises:
        ValueError: neither NumPy nor ml_dtypes has such a dtype.
    """
    return _ITEM_SIZES.get(dtype) or numpy_dtype(dtype).itemsize


@functools.cache
def numpy_dtype(name: str) -> np.dtype:
    """Return NumPy's dtype for a dtype name; for a quantized type that of its integers.

    Raises:
        ValueError: neither NumPy nor ml_dtypes has such a dtype.
    """
    import numpy as np

    name = re.sub(r"^q(?=u?int)", "", name)
    try:
        return np.dtype(name)
    except TypeError:
        import ml_dtypes  # a dependency of TensorFlow, with its own dtypes

        if not hasattr(ml_dtypes, name):
            raise ValueError(f"NumPy has no dtype {name}") from None
        return np.dtype(getattr(ml_dtypes, name))


def fits(dtype: str, count: int, size: int) -> bool:
    """Return whether `count` elements can have `size` bytes; a string or variant takes at least one, for its length."""
    if dtype in ("string", "variant"):
        return size >= count
    return size == count * item_size(dtype)


def checksum(dtype: str, count: int, size: int, read: Read) -> int:
    """Return the masked checksum that TensorFlow stores for `count` elements of `dtype`.

    Args:
        size: the size of all elements, in bytes.
        read: called with (offset, size), returns these bytes of the elements.

    Raises:
        ValueError, IndexError: the lengths of the strings do not add up.
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
    """Return the checksum of ``WriteStringTensor``: of the lengths in fixed width, their own checksum, and the strings."""
    lengths, at = _lengths(read(0, min(size, 10 * count + 4)), count)
    if at + 4 + sum(lengths) != size:
        raise ValueError("the lengths of its strings do not add up to its size")
    crc = google_crc32c.value(_fixed(lengths))
    return _crc(crc, at, size, read)


def _lengths(data: bytes, count: int) -> tuple[list[int], int]:
    """Return `count` varints, and the position behind them."""
    lengths, at = [], 0
    for _ in range(count):
        length, at = read_varint(data, at)
        lengths.append(length)
    return lengths, at


def _variant_crc(count: int, data: bytes) -> int:
    """Return the checksum of ``WriteVariantTensor``: of each its length in 8 bytes, its bytes and the checksum so far."""
    crc = at = 0
    for _ in range(count):
        length, at = read_varint(data, at)
        end = at + length + 4
        crc = google_crc32c.extend(crc, length.to_bytes(8, "little") + data[at:end])
        at = end
    return crc


def _fixed(lengths: list[int]) -> bytes:
    """Return the lengths in the width that a checksum is taken of: four bytes, or eight where four are too few."""
    return b"".join(length.to_bytes(4 if length < 1 << 32 else 8, "little") for length in lengths)


def payload(name: str, array: np.ndarray) -> bytes | memoryview:
    """Return an array's bytes as a data file holds them.

    Raises:
        WeightsError: an element of a string tensor is neither bytes nor str; the problem is at `name`.
    """
    import numpy as np

    if array.dtype.kind in "OSU":
        return _join([_bytes(name, item) for item in array.ravel().tolist()])
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    return little.reshape(-1).view(np.uint8).data


def payload_checksum(dtype: str, count: int, data: bytes | memoryview) -> int:
    """Return the masked checksum of `count` elements of `dtype` whose bytes are `data`."""
    return checksum(dtype, count, len(data), lambda offset, size: bytes(data[offset : offset + size]))


def _bytes(name: str, item: bytes | str) -> bytes:
    if not isinstance(item, bytes | str):
        raise WeightsError(Problem(name, f"a string tensor cannot hold a {type(item).__name__}", "give bytes"))
    return item.encode() if isinstance(item, str) else item


def _join(strings: list[bytes]) -> bytes:
    """Return the bytes of a string tensor: varint lengths, the checksum of the lengths in fixed width, the strings."""
    lengths = [len(one) for one in strings]
    checksum = mask(google_crc32c.value(_fixed(lengths))).to_bytes(4, "little")
    return b"".join(map(varint, lengths)) + checksum + b"".join(strings)


def split(data: bytes, count: int) -> list[bytes]:
    """Return the strings in a string tensor's bytes."""
    lengths, at = _lengths(data, count)
    ends = list(itertools.accumulate(lengths, initial=at + 4))
    return [data[start:end] for start, end in itertools.pairwise(ends)]


def objects(values: Sequence[bytes | str]) -> np.ndarray:
    """Return `values` as an object array [n], so that NumPy keeps zero bytes at the end of a string."""
    import numpy as np

    out = np.empty(len(values), object)
    out[:] = values
    return out
