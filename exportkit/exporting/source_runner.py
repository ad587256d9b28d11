"""A source under guard: what it raises and what it returns, told with the plugin's name."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from exportkit.checkpoint.locate import format_of
from exportkit.errors import EnvironmentFailed, ExportKitError, PluginError, Problem, brief, system_error
from exportkit.metagraph import Graph
from exportkit.plugin import ModelSource, Preview, SourceModel
from exportkit.protos import MetaGraphDef
from exportkit.registry import Plugins


def preview_source(source: ModelSource, plugins: Plugins) -> Preview:
    """What `source` tells unbuilt.

    Raises:
        PluginError: it raised, or returned what is no preview.
    """
    where = _where(source, plugins)
    try:
        preview = source.preview()
    except (Exception, SystemExit) as cause:
        raise PluginError(Problem(where, f"preview raised {brief(cause)}")) from cause
    if not isinstance(preview, Preview):
        raise PluginError(Problem(where, f"preview returned a {type(preview).__name__}, not a Preview"))
    return preview


def build_source(source: ModelSource, plugins: Plugins, scratch: Path, wanted: Sequence[str]) -> SourceModel:
    """What `source` builds.

    Raises:
        PluginError: it raised what is not exportkit's, or returned what is no source model.
        ExportKitError: it refused.
    """
    where = _where(source, plugins)
    try:
        model = source.build(scratch, wanted)
    except ExportKitError:
        raise
    except OSError as cause:
        refused = system_error(cause, scratch).problems[0]
        do = "" if isinstance(cause, FileNotFoundError) else refused.do
        raise EnvironmentFailed(Problem(where, f"{refused.where}: {refused.what}", do)) from cause
    except (Exception, SystemExit) as cause:
        raise PluginError(Problem(where, f"raised {brief(cause)}")) from cause
    if what := next(_junk(model), None):
        raise PluginError(Problem(where, f"build returned {what}"))
    return model


def _where(source: ModelSource, plugins: Plugins) -> str:
    return f"source ({plugins.providers.get(type(source))})"


def _junk(model: SourceModel) -> Iterator[str]:
    """Why it is not what a source yields."""
    if not isinstance(model, SourceModel):
        yield f"a {type(model).__name__}, not a SourceModel"
    elif not isinstance(model.meta_graph, MetaGraphDef):
        yield f"a meta_graph that is a {type(model.meta_graph).__name__}, not a MetaGraphDef"
    elif not model.meta_graph.graph_def.node:
        yield "a meta_graph without any node"
    elif not isinstance(model.checkpoint, str | os.PathLike):
        yield f"a checkpoint that is a {type(model.checkpoint).__name__}, not a prefix"
    elif not isinstance(model.tensors, Mapping):
        yield f"tensors that are a {type(model.tensors).__name__}, not a mapping of names to tensor names"
    elif isinstance(model.notes, str) or not all(isinstance(note, str) for note in model.notes):
        yield "notes that are not a list of texts"
    else:
        yield from _absent(model)


def _absent(model: SourceModel) -> Iterator[str]:
    """What it names and is not there."""
    graph = Graph(model.meta_graph)
    for name, tensor in model.tensors.items():
        if not isinstance(tensor, str) or not isinstance(graph.find(tensor), str):
            yield f"tensors['{name}'] = {tensor!r:.80}, which is no tensor of its graph"
    try:
        format_of(os.fspath(model.checkpoint))
    except ExportKitError as error:
        yield f"a checkpoint that is not there: {error}"
