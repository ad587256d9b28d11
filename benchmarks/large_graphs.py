"""Measure the processor time of ``inspect`` and ``plan`` on training graphs of any number of nodes.

``python large_graphs.py --nodes 37000 100000 500000`` writes a graph with its checkpoint, without TensorFlow, and runs both
commands on it, each in a process of its own; the time is user and system time of the whole process, its start included. The
graph is a deep net as TensorFlow 1 writes one: for each layer a variable with its initialiser, a batch norm behind a switch,
dropout, gradients, Adam's slots and updates; then a loss, and a Saver.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import harness
import numpy as np

from exportkit import protos
from exportkit.checkpoint import BundleWriter
from exportkit.protos import MetaGraphDef

WIDTH = 2
_FLOAT, _INT64, _BOOL = protos.DTYPE_NAMES["float32"], protos.DTYPE_NAMES["int64"], protos.DTYPE_NAMES["bool"]
_OUTPUTS = {"Switch": 2, "ApplyAdam": 1, "NoOp": 0, "SaveV2": 0, "SparseSoftmaxCrossEntropyWithLogits": 2}


class _Net:
    """A MetaGraphDef that grows a layer at a time."""

    def __init__(self):
        self.meta = MetaGraphDef()
        self.meta.meta_info_def.tensorflow_version = "1.15.0"
        self.meta.graph_def.versions.producer = 134
        self.ops: set[str] = set()
        self.trainable: list[str] = []
        self.slots: list[str] = []

    def node(self, name: str, op: str, *inputs: str, dtype: int = _FLOAT, shape: tuple[int, ...] | None = (-1, WIDTH)) -> str:
        node = self.meta.graph_def.node.add(name=name, op=op, input=inputs)
        for _ in range(_OUTPUTS.get(op, 1)):
            node.attr["_output_shapes"].list.shape.append(_shape(shape))
        node.attr["dtype" if op in ("VariableV2", "Placeholder", "Const") else "T"].type = dtype
        if op in ("VariableV2", "Placeholder"):
            node.attr["shape"].shape.CopyFrom(_shape(shape))
        if op == "Const":
            node.attr["value"].tensor.dtype = dtype
            node.attr["value"].tensor.float_val.append(0.5)
            node.attr["value"].tensor.tensor_shape.CopyFrom(_shape(shape))
        if op == "Merge":
            node.attr["N"].i = len(inputs)
        if op == "RandomUniform":
            node.attr["dtype"].type, node.attr["T"].type = _FLOAT, protos.DTYPE_NAMES["int32"]
        if op not in self.ops:
            self.ops.add(op)
            self._describe(op)
        return name

    def _describe(self, op: str) -> None:
        described = self.meta.meta_info_def.stripped_op_list.op.add(name=op)
        described.attr.add(name="dtype" if op in ("VariableV2", "Placeholder", "Const") else "T", type="type")
        for i in range(_OUTPUTS.get(op, 1)):
            described.output_arg.add(name=f"output_{i}", type_attr=described.attr[0].name)

    def variable(self, name: str, trainable: bool) -> str:
        """Add a variable with its initialiser, and return the name of the tensor that reads it."""
        self.node(f"{name}/initial_value", "Const", shape=(WIDTH, WIDTH))
        self.node(name, "VariableV2", shape=(WIDTH, WIDTH))
        self.node(f"{name}/Assign", "Assign", name, f"{name}/initial_value", shape=(WIDTH, WIDTH))
        definition = protos.variable_pb2.VariableDef(
            variable_name=f"{name}:0", initializer_name=f"{name}/Assign", snapshot_name=f"{name}/read:0", trainable=trainable
        )
        for collection in ["variables", "trainable_variables"][: 1 + trainable]:
            self.meta.collection_def[collection].bytes_list.value.append(definition.SerializeToString())
        (self.trainable if trainable else self.slots).append(name)
        return self.node(f"{name}/read", "Identity", name, shape=(WIDTH, WIDTH))

    def layer(self, x: str, scope: str) -> str:
        kernel, mean = self.variable(f"{scope}/kernel", True), self.variable(f"{scope}/moving_mean", False)
        h = self.node(f"{scope}/MatMul", "MatMul", x, kernel)
        self.node(f"{scope}/cond/Switch", "Switch", h, "is_training")
        self.node(f"{scope}/cond/Square", "Square", f"{scope}/cond/Switch:1")
        self.node(f"{scope}/cond/Switch_1", "Switch", mean, "is_training")
        merged = self.node(f"{scope}/cond/Merge", "Merge", f"{scope}/cond/Switch_1", f"{scope}/cond/Square")
        h = self.node(f"{scope}/Relu", "Relu", self.node(f"{scope}/sub", "Sub", h, merged))
        uniform = self.node(f"{scope}/dropout/random_uniform/RandomUniform", "RandomUniform", f"{scope}/dropout/Shape")
        self.node(f"{scope}/dropout/Shape", "Shape", h, shape=(2,))
        kept = self.node(f"{scope}/dropout/Floor", "Floor", self.node(f"{scope}/dropout/add", "Add", "keep_prob", uniform))
        scaled = self.node(f"{scope}/dropout/div", "RealDiv", h, "keep_prob")
        return self.node(f"{scope}/dropout/mul", "Mul", scaled, kept)

    def train(self, scope: str, gradient: str) -> str:
        """Add a layer's gradient and update, in as many nodes again as the layer has."""
        for i in range(12):
            gradient = self.node(f"gradients/{scope}/grad_{i}/mul", "Mul", gradient, f"{scope}/MatMul")
        slots = [f"{scope}/kernel/Adam", f"{scope}/kernel/Adam_1"]
        for slot in slots:
            self.variable(slot, False)
        self.node(f"Adam/update_{scope}/kernel/ApplyAdam", "ApplyAdam", f"{scope}/kernel", *slots, gradient)
        return gradient


