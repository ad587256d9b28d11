"""The contract with plugins: what they subclass, return and are given. Plugins import it from `exportkit.plugin`."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import pluggy

from exportkit.config.ranges import Seconds
from exportkit.errors import Problem
from exportkit.spec import ExportPlan, Sample, Signature

if TYPE_CHECKING:
    import argparse

    from numpy.typing import ArrayLike

    from exportkit.checkpoint import Bundle
    from exportkit.metagraph.tensors import Facts
    from exportkit.planning.prepare import Prepared
    from exportkit.protos import MetaGraphDef
    from exportkit.report import ExportReport

SIGNATURE_FILE = re.compile(r"assets\.extra/[A-Za-z0-9_-][A-Za-z0-9_.-]*\.sig")
"""The names that a signature file may have: no other file is left out of the digests and of what is signed."""

hookimpl = pluggy.HookimplMarker("exportkit")


@dataclass(frozen=True)
class ReferenceAnswer:
    """One request and what the original model, not the captured graph, answers to it.

    Names are those that bindings may use: what the source offers, or ``op:0``.

    Attributes:
        inputs: name → value, of the dtype and shape that the tensor takes.
        outputs: name → value.
    """

    inputs: Mapping[str, ArrayLike]
    outputs: Mapping[str, ArrayLike]


@dataclass(frozen=True)
class Original:
    """The SavedModel that a source's graph was taken from, where the graph calls all its tensors by their names there.

    `verify` then compares the export with that model, as a model server loads it from its own directory.
    """

    directory: Path
    tags: tuple[str, ...]


@dataclass(frozen=True)
class SourceModel:
    """What every source yields.

    Attributes:
        meta_graph: the whole graph, with its variables in collections; it is pruned later.
        checkpoint: prefix of the checkpoint that holds the values of the graph's variables.
        tensors: names that the source offers to bindings → tensor names (``op:0``).
        notes: lines for the report on where the values come from.
        answers: of the original model, where the graph was made from another one. The step `verify` compares the export with
            them too, for a wrong capture is equal to itself.
        original: the SavedModel that the graph was taken from, if it was.
    """

    meta_graph: MetaGraphDef
    checkpoint: str
    tensors: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    answers: Sequence[ReferenceAnswer] = ()
    original: Original | None = None


@dataclass(frozen=True)
class Preview:
    """What is known of a source without TensorFlow; each part may be missing.

    It is found once, for the plan, and used by everything after: the build, the identity, the manifest. So a path whose target
    can change, as "the latest checkpoint" can, is followed here and nowhere else.

    Attributes:
        meta_graph: the graph, where it lies in a file.
        checkpoint: prefix of the checkpoint that the values come from; it is held open, and `build` returns exactly this one.
        problems: what is wrong, each `where` relative to the source: one of its fields, or empty.
        checked: what was looked at, as lines for the plan.
        when_built: what is known only after the build, as lines for the plan.
        found: whatever else `build` needs of what was found, so that it does not look again. It travels with the plan, so it
            can be pickled and compared.
        tensors: the names that the built model will offer, all of them; None where they are not known. Each with its tensor in
            `meta_graph`, or, where there is no such graph, with the dtype and shape that it will have (``Facts("float32",
            (None, 4))``; ``Facts()`` where neither is known). The plan then refuses a binding to any other name that is not
            written as a tensor of the graph (``op:0``).
        files: the files that the model is made from beside its checkpoint; None where something else decides too. Where a
            source has no checkpoint, they, its config and its code are its identity: a sweep leaves an export out as unchanged
            while they are the same. An empty list says that the config alone decides. The graph may take its assets from them.
        by_code: whether the graph is built by Python code that the config names. The files that such a graph takes in are then
            the user's own choice; a graph that is read from a file may only name those near it (`allow.assets`).
        signatures: those of the model's own that are exported as they are, beside the config's, which replace those of the same
            key. Their values are names among `tensors` in place of bindings.
        original: the SavedModel that the graph was taken from, where `build` only hands on what is known here.
        warnings: what is allowed and may surprise, as lines for plan and report.
    """

    meta_graph: MetaGraphDef | None = None
    checkpoint: str | None = None
    problems: Sequence[Problem] = ()
    checked: Sequence[str] = ()
    when_built: Sequence[str] = ()
    found: Any = None
    tensors: Mapping[str, str | Facts] | None = None
    files: Sequence[str | Path] | None = None
    by_code: bool = False
    signatures: Mapping[str, Signature] = field(default_factory=dict)
    original: Original | None = None
    warnings: Sequence[str] = ()


def under_reporter(problem: Problem, reporter: ModelSource | PostStep, where: str) -> Problem | None:
    """Return a problem that a source or step reported while it ran, as seen from the config; None where it has another place.

    The one rule for `Problem.where`: it is relative to who reports it, and the caller puts the place in front. What runs may
    also report on things that are not its own, by their full names: a file, a variable, ``signatures.KEY``. So its own is a
    `where` that begins with one of its fields.

    Args:
        where: the reporter's place in the config.
    """
    name = re.split(r"\W", problem.where, maxsplit=1)[0]
    if name not in (field.name for field in fields(reporter)):
        return None
    value, dotted = getattr(reporter, name), problem.where[len(name) :].startswith(".")
    return problem.under(where) if not dotted or isinstance(value, Mapping) or is_dataclass(value) else None


@dataclass(kw_only=True)
class ModelSource(ABC):
    """Where a model comes from. The class is its name, its config schema, its docs and its behaviour.

    Fields are config keys; a string literal below a field documents it. A field of type `Path` is made absolute before
    anything runs. An annotation declares a number's range: ``Annotated[int, Ge(1)]``; it is checked with the plan. `kind` names
    the source in the config group ``source``. What `__post_init__` raises as a ConfigError is reported with the plan's other
    problems.
    """

    kind: str
    uses_tensorflow: ClassVar[bool] = True
    """Whether `build` runs TensorFlow's Python. It is then imported beforehand, without its noise; otherwise not at all."""

    def preview(self) -> Preview:
        """Return what is known without TensorFlow, for the plan. Must be quick, and must not import the user's code."""
        return Preview(when_built=["the graph"])

    def check(self, plan: ExportPlan, prepared: Prepared) -> Iterable[Problem]:
        """Return what is wrong with this source in this plan, each `where` relative to the source.

        Called as `PostStep.check` is, with the same arguments. What the source can say without the rest of the plan belongs
        into `preview`.
        """
        return ()

    @abstractmethod
    def build(self, preview: Preview, scratch: Path, wanted: Sequence[str]) -> SourceModel:
        """Build the model that `preview` described. A problem that it raises has a `where` relative to the source.

        Args:
            preview: what `preview` returned for the plan, unchanged.
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
    """A step after the version was written; what it returns is its entry in the report, its `summary` a line for the user, and
    its `status`, where there is one, what is said instead of ``passed``.

    Raise `exportkit.errors.StepFailed` to refuse the export. `phase` says when it runs; within a phase
    the config's order counts. What `__post_init__` raises as a ConfigError is reported with the plan's other problems. The
    `where` of every problem is relative to the step: ``atol``, not ``post.verify.atol``, as the config may call it otherwise.
    """

    kind: str
    phase: ClassVar[Phase]
    closes_phase: ClassVar[bool] = False
    """Whether it runs after all other steps of its phase, wherever the config lists it, as the manifest does in SEAL."""

    timeout: Seconds | None = None
    """Seconds that the step may take; null for no limit. With a limit it runs in a thread of its own."""

    def check(self, plan: ExportPlan, prepared: Prepared) -> Iterable[Problem]:
        """Return what is wrong with this step in this plan, each `where` relative to the step: one of its fields, or empty.

        Called twice: for the plan, so that its problems are reported with all others, and again when every graph is built.
        Must be quick, and must not import TensorFlow.

        Args:
            plan: where it has other problems, its broken bindings and signatures are None and its broken steps are missing;
                what is raised is then ignored, for the plan is refused anyway.
            prepared: its `parts` hold the pruned graphs by meta graph; while one is missing, its graph is not built yet.
        """
        return ()

    def begin(self, export: Export) -> None:  # noqa: B027 - most steps have nothing to begin
        """Start what needs the built graphs alone and goes on by itself while the version is written; by default nothing.

        Called once, in the order of the steps, when nothing is written yet: `export.directory` is empty, and
        `export.meta_graphs` as well. It must return at once. What it starts it puts into `export.begun`, for `run`.
        """

    def begin_written(self, export: Export) -> None:  # noqa: B027 - most steps have nothing to begin
        """Start what needs the written files and goes on by itself while they are read back and synced; by default nothing.

        Called once, in the order of the steps, after `begin`: the version can be loaded, but none of its bytes is proved yet,
        and steps that run before this one may still add files. It must change nothing, and return at once. What it starts
        it puts into `export.begun`, for `run`.
        """

    @abstractmethod
    def run(self, export: Export) -> Mapping[str, Any] | None:
        """Do the step's work on `export.directory`."""

    def signature_files(self) -> Sequence[str]:
        """Return the files that a step of phase SIGN writes, relative to the version: each is ``assets.extra/NAME.sig``.

        The manifest names them, as it cannot have their digests. No server reads such a file.
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
    """What a step is given.

    Attributes:
        directory: the staged version; in PUBLISH the committed one, read only.
        version: its number.
        scratch: a directory for temporary files; it lives until the last step has run.
        plan: the plan that is being carried out.
        identity: what `exportkit.version.identity.identity` returned for the plan before anything was built.
        source: what the source yielded, whole and unpruned.
        checkpoint: the opened checkpoint that the source's config names; where it names none, the one that the source made.
        prepared: what the version was made from: for each meta graph its source's graph, the tensors that the config names
            there and the serving subgraph; and for each variable the checkpoint and the key of its value.
        meta_graphs: the exported MetaGraphDefs by their keys in the config.
        bound: meta graph key → binding → tensor.
        report: the report so far.
        tried: directory and meta graph key → signature → the sample that it answers (`exportkit.serving.tried_samples`).
        hosts: directory and `scratch` → the process in which steps load the version, one after the other
            (`exportkit.serving.hosts`).
        begun: what steps have begun, by keys of their choice. What is still in it after the last step is closed (`close`).
        known_digest: returns the SHA-256 of a file of the version, in hex, that was computed when its bytes were checked; None
            where there is none. Raises StepFailed if the file was changed since.
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
    tried: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)
    hosts: dict[tuple[Path, Path], Any] = field(default_factory=dict)
    begun: dict[Any, Any] = field(default_factory=dict)
    known_digest: Callable[[Path], str | None] = lambda _: None

    @property
    def signatures(self) -> Mapping[str, Signature]:
        return self.plan.signatures

    @property
    def samples(self) -> Mapping[str, Mapping[str, Sample]]:
        return self.plan.samples

    def warn(self, text: str) -> None:
        """Add a line to the report's warnings: what the user should know, and what is no reason to refuse the export."""
        self.report.warnings.append(" ".join(text.split()))


