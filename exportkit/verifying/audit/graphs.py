"""Checks of a version's graph without running it: can a server load it and answer its signatures?"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from exportkit.errors import Problem
from exportkit.metagraph import Graph
from exportkit.metagraph.kinds import node_list, obstacle, op_class, path_constant
from exportkit.metagraph.tensors import Facts, Shape, dims, split
from exportkit.operations.bindings import Bindings
from exportkit.planning import serving_rules
from exportkit.protos import dtype_name, meta_graph_pb2
from exportkit.spec import METHODS, Signature, Tensor
from exportkit.verifying.audit.finding import Finding, failures

INIT_OP = "__saved_model_init_op"
INTERNAL = (INIT_OP, "__saved_model_train_op")
_AGAIN = "export it again"
_WHY = {
    "placeholder": "is fed by none of its inputs",
    "queue": "waits for the training's input queue",
    "iterator": "waits for the training's input pipeline",
    "reader": "reads files of the training machine",
    "python": "runs Python of the training program, which no server has",
    "mutable table": "is a mutable table, whose content is in no file",  # TensorFlow 2 saves it with its objects
    "TPU": "runs on TPUs only",
    "restore": "reads a checkpoint of the training machine at every request",
    "tf.contrib": "is of tf.contrib, which TensorFlow 2 does not have",
}
_BY_NAME = {name: method for method, name in METHODS.items()}


def check(directory: Path, graph: Graph, saved: Collection[str]) -> Iterator[Finding]:
    """Check one meta graph; `saved` are the names of the variables that the files have values for."""
    info = graph.meta.meta_info_def
    tags, keys = ", ".join(info.tags), list(signatures(graph))
    why = f"tagged [{tags}]: {len(graph.nodes)} nodes, written by TensorFlow {info.tensorflow_version or '?'}"
    yield Finding(True, "graph", f"{why}, signatures {', '.join(keys) or 'none'}")
    if not keys:
        yield Finding(False, "graph", f"tagged [{tags}] has no signature, so a server cannot be asked anything", _AGAIN)
    for key in keys:
        yield from _check_signature(key, graph)
    yield from _check_assets(directory, graph)
    yield from _check_init_op(graph, saved)
    yield from _check_devices(graph)


def signatures(graph: Graph) -> dict[str, Any]:
    """Return the signatures that clients can call, sorted by key."""
    return {key: definition for key, definition in sorted(graph.meta.signature_def.items()) if key not in INTERNAL}


def _check_signature(key: str, graph: Graph) -> Iterator[Finding]:
    definition, what = graph.meta.signature_def[key], f"signature {key}"
    problems = [*_wrong_tensors(definition, graph), *_rules(definition, graph), *_obstacles(definition, graph)]
    yield from failures(what, problems)
    if not problems:
        yield Finding(True, what, f"a server can answer it ({_method(definition)})")
    for alias, info in sorted(definition.inputs.items()):
        shape = shape_of(info)
        if shape and shape[0] is not None:
            why = f"the first dimension of input {alias} is {shape[0]}, so requests cannot be batched"
            yield Finding(None, what, why, "leave it open in its binding: null")


def shape_of(info: Any) -> Shape:
    """Return the shape in a TensorInfo; None for an unknown rank, for which old writers leave the shape out."""
    return dims(info.tensor_shape) if info.HasField("tensor_shape") else None


def _method(definition: Any) -> str:
    return _BY_NAME.get(definition.method_name, definition.method_name or "no method")


def _wrong_tensors(definition: Any, graph: Graph) -> Iterator[Problem]:
    """Yield a problem for each tensor that is not in the graph or has another dtype than in the signature."""
    for side in ("inputs", "outputs"):
        for alias, info in sorted(getattr(definition, side).items()):
            if not info.name:
                yield Problem(f"{side}.{alias}", "is not a dense tensor, and cannot be sent to a server", "export its parts")
                continue
            known, declared = graph.dtype(info.name), dtype_name(info.dtype)
            if isinstance(problem := graph.find(info.name), Problem):
                yield problem.under(f"{side}.{alias}")
            elif known not in (None, declared):
                yield Problem(f"{side}.{alias}", f"{info.name} is {known}, and the signature says {declared}", _AGAIN)


def _rules(definition: Any, graph: Graph) -> Iterator[Problem]:
    """Yield violations of TensorFlow Serving's rules, the same that a plan is checked for."""
    if definition.method_name not in _BY_NAME:
        yield Problem("method", f"no server knows '{definition.method_name}'", f"write one of {', '.join(METHODS)}")
        return
    sides = [{alias: info.name for alias, info in side.items()} for side in (definition.inputs, definition.outputs)]
    signature = Signature(inputs=sides[0], outputs=sides[1], method=_method(definition))
    infos = [*definition.inputs.values(), *definition.outputs.values()]
    facts = {info.name: Facts(graph.dtype(info.name) or dtype_name(info.dtype), shape_of(info)) for info in infos}
    found = [
        *serving_rules.check(Bindings({name: Tensor(tensor=name) for name in facts}), {"": signature}),
        *serving_rules.demands("", signature, facts),
    ]
    for problem in found:
        yield Problem(problem.where.removeprefix("signatures.").lstrip("."), problem.what, problem.do or _AGAIN)


