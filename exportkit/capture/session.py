"""A live graph and the values in its session → `SourceModel`: a meta graph and a checkpoint.

Nothing is added to the graph, which may be finalized: values are fetched variable by variable through the reads that the
variables have anyway, and streamed into a checkpoint.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exportkit.checkpoint import Bundle, BundleWriter
from exportkit.contract import SourceModel
from exportkit.errors import BindingError, Problem, WeightsError, some
from exportkit.metagraph import Graph, Variable, saved_variables, serving_subgraph, split
from exportkit.metagraph.kinds import op_class

if TYPE_CHECKING:
    import tensorflow as tf

    from exportkit.protos import MetaGraphDef


def export_meta_graph(graph: "tf.Graph") -> "MetaGraphDef":
    """Return the whole graph with the shapes of all tensors, as a MetaGraphDef."""
    import tensorflow as tf

    return tf.compat.v1.train.export_meta_graph(graph=graph, graph_def=graph.as_graph_def(add_shapes=True))


def capture(
    graph: "tf.Graph",
    session: "tf.compat.v1.Session",
    scratch: Path,
    *,
    tensors: Mapping[str, str] | None = None,
    wanted: Sequence[str] = (),
) -> SourceModel:
    """Turn a live graph and the values in its session into a `SourceModel`.

    The graph is pruned to `wanted`, and every variable that it reaches is saved under `scratch`, local ones too (the
    checkpoint then has their values, so that they need no init op).

    Args:
        graph: the graph; it may be finalized.
        session: a session on it, in which the reached variables have their values.
        scratch: the directory that `ModelSource.build` was given.
        tensors: names that the source offers → tensor names.
        wanted: what `ModelSource.build` was given; empty for all of the graph.

    Raises:
        WeightsError: a reached variable has no value in the session.
        BindingError: a mutable table is reached: its content is in no variable and would be lost.
    """
    tensors = dict(tensors or {})
    meta = export_meta_graph(graph)
    index = Graph(meta)
    fetches = [fetch for fetch in (_fetch_of(tensors.get(name, name), index) for name in wanted) if fetch]
    pruned = serving_subgraph(index, fetches or list(_all_tensors(index)), [])
    _refuse_mutable_tables(pruned.meta)
    variables = saved_variables(pruned.variables.values())
    reads = _reads(pruned.meta, index)
    _refuse_unset([part for variable in variables.values() for part in variable.parts], reads, session)
    prefix = str(scratch / "captured")
    with BundleWriter(prefix) as writer:
        for name, variable in variables.items():
            writer.add(name, _value(variable.parts, reads, session))
    return SourceModel(meta, prefix, tensors)


def _fetch_of(name: str, index: Graph) -> str | None:
    """Return the tensor or operation called `name`; None where there is neither, which is reported when it is bound."""
    found = index.find(name)
    return found if isinstance(found, str) else name if name in index.nodes else None


def _all_tensors(index: Graph) -> Iterable[str]:
    return (f"{name}:0" for name in index.nodes if index.num_outputs(name))


def _refuse_mutable_tables(meta: "MetaGraphDef") -> None:
    tables = [node for node in meta.graph_def.node if op_class(node.op) == "mutable table"]
    if tables:
        do = "bake its content into an immutable table"
        raise BindingError(*(Problem(node.name, f"is a {node.op}, whose content no checkpoint holds", do) for node in tables))


def _reads(meta: "MetaGraphDef", index: Graph) -> dict[str, str]:
    """Return variable operation → the tensor of the live graph that reads it, from the variables' definitions.

    Raises:
        WeightsError: a resource variable is only read inside branches or functions.
    """
    from exportkit.protos import variable_pb2

    definitions = map(variable_pb2.VariableDef.FromString, meta.collection_def["variables"].bytes_list.value)
    reads = {d.variable_name.split(":")[0]: d.snapshot_name for d in definitions}
    gone = [op for op, read in reads.items() if split(read)[0] not in index.nodes]
    if unread := [op for op in gone if index.nodes[op].op == "VarHandleOp"]:
        what, do = "is read nowhere outside of branches and functions", "read it once at the top (variable.read_value())"
        raise WeightsError(*(Problem(f"variable '{op}'", what, do) for op in unread))
    return reads | {op: f"{op}:0" for op in gone}


def _refuse_unset(variables: Sequence[Variable], reads: Mapping[str, str], session: "tf.compat.v1.Session") -> None:
    import tensorflow as tf

    unset = []
    for variable in variables:
        try:
            session.run(session.graph.get_tensor_by_name(reads[variable.op_name]).op)
        except tf.errors.FailedPreconditionError:
            unset.append(variable.name)
    if unset:
        do = "restore or initialise it in restore_fn"
        raise WeightsError(*(Problem(f"variable '{name}'", "has no value in the session", do) for name in unset))


def _value(parts: Sequence[Variable], reads: Mapping[str, str], session: "tf.compat.v1.Session") -> np.ndarray:
    values = [np.asarray(session.run(reads[part.op_name])) for part in parts]
    places = [part.slice for part in parts if part.slice is not None]
    if not places:
        return values[0]
    whole = np.zeros(places[0].full_shape, values[0].dtype)
    for place, value in zip(places, values, strict=True):
        whole[tuple(slice(o, o + n) for o, n in zip(place.var_offset, place.var_shape, strict=True))] = value
    return whole


def compare(captured: str, checkpoint: str) -> str:
    """Compare a session's values with a checkpoint's, by name, dtype, shape and checksum; return a line for the report."""
    ours, theirs = Bundle(captured), Bundle(checkpoint)
    differ = [name for name in ours.entries if not _equal(ours, theirs, name)]
    rest = f", {len(differ)} set by restore_fn ({some(differ)})" if differ else ""
    return f"{len(ours.entries) - len(differ)}/{len(ours.entries)} equal to the checkpoint{rest}"


def _equal(ours: Bundle, theirs: Bundle, name: str) -> bool:
    key = name if name in theirs.entries else theirs.aliases.get(name)
    if key is None or key not in theirs.entries:
        return False
    a, b = ours.entries[name], theirs.entries[key]
    if (a.dtype, a.shape) != (b.dtype, b.shape):
        return False
    if len(b.parts) == 1 and b.parts[0].extents is None:
        return (a.size, a.crc32c) == (b.size, b.crc32c)
    return ours.read(name).tobytes() == theirs.read(key).tobytes()  # saved in parts, or without checksums
