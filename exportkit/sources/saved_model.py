"""The source `saved_model`: a SavedModel that somebody exported, of any TensorFlow. No Python of the model is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from exportkit.errors import ConfigError, ExportKitError, Problem, did_you_mean, some
from exportkit.plugin import ModelSource, Original, Preview, SourceModel, hookimpl

if TYPE_CHECKING:
    from exportkit.metagraph import OwnModel, OwnSignature

KEEP = "keep"


@dataclass(kw_only=True)
class SavedModelSource(ModelSource):
    """A SavedModel: its graph, its variables and its assets.

    Bindings may call its signatures' tensors ``KEY.inputs.ALIAS`` and ``KEY.outputs.ALIAS``, as
    ``serving_default.inputs.x``. What no exported signature needs is left out: other signatures' functions, training, the
    optimizer's variables.
    """

    kind: str = "saved_model"
    uses_tensorflow: ClassVar[bool] = False

    saved_model: Path
    """The directory with its saved_model.pb, or one that holds versions: the newest in there."""

    tags: list[str] = field(default_factory=lambda: ["serve"])
    """The tags of the meta graph to take: all of them."""

    signatures: Any = KEEP
    """Which of its own signatures are exported as they are: keep for all, or a list of their keys. Those of the config come
    beside them, and replace those of the same key."""

    def __post_init__(self) -> None:
        listed = isinstance(self.signatures, list) and all(isinstance(key, str) for key in self.signatures)
        if self.signatures != KEEP and not listed:
            raise ConfigError(
                Problem("signatures", f"is {self.signatures!r:.60}", "write keep, or a list of keys: [serving_default]")
            )

    def preview(self) -> Preview:
        from exportkit.metagraph import open_saved_model

        try:
            model = _judged(open_saved_model(self.saved_model, self.tags))
        except ExportKitError as error:
            return Preview(problems=[_place(problem) for problem in error.problems])
        kept = self._kept(model)
        lost = list(_lost(model))
        return Preview(
            meta_graph=model.meta,
            checkpoint=model.checkpoint,
            problems=[*self._unknown(model), *_without_variables(model)],
            checked=[_line(model)],
            tensors=model.tensors,
            files=model.files(),
            signatures={key: signature.kept() for key, signature in kept.items() if not signature.misfit},
            original=None if lost else Original(model.directory, model.tags),
            warnings=[*_changes(model, kept), *lost],
        )

    def _kept(self, model: OwnModel) -> dict[str, OwnSignature]:
        if self.signatures == KEEP:
            return dict(model.signatures)
        return {key: model.signatures[key] for key in self.signatures if key in model.signatures}

    def _unknown(self, model: OwnModel) -> Iterator[Problem]:
        """Report signatures that are named and cannot be kept."""
        for number, key in enumerate(self.signatures if self.signatures != KEEP else ()):
            where, known = f"signatures[{number}]", model.signatures
            if key not in known:
                near = did_you_mean(key, known) or (f"it has {some(sorted(known), 8)}" if known else "it has none")
                yield Problem(where, f"{model.directory} has no signature '{key}'", near)
            elif known[key].misfit:
                yield Problem(where, f"'{key}' cannot be kept: it {known[key].misfit}", "leave it out")

    def build(self, preview: Preview, scratch: Path, wanted: Sequence[str]) -> SourceModel:
        return SourceModel(
            meta_graph=preview.meta_graph,
            checkpoint=preview.checkpoint or _no_variables(scratch),
            tensors={name: str(tensor) for name, tensor in (preview.tensors or {}).items()},
            original=preview.original,
        )


def _judged(model: OwnModel) -> OwnModel:
    """Return the model, whose signatures that no server answers, or no export can have, have that as their misfit."""
    judged = {key: replace(one, misfit=one.misfit or _misfit(model, one)) for key, one in model.signatures.items()}
    return replace(model, signatures=judged)


def _misfit(model: OwnModel, signature: OwnSignature) -> str:
    from exportkit.metagraph.kinds import assets
    from exportkit.metagraph.tensors import Facts
    from exportkit.planning import serving_rules

    graph = model.graph
    facts = {name: Facts(graph.dtype(tensor), graph.shape(tensor)) for name, tensor in signature.names().items()}
    if broken := serving_rules.unservable(signature.kept(), facts):
        return f"cannot be served: {broken.what}"
    reached = graph.reach(signature.outputs.values(), signature.inputs.values()) if model.assets else ()
    if held := [node.name for node in assets(graph) if node.name in reached]:
        return f"takes the path of an asset ({held[0]}) at every request, and an export has it only while it loads"
    return ""


def _place(problem: Problem) -> Problem:
    where = "tags" if problem.what.startswith("no meta graph has the tags") else "saved_model"
    return Problem(where, f"{problem.where}: {problem.what}" if problem.where else problem.what, problem.do)


def _without_variables(model: OwnModel) -> Iterator[Problem]:
    if model.checkpoint is None and (names := [v.op_name for v in model.needed().variables]):
        what = f"{model.directory} has no variables/variables.index, and its graph needs {some(names, 3)}"
        yield Problem("saved_model", what, "copy the whole directory")


def _changes(model: OwnModel, kept: dict[str, OwnSignature]) -> Iterator[str]:
    """Yield a warning for each signature that is left out, and for what a kept one loses."""
    for key, signature in kept.items():
        if signature.misfit:
            yield f"signatures.{' '.join(key.splitlines())}: is not kept, as it {signature.misfit}"
        elif defaults := sorted(model.meta.signature_def[key].defaults):
            yield f"signatures.{key}: the defaults of {some(defaults, 3)} are not kept, so that every request has to send them"


def _lost(model: OwnModel) -> Iterator[str]:
    """Yield a warning about variables that its own loader leaves without a value: there is no answer to compare with then."""
    if names := model.unrestored():
        what = f"its own loader gives {some(names, 3)} no value, so that it answers no request"
        yield f"source.saved_model: {what}; the export takes the values of these names from its checkpoint"


def _no_variables(scratch: Path) -> str:
    """Write a checkpoint without any value, for a model that has none."""
    from exportkit.checkpoint import BundleWriter

    prefix = scratch / "no-variables"
    with BundleWriter(prefix):
        pass
    return str(prefix)


def _line(model: OwnModel) -> str:
    written = f", written by TensorFlow {model.version}" if model.version else ""
    return f"model {model.directory}, tags {', '.join(model.tags)}{written}"


@hookimpl
def exportkit_model_sources():
    return [SavedModelSource]
