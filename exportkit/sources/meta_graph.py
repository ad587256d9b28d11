"""The source `meta_graph`: a checkpoint with the ``.meta`` that was saved beside it. No Python of the model is needed."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exportkit import bundle, metagraph
from exportkit.errors import ExportKitError, Problem
from exportkit.plugin import ModelSource, Preview, SourceModel, hookimpl


@dataclass(kw_only=True)
class MetaGraphSource(ModelSource):
    """A training checkpoint and its .meta; nothing else of the training code."""

    kind: str = "meta_graph"

    checkpoint: Path
    """Prefix of the checkpoint (``model.ckpt-6000``), or its directory: the latest in there."""

    meta: Path | None = None
    """The MetaGraphDef; by default the checkpoint's prefix with ``.meta``."""

    def preview(self) -> Preview:
        problems: list[Problem] = []
        graph = prefix = None
        try:
            prefix = bundle.resolve(self.checkpoint)
        except ExportKitError as error:
            problems += [Problem("checkpoint", f"{p.where}: {p.what}", p.do) for p in error.problems]
        try:
            graph = metagraph.read(self._meta(prefix)) if prefix or self.meta else None
        except ExportKitError as error:
            problems += [Problem("meta", f"{p.where}: {p.what}", p.do) for p in error.problems]
        return Preview(graph, prefix, problems, checked=[f"graph {self._meta(prefix)}"] if graph else [])

    def build(self, scratch: Path, wanted: Sequence[str]) -> SourceModel:
        prefix = bundle.resolve(self.checkpoint)
        return SourceModel(metagraph.read(self._meta(prefix)), prefix)

    def _meta(self, prefix: str | None) -> str:
        return str(self.meta) if self.meta else f"{prefix}.meta"


@hookimpl
def exportkit_model_sources():
    return [MetaGraphSource]
