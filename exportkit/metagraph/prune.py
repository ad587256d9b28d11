"""The serving subgraph: what the fetches need, cut at the inputs, and the nodes that restore variables and fill tables."""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from exportkit.metagraph.graph import Graph
from exportkit.metagraph.kinds import obstacle
from exportkit.metagraph.tables import asset_paths, blocker, holds_table, table_initializers
from exportkit.metagraph.tensors import VARIABLE_OPS, canonical, split
from exportkit.metagraph.variables import VARIABLE_COLLECTIONS, Variable
from exportkit.protos import DTYPE_NAMES, GraphDef, MetaGraphDef, NodeDef, VariableDef

# Every kept variable is in the collection `variables` and takes its value from the checkpoint. In these collections, too, it
# would be reset by an init op that is built from them.
_LOCAL = ("local_variables", "metric_variables")
_LARGE = 1 << 20  # bytes; an initial value that is a larger constant is left out of the export


@dataclass(frozen=True)
class Pruned:
    """A serving subgraph.

    Attributes:
        meta: the MetaGraphDef. Its nodes still name the cut tensors as inputs although their ops may be removed, so import it
            with ``input_map={cut: tensor for cut in cuts}``.
        cuts: the cut tensors (``op:0``) that a kept node consumes. The others must not be in the input_map.
        variables: name → kept variable, each in the collection `variables` of `meta`.
        no_initializer: name of a kept variable whose initial value is left out → the reason. Its initialiser assigns the
            variable to itself: it fails before a restore and changes nothing after it.
        tables: op of a kept table → the ops that fill it, each in the collection `table_initializer` of `meta`.
        assets: Const op with the path of a file that the graph reads → that path, as the training run wrote it.
        nodes_before: the number of nodes in the whole graph.
        nodes_after: the number of nodes in `meta`.
    """

    meta: MetaGraphDef
    cuts: tuple[str, ...]
    variables: Mapping[str, Variable]
    no_initializer: Mapping[str, str]
    tables: Mapping[str, tuple[str, ...]]
    assets: Mapping[str, str]
    nodes_before: int
    nodes_after: int


def serving_subgraph(
    graph: Graph, fetches: Iterable[str], cuts: Iterable[str], ops: Iterable[str] = (), *, clear_devices: bool = True
) -> Pruned:
    """Keep the nodes that `fetches` need and nothing else; the same arguments give the same bytes.

    Also kept are each variable's initialiser and snapshot, and the ops that fill each table. Dropped are attributes
    ``_output_shapes`` (those that TF 1 wrote for FusedBatchNorm gradients make import_meta_graph fail), colocation with and
    control edges to removed nodes, the Saver, the signatures, and all collections but those of variables,
    `table_initializer` and `asset_filepaths`.

    Args:
        graph: the whole graph; it is not changed.
        fetches: tensors (``op:0``) or operations (``op``).
        cuts: tensors that other tensors will replace as inputs of the kept nodes.
        ops: more operations to keep, such as a train op.
        clear_devices: whether to drop device pins, which fail on a server without that device.

    Raises:
        BindingError: the graph does not have a fetch or op.
    """
    cuts = tuple(dict.fromkeys(map(canonical, cuts)))
    kept, tables, holders = _keep(graph, [*fetches, *ops], cuts)
    assets = asset_paths(graph, kept)
    meta = MetaGraphDef()
    _write_info(graph, kept, meta)
    _write_nodes(graph, kept, holders, meta.graph_def, clear_devices)
    _write_functions(graph, kept, meta.graph_def, clear_devices)
    _write_collections(graph, holders, tables, assets, kept, meta)
    return Pruned(
        meta=meta,
        cuts=_consumed(graph, kept, cuts),
        variables={holder.variable.name: holder.variable for holder in holders},
        no_initializer={holder.variable.name: holder.lacks for holder in holders if holder.lacks},
        tables=tables,
        assets=assets,
        nodes_before=len(graph.nodes),
        nodes_after=len(meta.graph_def.node),
    )


@dataclass(frozen=True)
class Extent:
    """Content of a serving subgraph: its variables, tables, paths of files and number of nodes."""

    variables: tuple[Variable, ...]
    tables: tuple[str, ...]
    files: tuple[str, ...]
    nodes: int


def extent(graph: Graph, fetches: Iterable[str], cuts: Iterable[str]) -> Extent:
    """Return the content of what `serving_subgraph` would return, without building it."""
    kept, tables, holders = _keep(graph, fetches, tuple(dict.fromkeys(map(canonical, cuts))))
    added = sum(1 for holder in holders for _ in holder.added())
    variables = tuple(holder.variable for holder in holders)
    return Extent(variables, tuple(tables), tuple(asset_paths(graph, kept).values()), len(kept) + added)


