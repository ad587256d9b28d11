"""The source `frozen_graph`: a graph alone, with its weights as constants. There is no checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from exportkit.errors import ExportKitError, Problem, some
from exportkit.plugin import ModelSource, Preview, SourceModel, hookimpl

if TYPE_CHECKING:
    from exportkit.plugin import Graph

_THAW = (
    "name the checkpoint with its .meta (source=meta_graph), the SavedModel (source=saved_model), or a graph that was frozen"
)


@dataclass(kw_only=True)
class FrozenGraph(ModelSource):
    """A graph whose weights are constants in it: a GraphDef file, such as `frozen_inference_graph.pb`."""

    kind: str = "frozen_graph"
    uses_tensorflow: ClassVar[bool] = False

    graph: Path
    """The file: a GraphDef, binary (.pb) or text (.pbtxt)."""

    def preview(self) -> Preview:
        from exportkit import metagraph
        from exportkit.plugin import Graph

        try:
            meta_graph = metagraph.read_graph_def(self.graph)
        except ExportKitError as error:
            return Preview(problems=[Problem("graph", f"{p.where}: {p.what}", p.do) for p in error.problems])
        if problem := with_variables(str(self.graph), Graph(meta_graph)):
            return Preview(problems=[replace(problem, where="graph", what=f"{problem.where} {problem.what}")])
        return Preview(meta_graph, checked=[f"graph {self.graph}, without variables"], files=[self.graph])

    def build(self, preview: Preview, scratch: Path, wanted: Sequence[str]) -> SourceModel:
        from exportkit.checkpoint import BundleWriter

        prefix = str(scratch / "no-variables")
        BundleWriter(prefix).close()
        return SourceModel(preview.meta_graph, prefix)


def with_variables(path: str, graph: Graph) -> Problem | None:
    """Return what is wrong with a graph alone that has variables; None for one that has none."""
    from exportkit.metagraph.tensors import VARIABLE_OPS

    bodies = {f"{name}/{node.name}": node for name, function in graph.functions.items() for node in function.node_def}
    names = [*graph.variables, *(name for name, node in bodies.items() if node.op in VARIABLE_OPS)]
    return Problem(path, f"has variables, and their values are not in it: {some(names)}", _THAW) if names else None


@hookimpl
def exportkit_model_sources():
    return [FrozenGraph]
