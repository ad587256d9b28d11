"""Versions of a model under its base path: claimed in a staging directory, committed by one rename.

TensorFlow Serving takes every child of the base path whose name is an integer for a whole version, at any moment. So a version
is written under ``.<number>.staging/version-<token>`` and renamed when it is complete and on disk. Its writer holds
a lock file beside it (flock), which distinguishes a version that is being made from what a killed run left behind. No two runs
ever write to one directory, and what is to be removed is first renamed as a whole: so even where somebody deletes locks or
staging directories under a run, that run fails, and nothing half-written or half-removed is committed.
"""

import errno
import fcntl
import os
import re
import shutil
import stat
import time
from contextlib import suppress
from pathlib import Path

from exportkit.errors import ConfigError, EnvironmentFailed, Problem, system_error

LARGEST = 2**63 - 1
_RENAME_NOREPLACE = 1
_AT_FDCWD = -100
_PATIENCE = 0.5  # seconds; another run that removes stale directories holds a lock for a moment
_NO_SYNC = (errno.EINVAL, errno.ENOTSUP)


class Claim:
    """The right to write version `number` below `base`; `directory` is where to write it.

    It is the right of the process that made it: a copy that was forked can neither commit nor abandon anything.

    Raises:
        ConfigError: the explicit version exists, or another process is writing it; or no number is left above the newest.
        EnvironmentFailed: the base path cannot be written.
    """

    def __init__(self, base: Path, version: str | int):
        self.base = base
        self.explicit = isinstance(version, int)
        self._process = os.getpid()
        self._held: list[int] = []  # open descriptors: the lock's and the directory's
        try:
            _make(base)
            remove_stale(base)
            self.number = self._take(version)
            self._staging = staging(base, self.number)
            self.directory = self._staging / f"version-{os.urandom(4).hex()}"
            self._start()
        except OSError as cause:
            raise system_error(cause, base) from cause

    def _take(self, version: str | int) -> int:
        number = version if isinstance(version, int) else _first(self.base, version)
        while not self._hold(_within_int64(self.base, number)):
            if self.explicit:
                raise exists(self.base, number)
            number += 1
        return number

    def _hold(self, number: int) -> bool:
        """Try to hold the lock of a number that no version has."""
        patience = time.monotonic() + (_PATIENCE if self.explicit else 0)
        while number not in numbers(self.base):
            lock = _lock(staging(self.base, number))
            if lock is not None and number not in numbers(self.base):
                self._held.append(lock)
                return True
            if lock is not None:
                _discard(staging(self.base, number), lock)
                os.close(lock)
            elif time.monotonic() >= patience:
                return False
            else:
                time.sleep(0.01)
        return False

    def _start(self) -> None:
        """Make the directory, and keep it open: one that is made anew in its place will be another."""
        try:
            self.directory.mkdir()
            self._held.append(os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC))
        except BaseException:
            self.abandon()
            raise

    def commit(self) -> Path:
        """Make the version visible: everything on disk first, then one rename that never replaces anything.

        Where this fails, `abandon` takes back what became visible.
        """
        if not self._is_mine:
            do = "end a process that was forked, such as a builder's, with os._exit"
            raise EnvironmentFailed(Problem(str(self.directory), "was claimed by another process", do))
        try:
            sync(self.directory)
            self.check()
            self._rename()
            _sync_one(self.base)
        except OSError as cause:
            raise system_error(cause, self.base / str(self.number)) from cause
        self._release()
        return self.base / str(self.number)

    def check(self) -> None:
        """Raise EnvironmentFailed where somebody removed the directory; TensorFlow may have made it anew since, empty."""
        if not self._is_ours(self.directory):
            do = "keep staging directories until their export has ended, and export again"
            raise EnvironmentFailed(Problem(str(self.directory), "was removed while it was being written", do))

    def _is_ours(self, directory: Path) -> bool:
        """Return whether this is the directory that the claim made, under whatever name."""
        return len(self._held) == 2 and _same(self._held[1], directory)

    def _rename(self) -> None:
        while True:
            try:
                return rename_exclusively(self.directory, self.base / str(self.number))
            except FileExistsError:
                if self.explicit:
                    raise exists(self.base, self.number) from None
                self.number = _within_int64(self.base, _next_free(self.base, self.number))

    def _release(self) -> None:
        if self._held:
            _discard(self._staging, self._held[0])
        while self._held:
            os.close(self._held.pop())

    def abandon(self) -> None:
        """Leave nothing behind, not even a version that was visible before its commit failed; after a commit, do nothing.

        A visible version that cannot be taken back by a rename stays, whole.
        """
        if not self._is_mine:
            return
        if self.is_visible:
            with suppress(OSError):
                aside = _set_aside(self.base / str(self.number))
                with suppress(OSError):
                    _sync_one(self.base)  # before anything in it is removed: after a power cut it may still have its number
                shutil.rmtree(aside, ignore_errors=True)
        self._release()

    @property
    def _is_mine(self) -> bool:
        return os.getpid() == self._process

    @property
    def is_visible(self) -> bool:
        """Whether the version is visible under its number while the commit has not ended."""
        return self._is_ours(self.base / str(self.number))