def _keep(
    graph: Graph, fetches: Iterable[str], cuts: tuple[str, ...]
) -> tuple[set[str], dict[str, tuple[str, ...]], list["_Holder"]]:
    """Return the nodes to keep, the tables among them with the nodes that fill them, and the holders of the variables."""
    kept = graph.reach(fetches, cuts)
    tables = _keep_tables(graph, kept, cuts)
    holders = [_Holder(graph, variable) for variable in graph.variables.values() if variable.op_name in kept]
    kept |= graph.reach([snapshot for holder in holders for snapshot in holder.snapshots()])
    for holder in holders:
        kept |= holder.initializer_nodes(kept, cuts)
    return kept, tables, holders


def _consumed(graph: Graph, kept: set[str], cuts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(cut for cut in cuts if graph.takes(kept, cut))


def _keep_tables(graph: Graph, kept: set[str], cuts: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """Add the nodes that fill the kept tables to `kept`, and return table → the ops that fill it."""
    found: dict[str, tuple[str, ...]] = {}
    while new := [name for name in graph.nodes if name in kept and name not in found and holds_table(graph, name)]:
        for table in new:
            usable = [op for op in table_initializers(graph, table) if not blocker(graph, op, cuts)]
            found[table] = tuple(usable)
            kept |= graph.reach(usable, cuts)
    return {table: ops for table, ops in found.items() if ops}


# Variables


class _Holder:
    """A kept variable with the nodes that its VariableDef must name: the snapshot, and the op that initialises it.

    Attributes:
        variable: the variable.
        lacks: why its initial value is left out of the export; empty if it is kept.
    """

    def __init__(self, graph: Graph, variable: Variable):
        self.graph, self.variable, self.lacks = graph, variable, ""
        self.snapshot = variable.definition.snapshot_name if variable.definition else ""
        self.snapshot = self.snapshot or self._find_snapshot() or ""

    def _find_snapshot(self) -> str | None:
        read, op = "ReadVariableOp" if self.variable.resource else "Identity", self.variable.op_name
        readers = [n for n in self.graph.consumers.get(op, ()) if self.graph.nodes[n].op == read and not _pinned(self.graph, n)]
        return f"{readers[0]}:0" if readers else None

    def snapshots(self) -> list[str]:
        return [self.snapshot] if self.snapshot else []

    def initializer_nodes(self, kept: set[str], cuts: Iterable[str]) -> set[str]:
        """Return the nodes of the initialiser to keep; set `lacks` if the initial value is left out.

        It is left out if it needs an op that cannot be served or a variable that is not kept, or if it is a large constant.
        """
        initializer = self.variable.initializer
        if initializer is None or initializer not in self.graph.nodes:
            self.lacks = "the graph has no op that initialises it"
            return set()

        def foreign(name: str) -> bool:
            return name not in kept and (obstacle(self.graph, name) is not None or self.graph.types[name] in VARIABLE_OPS)

        reached = self.graph.walk([initializer], cuts, lambda name: name in kept or foreign(name))
        new = [name for name in reached if name not in kept]
        nodes = [self.graph.nodes[name] for name in new]
        self.lacks = _describe_foreign([self.graph.nodes[name] for name in new if foreign(name)]) or _describe_too_large(nodes)
        return {initializer} & set(self._assign()) if self.lacks else set(reached)

    def _assign(self) -> list[str]:
        """Return the initialiser's name if it is a plain assignment to the variable, else nothing."""
        node = self.graph.nodes.get(self.variable.initializer or "")
        if node is None or node.op not in ("Assign", "AssignVariableOp"):
            return []
        return [node.name] if split(node.input[0])[0] == self.variable.op_name else []

    def rewired(self) -> dict[str, str]:
        """Return the plain assignment that is changed to assign the variable to itself → the snapshot that it assigns."""
        return dict.fromkeys(self._assign(), self.snapshot) if self.lacks and self.snapshot else {}

    def added(self) -> Iterator[NodeDef]:
        """Yield the nodes that a VariableDef must name and the graph does not have."""
        name, dtype, resource = self.variable.op_name, DTYPE_NAMES[self.variable.dtype], self.variable.resource
        if not self.snapshot:
            yield _node(f"{name}/exportkit_read", "ReadVariableOp" if resource else "Identity", [name], dtype)
        if self.lacks and not self.rewired():
            yield _node(f"{name}/exportkit_assign", "AssignVariableOp" if resource else "Assign", [name, self._read()], dtype)

    def _read(self) -> str:
        return self.snapshot or f"{self.variable.op_name}/exportkit_read:0"

    def definition(self, kept: set[str]) -> VariableDef:
        """Return its VariableDef, the graph's own or a new one, changed to name kept nodes only."""
        definition, name = VariableDef(), self.variable.op_name
        if self.variable.definition:
            definition.CopyFrom(self.variable.definition)
        own = not self.lacks or self.rewired()
        definition.variable_name = f"{name}:0"
        definition.initializer_name = self.variable.initializer if own else f"{name}/exportkit_assign"
        definition.snapshot_name = self._read()
        definition.is_resource = self.variable.resource
        definition.trainable = self.variable.trainable
        if self.variable.slice is not None:
            definition.save_slice_info_def.CopyFrom(self.variable.slice)
        if split(definition.initial_value_name)[0] not in kept or self.lacks:
            definition.ClearField("initial_value_name")
        return definition


def _pinned(graph: Graph, name: str) -> bool:
    """Return whether a node has a control input, as reads in a branch or loop have."""
    return any(index < 0 for _, index in graph.inputs(name))


def _describe_foreign(nodes: Iterable[NodeDef]) -> str:
    node = next(iter(nodes), None)
    return "" if node is None else f"its initial value needs {node.name} ({node.op})"


def _describe_too_large(nodes: Iterable[NodeDef]) -> str:
    tensors = (node.attr["value"].tensor for node in nodes if node.op == "Const")
    size = sum(t.ByteSize() for t in tensors if math.prod(dim.size for dim in t.tensor_shape.dim) > _LARGE >> 4)
    return f"its initial value is a constant of {size / 1e6:.0f} MB" if size > _LARGE else ""


def _node(name: str, op: str, inputs: list[str], dtype: int) -> NodeDef:
    node = NodeDef(name=name, op=op, input=inputs)
    node.attr["dtype" if op in ("ReadVariableOp", "AssignVariableOp") else "T"].type = dtype
    return node


# The new MetaGraphDef


def _write_info(graph: Graph, kept: set[str], meta: MetaGraphDef) -> None:
    source = graph.meta.meta_info_def
    nodes = [node for name, node in graph.nodes.items() if name in kept]
    bodies = (graph.functions[name].node_def for name in graph.called(nodes))
    used = {node.op for node in nodes} | {node.op for body in bodies for node in body}
    meta.meta_info_def.meta_graph_version = source.meta_graph_version
    meta.meta_info_def.tensorflow_version = source.tensorflow_version
    meta.meta_info_def.tensorflow_git_version = source.tensorflow_git_version
    meta.meta_info_def.stripped_op_list.op.extend(op for op in source.stripped_op_list.op if op.name in used)


def _write_nodes(graph: Graph, kept: set[str], holders: list[_Holder], out: GraphDef, clear_devices: bool) -> None:
    out.versions.CopyFrom(graph.meta.graph_def.versions)
    rewired = {op: value for holder in holders for op, value in holder.rewired().items()}
    for name, node in graph.nodes.items():
        if name in kept:
            new = out.node.add()
            new.CopyFrom(node)
            _clean(new, kept, clear_devices)
            _drop_edges(graph, new, kept)
            if name in rewired:
                new.input[1:] = [rewired[name]]
    out.node.extend(node for holder in holders for node in holder.added())


def _clean(node: NodeDef, kept: set[str], clear_devices: bool) -> None:
    node.attr.pop("_output_shapes", None)
    if "_class" in node.attr:
        held = [value for value in node.attr["_class"].list.s if value.removeprefix(b"loc:@").decode(errors="replace") in kept]
        del node.attr["_class"]
        if held:
            node.attr["_class"].list.s.extend(held)
    if clear_devices:
        node.device = ""


def _drop_edges(graph: Graph, node: NodeDef, kept: set[str]) -> None:
    edges = graph.inputs(node.name)
    if any(index < 0 and op not in kept for op, index in edges):
        node.input[:] = [name for name, (op, index) in zip(node.input, edges, strict=True) if index >= 0 or op in kept]


def _write_functions(graph: Graph, kept: set[str], out: GraphDef, clear_devices: bool) -> None:
    called = graph.called(node for name, node in graph.nodes.items() if name in kept)
    for name, function in graph.functions.items():
        if name in called:
            out.library.function.add().CopyFrom(function)
            if clear_devices:
                for node in out.library.function[-1].node_def:
                    node.device = ""
    out.library.gradient.extend(g for g in graph.meta.graph_def.library.gradient if g.function_name in called)


def _write_collections(
    graph: Graph,
    holders: list[_Holder],
    tables: Mapping[str, tuple[str, ...]],
    assets: Mapping[str, str],
    kept: set[str],
    meta: MetaGraphDef,
) -> None:
    definitions = {h.variable.op_name: h.definition(kept).SerializeToString(deterministic=True) for h in holders}
    for collection in VARIABLE_COLLECTIONS:
        held = [op for op in _held_by(graph, collection) if op in definitions]
        if held and collection not in _LOCAL:
            meta.collection_def[collection].bytes_list.value.extend(definitions[op] for op in held)
    present = set(_held_by(graph, "variables"))
    promoted = [data for op, data in definitions.items() if op not in present]
    if promoted:
        meta.collection_def["variables"].bytes_list.value.extend(promoted)
    if tables:
        meta.collection_def["table_initializer"].node_list.value.extend(dict.fromkeys(op for t in tables.values() for op in t))
    if assets:
        meta.collection_def["asset_filepaths"].node_list.value.extend(f"{op}:0" for op in assets)


def _held_by(graph: Graph, collection: str) -> dict[str, None]:
    """Return the op names of the variables in a collection, each once, in its order."""
    return dict.fromkeys(split(definition.variable_name)[0] for definition in graph.members(collection))
