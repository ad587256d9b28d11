"""Signatures over whole versions, through the package `model-signing` (OpenSSF), with a local elliptic-curve key."""

import re
from pathlib import Path
from types import SimpleNamespace

from exportkit.errors import EnvironmentFailed, Problem, StepFailed


def sign(directory: Path, signature: Path, private_key: Path, password: str | None = None) -> None:
    """Sign every file in `directory` but `signature`, which is written.

    Raises:
        StepFailed: the key cannot be read, or is of a kind that is not for this.
        EnvironmentFailed: model-signing is not installed.
    """
    package = _package()
    try:
        signer = package.signing.Config().use_elliptic_key_signer(
            private_key=private_key, password=password and password.encode()
        )
    except (OSError, ValueError, TypeError) as cause:
        raise StepFailed(Problem(str(private_key), _said(cause), "give a PEM file of an EC P-256 private key")) from None
    signer.set_hashing_config(_hashing(package, directory, signature)).sign(directory, signature)


def verify(directory: Path, signature: Path, public_key: Path) -> None:
    """Compare every file in `directory` with what was signed.

    Raises:
        StepFailed: the signature is not of that key, or a file is not what was signed.
        EnvironmentFailed: model-signing is not installed.
    """
    package = _package()
    try:
        verifier = package.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError) as cause:
        raise StepFailed(Problem(str(public_key), _said(cause), "give a PEM file of an EC public key")) from None
    try:
        verifier.set_hashing_config(_hashing(package, directory, signature)).verify(directory, signature)
    except Exception as cause:
        what = _mismatch(_said(cause)) or f"does not hold for {public_key}: {_said(cause)}"
        raise StepFailed(Problem("signature", what, "take the version from where it was published")) from None


def _mismatch(text: str) -> str:
    """model-signing's list of differences without its digests; empty where that is not what `text` is."""
    patterns = {
        "changed": r"Hash mismatch for \\?'([^'\\]+)",
        "added": r"Extra files[^:]*: ([^\"]+)",
        "missing": r"Missing files[^:]*: ([^\"]+)",
    }
    found = [f"{kind}: {', '.join(names)}" for kind, pattern in patterns.items() if (names := re.findall(pattern, text))]
    return f"is of other files than these ({'; '.join(found)})" if found else ""


def _package() -> SimpleNamespace:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError:
        raise EnvironmentFailed(Problem("signature", "model-signing is not installed", "pip install exportkit[sign]")) from None
    return SimpleNamespace(hashing=hashing, signing=signing, verifying=verifying)


def _hashing(package: SimpleNamespace, directory: Path, signature: Path):
    return package.hashing.Config().set_ignored_paths(paths=[signature.relative_to(directory)], ignore_git_paths=False)


def _said(cause: Exception) -> str:
    return " ".join(str(cause).split()) or type(cause).__name__
