"""The source `meta_graph`: a checkpoint with the ``.meta`` that was saved beside it. No Python of the model is needed."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exportkit import metagraph
from exportkit.checkpoint import resolve
from exportkit.errors import ExportKitError, Problem
from exportkit.plugin import ModelSource, Preview, SourceModel, hookimpl
from exportkit.protos import MetaGraphDef
from exportkit.sources import _code


@dataclass(kw_only=True)
class MetaGraphSource(ModelSource):
    """A training checkpoint and its .meta; nothing else of the training code."""

    kind: str = "meta_graph"

    checkpoint: Path
    """Prefix of the checkpoint (``model.ckpt-6000``), or its directory: the latest in there."""

    meta: Path | None = None
    """The MetaGraphDef; by default the checkpoint's prefix with ``.meta``."""

    def preview(self) -> Preview:
        prefix, problems = _code.prefix(self.checkpoint)
        graph, wrong = self._read(prefix)
        return Preview(graph, prefix, [*problems, *wrong], checked=[f"graph {self._meta(prefix)}"] if graph else [])

    def _read(self, prefix: str | None) -> tuple[MetaGraphDef | None, list[Problem]]:
        if prefix is None and self.meta is None:
            return None, []
        if self.meta is None and not os.path.exists(self._meta(prefix)):
            do = "put it there, name it with source.meta, or build the graph from code (source=graph_builder)"
            return None, [Problem("checkpoint", f"{prefix} has no .meta beside it", do)]
        try:
            return metagraph.read(self._meta(prefix)), []
        except ExportKitError as error:
            return None, [Problem("meta", f"{p.where}: {p.what}", p.do) for p in error.problems]

    def build(self, scratch: Path, wanted: Sequence[str]) -> SourceModel:
        prefix = resolve(self.checkpoint)
        return SourceModel(metagraph.read(self._meta(prefix)), prefix)

    def _meta(self, prefix: str | None) -> str:
        return str(self.meta) if self.meta else f"{prefix}.meta"


@hookimpl
def exportkit_model_sources():
    return [MetaGraphSource]
