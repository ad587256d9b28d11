"""The free-form leaves of a config, read into their spec classes: bindings, signatures, meta graphs and samples."""

import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from exportkit import files
from exportkit.checkpoint import npy
from exportkit.config.reader import Reader, optional_keys
from exportkit.errors import ExportKitError, PluginError, Problem, brief, did_you_mean, nearest
from exportkit.protos import DTYPE_NAMES
from exportkit.spec import (
    BINDINGS,
    METHODS,
    Constant,
    Examples,
    File,
    Literal,
    MetaGraph,
    Placeholder,
    Random,
    Replacement,
    Sample,
    Signature,
    Tensor,
)

_SAMPLE_FILES = (".npz", ".npy", ".tfrecord")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_/-]*")  # it names operations, and a dot is for the parts of a top_k
_DEVICE = re.compile(r"(/(job|replica|task):[^/:]+)*/(device:)?(CPU|GPU|TPU):\d+", re.IGNORECASE)
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://.*\.(npz|npy|tfrecord))(:.*)?")
_LFS = b"version https://git-lfs.github.com/spec/"


def bindings(data: Any, reader: Reader, operations: Mapping[str, type]) -> dict[str, Any]:
    """Return all bindings; one that is broken is None, and still offers its name.

    Args:
        operations: config key → class of those bindings that are computed from others, or feed others.
    """
    kinds = {**BINDINGS, **operations}
    found = {name: _binding(value, reader, f"bindings.{name}", kinds) for name, value in _items(data, reader, "bindings")}
    for name in found:
        if not _NAME.fullmatch(name):
            do = "write letters, digits, _, - and /, a letter or digit first"
            reader.problem(f"bindings.{name}", f"'{name}' cannot be a binding's name", do)
    return found


def _items(data: Any, reader: Reader, where: str) -> list[tuple[str, Any]]:
    return list((reader.convert(dict[str, Any], {} if data is None else data, where) or {}).items())


def _entries(data: Any, reader: Reader, where: str, cls: type) -> list[tuple[str, Any]]:
    """Return the entries at `where`; report as misspelt one with optional keys only whose name is close to another's."""
    items = dict(_items(data, reader, where))
    for name, value in list(items.items()):
        others = [other for other in items if other != name]
        if isinstance(value, Mapping) and value and value.keys() <= optional_keys(cls) and nearest(name, others):
            reader.problem(f"{where}.{name}", f"has only {', '.join(value)}", did_you_mean(name, others))
            del items[name]
    return list(items.items())


def _binding(value: Any, reader: Reader, where: str, kinds: Mapping[str, type]) -> Any:
    value = {"tensor": value} if isinstance(value, str) else value
    if not isinstance(value, Mapping):
        return reader.problem(where, "is neither a tensor's name nor a mapping", f"write one of {', '.join(kinds)}")
    operations = [key for key in value if key in kinds]
    if not operations and (misspelt := [key for key in map(str, value) if nearest(key, kinds)]):
        return reader.problem(f"{where}.{misspelt[0]}", "no such key", did_you_mean(misspelt[0], kinds))
    if len(operations) != 1:
        what = f"has {' and '.join(operations)}" if operations else "has no operation"
        return reader.problem(where, what, f"write exactly one of {', '.join(kinds)}")
    replaces = operations == ["tensor"] and "replaces" in value
    binding = reader.read(Replacement if replaces else kinds[operations[0]], value, where)
    return _sound(binding, reader, where)


def _sound(binding: Any, reader: Reader, where: str) -> Any:
    """Check what types cannot express: names of dtypes, a value that is set, a vocabulary that exists."""
    before = len(reader.problems)
    for key in ("tensor", "placeholder", "replaces"):
        if getattr(binding, key, None) == "":
            reader.problem(f"{where}.{key}", "is empty", "write a tensor's name, op:0")
    reader.problems += (problem.under(where) for problem in _unsound(binding, where))
    if isinstance(binding, Constant) and binding.constant is None:
        reader.problem(f"{where}.constant", "is null", "write the value to bake")
    if isinstance(binding, Tensor | Placeholder):
        if binding.dtype is not None:
            _dtype(binding.dtype, DTYPE_NAMES, reader, f"{where}.dtype")
        _shape(binding.shape, reader, f"{where}.shape", "write null for a size that is not known")
    for key, path in getattr(binding, "files", dict)().items():
        _is_file(path, reader, f"{where}.{key}")
    return None if len(reader.problems) > before else binding


