"""An export's meta graphs by TensorFlow's Python: imported by import_meta_graph, written by SavedModelBuilder.

exportkit assembles protos instead; `test_builder` compares the two. It shares with exportkit the plan and the pruned graphs.
"""

from pathlib import Path

import numpy as np
import tensorflow as tf

from exportkit.metagraph import read_saved_model, saved_variables
from exportkit.operations.lookup import Lookup
from exportkit.operations.parse_example import ParseExample
from exportkit.operations.top_k import TopK
from exportkit.protos import DTYPE_NAMES, meta_graph_pb2, saver_pb2
from exportkit.spec import METHODS

v1 = tf.compat.v1
INERT_SAVER = saver_pb2.SaverDef(
    version=saver_pb2.SaverDef.V2, filename_tensor_name="none", save_tensor_name="none", restore_op_name="none"
)


class Saver(v1.train.Saver):
    """A Saver whose nodes are TensorFlow's and which saves nothing."""

    def save(self, *_, **__):
        return ""


def written(directory: Path, plan, prepared):
    """Meta graph key → the MetaGraphDef that SavedModelBuilder writes."""
    builder = v1.saved_model.Builder(str(directory))
    for number, (key, part) in enumerate(prepared.parts.items()):
        graph = tf.Graph()
        with graph.as_default():
            fed, values = bound(plan, part, plan.meta_graphs[key].device)
            initializers = v1.get_collection(v1.GraphKeys.TABLE_INITIALIZERS)
            options = {
                "signature_def_map": {name: signature(plan.signatures[name], fed, values) for name in part.wiring.signatures},
                "assets_collection": v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
                "main_op": tf.group(*initializers, name="init_tables") if initializers else None,
                "strip_default_attrs": plan.strip_default_attrs,
            }
            if part.wiring.train_op:
                v1.add_to_collection("saved_model_train_op", graph.get_operation_by_name(part.wiring.train_op))
            saver = Saver(variables_by_name(part), allow_empty=True)
            if number == 0:
                builder.add_meta_graph_and_variables(None, plan.meta_graphs[key].tags, saver=saver, **options)
            else:
                builder.add_meta_graph(plan.meta_graphs[key].tags, saver=saver, **options)
    builder.save()
    return dict(zip(prepared.parts, read_saved_model(directory).meta_graphs, strict=True))


def bound(plan, part, device):
    """The graph in the default graph; returns what signatures feed and what they fetch, by binding reference."""
    fed, checked, parsed = {}, {}, {}
    with v1.name_scope("inputs/"):
        for name in sorted({ref for key in part.wiring.signatures for ref in plan.signatures[key].inputs.values()}):
            if isinstance(spec := plan.bindings[name], ParseExample):
                fed[name] = v1.placeholder(tf.string, [None], name)
                parsed |= parse(name, spec, fed[name])
        for name in part.wiring.inputs:
            known = part.facts[name]
            if name in parsed:
                value = parsed[name] if parsed[name].dtype.name == known.dtype else tf.cast(parsed[name], known.dtype)
                fed[name] = v1.placeholder_with_default(value, known.shape, name)
            else:
                fed[name] = v1.placeholder(known.dtype, known.shape, name)
            ensured = plan.ensure_shape and known.shape is not None
            checked[name] = (
                tf.ensure_shape(fed[name], known.shape, name=f"{name}_checked") if ensured else tf.identity(fed[name])
            )
        constants = {tensor: baked(part, tensor, value) for tensor, value in part.wiring.constants.items()}
    replaced = {part.wiring.inputs[name]: tensor for name, tensor in checked.items()} | constants
    meta = part.pruned.meta
    meta.saver_def.CopyFrom(INERT_SAVER)
    with v1.device(pinning(device) if device else None):
        v1.train.import_meta_graph(meta, input_map={cut: replaced[cut] for cut in part.pruned.cuts})
    meta.ClearField("saver_def")
    values = dict(checked)
    with v1.name_scope("outputs/"):
        for key in part.wiring.signatures:
            for ref in plan.signatures[key].outputs.values():
                computed(ref, plan, part, replaced, values)
    return fed, values


def parse(name, spec, serialized):
    def default(feature):
        dtype = tf.dtypes.as_dtype(feature.dtype).as_numpy_dtype
        return None if feature.default is None else np.broadcast_to(np.array(feature.default, dtype), feature.shape)

    features = {k: tf.io.FixedLenFeature(f.shape, f.dtype, default(f)) for k, f in spec.parse_example.items()}
    values = tf.io.parse_example(serialized, features, name=f"{name}_parsed")
    return {target: values[key] for key, target in spec.targets().items()}


def baked(part, tensor, value):
    shape = part.model.graph.shape(tensor)
    return tf.constant(
        value, part.model.graph.dtype(tensor), shape if shape is not None and None not in shape else None, name="baked"
    )


def pinning(device):
    from tensorflow.python.framework import kernels

    kind = v1.DeviceSpec.from_string(device).device_type
    found = kernels.get_registered_kernels_for_op
    return lambda op: device if kind in {kernel.device_type for kernel in found(op.type).kernel} else ""


def computed(ref, plan, part, replaced, values):
    if ref in values:
        return values[ref]
    name = plan.bindings.offers()[ref]
    spec = plan.bindings[name]
    if isinstance(spec, TopK):
        found = tf.math.top_k(computed(spec.top_k, plan, part, replaced, values), spec.k, name=name)
        values |= {f"{name}.values": found[0], f"{name}.indices": found[1]}
    elif isinstance(spec, Lookup):
        indices = computed(spec.lookup, plan, part, replaced, values)
        number, line = tf.lookup.TextFileIndex.LINE_NUMBER, tf.lookup.TextFileIndex.WHOLE_LINE
        lines = tf.lookup.TextFileInitializer(str(spec.vocabulary), tf.int64, number, tf.string, line)
        table = tf.lookup.StaticHashTable(lines, spec.default, name=f"{name}_table")
        values[name] = table.lookup(tf.cast(indices, tf.int64), name=name)
    else:
        tensor = part.wiring.names[name]
        values[name] = replaced[tensor] if tensor in replaced else v1.get_default_graph().get_tensor_by_name(tensor)
    return values[ref]


def variables_by_name(part):
    by_op = {v.op.name: v for v in v1.get_collection(v1.GraphKeys.GLOBAL_VARIABLES)}
    named = saved_variables(part.pruned.variables.values())
    return {
        name: by_op[v.parts[0].op_name] if v.parts[0].slice is None else [by_op[p.op_name] for p in v.parts]
        for name, v in sorted(named.items())
    }


def signature(spec, fed, values):
    definition = meta_graph_pb2.SignatureDef(method_name=METHODS[spec.method])
    for side, refs, tensors in (
        (definition.inputs, spec.inputs, fed),
        (definition.outputs, spec.outputs, values),
    ):
        for alias, ref in refs.items():
            tensor = tensors[ref]
            dtype = DTYPE_NAMES[tensor.dtype.base_dtype.name]
            side[alias].CopyFrom(meta_graph_pb2.TensorInfo(name=tensor.name, dtype=dtype, tensor_shape=tensor.shape.as_proto()))
    return definition
