"""The SavedModel writer: saved_model.pb from the bound graphs, assets, and variables whose bytes are copied from checkpoints.

What it writes is what tf.compat.v1.saved_model.Builder would write (builder_impl.py, meta_graph.py).
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from google.protobuf.any_pb2 import Any
from google.protobuf.message import EncodeError

from exportkit.checkpoint import BundleWriter, Readback
from exportkit.contract import Phase
from exportkit.core.host import Host
from exportkit.errors import BindingError, Problem, WeightsError
from exportkit.exporting.savedmodel.attributes import add_defaults, strip_defaults
from exportkit.exporting.savedmodel.bound import BoundGraph, assets
from exportkit.exporting.savedmodel.checker import Refused, values_after
from exportkit.metagraph import SavedVariable, saved_variables
from exportkit.metagraph.building import shape_proto
from exportkit.metagraph.tensors import Facts
from exportkit.planning.prepare import Prepared
from exportkit.protos import DTYPE_NAMES, AssetFileDef, GraphDef, MetaGraphDef, SavedModel, SignatureDef, TensorInfo
from exportkit.spec import METHODS, ExportPlan

SCHEMA_VERSION = 1  # saved_model/constants.py
ASSET_FILES = "saved_model_assets"  # the collection in which loaders of a TF 1 graph look for its assets


@dataclass(frozen=True)
class Written:
    """A SavedModel that was written.

    Attributes:
        meta_graphs: meta graph key → the MetaGraphDef as written.
        readback: what was read back of the variables while they were written; None where there are none, or no proof is asked.
    """

    meta_graphs: dict[str, MetaGraphDef]
    readback: Readback | None


@contextmanager
def write(
    directory: Path, plan: ExportPlan, prepared: Prepared, bound: Mapping[str, BoundGraph], host: Host
) -> Iterator[Written]:
    """Write the SavedModel into the empty `directory`: in the context it can be loaded, after it, it has been read back.

    Args:
        host: the process that computes initial values.

    Raises:
        OSError: a file cannot be written.
        BindingError: the meta graphs are too large for one file.
        WeightsError: a variable's bytes cannot be copied, or its initial value cannot be computed.
    """
    initial = _initial_values(list(bound.values()), prepared.coverage.initialized, host)
    with _variables(directory / "variables", prepared, initial, plan) as readback:
        for graph in bound.values():
            _copy_assets(directory / "assets", graph)
        saved = SavedModel(saved_model_schema_version=SCHEMA_VERSION)
        for key, graph in bound.items():
            _fill(saved.meta_graphs.add(), plan, key, graph)
        (directory / "saved_model.pb").write_bytes(_serialized(saved))
        yield Written(dict(zip(bound, saved.meta_graphs, strict=True)), readback)


# saved_model.pb


def _serialized(saved: SavedModel) -> bytes:
    try:
        return saved.SerializeToString(deterministic=True)
    except (EncodeError, ValueError):
        what = "together are larger than 2 GiB, the most that a protobuf can be"
        raise BindingError(Problem("meta_graphs", what, "keep their constants in variables")) from None


def _fill(meta: MetaGraphDef, plan: ExportPlan, key: str, bound: BoundGraph) -> None:
    meta.CopyFrom(bound.meta)
    (strip_defaults if plan.strip_default_attrs else add_defaults)(meta.graph_def, bound.ops)
    info = meta.meta_info_def
    info.tags.extend(plan.meta_graphs[key].tags)
    info.tensorflow_version, info.stripped_default_attrs = bound.version, plan.strip_default_attrs
    info.stripped_op_list.op.extend(bound.ops[op] for op in sorted(_used(meta.graph_def) & bound.ops.keys()))
    for name, path in assets(bound):
        file = AssetFileDef(filename=os.path.basename(path))
        file.tensor_info.name = name
        meta.collection_def[ASSET_FILES].any_list.value.add().CopyFrom(_packed(file))
    for name in bound.part.wiring.signatures:
        meta.signature_def[name].CopyFrom(_signature_def(plan, bound, name))


def _used(graph: GraphDef) -> set[str]:
    bodies = (function.node_def for function in graph.library.function)
    return {node.op for node in graph.node} | {node.op for body in bodies for node in body}


def _packed(file: AssetFileDef) -> Any:
    packed = Any()
    packed.Pack(file, deterministic=True)
    return packed


def _signature_def(plan: ExportPlan, bound: BoundGraph, key: str) -> SignatureDef:
    signature = plan.signatures[key]
    definition = SignatureDef(method_name=METHODS[signature.method])
    for alias, ref in signature.inputs.items():
        definition.inputs[alias].CopyFrom(_tensor_info(bound.fed[ref], bound.facts))
    for alias, ref in signature.outputs.items():  # an input that is also an output is taken behind its shape check
        definition.outputs[alias].CopyFrom(_tensor_info(bound.checked.get(ref, bound.values[ref]), bound.facts))
    return definition


def _tensor_info(tensor: str, facts: Mapping[str, Facts]) -> TensorInfo:
    known = facts[tensor]
    return TensorInfo(name=tensor, dtype=DTYPE_NAMES[str(known.dtype)], tensor_shape=shape_proto(known.shape))


# Files


def _copy_assets(directory: Path, bound: BoundGraph) -> None:
    for _, path in assets(bound):
        directory.mkdir(exist_ok=True)
        shutil.copyfile(path, directory / os.path.basename(path))


@contextmanager
def _variables(
    directory: Path, prepared: Prepared, initial: Mapping[str, np.ndarray], plan: ExportPlan
) -> Iterator[Readback | None]:
    """Write the union of all meta graphs' variables, copied, or with their initial values where the config says so.

    In the context all bytes are in the files. At its end they were read back, and are on the disk.
    """
    directory.mkdir()
    coverage = prepared.coverage
    if not coverage.saved:
        yield None
        return
    digests = any(step.phase is Phase.SEAL for step in plan.post.values())
    with BundleWriter(directory / "variables", reads_back=plan.weights.prove, digests=digests) as writer:
        for name, (bundle, key) in prepared.sources.items():
            writer.copy(name, bundle, key)
        for name, value in initial.items():
            writer.add(name, value)
        writer.complete()
        yield writer.readback


def _initial_values(graphs: Sequence[BoundGraph], names: Sequence[str], host: Host) -> dict[str, np.ndarray]:
    """Run the initialisers of the named variables, each in the first graph that has it, and return the values.

    Raises:
        WeightsError: TensorFlow refuses to run one.
    """
    values: dict[str, np.ndarray] = {}
    for bound in graphs if names else ():
        variables = saved_variables(bound.part.pruned.variables.values())
        wanted = [variables[name] for name in names if name in variables.keys() - values]
        definitions = bound.variables()
        parts = [definitions[part.op_name] for variable in wanted for part in variable.parts]
        if not parts:
            continue
        try:
            found = values_after(
                host, bound.meta.graph_def, [d.initializer_name for d in parts], [d.snapshot_name for d in parts]
            )
        except Refused as refused:
            raise WeightsError(Problem("weights.initialize", f"TensorFlow cannot compute the values: {refused}")) from None
        rest = iter(found)
        values |= {variable.name: _whole(variable, [next(rest) for _ in variable.parts]) for variable in wanted}
    return values


def _whole(variable: SavedVariable, parts: Sequence[np.ndarray]) -> np.ndarray:
    """Return a variable's value, put together from those of its parts."""
    places = [part.slice for part in variable.parts if part.slice is not None]
    if not places:
        return parts[0]
    whole = np.zeros(tuple(places[0].full_shape), parts[0].dtype)
    for place, value in zip(places, parts, strict=True):
        whole[tuple(slice(o, o + n) for o, n in zip(place.var_offset, place.var_shape, strict=True))] = value
    return whole