def _unsound(binding: Any, where: str) -> list[Problem]:
    """Return what a feeder says of its keys one by one; nothing of another binding."""
    try:
        return list(getattr(binding, "unsound", tuple)())
    except ExportKitError:
        raise
    except Exception as cause:
        what = f"unsound() of {type(binding).__name__} raised {brief(cause)}"
        raise PluginError(Problem(where, what)) from cause


def _shape(shape: Iterable[int | None] | None, reader: Reader, where: str, do: str) -> None:
    for i, size in enumerate(shape or ()):
        if size is not None and size < 0:
            reader.problem(f"{where}[{i}]", f"is {size}", do)


def _dtype(name: str, known: Any, reader: Reader, where: str) -> bool:
    if name not in known:
        reader.problem(where, f"there is no dtype '{name}'", did_you_mean(name, known))
    return name in known


def _is_file(path: Path, reader: Reader, where: str) -> bool:
    """Return whether a file with content of its own is there; report it otherwise."""
    if not os.path.lexists(path):
        names = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
        near = did_you_mean(path.name, names) if nearest(path.name, names) else ""
        reader.problem(where, f"there is no file {path}", near or "paths are relative to where exportkit was started")
        return False
    try:
        with files.opened(path) as file:
            start = file.read(len(_LFS))
    except OSError as cause:
        reader.problem(where, f"{path} cannot be read: {cause.strerror}", "name another file")
        return False
    if start == _LFS:
        reader.problem(where, f"{path} is a Git LFS pointer, not the file itself", "run git lfs pull")
    if not start:
        reader.problem(where, f"{path} is empty", "name another file")
    return start not in (b"", _LFS)


def signatures(data: Any, reader: Reader) -> dict[str, Signature | None]:
    """Return all signatures; one that is broken is None."""
    entries = _entries(data, reader, "signatures", Signature)
    return {name: _signature(value, reader, f"signatures.{name}") for name, value in entries}


def _signature(value: Any, reader: Reader, where: str) -> Signature | None:
    signature = reader.read(Signature, value, where)
    if where.startswith("signatures.__saved_model_"):
        return reader.problem(where, "TensorFlow keeps such keys for itself", "choose another key")
    if signature is not None and signature.method not in METHODS:
        return reader.problem(
            f"{where}.method", f"there is no method '{signature.method}'", did_you_mean(signature.method, METHODS)
        )
    return signature


def meta_graphs(data: Any, reader: Reader, signature_keys: Mapping[str, Any], constants: list[str]) -> dict[str, MetaGraph]:
    """Return all meta graphs that can be read; report tags that are used twice, and names that do not exist."""
    found: dict[str, MetaGraph] = {}
    tags: dict[frozenset[str], str] = {}
    for name, value in _entries(data, reader, "meta_graphs", MetaGraph):
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
        if meta_graph.signatures == [] and meta_graph.train_op is None:
            reader.problem(
                f"{where}.signatures", "is empty, and there is no train_op", "name one, or leave the key out for all"
            )
        if meta_graph.device is not None and not _DEVICE.fullmatch(meta_graph.device):
            reader.problem(f"{where}.device", f"'{meta_graph.device}' is not a device", "write /device:GPU:0 or the like")
        twin = tags.setdefault(frozenset(meta_graph.tags), name)
        if twin != name:
            reader.problem(
                f"{where}.tags", f"are those of meta graph '{twin}'", "a loader finds a meta graph by its tags alone"
            )
        _tags(meta_graph.tags, reader, f"{where}.tags")
        found[name] = meta_graph
    if data is None or data == {}:
        reader.problem("meta_graphs", "is empty", "write {serving: {tags: [serve]}}")
    return found


def _tags(tags: list[str], reader: Reader, where: str) -> None:
    """Check that a server can be given the tags: with commas between them (``--saved_model_tags``)."""
    if not tags:
        reader.problem(where, "are empty", "write [serve]")
    if wrong := [tag for tag in tags if not tag or "," in tag]:
        parts = dict.fromkeys(part for tag in tags for part in tag.split(",") if part)
        what = f"'{wrong[0]}' cannot be a tag, for a server splits its tags at commas"
        reader.problem(where, what, f"write [{', '.join(parts) or 'serve'}]")


