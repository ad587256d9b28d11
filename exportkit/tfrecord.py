"""Files of records (TFRecord): each a length, the length's checksum, the bytes and their checksum."""

import os
import struct
from collections.abc import Iterable, Iterator

import google_crc32c

from exportkit.sstable import mask

_GZIP = b"\x1f\x8b"


def write(path: str | os.PathLike[str], records: Iterable[bytes]) -> None:
    """Write an uncompressed file of `records`."""
    with open(path, "wb") as file:
        for record in records:
            length = struct.pack("<Q", len(record))
            file.write(length + _checksum(length) + record + _checksum(record))


def read(path: str | os.PathLike[str]) -> Iterator[bytes]:
    """The records of an uncompressed file.

    Raises:
        ValueError: it is compressed, cut off or damaged; the text says at which record.
    """
    with open(path, "rb") as file:
        if file.read(2) == _GZIP:
            raise ValueError("is compressed with gzip")
        file.seek(0)
        number = 0
        while head := file.read(12):
            size = struct.unpack("<Q", head[:8])[0] if len(head) == 12 and head[8:] == _checksum(head[:8]) else -1
            rest = os.fstat(file.fileno()).st_size - file.tell()
            if size < 0 or size + 4 > rest:
                raise ValueError(f"is cut off or damaged at record {number}")
            record = file.read(size)
            if file.read(4) != _checksum(record):
                raise ValueError(f"is damaged: record {number} does not have its checksum")
            yield record
            number += 1


def _checksum(data: bytes) -> bytes:
    return struct.pack("<I", mask(google_crc32c.value(data)))
