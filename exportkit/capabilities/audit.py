"""An audit of a meta graph: what its ops can do, which of them only lie in it, and which can run."""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from exportkit.capabilities.bodies import MAIN, Bodies, op_of
from exportkit.capabilities.embedded import bytes_in, can_be_graph, graphs_in, strings_of
from exportkit.capabilities.oplist import CAPABILITIES, UNKNOWN, of_op, on_import, refused
from exportkit.capabilities.origins import Origins
from exportkit.capabilities.refine import Surroundings, capabilities
from exportkit.files import MIB
from exportkit.protos import MetaGraphDef, NodeDef, meta_graph_pb2

INIT_SIGNATURE = "__saved_model_init_op"
_OF_ANSWERS = ("random", "stateful")  # a restore assigns as well, and an initial value may be drawn
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op", "saved_model_train_op", "table_initializer")
_LARGE = 64 * MIB  # a larger graph is not serialized to find out whether it is known
_KEPT = 8  # audits
_DEEPEST = 4  # graphs inside graphs; what lies deeper is unknown


_audits: dict[bytes, "Audit"] = {}  # by the digest of the graph


@dataclass(frozen=True)
class Use:
    """One op with a capability.

    Attributes:
        capability: a key of `CAPABILITIES`.
        op: the op's type.
        node: the node, with its function, and what it is serialized in: ``dump in function f``.
        reachable: whether it can run: for a signature, the initialisation or the restore, or when the graph is imported.
    """

    capability: str
    op: str
    node: str
    reachable: bool

    def __str__(self) -> str:
        return f"{self.node} ({self.op})"


@dataclass(frozen=True)
class Audit:
    """The capabilities of a meta graph.

    Attributes:
        uses: every op that can do more than compute its outputs, in the order of `CAPABILITIES`.
        nodes: how many nodes were looked at, those of functions and of embedded graphs too.
        has_roots: whether the graph has signatures or an initialisation; without them nothing says what will run.
    """

    uses: tuple[Use, ...] = ()
    nodes: int = 0
    has_roots: bool = False

    def dangers(self, allowed: Collection[str] = (), *, present: bool = False) -> dict[str, list[Use]]:
        """Return the capabilities that are refused unless allowed → the ops that have them.

        Args:
            allowed: entries of `allow.ops`.
            present: count ops that only lie in the graph as well.
        """
        found: dict[str, list[Use]] = {}
        for use in self.uses:
            if (present or use.reachable) and refused(use.capability, allowed):
                found.setdefault(use.capability, []).append(use)
        return found

    def by_capability(self) -> dict[str, list[str]]:
        """Return each capability that can run → its ops, sorted."""
        found: dict[str, set[str]] = {}
        for use in self.uses:
            if use.reachable:
                found.setdefault(use.capability, set()).add(use.op)
        return {capability: sorted(ops) for capability, ops in found.items()}


def joined(audits: Iterable[Audit]) -> Audit:
    """Return the audits of several meta graphs as one."""
    audits = list(audits)
    uses = dict.fromkeys(use for audit in audits for use in audit.uses)
    return Audit(_sorted(uses), sum(audit.nodes for audit in audits), any(audit.has_roots for audit in audits))


def audit_loaded(metas: Iterable[MetaGraphDef]) -> Audit:
    """Return what a loader of a SavedModel's meta graphs can do, as one; equal graphs are audited once in a process."""
    return joined(map(_audit_once, metas))


def _audit_once(meta: MetaGraphDef) -> Audit:
    if meta.ByteSize() > _LARGE:
        return audit(meta)
    key = hashlib.sha256(meta.SerializeToString(deterministic=True)).digest()
    if key not in _audits:
        while len(_audits) >= _KEPT:
            _audits.pop(next(iter(_audits)))
        _audits[key] = audit(meta)
    return _audits[key]


def audit(
    meta: MetaGraphDef,
    *,
    assets: Collection[str] = (),
    whole: bool = False,
    fetches: Collection[str] = (),
    feeds: Collection[str] = (),
    loaded: bool = True,
) -> Audit:
    """Return what a meta graph can do.

    Args:
        meta: the meta graph.
        assets: more nodes that hold the path of an asset.
        whole: take every node of it as one that can run, as of a graph that was pruned to what an export needs.
        fetches: more tensors and operations that will run.
        feeds: tensors (``op:0``) that will be fed, so that nothing runs for them.
        loaded: count what an import may evaluate and what a loader runs; otherwise, only what runs for `fetches`.
    """
    bodies = Bodies(meta.graph_def)
    fed = {op_of(name) for signature in meta.signature_def.values() for name in _tensors(signature.inputs.values())}
    roots, functions = [*(_roots(meta) if loaded else ()), *fetches], list(meta.object_graph_def.concrete_functions) * loaded
    stops = {*feeds, *(f"^{op_of(tensor)}" for tensor in feeds)}
    every = {id(node) for body in bodies.by_name.values() for node in body.all}
    saver, filename = meta.saver_def, op_of(meta.saver_def.filename_tensor_name)
    answering = bodies.reach([*(_signature_tensors(meta) if loaded else ()), *fetches], functions, stops)
    running = every if whole else bodies.reach(roots, functions, stops) | bodies.repeated()
    saving = bodies.reach([saver.save_tensor_name, saver.restore_op_name] * loaded) - running
    has_roots = whole or bool(roots) or bool(functions)
    idle = every - running - saving if has_roots else set()
    held = {*_asset_nodes(meta), *assets} - fed
    around = Surroundings(Origins(bodies, {*fed, *held, filename}), held, filename, saving, idle)

    def runs(node: NodeDef, capability: str) -> bool:
        """Return whether a node can run; of what answers are said to be, whether it runs for them."""
        return id(node) in answering if capability in _OF_ANSWERS else id(node) in running or id(node) in saving

    uses = [*_uses(bodies, around, runs, early=loaded), *_embedded_elsewhere(meta)]
    return Audit(_sorted(uses), len(every), has_roots)


