"""A SavedModel that somebody exported: found, read, and described by what it holds. Nothing of it is run.

`open_saved_model` is the way in. Its graph is ready for all that takes a training graph (`exportkit.metagraph.adopting`).
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from exportkit import files
from exportkit.checkpoint import Bundle, formats
from exportkit.errors import BindingError, Problem, WeightsError, nearest, some
from exportkit.metagraph.adopting import adopted, asset_files, fill_tables
from exportkit.metagraph.files import SAVED_MODELS, read_saved_model
from exportkit.metagraph.graph import Graph
from exportkit.metagraph.prune import Extent, extent
from exportkit.metagraph.restoring import restored, restored_tables
from exportkit.metagraph.tensors import canonical
from exportkit.protos import MetaGraphDef, SignatureDef
from exportkit.spec import METHODS, Signature

_CHANGES = ("LookupTableInsert", "LookupTableRemove")
_RESERVED = "__saved_model_"
_METHODS = {name: method for method, name in METHODS.items()}


@dataclass(frozen=True)
class OwnSignature:
    """A signature of a SavedModel.

    Attributes:
        key: its key there.
        inputs: alias → tensor (``op:0``), of those that its graph has.
        outputs: alias → tensor, likewise.
        method: ``predict``, ``classify`` or ``regress``; None where no server answers requests to it.
        misfit: why an export cannot have the same signature; empty if it can.
        parts: ``inputs.ALIAS.indices`` and the like → tensor, of its sparse tensors, which have no tensor of their own.
    """

    key: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]
    method: str | None
    misfit: str = ""
    parts: Mapping[str, str] = field(default_factory=dict)

    def names(self) -> dict[str, str]:
        """Return ``KEY.inputs.ALIAS`` and ``KEY.outputs.ALIAS`` → tensor: the names by which bindings may call it."""
        found = {f"{self.key}.inputs.{alias}": tensor for alias, tensor in self.inputs.items()}
        found |= {f"{self.key}.outputs.{alias}": tensor for alias, tensor in self.outputs.items()}
        return found | {f"{self.key}.{name}": tensor for name, tensor in self.parts.items()}

    def kept(self) -> Signature:
        """Return the same signature, whose bindings are called as in `names`."""
        inputs = {alias: f"{self.key}.inputs.{alias}" for alias in self.inputs}
        outputs = {alias: f"{self.key}.outputs.{alias}" for alias in self.outputs}
        return Signature(inputs=inputs, outputs=outputs, method=self.method or "predict")


@dataclass(frozen=True)
class OwnModel:
    """One meta graph of a SavedModel, with the places of its files.

    Attributes:
        directory: the SavedModel.
        tags: of the meta graph, sorted.
        graph: the graph as exports take it: variables have the names of their checkpoint keys, assets are constants.
        checkpoint: the prefix of its variables; None where there is no index of them.
        signatures: key → signature, without those that TensorFlow keeps for itself.
        assets: the files that its graph takes from its directory ``assets``, whether they are there or not.
    """

    directory: Path
    tags: tuple[str, ...]
    graph: Graph
    checkpoint: str | None
    signatures: Mapping[str, OwnSignature]
    assets: tuple[Path, ...]

    @property
    def meta(self) -> MetaGraphDef:
        return self.graph.meta

    @property
    def version(self) -> str:
        """The version of TensorFlow that wrote it; empty if it does not say."""
        return self.meta.meta_info_def.tensorflow_version

    @property
    def file(self) -> Path:
        """Its graph's file."""
        return next(path for name in SAVED_MODELS if (path := self.directory / name).is_file())

    @cached_property
    def tensors(self) -> dict[str, str]:
        """The names that it offers to bindings → tensors, see `OwnSignature.names`."""
        return {name: tensor for signature in self.signatures.values() for name, tensor in signature.names().items()}

    def needed(self, keys: Collection[str] | None = None) -> Extent:
        """Return what the signatures `keys` (default: all) need: variables, tables, files, nodes."""
        chosen = [signature for key, signature in self.signatures.items() if keys is None or key in keys]
        fetches = [tensor for signature in chosen for tensor in signature.outputs.values()]
        return extent(self.graph, fetches, [tensor for signature in chosen for tensor in signature.inputs.values()])

    def unrestored(self, keys: Collection[str] | None = None) -> list[str]:
        """Return the variables that signatures need and its own restore function leaves without a value, so that no server
        answers them; of a graph of TensorFlow 1 none is looked for."""
        own = restored(self.graph)
        return [variable.op_name for variable in self.needed(keys).variables if own and variable.op_name not in own]

    def files(self) -> list[Path]:
        """Return the files that it is made from, beside its variables: none that lies outside of its directory."""
        own = os.path.realpath(self.directory)
        inside = (path for path in self.assets if Path(os.path.realpath(path)).is_relative_to(own) and path.is_file())
        return [self.file, *inside]


