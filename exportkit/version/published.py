"""The identities of published versions, which show whether an export would only make one of them again.

A version's manifest holds its identity. Steps of phase PUBLISH run after the version is visible, when nothing may be written
into it any more; so their success is recorded beside the versions, in a directory that TensorFlow Serving ignores.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from exportkit.errors import StepFailed
from exportkit.version.claim import numbers
from exportkit.version.manifest import read_manifest

_PUBLISHED = ".published"


def identity_of(version: Path) -> str | None:
    """Return the identity in a version's manifest; None without a readable manifest, or if one of its files is missing."""
    try:
        content = read_manifest(version)
    except (StepFailed, OSError):
        return None
    if content is None or not all((version / name).is_file() for name in content["files"]):
        return None
    return content["identity"]["sha256"]


def newest(base: Path, wanted: Collection[str]) -> Iterator[tuple[str, int]]:
    """Yield identity and number of the newest versions, the newest first, up to the first that is not `wanted`.

    A newer version with another identity means that another model shall be served, so older versions do not count.
    """
    for number in sorted(numbers(base), reverse=True):
        identity = identity_of(base / str(number))
        if identity is None or identity not in wanted:
            return
        yield identity, number


def mark_published(base: Path, number: int) -> None:
    """Record that all steps of phase PUBLISH passed for a version."""
    directory = base / _PUBLISHED
    directory.mkdir(exist_ok=True)
    (directory / str(number)).touch()


def is_published(base: Path, number: int) -> bool:
    """Return whether all steps of phase PUBLISH passed for a version."""
    return (base / _PUBLISHED / str(number)).is_file()
