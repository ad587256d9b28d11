"""The graph of a SavedModel, made one that an export can start from.

A loader gives such a graph the paths of its assets and runs its initialisation. So the nodes of assets become constants with
the paths of the files beside it; and a variable that the initialisation sets to such a path gives way to the constant, for no
checkpoint has its value (`_process_asset` in tensorflow/python/saved_model/save.py). All other nodes keep their names.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import count
from pathlib import Path

from google.protobuf import text_format

from exportkit.errors import BindingError, Problem, shortened
from exportkit.metagraph.graph import Graph
from exportkit.metagraph.kinds import node_list
from exportkit.metagraph.tensors import VARIABLE_OPS, canonical, split
from exportkit.protos import DTYPE_NAMES, AssetFileDef, MetaGraphDef, NodeDef

INIT_SIGNATURE = "__saved_model_init_op"
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
_ASSET_FILES = "saved_model_assets"
_ASSET_PATHS = "asset_filepaths"
_OPS = {  # as tensorflow/core/ops/lookup_ops.cc and array_ops.cc define them
    "Const": """
        output_arg { name: "output" type_attr: "dtype" }
        attr { name: "value" type: "tensor" } attr { name: "dtype" type: "type" }""",
    "HashTableV2": """
        output_arg { name: "table_handle" type: DT_RESOURCE } is_stateful: true
        attr { name: "container" type: "string" default_value { s: "" } }
        attr { name: "shared_name" type: "string" default_value { s: "" } }
        attr { name: "use_node_name_sharing" type: "bool" default_value { b: false } }
        attr { name: "key_dtype" type: "type" } attr { name: "value_dtype" type: "type" }""",
    "LookupTableImportV2": """
        input_arg { name: "table_handle" type: DT_RESOURCE }
        input_arg { name: "keys" type_attr: "Tin" } input_arg { name: "values" type_attr: "Tout" }
        attr { name: "Tin" type: "type" } attr { name: "Tout" type: "type" } is_stateful: true""",
}
_STRING = DTYPE_NAMES["string"]


def adopted(meta: MetaGraphDef, directory: Path) -> MetaGraphDef:
    """Return the meta graph of the SavedModel `directory`, with assets as constants and the shapes that signatures state."""
    made = MetaGraphDef()
    made.CopyFrom(meta)
    paths = asset_files(meta, directory)
    for node in made.graph_def.node:
        if node.name in paths:
            node.CopyFrom(_path_constant(node.name, paths[node.name]))
    _list_assets(made, paths)
    _replace_asset_variables(made, paths)
    _add_shapes(made)
    return made


def asset_files(meta: MetaGraphDef, directory: Path) -> dict[str, Path]:
    """Return the node that a loader feeds an asset's path → that path, below the directory ``assets``.

    Raises:
        BindingError: an asset's name leads out of that directory.
    """
    definitions = [*meta.asset_file_def]
    if _ASSET_FILES in meta.collection_def and not definitions:
        definitions = [AssetFileDef.FromString(packed.value) for packed in meta.collection_def[_ASSET_FILES].any_list.value]
    for one in definitions:
        if "\0" in one.filename or {"..", ".", ""} & set(one.filename.split("/")):
            what = f"names the asset '{shortened(one.filename, 80)}', which is no file of its directory assets"
            raise BindingError(Problem(str(directory), what, "it was made by hand: copy it again"))
    return {split(one.tensor_info.name)[0]: directory / "assets" / one.filename for one in definitions}


def _path_constant(name: str, path: Path) -> NodeDef:
    node = NodeDef(name=name, op="Const")
    node.attr["dtype"].type = _STRING
    tensor = node.attr["value"].tensor
    tensor.dtype = _STRING
    tensor.tensor_shape.SetInParent()
    tensor.string_val.append(str(path).encode(errors="surrogateescape"))
    return node


def _list_assets(meta: MetaGraphDef, nodes: Iterable[str]) -> None:
    """Add assets to the collection in which a graph of TensorFlow 1 lists them."""
    if nodes := list(nodes):
        listed = meta.collection_def[_ASSET_PATHS].node_list.value
        listed.extend(name for node in nodes if (name := f"{node}:0") not in listed)
        _describe(meta, "Const")


def _describe(meta: MetaGraphDef, op: str) -> None:
    """Add the definition of an op where the meta graph describes ops and not this one, for it had none."""
    described = meta.meta_info_def.stripped_op_list.op
    if described and all(known.name != op for known in described):
        text_format.Parse(_OPS[op], described.add(name=op))


# Mutable tables


def fill_tables(meta: MetaGraphDef, contents: Mapping[str, tuple[bytes, bytes]]) -> None:
    """Let mutable tables be fixed ones, which are filled from constants when a model is loaded.

    Args:
        contents: MutableHashTableV2 → its keys and its values, as TensorProtos.
    """
    nodes = {node.name: node for node in meta.graph_def.node}
    for number, (table, values) in enumerate(contents.items()):
        nodes[table].op = "HashTableV2"
        scope = next(name for i in count(number) if (name := f"table_content_{i}/keys") not in nodes).removesuffix("/keys")
        fill = NodeDef(name=f"{scope}/fill", op="LookupTableImportV2", input=[table, f"{scope}/keys", f"{scope}/values"])
        for attribute, name, data in zip(("Tin", "Tout"), fill.input[1:], values, strict=True):
            constant = meta.graph_def.node.add(name=name, op="Const")
            constant.attr["value"].tensor.ParseFromString(data)
            constant.attr["dtype"].type = fill.attr[attribute].type = constant.attr["value"].tensor.dtype
            nodes[name] = constant
        meta.graph_def.node.append(fill)
    for op in ("Const", "HashTableV2", "LookupTableImportV2"):
        _describe(meta, op)


# Variables with the path of an asset


def _replace_asset_variables(meta: MetaGraphDef, assets: Mapping[str, Path]) -> None:
    """Let what reads a variable that the initialisation sets to an asset's path take the asset instead."""
    graph = Graph(meta)
    assigned = dict(_assignments(graph, assets)) if assets else {}
    if not assigned:
        return
    instead = {assignment: asset for assignment, (_, asset) in assigned.items()}
    for variable, asset in assigned.values():
        readers = graph.consumers.get(variable, ())
        instead |= {reader: asset for reader in readers if graph.types[reader] in ("ReadVariableOp", "Identity")}
    nodes = [node for node in meta.graph_def.node if node.name not in assigned]
    for node in nodes:
        taken = [(name, *split(name)) for name in node.input]
        if any(op in instead for _, op, _ in taken):
            node.input[:] = [instead.get(op, name) for name, op, index in taken if index >= 0 or op not in instead]
    kept = [_copy(node) for node in nodes]
    del meta.graph_def.node[:]
    meta.graph_def.node.extend(kept)