def samples(
    data: Any, reader: Reader, signature_map: Mapping[str, Signature | None], bound: Mapping[str, Any]
) -> dict[str, dict[str, Sample | None]]:
    """Return signature → alias → sample, None for one that is broken; the signature and the alias must exist."""
    found: dict[str, dict[str, Sample | None]] = {}
    for key, values in _items(data, reader, "samples"):
        where = f"samples.{key}"
        if key not in signature_map:
            reader.problem(where, f"there is no signature '{key}'", did_you_mean(key, signature_map))
            continue
        signature = signature_map[key]
        inputs = None if signature is None else signature.inputs
        found[key] = {}
        before = len(reader.problems)
        for alias, value in _items(values, reader, where):
            if inputs is not None and alias not in inputs:
                reader.problem(f"{where}.{alias}", f"signature '{key}' has no input '{alias}'", did_you_mean(alias, inputs))
            sample = found[key][alias] = _sample(value, reader, f"{where}.{alias}")
            if isinstance(sample, Examples) and inputs is not None and alias in inputs:
                _features(sample, inputs[alias], bound, reader, f"{where}.{alias}.examples")
        meant = {near for alias in found[key] if alias not in (inputs or ()) for near in nearest(alias, inputs or ())}
        missing = [alias for alias in inputs or () if alias not in found[key] and alias not in meant]
        if missing and not (len(reader.problems) > before and not found[key]):
            reader.problem(where, f"gives no value for {', '.join(missing)}", "a signature is run on all of its inputs")
    return found


def _features(sample: Examples, ref: str, bound: Mapping[str, Any], reader: Reader, where: str) -> None:
    """Check that the features of written examples are those that the binding parses."""
    parser = bound.get(ref)
    features = getattr(parser, "parse_example", None)
    if features is not None:
        for name in sample.features:
            if name not in features:
                near = did_you_mean(name, features)
                reader.problem(f"{where}.{name}", f"binding '{ref}' parses no feature '{name}'", near)
    elif parser is not None:
        reader.problem(where, f"binding '{ref}' takes no tf.Example", "write values, or file[:array]")


def _sample(value: Any, reader: Reader, where: str) -> Sample | None:
    if value is None:
        return reader.problem(where, "is null", "write values, file[:array], {random: …} or {examples: …}")
    if isinstance(value, Mapping) and set(value) == {"random"}:
        return _random({} if value["random"] is None else value["random"], reader, f"{where}.random")
    if isinstance(value, Mapping) and set(value) == {"examples"}:
        features = dict(_items(value["examples"], reader, f"{where}.examples"))
        return Examples(features={name: _sample(v, reader, f"{where}.examples.{name}") for name, v in features.items()})
    if isinstance(value, Mapping):
        return reader.problem(where, "is neither values nor a file", "write values, file[:array], {random: …} or {examples: …}")
    return _file(value, reader, where) if isinstance(value, str) else Literal(value=value)


def _random(value: Any, reader: Reader, where: str) -> Random | None:
    drawn = reader.read(Random, value, where)
    if drawn is not None and not drawn.low < drawn.high:
        return reader.problem(
            f"{where}.high", f"is {drawn.high}, not above low ({drawn.low})", "values are drawn from [low, high)"
        )
    return drawn


def _file(value: str, reader: Reader, where: str) -> Sample | None:
    if address := _ADDRESS.fullmatch(value):
        return reader.convert(Path, address[1], where)
    name, _, array = value.partition(":")
    if not name.endswith(_SAMPLE_FILES):
        return Literal(value=value)
    path = reader.convert(Path, name, where)
    if path is None or not _is_file(path, reader, where):
        return None
    if name.endswith(".npz"):
        return _array(path, name, array, reader, where)
    return File(path=path)


def _array(path: Path, name: str, array: str, reader: Reader, where: str) -> File | None:
    """Return an array of an .npz file, which is a zip archive of .npy files."""
    try:
        known = npy.names(path)
    except npy.Refused:
        return reader.problem(where, f"{path} is not an .npz file", "write one with numpy.savez")
    except OSError as cause:
        return reader.problem(where, f"{path} cannot be read: {cause.strerror}", "name another file")
    if not array:
        return reader.problem(where, f"does not say which array of {name}", f"write {name}:NAME; {did_you_mean('', known)}")
    if array not in known:
        return reader.problem(where, f"{name} has no array '{array}'", did_you_mean(array, known))
    return File(path=path, array=array)
