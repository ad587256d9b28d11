"""Where checkpoints are: the one that a path means, the latest of a directory, and what is there instead."""

import glob
import mmap
import ntpath
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from google.protobuf.message import DecodeError

from exportkit.checkpoint.sstable import MAGIC
from exportkit.errors import Problem, WeightsError, did_you_mean

_DAMAGED = "copy the checkpoint again, or take another one"
_LFS = b"version https://git-lfs.github.com/spec/"


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
        for path in (os.path.join(directory, recorded), os.path.join(directory, ntpath.basename(recorded))):
            prefix = resolve(path)
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
    return re.sub(r"(?<=[^/])(\.(index|meta|data-\d{5}-of-\d{5})|-(\d{5}|\?{5})-of-\d{5})$", "", path)


def format_of(prefix: str) -> str:
    """``V2`` or ``V1``; WeightsError with what is near by where no checkpoint is."""
    if os.path.isfile(prefix + ".index"):
        return "V2"
    if v1_files(prefix):
        return "V1"
    raise WeightsError(Problem(prefix, "no checkpoint is there", _instead(*os.path.split(prefix))))


def v1_files(prefix: str) -> list[str]:
    """The file of a V1 checkpoint, or those of a sharded one, ``prefix-NNNNN-of-NNNNN``; none where there is no such thing.

    Raises:
        WeightsError: some of the files are missing.
    """
    if os.path.isfile(prefix):
        return [prefix]
    files = sorted(glob.glob(glob.escape(prefix) + "-[0-9][0-9][0-9][0-9][0-9]-of-[0-9][0-9][0-9][0-9][0-9]"))
    wanted = [f"{prefix}-{i:05d}-of-{files[0][-5:]}" for i in range(int(files[0][-5:]))] if files else []
    missing = [path for path in wanted if path not in files]
    if missing:
        raise WeightsError(*(Problem(path, "this part of the checkpoint is missing", "copy all its files") for path in missing))
    return wanted


def content(path: str) -> bytes | mmap.mmap:
    """The bytes of an index, which is small, or of a V1 file, which holds all the data."""
    with open(path, "rb") as file:
        if file.read(len(_LFS)) == _LFS:
            raise WeightsError(Problem(path, "is a Git LFS pointer, not a checkpoint", "run `git lfs pull`"))
        if os.path.getsize(path) == 0:
            raise ValueError("it is empty")
        file.seek(0)
        return file.read() if path.endswith(".index") else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def shard_problem(path: str, needed: int) -> Problem | None:
    """Why a data file cannot be the one of which an index needs `needed` bytes."""
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


@contextmanager
def readable(path: str) -> Iterator[None]:
    """Whatever malformed bytes make of a parser becomes one WeightsError that names the file."""
    try:
        yield
    except IndexError as error:
        raise WeightsError(Problem(path, "is damaged: a number is cut off", _DAMAGED)) from error
    except (ValueError, OverflowError, DecodeError) as error:
        raise WeightsError(Problem(path, f"is damaged: {error}", _DAMAGED)) from error
    except OSError as error:
        raise WeightsError(Problem(path, f"cannot be read: {error.strerror}")) from error


def _recorded(state: str) -> str:
    """``model_checkpoint_path`` of a ``checkpoint`` file, which is a CheckpointState in protobuf's text format."""
    with readable(state):
        with open(state, "rb") as file:
            found = re.search(rb'^\s*model_checkpoint_path\s*:\s*"((?:[^"\\]|\\.)+)"', file.read(), re.MULTILINE)
        if not found:
            raise ValueError('it has no line `model_checkpoint_path: "..."`')
        return re.sub(rb"\\([0-7]{1,3}|.)", _unescape, found[1]).decode()


def _unescape(escape: re.Match[bytes]) -> bytes:
    return bytes([int(escape[1], 8) & 255]) if escape[1].isdigit() else escape[1]


def _newest(directory: str, known: list[str]) -> str:
    """The one of names that differ in their last number only in which that is highest."""
    parts = [re.fullmatch(r"(?s)(.*?)(\d*)(\D*)", name).groups() for name in known]
    if len({(stem, end) for stem, _, end in parts}) > 1:
        raise WeightsError(Problem(directory, f"has several checkpoints: {', '.join(known)}", "name one of them"))
    return max(zip(parts, known, strict=True), key=lambda pair: int(pair[0][1] or -1))[1]


def _checkpoints(directory: str) -> list[str]:
    """The names of the checkpoints in a directory, V1 too, sorted."""
    with readable(directory):
        files = sorted(os.listdir(directory))
    v2 = [name.removesuffix(".index") for name in files if name.endswith(".index")]
    v1 = [name for name in files if not name.endswith(".index") and _is_table(os.path.join(directory, name))]
    return sorted({*v2, *map(resolve, v1)})


def _is_table(path: str) -> bool:
    """Whether it is a file that ends as a V1 checkpoint does."""
    if not os.path.isfile(path):
        return False
    with suppress(OSError), open(path, "rb") as file:
        file.seek(-len(MAGIC), os.SEEK_END)
        return file.read() == MAGIC
    return False


def _is_checkpoint(prefix: str) -> bool:
    return os.path.isfile(prefix + ".index") or bool(v1_files(prefix))


def _instead(directory: str, name: str) -> str:
    """What is near a checkpoint that is not there."""
    if not os.path.isdir(directory or "."):
        return f"there is no directory {directory} either"
    return did_you_mean(name, _checkpoints(directory or ".")) or _holds(directory or ".")


def _holds(directory: str) -> str:
    names = sorted(os.listdir(directory))
    return f"it holds {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "it is empty"