def _sorted(uses: Iterable[Use]) -> tuple[Use, ...]:
    order = {name: number for number, name in enumerate(CAPABILITIES)}
    return tuple(sorted(uses, key=lambda use: (order[use.capability], not use.reachable)))


def _uses(
    bodies: Bodies,
    around: Surroundings,
    runs: Callable[[NodeDef, str], bool],
    *,
    early: bool = False,
    holder: str = "",
    depth: int = 0,
) -> Iterator[Use]:
    """Yield the uses in a graph and in the graphs inside it.

    Args:
        runs: whether a node can run with a capability.
        early: count what an import may evaluate as what can run.
        holder: what the graph is serialized in.
        depth: how many graphs are around it.
    """
    for body in bodies.by_name.values():
        inside = (f" in function {body.name}" if body.name != MAIN else "") + (f" in the graph in {holder}" if holder else "")
        for node in body.all:
            if of_op(node.op) and not bodies.is_call(node):
                for capability in capabilities(body, node, around):
                    imported = early and on_import(node.op) and refused(capability, ())
                    place = _printable(f"{node.name}{inside}")
                    yield Use(capability, _printable(node.op), place, imported or runs(node, capability))
            for value in bodies.holding(node):
                for data in filter(can_be_graph, bytes_in(value)):
                    yield from _embedded(data, _printable(f"{node.name}{inside}"), runs(node, UNKNOWN), depth)
    for name in bodies.recursive():
        yield Use(
            "unbounded", "recursion", f"function {name}", any(runs(node, "unbounded") for node in bodies.by_name[name].all)
        )


def _printable(name: str) -> str:
    """Return a name of a stranger's graph without what a terminal would obey."""
    return name if name.isprintable() else "".join(letter if letter.isprintable() else "�" for letter in name)


def _embedded(data: bytes, holder: str, reachable: bool, depth: int = 0) -> Iterator[Use]:
    """Yield the uses in the graphs that `data` is: all of them can run if what holds them can."""
    for graph in graphs_in(data):
        if depth == _DEEPEST:
            yield Use(UNKNOWN, "graph", f"a graph {depth} graphs deep in {holder}", reachable)
        else:
            bodies = Bodies(graph)
            yield from _uses(
                bodies, Surroundings(Origins(bodies), (), "", ()), lambda *_: reachable, holder=holder, depth=depth + 1
            )


def _embedded_elsewhere(meta: MetaGraphDef) -> Iterator[Use]:
    """Yield the uses in graphs inside collections, defaults of signatures, and attributes of functions."""
    for name, collection in meta.collection_def.items():
        for data in (*collection.bytes_list.value, *(packed.value for packed in collection.any_list.value)):
            yield from _embedded(data, f"the collection {name}", reachable=False)
    for key, signature in meta.signature_def.items():
        for tensor in signature.defaults.values():
            for data in strings_of(tensor):
                yield from _embedded(data, f"a default of the signature {key}", reachable=False)
    yield from _embedded(meta.meta_info_def.any_info.value, "meta_info_def.any_info", reachable=False)
    for function in meta.graph_def.library.function:
        held = [*function.attr.values(), *(value for one in function.arg_attr.values() for value in one.attr.values())]
        for data in (data for value in held for data in bytes_in(value)):
            yield from _embedded(data, f"an attribute of function {function.signature.name}", reachable=True)


# What a loader knows of a meta graph


def _roots(meta: MetaGraphDef) -> Iterator[str]:
    """Yield the tensors and operations that a server or a loader of the version may run, other than the saver's."""
    for signature in meta.signature_def.values():
        yield from _tensors((*signature.inputs.values(), *signature.outputs.values()))
    for name in _INIT_COLLECTIONS:
        if name in meta.collection_def:
            yield from meta.collection_def[name].node_list.value


def _signature_tensors(meta: MetaGraphDef) -> Iterator[str]:
    """Yield the tensors of all signatures but those by which a loader finds its initialisation."""
    for key, signature in meta.signature_def.items():
        if key != INIT_SIGNATURE:
            yield from _tensors((*signature.inputs.values(), *signature.outputs.values()))


def _tensors(infos: Iterable[Any]) -> Iterator[str]:
    """Yield the names of tensors in TensorInfos: dense, sparse and composite ones."""
    for info in infos:
        sparse = info.coo_sparse
        names = (info.name, sparse.values_tensor_name, sparse.indices_tensor_name, sparse.dense_shape_tensor_name)
        yield from (name for name in names if name)
        yield from _tensors(info.composite_tensor.components)


def _asset_nodes(meta: MetaGraphDef) -> set[str]:
    """Return the nodes that hold the paths of assets; not one of a file outside of the directory ``assets``."""
    definitions = [*meta.asset_file_def]
    collections: Mapping[str, Any] = meta.collection_def
    if "saved_model_assets" in collections:
        packed = collections["saved_model_assets"].any_list.value
        definitions += [meta_graph_pb2.AssetFileDef.FromString(one.value) for one in packed]
    if definitions:
        return {op_of(one.tensor_info.name) for one in definitions if ".." not in one.filename.split("/")}
    if "asset_filepaths" in collections:
        return {op_of(name) for name in collections["asset_filepaths"].node_list.value}
    return set()
