"""The contract between a version and its clients: signatures, examples, digest. All clients are generated from it alone.

It is read from the version's manifest, which anyone can have made: nothing in it is used before it was checked here, for it
becomes code.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from exportkit.checkpoint import tensorproto
from exportkit.errors import ConfigError, Problem, StepFailed
from exportkit.metagraph import SAVED_MODELS
from exportkit.modelserver import loaded
from exportkit.printable import printable
from exportkit.protos import DTYPE_NAMES
from exportkit.spec import METHODS
from exportkit.version.claim import numbers
from exportkit.version.identity import file_digest
from exportkit.version.manifest import FILE, read_manifest
from exportkit.version.nearby import meant

SCHEMA = 1
_LONGEST = 200  # characters of a name
_MOST_DIMENSIONS = 254  # of a tensor (tensor_shape.h)
_OUTPUTS = {"classify": {"classes": "string", "scores": "float32"}, "regress": {"outputs": "float32"}}

Shape = tuple[int | None, ...] | None


@dataclass(frozen=True)
class Feature:
    """A feature of tf.Examples: its dtype (float32, int64 or string) and the shape of its values in one example."""

    dtype: str
    shape: tuple[int, ...]
    required: bool


@dataclass(frozen=True)
class Tensor:
    """An input or output of a signature.

    Attributes:
        dtype: the name of its dtype, as ``float32`` or ``string``.
        shape: None for a size that may vary; None as a whole where not even the rank is known.
        features: name → feature, of an input that holds serialized tf.Examples; empty where they are not known.
    """

    dtype: str
    shape: Shape
    features: Mapping[str, Feature]


@dataclass(frozen=True)
class Example:
    """A recorded request and the version's answer, as arrays by alias; strings are bytes.

    Attributes:
        outputs: None where two runs differed, or where only the digest of an output was recorded.
    """

    inputs: Mapping[str, np.ndarray]
    outputs: Mapping[str, np.ndarray] | None


@dataclass(frozen=True)
class Signature:
    """A signature: its method (``predict``, ``classify`` or ``regress``), inputs and outputs by alias.

    Attributes:
        by_rows: whether the first axis of every input and output is the row of a batch.
        example: None where no sample was recorded, or only the digest of one of its inputs.
    """

    method: str
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    by_rows: bool
    example: Example | None


@dataclass(frozen=True)
class Contract:
    """What clients know of a version.

    Attributes:
        model: the name by which servers know the model.
        version: its number; None where its directory is not called after one.
        digest: the SHA-256 of its manifest's file, which holds the digests of all its other files.
        signatures: key → signature, those of the meta graph that servers load by default.
    """

    model: str
    version: int | None
    digest: str
    signatures: Mapping[str, Signature]

    def to_json(self) -> dict[str, Any]:
        """Return the content of ``contract.json``."""
        return {
            "generator": "exportkit client",
            "schema": SCHEMA,
            "model": self.model,
            "version": self.version,
            "digest": self.digest,
            "signatures": {key: _signature_json(signature) for key, signature in self.signatures.items()},
        }


def read_contract(path: Path) -> Contract:
    """Return the contract of a version.

    Args:
        path: the version's directory, or a base path, whose newest version is taken.

    Raises:
        ConfigError: there is no version, or it has no manifest.
        StepFailed: its manifest was changed, or states what cannot be.
    """
    directory = version_directory(path)
    manifest = read_manifest(directory)
    if manifest is None:
        do = "export it with the step manifest, which post has by default"
        raise ConfigError(Problem(str(directory), f"has no manifest ({FILE.as_posix()}), from which clients are made", do))
    return from_manifest(manifest, _number(directory), file_digest(directory / FILE))


def version_directory(path: Path) -> Path:
    """Return the version at `path`: `path` itself, or the newest one where it is a base path.

    Raises:
        ConfigError: there is none.
    """
    if _is_version(path):
        return path
    for number in sorted(numbers(path), reverse=True):
        if _is_version(path / str(number)):
            return path / str(number)
    what = "has no version" if path.is_dir() else "is no directory" if path.exists() else "does not exist"
    do = meant(path) or "name a version's directory, or a base path that holds versions"
    raise ConfigError(Problem(str(path), what, do))


def _is_version(path: Path) -> bool:
    return any((path / name).is_file() for name in SAVED_MODELS)


def _number(directory: Path) -> int | None:
    name = os.path.basename(os.path.abspath(directory))  # a link has the number under which it is served
    return int(name) if re.fullmatch("[0-9]{1,18}", name) else None


def from_manifest(manifest: Mapping[str, Any], version: int | None, digest: str) -> Contract:
    """Return the contract that a manifest states.

    Raises:
        StepFailed: it does not state one, or states what cannot be.
    """
    model, meta_graphs = manifest.get("name"), manifest.get("meta_graphs")
    if not isinstance(model, str) or not _is_name(model):
        _refuse(f"has {_short(model)} as the model's name")
    if not isinstance(meta_graphs, list) or not meta_graphs:
        _refuse("lists no meta graphs")
    by_key = {str(_item(one, "key", str)): one for one in meta_graphs}
    served = by_key[loaded({key: _texts(one) for key, one in by_key.items()})]
    bindings = manifest.get("config", {}).get("bindings")
    samples = manifest.get("samples", {})
    signatures = {}
    for one in _item(served, "signatures", list):
        key = _item(one, "key", str)
        if not _is_name(key) or key in signatures:
            _refuse(f"has {_short(key)} as the key of a signature" + " twice" * (key in signatures))
        signatures[key] = _signature(key, one, bindings if isinstance(bindings, dict) else {}, samples.get(key))
    if not signatures:
        _refuse("lists no signatures")
    return Contract(model, version, digest, signatures)


def _signature(key: str, stated: Mapping[str, Any], bindings: Mapping[str, Any], sample: Any) -> Signature:
    method = _item(stated, "method", str)
    inputs, outputs = (_tensors(key, _item(stated, side, list), bindings) for side in ("inputs", "outputs"))
    if problem := next(_misfits(method, inputs, outputs), None):
        _refuse(f"states a signature {_short(key)} {problem}")
    by_rows = stated.get("batching") == "yes"
    return Signature(method, inputs, outputs, by_rows, None if sample is None else _example(key, sample, inputs, outputs))


def _misfits(method: str, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Iterator[str]:
    """Yield how a signature breaks the rules of its method (of the server: classifier.cc, regressor.cc)."""
    if method not in METHODS:
        yield f"of the method {_short(method)}"
    if not outputs:
        yield "without outputs"
    if method in _OUTPUTS:
        if {alias: tensor.dtype for alias, tensor in inputs.items()} != {"inputs": "string"}:
            yield f"of method {method} whose inputs are not serialized tf.Examples alone"
        if not {alias: tensor.dtype for alias, tensor in outputs.items()}.items() <= _OUTPUTS[method].items():
            yield f"of method {method} with outputs that it cannot have"


def _tensors(key: str, stated: Sequence[Any], bindings: Mapping[str, Any]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for one in stated:
        alias, dtype, shape = _item(one, "alias", str), _item(one, "dtype", str), one.get("shape")
        if not _is_name(alias) or alias in found:
            _refuse(f"has {_short(alias)} as an alias of {_short(key)}" + " twice" * (alias in found))
        if dtype not in DTYPE_NAMES:
            _refuse(f"has {_short(dtype)} as the dtype of {_short(alias)}")
        if not _is_shape(shape, (int, type(None))):
            _refuse(f"has {_short(shape)} as the shape of {_short(alias)}")
        features = _features(alias, bindings.get(str(one.get("binding"))))
        found[alias] = Tensor(dtype, None if shape is None else tuple(shape), features)
    return dict(sorted(found.items()))


def _features(alias: str, binding: Any) -> dict[str, Feature]:
    """Return the features that a `parse_example` binding takes; none of any other."""
    stated = binding.get("parse_example") if isinstance(binding, dict) else None
    found = {}
    for name, one in stated.items() if isinstance(stated, dict) else ():
        dtype, shape = _item(one, "dtype", str), one.get("shape", [])
        if (
            not _is_name(name)
            or dtype not in ("float32", "int64", "string")
            or not ((shape and _is_shape(shape, (int,))) or shape == [])
        ):
            _refuse(f"has a feature {_short(name)} of {_short(alias)} that no tf.Example can have")
        found[name] = Feature(dtype, tuple(shape), one.get("default") is None)
    return found


def _example(key: str, sample: Any, inputs: Mapping[str, Tensor], outputs: Mapping[str, Tensor]) -> Example | None:
    """Return a recorded sample as arrays (`exportkit.version.manifest_rules` checked that it is made of such)."""
    asked = _arrays(key, sample["inputs"], inputs)
    answered = None if sample["outputs"] is None else _arrays(key, sample["outputs"], outputs)
    return None if asked is None else Example(asked, answered)


def _arrays(key: str, recorded: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> dict[str, np.ndarray] | None:
    if {alias: one["dtype"] for alias, one in recorded.items()} != {alias: tensor.dtype for alias, tensor in tensors.items()}:
        _refuse(f"has a sample of {_short(key)} that is not of its tensors")
    try:
        arrays = {alias: tensorproto.from_json(one) for alias, one in recorded.items()}
        found = {alias: array for alias, array in arrays.items() if array is not None}
        sound = all(list(array.shape) == recorded[alias]["shape"] for alias, array in found.items())
    except (ValueError, TypeError, OverflowError, AttributeError):
        sound = False
    if not sound:
        _refuse(f"has a sample of {_short(key)} whose values cannot be read")
    return found if len(found) == len(arrays) else None


def _item(stated: Any, key: str, wanted: type) -> Any:
    if not isinstance(stated, dict) or not isinstance(stated.get(key), wanted):
        _refuse(f"states a part of its signatures without its {key}")
    return stated[key]


def _texts(meta_graph: Mapping[str, Any]) -> list[str]:
    tags = _item(meta_graph, "tags", list)
    return [tag for tag in tags if isinstance(tag, str)]


def _is_name(text: str) -> bool:
    """Return whether a name can be in a comment of any language: nothing in it ends a line or rewrites it."""
    return 0 < len(text) <= _LONGEST and text.isprintable()


def _is_shape(shape: Any, sizes: tuple[type, ...]) -> bool:
    if shape is None:
        return True
    whole = isinstance(shape, list) and len(shape) <= _MOST_DIMENSIONS
    return whole and all(type(size) in sizes and (size is None or 0 <= size < 1 << 63) for size in shape)


def _short(value: Any) -> str:
    text = f"'{printable(value)}'" if isinstance(value, str) else repr(value)
    return text if len(text) <= 80 else f"{text[:79]}…"


def _refuse(what: str) -> NoReturn:
    raise StepFailed(Problem(FILE.as_posix(), what, "take the version from where it was published, or export it again"))


def _signature_json(signature: Signature) -> dict[str, Any]:
    example = signature.example
    return {
        "method": signature.method,
        "inputs": {alias: _tensor_json(tensor) for alias, tensor in signature.inputs.items()},
        "outputs": {alias: _tensor_json(tensor) for alias, tensor in signature.outputs.items()},
        "by_rows": signature.by_rows,
        "example": None if example is None else {"inputs": _values(example.inputs), "outputs": _values(example.outputs)},
    }


def _tensor_json(tensor: Tensor) -> dict[str, Any]:
    features = {
        name: {"dtype": one.dtype, "shape": list(one.shape), "required": one.required} for name, one in tensor.features.items()
    }
    stated = {"dtype": tensor.dtype, "shape": None if tensor.shape is None else list(tensor.shape)}
    return {**stated, "features": features} if features else stated


def _values(arrays: Mapping[str, np.ndarray] | None) -> dict[str, Any] | None:
    return None if arrays is None else {alias: tensorproto.to_json(array) for alias, array in arrays.items()}
