"""The directory that is verified: a version itself, which stays where it is while it is checked."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from exportkit import files
from exportkit.errors import ConfigError, EnvironmentFailed, Problem, some
from exportkit.metagraph import SAVED_MODELS
from exportkit.printable import printable
from exportkit.version.claim import numbers
from exportkit.version.nearby import meant


@contextmanager
def unmoved(directory: Path) -> Iterator[None]:
    """Check that `directory` is a version, and at the end of the context that it is still the same one.

    Raises:
        ConfigError: it is no directory, a link, or without a graph.
        EnvironmentFailed: it was removed or replaced in the context; whatever else was found is of no interest then.
    """
    try:
        descriptor = _opened(directory)
    except FileNotFoundError:  # between two looks at it
        raise _no_version(directory, "there is no such directory") from None
    try:
        try:
            yield
        finally:
            if not _is_same(descriptor, directory):
                what = "was removed or replaced while it was checked"
                raise EnvironmentFailed(Problem(str(directory), what, "verify it again, or another version")) from None
    finally:
        os.close(descriptor)


def _opened(directory: Path) -> int:
    if directory.is_symlink():
        what = f"is a link to {printable(os.readlink(directory))}, and a link can be pointed elsewhere"
        raise ConfigError(Problem(str(directory), what, f"name the version: {printable(os.path.realpath(directory))}"))
    if not directory.is_dir():
        near = files.similar(directory) or "there is no such directory"
        do = "name the directory that it lies in" if directory.exists() else near
        raise _no_version(directory, do)
    if not any(os.path.lexists(directory / name) for name in SAVED_MODELS):
        raise _no_version(directory, _versions_in(directory))
    return os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _no_version(directory: Path, do: str) -> ConfigError:
    return ConfigError(Problem(str(directory), "has no saved_model.pb", do))


def _versions_in(directory: Path) -> str:
    if not os.listdir(directory):
        return "it is empty"
    versions = sorted(number for number in numbers(directory) if (directory / str(number) / SAVED_MODELS[0]).exists())
    return f"name one of the versions in it: {some(list(map(str, versions)))}" if versions else meant(directory)


def _is_same(descriptor: int, directory: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(directory))
    except OSError:
        return False