def _copy(node: NodeDef) -> NodeDef:
    copied = NodeDef()
    copied.CopyFrom(node)
    return copied


def _assignments(graph: Graph, assets: Mapping[str, Path]) -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield each assignment of an asset's path that the initialisation runs → the variable and the asset."""
    names = [name for name in _init_ops(graph.meta) if name in graph.nodes]
    for name in graph.reach(names):
        node = graph.nodes[name]
        if node.op in ("Assign", "AssignVariableOp"):
            value, variable = graph.origin(node.input[1]), split(node.input[0])[0]
            if value is not None and value.name in assets and graph.types[variable] in VARIABLE_OPS:
                yield name, (variable, value.name)


def _init_ops(meta: MetaGraphDef) -> Iterator[str]:
    """Yield the operations that a loader runs after the restore (GetInitOp in cc/saved_model/loader_util.cc)."""
    if INIT_SIGNATURE in meta.signature_def:
        yield from (split(info.name)[0] for info in meta.signature_def[INIT_SIGNATURE].outputs.values())
    for collection in _INIT_COLLECTIONS:
        yield from (split(name)[0] for name in node_list(Graph(meta), collection))


# Shapes


def _add_shapes(meta: MetaGraphDef) -> None:
    """Add the shapes that signatures state of tensors of which the graph states none: outputs of functions often have none."""
    graph = Graph(meta)
    stated = {
        canonical(info.name): info.tensor_shape
        for signature in meta.signature_def.values()
        for info in (*signature.inputs.values(), *signature.outputs.values())
        if info.name and not info.tensor_shape.unknown_rank
    }
    for op in {split(tensor)[0] for tensor in stated}:
        node, number = graph.nodes.get(op), graph.num_outputs(op) if op in graph.nodes else None
        if node is None or not number or "_output_shapes" in node.attr or node.op.startswith("Placeholder"):
            continue
        shapes = node.attr["_output_shapes"].list.shape
        for index in range(number):
            shape = shapes.add()
            if (known := stated.get(f"{op}:{index}")) is not None:
                shape.CopyFrom(known)
            else:
                shape.unknown_rank = True
