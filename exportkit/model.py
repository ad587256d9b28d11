"""What a model source yields: before anything is built, and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from exportkit.errors import Problem

if TYPE_CHECKING:
    from exportkit.protos import MetaGraphDef


@dataclass(frozen=True)
class SourceModel:
    """What every source yields.

    Attributes:
        meta_graph: the whole graph, with its variables in collections; it is pruned later.
        checkpoint: prefix of the checkpoint that holds the values of the graph's variables.
        tensors: names that the source offers to bindings → tensor names (``op:0``).
        notes: what the report shall say of how the values came about.
    """

    meta_graph: MetaGraphDef
    checkpoint: str
    tensors: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()


@dataclass(frozen=True)
class Preview:
    """What can be told of a source without TensorFlow; each part may be missing.

    It is found once, for the plan, and everything after speaks of it: what is built, the identity, the manifest. So a path
    that can come to mean something else, as "the latest checkpoint" can, is followed here and nowhere else.

    Attributes:
        meta_graph: the graph, where it lies in a file.
        checkpoint: prefix of the checkpoint that the values come from; it is held open, and `build` returns just this one.
        problems: what is wrong, each `where` a field of the source.
        checked: what was looked at, as lines for the plan.
        when_built: what can be told only by building, as lines for the plan.
        found: whatever else `build` needs of what was found, so that it does not look again. It travels with the plan, so it
            can be pickled and compared.
    """

    meta_graph: MetaGraphDef | None = None
    checkpoint: str | None = None
    problems: Sequence[Problem] = ()
    checked: Sequence[str] = ()
    when_built: Sequence[str] = ()
    found: Any = None
