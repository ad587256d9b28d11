"""The room that lives inside TensorFlow: binds tensors in a fresh graph, signs, and writes the SavedModel.

A pruned meta graph is imported behind fresh placeholders; what computes inputs (tf.Example parsing) stands before them and what
computes outputs (top_k, labels) behind it. SavedModelBuilder does the writing; the saver that it is handed copies the
variables' bytes from the checkpoint instead of asking a session for them.
"""

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from exportkit import binding, weights
from exportkit.binding import Facts
from exportkit.bundle import BundleWriter
from exportkit.errors import BindingError, Problem
from exportkit.metagraph import read_saved_model
from exportkit.plugin import BoundTensor
from exportkit.protos import MetaGraphDef, meta_graph_pb2, saver_pb2
from exportkit.runtime import quiet
from exportkit.serving import Part, Prepared
from exportkit.spec import METHODS, Constant, ExportPlan, Lookup, ParseExample, Placeholder, Tensor, TopK

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
        fed: fed binding → what a signature names: the tensor before `ensure_shape`.
        checked: fed binding → the same behind `ensure_shape`, which the model reads.
        values: binding reference → output tensor.
        init_op: initialises the tables and nothing else; None where there are none.
    """

    part: Part
    graph: tf.Graph
    fed: dict[str, tf.Tensor] = field(default_factory=dict)
    checked: dict[str, tf.Tensor] = field(default_factory=dict)
    values: dict[str, tf.Tensor] = field(default_factory=dict)
    init_op: tf.Operation | None = None


def bind(plan: ExportPlan, prepared: Prepared) -> dict[str, BoundGraph]:
    """Build the exported graphs: one for each distinct pruned graph.

    Returns:
        Meta graph key → bound graph; meta graphs that share a pruned graph and a device share it.

    Raises:
        BindingError: an op is unknown to this TensorFlow or has no CPU kernel, a shape or dtype does not fit once it is known
            exactly, an asset or a vocabulary is missing.
    """
    problems = [p for part in prepared.parts.values() for p in _unserved_ops(part)]
    if problems:
        raise BindingError(*dict.fromkeys(problems))
    graphs: dict[tuple[int, str | None], BoundGraph] = {}
    bound: dict[str, BoundGraph] = {}
    for key, part in prepared.parts.items():
        identity = id(part.pruned), plan.meta_graphs[key].device
        if identity not in graphs:
            graphs[identity] = _bind_one(plan, part, plan.meta_graphs[key].device)
        bound[key] = graphs[identity]
        facts = {ref: Facts(t.dtype.base_dtype.name, _dims(t)) for ref, t in bound[key].values.items()}
        for name in part.wiring.signatures:
            problems += binding.rules(f"signatures.{name}", plan.signatures[name], facts)
    problems += _asset_clashes(graphs.values())
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
    """A scope that no node of the imported graph is in."""
    taken = {node.name.split("/", 1)[0] for node in part.pruned.meta.graph_def.node}
    while name in taken:
        name = f"serving_{name}"
    return name


def _feed(plan: ExportPlan, bound: BoundGraph) -> None:
    """Make the placeholders: serialized examples first, then what they, or a request, feed."""
    parsed: dict[str, tf.Tensor] = {}
    signatures = [plan.signatures[key] for key in bound.part.wiring.signatures]
    for name in sorted({ref for signature in signatures for ref in signature.inputs.values()}):
        if isinstance(plan.bindings[name], ParseExample):
            serialized = v1.placeholder(tf.string, [None], name)
            bound.fed[name] = bound.values[name] = serialized
            parsed |= _parse(name, plan.bindings[name], serialized)
    for name in bound.part.wiring.inputs:
        known = bound.part.facts[name]
        bound.fed[name] = bound.values[name] = _placeholder(name, known, parsed.get(name))
        bound.checked[name] = _checked(bound.fed[name], known, plan.ensure_shape)


def _parse(name: str, example: ParseExample, serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    features = {
        key: tf.io.FixedLenFeature(feature.shape, feature.dtype, _default(feature))
        for key, feature in example.parse_example.items()
    }
    values = tf.io.parse_example(serialized, features, name=f"{name}_parsed")
    return {target: values[key] for key, target in binding.targets(example).items()}


def _default(feature: Any) -> Any:
    """A feature's default in the feature's shape; a scalar stands for every element."""
    if feature.default is None:
        return None
    return np.broadcast_to(np.array(feature.default, tf.dtypes.as_dtype(feature.dtype).as_numpy_dtype), feature.shape)


def _placeholder(name: str, known: Facts, parsed: tf.Tensor | None) -> tf.Tensor:
    if parsed is None:
        return v1.placeholder(known.dtype, known.shape, name)
    try:
        value = tf.cast(parsed, known.dtype) if parsed.dtype.name != known.dtype else parsed
        return v1.placeholder_with_default(value, known.shape, name)
    except (ValueError, TypeError, tf.errors.OpError):
        shape = Facts(parsed.dtype.name, _dims(parsed))
        raise BindingError(
            Problem(
                f"bindings.{name}", f"is {known}, which the parsed feature {shape} does not fit", "mend the feature's shape"
            )
        ) from None


def _checked(tensor: tf.Tensor, known: Facts, ensure: bool) -> tf.Tensor:
    if not ensure or known.shape is None:
        return tensor
    return tf.ensure_shape(tensor, known.shape, name=f"{tensor.op.name.rsplit('/', 1)[-1]}_checked")


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
    with v1.device(_pinning(device) if device else None):
        try:
            v1.train.import_meta_graph(meta, input_map=dict(replaced))
        except (ValueError, TypeError, KeyError, tf.errors.OpError) as cause:
            text = " ".join(str(cause).split())
            raise BindingError(
                Problem(f"meta_graphs.{part.key}", f"TensorFlow cannot import the serving graph: {text}")
            ) from cause
        finally:
            meta.ClearField("saver_def")


def _pinning(device: str):
    """Pin the ops that have a kernel for the device; a server without soft placement would refuse the others there."""
    kind = v1.DeviceSpec.from_string(device).device_type

    def pin(node: Any) -> str:
        return device if kind in _kernel_devices(node.type) else ""

    return pin


def _kernel_devices(op: str) -> set[str]:
    from tensorflow.python.framework import kernels

    return {kernel.device_type for kernel in kernels.get_registered_kernels_for_op(op).kernel}


_NO_KERNEL_NEEDED = {"Placeholder", "PlaceholderWithDefault", "NoOp", "_Arg", "_Retval"}


def _unserved_ops(part: Part) -> Iterable[Problem]:
    """Ops that this TensorFlow does not know, or has no CPU kernel for (registered is not enough)."""
    from tensorflow.python.framework import op_def_registry

    seen: dict[str, str] = {}
    for node in part.pruned.meta.graph_def.node:
        seen.setdefault(node.op, node.name)
    library = {function.signature.name for function in part.pruned.meta.graph_def.library.function}
    where = f"meta_graphs.{part.key}"
    for op, name in seen.items():
        if op in library:
            continue
        if op_def_registry.get(op) is None:
            do = "bind an input behind it, or an output before it"
            yield Problem(where, f"op {op} (node '{name}') is not known to TensorFlow {tf.__version__}, nor to its server", do)
        elif op not in _NO_KERNEL_NEEDED and not {"CPU", "DEFAULT"} & (_kernel_devices(op) or {"CPU"}):
            yield Problem(
                where, f"op {op} (node '{name}') has no CPU kernel", "bind an input behind it, or an output before it"
            )


def _compute(plan: ExportPlan, bound: BoundGraph, replaced: Mapping[str, tf.Tensor]) -> None:
    """The outputs that signatures name, and what they are computed from; each once."""
    for key in bound.part.wiring.signatures:
        for ref in plan.signatures[key].outputs.values():
            if not isinstance(plan.bindings.get(ref), ParseExample):
                _value(ref, plan, bound, replaced)


def _value(ref: str, plan: ExportPlan, bound: BoundGraph, replaced: Mapping[str, tf.Tensor]) -> tf.Tensor:
    if ref in bound.values:
        return bound.values[ref]
    name = binding.offers(plan.bindings)[ref]
    spec = plan.bindings[name]
    if isinstance(spec, TopK):
        values, indices = _top_k(name, spec, _value(spec.top_k, plan, bound, replaced))
        bound.values |= {f"{name}.values": values, f"{name}.indices": indices}
    elif isinstance(spec, Lookup):
        bound.values[name] = _labels(name, spec, _value(spec.lookup, plan, bound, replaced))
    elif isinstance(spec, Tensor | Placeholder):
        tensor = bound.part.wiring.names[name]
        bound.values[name] = replaced[tensor] if tensor in replaced else bound.graph.get_tensor_by_name(tensor)
    return bound.values[ref]


def _top_k(name: str, spec: TopK, scores: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    size = None if scores.shape.rank is None or scores.shape.rank == 0 else scores.shape[-1]
    if scores.shape.rank == 0 or (size is not None and spec.k > size):
        what = "is a scalar" if scores.shape.rank == 0 else f"has {size} entries in its last axis"
        raise BindingError(
            Problem(f"bindings.{name}.k", f"is {spec.k}, but '{spec.top_k}' {what}", f"write {size or 1} or less")
        )
    return tf.math.top_k(scores, spec.k, name=name)


def _labels(name: str, spec: Lookup, indices: tf.Tensor) -> tf.Tensor:
    if not indices.dtype.is_integer:
        what = f"'{spec.lookup}' is {indices.dtype.name}, not integers"
        raise BindingError(Problem(f"bindings.{name}.lookup", what, "look up the indices of a top_k"))
    lines = tf.lookup.TextFileInitializer(
        str(spec.vocabulary), tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER, tf.string, tf.lookup.TextFileIndex.WHOLE_LINE
    )
    table = tf.lookup.StaticHashTable(lines, spec.default, name=f"{name}_table")
    return table.lookup(tf.cast(indices, tf.int64), name=name)


def _init_op(graph: tf.Graph, part: Part) -> tf.Operation | None:
    """The tables' initialisers and nothing else: anything that assigns a variable here would serve random weights."""
    initializers = graph.get_collection(v1.GraphKeys.TABLE_INITIALIZERS)
    return tf.group(*initializers, name="init_tables") if initializers else None


