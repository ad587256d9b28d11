"""What the versions below a base path were made from, and so whether an export would only make one of them again.

A version's manifest states its identity. Steps of PUBLISH run after the version is visible, where nothing may be written any
more; that they all ended well is therefore remembered beside the versions, in a directory that TensorFlow Serving ignores.
"""

from collections.abc import Collection, Iterator
from pathlib import Path

from exportkit.errors import StepFailed
from exportkit.version.claim import numbers
from exportkit.version.manifest import read_manifest

_PUBLISHED = ".published"


def identity_of(version: Path) -> str | None:
    """The identity that a version states; None where it states none, or is not as it was any more."""
    try:
        content = read_manifest(version)
    except (StepFailed, OSError):
        return None
    if content is None or not all((version / name).is_file() for name in content["files"]):
        return None
    return content["identity"]["sha256"]


def newest(base: Path, wanted: Collection[str]) -> Iterator[tuple[str, int]]:
    """Identity and number of the newest versions, the newest first, as far back as all are `wanted`.

    Where a newer version is not, whoever made it wanted another model to be served, and what is older is not in force.
    """
    for number in sorted(numbers(base), reverse=True):
        identity = identity_of(base / str(number))
        if identity is None or identity not in wanted:
            return
        yield identity, number


def mark_published(base: Path, number: int) -> None:
    """Remember that all steps of PUBLISH passed for a version."""
    directory = base / _PUBLISHED
    directory.mkdir(exist_ok=True)
    (directory / str(number)).touch()


def is_published(base: Path, number: int) -> bool:
    """Whether all steps of PUBLISH passed for a version."""
    return (base / _PUBLISHED / str(number)).is_file()
