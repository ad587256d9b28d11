"""Models that others exported, for `inspect`: SavedModels, models of Keras, frozen graphs; and a config that exports them."""

import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exportkit import metagraph
from exportkit.checkpoint import formats, resolve
from exportkit.contract import Preview
from exportkit.errors import BindingError, Problem, WeightsError, some
from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import Shape
from exportkit.spec import Signature

_PARSED = ("float32", "int64", "string")  # the dtypes that a feature of a tf.Example can have
_NAMES = re.compile(r"[A-Za-z0-9_./ -]*")  # that a binding can have; others are changed, and cannot be referred to
_GRAPH_FILES = (".pb", ".pbtxt", ".graphdef")


@dataclass
class Foreign:
    """A model that somebody exported.

    Attributes:
        title: a description for the user.
        kind: the source that takes it.
        source: the keys of that source.
        name: a path that the model's name can be made from.
        prefix: of its variables; None where it has none.
        graphs: tags → graph.
        kept: key → signature that an export keeps; its bindings are names that the source offers.
        tensors: these names → tensors.
        needed: the checkpoint keys that the signatures need; None where there are no signatures.
        notes: what is in the way, and signatures that are not kept.
        can_be_exported: whether nothing is in the way.
    """

    title: str
    kind: str
    source: Mapping[str, Any]
    name: Path
    prefix: str | None = None
    graphs: Mapping[str, Graph] = field(default_factory=dict)
    kept: Mapping[str, Signature] = field(default_factory=dict)
    tensors: Mapping[str, str] = field(default_factory=dict)
    needed: Collection[str] | None = None
    notes: Sequence[Problem] = ()
    can_be_exported: bool = True


def read_foreign(path: str, custom_objects: Sequence[str] = ()) -> Foreign | None:
    """Read a model that somebody exported; return None where `path` names no such thing.

    Args:
        custom_objects: references to the user's classes in a model of Keras, ``package.module:Class``.

    Raises:
        ExportKitError: it is one, and cannot be read.
    """
    place = Path(path)
    if place.name in metagraph.SAVED_MODELS or _holds_saved_model(place):
        return _saved_model(path, place)
    if place.is_dir():
        _check_directory(path)
    if not place.is_file():
        return None
    try:
        kind = formats.kind_of(path)
    except OSError as error:
        raise BindingError(Problem(path, f"cannot be read: {error.strerror}")) from None
    if kind == "keras":
        return _keras(path, place, custom_objects)
    if kind == "graph" or (place.suffix in _GRAPH_FILES and kind is None):
        return _frozen(path, place)
    if kind is not None:
        raise BindingError(Problem(path, *formats.describe_model(kind)))
    return None


def _holds_saved_model(place: Path) -> bool:
    """Return whether `place` is the directory of a SavedModel, or of versions."""
    if not place.is_dir():
        return False
    if any(os.path.lexists(place / name) for name in metagraph.SAVED_MODELS):
        return True
    return any(name.isdecimal() and formats.is_saved_model(place / name) for name in os.listdir(place))


def _check_directory(path: str) -> None:
    """Raise what a directory is that holds neither a checkpoint nor a SavedModel."""
    from exportkit.metagraph.saved_model import locate

    try:
        resolve(path)
    except WeightsError:
        if formats.describe_directory(path) is not None or os.path.lexists(os.path.join(path, "checkpoint")):
            raise
        try:
            locate(path)
        except BindingError as error:
            what, _, held = error.problems[0].what.rpartition("; ")
            if not what.startswith("is no SavedModel"):
                raise
            do = "name the directory of one, or a file: a .meta, .keras, .h5 or frozen .pb"
            raise BindingError(Problem(path, f"holds neither a checkpoint nor a SavedModel; {held}", do)) from None


def _saved_model(path: str, place: Path) -> Foreign:
    from exportkit.metagraph.saved_model import locate
    from exportkit.sources.saved_model import SavedModelSource

    directory = place.parent if place.name in metagraph.SAVED_MODELS else place
    directory = locate(directory) if _is_base(directory) else directory
    graphs = {", ".join(meta.meta_info_def.tags): meta for meta in metagraph.read_saved_model(directory).meta_graphs}
    chosen = "serve" if "serve" in graphs else next(iter(graphs))
    tags = list(graphs[chosen].meta_info_def.tags)
    preview = SavedModelSource(saved_model=directory, tags=tags).preview()
    source = {"saved_model": os.path.normpath(path if place.is_dir() else directory)} | (
        {"tags": tags} if tags != ["serve"] else {}
    )
    return _of_preview(preview, Foreign(f"{directory}: a SavedModel", "saved_model", source, directory), graphs, chosen)


def _is_base(directory: Path) -> bool:
    return not any(os.path.lexists(directory / name) for name in metagraph.SAVED_MODELS)


def _keras(path: str, place: Path, custom_objects: Sequence[str]) -> Foreign:
    from exportkit.sources import keras

    source = keras.KerasSource(model=place.absolute(), custom_objects=list(custom_objects))
    preview = source.preview()
    if preview.meta_graph is None:
        raise BindingError(*(Problem("", p.what, p.do) for p in preview.problems))
    keys = {"model": path} | ({"custom_objects": list(custom_objects)} if custom_objects else {})
    found = Foreign(f"{path}: a model of Keras", "keras", keys, place)
    read = _of_preview(preview, found, {"serve": preview.meta_graph}, "serve")
    if {"serve", "serving_default"} <= read.kept.keys():
        read.source = {**keys, "signatures": ["serving_default"]}
        read.kept = {"serving_default": read.kept["serving_default"]}
    return read


