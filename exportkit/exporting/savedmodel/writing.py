"""The SavedModel writer: SavedModelBuilder with a saver that copies the variables' bytes instead of running a session."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from exportkit.checkpoint import BundleWriter
from exportkit.exporting.savedmodel.graphs import BoundGraph
from exportkit.metagraph import read_saved_model, saved_variables
from exportkit.planning.prepare import Prepared
from exportkit.processes.tensorflow import quiet
from exportkit.protos import MetaGraphDef, meta_graph_pb2
from exportkit.spec import METHODS, ExportPlan

v1 = tf.compat.v1
_Saver: Any = v1.train.Saver


def write(directory: Path, plan: ExportPlan, prepared: Prepared, bound: Mapping[str, BoundGraph]) -> dict[str, MetaGraphDef]:
    """Write the SavedModel into the empty `directory`.

    Returns:
        Meta graph key → the MetaGraphDef as written.

    Raises:
        OSError: a file cannot be written.
    """
    builder = v1.saved_model.Builder(os.fspath(directory))
    first = next(iter(bound))
    finished: set[int] = set()
    for key, graph in bound.items():
        new = id(graph) not in finished
        finished.add(id(graph))
        saver = _CopyingSaver(graph, prepared, list(bound.values()))
        _add(builder, key, graph, plan, saver, first=key == first, new=new)
    builder.save()
    return dict(zip(bound, read_saved_model(directory).meta_graphs, strict=True))


def _add(builder: Any, key: str, bound: BoundGraph, plan: ExportPlan, saver: Any, *, first: bool, new: bool) -> None:
    tags, wiring = plan.meta_graphs[key].tags, bound.part.wiring
    with bound.graph.as_default():
        options = {
            "signature_def_map": {name: _signature_def(plan, bound, name) for name in wiring.signatures},
            "assets_collection": v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS) if new else None,
            "main_op": bound.init_op if new else None,
            "strip_default_attrs": plan.strip_default_attrs,
            "saver": saver,
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
        definition.outputs[alias].CopyFrom(_tensor_info(_output_tensor(ref, bound)))
    return definition


def _tensor_info(tensor: tf.Tensor) -> Any:
    dtype, shape = tensor.dtype.base_dtype.as_datatype_enum, tensor.shape.as_proto()
    return meta_graph_pb2.TensorInfo(name=tensor.name, dtype=dtype, tensor_shape=shape)


def _output_tensor(ref: str, bound: BoundGraph) -> tf.Tensor:
    """Return an output's tensor; an input that is also an output is taken behind its shape check."""
    return bound.checked.get(ref, bound.values[ref])


class _CopyingSaver(_Saver):
    """A Saver that writes its checkpoint by copying bytes from the source checkpoints.

    Its restore ops are TensorFlow's own. Only `save` is different: it writes the union of all meta graphs' variables, copied,
    or with their initial values where the config says so.
    """

    def __init__(self, bound: BoundGraph, prepared: Prepared, graphs: Sequence[BoundGraph]):
        self._prepared, self._graphs = prepared, graphs
        with bound.graph.as_default():
            super().__init__(variables_by_name(bound), allow_empty=True)

    def save(self, sess: None, save_path: str, **_: Any) -> str:
        coverage = self._prepared.coverage
        if coverage.saved:
            with BundleWriter(save_path) as writer:
                for name, (bundle, key) in self._prepared.sources.items():
                    writer.copy(name, bundle, key)
                for name, value in _initial_values(self._graphs, coverage.initialized).items():
                    writer.add(name, value)
        return save_path


def variables_by_name(bound: BoundGraph) -> dict[str, tf.Variable | list[tf.Variable]]:
    """Return the graph's variables by their names in the checkpoint; those of a partitioned variable as a list."""
    by_op = {variable.op.name: variable for variable in bound.graph.get_collection(v1.GraphKeys.GLOBAL_VARIABLES)}
    named = saved_variables(bound.part.pruned.variables.values())
    return {name: _one_or_parts([by_op[p.op_name] for p in v.parts], v.parts[0].slice) for name, v in sorted(named.items())}


def _one_or_parts(variables: list[tf.Variable], part: Any) -> tf.Variable | list[tf.Variable]:
    return variables[0] if part is None else variables


def _initial_values(graphs: Sequence[BoundGraph], names: Sequence[str]) -> dict[str, np.ndarray]:
    """Run the initialisers of the named variables, each in the first graph that has it, and return the values."""
    values: dict[str, np.ndarray] = {}
    for bound in graphs if names else ():
        variables = variables_by_name(bound)
        with quiet():
            session = v1.Session(graph=bound.graph)
        with session:
            values |= {name: _initial_value(session, variables[name]) for name in names if name in variables.keys() - values}
    return values


def _initial_value(session: tf.compat.v1.Session, variable: tf.Variable | list[tf.Variable]) -> np.ndarray:
    if not isinstance(variable, list):
        session.run(variable.initializer)
        return session.run(variable)
    places = [part._save_slice_info for part in variable]  # TensorFlow has no public access to it
    whole = np.zeros(places[0].full_shape, variable[0].dtype.base_dtype.as_numpy_dtype)
    for part, place in zip(variable, places, strict=True):
        box = tuple(slice(o, o + n) for o, n in zip(place.var_offset, place.var_shape, strict=True))
        whole[box] = _initial_value(session, part)
    return whole
