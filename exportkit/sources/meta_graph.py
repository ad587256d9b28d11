"""The source `meta_graph`: a checkpoint with the ``.meta`` that was saved beside it. No Python of the model is needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from exportkit.errors import ExportKitError, Problem
from exportkit.plugin import ModelSource, Preview, SourceModel, hookimpl
from exportkit.sources import _code

if TYPE_CHECKING:
    from exportkit.protos import MetaGraphDef


@dataclass(kw_only=True)
class MetaGraphSource(ModelSource):
    """A training checkpoint and its .meta; nothing else of the training code."""

    kind: str = "meta_graph"
    uses_tensorflow: ClassVar[bool] = False

    checkpoint: Path
    """Prefix of the checkpoint (``model.ckpt-6000``), or its directory: the latest in there."""

    meta: Path | None = None
    """The MetaGraphDef; by default the checkpoint's prefix with ``.meta``."""

    def preview(self) -> Preview:
        from exportkit.checkpoint import looks

        for _ in looks(self.checkpoint):
            preview = self._look()
            if not preview.problems:
                break
        return preview

    def _look(self) -> Preview:
        prefix, problems = _code.prefix(self.checkpoint)
        graph, wrong = self._read(prefix)
        return Preview(graph, prefix, [*problems, *wrong], checked=[f"graph {self._meta(prefix)}"] if graph else [])

    def _read(self, prefix: str | None) -> tuple[MetaGraphDef | None, list[Problem]]:
        from exportkit import metagraph

        if self.meta is None:
            if prefix is None:
                return None, []
            if not os.path.lexists(self._meta(prefix)):
                return None, [Problem("checkpoint", *_without_graph(prefix))]
        try:
            return metagraph.read(self._meta(prefix)), []
        except ExportKitError as error:
            return None, [Problem("meta", f"{p.where}: {p.what}", p.do) for p in error.problems]

    def build(self, preview: Preview, scratch: Path, wanted: Sequence[str]) -> SourceModel:
        from exportkit.checkpoint import open_checkpoint

        return SourceModel(preview.meta_graph, preview.checkpoint or open_checkpoint(self.checkpoint).prefix)

    def _meta(self, prefix: str | None) -> str:
        return str(self.meta) if self.meta else f"{prefix}.meta"


def _without_graph(prefix: str) -> tuple[str, str]:
    """Return why a checkpoint has no .meta beside it, and where its graph may come from."""
    from exportkit.checkpoint import Bundle, formats

    code = "build the graph from code (source=graph_builder)"
    directory = Path(prefix).parent.parent
    if formats.is_saved_model(directory):
        return f"{prefix} holds the variables of the SavedModel {directory}, and no .meta is beside it", (
            f"name the training checkpoint that it was made from, or {code}"
        )
    if Bundle(prefix).is_object_based:
        return f"{prefix} is an object-based checkpoint of TensorFlow 2 (tf.train.Checkpoint), which has no graph", code
    return f"{prefix} has no .meta beside it", f"put it there, name it with source.meta, or {code}"


@hookimpl
def exportkit_model_sources():
    return [MetaGraphSource]
