"""Arrays in ``.npy`` and ``.npz`` files of anyone: nothing is unpickled, and nothing is allocated that the file does not hold.

Formats: NumPy's ``lib/format.py`` and PKWARE's ``APPNOTE.TXT``. An ``.npz`` is a zip archive of ``.npy`` members.
"""

from __future__ import annotations

import math
import os
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, cast

from exportkit import files
from exportkit.checkpoint import encoding

if TYPE_CHECKING:
    import numpy as np

    Header = tuple[np.dtype, tuple[int, ...]]

MOST_TEXTS = 1 << 20  # elements of an array of texts, each of which becomes an object
_MOST_DIRECTORY = files.MIB  # of an archive: some thousand arrays
_END, _LOCATOR = b"PK\5\6", b"PK\6\7"
_MEMBERS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_MALFORMED = (
    *(ValueError, TypeError, EOFError, SyntaxError, OverflowError, RecursionError, MemoryError, struct.error, zlib.error),
    *(zipfile.BadZipFile, tokenize.TokenError, NotImplementedError),
)

_MOST_PLAIN = 10 + 512  # bytes
_SIZE = rb"(?:0|[1-9][0-9]{0,17})"
_PLAIN = re.compile(  # format 1.0 of numpy/lib/format.py
    rb"\x93NUMPY\x01\x00(?P<length>..)\{'descr': '(?P<dtype>[<|][a-z][0-9])', 'fortran_order': (?:True|False), "
    rb"'shape': (?P<shape>\(\)|\(" + _SIZE + rb",\)|\(" + _SIZE + rb"(?:, " + _SIZE + rb")+\)), \} *\n",
    re.DOTALL,
)
_PLAIN_DTYPES = {
    **{"|b1": "bool", "|i1": "int8", "|u1": "uint8"},
    **{f"<{kind[0]}{size}": f"{kind}{8 * size}" for kind in ("int", "uint") for size in (2, 4, 8)},
    **{f"<f{size}": f"float{8 * size}" for size in (2, 4, 8)},
}


class Refused(ValueError):
    """A file that is refused, with the reason as the end of a sentence about it."""


def read(path: Path, name: str | None) -> np.ndarray:
    """Return the array in a ``.npy``, or the array `name` of an ``.npz``.

    Raises:
        Refused: the file is damaged, too large, or declares more than it holds.
        KeyError: the archive has no such array.
        OSError: the file cannot be read.
    """
    import numpy as np

    with _array(path, name) as (file, size):
        dtype, shape, fortran = _header(file, size)
        data = bytearray(file.read(math.prod(shape) * dtype.itemsize))
        array: np.ndarray = np.frombuffer(data, dtype, math.prod(shape)) if data else np.zeros(math.prod(shape), dtype)
        return array.reshape(shape, order="F" if fortran else "C")


def header(path: Path, name: str | None) -> Header:
    """Return dtype and shape of what `read` returns, without its values; it raises the same."""
    with _array(path, name) as (file, size):
        dtype, shape, _ = _header(file, size)
        return dtype, shape


def plain_header(path: Path, name: str | None) -> tuple[str, tuple[int, ...]] | None:
    """Return dtype and shape of an array of numbers whose header is as NumPy itself writes it, read without NumPy.

    None for any other file: `header` says what is wrong with it, if anything.
    """
    try:
        with _array(path, name) as (file, size):
            file.seek(0)
            found = _PLAIN.match(file.read(_MOST_PLAIN))
    except (KeyError, ValueError, OSError):
        return None
    if found is None or found.end() != 10 + int.from_bytes(found["length"], "little"):
        return None
    shape = tuple(map(int, re.findall(rb"\d+", found["shape"])))
    dtype = _PLAIN_DTYPES.get(found["dtype"].decode())
    if dtype is None or math.prod(shape) * encoding.item_size(dtype) > size - found.end():
        return None
    return dtype, shape


def names(path: Path) -> list[str]:
    """Return the names of the arrays in an ``.npz``.

    Raises:
        Refused: it is no archive, or has too many members.
        OSError: it cannot be read.
    """
    with _malformed(path), files.opened(path, files.ARRAYS) as file, _archive(file) as archive:
        return [member.removesuffix(".npy") for member in archive.namelist()]


@contextmanager
def _malformed(path: Path) -> Iterator[None]:
    try:
        yield
    except Refused:
        raise
    except _MALFORMED:
        raise Refused(f"is not a {path.suffix} file of numbers or bytes") from None


@contextmanager
def _array(path: Path, name: str | None) -> Iterator[tuple[BinaryIO, int]]:
    """Yield a file that is at the start of an array, and the array's size with its header, in bytes."""
    with _malformed(path), files.opened(path, files.ARRAYS) as file:
        if file.read(2) != b"PK":
            yield file, file.seek(0, os.SEEK_END)
            return
        with _archive(file) as archive:
            member = archive.getinfo(f"{name}.npy")
            if member.file_size > files.ARRAYS:
                raise Refused(f"expands to {member.file_size:,} bytes, and at most {files.ARRAYS:,} are read")
            if member.flag_bits & 1 or member.compress_type not in _MEMBERS:
                raise Refused("is encrypted or compressed in an unusual way; write it with numpy.savez")
            with archive.open(member) as content:
                yield cast(BinaryIO, content), member.file_size


@contextmanager
def _archive(file: BinaryIO) -> Iterator[zipfile.ZipFile]:
    """Open a zip archive whose directory is small: zipfile makes an object for each entry in it."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - (1 << 16) - 42))
    tail = file.read()
    at = tail.rfind(_END)
    if at < 0 or len(tail) < at + 22:
        raise zipfile.BadZipFile
    (directory,) = struct.unpack_from("<L", tail, at + 12)
    if directory > _MOST_DIRECTORY or _LOCATOR in tail[max(0, at - 20) : at]:
        raise Refused("has more arrays than are read from one file")
    with zipfile.ZipFile(file) as archive:
        yield archive


def _header(file: BinaryIO, size: int) -> tuple[np.dtype, tuple[int, ...], bool]:
    """Read the header of an array of `size` bytes; return its dtype, its shape, and whether its first index runs fastest."""
    import numpy as np

    file.seek(0)
    major, _ = np.lib.format.read_magic(file)
    parse = np.lib.format.read_array_header_1_0 if major == 1 else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = parse(file)
    if dtype.hasobject:
        raise Refused("holds pickled objects, which are never loaded; save numbers or bytes")
    if dtype.names is not None or dtype.subdtype is not None or min(shape, default=0) < 0:
        raise Refused(f"is not a file of numbers or bytes: it declares {str(dtype)[:80]} {list(shape[:8])}")
    count, left = math.prod(shape), size - file.tell()
    if count * dtype.itemsize > left:
        raise Refused(f"declares {count * dtype.itemsize:,} bytes of values and holds {left:,}")
    if count > MOST_TEXTS and (dtype.kind in "SU" or not dtype.itemsize):
        raise Refused(f"holds {count:,} texts, and at most {MOST_TEXTS:,} are read")
    return dtype, shape, fortran
