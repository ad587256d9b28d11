"""Freezes a signature and converts it, or names the ops that cannot be converted. Runs in a process of its own."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from exportkit.plugin import Problem, StepFailed, import_tensorflow, some

from exportkit_formats.frozen import freeze


class Uncarried(Exception):
    """A converter cannot carry these ops, or these nodes."""

    def __init__(self, *names: str):
        super().__init__(*names)
        self.names = names


def convert(
    converter: Callable[..., None], freezing: Mapping[str, Any], key: str, file: Path, scratch: Path, options: Mapping[str, Any]
) -> None:
    """Freeze a signature and convert it.

    Args:
        converter: called with the frozen graph, `key`, `file`, an empty directory and `options`.
        freezing: the arguments of `freeze`.
        key: the signature.
        file: what is written.
        scratch: where temporary files may be.

    Raises:
        StepFailed: an op cannot be carried.
    """
    import_tensorflow()
    frozen = freeze(**freezing)
    try:
        with TemporaryDirectory(dir=scratch) as room:
            converter(frozen, key, file, Path(room), **options)
    except Uncarried as cause:
        what = f"cannot carry {named(frozen.graph_def, cause.names)}"
        raise StepFailed(Problem("", what, "end the signature before it")) from cause


def named(graph_def: Any, names: Iterable[str]) -> str:
    """Return these nodes, and the first node of each op, in a graph and its functions: ``a/b (Op), c (Op of int64)``."""
    names = set(names)
    bodies = [graph_def.node, *(function.node_def for function in graph_def.library.function)]
    found = {node.op: _told(node) for nodes in bodies for node in reversed(nodes) if names & {node.name, node.op}}
    return some([*found.values()][::-1] or sorted(names), 3)


def _told(node: Any) -> str:
    """``node (Op)``; with what it computes in where that is not float32, which is mostly why it is not carried."""
    from tensorflow import dtypes

    dtype = dtypes.as_dtype(node.attr["T"].type) if node.attr["T"].type else dtypes.float32
    return f"{node.name} ({node.op})" if dtype == dtypes.float32 else f"{node.name} ({node.op} of {dtype.name})"
