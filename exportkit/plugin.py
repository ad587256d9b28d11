"""The author's front door: what a plugin subclasses, returns and is handed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pluggy

from exportkit.errors import Problem
from exportkit.spec import ExportPlan

if TYPE_CHECKING:
    import tensorflow as tf

    from exportkit.planning.prepare import Prepared
    from exportkit.protos import MetaGraphDef
    from exportkit.report import ExportReport

hookimpl = pluggy.HookimplMarker("exportkit")


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

    Attributes:
        meta_graph: the graph, where it lies in a file.
        checkpoint: prefix of the checkpoint that the values come from.
        problems: what is wrong, each `where` a field of the source.
        checked: what was looked at, as lines for the plan.
        when_built: what can be told only by building, as lines for the plan.
    """

    meta_graph: MetaGraphDef | None = None
    checkpoint: str | None = None
    problems: Sequence[Problem] = ()
    checked: Sequence[str] = ()
    when_built: Sequence[str] = ()


@dataclass(kw_only=True)
class ModelSource(ABC):
    """Where a model comes from. The class is its name, its config schema, its docs and its behaviour.

    Fields are config keys; a string literal below a field documents it. A field of type `Path` is made absolute before
    anything runs. `kind` names the source in the config group ``source``. What `__post_init__` raises as a ConfigError is told
    with the plan's other problems.
    """

    kind: str

    def preview(self) -> Preview:
        """What can be told without TensorFlow, for the plan. Must be quick, and must not import the user's code."""
        return Preview(when_built=["the graph"])

    @abstractmethod
    def build(self, scratch: Path, wanted: Sequence[str]) -> SourceModel:
        """Build the model.

        Args:
            scratch: an empty directory that lives until the last step has run.
            wanted: the names that bindings give to tensors: ``op:0`` or names that this source offers.
        """


class Phase(IntEnum):
    """When a step runs, and what it may do: only AUGMENT and SEAL add files to the version, PUBLISH writes to the outside.

    No phase changes or removes what is there. The version's files are compared around each step.
    """

    AUGMENT = 1
    VERIFY = 2
    SEAL = 3
    PUBLISH = 4


@dataclass(kw_only=True)
class PostStep(ABC):
    """A step after the version was written; what it returns is its entry in the report, its `summary` a line for the user.

    Raise `exportkit.errors.StepFailed` to refuse the export. `phase` says when it runs; within a phase
    the config's order counts. What `__post_init__` raises as a ConfigError is told with the plan's other problems.
    """

    kind: str
    phase: ClassVar[Phase]

    timeout: float | None = None
    """Seconds that the step may take; null for no limit. With a limit it runs in a thread of its own."""

    @abstractmethod
    def run(self, export: Export) -> Mapping[str, Any] | None:
        """Do the step's work on `export.directory`."""


@dataclass(frozen=True)
class BoundTensor:
    """A tensor under its binding's name.

    Attributes:
        source_name: the tensor in the source's graph; None for what only the export has (tf.Example, top_k, lookup).
        export_name: the tensor in the exported graph.
        dtype: its dtype's name.
        shape: its static shape, None for unknown sizes; None for unknown rank.
    """

    source_name: str | None
    export_name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(kw_only=True)
class Export:
    """What a step is handed.

    Attributes:
        directory: the staged version; in PUBLISH the committed one, read only.
        version: its number.
        scratch: a directory for temporary files; it lives until the last step has run.
        plan: the plan that is being carried out.
        source: what the source yielded, whole and unpruned.
        prepared: what the version was made from: for each meta graph its source's graph, the tensors that the config names
            there and the serving subgraph; and for each variable the checkpoint and the key of its value.
        meta_graphs: the exported MetaGraphDefs by their keys in the config.
        bound: meta graph key → binding → tensor.
        report: the report so far.
    """

    directory: Path
    version: int
    scratch: Path
    plan: ExportPlan
    source: SourceModel
    prepared: Prepared
    meta_graphs: Mapping[str, MetaGraphDef]
    bound: Mapping[str, Mapping[str, BoundTensor]]
    report: ExportReport

    @property
    def signatures(self):
        return self.plan.signatures

    @property
    def samples(self):
        return self.plan.samples


def capture(
    graph: tf.Graph,
    session: tf.compat.v1.Session,
    scratch: Path,
    *,
    tensors: Mapping[str, str] | None = None,
    wanted: Sequence[str] = (),
) -> SourceModel:
    """Turn a live graph and the values in its session into a `SourceModel`.

    The graph is pruned to `wanted`, and every variable that it reaches is saved under `scratch`, local ones too (the
    checkpoint then has their values, so that they need no init op).

    Args:
        graph: the graph; it may be finalized.
        session: a session on it, in which the reached variables have their values.
        scratch: the directory that `ModelSource.build` was given.
        tensors: names that the source offers → tensor names.
        wanted: what `ModelSource.build` was given; empty for all of the graph.

    Raises:
        WeightsError: a reached variable has no value in the session.
        BindingError: a mutable table is reached: its content is in no variable and would be lost.
    """
    from exportkit.capture import capture_session

    return capture_session(graph, session, scratch, dict(tensors or {}), wanted)
