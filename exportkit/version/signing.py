"""Signatures over whole versions, made by the package `model-signing` (OpenSSF) with a local elliptic-curve key."""

import re
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

from exportkit.errors import EnvironmentFailed, Problem, StepFailed


def sign(directory: Path, signature: Path, private_key: Path, password: str | None = None, others: Iterable[str] = ()) -> None:
    """Sign every file in `directory` except `signature`, the file that is written, and `others`, which are signatures too.

    Raises:
        StepFailed: the key cannot be read, or is not of the right type.
        EnvironmentFailed: model-signing is not installed.
    """
    package = _package()
    try:
        signer = package.signing.Config().use_elliptic_key_signer(
            private_key=private_key, password=password and password.encode()
        )
    except (OSError, ValueError, TypeError) as cause:
        raise StepFailed(Problem(str(private_key), _one_line(cause), "give a PEM file of an EC P-256 private key")) from None
    signer.set_hashing_config(_hashing(package, directory, signature, others)).sign(directory, signature)


def verify(directory: Path, signature: Path, public_key: Path, others: Iterable[str] = ()) -> None:
    """Check the signature, and every file in `directory` against it, except `signature` and `others`, which are signatures too.

    Raises:
        StepFailed: the key cannot be read, the signature was not made with it, or a file was added, changed or removed.
        EnvironmentFailed: model-signing is not installed.
    """
    package = _package()
    try:
        verifier = package.verifying.Config().use_elliptic_key_verifier(public_key=public_key)
    except (OSError, ValueError, TypeError) as cause:
        raise StepFailed(Problem(str(public_key), _one_line(cause), "give a PEM file of an EC public key")) from None
    try:
        verifier.set_hashing_config(_hashing(package, directory, signature, others)).verify(directory, signature)
    except Exception as cause:
        what = _describe_mismatch(_one_line(cause)) or f"does not hold for {public_key}: {_one_line(cause)}"
        raise StepFailed(Problem("signature", what, "take the version from where it was published")) from None


def _describe_mismatch(text: str) -> str:
    """Return model-signing's list of differences without its digests; empty if `text` is not such a list."""
    patterns = {
        "changed": r"Hash mismatch for \\?'([^'\\]+)",
        "added": r"Extra files[^:]*: ([^\"]+)",
        "missing": r"Missing files[^:]*: ([^\"]+)",
    }
    found = [f"{change}: {', '.join(names)}" for change, pattern in patterns.items() if (names := re.findall(pattern, text))]
    return f"is of other files than these ({'; '.join(found)})" if found else ""


def _package() -> SimpleNamespace:
    try:
        from model_signing import hashing, signing, verifying
    except ImportError:
        raise EnvironmentFailed(Problem("signature", "model-signing is not installed", "pip install exportkit[sign]")) from None
    return SimpleNamespace(hashing=hashing, signing=signing, verifying=verifying)


def _hashing(package: SimpleNamespace, directory: Path, signature: Path, others: Iterable[str]):
    ignored = {signature.relative_to(directory), *map(Path, others)}
    return package.hashing.Config().set_ignored_paths(paths=sorted(ignored), ignore_git_paths=False)


def _one_line(cause: Exception) -> str:
    return " ".join(str(cause).split()) or type(cause).__name__
