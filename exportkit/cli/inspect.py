"""``exportkit inspect PATH``: what is in a ``.meta``, a checkpoint or a SavedModel, and a config that would export it.

Reads protos and the checkpoint's index; the data files are not read, and TensorFlow is not imported.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from exportkit import metagraph
from exportkit.checkpoint import Bundle, resolve
from exportkit.cli import suggestion
from exportkit.cli.tables import line, list_of, shape_text, size_text, table, text
from exportkit.contract import Command
from exportkit.errors import ExportKitError, Problem, WeightsError
from exportkit.metagraph import Graph, Ranking

SHOWN = 8


@dataclass
class Found:
    """What a path holds; each part may be missing.

    Attributes:
        title: what it is, in words.
        prefix: of its checkpoint.
        meta: the file of its graph.
        graphs: a name for each of its graphs → the graph.
        bundle: its checkpoint.
        notes: what could not be read.
    """

    title: str
    prefix: str | None = None
    meta: str | None = None
    graphs: Mapping[str, Graph] = None
    bundle: Bundle | None = None
    notes: Sequence[Problem] = ()


class InspectCommand(Command):
    """Show what is in a .meta, a checkpoint or a SavedModel, and a config that would export it."""

    name = "inspect"
    help = "look into a checkpoint, a .meta or a SavedModel; suggests a config"
    usage = "PATH"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "path",
            metavar="PATH",
            help="a .meta, a checkpoint's prefix or directory, a SavedModel version or its saved_model.pb",
        )
        add("--all", action="store_true", help=f"show everything, not the first {SHOWN} of each")
        add("--name", help="the model's name in the suggested config")

    def run(self, arguments: Sequence[str]) -> int:
        options = self.parse(arguments)
        with metagraph.many_objects():
            return _show(look(options.path), options)


def _show(found: Found, options: argparse.Namespace) -> int:
    most = None if options.all else SHOWN
    line(found.title)
    ranking = _ranked(found)
    for name, graph in found.graphs.items():
        _show_graph(name, graph, ranking, most)
    _show_variables(variables(found), most)
    for note in found.notes:
        text(f"\n{note}", "yellow")
    if ranking is not None:
        _show_suggestion(found, ranking, options)
    return 0


def _ranked(found: Found) -> Ranking | None:
    """What a training graph is likely to serve, of what its checkpoint holds."""
    if not found.meta or not found.graphs:
        return None
    held = found.bundle and {*found.bundle.entries, *found.bundle.aliases}
    return metagraph.rank(next(iter(found.graphs.values())), lambda name: held is not None and name not in held)


def look(path: str) -> Found:
    """What is at `path`.

    Raises:
        ExportKitError: nothing that exportkit knows.
    """
    place = Path(path)
    directory = place.parent if place.name.startswith("saved_model.pb") else place
    if any((directory / name).is_file() for name in ("saved_model.pb", "saved_model.pbtxt")):
        return _saved_model(directory)
    return _training(path)


def _saved_model(directory: Path) -> Found:
    saved = metagraph.read_saved_model(directory)
    graphs = {", ".join(meta.meta_info_def.tags): Graph(meta) for meta in saved.meta_graphs}
    prefix = str(directory / "variables" / "variables")
    opened, notes = _open(prefix) if os.path.exists(f"{prefix}.index") else (None, [])
    return Found(f"{directory}: a SavedModel", prefix, None, graphs, opened, notes)


def _training(path: str) -> Found:
    """A checkpoint, with its ``.meta`` if that is there; or a ``.meta`` alone."""
    prefix = resolve(path)
    meta = path if path.endswith(".meta") else f"{prefix}.meta"
    has_meta = os.path.exists(meta)
    opened, notes = _open(prefix)
    if not has_meta and opened is None:
        raise WeightsError(*notes)
    if not has_meta:
        notes = [
            Problem(meta, "is not there, so the graph is not known", "export with a source that builds it: exportkit plugins")
        ]
    graphs = {"": Graph(metagraph.read(meta))} if has_meta else {}
    kinds = ["a checkpoint"] * bool(opened) + ["its graph" if opened else "a graph without its checkpoint"] * has_meta
    return Found(f"{prefix}: {' and '.join(kinds)}", prefix, meta if has_meta else None, graphs, opened, notes)


def _open(prefix: str) -> tuple[Bundle | None, list[Problem]]:
    try:
        return Bundle(prefix), []
    except ExportKitError as error:
        return None, list(error.problems)


@dataclass(frozen=True)
class Held:
    """A variable: its `role` is ``weight``, or what else it is."""

    name: str
    dtype: str
    shape: Sequence[int | None] | None
    size: int
    role: str


def variables(found: Found) -> list[Held]:
    """The variables, largest first: of the checkpoint, or of the graph where there is none."""
    if found.bundle is not None:
        entries = found.bundle.entries
        shapes = {key: entry.shape for key, entry in entries.items()}
        held = [Held(k, e.dtype, e.shape, e.size, role(k, shapes)) for k, e in entries.items()]
    else:
        known = {v.full_name: v for graph in found.graphs.values() for v in graph.variables.values()}
        shapes = {name: v.full_shape for name, v in known.items()}
        held = [Held(n, v.dtype, v.full_shape, suggestion.size(v), role(n, shapes)) for n, v in known.items()]
    return sorted(held, key=lambda v: (-v.size, v.name))


def role(name: str, shapes: Mapping[str, Any]) -> str:
    """What a variable is, told from its name and from those that it goes with."""
    parent, _, leaf = name.rpartition("/")
    if leaf.endswith("ExponentialMovingAverage"):
        return "moving average"
    if ".OPTIMIZER_SLOT" in name or (parent in shapes and shapes[parent] == shapes[name]):
        return "optimizer slot"
    if leaf in ("beta1_power", "beta2_power", "global_step", "_CHECKPOINTABLE_OBJECT_GRAPH") or leaf.startswith("save_counter"):
        return "bookkeeping"
    return "weight"


def _show_graph(name: str, graph: Graph, ranking: Ranking | None, most: int | None) -> None:
    info = graph.meta.meta_info_def
    tagged = f" tagged {name}" if name else ""
    line(f"graph{tagged}: {len(graph.nodes)} nodes, written by TensorFlow {info.tensorflow_version or '?'}\n")
    _show_signatures(graph)
    if ranking is not None:
        _show_candidates("Likely inputs", [*ranking.inputs, *ranking.others], most)
        _show_candidates("Likely outputs", [c for c in ranking.outputs if c.score > 0] or ranking.outputs[:1], most)
    _show_files(graph)


def _show_candidates(title: str, candidates: Sequence[Any], most: int | None) -> None:
    rows = [(c.tensor, c.dtype or "?", shape_text(c.shape), c.why) for c in candidates]
    list_of(title, ["tensor", "dtype", "shape", "why"], rows, most)


def _show_signatures(graph: Graph) -> None:
    rows = []
    for key, signature in sorted(graph.meta.signature_def.items()):
        method = signature.method_name.removeprefix("tensorflow/serving/") or "-"
        for side, tensors in (("in", signature.inputs), ("out", signature.outputs)):
            rows += [(key, method, side, alias, *_tensor_info(info)) for alias, info in sorted(tensors.items())]
    if rows:
        table("Signatures", ["signature", "method", "", "alias", "dtype", "shape", "tensor"], rows, once=2)


def _tensor_info(info: Any) -> tuple[str, str, str]:
    from exportkit.protos import dtype_name

    shape = None if info.tensor_shape.unknown_rank else [d.size if d.size >= 0 else None for d in info.tensor_shape.dim]
    return dtype_name(info.dtype), shape_text(shape), info.name or info.WhichOneof("encoding") or "-"


def _show_files(graph: Graph) -> None:
    tables = [name for name, node in graph.nodes.items() if "HashTable" in node.op and not node.op.startswith("LookupTable")]
    assets = [asset.filename for asset in graph.meta.asset_file_def]
    if tables:
        line(f"tables: {', '.join(tables)}")
    if assets:
        line(f"assets: {', '.join(assets)}")


def _show_variables(held: Sequence[Held], most: int | None) -> None:
    if not held:
        return
    rows = [(v.name, v.dtype, shape_text(v.shape), size_text(v.size), "" if v.role == "weight" else v.role) for v in held]
    list_of("Variables", ["name", "dtype", "shape", "bytes", ""], rows, most)
    line("; ".join(_totals(held)))


def _totals(held: Sequence[Held]) -> Iterator[str]:
    yield f"{len(held)} variables, {size_text(sum(v.size for v in held))}"
    for kind in dict.fromkeys(v.role for v in held):
        of = [v for v in held if v.role == kind]
        yield f"{kind}s {len(of)}, {size_text(sum(v.size for v in of))}".replace("bookkeepings", "bookkeeping")


def _show_suggestion(found: Found, ranking: Ranking, options: argparse.Namespace) -> None:
    """The likeliest signature: what it needs, what stands in its way, and the config that has it."""
    graph = next(iter(found.graphs.values()))
    guess = suggestion.guess(graph, ranking)
    if guess is None:
        text("\nNo tensor depends on both weights and inputs, so there is nothing to suggest.", "yellow")
        return
    line(f"\nServing {guess.fetches[0]} needs {suggestion.needs(graph, guess)}")
    for problem in suggestion.obstacles(graph, guess, found.bundle):
        text(str(problem), "yellow")
    name = options.name or suggestion.model_name(found.prefix)
    line(f"\nA config to start from, for conf/model/{name}.yaml:\n")
    line(suggestion.config(name, options.path, found.meta, graph, guess))
