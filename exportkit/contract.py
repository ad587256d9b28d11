"""The contract with plugins: what they subclass, return and are handed. Plugins import it from `exportkit.plugin`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pluggy

from exportkit.config.ranges import Seconds
from exportkit.errors import Problem
from exportkit.spec import ExportPlan, Sample, Signature

if TYPE_CHECKING:
    from exportkit.checkpoint import Bundle
    from exportkit.planning.prepare import Prepared
    from exportkit.protos import MetaGraphDef
    from exportkit.report import ExportReport

SIGNATURE_FILE = re.compile(r"assets\.extra/[A-Za-z0-9_-][A-Za-z0-9_.-]*\.sig")
"""What a signature may be called: nothing else is left out of the digests and of what is signed."""

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


@dataclass(kw_only=True)
class ModelSource(ABC):
    """Where a model comes from. The class is its name, its config schema, its docs and its behaviour.

    Fields are config keys; a string literal below a field documents it. A field of type `Path` is made absolute before
    anything runs. An annotation declares a number's range: ``Annotated[int, Ge(1)]``; it is checked with the plan. `kind` names
    the source in the config group ``source``. What `__post_init__` raises as a ConfigError is reported with the plan's other
    problems.
    """

    kind: str

    def preview(self) -> Preview:
        """What can be told without TensorFlow, for the plan. Must be quick, and must not import the user's code."""
        return Preview(when_built=["the graph"])

    @abstractmethod
    def build(self, preview: Preview, scratch: Path, wanted: Sequence[str]) -> SourceModel:
        """Build the model that `preview` told of.

        Args:
            preview: what `preview` returned for the plan; it is not changed.
            scratch: an empty directory that lives until the last step has run.
            wanted: the names that bindings give to tensors: ``op:0`` or names that this source offers.
        """


class Phase(IntEnum):
    """When a step runs, and what it may do.

    AUGMENT and SEAL add files to the version; the manifest closes SEAL, for it lists all files. SIGN adds only the signatures
    that the step names in `PostStep.signature_files`. VERIFY and PUBLISH add nothing; PUBLISH writes to the outside. No phase
    changes or removes what is there. The version's files are compared around each step.
    """

    AUGMENT = 1
    VERIFY = 2
    SEAL = 3
    SIGN = 4
    PUBLISH = 5


@dataclass(kw_only=True)
class PostStep(ABC):
    """A step after the version was written; what it returns is its entry in the report, its `summary` a line for the user.

    Raise `exportkit.errors.StepFailed` to refuse the export. `phase` says when it runs; within a phase
    the config's order counts. What `__post_init__` raises as a ConfigError is told with the plan's other problems.
    """

    kind: str
    phase: ClassVar[Phase]
    closes_phase: ClassVar[bool] = False
    """Whether it runs after all other steps of its phase, wherever the config lists it, as the manifest does in SEAL."""

    timeout: Seconds | None = None
    """Seconds that the step may take; null for no limit. With a limit it runs in a thread of its own."""

    @abstractmethod
    def run(self, export: Export) -> Mapping[str, Any] | None:
        """Do the step's work on `export.directory`."""

    def signature_files(self) -> Sequence[str]:
        """Return where a step of phase SIGN puts its signatures, relative to the version: each is ``assets.extra/NAME.sig``.

        The manifest names them, for they are not among the files that it has digests of. No server reads such a file.
        """
        return ()


def signatures_of(*steps: PostStep) -> set[str]:
    """Return the files that steps of phase SIGN name as their signatures, relative to the version."""
    return {name for step in steps if step.phase is Phase.SIGN for name in step.signature_files()}


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
        identity: what `exportkit.version.identity.identity` said of the plan before anything was built.
        source: what the source yielded, whole and unpruned.
        checkpoint: the opened checkpoint that the source's config names; where it names none, the one that the source made.
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
    identity: Mapping[str, Any]
    source: SourceModel
    checkpoint: Bundle
    prepared: Prepared
    meta_graphs: Mapping[str, MetaGraphDef]
    bound: Mapping[str, Mapping[str, BoundTensor]]
    report: ExportReport

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self.plan.signatures

    @property
    def samples(self) -> Mapping[str, Mapping[str, Sample]]:
        return self.plan.samples

    def warn(self, text: str) -> None:
        """Add a line to the report's warnings: what the user should know, and what is no reason to refuse the export."""
        self.report.warnings.append(" ".join(text.split()))
