"""``exportkit inspect PATH``: the contents of a ``.meta``, a checkpoint or a SavedModel, and a config that would export it.

Only protos and the checkpoint's index are read, not its data files, and TensorFlow is not imported.
"""

import argparse
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from exportkit import metagraph
from exportkit.checkpoint import Bundle, graph_file
from exportkit.cli import foreign, suggestion
from exportkit.cli.process import interpreter
from exportkit.cli.tables import line, list_of, shape_text, size_text, table, text
from exportkit.contract import Command
from exportkit.errors import ExportKitError, Problem, WeightsError
from exportkit.metagraph import Graph, Ranking

SHOWN = 8
NOT_NEEDED = "not needed"


@dataclass
class Found:
    """The contents of a path; each part may be missing.

    Attributes:
        title: a description for the user.
        prefix: the checkpoint's prefix.
        meta: the file of the graph.
        graphs: name → graph; the names are the tags of a SavedModel's graphs, and empty for a ``.meta``.
        bundle: the checkpoint.
        notes: why parts could not be read.
        model: the same as a model that somebody exported, if it is one.
    """

    title: str
    prefix: str | None = None
    meta: str | None = None
    graphs: Mapping[str, Graph] = field(default_factory=dict)
    bundle: Bundle | None = None
    notes: Sequence[Problem] = ()
    model: foreign.Foreign | None = None


class InspectCommand(Command):
    """Show what is in a checkpoint, a .meta, a SavedModel, a model of Keras or a frozen graph, and a config that exports it."""

    name = "inspect"
    help = "look into a checkpoint or what others exported; suggests a config"
    usage = "PATH"

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:
        add = parser.add_argument
        add(
            "path",
            metavar="PATH",
            help="a .meta, a checkpoint's prefix or directory, a SavedModel or its base path, a .keras, .h5 or frozen .pb",
        )
        add("--all", action="store_true", help=f"show everything, not the first {SHOWN} of each")
        references = "your classes in a Keras model, package.module:Class"
        add("--custom-objects", nargs="+", metavar="REFERENCE", default=[], help=references)
        add("--name", help="the model's name in the suggested config")

    def run(self, arguments: Sequence[str]) -> int:
        options = self.parse(arguments)
        with metagraph.many_objects(), interpreter(arguments, os.getcwd()):
            return _show(read_path(options.path, options.custom_objects), options)


def _show(found: Found, options: argparse.Namespace) -> int:
    most = None if options.all else SHOWN
    line(found.title)
    ranking = _rank(found)
    for name, graph in found.graphs.items():
        _show_graph(name, graph, ranking, most)
    _show_variables(variables(found), most)
    for note in found.notes:
        text(f"\n{note}", "yellow")
    if found.model is not None and not found.model.can_be_exported:
        return 0
    if found.model is not None and found.model.kept:
        name = options.name or suggestion.model_name(str(found.model.name))
        _show_config(name, foreign.config(name, found.model, suggestion.to_yaml))
    elif ranking is not None:
        _show_suggestion(found, ranking, options)
    return 0


def _rank(found: Found) -> Ranking | None:
    """Rank the tensors of a graph as inputs and outputs of a model; return None where there is none, or it has signatures."""
    if not found.graphs or (found.model is not None and found.model.kept):
        return None
    saved = None if found.bundle is None else {*found.bundle.entries, *found.bundle.aliases}
    return metagraph.rank(next(iter(found.graphs.values())), lambda name: saved is not None and name not in saved)


def read_path(path: str, custom_objects: Sequence[str] = ()) -> Found:
    """Read what is at `path`.

    Raises:
        ExportKitError: it is nothing that can be exported.
    """
    taken = foreign.read_foreign(path, custom_objects)
    return _training(path) if taken is None else _taken(taken)


def _taken(model: foreign.Foreign) -> Found:
    opened, notes = _open(model.prefix) if model.prefix else (None, [])
    return Found(model.title, model.prefix, None, model.graphs, opened, [*notes, *model.notes], model)


