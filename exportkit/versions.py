"""Versions of a model under its base path: claimed in a staging directory, committed by one rename.

TensorFlow Serving takes every child of the base path whose name is an integer for a whole version, at any moment. So a version
is written under ``.<number>.staging/version`` and renamed when it is complete and on disk. A lock file beside it, held
(flock) by the process that writes, tells a version in the making from what a killed run left behind.
"""

import ctypes
import errno
import fcntl
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path

from exportkit.errors import ConfigError, Problem, system_error

LARGEST = 2**63 - 1
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100


class Claim:
    """The right to write version `number` below `base`; `directory` is where to write it.

    Raises:
        ConfigError: the explicit version exists, or another process is writing it.
        EnvironmentFailed: the base path cannot be written.
    """

    def __init__(self, base: Path, version: str | int):
        self.base = base
        self.explicit = isinstance(version, int)
        try:
            base.mkdir(parents=True, exist_ok=True)
            sweep(base)
            self.number = self._take(version)
        except OSError as cause:
            raise system_error(cause, base) from cause
        try:
            self.directory = self._staging / "version"
            shutil.rmtree(self.directory, ignore_errors=True)
            self.directory.mkdir()
        except OSError as cause:
            self.abandon()
            raise system_error(cause, base) from cause

    def _take(self, version: str | int) -> int:
        number = version if isinstance(version, int) else _first(self.base, version)
        while True:
            if number not in numbers(self.base):
                lock = _lock(staging(self.base, number), patience=20 if self.explicit else 1)
                if lock is not None and number not in numbers(self.base):
                    self._descriptor, self._staging = lock, staging(self.base, number)
                    return number
                if lock is not None:
                    _clear(staging(self.base, number), lock)
            if self.explicit:
                raise exists(self.base, number)
            number += 1

    def commit(self) -> Path:
        """Make the version visible: everything on disk first, then one rename that never replaces anything."""
        try:
            sync(self.directory)
            self._rename()
        except OSError as cause:
            raise system_error(cause, self.base / str(self.number)) from cause
        with suppress(OSError):  # it is there and whole; not every file system can sync a directory
            _sync_one(self.base)
        _clear(self._staging, self._descriptor)
        return self.base / str(self.number)

    def _rename(self) -> None:
        while True:
            try:
                return rename_exclusively(self.directory, self.base / str(self.number))
            except FileExistsError:
                if self.explicit:
                    raise exists(self.base, self.number) from None
                self.number += 1

    def abandon(self) -> None:
        """Leave nothing behind."""
        _clear(self._staging, self._descriptor)


def exists(base: Path, number: int) -> ConfigError:
    """The refusal of an explicit version that is there, or in the making, already."""
    state = "exists" if number in numbers(base) else "is being written by another process"
    return ConfigError(Problem("version", f"{number} {state} in {base}", "a version is never overwritten: write version=auto"))


def numbers(base: Path) -> set[int]:
    """The versions that TensorFlow Serving sees below `base`: every name that is an int64, a plain file's too."""
    try:
        found = {int(name) for name in os.listdir(base) if re.fullmatch("[0-9]{1,4000}", name)}
        return {number for number in found if number <= LARGEST}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def staging(base: Path, number: int) -> Path:
    """Where version `number` is written: a name that TensorFlow Serving ignores, in the same file system."""
    return base / f".{number}.staging"


def sweep(base: Path) -> list[Path]:
    """Remove what runs that died left below `base`; the lock of a live one keeps its own."""
    removed = []
    for path in sorted(base.iterdir()):
        ours = re.fullmatch(r"\.[0-9]+\.staging", path.name) and not path.is_symlink()
        lock = _lock(path, create=False) if ours else None
        if lock is not None:
            _clear(path, lock)
            removed.append(path)
    return removed


def _clear(path: Path, lock: int) -> None:
    """Remove a staging directory whose lock is held, the lock last: with it goes the right to remove anything."""
    shutil.rmtree(path / "version", ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
    os.close(lock)


def sync(directory: Path) -> None:
    """Bring all files below `directory`, and the directories themselves, onto the disk."""
    for path, _, files in os.walk(directory, topdown=False):
        for name in files:
            _sync_one(Path(path, name))
        _sync_one(Path(path))


def rename_exclusively(old: Path, new: Path) -> None:
    """Rename a directory, and raise FileExistsError where `new` is there, even as an empty directory."""
    if _renameat2(old, new):
        return
    if os.path.lexists(new):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(new))
    os.rename(old, new)


def _first(base: Path, version: str) -> int:
    return int(time.time()) if version == "timestamp" else max(numbers(base), default=0) + 1


def _lock(path: Path, create: bool = True, patience: int = 1) -> int | None:
    """The held lock of a staging directory, or None where a live process holds it or the directory went away.

    With `patience` a holder that is only sweeping is waited for.
    """
    for attempt in range(patience):
        if attempt:
            time.sleep(0.05)
        if create:
            with suppress(FileExistsError):
                path.mkdir()
        with suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            with suppress(BlockingIOError, FileNotFoundError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(path / "lock")):
                    return descriptor
            os.close(descriptor)
    return None


def _renameat2(old: Path, new: Path) -> bool:
    """Try Linux's renameat2 with RENAME_NOREPLACE; False where the system or file system has no such call."""
    try:
        call = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    if call(_AT_FDCWD, os.fsencode(old), _AT_FDCWD, os.fsencode(new), _RENAME_NOREPLACE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
        return False
    raise OSError(number, os.strerror(number), str(new))


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