def _asset_clashes(graphs: Iterable[BoundGraph]) -> Iterable[Problem]:
    """Assets that are not there (SavedModelBuilder skips them silently), and two of one name (it would keep the last)."""
    paths: dict[str, str] = {}
    for bound in graphs:
        for path in asset_paths(bound.graph):
            if not os.path.isfile(path):
                yield Problem(
                    path, "the graph reads this file as an asset, and it is not there", "put it back, or bake its content"
                )
            twin = paths.setdefault(os.path.basename(path), path)
            if twin != path and Path(twin).read_bytes() != Path(path).read_bytes():
                yield Problem(path, f"and {twin} are different assets of one name", "rename one of them")


def asset_paths(graph: tf.Graph) -> list[str]:
    """The files that a graph reads as assets."""
    tensors = graph.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
    return sorted({tf.get_static_value(tensor).item().decode() for tensor in map(_as_tensor, tensors)})


def _as_tensor(item: Any) -> tf.Tensor:
    return item.outputs[0] if isinstance(item, tf.Operation) else item


def write(directory: Path, plan: ExportPlan, prepared: Prepared, bound: Mapping[str, BoundGraph]) -> dict[str, MetaGraphDef]:
    """Write the SavedModel into the empty `directory`.

    Returns:
        Meta graph key → the MetaGraphDef as written.

    Raises:
        OSError: the disk refused.
    """
    builder = v1.saved_model.Builder(os.fspath(directory))
    first = next(iter(bound))
    finished: set[int] = set()
    for key, graph in bound.items():
        new = id(graph) not in finished
        finished.add(id(graph))
        _add(builder, key, graph, plan, prepared, first=key == first, new=new)
    builder.save()
    return dict(zip(bound, read_saved_model(directory).meta_graphs, strict=True))


