"""``exportkit audit PATH``: what the graphs of a stranger's model can do, by an allow-list of TensorFlow's ops.

Only the file of the graph is read. Nothing is run, and TensorFlow is not imported.
"""

import argparse
import json
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from exportkit import metagraph
from exportkit.capabilities import CAPABILITIES, Audit, audit, joined
from exportkit.checkpoint import graph_file
from exportkit.cli.tables import line, table, text
from exportkit.contract import Command
from exportkit.errors import BindingError, ConfigError, WeightsError, some

SHOWN = 3


class AuditCommand(Command):
    """Show what a model can do beyond computing its answers."""

    name = "audit"
    help = "what a model of somebody else can do: files, network, Python"
    usage = "PATH"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "path",
            metavar="PATH",
            help="a checkpoint (prefix or directory), a .meta, a SavedModel (directory or file) or a GraphDef",
        )
        add("--all", action="store_true", help=f"show every node, not the first {SHOWN} of each op")
        add("--json", action="store_true", help="print the result as JSON")

    def run(self, arguments: Sequence[str]) -> int:
        """Print the capabilities; 2 where one of them is refused unless a config allows it, be it reachable or not."""
        options = self.parse(arguments)
        path = _graph_at(options.path)
        with metagraph.many_objects():
            metas = metagraph.read_graphs(path)
            found = joined(map(audit, metas))
        dangerous = bool(found.dangers(present=True))
        if options.json:
            line(json.dumps(_plain(path, found, len(metas)), indent=2))
        else:
            _show(path, found, len(metas), None if options.all else SHOWN)
        return ConfigError.exit_code if dangerous else 0


def _graph_at(path: str) -> str:
    """Return the ``.meta`` of the checkpoint that `path` names, or the newest version below it; any other path as it is."""
    if os.path.isdir(path) and any(os.path.lexists(os.path.join(path, name)) for name in metagraph.SAVED_MODELS):
        return path
    from exportkit.metagraph.saved_model import locate

    try:
        meta = graph_file(path)
    except WeightsError:
        with suppress(BindingError):
            return str(locate(path))
        raise
    return meta if os.path.lexists(meta) or os.path.isdir(path) else path


def _plain(path: str, found: Audit, graphs: int) -> dict[str, Any]:
    return {
        "path": os.path.abspath(path),
        "graphs": graphs,
        "nodes": found.nodes,
        "signatures": found.has_roots,
        "reachable": found.by_capability(),
        "dangers": {"reachable": sorted(found.dangers()), "present": sorted(found.dangers(present=True))},
        "uses": [asdict(use) for use in found.uses],
    }


def _show(path: str, found: Audit, graphs: int, most: int | None) -> None:
    line(f"{path}: {graphs} {'graph' if graphs == 1 else 'graphs'}, {found.nodes:,} nodes\n")
    grouped: dict[tuple[str, bool, str], list[str]] = {}
    for use in found.uses:
        grouped.setdefault((use.capability, use.reachable, use.op), []).append(use.node)
    rows = [
        (*_described(capability), _REACH[reachable], _op(op, nodes, most))
        for (capability, reachable, op), nodes in grouped.items()
    ]
    if rows:
        table("What it can do", ["", "capability", "", "ops and their nodes"], rows, once=3)
    else:
        line("Its ops can only compute.")
    _show_end(found)


_REACH = {True: "reachable", False: "present"}


def _described(capability: str) -> tuple[str, str]:
    return "!" if CAPABILITIES[capability].refused else "", capability


def _op(op: str, nodes: Sequence[str], most: int | None) -> str:
    """Return an op and the names of its nodes, the first `most`."""
    named = list(dict.fromkeys(nodes))
    return f"{op}: {some(named, len(named) if most is None else most)}"


def _show_end(found: Audit) -> None:
    if not found.has_roots:
        line("")
        text("It has no signature, so what an export reaches depends on its config: exportkit plan shows that.")
    if found.dangers(present=True):
        line("")
        text("What is marked ! is exported and run only where the config allows it by name, as in allow: {ops: [host_files]}.")
