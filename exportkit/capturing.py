"""A live graph and the values in its session, turned into what every source yields: a meta graph and a checkpoint.

Nothing is added to the graph, which may be finalized: values are fetched variable by variable through the reads that the
variables have anyway, and streamed into a checkpoint.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from exportkit.bundle import Bundle, BundleWriter
from exportkit.errors import BindingError, Problem, WeightsError
from exportkit.metagraph import Graph, Variable, serving_subgraph
from exportkit.plugin import SourceModel
from exportkit.weights import saved

if TYPE_CHECKING:
    import tensorflow as tf

    from exportkit.protos import MetaGraphDef

_MUTABLE_TABLES = ("MutableHashTable", "MutableDenseHashTable")


def export_meta_graph(graph: "tf.Graph") -> "MetaGraphDef":
    """The whole graph with the shapes of all tensors, as a MetaGraphDef."""
    import tensorflow as tf

    return tf.compat.v1.train.export_meta_graph(graph=graph, graph_def=graph.as_graph_def(add_shapes=True))


def capture_session(
    graph: "tf.Graph", session: "tf.compat.v1.Session", scratch: Path, tensors: Mapping[str, str], wanted: Sequence[str]
) -> SourceModel:
    """See `exportkit.plugin.capture`."""
    meta = export_meta_graph(graph)
    index = Graph(meta)
    fetches = [f for f in (index.find(tensors.get(name, name)) for name in wanted) if isinstance(f, str)]
    pruned = serving_subgraph(index, fetches or list(_all_tensors(index)), [])
    _refuse_mutable_tables(pruned.meta)
    prefix = str(scratch / "captured")
    with BundleWriter(prefix) as writer:
        for name, variable in saved(pruned.variables.values()).items():
            writer.add(name, _value(variable.parts, _reads(pruned.meta), session))
    return SourceModel(meta, prefix, tensors)


def _all_tensors(index: Graph) -> Iterable[str]:
    return (f"{name}:0" for name in index.nodes if index.num_outputs(name))


def _refuse_mutable_tables(meta: "MetaGraphDef") -> None:
    tables = [node for node in meta.graph_def.node if node.op.startswith(_MUTABLE_TABLES)]
    if tables:
        do = "bake its content into an immutable table"
        raise BindingError(*(Problem(node.name, f"is a {node.op}, whose content no checkpoint holds", do) for node in tables))


def _reads(meta: "MetaGraphDef") -> dict[str, str]:
    """Variable operation → the tensor that reads it, from the variables' own definitions."""
    from exportkit.protos import variable_pb2

    definitions = map(variable_pb2.VariableDef.FromString, meta.collection_def["variables"].bytes_list.value)
    return {d.variable_name.split(":")[0]: d.snapshot_name or d.variable_name for d in definitions}


def _value(parts: Sequence[Variable], reads: Mapping[str, str], session: "tf.compat.v1.Session") -> np.ndarray:
    values = [_fetch(part, reads[part.op_name], session) for part in parts]
    if parts[0].slice is None:
        return values[0]
    whole = np.zeros(parts[0].full_shape, values[0].dtype)
    for part, value in zip(parts, values, strict=True):
        start = part.slice.var_offset
        whole[tuple(slice(o, o + n) for o, n in zip(start, part.slice.var_shape, strict=True))] = value
    return whole


def _fetch(variable: Variable, read: str, session: "tf.compat.v1.Session") -> np.ndarray:
    import tensorflow as tf

    try:
        return np.asarray(session.run(read))
    except tf.errors.FailedPreconditionError as cause:
        do = "restore or initialise it in restore_fn"
        raise WeightsError(Problem(f"variable '{variable.name}'", "has no value in the session", do)) from cause


def compare(captured: str, checkpoint: str) -> str:
    """How a session's values compare with a checkpoint's, entry by entry, by dtype, shape and checksum."""
    ours, theirs = Bundle(captured).entries, Bundle(checkpoint).entries
    differ = [name for name, entry in ours.items() if name not in theirs or not _equal(entry, theirs[name])]
    rest = f", {len(differ)} set by restore_fn ({', '.join(differ)})" if differ else ""
    return f"{len(ours) - len(differ)}/{len(ours)} equal to the checkpoint{rest}"


def _equal(a, b) -> bool:
    return (a.dtype, a.shape, a.size, a.crc32c) == (b.dtype, b.shape, b.size, b.crc32c)
