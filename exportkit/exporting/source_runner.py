"""A source under guard: what it raises and what it returns, told with the plugin's name."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from exportkit.checkpoint.locate import format_of
from exportkit.contract import ModelSource, Preview, SourceModel
from exportkit.errors import EnvironmentFailed, ExportKitError, PluginError, Problem, brief_in, system_error, type_of
from exportkit.metagraph import Graph
from exportkit.planning.resolving import place_of
from exportkit.protos import MetaGraphDef
from exportkit.registry import Plugins


def build_source(source: ModelSource, preview: Preview, plugins: Plugins, scratch: Path, wanted: Sequence[str]) -> SourceModel:
    """What `source` builds of what `preview` told.

    Raises:
        PluginError: it raised what is not exportkit's, or returned what is no source model, or another than it told of.
        ExportKitError: it refused.
    """
    where = place_of(source, plugins)
    try:
        model = source.build(preview, scratch, wanted)
    except ExportKitError as error:
        error.args = tuple(problem.located(where) for problem in error.problems)
        raise
    except OSError as cause:
        refused = system_error(cause, scratch).problems[0]
        do = "" if isinstance(cause, FileNotFoundError) else refused.do
        raise EnvironmentFailed(Problem(where, f"{refused.where}: {refused.what}", do)) from cause
    except (Exception, SystemExit) as cause:
        raise PluginError(Problem(where, f"raised {brief_in(cause, type(source).__module__)}")) from cause
    if what := next(_junk(model, preview, scratch), None):
        raise PluginError(Problem(where, f"build returned {what}"))
    return model


def _junk(model: SourceModel, preview: Preview, scratch: Path) -> Iterator[str]:
    """Why it is not what a source yields."""
    if not isinstance(model, SourceModel):
        yield f"{type_of(model)}, not a SourceModel"
    elif not isinstance(model.meta_graph, MetaGraphDef):
        yield f"a meta_graph that is {type_of(model.meta_graph)}, not a MetaGraphDef"
    elif not model.meta_graph.graph_def.node:
        yield "a meta_graph without any node"
    elif not isinstance(model.checkpoint, str | os.PathLike):
        yield f"a checkpoint that is {type_of(model.checkpoint)}, not a prefix"
    elif not isinstance(model.tensors, Mapping):
        yield f"tensors that are {type_of(model.tensors)}, not a mapping of names to tensor names"
    elif isinstance(model.notes, str) or not all(isinstance(note, str) for note in model.notes):
        yield "notes that are not a list of texts"
    else:
        yield from _absent(model, preview, scratch)


def _absent(model: SourceModel, preview: Preview, scratch: Path) -> Iterator[str]:
    """What it names and is not there, or not what its preview told of."""
    graph = Graph(model.meta_graph)
    for name, tensor in model.tensors.items():
        if not isinstance(tensor, str) or not isinstance(graph.find(tensor), str):
            yield f"tensors['{name}'] = {tensor!r:.80}, which is no tensor of its graph"
    checkpoint = os.fspath(model.checkpoint)
    if checkpoint == preview.checkpoint:
        return
    if preview.checkpoint and not Path(checkpoint).absolute().is_relative_to(scratch):
        yield f"the checkpoint {checkpoint}, and its preview told of {preview.checkpoint}"
    try:
        format_of(checkpoint)
    except ExportKitError as error:
        yield f"a checkpoint that is not there: {error}"
