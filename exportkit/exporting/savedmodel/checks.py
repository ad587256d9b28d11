"""Checks that a server can run a graph: its ops have kernels, its assets exist."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from exportkit.errors import Problem
from exportkit.exporting.savedmodel.checker import Checker
from exportkit.planning.prepare import Part

_NO_KERNEL_NEEDED = {"Placeholder", "PlaceholderWithDefault", "NoOp", "_Arg", "_Retval"}


def unserved_ops(part: Part, core: Checker) -> Iterator[Problem]:
    """Yield a problem for each op that this TensorFlow does not know or has no CPU kernel for (registered is not enough)."""
    seen: dict[str, str] = {}
    for node in part.pruned.meta.graph_def.node:
        seen.setdefault(node.op, node.name)
    library = {function.signature.name for function in part.pruned.meta.graph_def.library.function}
    where, do = f"meta_graphs.{part.key}", "bind an input behind it, or an output before it"
    devices = core.devices(seen.keys() & core.ops.keys())
    for op, name in seen.items():
        if op in library:
            continue
        if op not in core.ops:
            yield Problem(where, f"op {op} (node '{name}') is not known to TensorFlow {core.version}, nor to its server", do)
        elif op not in _NO_KERNEL_NEEDED and not {"CPU", "DEFAULT"} & (devices[op] or {"CPU"}):
            yield Problem(where, f"op {op} (node '{name}') has no CPU kernel", do)


def asset_clashes(graphs: Iterable[Iterable[str]]) -> Iterator[Problem]:
    """Yield a problem for each missing asset and for different assets with the same file name.

    Args:
        graphs: the paths of the assets of each graph.
    """
    paths: dict[str, str] = {}
    for assets in graphs:
        for path in assets:
            if not os.path.isfile(path):
                yield Problem(
                    path, "the graph reads this file as an asset, and it is not there", "put it back, or bake its content"
                )
                continue
            twin = paths.setdefault(os.path.basename(path), path)
            if twin != path and Path(twin).read_bytes() != Path(path).read_bytes():
                yield Problem(path, f"and {twin} are different assets of one name", "rename one of them")
