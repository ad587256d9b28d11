"""tf.Example protos and the TFRecord files that hold them, without TensorFlow.

A record is its length (8 bytes, little-endian), the length's masked CRC-32C, the data, and the data's masked CRC-32C
(tensorflow/core/lib/io/record_writer.h). What a feature must hold is the rule of tf.io.FixedLenFeature.
"""

import math
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
from google.protobuf.message import DecodeError

from exportkit import files
from exportkit.checkpoint.encoding import objects
from exportkit.checkpoint.sstable import mask
from exportkit.errors import did_you_mean
from exportkit.operations.parse_example import Feature
from exportkit.protos import example_pb2

Example = example_pb2.Example
_LISTS = {"float32": "float_list", "int64": "int64_list", "string": "bytes_list"}
_GZIP = b"\x1f\x8b"
MOST_RECORDS = 1 << 20


class NoFeature(Exception):
    """A feature that the first example does not have; `known` are those that it has."""

    def __init__(self, known: Sequence[str]):
        super().__init__(known)
        self.known = known


def records(path: Path) -> Iterator[bytes]:
    """Yield the records of a TFRecord file.

    Raises:
        ValueError: the file is cut short, damaged, compressed, or has too many records.
        OSError: it cannot be read.
    """
    with files.opened(path, files.ARRAYS) as file:
        size, count = os.fstat(file.fileno()).st_size, 0
        while header := file.read(12):
            if header.startswith(_GZIP):
                raise ValueError("is compressed with gzip: decompress it")
            length = struct.unpack("<Q", _proved(header[:8], header[8:], len(header) == 12))[0]
            if length > size - file.tell():
                raise ValueError("is cut short")
            count += 1
            if count > MOST_RECORDS:
                raise ValueError(f"has more than the {MOST_RECORDS:,} records that are read at most")
            data, tail = file.read(length), file.read(4)
            yield _proved(data, tail, len(data) == length and len(tail) == 4)


def _proved(data: bytes, checksum: bytes, whole: bool) -> bytes:
    if not whole:
        raise ValueError("is cut short")
    if mask(google_crc32c.value(data)).to_bytes(4, "little") != checksum:
        raise ValueError("is damaged: a checksum does not hold, or it is no TFRecord file")
    return data


def encode(columns: Mapping[str, np.ndarray]) -> np.ndarray:
    """Encode rows as serialized tf.Example protos.

    Args:
        columns: feature → float32, int64 or string [N, …]; of none at all comes one empty example.

    Returns:
        string [N].
    """
    (size,) = {len(column) for column in columns.values()} or {1}
    features = {name: (_list_of(column), _rows(column)) for name, column in columns.items()}
    examples = [Example() for _ in range(size)]
    for i, example in enumerate(examples):
        for name, (field, rows) in features.items():
            getattr(example.features.feature[name], field).value.extend(rows[i])
    return objects([example.SerializeToString(deterministic=True) for example in examples])


def _list_of(column: np.ndarray) -> str:
    """Return the field of a Feature that holds the values of a column."""
    return _LISTS["string" if column.dtype.kind == "O" else column.dtype.name]


def _rows(column: np.ndarray) -> list[list[Any]]:
    """Return the values of each row [N, …] of a column as a flat list."""
    return column.reshape(len(column), math.prod(column.shape[1:])).tolist()


def decode(serialized: Sequence[bytes], features: Mapping[str, Feature]) -> dict[str, np.ndarray]:
    """Decode serialized tf.Example protos to columns, by the rule of tf.io.FixedLenFeature.

    Returns:
        Feature → values [N, …] of its dtype.

    Raises:
        ValueError: a row is no tf.Example, or a feature is missing, of another dtype, or of another number of values.
    """
    rows = [_parsed(i, row) for i, row in enumerate(serialized)]
    return {name: _column(name, feature, rows) for name, feature in features.items()}


def column(serialized: Sequence[bytes], name: str) -> np.ndarray:
    """Decode one feature of serialized tf.Example protos, with the dtype and size that it has in the first.

    Returns:
        Values [N, size].

    Raises:
        NoFeature: the first example has none of that name.
        ValueError: a row is no tf.Example, or has another dtype or number of values.
    """
    first = _parsed(0, serialized[0]) if serialized else {}
    kind = first[name].WhichOneof("kind") if name in first else None
    if kind is None:
        raise NoFeature(sorted(first))
    dtype = next(dtype for dtype, field in _LISTS.items() if field == kind)
    size = len(getattr(first[name], kind).value)
    return decode(serialized, {name: Feature(dtype=dtype, shape=[size])})[name]


def _parsed(i: int, row: bytes) -> Mapping[str, Any]:
    try:
        return Example.FromString(row).features.feature
    except DecodeError:
        raise ValueError(f"row {i} is not a tf.Example") from None


def _column(name: str, feature: Feature, rows: Sequence[Mapping[str, Any]]) -> np.ndarray:
    size, dtype = math.prod(feature.shape), object if feature.dtype == "string" else feature.dtype
    values = [_values(i, name, feature, size, row) for i, row in enumerate(rows)]
    column = np.empty((len(rows), *feature.shape), dtype)
    for i, value in enumerate(values):
        column[i, ...] = np.reshape(value, feature.shape)  # without the dots a scalar text would be an array in an array
    return column


def _values(i: int, name: str, feature: Feature, size: int, row: Mapping[str, Any]) -> np.ndarray:
    """Return the values of a feature in row `i`, which has to have `size` of them."""
    found = row.get(name)
    kind = None if found is None else found.WhichOneof("kind")
    where = f"row {i}: feature '{name}'"
    if found is None or kind is None:
        if feature.default is None:
            raise ValueError(f"{where} is missing, and has no default" + _suggestion(name, row))
        return np.broadcast_to(_default(feature), feature.shape)
    if kind != _LISTS[feature.dtype]:
        raise ValueError(f"{where} is a {kind}, not a {_LISTS[feature.dtype]}")
    held = getattr(found, kind).value
    if len(held) != size:
        raise ValueError(f"{where} has {len(held)} values, not {size}")
    return objects(held) if feature.dtype == "string" else np.asarray(held, feature.dtype)


def _default(feature: Feature) -> np.ndarray:
    if feature.dtype != "string":
        return np.asarray(feature.default, feature.dtype)
    texts = np.asarray(feature.default, object)
    return objects([str(text).encode() for text in texts.flat]).reshape(texts.shape)


def _suggestion(name: str, row: Mapping[str, Any]) -> str:
    suggestion = did_you_mean(name, row)
    return f" ({suggestion})" if suggestion else ""
