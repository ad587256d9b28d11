"""A numeric part with its variables as constants: what all converters begin with. Runs in a process of its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Frozen:
    """A graph without variables.

    Attributes:
        graph_def: the graph; its inputs are placeholders.
        inputs: name → tensor.
        outputs: name → tensor.
    """

    graph_def: Any
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]

    def save(self, directory: Path, key: str) -> None:
        """Write it as a SavedModel, whose signature `key` has the names."""
        import tensorflow as tf

        v1 = tf.compat.v1
        with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
            tf.import_graph_def(self.graph_def, name="")
            sides = ({name: graph.get_tensor_by_name(t) for name, t in side.items()} for side in (self.inputs, self.outputs))
            builder = v1.saved_model.Builder(str(directory))
            signature = v1.saved_model.predict_signature_def(*sides)
            builder.add_meta_graph_and_variables(session, ["serve"], {key: signature})
            builder.save()


def freeze(
    meta: bytes,
    checkpoint: str,
    inputs: Mapping[str, tuple[str, str, tuple[int | None, ...] | None]],
    outputs: Mapping[str, str],
    cuts: tuple[str, ...],
) -> Frozen:
    """Give the variables of a MetaGraphDef the values of a checkpoint, as constants.

    Args:
        meta: the MetaGraphDef, serialized; it has no Saver.
        checkpoint: prefix of the export's own variables.
        inputs: name → the tensor that a placeholder replaces, its dtype and shape.
        outputs: name → tensor.
        cuts: the tensors of `inputs` that the graph reads.
    """
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        fed = {end[0]: v1.placeholder(*end[1:], name=f"input_{i}") for i, end in enumerate(inputs.values())}
        saver = v1.train.import_meta_graph(_importable(meta, cuts), input_map={tensor: fed[tensor] for tensor in cuts})
        if saver is not None:
            saver.restore(session, checkpoint)
        found = [graph.get_tensor_by_name(tensor) for tensor in outputs.values()]
        ends = [tf.identity(tensor, name=f"output_{i}").op.name for i, tensor in enumerate(found)]
        graph_def = v1.graph_util.convert_variables_to_constants(session, graph.as_graph_def(), ends)
    fed_names, answered = [tensor.name for tensor in fed.values()], [f"{end}:0" for end in ends]
    return Frozen(graph_def, dict(zip(inputs, fed_names, strict=True)), dict(zip(outputs, answered, strict=True)))


def _importable(meta: bytes, cuts: tuple[str, ...]) -> Any:
    """Return the MetaGraphDef without exportkit's checks of what a server is fed, whose shapes the placeholders have."""
    import tensorflow as tf

    graph = tf.compat.v1.MetaGraphDef.FromString(meta)
    for node in graph.graph_def.node:
        if node.op == "EnsureShape" and f"{node.input[0].removesuffix(':0')}:0" in cuts:
            node.op = "Identity"
            del node.attr["shape"]
        elif node.op == "Variable":  # which TensorFlow runs, and does not turn into a constant
            node.op = "VariableV2"
    return graph
