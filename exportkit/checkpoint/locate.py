"""Locations of checkpoints: the one that a path names, the latest in a directory, and what is there instead."""

import glob
import mmap
import ntpath
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from google.protobuf.message import DecodeError

from exportkit import files
from exportkit.checkpoint import formats
from exportkit.checkpoint.held import HeldFile
from exportkit.checkpoint.sstable import MAGIC
from exportkit.errors import Problem, WeightsError, did_you_mean, nearest, some

_DAMAGED = "copy the checkpoint again, or take another one"
_ATTEMPTS = 20
_YOUNG = 0.5  # seconds: a Saver writes the `.meta` after the file `checkpoint` that names it
_MOMENT = 0.05
_MOST_AT_ONCE = 1 << 30  # the kernel reads less than 2 GiB in one call
_MOST_INDEX = 256 * files.MIB
_MOST_HOLES = 1 << 30  # bytes of a data file, or else eight times its data: a copy may leave out the zeros of new weights
_MOST_PROBLEMS = 20
_LFS = b"version https://git-lfs.github.com/spec/"


def latest(directory: str | os.PathLike[str]) -> str:
    """Return the prefix of the newest checkpoint in a directory.

    That is the one that the file ``checkpoint`` names, searched for beside that file if the recorded path (often of another
    machine) does not exist or leads out of the directory; without such a file the only one, or the one with the highest number.

    Raises:
        WeightsError: there is none, there are several without a highest number, or the file names one that is gone or lies
            elsewhere: whoever made the directory does not choose another one's checkpoint.
    """
    directory = os.fspath(directory)
    state, known = os.path.join(directory, "checkpoint"), _checkpoints(directory)
    if os.path.lexists(state) and not os.path.isdir(state):
        recorded = _recorded(state)
        paths = [os.path.join(directory, recorded), os.path.join(directory, ntpath.basename(recorded))]
        found = [prefix for prefix in map(_without_suffix, paths) if _is_checkpoint(prefix)]
        if inside := [prefix for prefix in found if _lies_below(prefix, directory)]:
            return inside[0]
        if found:
            raise WeightsError(Problem(state, f"names {recorded!r}, which lies elsewhere", f"name that checkpoint: {found[0]}"))
        raise WeightsError(Problem(state, f"names {recorded!r}, which is not there", did_you_mean(recorded, known)))
    if not known:
        raise WeightsError(
            Problem(directory, *(formats.describe_directory(directory) or ("has no checkpoint", _describe_content(directory))))
        )
    return os.path.join(directory, _newest(directory, known))


def resolve(path: str | os.PathLike[str]) -> str:
    """Return the prefix that a path names: a prefix itself, a file of a checkpoint, or a directory (its latest one)."""
    path = os.fspath(path)
    if os.path.isdir(path) and not _is_checkpoint(path):
        return latest(path)
    return _without_suffix(path)


def graph_file(path: str | os.PathLike[str]) -> str:
    """Return the ``.meta`` beside the checkpoint that a path names, as `resolve` does; a ``.meta`` itself as it is."""
    path = os.fspath(path)
    return path if path.endswith(".meta") and not os.path.isdir(path) else f"{resolve(path)}.meta"


def _without_suffix(path: str) -> str:
    """Return the prefix that a checkpoint's file belongs to; a prefix as it is."""
    return re.sub(r"(?<=[^/])(\.(index|meta|data-\d{5}-of-\d{5})|-(\d{5}|\?{5})-of-\d{5})$", "", path)


def _lies_below(path: str, directory: str) -> bool:
    inner, outer = os.path.realpath(os.path.dirname(path)), os.path.realpath(directory)
    return os.path.commonpath([inner, outer]) == outer


def looks(path: str | os.PathLike[str]) -> Iterator[None]:
    """Yield once, and again each time that training has saved in the directory `path` since: for loops that retry."""
    for _ in range(_ATTEMPTS):
        before = _state(path)
        yield
        while _state(path) == before:
            if not _is_young(path):
                return
            time.sleep(_MOMENT)


def _state(path: str | os.PathLike[str]) -> list[object]:
    """Return what changes when training saves in a directory: its names, and the identity of its ``checkpoint`` file."""
    found: list[object] = []
    with suppress(OSError):
        found.append(sorted(os.listdir(path)))
        status = os.stat(os.path.join(path, "checkpoint"))
        found += [status.st_ino, status.st_size, status.st_mtime_ns]
    return found