def _add(builder: Any, key: str, bound: BoundGraph, plan: ExportPlan, prepared: Prepared, *, first: bool, new: bool) -> None:
    tags, wiring = plan.meta_graphs[key].tags, bound.part.wiring
    with bound.graph.as_default():
        options = {
            "signature_def_map": {name: _signature_def(plan, bound, name) for name in wiring.signatures},
            "assets_collection": v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS) if new else None,
            "main_op": bound.init_op if new else None,
            "strip_default_attrs": plan.strip_default_attrs,
            "saver": _CopyingSaver(bound, prepared),
        }
        if new and wiring.train_op:
            v1.add_to_collection("saved_model_train_op", bound.graph.get_operation_by_name(wiring.train_op))
        if first:
            builder.add_meta_graph_and_variables(None, tags, **options)  # the saver needs no session
        else:
            builder.add_meta_graph(tags, **options)


def _signature_def(plan: ExportPlan, bound: BoundGraph, key: str) -> Any:
    signature = plan.signatures[key]
    definition = meta_graph_pb2.SignatureDef(method_name=METHODS[signature.method])
    for alias, ref in signature.inputs.items():
        definition.inputs[alias].CopyFrom(_tensor_info(bound.fed[ref]))
    for alias, ref in signature.outputs.items():
        definition.outputs[alias].CopyFrom(_tensor_info(_output(ref, bound)))
    return definition


