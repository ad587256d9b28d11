"""The manifest of a version: what it was made from, what was proved of it, and the digest of each of its files.

It is read back byte for byte: it holds its own digest and has one way to be written, so that a change anywhere in it is found
like one in any other file. It holds no time, and the same export gives the same manifest.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from exportkit.errors import Problem, StepFailed
from exportkit.version.identity import file_digest

FILE = Path("assets.extra", "exportkit.json")
SIGNATURE = Path("assets.extra", "model.sig")
SCHEMA = 1
_RESTORE = "take the version from where it was published, or export it again"


def write_manifest(directory: Path, content: Mapping[str, Any]) -> None:
    """Write a manifest of `content` and of the files in `directory`: whatever is written later is foreign to the version."""
    (directory / FILE).parent.mkdir(exist_ok=True)
    (directory / FILE).write_bytes(_serialized({"schema": SCHEMA, **content, "files": digests(directory)}))


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """The manifest of a version, or None where it has none.

    Raises:
        StepFailed: it was changed, or is newer than this exportkit.
    """
    path = directory / FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    try:
        content = json.loads(data)
        content.pop("digest")
        sound = _serialized(content) == data
    except (ValueError, KeyError, AttributeError, TypeError):
        sound = False
    if not sound:
        raise StepFailed(Problem(str(FILE), "was changed: it does not have its digest", _RESTORE))
    if content["schema"] > SCHEMA:
        raise StepFailed(Problem(str(FILE), f"has schema {content['schema']}, newer than {SCHEMA}", "upgrade exportkit"))
    return content


def _serialized(content: Mapping[str, Any]) -> bytes:
    own = hashlib.sha256(_text(content).encode()).hexdigest()
    return _text({**content, "digest": own}).encode()


def _text(content: Mapping[str, Any]) -> str:
    return "".join(_pieces(content, "\n")) + "\n"


def _pieces(value: Any, newline: str) -> Iterator[str]:
    """JSON with a line for each key, and one for each array however long it is."""
    if not isinstance(value, Mapping) or not value:
        yield json.dumps(value, ensure_ascii=False, default=str)
        return
    inner = newline + "  "
    for number, (key, one) in enumerate(value.items()):
        yield f"{',' if number else '{'}{inner}{json.dumps(str(key), ensure_ascii=False)}: "
        yield from _pieces(one, inner)
    yield newline + "}"


def digests(directory: Path) -> dict[str, str]:
    """File → SHA-256, of every file of a version but the manifest and the signature over it."""
    paths = sorted(Path(folder, name) for folder, _, names in os.walk(directory) for name in names)
    relative = (path.relative_to(directory) for path in paths)
    return {path.as_posix(): file_digest(directory / path) for path in relative if path not in (FILE, SIGNATURE)}


def differences(directory: Path, files: Mapping[str, str]) -> Iterator[Problem]:
    """The files of a version that are not as its manifest has them."""
    found = digests(directory)
    for name in sorted(files.keys() | found.keys()):
        if name not in found:
            yield Problem(name, "is missing", _RESTORE)
        elif name not in files:
            yield Problem(name, "is not part of the version", "remove it")
        elif files[name] != found[name]:
            yield Problem(name, "was changed: it does not have its digest", _RESTORE)
