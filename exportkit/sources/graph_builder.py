"""The source `graph_builder`: a Python function that builds the graph."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exportkit.errors import ConfigError, ExportKitError, Problem, type_of
from exportkit.plugin import ModelSource, Preview, SourceModel, hookimpl
from exportkit.sources import _code


@dataclass(kw_only=True)
class GraphBuilder(ModelSource):
    """A function that builds the graph, with values from a checkpoint or from the restore function that it returns.

    The function is called in a fresh graph. It may return a mapping of names to tensors, which bindings can then use, a restore
    function that is given a session, both as a pair, or nothing.
    """

    kind: str = "graph_builder"

    builder: str
    """The function, as ``package.module:function``."""

    params: dict[str, Any] = field(default_factory=dict)
    """Its keyword arguments."""

    checkpoint: Path | None = None
    """Prefix of the checkpoint, or its directory: the latest in there. Needed unless a restore function is returned."""

    v2_tensorshape: bool = True
    """false for code that reads ``shape[0].value``: dimensions are then objects, as in TensorFlow 1."""

    def preview(self) -> Preview:
        from exportkit.config.references import examine

        try:
            problems = examine(self.builder, "builder").problems(self.params, "params")
        except ExportKitError as error:
            return _code.preview(self.checkpoint, error.problems, [])
        return _code.preview(self.checkpoint, problems, [f"builder {self.builder}"])

    def build(self, preview: Preview, scratch: Path, wanted: Sequence[str]) -> SourceModel:
        import tensorflow as tf

        from exportkit.config.references import resolve

        builder = resolve(self.builder, "builder")
        graph = tf.Graph()
        with graph.as_default(), _code.tensor_shapes(self.v2_tensorshape):
            returned = _code.call(builder, "builder", **self.params)
            tensors, restore_fn = _parts(returned, self.builder)
            names = _code.tensor_names(tensors, graph, self.builder, "builder")
            return _code.model(graph, restore_fn, preview.checkpoint, scratch, wanted, names, "builder", "the builder")


def _parts(returned: Any, function: str) -> tuple[Mapping[str, Any] | None, Callable | None]:
    """Return what the builder `function` returned, as tensors by name and a restore function; either may be None."""
    pair = returned if isinstance(returned, tuple) and len(returned) == 2 else (returned, None)
    if pair[1] is None and callable(pair[0]):
        pair = (None, pair[0])
    if isinstance(pair[0], Mapping | None) and (pair[1] is None or callable(pair[1])):
        return pair
    do = "return a mapping of names to tensors, a restore function, both as a pair, or nothing"
    raise ConfigError(Problem("builder", f"{function} returned {type_of(returned)}", do))


@hookimpl
def exportkit_model_sources():
    return [GraphBuilder]