def _tensor_info(tensor: tf.Tensor) -> Any:
    dtype, shape = tensor.dtype.base_dtype.as_datatype_enum, tensor.shape.as_proto()
    return meta_graph_pb2.TensorInfo(name=tensor.name, dtype=dtype, tensor_shape=shape)


def _output(ref: str, bound: BoundGraph) -> tf.Tensor:
    """An output's tensor; an input that is handed through comes from behind its shape check."""
    return bound.checked.get(ref, bound.values[ref])


class _CopyingSaver(v1.train.Saver):
    """A Saver whose checkpoint is copied, byte for byte, from the one that the values come from.

    Its restore ops are TensorFlow's own; only `save` is different: it writes the union of all meta graphs' variables.
    """

    def __init__(self, bound: BoundGraph, prepared: Prepared):
        self._bound, self._prepared = bound, prepared
        super().__init__(variables_by_name(bound), allow_empty=True)

    def save(self, sess: None, save_path: str, **_: Any) -> str:
        coverage = self._prepared.coverage
        if coverage.saved:
            with BundleWriter(save_path) as writer:
                for name, (bundle, key) in self._prepared.sources.items():
                    writer.copy(name, bundle, key)
                for name, value in _initial_values(self._bound, coverage.initialized).items():
                    writer.add(name, value)
        return save_path


def variables_by_name(bound: BoundGraph) -> dict[str, tf.Variable | list[tf.Variable]]:
    """The graph's variables by the names that they are saved under; the parts of a partitioned one as a list."""
    by_op = {variable.op.name: variable for variable in bound.graph.get_collection(v1.GraphKeys.GLOBAL_VARIABLES)}
    named = weights.saved(bound.part.pruned.variables.values())
    return {name: _one_or_parts([by_op[p.op_name] for p in v.parts], v.parts[0].slice) for name, v in sorted(named.items())}


def _one_or_parts(variables: list[tf.Variable], part: Any) -> tf.Variable | list[tf.Variable]:
    return variables[0] if part is None else variables


def _initial_values(bound: BoundGraph, names: Sequence[str]) -> dict[str, np.ndarray]:
    """What the initialisers of the named variables give; the parts of a partitioned one put together."""
    if not names:
        return {}
    variables = variables_by_name(bound)
    with quiet():
        session = v1.Session(graph=bound.graph)
    with session:
        return {name: _initial_value(session, variables[name]) for name in names if name in variables}


def _initial_value(session: tf.compat.v1.Session, variable: tf.Variable | list[tf.Variable]) -> np.ndarray:
    if not isinstance(variable, list):
        session.run(variable.initializer)
        return session.run(variable)
    places = [part._save_slice_info for part in variable]  # the only way to a part's place in its variable
    whole = np.zeros(places[0].full_shape, variable[0].dtype.base_dtype.as_numpy_dtype)
    for part, place in zip(variable, places, strict=True):
        box = tuple(slice(o, o + n) for o, n in zip(place.var_offset, place.var_shape, strict=True))
        whole[box] = _initial_value(session, part)
    return whole


def bound_tensors(bound: Mapping[str, BoundGraph]) -> dict[str, dict[str, BoundTensor]]:
    """What post steps are handed: meta graph key → binding reference → tensor."""
    return {key: {ref: _bound_tensor(ref, graph) for ref in graph.values} for key, graph in bound.items()}


def _bound_tensor(ref: str, bound: BoundGraph) -> BoundTensor:
    tensor = bound.fed.get(ref, bound.values[ref])
    return BoundTensor(bound.part.wiring.names.get(ref), tensor.name, tensor.dtype.base_dtype.name, _dims(tensor))


def _dims(tensor: tf.Tensor) -> tuple[int | None, ...] | None:
    return None if tensor.shape.rank is None else tuple(tensor.shape.as_list())