def _training(path: str) -> Found:
    """Read a checkpoint, with its ``.meta`` if that exists; or a ``.meta`` alone."""
    meta = graph_file(path)
    prefix = meta.removesuffix(".meta")
    has_meta = os.path.lexists(meta)
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
class ListedVariable:
    """A variable; `size` is in bytes, `role` is one of those that `role` returns, or `NOT_NEEDED` by the signatures."""

    name: str
    dtype: str
    shape: Sequence[int | None] | None
    size: int
    role: str


def variables(found: Found) -> list[ListedVariable]:
    """Return the variables, largest first: those of the checkpoint, or those of the graph where there is no checkpoint."""
    shapes: dict[str, Sequence[int | None] | None]
    if found.bundle is not None:
        entries = found.bundle.entries
        shapes = {key: entry.shape for key, entry in entries.items()}
        needed = entries.keys() if found.model is None or found.model.needed is None else found.model.needed
        roles = {key: role(key, shapes) for key in entries}
        roles |= {key: NOT_NEEDED for key in entries if key not in needed and roles[key] == "weight"}
        listed = [ListedVariable(k, e.dtype, e.shape, e.size, roles[k]) for k, e in entries.items()]
    else:
        known = {v.full_name: v for graph in found.graphs.values() for v in graph.variables.values()}
        shapes = {name: v.full_shape for name, v in known.items()}
        listed = [ListedVariable(n, v.dtype, v.full_shape, suggestion.size(v), role(n, shapes)) for n, v in known.items()]
    return sorted(listed, key=lambda v: (-v.size, v.name))


def role(name: str, shapes: Mapping[str, Any]) -> str:
    """Return the role of a variable: ``weight``, ``moving average``, ``optimizer slot`` or ``bookkeeping``.

    Args:
        name: its name; an optimizer's slot lies below the name of its weight, and has the same shape.
        shapes: the shapes of all variables, by name.
    """
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
        if key.startswith("__saved_model_"):
            continue  # TensorFlow's own: no request names it
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
    if graph.functions:
        line(f"functions: {len(graph.functions)}")


def _show_variables(listed: Sequence[ListedVariable], most: int | None) -> None:
    if not listed:
        return
    rows = [(v.name, v.dtype, shape_text(v.shape), size_text(v.size), "" if v.role == "weight" else v.role) for v in listed]
    list_of("Variables", ["name", "dtype", "shape", "bytes", ""], rows, most)
    line("; ".join(_totals(listed)))


def _totals(listed: Sequence[ListedVariable]) -> Iterator[str]:
    yield f"{len(listed)} variables, {size_text(sum(v.size for v in listed))}"
    for role in dict.fromkeys(v.role for v in listed):
        members = [v for v in listed if v.role == role]
        plural = role if role in ("bookkeeping", NOT_NEEDED) else f"{role}s"
        yield f"{plural} {len(members)}, {size_text(sum(v.size for v in members))}"


def _show_suggestion(found: Found, ranking: Ranking, options: argparse.Namespace) -> None:
    """Print what the likeliest signature needs, the problems in serving it, and a config that has it."""
    graph = next(iter(found.graphs.values()))
    guess = suggestion.guess(graph, ranking)
    if guess is None:
        text("\nNo tensor depends on both weights and inputs, so there is nothing to suggest.", "yellow")
        return
    line(f"\nServing {guess.fetches[0]} needs {suggestion.needs(graph, guess)}")
    for problem in suggestion.obstacles(graph, guess, found.bundle):
        text(str(problem), "yellow")
    taken = found.model
    name = options.name or suggestion.model_name(str(taken.name) if taken else found.prefix)
    kind, source = (taken.kind, taken.source) if taken else ("meta_graph", _checkpoint_source(found, options.path))
    _show_config(name, suggestion.config(name, kind, source, graph, guess))


def _checkpoint_source(found: Found, path: str) -> Mapping[str, str]:
    return suggestion.checkpoint_source(path, found.meta or "")


def _show_config(name: str, config: str) -> None:
    line(f"\nA config to start from, for conf/model/{name}.yaml:\n")
    line(config)