def locate(path: str | os.PathLike[str]) -> Path:
    """Return the SavedModel that a path names: a version directory, its saved_model.pb, or a base path (its newest version).

    Raises:
        BindingError: there is none; it says what is there instead.
    """
    place = Path(path)
    if place.name in SAVED_MODELS and not place.is_dir():
        place = place.parent
    if formats.is_saved_model(place):
        return place
    if place.is_dir() and (versions := _versions(place)):
        return max(versions, key=lambda version: int(version.name))
    raise BindingError(Problem(str(path), *_instead(place)))


def _versions(place: Path) -> list[Path]:
    names = (name for name in os.listdir(place) if name.isdecimal() and len(name) < 20)
    return [place / name for name in names if formats.is_saved_model(place / name)]


def open_saved_model(path: str | os.PathLike[str], tags: Sequence[str] = ("serve",)) -> OwnModel:
    """Read the meta graph with exactly the tags `tags` of the SavedModel that `locate` finds.

    Raises:
        BindingError: there is none, its file cannot be read, its graph is not well formed, or an asset lies outside of its
            directory.
    """
    directory = locate(path)
    meta = tagged(directory, read_saved_model(directory).meta_graphs, tags)
    index = directory / "variables" / "variables"
    graph = Graph(adopted(meta, directory))
    if tables := _contents(graph, str(index)):
        fill_tables(graph.meta, tables)
        graph = Graph(graph.meta)
    own = (item for item in sorted(meta.signature_def.items()) if not item[0].startswith(_RESERVED))
    signatures = {key: _own(key, definition, graph) for key, definition in own}
    return OwnModel(
        directory=directory,
        tags=tuple(sorted(tags)),
        graph=graph,
        checkpoint=str(index) if os.path.lexists(f"{index}.index") else None,
        signatures=signatures,
        assets=tuple(asset_files(meta, directory).values()),
    )


def _contents(graph: Graph, prefix: str) -> dict[str, tuple[bytes, bytes]]:
    """Return mutable table → its keys and its values as TensorProtos, where the checkpoint has them and no request adds any."""
    tables = {op: keys for op, keys in restored_tables(graph).items() if graph.types[op] == "MutableHashTableV2"}
    bodies = (node for function in graph.functions.values() for node in function.node_def)
    if not tables or any(node.op.startswith(_CHANGES) for node in (*graph.nodes.values(), *bodies)):
        return {}
    from exportkit.checkpoint.tensorproto import to_proto

    try:
        saved = Bundle(prefix)
        small = {op: keys for op, keys in tables.items() if all(saved.entry(key).size <= files.ARRAYS for key in keys)}
        read = {op: [saved.read(key) for key in keys] for op, keys in small.items()}
    except WeightsError:
        return {}  # what is wrong with the checkpoint is reported where it is opened for the plan
    return {op: (to_proto(keys), to_proto(values)) for op, (keys, values) in read.items() if keys.shape == values.shape}


def tagged(directory: Path, metas: Iterable[MetaGraphDef], tags: Sequence[str]) -> MetaGraphDef:
    """Return the last of some meta graphs with exactly the tags `tags`, as loaders take it.

    Raises:
        BindingError: there is none; it names the tags of all.
    """
    by_tags = {frozenset(meta.meta_info_def.tags): meta for meta in metas}
    if found := by_tags.get(frozenset(tags)):
        return found
    known = sorted(_tag_set(known) for known in by_tags)
    what = f"no meta graph has the tags {_tag_set(tags)}: {'it has' if len(known) == 1 else 'they are'} {', '.join(known)}"
    near = nearest(_tag_set(tags), known) or known
    raise BindingError(Problem(str(directory), what, f"write tags: {near[0]}"))


