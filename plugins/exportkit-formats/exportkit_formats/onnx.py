"""The step `onnx`: signatures as ONNX models, by tf2onnx, run by ONNX Runtime."""

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le

from exportkit_formats.conversion import Conversion
from exportkit_formats.converting import Uncarried
from exportkit_formats.frozen import Frozen


@dataclass(kw_only=True)
class Onnx(Conversion):
    """Puts each signature beside the model as ONNX, for ONNX Runtime and whatever else reads it, proved against the version."""

    kind: str = "onnx"
    title = "ONNX"
    needs = ("tf2onnx", "onnx", "onnxruntime")
    suffixes = (".onnx",)

    opset: Annotated[int, Ge(1), Le(18)] = 18
    """The version of ONNX's operators, of those that tf2onnx writes; lower it for a runtime that does not know them yet."""

    def options(self) -> dict[str, Any]:
        return {"opset": self.opset}


def convert(frozen: Frozen, key: str, file: Path, scratch: Path, opset: int) -> None:
    import onnx
    import tf2onnx

    _make_loops_readable(frozen.graph_def)
    renamed = {tensor: name for side in (frozen.inputs, frozen.outputs) for name, tensor in side.items()}
    ends = {"input_names": list(frozen.inputs.values()), "output_names": list(frozen.outputs.values())}
    heard = _Heard()
    logging.getLogger("tf2onnx").addHandler(heard)
    try:
        model, _ = tf2onnx.convert.from_graph_def(frozen.graph_def, key, opset=opset, tensors_to_rename=renamed, **ends)
    except Exception:
        if heard.names:
            raise Uncarried(*heard.names) from None
        raise
    if unknown := [node.op_type for node in _nodes(model.graph) if not onnx.defs.has(node.op_type, node.domain)]:
        raise Uncarried(*unknown)
    file.write_bytes(model.SerializeToString())


class _Heard(logging.Handler):
    """Return the nodes that tf2onnx logs as those that it could not convert."""

    def __init__(self):
        super().__init__(logging.ERROR)
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.msg.startswith(("Tensorflow op [", "Failed to convert node")):
            self.names.append(record.args[0])


def _nodes(graph: Any) -> Iterator[Any]:
    """Return the nodes of a model's graph and of the graphs in its loops and branches."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _make_loops_readable(graph_def: Any) -> None:
    """Keep tf2onnx from two mistakes: lowering loops whose lists it cannot carry then, and mixing up nodes of their functions.

    It puts a loop's condition and body into one graph by the names that their nodes have.
    """
    functions = graph_def.library.function
    for number, function in enumerate(functions):
        own = {node.name: f"function_{number}_{node.name}" for node in function.node_def}
        for node in function.node_def:
            node.name = own[node.name]
            node.input[:] = [_renamed(edge, own) for edge in node.input]
        for ends in (function.ret, function.control_ret):
            for name in list(ends):
                ends[name] = _renamed(ends[name], own)
    for node in (*graph_def.node, *(node for function in functions for node in function.node_def)):
        if node.op in ("While", "StatelessWhile"):
            node.attr.pop("_lower_using_switch_merge", None)


def _renamed(edge: str, names: Mapping[str, str]) -> str:
    """Return an edge in a function (``node:output:0``, ``^node`` or an argument) under the new names of its nodes."""
    control, node, rest = re.fullmatch(r"(\^?)([^:]*)(.*)", edge).groups()
    return f"{control}{names.get(node, node)}{rest}"


def answer(file: Path, key: str, requests: Sequence[Mapping[str, np.ndarray]]) -> list[dict[str, Any]]:
    """Return what the model in a file answers to each request."""
    from onnxruntime import InferenceSession

    session = InferenceSession(str(file), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(names, dict(request)), strict=True)) for request in requests]
