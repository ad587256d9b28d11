"""The manifest of a version: what it was made from, what was proved of it, and the digest of each of its files.

It is read back byte for byte: it holds its own digest and has one way to be written, so that a change anywhere in it is found
like one in any other file. It holds no time, and the same export gives the same manifest.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from exportkit.errors import Problem, StepFailed
from exportkit.printable import printable
from exportkit.version import contents, manifest_rules
from exportkit.version.identity import file_digest

FILE = Path("assets.extra", "exportkit.json")
SIGNATURE = Path("assets.extra", "model.sig")
SAMPLES = Path("assets.extra", "exportkit_samples.npz")  # inputs that are too large for the manifest
SCHEMA = 1
MOST = 8 << 20  # bytes of a manifest; those of thousands of signatures have less
_SHOWN = 20
_END = "\n}\n"  # of a manifest's text
_JSON = json.JSONEncoder(ensure_ascii=False, default=str)
_RESTORE = "take the version from where it was published, or export it again"

Known = Callable[[Path], str | None]


def _unknown(_: Path) -> None:
    return None


def write_manifest(directory: Path, content: Mapping[str, Any], known: Known = _unknown) -> None:
    """Write a manifest of `content` and of the files in `directory`.

    What is written later is foreign to the version, except for the files that `content` names as its ``signatures``.

    Args:
        known: returns a file's SHA-256, in hex, where that is known; None where it has to be computed.
    """
    (directory / FILE).parent.mkdir(exist_ok=True)
    files = digests(directory, content.get("signatures", ()), known)
    (directory / FILE).write_bytes(_serialized({"schema": SCHEMA, **content, "files": files}))


def read_manifest(directory: Path) -> dict[str, Any] | None:
    """Return the manifest of a version, or None where it has none.

    Raises:
        StepFailed: it cannot be read, was changed, is newer than this exportkit, or states what no manifest can
            (`exportkit.version.manifest_rules`).
    """
    return read_manifest_file(directory / FILE)


def read_manifest_file(path: Path) -> dict[str, Any] | None:
    """Do as `read_manifest`, for a manifest that may lie anywhere."""
    data = _read(path)
    if data is None:
        return None
    try:
        content = json.loads(data)
        content.pop("digest")
        sound = _serialized(content) == data
    except (ValueError, KeyError, AttributeError, TypeError):
        sound = False
    except RecursionError:
        raise _refusal("nests lists or mappings without end") from None
    if not sound:
        raise _refusal("was changed: it does not have its digest")
    schema = content.get("schema")
    if type(schema) is not int or schema < 1:
        raise _refusal("has no schema" if schema is None else f"has schema {_text(schema).strip()[:40]}, which no manifest has")
    if schema > SCHEMA:
        raise StepFailed(Problem(FILE.as_posix(), f"has schema {schema}, newer than {SCHEMA}", "upgrade exportkit"))
    if wrong := list(manifest_rules.broken(content)):
        raise _refusal(*wrong[:_SHOWN])
    return content


def _refusal(*what: str) -> StepFailed:
    return StepFailed(*(Problem(FILE.as_posix(), one, _RESTORE) for one in what))


def _read(path: Path) -> bytes | None:
    """Return the bytes of a manifest, or None where there is none; a link is not followed, and nothing else than a file read.

    Raises:
        StepFailed: it is not a file, or too large for a manifest.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        what = "is a link, not a file" if error.errno == errno.ELOOP else f"cannot be read: {(error.strerror or '').lower()}"
        raise _refusal(what) from None
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        os.close(descriptor)
        raise _refusal(f"is {contents.describe(mode)}, not a file")
    with open(descriptor, "rb") as file:
        data = file.read(MOST + 1)
    if len(data) > MOST:
        raise _refusal(f"has more than {MOST:,} bytes, and no manifest has")
    return data


def _serialized(content: Mapping[str, Any]) -> bytes:
    text = _text(content)
    digest = hashlib.sha256(text.encode()).hexdigest()
    head = f"{text.removesuffix(_END)}," if content else "{"
    return f'{head}\n  "digest": "{digest}"{_END}'.encode()


def _text(content: Mapping[str, Any]) -> str:
    return "".join(_pieces(content, "\n")) + "\n"


def _pieces(value: Any, newline: str) -> Iterator[str]:
    """Yield JSON with a line for each key, and one for each array however long it is."""
    if not isinstance(value, Mapping) or not value:
        yield _JSON.encode(value)
        return
    inner = newline + "  "
    for number, (key, one) in enumerate(value.items()):
        yield f"{',' if number else '{'}{inner}{_JSON.encode(str(key))}: "
        yield from _pieces(one, inner)
    yield newline + "}"


def digests(directory: Path, signatures: Iterable[str] = (), known: Known = _unknown) -> dict[str, str]:
    """Return file → SHA-256, of every file of a version but the manifest and the signatures over it."""
    paths = {name: directory / name for name in _listed(directory, signatures)}
    return {name: known(path) or file_digest(path) for name, path in paths.items()}


def _listed(directory: Path, signatures: Iterable[str]) -> list[str]:
    left_out = {FILE.as_posix(), SIGNATURE.as_posix(), *signatures}
    return [name for name in contents.look(directory).files if name not in left_out]


def differences(directory: Path, manifest: Mapping[str, Any]) -> Iterator[Problem]:
    """Yield a problem for each file that is not as the manifest has it, and for each signature that it names and is gone."""
    files, signatures = manifest["files"], manifest.get("signatures", ())
    found = set(_listed(directory, signatures))
    for name in sorted(files.keys() | found):
        if name not in found:
            yield Problem(printable(name), "is missing", _RESTORE)
        elif name not in files:
            yield Problem(printable(name), "is not part of the version", "remove it")
        elif files[name] != file_digest(directory / name):
            yield Problem(name, "was changed: it does not have its digest", _RESTORE)
    yield from (Problem(name, "is missing", _RESTORE) for name in signatures if not (directory / name).is_file())