def _is_young(path: str | os.PathLike[str]) -> bool:
    """Return whether the ``checkpoint`` file of a directory is so new that the files it names may not be complete."""
    with suppress(OSError):
        return 0 <= time.time() - os.stat(os.path.join(path, "checkpoint")).st_mtime < _YOUNG
    return False


def format_of(prefix: str) -> str:
    """Return ``V2`` or ``V1``.

    Raises:
        WeightsError: there is no checkpoint; it names what is nearby.
    """
    if _has_index(prefix):
        return "V2"
    if files := v1_files(prefix):
        _check_v1_files(files)
        return "V1"
    raise WeightsError(Problem(prefix, "no checkpoint is there", _describe_nearby(*os.path.split(prefix))))


def _check_v1_files(files: list[str]) -> None:
    """Raise WeightsError for files that are no V1 checkpoint, with a description of each."""
    problems = []
    for path in files:
        with readable(path), HeldFile(path).open() as descriptor:
            if os.path.getsize(path) and not (_is_table(path) or _is_pointer(descriptor)):
                what, do = formats.describe_file(path)
                problems.append(Problem(path, f"is {what}", do))
    if problems:
        raise WeightsError(*problems)


def v1_files(prefix: str) -> list[str]:
    """Return the file of a V1 checkpoint, or those of a sharded one, ``prefix-NNNNN-of-NNNNN``; none if there is no such file.

    Raises:
        WeightsError: some of the files are missing.
    """
    if os.path.isfile(prefix):
        return [prefix]
    files = sorted(glob.glob(glob.escape(prefix) + "-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]"))
    wanted = [f"{prefix}-{i:05d}-of-{files[0][-5:]}" for i in range(int(files[0][-5:]))] if files else []
    missing = sorted({*wanted}.difference(files))
    if missing:
        what = "this part of the checkpoint is missing"
        raise WeightsError(*few([Problem(path, what, "copy all its files") for path in missing]))
    return wanted


def few(problems: list[Problem]) -> list[Problem]:
    """Return the first of many problems with files of one checkpoint, and the number of the others."""
    rest = [Problem("", f"{len(problems) - _MOST_PROBLEMS} more files of the checkpoint have such problems")]
    return problems if len(problems) <= _MOST_PROBLEMS + 1 else [*problems[:_MOST_PROBLEMS], *rest]


def content(file: HeldFile) -> bytes | mmap.mmap:
    """Return the bytes of an index, which is small, or of a V1 file, which holds all the data and is mapped."""
    with file.open() as descriptor:
        if _is_pointer(descriptor):
            raise WeightsError(Problem(file.path, "is a Git LFS pointer, not a checkpoint", "run `git lfs pull`"))
        if file.size == 0:
            raise ValueError("it is empty")
        if not file.path.endswith(".index"):
            return mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ)
        if file.size > _MOST_INDEX:
            raise ValueError(f"it has {file.size:,} bytes, and an index has {_MOST_INDEX:,} at most")
        return pread(descriptor, file.size, 0)


def pread(descriptor: int, size: int, offset: int) -> bytes:
    """Return `size` bytes at `offset`, fewer only at the end of the file."""
    pieces = []
    while size > 0 and (piece := os.pread(descriptor, min(size, _MOST_AT_ONCE), offset)):
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return b"".join(pieces)


def open_shard(path: str, needed: int) -> HeldFile:
    """Open a data file of which an index needs `needed` bytes.

    Raises:
        WeightsError: it cannot be read, has fewer bytes, or is mostly holes.
    """
    try:
        file = HeldFile(path)
        with file.open() as descriptor:
            pointer, what = _is_pointer(descriptor), files.describe_holes(descriptor, _MOST_HOLES)
    except OSError as error:
        do = "the index needs it: copy all files of the checkpoint"
        raise WeightsError(Problem(path, f"cannot be read: {error.strerror}", do)) from None
    if file.size >= needed:
        if what:
            raise WeightsError(
                Problem(path, what, "copy it again; if it is whole, cp --sparse=never fills its holes with zeros")
            )
        return file
    if pointer:
        raise WeightsError(Problem(path, "is a Git LFS pointer, not the data", "run `git lfs pull`"))
    mixed = "it is still being written or was cut short, or index and data are of two different saves: wait, or copy both again"
    raise WeightsError(Problem(path, f"has {file.size} bytes, and the index needs {needed}", mixed))