def _tag_set(tags: Iterable[str]) -> str:
    return f"[{', '.join(sorted(tags))}]"


def _own(key: str, definition: SignatureDef, graph: Graph) -> OwnSignature:
    sides = definition.inputs, definition.outputs
    parts = {name: canonical(tensor) for name, tensor in _parts(definition).items() if isinstance(graph.find(tensor), str)}
    sparse = [alias for side in sides for alias, info in sorted(side.items()) if not info.name]
    named = {info.name for side in sides for info in side.values() if info.name}
    absent = sorted(name for name in named if not isinstance(graph.find(name), str))
    inputs, outputs = (
        {alias: canonical(info.name) for alias, info in sorted(side.items()) if info.name and info.name not in absent}
        for side in sides
    )
    method = _METHODS.get(definition.method_name)
    misfit = ""
    if not all(name.isprintable() for name in (key, *definition.inputs, *definition.outputs)):
        misfit = "has a name that cannot be printed"
    elif method is None:
        misfit = f"has the method '{definition.method_name}', and servers know {some(sorted(_METHODS))}"
    elif sparse:
        misfit = f"has a sparse or composite tensor, '{sparse[0]}', which no request can hold"
        if own := [name for name in parts if name.startswith((f"inputs.{sparse[0]}.", f"outputs.{sparse[0]}."))]:
            misfit += f" (bindings can take its parts: {key}.{own[0]} …)"
    elif absent:
        misfit = f"names the tensor {absent[0]}, which its graph does not have"
    elif not outputs:
        misfit = "has no outputs"
    return OwnSignature(key, inputs, outputs, method, misfit, parts)


def _parts(definition: SignatureDef) -> dict[str, str]:
    """Return the parts of a signature's sparse tensors, by the names of `tf.sparse.SparseTensor`."""
    found: dict[str, str] = {}
    for side, infos in (("inputs", definition.inputs), ("outputs", definition.outputs)):
        for alias, info in sorted(infos.items()):
            if info.HasField("coo_sparse"):
                of = info.coo_sparse
                tensors = {
                    "indices": of.indices_tensor_name,
                    "values": of.values_tensor_name,
                    "dense_shape": of.dense_shape_tensor_name,
                }
                found |= {f"{side}.{alias}.{part}": tensor for part, tensor in tensors.items()}
    return found


_FOREIGN = {
    "model.json": ("is a model of TensorFlow.js", "name the SavedModel that it was converted from"),
    "keras_metadata.pb": ("holds the metadata of a Keras model, without its graph", "copy the whole directory"),
    "tfhub_module.pb": ("is a module of TensorFlow Hub 1, whose variables its module_spec holds", "save it as a SavedModel"),
    "checkpoint": ("is a directory of training checkpoints", "export from its .meta: source=meta_graph"),
}


def _instead(place: Path) -> tuple[str, str]:
    """Return what a path that is no SavedModel is, and what to do."""
    if not os.path.lexists(place):
        return "no such file or directory", files.similar(place) or "paths are relative to where exportkit was started"
    if place.is_file():
        return _described(place)
    names = sorted(os.listdir(place))
    if (place / "saved_model.cpb").exists():
        return "is a SavedModel in pieces, which exportkit does not read", "save the model whole"
    for name, described in _FOREIGN.items():
        if name in names:
            return described
    if lite := [name for name in names if name.endswith(".tflite")]:
        return f"holds {lite[0]}, a TensorFlow Lite model", "name the SavedModel that it was converted from"
    if (place / "variables" / "variables.index").is_file():
        return "holds the variables of a SavedModel, without its saved_model.pb", "copy the whole directory"
    return f"is no SavedModel: it has no saved_model.pb, and no version with one; {_holds(names)}", "name the directory of one"


def _described(file: Path) -> tuple[str, str]:
    """Return what a file is that was named as a SavedModel, which is a directory."""
    try:
        what = formats.describe_file(str(file))[0]
    except OSError as error:
        return f"cannot be read: {error.strerror}", "name the directory of a SavedModel"
    known = re.split(" and no |, and no ", what)[0]
    return f"is {'a file' if what.startswith('no ') else known}, and no SavedModel", "name the directory of a SavedModel"


def _holds(names: Sequence[str]) -> str:
    return f"it holds {some(names, 8)}" if names else "it is empty"
