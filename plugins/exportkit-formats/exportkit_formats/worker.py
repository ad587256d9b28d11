"""The process in which a converter, or a runtime, works: ``python -m exportkit_formats.worker``, started by `child.call`."""

import os
import pickle
import pkgutil
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from exportkit.errors import brief


class Refusal(Exception):
    """Why something cannot be done: what is wrong, and what to do."""


class Uncarried(Exception):
    """A converter cannot carry these ops, or these nodes."""

    def __init__(self, *names: str):
        super().__init__(*names)
        self.names = names


def convert(converter: str, freezing: Mapping[str, Any], key: str, file: Path, scratch: Path, options: Mapping[str, Any]) -> None:
    """Freeze a signature and convert it.

    Args:
        converter: ``package.module:function``, called with the frozen graph, `key`, `file`, an empty directory and `options`.
        freezing: the arguments of `freeze`.
        key: the signature.
        file: what is written.
        scratch: where temporary files may be.

    Raises:
        Refusal: an op cannot be carried.
    """
    from exportkit.runtime import import_tensorflow

    from exportkit_formats.frozen import freeze

    import_tensorflow()
    frozen = freeze(**freezing)
    try:
        with TemporaryDirectory(dir=scratch) as room:
            pkgutil.resolve_name(converter)(frozen, key, file, Path(room), **options)
    except Uncarried as cause:
        raise Refusal(f"cannot carry {named(frozen.graph_def, cause.names)}", "end the signature before it") from cause


def named(graph_def: Any, names: Iterable[str], most: int = 3) -> str:
    """Ops, or nodes, of a graph or its functions as ``node (Op)``, in the graph's order."""
    names = set(names)
    bodies = [graph_def.node, *(function.node_def for function in graph_def.library.function)]
    found = {node.op: node.name for nodes in bodies for node in reversed(nodes) if names & {node.name, node.op}}
    told = [f"{node} ({op})" for op, node in found.items()][::-1] or sorted(names)
    return ", ".join(told[:most]) + (f" and {len(told) - most} more" if len(told) > most else "")


def main() -> None:
    """Read a call from stdin, write ``(value, refusal)`` to stdout; what is printed goes to stderr."""
    reply = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    function, arguments = pickle.load(sys.stdin.buffer)
    try:
        answer = pkgutil.resolve_name(function)(**arguments), None
    except Refusal as refusal:
        answer = None, refusal.args
    except Exception as cause:
        answer = None, (f"fails: {brief(cause)}",)
    with reply:
        pickle.dump(answer, reply, protocol=5)


if __name__ == "__main__":
    main()
