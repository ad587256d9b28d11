"""The guarded build of a source: whatever it raises or returns wrong is reported with its place and its plugin."""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from exportkit.checkpoint.locate import format_of
from exportkit.contract import Preview, ReferenceAnswer, SourceModel, under_reporter
from exportkit.errors import EnvironmentFailed, ExportKitError, PluginError, Problem, brief_in, system_error, type_of
from exportkit.metagraph import Graph
from exportkit.planning.resolving import Resolved
from exportkit.protos import MetaGraphDef
from exportkit.registry import Plugins


def build_source(resolved: Resolved, plugins: Plugins, scratch: Path, wanted: Sequence[str]) -> SourceModel:
    """Return what a source builds of its preview.

    Raises:
        PluginError: it raised an error that is not exportkit's, or what it returned is no source model or contradicts the
            preview.
        ExportKitError: it refused; the problems have their places in the config.
    """
    source, where = resolved.source, f"{resolved.where} ({plugins.providers.get(type(resolved.source))})"
    try:
        model = source.build(resolved.preview, scratch, wanted)
    except ExportKitError as error:
        located = [under_reporter(problem, source, resolved.where) or problem.located(where) for problem in error.problems]
        error.args = tuple(located)
        raise
    except OSError as cause:
        refused = system_error(cause, scratch).problems[0]
        do = "" if isinstance(cause, FileNotFoundError) else refused.do
        raise EnvironmentFailed(Problem(where, f"{refused.where}: {refused.what}", do)) from cause
    except (Exception, SystemExit) as cause:
        raise PluginError(Problem(where, f"raised {brief_in(cause, type(resolved.source).__module__)}")) from cause
    if what := next(_junk(model, resolved.preview, scratch), None):
        raise PluginError(Problem(where, f"build returned {what}"))
    return model


def _junk(model: SourceModel, preview: Preview, scratch: Path) -> Iterator[str]:
    """Yield why `model` is not what a source returns."""
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
    elif not all(isinstance(answer, ReferenceAnswer) for answer in model.answers):
        yield "answers that are not a list of ReferenceAnswer"
    else:
        yield from _absent(model, preview, scratch)


def _absent(model: SourceModel, preview: Preview, scratch: Path) -> Iterator[str]:
    """Yield what the model names and is not there, or contradicts its preview."""
    graph = Graph(model.meta_graph)
    for name, tensor in model.tensors.items():
        if not isinstance(tensor, str) or not isinstance(graph.find(tensor), str):
            yield f"tensors['{name}'] = {tensor!r:.80}, which is no tensor of its graph"
    if missing := sorted((preview.tensors or {}).keys() - model.tensors.keys()):
        yield f"tensors without '{missing[0]}', which its preview offers"
    for number, answer in enumerate(model.answers):
        for name in (*answer.inputs, *answer.outputs):
            if not isinstance(graph.find(model.tensors.get(name, name)), str):
                yield f"answers[{number}] for '{name}', which is no tensor of its graph"
    checkpoint = os.fspath(model.checkpoint)
    if checkpoint == preview.checkpoint:
        return
    if preview.checkpoint and not Path(checkpoint).absolute().is_relative_to(scratch):
        yield f"the checkpoint {checkpoint}, and its preview named {preview.checkpoint}"
    try:
        format_of(checkpoint)
    except ExportKitError as error:
        yield f"a checkpoint that is not there: {error}"