def exists(base: Path, number: int) -> ConfigError:
    """Return the refusal of an explicit version that exists, or is being made, already."""
    state = "exists" if number in numbers(base) else "is being written by another process"
    return ConfigError(Problem("version", f"{number} {state} in {base}", "a version is never overwritten: write version=auto"))


def used_up(base: Path) -> ConfigError:
    """Return the refusal to count above the largest number."""
    what = f"{LARGEST} is in use in {base}, and TensorFlow Serving sees no larger one"
    return ConfigError(Problem("version", what, "write an integer that is free, or choose another export_dir"))


def numbers(base: Path) -> set[int]:
    """Return the versions that TensorFlow Serving sees below `base`: every name that is an int64, a plain file's too."""
    try:
        found = {int(name) for name in os.listdir(base) if re.fullmatch("[0-9]{1,4000}", name)}
        return {number for number in found if number <= LARGEST}
    except (FileNotFoundError, NotADirectoryError):
        return set()


def size(version: Path) -> int:
    """Return the bytes in all files of a version."""
    return sum(path.stat().st_size for path in version.rglob("*") if path.is_file())


def staging(base: Path, number: int) -> Path:
    """Return where version `number` is written: a name that TensorFlow Serving ignores, in the same file system.

    A link or a file that has the name is not ours: it stays, and leading zeros make another name.
    """
    name = str(number)
    while not _may_be_directory(path := base / f".{name}.staging"):
        name = f"0{name}"
    return path


def _may_be_directory(path: Path) -> bool:
    try:
        return stat.S_ISDIR(path.lstat().st_mode)
    except FileNotFoundError:
        return True


def is_private(directory: Path) -> bool:
    """Return whether nobody but its owner can enter a directory, which is what umask 077 makes of it."""
    return not directory.stat().st_mode & (stat.S_IXGRP | stat.S_IXOTH)


def remove_stale(base: Path) -> list[Path]:
    """Remove what runs that died left below `base`, as far as it can be; the lock of a live one keeps its own."""
    removed = []
    for path in sorted(base.glob(".*.staging")):
        ours = re.fullmatch(r"\.[0-9a-f]+\.staging", path.name) and not path.is_symlink()
        with suppress(OSError):
            lock = _lock(path, create=False) if ours else None
            if lock is not None:
                _discard(path, lock)
                os.close(lock)
                removed.append(path)
    return removed


def sync(directory: Path) -> None:
    """Bring all files below `directory`, and the directories themselves, onto the disk."""
    for path, _, files in os.walk(directory, topdown=False, onerror=_raise):
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
    """Return the number to begin with: always above the newest, as a server serves the highest one."""
    above = max(numbers(base), default=0) + 1
    return max(int(time.time()), above) if version == "timestamp" else above


def _within_int64(base: Path, number: int) -> int:
    """Return `number`, if TensorFlow Serving can see it.

    Raises:
        ConfigError: it is above 2^63-1.
    """
    if number > LARGEST:
        raise used_up(base)
    return number


def _next_free(base: Path, number: int) -> int:
    """Return the next number that is neither a version nor, as far as one can see, about to be one."""
    while number in numbers(base) or staging(base, number).exists():
        number += 1
    return number


def _make(base: Path) -> None:
    """Make the base path, with all that it takes on the disk."""
    missing = [path for path in (base, *base.parents) if not path.exists()]
    base.mkdir(parents=True, exist_ok=True)
    for path in missing:
        _sync_one(path.parent)


def _lock(path: Path, create: bool = True) -> int | None:
    """Return the held lock of a staging directory, or None where another process holds it, or there is none to lock."""
    while True:
        made = create and _made(path)
        try:
            descriptor = os.open(path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except FileNotFoundError:
            if create and not path.is_symlink():
                continue  # another process has just removed it
            return None
        except OSError as error:
            if isinstance(error, PermissionError) and not made:
                return None  # another user's
            if made:
                with suppress(OSError):
                    path.rmdir()
            raise
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if isinstance(error, BlockingIOError):
                return None
            raise
        if _same(descriptor, path / "lock"):
            return descriptor
        os.close(descriptor)


def _made(path: Path) -> bool:
    """Make a directory; return whether it was not there before."""
    try:
        path.mkdir()
    except FileExistsError:
        return False
    return True


def _discard(path: Path, lock: int) -> None:
    """Remove a staging directory whose lock is held; one that has another's lock by now stays."""
    if _same(lock, path / "lock") or not (path / "lock").exists():
        with suppress(OSError):
            path = _set_aside(path)
        shutil.rmtree(path, ignore_errors=True)


def _set_aside(path: Path) -> Path:
    """Rename a directory that is to be removed, so that nobody sees it become less or writes to it any more."""
    return path.rename(path.with_name(f".{os.urandom(8).hex()}.staging"))


def _same(descriptor: int, path: Path) -> bool:
    """Return whether an open file is the one at a path."""
    with suppress(OSError):
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    return False


def _raise(error: OSError) -> None:
    raise error


def _renameat2(old: Path, new: Path) -> bool:
    """Try Linux's renameat2 with RENAME_NOREPLACE; False where the system or file system has no such call."""
    import ctypes

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
    except OSError as error:
        if error.errno not in _NO_SYNC or not path.is_dir():  # some file systems cannot sync a directory
            error.filename = str(path)
            raise
    finally:
        os.close(descriptor)
