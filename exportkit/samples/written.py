"""Inputs of a signature as a user writes them on a command line: JSON, texts, arrays in files, features of tf.Examples."""

import base64
import binascii
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from exportkit import files
from exportkit.checkpoint import npy
from exportkit.checkpoint.encoding import objects
from exportkit.errors import did_you_mean, nearest, shortened, some
from exportkit.metagraph.tensors import Facts, Shape
from exportkit.printable import printable
from exportkit.samples import tfexample
from exportkit.samples.arrays import Misfit, fit, read

_ARRAYS = (".npy", ".npz", ".tfrecord")


@dataclass(frozen=True)
class Wanted:
    """What an input takes.

    Attributes:
        facts: its dtype and static shape.
        features: feature → dtype and shape [N, …] where tf.Examples are parsed, as far as the graph shows them; else None.
    """

    facts: Facts
    features: Mapping[str, Facts] | None = None


def value(text: str, wanted: Wanted) -> np.ndarray:
    """Return the value of an input, written as JSON, a text, a ``.json`` file, or an array or feature in a file.

    One row stands for a batch of one.

    Raises:
        Misfit: it is none of these, cannot be read, or is not what the input takes.
    """
    string = wanted.facts.dtype == "string"
    if _is_address(text):
        return _fitted(array(text), wanted.facts)
    if text.endswith(".json"):
        return from_json(json_file(Path(text)), wanted)
    if string and not text.lstrip().startswith(("[", "{", '"')):
        return _fitted(text, wanted.facts)
    try:
        parsed = _parsed(text)
    except ValueError as cause:
        do = "write a text in quotes, or lists of such" if string else "write numbers, lists of them, or FILE.npz:ARRAY"
        raise Misfit(f"is {shortened(printable(text), 40)!r}, which is not JSON: {cause}", do) from None
    return from_json(parsed, wanted)


def from_json(given: Any, wanted: Wanted) -> np.ndarray:
    """Return the value of an input from what JSON holds; ``{"examples": …}`` and lists of features are tf.Examples.

    Raises:
        Misfit: it is not what the input takes.
    """
    given = binaries(given)
    rows = given["examples"] if isinstance(given, Mapping) and "examples" in given else given
    if isinstance(rows, Mapping) or (isinstance(rows, list) and rows and all(isinstance(row, Mapping) for row in rows)):
        if wanted.features is None:
            raise Misfit("is given features, and it takes no tf.Example", f"write {wanted.facts.dtype} values")
        if isinstance(rows, Mapping):
            return _columns(rows, wanted.features)
        return examples(rows, given.get("context", {}) if isinstance(given, Mapping) else {}, wanted.features)
    return _fitted(rows, wanted.facts)