def _is_pointer(descriptor: int) -> bool:
    """Return whether a file is the pointer that Git LFS leaves in its place."""
    return os.pread(descriptor, len(_LFS), 0) == _LFS


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Turn every error that a parser raises for malformed bytes into one WeightsError that names the file."""
    try:
        yield
    except IndexError as error:
        raise WeightsError(Problem(path, "is damaged: a number is cut off", _DAMAGED)) from error
    except UnicodeDecodeError as error:
        raise WeightsError(Problem(path, "is damaged: a name in it is not UTF-8", _DAMAGED)) from error
    except (ValueError, OverflowError, DecodeError) as error:
        raise WeightsError(Problem(path, f"is damaged: {error}", _DAMAGED)) from error
    except OSError as error:
        raise WeightsError(Problem(path, f"cannot be read: {error.strerror}")) from error


def _recorded(state: str) -> str:
    """Return ``model_checkpoint_path`` of a ``checkpoint`` file, which is a CheckpointState in protobuf's text format."""
    with readable(state):
        data = files.read(state, files.TEXT)
        found = re.search(rb'^[ \t]*model_checkpoint_path[ \t]*:[ \t]*"((?:[^"\\\n]|\\.)+)"', data, re.MULTILINE)
        if not found:
            raise ValueError('it has no line `model_checkpoint_path: "..."`')
        return re.sub(rb"\\([0-7]{1,3}|.)", _unescape, found[1]).decode()


def _unescape(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8) & 255]) if escape[1].isdigit() else escape[1]


def _newest(directory: str, known: list[str]) -> str:
    """Return the name with the highest last number.

    Raises:
        WeightsError: the names differ in more than that number.
    """
    parts = [found.groups() for name in known if (found := re.fullmatch(r"(?s)(.*?)(\d*)(\D*)", name))]
    if len({(stem, end) for stem, _, end in parts}) > 1:
        raise WeightsError(Problem(directory, f"has several checkpoints: {', '.join(known)}", "name one of them"))
    return max(zip(parts, known, strict=True), key=lambda pair: int(pair[0][1] or -1))[1]


def _checkpoints(directory: str) -> list[str]:
    """Return the names of the checkpoints in a directory, V1 too, sorted."""
    with readable(directory):
        files = sorted(os.listdir(directory))
    v2 = [name.removesuffix(".index") for name in files if name.endswith(".index")]
    v1 = [name for name in files if not name.endswith(".index") and _is_table(os.path.join(directory, name))]
    return sorted({*v2, *map(resolve, v1)})


def _is_table(path: str) -> bool:
    """Return whether `path` is a file that ends as a V1 checkpoint does."""
    if not os.path.isfile(path):
        return False
    with suppress(OSError), files.opened(path) as file:
        file.seek(-len(MAGIC), os.SEEK_END)
        return file.read() == MAGIC
    return False


def _is_checkpoint(prefix: str) -> bool:
    return _has_index(prefix) or bool(v1_files(prefix))


def _has_index(prefix: str) -> bool:
    """Return whether something is there in the place of an index; opening it tells whether that is a regular file."""
    return os.path.lexists(prefix + ".index")


def _describe_nearby(directory: str, name: str) -> str:
    """Return advice about a checkpoint that does not exist: what is nearby."""
    place = directory or "."
    if not os.path.isdir(place):
        return f"there is no directory {directory} either"
    inner = [name for name in os.listdir(place) if os.path.isdir(os.path.join(place, name)) and not name.startswith(".")]
    known = {*_checkpoints(place), *inner}
    if nearest(name, known):
        return did_you_mean(name, known)
    return (
        "paths are relative to where exportkit was started" if os.path.samefile(place, ".") else _describe_content(place, place)
    )


def _describe_content(directory: str, what: str = "it") -> str:
    names = sorted(os.listdir(directory))
    return f"{what} holds {some(names, 8)}" if names else f"{what} is empty"
