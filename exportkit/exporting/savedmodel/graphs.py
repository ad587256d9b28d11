"""The exported graphs, assembled as protos: pruned training graphs behind new placeholders, with nodes that compute inputs and
outputs and those that restore the variables. TensorFlow's C++ core then imports each once: it checks every node and infers
every shape.
"""

from collections.abc import Iterable, Mapping

from exportkit.core.host import Host
from exportkit.errors import BindingError, Problem
from exportkit.exporting.savedmodel import adapters
from exportkit.exporting.savedmodel.attributes import remove_unknown
from exportkit.exporting.savedmodel.bound import ASSETS, MAIN_OP, TABLES, TRAIN_OP, BoundGraph, assets
from exportkit.exporting.savedmodel.checker import Checker
from exportkit.exporting.savedmodel.checks import asset_clashes, unserved_ops
from exportkit.exporting.savedmodel.devices import placed
from exportkit.exporting.savedmodel.inference import infer
from exportkit.exporting.savedmodel.saver import add_saver
from exportkit.metagraph.building import GraphBuilder
from exportkit.metagraph.tensors import Facts, output_types, split
from exportkit.operations.base import Feeder, Operation
from exportkit.operations.bindings import ask, fed_values, offered_by
from exportkit.planning import auditing, serving_rules
from exportkit.planning.prepare import Part, Prepared
from exportkit.protos import GraphDef, MetaGraphDef, NodeDef, OpDef, dtype_name
from exportkit.spec import Constant, ExportPlan, Placeholder, Tensor


def bind(plan: ExportPlan, prepared: Prepared, host: Host) -> dict[str, BoundGraph]:
    """Build the exported graphs, one for each distinct pair of pruned graph and device.

    Args:
        host: the process that imports them.

    Returns:
        Meta graph key → bound graph; meta graphs with the same pruned graph and device share one.

    Raises:
        BindingError: a graph can do what the config does not allow, an op is unknown to this TensorFlow or has no CPU kernel, a
            shape or dtype does not fit now that it is known exactly, TensorFlow does not import the graph, or an asset or a
            vocabulary is missing.
    """
    auditing.demand(plan, prepared)  # an import alone can write files: it evaluates what it takes for a constant
    core = Checker(host)
    problems = [p for part in prepared.parts.values() for p in unserved_ops(part, core)]
    if problems:
        raise BindingError(*dict.fromkeys(problems))
    graphs: dict[tuple[int, str | None], BoundGraph] = {}
    bound: dict[str, BoundGraph] = {}
    for key, part in prepared.parts.items():
        identity = id(part.pruned), plan.meta_graphs[key].device
        if identity not in graphs:
            graphs[identity] = _bind_one(plan, part, core)
        bound[key] = graphs[identity]
        facts = {ref: bound[key].facts[tensor] for ref, tensor in bound[key].values.items()}
        for name in part.wiring.signatures:
            problems += serving_rules.demands(f"signatures.{name}", plan.signatures[name], facts)
    problems += asset_clashes(sorted({path for _, path in assets(bound)}) for bound in graphs.values())
    if problems:
        raise BindingError(*dict.fromkeys(problems))
    return bound


def _bind_one(plan: ExportPlan, part: Part, core: Checker) -> BoundGraph:
    bound = BoundGraph(part, MetaGraphDef(), core.ops, core.version)
    source = part.pruned.meta
    for name, collection in source.collection_def.items():
        bound.meta.collection_def[name].CopyFrom(collection)
    bound.meta.graph_def.versions.CopyFrom(source.graph_def.versions)
    bound.meta.graph_def.library.CopyFrom(source.graph_def.library)
    graph = GraphBuilder(bound.meta.graph_def, core.ops)
    with graph.scope(_free_scope(part, "inputs")):
        _feed(plan, bound, graph)
        constants = {tensor: _constant(plan, bound, graph, tensor) for tensor in part.wiring.constants}
    replaced = {part.wiring.inputs[name]: tensor for name, tensor in bound.checked.items()} | constants
    device = plan.meta_graphs[part.key].device
    graph.extend(placed(_training_nodes(part, replaced, core.ops), device, core))
    for name, tensor in part.wiring.inputs.items():
        if tensor in part.wiring.defaulted:
            graph.default(bound.fed[name], tensor)
    with graph.scope(_free_scope(part, "outputs")) as computed:
        _compute(plan, bound, graph, replaced)
    for collection, names in ((TABLES, graph.initializers), (ASSETS, graph.assets)):
        if names:
            bound.meta.collection_def[collection].node_list.value.extend(names)
    _init_op(bound, graph)
    if part.wiring.train_op:
        bound.meta.collection_def[TRAIN_OP].node_list.value.append(part.wiring.train_op)
    snapshots = {op: definition.snapshot_name for op, definition in bound.variables().items()}
    if saver := add_saver(graph, part.pruned.variables, snapshots):
        bound.meta.saver_def.CopyFrom(saver)
    infer(plan, bound, core, computed)
    return bound


def _free_scope(part: Part, name: str) -> str:
    """Return a name scope that no node of the training graph is in."""
    taken = {node.name.split("/", 1)[0] for node in part.pruned.meta.graph_def.node}
    while name in taken:
        name = f"serving_{name}"
    return name


# Nodes


