"""The free-form leaves of a config, read into their spec classes: bindings, signatures, meta graphs and samples."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from exportkit.errors import did_you_mean
from exportkit.fields import Reader
from exportkit.protos import DTYPE_NAMES
from exportkit.spec import (
    BINDINGS,
    METHODS,
    Binding,
    Constant,
    Examples,
    File,
    Literal,
    MetaGraph,
    ParseExample,
    Random,
    Sample,
    Signature,
)

_FEATURE_DTYPES = ("float32", "int64", "string")  # what a tf.Example holds (tensorflow/core/example/feature.proto)
_SAMPLE_FILES = (".npz", ".npy", ".tfrecord")


def bindings(data: Any, reader: Reader) -> dict[str, Binding | None]:
    """All bindings; one that is broken is None, and still offers its name."""
    return {name: _binding(value, reader, f"bindings.{name}") for name, value in _items(data, reader, "bindings")}


def _items(data: Any, reader: Reader, where: str) -> list[tuple[str, Any]]:
    if data is not None and not isinstance(data, Mapping):
        reader.problem(where, "is not a mapping", "write {NAME: …}")
        return []
    return [(str(name), value) for name, value in (data or {}).items()]


def _binding(value: Any, reader: Reader, where: str) -> Binding | None:
    value = {"tensor": value} if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        return reader.problem(where, "is neither a tensor's name nor a mapping", f"write one of {', '.join(BINDINGS)}")
    operations = [key for key in value if key in BINDINGS]
    if len(operations) != 1:
        near = next((n for n in (did_you_mean(str(k), BINDINGS) for k in value) if n.startswith("did")), "")
        what = f"has {' and '.join(operations)}" if operations else "has no operation"
        return reader.problem(where, what, near or f"write exactly one of {', '.join(BINDINGS)}")
    binding = reader.read(BINDINGS[operations[0]], value, where)
    return _sound(binding, reader, where)


def _sound(binding: Binding | None, reader: Reader, where: str) -> Binding | None:
    """What types cannot say: names of dtypes, a value that is there, a vocabulary that exists."""
    before = len(reader.problems)
    if isinstance(binding, ParseExample):
        for name, feature in binding.parse_example.items():
            _dtype(feature.dtype, _FEATURE_DTYPES, reader, f"{where}.parse_example.{name}.dtype")
    if isinstance(binding, Constant) and binding.constant is None:
        reader.problem(f"{where}.constant", "is null", "write the value to bake")
    if getattr(binding, "dtype", None) is not None:
        _dtype(binding.dtype, DTYPE_NAMES, reader, f"{where}.dtype")
    if hasattr(binding, "vocabulary") and not binding.vocabulary.is_file():
        reader.problem(f"{where}.vocabulary", f"there is no file {binding.vocabulary}", _near_file(binding.vocabulary))
    return None if len(reader.problems) > before else binding


def _dtype(name: str, known: Any, reader: Reader, where: str) -> None:
    if name not in known:
        reader.problem(
            where,
            f"there is no dtype '{name}'" + (" in a tf.Example" if name in DTYPE_NAMES else ""),
            did_you_mean(name, known),
        )


def _near_file(path: Path) -> str:
    names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    near = did_you_mean(path.name, names)
    return near or "paths are relative to where exportkit was started"


def signatures(data: Any, reader: Reader) -> dict[str, Signature | None]:
    return {name: _signature(value, reader, f"signatures.{name}") for name, value in _items(data, reader, "signatures")}


def _signature(value: Any, reader: Reader, where: str) -> Signature | None:
    signature = reader.read(Signature, value, where)
    if signature is not None and signature.method not in METHODS:
        return reader.problem(
            f"{where}.method", f"there is no method '{signature.method}'", did_you_mean(signature.method, METHODS)
        )
    return signature


def meta_graphs(data: Any, reader: Reader, signature_keys: Mapping[str, Any], constants: list[str]) -> dict[str, MetaGraph]:
    """All meta graphs that can be read; their tags must differ, and what they name must be there."""
    found: dict[str, MetaGraph] = {}
    tags: dict[frozenset[str], str] = {}
    for name, value in _items(data, reader, "meta_graphs"):
        where = f"meta_graphs.{name}"
        meta_graph = reader.read(MetaGraph, value, where)
        if meta_graph is None:
            continue
        for i, key in enumerate(meta_graph.signatures or []):
            if key not in signature_keys:
                reader.problem(f"{where}.signatures[{i}]", f"there is no signature '{key}'", did_you_mean(key, signature_keys))
        for key in meta_graph.constants:
            if key not in constants:
                reader.problem(f"{where}.constants.{key}", "there is no such constant binding", did_you_mean(key, constants))
        twin = tags.setdefault(frozenset(meta_graph.tags), name)
        if twin != name:
            reader.problem(
                f"{where}.tags", f"are those of meta graph '{twin}'", "a loader finds a meta graph by its tags alone"
            )
        if not meta_graph.tags:
            reader.problem(f"{where}.tags", "are empty", "write [serve]")
        found[name] = meta_graph
    if not found and not reader.problems:
        reader.problem("meta_graphs", "is empty", "write {serving: {tags: [serve]}}")
    return found


def samples(data: Any, reader: Reader, signature_map: Mapping[str, Signature | None]) -> dict[str, dict[str, Sample]]:
    """Signature → alias → sample; both must be there."""
    found: dict[str, dict[str, Sample]] = {}
    for key, values in _items(data, reader, "samples"):
        where = f"samples.{key}"
        if key not in signature_map:
            reader.problem(where, f"there is no signature '{key}'", did_you_mean(key, signature_map))
            continue
        inputs = signature_map[key].inputs if signature_map[key] else None
        found[key] = {}
        for alias, value in _items(values, reader, where):
            if inputs is not None and alias not in inputs:
                reader.problem(f"{where}.{alias}", f"signature '{key}' has no input '{alias}'", did_you_mean(alias, inputs))
            found[key][alias] = _sample(value, reader, f"{where}.{alias}")
        missing = [alias for alias in inputs or () if alias not in found[key]]
        if missing:
            reader.problem(where, f"gives no value for {', '.join(missing)}", "a signature is run on all of its inputs")
    return found


def _sample(value: Any, reader: Reader, where: str) -> Sample | None:
    if isinstance(value, Mapping) and "random" in value:
        return reader.read(Random, value["random"] or {}, f"{where}.random")
    if isinstance(value, Mapping) and "examples" in value:
        features = dict(_items(value["examples"], reader, f"{where}.examples"))
        return Examples(features={name: _sample(v, reader, f"{where}.examples.{name}") for name, v in features.items()})
    if isinstance(value, Mapping):
        return reader.problem(where, "is neither values nor a file", "write values, file[:array], {random: …} or {examples: …}")
    return _file(value, reader, where) if isinstance(value, str) else Literal(value=value)


def _file(value: str, reader: Reader, where: str) -> Sample | None:
    name, _, array = value.partition(":")
    if not name.endswith(_SAMPLE_FILES):
        return Literal(value=value)
    path = reader.path(name)
    if not path.is_file():
        return reader.problem(where, f"there is no file {path}", _near_file(path))
    if name.endswith(".npz") and not array:
        return reader.problem(where, f"does not say which array of {name}", f"write {name}:ARRAY")
    return File(path=path, array=array or None)
