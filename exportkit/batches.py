"""What is sent to an export to try it: its samples, at the batch sizes that are asked for."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from exportkit.plugin import Export
    from exportkit.protos import MetaGraphDef


def served(export: "Export") -> "MetaGraphDef":
    """The meta graph that a server loads if it is told nothing: the one tagged ``serve``, or else the first."""
    metas = list(export.meta_graphs.values())
    return next((meta for meta in metas if list(meta.meta_info_def.tags) == ["serve"]), metas[0])


def resized(inputs: Mapping[str, np.ndarray], signature: Any, size: int) -> dict[str, np.ndarray]:
    """The inputs of a signature with `size` rows: the first ones, or all of them over and over.

    An input has rows where its SignatureDef leaves the first dimension open. Inputs that have different numbers of them have
    no batch dimension in common, and stay as they are.
    """
    rows = {alias: len(value) for alias, value in inputs.items() if _open(signature.inputs[alias].tensor_shape, value)}
    if len(set(rows.values())) != 1 or 0 in rows.values():
        return dict(inputs)
    chosen = np.arange(size) % next(iter(rows.values()))
    return {alias: value[chosen] if alias in rows else value for alias, value in inputs.items()}


def _open(shape: Any, value: np.ndarray) -> bool:
    return value.ndim > 0 and (shape.unknown_rank or (len(shape.dim) > 0 and shape.dim[0].size == -1))