def _feed(plan: ExportPlan, bound: BoundGraph, graph: GraphBuilder) -> None:
    """Add the placeholders: first of feeders, then of the inputs, which these or a request feed."""
    computed: dict[str, str] = {}
    signatures = [plan.signatures[key] for key in bound.part.wiring.signatures]
    feeders = plan.bindings.feeders(signatures)
    for name, feeder in sorted(feeders.items(), key=lambda item: (item[1].feedable, item[0])):
        taken = adapters.placeholder(graph, name, feeder.taken, computed.get(name))
        bound.fed[name] = bound.values[name] = taken
        bound.facts[taken] = feeder.taken
        computed |= fed_values(name, feeder, "add", graph, name, taken)
    for name, tensor in bound.part.wiring.inputs.items():
        known = bound.part.facts[name]
        known = Facts(_dtype(known.dtype, bound.part, tensor, f"bindings.{name}", bound.ops), known.shape)
        bound.fed[name] = bound.values[name] = adapters.placeholder(graph, name, known, computed.get(name))
        bound.facts[bound.fed[name]] = known
        bound.checked[name] = adapters.checked(graph, bound.fed[name], known, plan.ensure_shape)


def _constant(plan: ExportPlan, bound: BoundGraph, graph: GraphBuilder, tensor: str) -> str:
    part = bound.part
    value, shape = part.wiring.constants[tensor], part.model.graph.shape(tensor)
    shape = shape if shape is not None and None not in shape else None
    name = next(n for n, t in part.wiring.names.items() if t == tensor and isinstance(plan.bindings[n], Constant))
    dtype = _dtype(part.model.graph.dtype(tensor), part, tensor, f"bindings.{name}", bound.ops)
    try:
        return graph.constant(value, dtype, shape, name="baked")  # type: ignore[arg-type]  # no size is None
    except (ValueError, TypeError, KeyError, OverflowError) as cause:
        raise BindingError(
            Problem(f"bindings.{name}.constant", f"{value!r} cannot be a {dtype} of shape {shape}: {cause}")
        ) from None


def _dtype(known: str | None, part: Part, tensor: str, where: str, ops: Mapping[str, OpDef]) -> str:
    """Return a tensor's dtype, from TensorFlow's op where the meta graph does not describe it."""
    name, index = split(tensor)
    node = part.model.graph.nodes[name]
    if known is None and node.op in ops:
        known = dtype_name(list(output_types(node, ops[node.op]))[index])
    if known is None:
        raise BindingError(
            Problem(where, f"the dtype of '{tensor}' ({node.op}) is not known", "write dtype: float32 or the like")
        )
    return known


def _training_nodes(part: Part, replaced: Mapping[str, str], ops: Mapping[str, OpDef]) -> list[NodeDef]:
    """Return the nodes of the serving subgraph, which take new tensors in place of the cut ones."""
    pruned = part.pruned
    edges = {split(cut): replaced[cut].removesuffix(":0") for cut in pruned.cuts}
    nodes = GraphDef()
    nodes.node.extend(pruned.meta.graph_def.node)
    for node in nodes.node if edges else ():
        taken = list(map(split, node.input))
        if any(edge in edges for edge in taken):
            node.input[:] = [edges.get(edge, name) for edge, name in zip(taken, node.input, strict=True)]
    remove_unknown(nodes.node, pruned.meta.meta_info_def.stripped_op_list.op, ops)
    return list(nodes.node)


def _compute(plan: ExportPlan, bound: BoundGraph, graph: GraphBuilder, replaced: Mapping[str, str]) -> None:
    """Add the outputs that signatures name and the values that they are computed from, each once."""
    for key in bound.part.wiring.signatures:
        for ref in plan.signatures[key].outputs.values():
            if not isinstance(plan.bindings.get(ref), Feeder):
                _value(ref, plan, bound, graph, replaced)


def _value(ref: str, plan: ExportPlan, bound: BoundGraph, graph: GraphBuilder, replaced: Mapping[str, str]) -> str:
    """Return the tensor of a binding reference, adding its nodes to the graph on first use."""
    if ref in bound.values:
        return bound.values[ref]
    name = plan.bindings.offers()[ref]
    spec = plan.bindings[name]
    if isinstance(spec, Operation):
        inputs = [_value(one, plan, bound, graph, replaced) for one in spec.refs()]
        bound.values |= zip(offered_by(name, spec), ask(name, spec, "add", graph, name, inputs), strict=True)
    elif isinstance(spec, Tensor | Placeholder):
        tensor = bound.part.wiring.names[name]
        bound.values[name] = replaced.get(tensor, tensor)
    return bound.values[ref]


def _init_op(bound: BoundGraph, graph: GraphBuilder) -> None:
    """Group the tables' initialisers and nothing else: an op that assigns a variable here would make the weights random."""
    nodes = {node.name: node for node in bound.meta.graph_def.node}
    assigning = [name for name in _ancestors(bound.collection(TABLES), nodes) if nodes[name].op.startswith("Assign")]
    if assigning:
        what = f"filling its tables would assign variables anew: {', '.join(sorted(assigning))}"
        raise BindingError(
            Problem(f"meta_graphs.{bound.part.key}", what, "build the tables without control dependencies on variables")
        )
    if initializers := bound.collection(TABLES):
        grouped = graph.add_operation("NoOp", name="init_tables", control=initializers)
        bound.meta.collection_def[MAIN_OP].node_list.value.append(grouped)


def _ancestors(names: Iterable[str], nodes: Mapping[str, NodeDef]) -> set[str]:
    """Return nodes and all that have to run before them."""
    todo, found = list(names), set()
    while todo:
        name = todo.pop()
        if name not in found and name in nodes:
            found.add(name)
            todo += [split(edge)[0] for edge in nodes[name].input]
    return found
