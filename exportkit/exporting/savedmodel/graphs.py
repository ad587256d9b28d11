"""The exported graphs: pruned meta graphs imported behind new placeholders, with ops that compute inputs and outputs."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import tensorflow as tf

from exportkit.contract import BoundTensor
from exportkit.errors import BindingError, Problem
from exportkit.exporting.savedmodel import adapters
from exportkit.exporting.savedmodel.checks import asset_clashes, pinning, unserved_ops
from exportkit.metagraph.tensors import Facts
from exportkit.planning import auditing, serving_rules
from exportkit.planning.prepare import Part, Prepared
from exportkit.protos import saver_pb2
from exportkit.spec import Constant, ExportPlan, Lookup, ParseExample, Placeholder, Tensor, TopK

v1 = tf.compat.v1

# import_meta_graph adds a Saver of its own to a graph that comes without one
_INERT_SAVER = saver_pb2.SaverDef(
    version=saver_pb2.SaverDef.V2, filename_tensor_name="none", save_tensor_name="none", restore_op_name="none"
)


@dataclass
class BoundGraph:
    """A meta graph in a tf.Graph of its own.

    Attributes:
        graph: the graph that is exported.
        fed: fed binding → the tensor before `ensure_shape`, which signatures name.
        checked: fed binding → the tensor behind `ensure_shape`, which the model reads.
        values: binding reference → output tensor.
        init_op: initialises the tables and nothing else; None where there are no tables.
    """

    part: Part
    graph: tf.Graph
    fed: dict[str, tf.Tensor] = field(default_factory=dict)
    checked: dict[str, tf.Tensor] = field(default_factory=dict)
    values: dict[str, tf.Tensor] = field(default_factory=dict)
    init_op: tf.Operation | None = None


def bind(plan: ExportPlan, prepared: Prepared) -> dict[str, BoundGraph]:
    """Build the exported graphs, one for each distinct pair of pruned graph and device.

    Returns:
        Meta graph key → bound graph; meta graphs with the same pruned graph and device share one.

    Raises:
        BindingError: a graph can do what the config does not allow, an op is unknown to this TensorFlow or has no CPU kernel, a
            shape or dtype does not fit now that it is known exactly, or an asset or a vocabulary is missing.
    """
    auditing.demand(plan, prepared)  # an import alone can write files: it evaluates what it takes for a constant
    problems = [p for part in prepared.parts.values() for p in unserved_ops(part)]
    if problems:
        raise BindingError(*dict.fromkeys(problems))
    graphs: dict[tuple[int, str | None], BoundGraph] = {}
    bound: dict[str, BoundGraph] = {}
    for key, part in prepared.parts.items():
        identity = id(part.pruned), plan.meta_graphs[key].device
        if identity not in graphs:
            graphs[identity] = _bind_one(plan, part, plan.meta_graphs[key].device)
        bound[key] = graphs[identity]
        facts = {ref: Facts(t.dtype.base_dtype.name, adapters.dims(t)) for ref, t in bound[key].values.items()}
        for name in part.wiring.signatures:
            problems += serving_rules.demands(f"signatures.{name}", plan.signatures[name], facts)
    problems += asset_clashes(bound.graph for bound in graphs.values())
    if problems:
        raise BindingError(*dict.fromkeys(problems))
    return bound


def _bind_one(plan: ExportPlan, part: Part, device: str | None) -> BoundGraph:
    graph = tf.Graph()
    bound = BoundGraph(part, graph)
    with graph.as_default():
        scope = _free_scope(part, "inputs")
        with v1.name_scope(scope + "/"):
            _feed(plan, bound)
            constants = {tensor: _constant(plan, part, tensor) for tensor in part.wiring.constants}
        replaced = {part.wiring.inputs[name]: tensor for name, tensor in bound.checked.items()} | constants
        _import(part, {cut: replaced[cut] for cut in part.pruned.cuts}, device)
        with v1.name_scope(_free_scope(part, "outputs") + "/"):
            _compute(plan, bound, replaced)
        bound.init_op = _init_op(graph, part)
    return bound


def _free_scope(part: Part, name: str) -> str:
    """Return a name scope that no node of the imported graph is in."""
    taken = {node.name.split("/", 1)[0] for node in part.pruned.meta.graph_def.node}
    while name in taken:
        name = f"serving_{name}"
    return name


def _feed(plan: ExportPlan, bound: BoundGraph) -> None:
    """Make the placeholders: first of serialized examples, then of the inputs, which these or a request feed."""
    parsed: dict[str, tf.Tensor] = {}
    signatures = [plan.signatures[key] for key in bound.part.wiring.signatures]
    for name in sorted({ref for signature in signatures for ref in signature.inputs.values()}):
        binding = plan.bindings[name]
        if isinstance(binding, ParseExample):
            serialized = v1.placeholder(tf.string, [None], name)
            bound.fed[name] = bound.values[name] = serialized
            parsed |= adapters.parse(name, binding, serialized)
    for name in bound.part.wiring.inputs:
        known = bound.part.facts[name]
        bound.fed[name] = bound.values[name] = adapters.placeholder(name, known, parsed.get(name))
        bound.checked[name] = adapters.checked(bound.fed[name], known, plan.ensure_shape)


def _constant(plan: ExportPlan, part: Part, tensor: str) -> tf.Tensor:
    value, dtype, shape = part.wiring.constants[tensor], part.model.graph.dtype(tensor), part.model.graph.shape(tensor)
    shape = shape if shape is not None and None not in shape else None
    try:
        return tf.constant(value, dtype, shape, name="baked")
    except (ValueError, TypeError) as cause:
        name = next(n for n, t in part.wiring.names.items() if t == tensor and isinstance(plan.bindings[n], Constant))
        raise BindingError(
            Problem(f"bindings.{name}.constant", f"{value!r} cannot be a {dtype} of shape {shape}: {cause}")
        ) from None


def _import(part: Part, replaced: Mapping[str, tf.Tensor], device: str | None) -> None:
    meta = part.pruned.meta
    meta.saver_def.CopyFrom(_INERT_SAVER)
    with v1.device(pinning(device) if device else None):
        try:
            v1.train.import_meta_graph(meta, input_map=dict(replaced))
        except (ValueError, TypeError, KeyError, tf.errors.OpError) as cause:
            text = " ".join(str(cause).split())
            raise BindingError(
                Problem(f"meta_graphs.{part.key}", f"TensorFlow cannot import the serving graph: {text}")
            ) from cause
        finally:
            meta.ClearField("saver_def")


def _compute(plan: ExportPlan, bound: BoundGraph, replaced: Mapping[str, tf.Tensor]) -> None:
    """Add the outputs that signatures name and the values that they are computed from, each once."""
    for key in bound.part.wiring.signatures:
        for ref in plan.signatures[key].outputs.values():
            if not isinstance(plan.bindings.get(ref), ParseExample):
                _value(ref, plan, bound, replaced)


def _value(ref: str, plan: ExportPlan, bound: BoundGraph, replaced: Mapping[str, tf.Tensor]) -> tf.Tensor:
    """Return the tensor of a binding reference, adding its ops to the graph on first use."""
    if ref in bound.values:
        return bound.values[ref]
    name = plan.bindings.offers()[ref]
    spec = plan.bindings[name]
    if isinstance(spec, TopK):
        values, indices = adapters.top_k(name, spec, _value(spec.top_k, plan, bound, replaced))
        bound.values |= {f"{name}.values": values, f"{name}.indices": indices}
    elif isinstance(spec, Lookup):
        bound.values[name] = adapters.labels(name, spec, _value(spec.lookup, plan, bound, replaced))
    elif isinstance(spec, Tensor | Placeholder):
        tensor = bound.part.wiring.names[name]
        bound.values[name] = replaced[tensor] if tensor in replaced else bound.graph.get_tensor_by_name(tensor)
    return bound.values[ref]


def _init_op(graph: tf.Graph, part: Part) -> tf.Operation | None:
    """Group the tables' initialisers and nothing else: an op that assigns a variable here would make the weights random."""
    initializers = graph.get_collection(v1.GraphKeys.TABLE_INITIALIZERS)
    assigning = [op.name for op in _ancestors(initializers) if op.type.startswith("Assign")]
    if assigning:
        what = f"filling its tables would assign variables anew: {', '.join(sorted(assigning))}"
        raise BindingError(
            Problem(f"meta_graphs.{part.key}", what, "build the tables without control dependencies on variables")
        )
    return tf.group(*initializers, name="init_tables") if initializers else None


def _ancestors(ops: Iterable[tf.Operation]) -> set[tf.Operation]:
    """Return `ops` and all ops that have to run before them."""
    todo, found = list(ops), set()
    while todo:
        op = todo.pop()
        if op not in found:
            found.add(op)
            todo += [*op.control_inputs, *(tensor.op for tensor in op.inputs)]
    return found


def bound_tensors(bound: Mapping[str, BoundGraph]) -> dict[str, dict[str, BoundTensor]]:
    """Return the tensors as post steps get them: meta graph key → binding reference → tensor."""
    return {key: {ref: _bound_tensor(ref, graph) for ref in graph.values} for key, graph in bound.items()}


def _bound_tensor(ref: str, bound: BoundGraph) -> BoundTensor:
    tensor = bound.fed.get(ref, bound.values[ref])
    return BoundTensor(bound.part.wiring.names.get(ref), tensor.name, tensor.dtype.base_dtype.name, adapters.dims(tensor))