def _obstacles(definition: Any, graph: Graph) -> Iterator[Problem]:
    """Yield the nodes that the outputs need and no server can run, in the graph and in the functions that it calls."""
    fetches = [info.name for info in definition.outputs.values() if split(info.name)[0] in graph.nodes]
    fed = [info.name for info in definition.inputs.values() if info.name]
    reached = graph.walk(fetches, fed, lambda name: obstacle(graph, name) is not None)
    nodes = [graph.nodes[name] for name in reached]
    classes = [(node, obstacle(graph, node.name)) for node in nodes]
    classes += [(node, op_class(node.op)) for name in graph.called(nodes) for node in graph.functions[name].node_def]
    for node, found in classes:
        if found in _WHY and not (found == "mutable table" and graph.meta.object_graph_def.nodes):
            yield Problem("graph", f"{node.name} ({node.op}) {_WHY[found]}", _AGAIN)


def _check_assets(directory: Path, graph: Graph) -> Iterator[Finding]:
    named = _assets(graph.meta)
    problems = [
        Problem(f"assets/{name}", "is missing", "take the version from where it was published")
        for name in sorted(set(named.values()))
        if not (directory / "assets" / name).is_file()
    ]
    problems += [Problem(name, f"reads {path} of the training machine", _AGAIN) for name, path in _foreign(graph, named)]
    yield from failures("assets", problems)
    if named and not problems:
        yield Finding(True, "assets", f"{', '.join(sorted(set(named.values())))}: there, and nothing is read from elsewhere")


def _assets(meta: Any) -> dict[str, str]:
    """Return the name of each op that holds an asset's path → the asset's file name.

    Older versions keep the assets in the collection ``saved_model_assets``.
    """
    definitions = list(meta.asset_file_def)
    if "saved_model_assets" in meta.collection_def:
        packed = meta.collection_def["saved_model_assets"].any_list.value
        definitions += [meta_graph_pb2.AssetFileDef.FromString(one.value) for one in packed]
    return {split(definition.tensor_info.name)[0]: definition.filename for definition in definitions}


def asset_files(saved_model: Any) -> set[str]:
    """Return the names of all assets of a SavedModel."""
    return {name for meta in saved_model.meta_graphs for name in _assets(meta).values()}


def _foreign(graph: Graph, named: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield the name of each node that reads a file which is not an asset, and the file's path."""
    for name, node in graph.nodes.items():
        index = {"InitializeTableFromTextFile": 1, "InitializeTableFromTextFileV2": 1, "ReadFile": 0}.get(node.op)
        constant = None if index is None else path_constant(graph, node.input[index])
        if constant is not None and constant.name not in named and (paths := graph.strings(f"{constant.name}:0")):
            yield name, paths[0]


def _check_init_op(graph: Graph, saved: Collection[str]) -> Iterator[Finding]:
    """Check the op that runs after the restore: if it assigns a weight, a server answers with another value."""
    op = init_op(graph)
    if op is None or op not in graph.nodes:
        return
    assigned = sorted(set(_assigned(graph, op)).intersection(saved))
    if assigned:
        why = f"'{op}' assigns {', '.join(assigned)} after the restore, so the weights in the files are not those that answer"
        yield Finding(False, "init op", why, "export it again, with the tables' initialisers for a main_op and nothing else")
    else:
        yield Finding(True, "init op", f"'{op}' assigns no weight")


def init_op(graph: Graph) -> str | None:
    """Return the name of the op that a server runs after the restore: from its signature, or from the older collections."""
    if INIT_OP in graph.meta.signature_def:
        return split(graph.meta.signature_def[INIT_OP].outputs[INIT_OP].name)[0]
    listed = [*node_list(graph, "saved_model_main_op"), *node_list(graph, "legacy_init_op")]
    return split(listed[0])[0] if listed else None


def _assigned(graph: Graph, op: str) -> Iterator[str]:
    """Yield the names of the variables that `op` assigns, itself or through an op that it needs.

    Not those that only hold the path of an asset (``tf.saved_model.Asset``): no file has their value, and a variable of the
    weights can have the same name.
    """
    names = {variable.op_name: variable.full_name for variable in graph.variables.values()}
    assets, restored = _assets(graph.meta), _restored(graph)
    for name in graph.reach([op]):
        node = graph.nodes[name]
        variable = graph.origin(node.input[0]) if node.op in ("Assign", "AssignVariableOp") else None
        if variable is None or variable.name not in names:
            continue
        value = graph.origin(node.input[1])
        if value is None or value.name not in assets or variable.name in restored:
            yield names[variable.name]


def _restored(graph: Graph) -> Collection[str]:
    """Return the nodes that the restore reaches; all nodes where nothing says what restores."""
    saver = split(graph.meta.saver_def.restore_op_name)[0]
    return graph.reach([saver]) if saver in graph.nodes else graph.nodes


def _check_devices(graph: Graph) -> Iterator[Finding]:
    pins = pinned(graph)
    if pins:
        why = f"{sum(pins.values())} nodes are pinned to {', '.join(sorted(pins))}: a server without that does not load them"
        yield Finding(None, "devices", why, "export with clear_devices")


def pinned(graph: Graph) -> dict[str, int]:
    """Return device → the number of nodes pinned to it, for GPUs and TPUs."""
    found: dict[str, int] = {}
    bodies = (node for function in graph.functions.values() for node in function.node_def)
    for node in (*graph.nodes.values(), *bodies):
        if any(device in node.device.upper() for device in ("GPU", "TPU")):
            found[node.device] = found.get(node.device, 0) + 1
    return found
