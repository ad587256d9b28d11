"""Regular files, opened with a bound: nothing that a path may be instead makes a reader wait or fill the memory.

A FIFO waits for a writer, ``/dev/zero`` never ends, and opening some devices has effects of its own. So the type is looked at
first, the file is opened without waiting, and what was opened is looked at again, as its name may have changed in between.
"""

import errno
import io
import itertools
import os
import stat

from exportkit.errors import nearest

MIB = 1 << 20
PROTO = (1 << 31) - 1  # bytes: no serialized message is larger (https://protobuf.dev/programming-guides/proto-limits/)
TEXT = 16 * MIB  # of files that people write, or that are read as text
ARRAYS = 256 * MIB  # of samples and logged requests, which are held in memory

_MOST_HOLES = 256 * MIB  # bytes of a file, or else eight times its data
_MOST_RUNS = 100_000  # holes of a file that are counted, in about 0.2 seconds
_BESIDE = 1000  # entries of a directory that are compared with a name

_TYPES = {
    stat.S_IFIFO: "a FIFO (named pipe)",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def descriptor(path: str | os.PathLike[str], most: int | None = None, hollow: bool = False) -> int:
    """Open the regular file `path` to read it, and return its descriptor.

    Args:
        path: symbolic links are followed.
        most: the largest size that is accepted, in bytes.
        hollow: accept a file that is mostly holes; for callers that look at these themselves.

    Raises:
        OSError: it cannot be opened, is no regular file, is larger than `most`, or is mostly holes, which take as long to read
            as data; its `strerror` can follow "cannot be read:".
    """
    _check_type(path, os.stat(path))
    opened = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        status = os.fstat(opened)
        _check_type(path, status)
        if most is not None and status.st_size > most:
            what = f"it has {status.st_size:,} bytes, and at most {most:,} are read"
            raise OSError(errno.EFBIG, what, os.fspath(path))
        if not hollow and status.st_size > _MOST_HOLES and (what := describe_holes(opened, _MOST_HOLES)):
            raise OSError(errno.EFBIG, f"it {what}", os.fspath(path))
    except OSError:
        os.close(opened)
        raise
    return opened


def describe_holes(opened: int, most: int) -> str:
    """Return how much of a file is holes, where that is more than `most` bytes and eight times its data; else nothing."""
    size = os.fstat(opened).st_size
    if (found := holes(opened)) <= max(most, 8 * (size - found)):
        return ""
    return f"has {size:,} bytes, of which the disk holds {size - found:,}; the rest are holes"


def holes(opened: int) -> int:
    """Return how many bytes of a file lie in holes: they are zeros, and the disk holds nothing for them.

    That is 0 where the file system does not report them, and of a file with more than `_MOST_RUNS` what the disk does not hold.
    """
    status = os.fstat(opened)
    size, stored = status.st_size, status.st_blocks * 512
    if stored >= size or not hasattr(os, "SEEK_HOLE"):
        return 0
    found = at = 0
    try:
        for _ in range(_MOST_RUNS):
            start = _seek(opened, at, os.SEEK_HOLE, size)
            at = _seek(opened, start, os.SEEK_DATA, size)
            found += at - start
            if at == size:
                return found
    except OSError:
        return 0
    finally:
        os.lseek(opened, 0, os.SEEK_SET)
    return size - stored


def _seek(opened: int, start: int, what: int, size: int) -> int:
    """Return where the next hole or the next data begins, from `start` on; `size` if there is none."""
    try:
        return min(os.lseek(opened, start, what), size)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return size
        raise


def _check_type(path: str | os.PathLike[str], status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory", os.fspath(path))
    if not stat.S_ISREG(status.st_mode):
        found = _TYPES.get(stat.S_IFMT(status.st_mode), "a special file")
        raise OSError(errno.EINVAL, f"it is {found}, not a regular file", os.fspath(path))


def opened(path: str | os.PathLike[str], most: int | None = None) -> io.BufferedReader:
    """Open a regular file to read bytes; arguments and errors are those of `descriptor`."""
    return open(descriptor(path, most), "rb")


def read(path: str | os.PathLike[str], most: int) -> bytes:
    """Return all bytes of a regular file; arguments and errors are those of `descriptor`."""
    with opened(path, most) as file:
        data = file.read(os.fstat(file.fileno()).st_size)
        while len(data) <= most and (piece := file.read(MIB)):  # it grows, or its size is not known, as in /proc
            data += piece
    if len(data) > most:
        raise OSError(errno.EFBIG, f"it has more than the {most:,} bytes that are read at most", os.fspath(path))
    return data


def similar(path: str | os.PathLike[str]) -> str:
    """Return ``did you mean …?`` for a path that is not there; empty where no entry beside it is spelt nearly the same."""
    folder, name = os.path.split(os.path.normpath(path))
    try:
        with os.scandir(folder or ".") as entries:
            near = nearest(name, (entry.name for entry in itertools.islice(entries, _BESIDE)), most=1)
    except (OSError, ValueError):  # a ValueError for a path with a null character
        return ""
    return f"did you mean {os.path.join(folder, near[0])}?" if near else ""
