"""Checks of a version's files: are they the files that were published?"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exportkit.verifying.audit.finding import Finding, failures
from exportkit.version import signing
from exportkit.version.manifest import SIGNATURE, differences


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
            yield Finding(None, "signature", "not checked", "name the key: --public-key")
    elif not signed:
        yield Finding(False, "signature", "there is none", "export with post=[…,manifest,sign]")
    else:
        signing.verify(directory, directory / SIGNATURE, public_key, (manifest or {}).get("signatures", ()))
        yield Finding(True, "signature", f"is that of {public_key}")