def _shape(dims: tuple[int, ...] | None) -> protos.tensor_shape_pb2.TensorShapeProto:
    shape = protos.tensor_shape_pb2.TensorShapeProto(unknown_rank=dims is None)
    for dim in dims or ():
        shape.dim.add(size=dim)
    return shape


def write(directory: Path, nodes: int) -> Path:
    """Write a checkpoint of about `nodes` nodes with its ``.meta``, and return its prefix."""
    net = _Net()
    value = net.node("x", "Placeholder")
    net.node("labels", "Placeholder", dtype=_INT64, shape=(-1,))
    net.node("is_training", "Placeholder", dtype=_BOOL, shape=())
    net.node("keep_prob", "Placeholder", shape=())
    scopes = []
    while len(net.meta.graph_def.node) * 43 // 20 < nodes:
        scopes.append(f"block_{len(scopes) // 50}/layer_{len(scopes)}")
        value = net.layer(value, scopes[-1])
    logits = net.node("logits", "Identity", value)
    net.node("probabilities", "Softmax", logits)
    loss = net.node("xentropy/xentropy", "SparseSoftmaxCrossEntropyWithLogits", logits, "labels", shape=(-1,))
    gradient = net.node("gradients/Fill", "Fill", loss)
    for scope in reversed(scopes):
        gradient = net.train(scope, gradient)
    prefix = directory / f"model-{nodes}"
    with BundleWriter(prefix) as writer:
        for name in sorted([*net.trainable, *net.slots]):
            writer.add(name, np.zeros((WIDTH, WIDTH), np.float32))
    prefix.with_name(f"{prefix.name}.meta").write_bytes(net.meta.SerializeToString())
    return prefix


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="inspect and plan of large training graphs.")
    parser.add_argument("--nodes", type=int, nargs="+", default=[37_000, 100_000, 500_000])
    parser.add_argument("--directory", type=Path, help="where to work (default: the system's temporary directory)")
    chosen = parser.parse_args(arguments)
    with harness.workplace(chosen.directory) as cwd:
        harness.show(harness.setting(cwd))
        rows = [row(nodes, cwd) for nodes in chosen.nodes]
        harness.table("Processor time", ("nodes", "inspect, s", "plan, s", "inspect, MB", "plan, MB"), rows)


def row(nodes: int, cwd: Path) -> list[str]:
    """Measure one graph, with the config that inspect suggests."""
    prefix = write(cwd, nodes)
    inspected = harness.run([sys.executable, "-m", "exportkit", "inspect", prefix.name, "--name", f"net_{nodes}"], cwd)
    models = cwd / "conf" / "model"
    models.mkdir(parents=True, exist_ok=True)
    config = inspected.output[inspected.output.index("# @package _global_") :]
    (models / f"net_{nodes}.yaml").write_text(config)
    planned = harness.run([sys.executable, "-m", "exportkit", "plan", f"model=net_{nodes}"], cwd)
    megabytes = [f"{run.peak / 1e6:.0f}" for run in (inspected, planned)]
    return [f"{nodes:,}", f"{inspected.busy:.2f}", f"{planned.busy:.2f}", *megabytes]


if __name__ == "__main__":
    main()
