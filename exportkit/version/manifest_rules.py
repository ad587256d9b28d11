"""What a manifest may state: the type and range of each fact that exportkit reads back.

A manifest can be made by anyone and have its digest all the same, so nothing in it is used before it passed these rules.
"""

import re
from collections.abc import Iterator, Mapping
from math import inf, prod
from pathlib import PurePosixPath
from typing import Any

from exportkit.contract import SIGNATURE_FILE
from exportkit.errors import shortened
from exportkit.printable import printable

_MOST_ELEMENTS = 1 << 16  # of an array whose values a manifest holds; of larger ones it holds the digest
_SHA256 = re.compile("[0-9a-f]{64}")
_TYPES: dict[str, type] = {
    "files": dict,
    "signatures": list,
    "samples": dict,
    "tolerances": dict,
    "config": dict,
    "identity": dict,
    "verify": dict,
    "capabilities": dict,
}
_NAMES = {dict: "a mapping", list: "a list", str: "a text", bool: "a truth value", type(None): "null"}


def broken(content: Mapping[str, Any]) -> Iterator[str]:
    """Yield what is wrong with the facts in a manifest, each as the end of a sentence about it."""
    wrong = [key for key, wanted in _TYPES.items() if key in content and not isinstance(content[key], wanted)]
    if wrong or "files" not in content:
        yield from (f"has {_name(content[key])} as '{key}', not {_NAMES[_TYPES[key]]}" for key in wrong)
        if "files" not in content:
            yield "does not list the version's files"
        return
    yield from _broken_files(content["files"])
    for name in content.get("signatures", ()):
        if not (isinstance(name, str) and SIGNATURE_FILE.fullmatch(name)):
            yield f"names {_quoted(name)} as a signature, which it cannot be"
    yield from _broken_facts(content)
    for key, sample in content.get("samples", {}).items():
        if not _is_sample(sample):
            yield f"has no inputs and outputs as the sample of {_quoted(key)}"


def _broken_files(files: Mapping[str, Any]) -> Iterator[str]:
    for name, digest in files.items():
        if name.startswith("/") or ".." in name.split("/"):
            yield f"names {_quoted(name)}, which lies outside of the version"
        elif not name or "\0" in name or str(PurePosixPath(name)) != name or name == ".":
            yield f"names {_quoted(name)}, which is not how a file of the version is named"
        elif not (isinstance(digest, str) and _SHA256.fullmatch(digest)):
            yield f"has {_quoted(digest)} as the digest of {_quoted(name)}, which is no SHA-256"


def _broken_facts(content: Mapping[str, Any]) -> Iterator[str]:
    for name, value in content.get("tolerances", {}).items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < inf:
            yield f"has {_quoted(value)} as the tolerance {_quoted(name)}; it is a number, 0 or more"
    for name, ops in content.get("capabilities", {}).items():
        if not isinstance(ops, list) or not all(isinstance(op, str) for op in ops):
            yield f"has {_quoted(ops)} as the ops that have the capability {_quoted(name)}; it is a list of names"
    identity = content.get("identity")
    if identity is not None and not isinstance(identity.get("sha256"), str):
        yield "has an identity without its digest"


def _is_sample(value: Any) -> bool:
    if not isinstance(value, dict) or "inputs" not in value or "outputs" not in value:
        return False
    sides = [value["inputs"], {} if value["outputs"] is None else value["outputs"]]
    return all(isinstance(side, dict) and all(map(_is_array, side.values())) for side in sides)


def _is_array(value: Any) -> bool:
    """Return whether this is an array as `exportkit.checkpoint.tensorproto.to_json` records it."""
    if not isinstance(value, dict) or not isinstance(value.get("dtype"), str) or not isinstance(value.get("shape"), list):
        return False
    if not all(type(size) is int and size >= 0 for size in value["shape"]):
        return False
    if isinstance(value.get("sha256"), str):
        return True
    return ("values" in value or isinstance(value.get("tensor"), str)) and prod(value["shape"]) <= _MOST_ELEMENTS


def _name(value: Any) -> str:
    """Return the type of a value as JSON knows it, with its article."""
    return _NAMES.get(type(value), "a number")


def _quoted(value: Any) -> str:
    return shortened(f"'{printable(value)}'" if isinstance(value, str) else repr(value), 80)
