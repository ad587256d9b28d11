"""Input for a signature of which nothing is known but its graph."""

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Any

import numpy as np

from exportkit.metagraph import Graph, canonical
from exportkit.protos import dtype_name
from exportkit.samples.arrays import Misfit
from exportkit.samples.drawing import Attempt, Draw, Drawn, attempts
from exportkit.samples.graph_hints import hints
from exportkit.spec import Random
from exportkit.verifying.audit.graphs import shape_of

MOST = 16  # ways to draw the input of a signature


def inputs(graph: Graph, definition: Any) -> Iterator[dict[str, np.ndarray]]:
    """Yield alias → value, drawn in one way after the other, the likeliest first; see `exportkit.samples.drawing`."""
    infos = {alias: info for alias, info in sorted(definition.inputs.items()) if info.name}
    known = hints(graph, [info.name for info in infos.values()])
    drawn = [
        Drawn(alias, dtype_name(info.dtype), shape_of(info), Random(), known[canonical(info.name)])
        for alias, info in infos.items()
    ]
    for attempt in islice(attempts([one.hint.narrowed(one.shape) for one in drawn], []), MOST):
        with suppress(Misfit):
            yield _values(drawn, attempt)


def _values(drawn: list[Drawn], attempt: Attempt) -> dict[str, np.ndarray]:
    draw = Draw(drawn, attempt)
    return {one.name: draw.value(one) for one in drawn}
