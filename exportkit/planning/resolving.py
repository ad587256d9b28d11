"""Sources, resolved once for the plan; the build, the identity and the manifest use what was found."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from exportkit.checkpoint import Bundle, held
from exportkit.contract import ModelSource, Preview
from exportkit.errors import ConfigError, ExportKitError, PluginError, Problem, WeightsError, brief_in, shortened, type_of
from exportkit.metagraph import Graph
from exportkit.metagraph.tensors import Facts
from exportkit.registry import Plugins, Provider
from exportkit.spec import ExportPlan, Signature

_ATTEMPTS = 20
_PLANNED = "after it was planned"


@dataclass(frozen=True)
class Resolved:
    """A source as the plan found it.

    Attributes:
        where: its place in the config: ``source`` or ``meta_graphs.KEY.source``.
        source: the source.
        preview: what is known of it unbuilt.
        digest: of the checkpoint that it named, `Bundle.digest`; None where it named none, or one that cannot be read.
        bundle: that checkpoint, held open; None after it was pickled.
    """

    where: str
    source: ModelSource
    preview: Preview
    digest: str | None = None
    bundle: Bundle | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "bundle": None}

    def opened(self) -> "Resolved":
        """Return this source with its checkpoint open: the one that was planned.

        Raises:
            WeightsError: it was overwritten since, or is gone and was not held open.
        """
        if self.digest is None or self.preview.checkpoint is None:
            return self
        if self.bundle is not None:
            self.check_untouched(_PLANNED)
            return self
        try:
            bundle = Bundle(self.preview.checkpoint)
        except WeightsError as error:
            raise WeightsError(*self.refusal("cannot be opened any more", _PLANNED).problems, *error.problems) from error
        if bundle.digest != self.digest:
            raise self.refusal(held.REPLACED, _PLANNED)
        return replace(self, bundle=bundle)

    def fate(self) -> str | None:
        """Return what happened to the checkpoint's files since, as `refusal` takes it; None for nothing."""
        return None if self.bundle is None else held.fate(self.bundle.files)

    def refusal(self, what: str, when: str = "while it was exported") -> WeightsError:
        """Return the error that says what happened to the checkpoint."""
        return WeightsError(
            Problem(self.preview.checkpoint or self.where, f"{what} {when}", "export again, or name another checkpoint")
        )

    def check_untouched(self, when: str = "while it was exported") -> None:
        """Check that nobody wrote to the checkpoint's files: held open, they change only if somebody writes to them in place.

        Raises:
            WeightsError: they were written to.
        """
        if self.bundle is not None and any(file.is_written_to() for file in self.bundle.files.values()):
            raise self.refusal(held.WRITTEN, when)


def resolve(source: ModelSource, where: str, plugins: Plugins) -> tuple[Resolved, list[Problem]]:
    """Take a source's preview, and open the checkpoint that it names.

    Returns:
        The source, and what is wrong with it.

    Raises:
        PluginError: its plugin broke the contract.
    """
    preview = preview_source(source, where, plugins)
    failures: tuple[Problem, ...] = ()
    for _ in range(_ATTEMPTS):
        problems = placed([*preview.problems, *_missing_files(preview)], where, plugins.providers[type(source)])
        if not preview.checkpoint:
            return Resolved(where, source, preview), problems
        try:
            bundle = Bundle(preview.checkpoint)
        except ExportKitError as cause:
            failures, failed = cause.problems, preview.checkpoint
        else:
            return Resolved(where, source, preview, bundle.digest, bundle), problems
        preview = preview_source(source, where, plugins)  # training may have saved another one and deleted this
        if preview.checkpoint == failed:
            break
    return Resolved(where, source, preview), [*problems, *failures]


def preview_source(source: ModelSource, where: str, plugins: Plugins) -> Preview:
    """Return the preview of the source at `where`; a ConfigError that it raises counts as the preview's problems.

    Raises:
        PluginError: it raised anything else, or returned something that is not a preview.
    """
    named = f"{where} ({plugins.providers.get(type(source))})"
    try:
        preview = source.preview()
    except ConfigError as error:
        preview = Preview(problems=error.problems)
    except (Exception, SystemExit) as cause:
        raise PluginError(Problem(named, f"preview raised {brief_in(cause, type(source).__module__)}")) from cause
    if what := next(_junk(preview), None):
        raise PluginError(Problem(named, f"preview returned {what}"))
    return preview


def _junk(preview: Any) -> Iterator[str]:
    """Yield why `preview` is not what a source returns."""
    if not isinstance(preview, Preview):
        yield f"{type_of(preview)}, not a Preview"
        return
    for problem in preview.problems:
        if not isinstance(problem, Problem):
            yield f"{shortened(repr(problem))} among its problems, not a Problem"
    if not isinstance(preview.tensors, Mapping | None):
        yield f"tensors that are {type_of(preview.tensors)}, not a mapping of names to tensors"
        return
    graph = Graph(preview.meta_graph) if preview.tensors and preview.meta_graph is not None else None
    for name, tensor in (preview.tensors or {}).items():
        if graph is not None and not (isinstance(tensor, str) and isinstance(graph.find(tensor), str)):
            yield f"tensors['{name}'] = {tensor!r:.80}, which is no tensor of its graph"
        elif not isinstance(tensor, str | Facts):
            yield f"tensors['{name}'] = {tensor!r:.80}, which is neither a tensor's name nor Facts"
    yield from _junk_signatures(preview)
    if isinstance(preview.warnings, str) or not all(isinstance(line, str) for line in preview.warnings):
        yield "warnings that are not a list of texts"
    if isinstance(preview.files, str) or not all(isinstance(file, str | Path) for file in preview.files or ()):
        yield "files that are not a list of paths"


def _junk_signatures(preview: Preview) -> Iterator[str]:
    if not isinstance(preview.signatures, Mapping):
        yield f"signatures that are {type_of(preview.signatures)}, not a mapping"
        return
    for key, signature in preview.signatures.items():
        if not isinstance(signature, Signature):
            yield f"signatures['{key}'] that is {type_of(signature)}, not a Signature"
            return
        names = [*signature.inputs.values(), *signature.outputs.values()]
        if missing := [name for name in names if name not in (preview.tensors or {})]:
            yield f"signatures['{key}'] of '{missing[0]}', which is not among its tensors"


def _missing_files(preview: Preview) -> Iterator[Problem]:
    for file in preview.files or ():
        if not Path(file).is_file():
            yield Problem("", f"is made from {file}, and there is no such file", "write the path of a file")


def placed(problems: Iterable[Problem], where: str, provider: Provider | None) -> list[Problem]:
    """Return the problems that a plugin reports of its config, each below `where`; one without a place names the plugin."""
    return [problem.under(where) if problem.where else problem.located(f"{where} ({provider})") for problem in problems]


def opened(plan: ExportPlan) -> ExportPlan:
    """Return the plan with the checkpoints of its sources open. Raises what `Resolved.opened` raises."""
    found = {one.where: one.opened() for one in plan.resolved_sources()}
    if all(found[one.where] is one for one in plan.resolved.values()):
        return plan
    return replace(plan, resolved={key: found[one.where] for key, one in plan.resolved.items()})