def _of_preview(preview: Preview, found: Foreign, metas: Mapping[str, Any], chosen: str) -> Foreign:
    """Complete a description with what a source has found."""
    found.graphs = {tags: Graph(meta) for tags, meta in metas.items()}
    if preview.meta_graph is None:
        found.notes, found.can_be_exported = list(preview.problems), False
        return found
    graph = found.graphs[chosen] = Graph(preview.meta_graph)
    found.graphs = {chosen: graph, **found.graphs}
    found.prefix, found.kept = preview.checkpoint, dict(preview.signatures)
    found.tensors = {name: str(tensor) for name, tensor in (preview.tensors or {}).items()}
    found.can_be_exported = not preview.problems
    found.notes = [*preview.problems, *(Problem("", warning) for warning in preview.warnings)]
    if found.kept:
        found.needed = {v.full_name for v in needed(found, graph).variables}
    return found


def needed(found: Foreign, graph: Graph) -> metagraph.Extent:
    """Return what the kept signatures need."""
    inputs = [found.tensors[ref] for signature in found.kept.values() for ref in signature.inputs.values()]
    outputs = [found.tensors[ref] for signature in found.kept.values() for ref in signature.outputs.values()]
    return metagraph.extent(graph, outputs, inputs)


def _frozen(path: str, place: Path) -> Foreign:
    from exportkit.sources.frozen_graph import with_variables

    graph = Graph(metagraph.read_graph_def(place))
    found = Foreign(f"{path}: a frozen graph", "frozen_graph", {"graph": path}, place, graphs={"": graph})
    if (problem := with_variables(path, graph)) is not None:
        found.title = f"{path}: a graph alone, with variables"
        found.notes, found.can_be_exported = [problem], False
    return found


# The config


def config(name: str, found: Foreign, to_yaml: Any) -> str:
    """Return the text of ``conf/model/NAME.yaml`` that exports the model's signatures as they are."""
    graph = next(iter(found.graphs.values()))
    return "\n".join(
        [
            "# @package _global_",
            f"defaults: [override /source: {found.kind}]",
            f"name: {to_yaml(name)}",
            f"source: {to_yaml(dict(found.source))}",
            f"# Its signatures are exported as they are: {some(list(found.kept), 8)}",
            *_more(found, graph, to_yaml),
        ]
    )


def _more(found: Foreign, graph: Graph, to_yaml: Any) -> Iterator[str]:
    """Yield, as comments, a signature for classify or regress requests, where the model has none and one can be made."""
    if any(signature.method != "predict" for signature in found.kept.values()) or not _NAMES.fullmatch(" ".join(found.tensors)):
        return
    made = next(filter(None, (_of_examples(found, graph, signature) for signature in found.kept.values())), None)
    bindings: dict[str, Any] = {}
    if made is None:
        key = "serving_default" if "serving_default" in found.kept else next(iter(found.kept))
        made, bindings = _with_examples(found, graph, found.kept[key])
    if made is None:
        return
    method = made["method"]
    yield f"# Their tensors can serve in more signatures, as in one for {method} requests, which carry tf.Examples:"
    if bindings:
        yield "# bindings:"
        yield from (f"#   {name}: {to_yaml(binding)}" for name, binding in bindings.items())
    yield "# signatures:"
    yield f"#   {method if method not in found.kept else f'{method}_examples'}: {to_yaml(made)}"


def _of_examples(found: Foreign, graph: Graph, signature: Signature) -> dict[str, Any] | None:
    """Return a signature that says predict and is written as one for tf.Examples, with its method; None for any other.

    TensorFlow 2 saves every signature as one for predict requests, whatever it was written for.
    """
    methods = {("outputs",): "regress", ("scores",): "classify", ("classes",): "classify", ("classes", "scores"): "classify"}
    method = methods.get(tuple(sorted(signature.outputs)))
    if method is None or list(signature.inputs) != ["inputs"]:
        return None
    if _facts(graph, found.tensors[signature.inputs["inputs"]]) != ("string", (None,)):
        return None
    return {"method": method, "inputs": dict(signature.inputs), "outputs": dict(signature.outputs)}


def _with_examples(found: Foreign, graph: Graph, signature: Signature) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return a signature that answers what `signature` does to tf.Examples, None where there can be none; and its bindings."""
    inputs = {alias: _facts(graph, found.tensors[ref]) for alias, ref in signature.inputs.items()}
    method, output = _answer(graph, found, signature)
    if not inputs or not output or not all(_can_be_parsed(*facts) for facts in inputs.values()):
        return None, {}
    features = {
        alias: {"dtype": dtype, "shape": list(shape or ())[1:], "to": signature.inputs[alias]}
        for alias, (dtype, shape) in inputs.items()
    }
    side = "scores" if method == "classify" else "outputs"
    made = {"method": method, "inputs": {"inputs": "examples"}, "outputs": {side: signature.outputs[output]}}
    return made, {"examples": {"parse_example": features}}


def _answer(graph: Graph, found: Foreign, signature: Signature) -> tuple[str, str]:
    """Return the method that fits an output, and its alias: scores ``[N, k]`` or a value ``[N]`` or ``[N, 1]``."""
    for alias, ref in signature.outputs.items():
        dtype, shape = _facts(graph, found.tensors[ref])
        if dtype == "float32" and shape is not None and len(shape) in (1, 2):
            return ("regress" if shape[1:] in ((), (1,)) else "classify"), alias
    return "", ""


def _facts(graph: Graph, tensor: str) -> tuple[str | None, Shape]:
    return graph.dtype(tensor), graph.shape(tensor)


def _can_be_parsed(dtype: str | None, shape: Shape) -> bool:
    return dtype in _PARSED and bool(shape) and shape is not None and shape[0] is None and None not in shape[1:]
