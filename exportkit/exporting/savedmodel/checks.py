"""Checks that a server can run a graph: its ops have kernels, its assets exist; and which ops can be pinned to a device."""

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import tensorflow as tf

from exportkit.errors import Problem
from exportkit.planning.prepare import Part

v1 = tf.compat.v1
_NO_KERNEL_NEEDED = {"Placeholder", "PlaceholderWithDefault", "NoOp", "_Arg", "_Retval"}


def unserved_ops(part: Part) -> Iterator[Problem]:
    """Yield a problem for each op that this TensorFlow does not know or has no CPU kernel for (registered is not enough)."""
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


def _kernel_devices(op: str) -> set[str]:
    from tensorflow.python.framework import kernels

    return {kernel.device_type for kernel in kernels.get_registered_kernels_for_op(op).kernel}


def pinning(device: str) -> Callable[[Any], str]:
    """Return a device function for `tf.compat.v1.device` that pins only ops with a kernel for the device.

    A server without soft placement would refuse the others there.
    """
    kind = v1.DeviceSpec.from_string(device).device_type

    def pin(node: Any) -> str:
        return device if kind in _kernel_devices(node.type) else ""

    return pin


def asset_clashes(graphs: Iterable[tf.Graph]) -> Iterator[Problem]:
    """Yield a problem for each missing asset and for different assets with the same file name.

    SavedModelBuilder silently skips a missing asset, and keeps only the last of two with one name.
    """
    paths: dict[str, str] = {}
    for graph in graphs:
        for path in asset_paths(graph):
            if not os.path.isfile(path):
                yield Problem(
                    path, "the graph reads this file as an asset, and it is not there", "put it back, or bake its content"
                )
            twin = paths.setdefault(os.path.basename(path), path)
            if twin != path and Path(twin).read_bytes() != Path(path).read_bytes():
                yield Problem(path, f"and {twin} are different assets of one name", "rename one of them")


def asset_paths(graph: tf.Graph) -> list[str]:
    """Return the paths of the files that a graph reads as assets, sorted."""
    tensors = graph.get_collection(v1.GraphKeys.ASSET_FILEPATHS)
    return sorted({tf.get_static_value(tensor).item().decode() for tensor in map(_as_tensor, tensors)})


def _as_tensor(item: Any) -> tf.Tensor:
    return item.outputs[0] if isinstance(item, tf.Operation) else item
