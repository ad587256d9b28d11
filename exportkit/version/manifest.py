"""The manifest of a version: what it was made from, what was proved of it, and the digest of each of its files.

It is read back byte for byte: it holds its own digest and has one way to be written, so that a change anywhere in it is found
like one in any other file. It holds no time, and the same export gives the same manifest.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from exportkit import files
from exportkit.contract import SIGNATURE_FILE
from exportkit.errors import Problem, StepFailed, shortened
from exportkit.version.identity import file_digest

FILE = Path("assets.extra", "exportkit.json")
SIGNATURE = Path("assets.extra", "model.sig")
SAMPLES = Path("assets.extra", "exportkit_samples.npz")  # inputs that are too large for the manifest
SCHEMA = 1
_RESTORE = "take the version from where it was published, or export it again"


def write_manifest(directory: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest of `content` and of the files in `directory`.

    What is written later is foreign to the version, except for the files that `content` names as its ``signatures``.
    """
    (directory / FILE).parent.mkdir(exist_ok=True)
    files = digests(directory, content.get("signatures", ()))
    (directory / FILE).write_bytes(_serialized({"schema": SCHEMA, **content, "files": files}))


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Return the manifest of a version, or None where it has none.

    Raises:
        StepFailed: it was changed, is newer than this exportkit, or leaves out a file that is no signature.
    """
    path = directory / FILE
    try:
        data = files.read(path, files.TEXT)
    except FileNotFoundError:
        return None
    except OSError as cause:
        raise StepFailed(Problem(str(FILE), f"cannot be read: {cause.strerror}", _RESTORE)) from None
    try:
        content = json.loads(data)
        content.pop("digest")
        sound = _serialized(content) == data and isinstance(content["files"], dict) and isinstance(content["schema"], int)
    except (ValueError, KeyError, AttributeError, TypeError, RecursionError):
        sound = False
    if not sound:
        raise StepFailed(Problem(str(FILE), "was changed: it does not have its digest", _RESTORE))
    if content["schema"] > SCHEMA:
        raise StepFailed(Problem(str(FILE), f"has schema {content['schema']}, newer than {SCHEMA}", "upgrade exportkit"))
    if odd := [
        name for name in content.get("signatures", ()) if not (isinstance(name, str) and SIGNATURE_FILE.fullmatch(name))
    ]:
        raise StepFailed(Problem(str(FILE), f"names {shortened(repr(odd[0]))} as a signature, which it cannot be", _RESTORE))
    return content


def _serialized(content: Mapping[str, Any]) -> bytes:
    own = hashlib.sha256(_text(content).encode()).hexdigest()
    return _text({**content, "digest": own}).encode()


def _text(content: Mapping[str, Any]) -> str:
    return "".join(_pieces(content, "\n")) + "\n"


def _pieces(value: Any, newline: str) -> Iterator[str]:
    """Yield JSON with a line for each key, and one for each array however long it is."""
    if not isinstance(value, Mapping) or not value:
        yield json.dumps(value, ensure_ascii=False, default=str)
        return
    inner = newline + "  "
    for number, (key, one) in enumerate(value.items()):
        yield f"{',' if number else '{'}{inner}{json.dumps(str(key), ensure_ascii=False)}: "
        yield from _pieces(one, inner)
    yield newline + "}"


def digests(directory: Path, signatures: Iterable[str] = ()) -> dict[str, str]:
    """Return file → SHA-256, of every file of a version but the manifest and the signatures over it."""
    left_out = {FILE, SIGNATURE, *map(Path, signatures)}
    paths = sorted(Path(folder, name) for folder, _, names in os.walk(directory) for name in names)
    relative = (path.relative_to(directory) for path in paths)
    return {path.as_posix(): file_digest(directory / path) for path in relative if path not in left_out}


def differences(directory: Path, manifest: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each file that is not as the manifest has it, and for each signature that it names and is gone."""
    files, signatures = manifest["files"], manifest.get("signatures", ())
    found = digests(directory, signatures)
    for name in sorted(files.keys() | found.keys()):
        if name not in found:
            yield Problem(name, "is missing", _RESTORE)
        elif name not in files:
            yield Problem(name, "is not part of the version", "remove it")
        elif files[name] != found[name]:
            yield Problem(name, "was changed: it does not have its digest", _RESTORE)
    yield from (Problem(name, "is missing", _RESTORE) for name in signatures if not (directory / name).is_file())