class Command(ABC):
    """A command of the command line, ``exportkit NAME …``.

    Its arguments are declared with argparse, in `add_arguments`: the command's ``--help`` and the flags that the tab key
    completes come from there. The first paragraph of the class's docstring is the description in that help.
    """

    name: ClassVar[str]
    """The first word of the command line: lower-case letters, digits, - and _, a letter first."""

    help: ClassVar[str]
    """What the command does, in one line for ``exportkit --help``."""

    usage: ClassVar[str] = ""
    """The arguments that ``exportkit --help`` shows behind the name, as ``PATH [--all]``."""

    @abstractmethod
    def run(self, arguments: Sequence[str]) -> int:
        """Run the command and return its exit code, 0 to 255.

        An `exportkit.errors.ExportKitError` that it raises is printed as its problems and ends with the exit code of its class.
        Anything else that a plugin's command raises is printed as one line that names the plugin (exit code 1). stdout is the
        command's own.

        Args:
            arguments: the words behind the name.
        """

    def add_arguments(self, parser: argparse.ArgumentParser) -> None:  # noqa: B027 - many commands have none
        """Add the command's arguments to its parser; by default there are none."""

    def parse(self, arguments: Sequence[str]) -> argparse.Namespace:
        """Return `arguments` as `add_arguments` declares them.

        Raises:
            SystemExit: they do not fit (exit code 2), or ask for help (0); argparse has printed why.
        """
        return self._parser().parse_args(arguments)

    @property
    def flags(self) -> Sequence[str]:
        """The flags that the tab key completes."""
        return [flag for action in self._parser()._actions for flag in action.option_strings]

    def complete(self, words: Sequence[str]) -> Sequence[str]:
        """Return what the last of `words` may become when the tab key is pressed; where nothing, the shell completes paths.

        Args:
            words: the words behind the name; the last one is incomplete and may be empty.
        """
        return sorted(flag for flag in self.flags if flag.startswith(words[-1])) if words[-1].startswith("-") else []

    def _parser(self) -> argparse.ArgumentParser:
        from exportkit.parser import ArgumentParser

        description = (type(self).__doc__ or self.help).split("\n\n")[0]
        parser = ArgumentParser(prog=f"exportkit {self.name}", description=description)
        self.add_arguments(parser)
        return parser
