"""Checks of a version's files: are they the files that were published?"""

import re
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from exportkit.metagraph import SAVED_MODELS
from exportkit.printable import printable
from exportkit.verifying.audit.finding import Finding, failures
from exportkit.version import contents, signing
from exportkit.version.manifest import SIGNATURE, differences

_OF_A_SAVED_MODEL = re.compile(
    r"saved_model\.pb(txt)?|variables/variables\.index|fingerprint\.pb|keras_metadata\.pb|(assets\.extra|debug)/.*", re.DOTALL
)
_ONLY = "only a signature guards against somebody who can write to the version: whoever changes a file can change its digest"


def check_contents(directory: Path) -> Iterator[Finding]:
    """Yield a failure for whatever in the version is no regular file."""
    yield from failures("files", contents.look(directory).problems)


def check_layout(directory: Path, known: Collection[str]) -> Iterator[Finding]:
    """Yield a note for each file that is no part of a SavedModel: of a version without a manifest, which would list its files.

    Args:
        directory: the version.
        known: its graph's assets and the data files that its index describes, relative to it.
    """
    for name in contents.look(directory).files:
        if name not in known and not _OF_A_SAVED_MODEL.fullmatch(name):
            yield Finding(None, "files", f"{printable(name)}: is not part of the SavedModel", "remove it, if nobody needs it")


def check(directory: Path, manifest: Mapping[str, Any] | None, damaged: bool) -> Iterator[Finding]:
    """Compare every file with its digest in the manifest.

    Args:
        directory: the version.
        manifest: its manifest, or None.
        damaged: whether there is a manifest that cannot be read.
    """
    if not directory.resolve().name.isdecimal():
        why = f"a server takes no notice of {directory.resolve().name}, which is no integer"
        yield Finding(None, "name", why, "publish it as BASE_PATH/1")
    if all((directory / name).exists() for name in SAVED_MODELS) and (
        manifest is None or set(SAVED_MODELS) <= manifest["files"].keys()
    ):
        why = f"{' and '.join(SAVED_MODELS)} are both there, and not all that loads models reads the same one"
        yield Finding(False, "files", why, "take the version from where it was published")
    if damaged:
        return
    if manifest is None:
        why = "there is none, so what nothing else guards can have been changed"
        yield Finding(None, "manifest", why, "export with post=[…,manifest]")
        return
    problems = list(differences(directory, manifest))
    yield from failures("files", problems)
    if not problems:
        yield Finding(True, "files", f"{len(manifest['files'])} files have the digests (SHA-256) in the manifest")


def check_signature(directory: Path, manifest: Mapping[str, Any] | None, public_key: Path | None) -> Iterator[Finding]:
    """Check the signature over the version; without a key, only report that it was not checked.

    Raises:
        StepFailed: the signature is not of that key, or a file is not what was signed.
        EnvironmentFailed: model-signing is not installed.
    """
    signed = (directory / SIGNATURE).exists()
    if public_key is None:
        if signed:
            yield Finding(None, "signature", f"not checked, and {_ONLY}", "name the key: --public-key")
        elif manifest is not None:
            yield Finding(None, "signature", f"there is none, and {_ONLY}", "export with post=[…,manifest,sign]")
    elif not signed:
        yield Finding(False, "signature", "there is none", "export with post=[…,manifest,sign]")
    else:
        signing.verify(directory, directory / SIGNATURE, public_key, (manifest or {}).get("signatures", ()))
        yield Finding(True, "signature", f"is that of {public_key}")