def json_file(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        Misfit: it cannot be read, or is not JSON.
    """
    try:
        return _parsed(files.read(path, files.TEXT).decode())
    except OSError as cause:
        raise Misfit(f"{path} cannot be read: {(cause.strerror or '').lower()}") from None
    except ValueError as cause:
        raise Misfit(f"{path} is not JSON: {cause}") from None


def _parsed(text: str) -> Any:
    """Raise ValueError with a text of one line where this is not JSON."""
    try:
        return _shallow(json.loads(text))
    except json.JSONDecodeError as cause:
        where = f"line {cause.lineno}, column {cause.colno}" if cause.lineno > 1 else f"column {cause.colno}"
        raise ValueError(f"{cause.msg.lower()} at {where}") from None
    except RecursionError:
        raise ValueError(_DEEP) from None


_DEEPEST = 64  # lists and objects in each other; NumPy has no array of more dimensions
_DEEP = f"it nests lists or objects more than {_DEEPEST} deep"


def _shallow(given: Any) -> Any:
    """Return JSON that functions can recur into."""
    level = [given]
    for _ in range(_DEEPEST + 1):
        level = [
            item for one in level if isinstance(one, list | dict) for item in (one if isinstance(one, list) else one.values())
        ]
        if not level:
            return given
    raise ValueError(_DEEP)


def binaries(given: Any) -> Any:
    """Return JSON with each ``{"b64": …}`` as the bytes that it stands for, as REST has it.

    Raises:
        Misfit: one of them is not base64.
    """
    if isinstance(given, list):
        return [binaries(item) for item in given]
    if not isinstance(given, dict):
        return given
    if given.keys() == {"b64"}:
        try:
            return base64.b64decode(given["b64"], validate=True)
        except (binascii.Error, ValueError, TypeError):
            raise Misfit(f"holds {shortened(repr(given['b64']), 40)} as b64, which is not base64") from None
    return {key: binaries(item) for key, item in given.items()}


def _is_address(text: str) -> bool:
    name, _, _ = text.partition(":")
    return name.endswith(_ARRAYS)


def array(address: str) -> np.ndarray:
    """Return the array at ``FILE.npy``, ``FILE.npz:ARRAY``, or the records or a feature at ``FILE.tfrecord[:FEATURE]``.

    Raises:
        Misfit: it cannot be read, or has nothing of that name.
    """
    name, _, inside = address.partition(":")
    if name.endswith(".npz") and not inside:
        try:
            known = npy.names(Path(name))
        except ValueError as cause:
            raise Misfit(f"{name} {cause}") from None
        except OSError as cause:
            raise Misfit(f"{name} cannot be read: {cause.strerror}") from None
        raise Misfit(f"does not say which array of {name}", f"write {name}:ARRAY; {did_you_mean('', known) or some(known)}")
    return read(Path(name), inside or None)


def _fitted(given: Any, facts: Facts) -> np.ndarray:
    """Return `given` as `fit` does; where only a first dimension that is open is missing, it is one row."""
    shape: Shape = facts.shape
    dtype = facts.dtype or ""
    if dtype == "string":
        given = _encoded(given)
    elif dtype in ("resource", "variant", ""):
        raise Misfit(f"is of dtype {dtype or '?'}, of which no values can be given")
    if shape and shape[0] is None and _rank(given) == len(shape) - 1:
        given = given[np.newaxis] if isinstance(given, np.ndarray) else [given]
    return fit(given, dtype, shape)


def _encoded(given: Any) -> Any:
    """Return texts, or lists of them, as bytes: NumPy makes no array of both."""
    if isinstance(given, list):
        return [_encoded(item) for item in given]
    return _utf8(given) if isinstance(given, str) else given


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError:
        raise Misfit("holds a text that is not UTF-8", 'write {"b64": …}') from None


def _rank(given: Any) -> int:
    """Return the number of dimensions of an array or of nested lists, by their first elements."""
    if isinstance(given, np.ndarray):
        return given.ndim
    rank = 0
    while isinstance(given, list):
        rank, given = rank + 1, given[0] if given else None
    return rank


# tf.Examples


def _columns(given: Mapping[str, Any], known: Mapping[str, Facts]) -> np.ndarray:
    """Return tf.Examples of columns: each feature's values, or the file that holds them, as in the samples of a config."""
    columns = {}
    for name, column in given.items():
        try:
            _check_name(name, known, given)
            columns[name] = _column(column, known.get(name))
        except Misfit as cause:
            raise Misfit(f"feature '{name}': {cause.what}", cause.do) from None
    sizes = {name: len(column) for name, column in columns.items()}
    if len(set(sizes.values())) > 1:
        counts = ", ".join(f"{name} has {size}" for name, size in sizes.items())
        raise Misfit(f"has features of different numbers of rows: {counts}", "give each as many")
    return tfexample.encode(columns)


def _check_name(name: str, known: Mapping[str, Facts], given: Collection[str]) -> None:
    """Refuse a feature that stands for another by mistake; any other that the graph does not parse is ignored by it."""
    if name not in known and (near := nearest(name, known.keys() - set(given))):
        raise Misfit("the graph does not parse it", did_you_mean(name, near))


def _column(given: Any, facts: Facts | None) -> np.ndarray:
    if isinstance(given, str) and _is_address(given):
        given = array(given)
    facts = facts or Facts()
    shape = facts.shape or (None if _rank(given) > 1 else (None,))
    return _fitted(given, Facts(facts.dtype or _feature_dtype(given), shape))


def _feature_dtype(given: Any) -> str:
    """Return the dtype of a feature of which nothing is known."""
    if isinstance(given, np.ndarray):
        return {"i": "int64", "u": "int64", "f": "float32"}.get(given.dtype.kind, "string")
    while isinstance(given, list):
        given = given[0] if given else None
    return "string" if isinstance(given, str | bytes) else "float32" if isinstance(given, float) else "int64"


def examples(rows: Sequence[Mapping[str, Any]], context: Mapping[str, Any], known: Mapping[str, Facts]) -> np.ndarray:
    """Return serialized tf.Examples [N] as REST makes them: a feature is a value or a list, and its JSON type gives its dtype.

    Args:
        context: features of all rows.
        known: the features that are parsed; empty where that is not known.

    Raises:
        Misfit: a feature has no such type, is not parsed, or is parsed as another dtype.
    """
    encoded = []
    for number, row in enumerate(rows):
        example = tfexample.Example()
        merged = {**context, **row}
        for name, given in merged.items():
            try:
                _check_name(name, known, merged)
                _add(example.features.feature[name], given, known.get(name))
            except Misfit as cause:
                raise Misfit(f"row {number}: feature '{name}': {cause.what}", cause.do) from None
        encoded.append(example.SerializeToString(deterministic=True))
    return objects(encoded)


_LISTS: Mapping[type, tuple[str, str]] = {
    int: ("int64_list", "int64"),
    float: ("float_list", "float32"),
    str: ("bytes_list", "string"),
    bytes: ("bytes_list", "string"),
}


def _add(feature: Any, given: Any, facts: Facts | None) -> None:
    values = given if isinstance(given, list) else [given]
    kinds = {_LISTS.get(type(one)) for one in values}
    if None in kinds:
        wrong = next(one for one in values if type(one) not in _LISTS)
        raise Misfit(f"holds {shortened(json.dumps(wrong, default=str), 40)}", "write numbers or texts, or one list of them")
    if len(kinds) > 1:
        raise Misfit("holds values of several types", "write all of them as floats: 0.0, not 0")
    for kind in kinds:
        name, dtype = kind or ("", "")
        if facts is not None and facts.dtype not in (None, dtype):
            do = "write 0.0, not 0: REST takes whole numbers for int64" if facts.dtype == "float32" else f"write {facts.dtype}"
            raise Misfit(f"is {dtype}, and the graph parses {facts.dtype}", do)
        try:
            getattr(feature, name).value.extend(_utf8(one) if isinstance(one, str) else one for one in values)
        except ValueError:
            raise Misfit(f"holds a number that is no {dtype}") from None
