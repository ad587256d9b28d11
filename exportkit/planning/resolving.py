"""A source, resolved once: what it found for the plan, which the build, the identity and the manifest speak of."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from exportkit.checkpoint import Bundle, held
from exportkit.contract import ModelSource, Preview
from exportkit.errors import ConfigError, ExportKitError, PluginError, Problem, WeightsError, brief_in, shortened
from exportkit.registry import Plugins, Provider
from exportkit.spec import ExportPlan

_ATTEMPTS = 20
_PLANNED = "after it was planned"


@dataclass(frozen=True)
class Resolved:
    """A source as the plan found it.

    Attributes:
        where: its place in the config: ``source`` or ``meta_graphs.KEY.source``.
        source: the source.
        preview: what it told unbuilt.
        digest: of the checkpoint that it named, `Bundle.digest`; None where it named none, or one that cannot be read.
        bundle: that checkpoint, held open; None after a journey to another process.
    """

    where: str
    source: ModelSource
    preview: Preview
    digest: str | None = None
    bundle: Bundle | None = field(default=None, compare=False, repr=False)

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "bundle": None}

    def opened(self) -> "Resolved":
        """Return this source with its checkpoint open, and sure to be the one that was planned.

        Raises:
            WeightsError: it was overwritten since, or is gone and was not held.
        """
        if self.digest is None:
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
        return WeightsError(Problem(self.preview.checkpoint, f"{what} {when}", "export again, or name another checkpoint"))

    def check_untouched(self, when: str = "while it was exported") -> None:
        """Look whether the files have the bytes that they had; only a writer that opens them again can change those.

        Raises:
            WeightsError: they were written to.
        """
        if self.bundle is not None and any(file.is_written_to() for file in self.bundle.files.values()):
            raise self.refusal(held.WRITTEN, when)


def resolve(source: ModelSource, where: str, plugins: Plugins) -> tuple[Resolved, list[Problem]]:
    """Ask a source what it finds, and open the checkpoint that it names.

    Returns:
        The source, and what is wrong with it.

    Raises:
        PluginError: its plugin broke the contract.
    """
    preview, error = preview_source(source, plugins), None
    for _ in range(_ATTEMPTS):
        problems = placed(preview.problems, where, plugins.providers[type(source)])
        if not preview.checkpoint:
            return Resolved(where, source, preview), problems
        try:
            bundle = Bundle(preview.checkpoint)
        except ExportKitError as cause:
            error, failed = cause, preview.checkpoint
        else:
            return Resolved(where, source, preview, bundle.digest, bundle), problems
        preview = preview_source(source, plugins)  # training may have saved another one and deleted this
        if preview.checkpoint == failed:
            break
    return Resolved(where, source, preview), [*problems, *error.problems]


def preview_source(source: ModelSource, plugins: Plugins) -> Preview:
    """What `source` tells unbuilt; a ConfigError that it raises counts as the preview's problems.

    Raises:
        PluginError: it raised anything else, or returned what is no preview.
    """
    where = place_of(source, plugins)
    try:
        preview = source.preview()
    except ConfigError as error:
        preview = Preview(problems=error.problems)
    except (Exception, SystemExit) as cause:
        raise PluginError(Problem(where, f"preview raised {brief_in(cause, type(source).__module__)}")) from cause
    if not isinstance(preview, Preview):
        raise PluginError(Problem(where, f"preview returned a {type(preview).__name__}, not a Preview"))
    if junk := [problem for problem in preview.problems if not isinstance(problem, Problem)]:
        raise PluginError(Problem(where, f"preview returned {shortened(repr(junk[0]))} among its problems, not a Problem"))
    return preview


def placed(problems: Iterable[Problem], where: str, provider: Provider) -> list[Problem]:
    """Return problems that a plugin has with its config, each below `where`; one that names no key names the plugin."""
    return [problem.under(where) if problem.where else problem.located(f"{where} ({provider})") for problem in problems]


def place_of(source: ModelSource, plugins: Plugins) -> str:
    """Return what a problem with a source is reported under: the source and its plugin."""
    return f"source ({plugins.providers.get(type(source))})"


def opened(plan: ExportPlan) -> ExportPlan:
    """Return the plan with the checkpoints of its sources open, as `Resolved.opened` says."""
    found = {one.where: one.opened() for one in plan.resolved_sources()}
    if all(found[one.where] is one for one in plan.resolved.values()):
        return plan
    return replace(plan, resolved={key: found[one.where] for key, one in plan.resolved.items()})
