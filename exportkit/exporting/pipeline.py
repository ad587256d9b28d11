"""The stages of an export: claim, build, prune, bind, write, steps, commit, publish. A failure leaves no version behind."""

import logging
import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from exportkit.checkpoint import Bundle, Readback, check_copied
from exportkit.checkpoint.held import DELETED
from exportkit.contract import Export, Phase, SourceModel
from exportkit.core.host import Host
from exportkit.errors import (
    ConfigError,
    EnvironmentFailed,
    ExportKitError,
    Problem,
    StepFailed,
    WeightsError,
    system_error,
)
from exportkit.exporting import savedmodel
from exportkit.exporting.description import describe
from exportkit.exporting.source_runner import build_source
from exportkit.exporting.step_runner import begin_steps, run_steps
from exportkit.metagraph import Graph
from exportkit.planning import assets
from exportkit.planning.checking import objections
from exportkit.planning.plan import wanted
from exportkit.planning.prepare import Model, Prepared, demand
from exportkit.planning.resolving import Resolved, opened
from exportkit.processes import Sandbox
from exportkit.processes.scratch import scratch
from exportkit.processes.tensorflow import import_tensorflow
from exportkit.processes.workers import not_sandboxed
from exportkit.registry import Plugins, load_plugins
from exportkit.report import ExportReport
from exportkit.serving import hosts
from exportkit.spec import ExportPlan
from exportkit.version.claim import Claim, is_private, size
from exportkit.version.identity import file_digest, identity
from exportkit.version.published import mark_published

log = logging.getLogger(__name__)
Progress = Callable[[str], None]
PRIVATE = "only its owner can read it, for the umask is 077; a server of another user needs an export under umask 022 or 027"


@dataclass(frozen=True)
class Built:
    """A plan whose sources were built and whose graphs were bound; nothing is written yet."""

    source: SourceModel
    checkpoint: Bundle
    prepared: Prepared
    bound: Mapping[str, savedmodel.BoundGraph]


def run(plan: ExportPlan, plugins: Plugins | None = None, progress: Progress | None = None) -> ExportReport:
    """Carry out a plan.

    Args:
        plan: what `exportkit.plan` returned.
        plugins: those that observe the end; default: the installed ones.
        progress: called with the name of each stage as it starts.

    Raises, each error with the report so far as its `report`:
        ConfigError, BindingError, WeightsError: the config does not fit what was built, or a policy refuses it.
        StepFailed: a step refused; nothing was committed, unless it was of PUBLISH.
        EnvironmentFailed: the machine refused.
        PluginError: a plugin broke its contract.
    """
    report = ExportReport(name=plan.name)
    fill(report, plan, plugins or load_plugins(), progress)
    return report


def fill(report: ExportReport, plan: ExportPlan, plugins: Plugins, progress: Progress | None = None) -> None:
    """Carry out a plan as `run` does, into a report that may already hold earlier stages. Raises what `run` raises."""
    report.base_path, report.warnings = str(plan.export_dir), list(plan.warnings)
    try:
        with scratch() as place, ExitStack() as ending:
            _export(plan, plugins, report, place, progress or _silent, ending)
    except OSError as cause:
        error = system_error(cause, plan.export_dir)
        _record_failure(report, error)
        raise error from cause
    except BaseException as error:
        _record_failure(report, error)
        raise
    finally:
        finish(plan, plugins, report)


def build(plan: ExportPlan, plugins: Plugins | None = None, progress: Progress | None = None) -> ExportReport:
    """Build and bind as `run` does, and write nothing; the report's status is ``built``. Raises what `run` raises."""
    report = ExportReport(name=plan.name, base_path=str(plan.export_dir), warnings=list(plan.warnings))
    plan = opened(plan)
    with scratch() as place, Host(Sandbox([])) as host:
        built = _build(plan, plugins or load_plugins(), report, place, progress or _silent, host)
    describe(report, plan, built.source, built.prepared, built.bound)
    report.assets = [str(asset.path) for asset in built.prepared.assets]
    report.status = "built"
    return report


def _record_failure(report: ExportReport, error: BaseException) -> None:
    """Write the failure into the report, and attach the report to the error."""
    report.status, report.error = "failed", str(error) or type(error).__name__
    vars(error)["report"] = report


def _silent(stage: str) -> None:
    pass


def _export(
    plan: ExportPlan, plugins: Plugins, report: ExportReport, scratch: Path, progress: Progress, ending: ExitStack
) -> None:
    """Do as `fill`; what is to be closed when the export has ended is put into `ending`."""
    plan = opened(plan)
    claim = Claim(plan.export_dir, plan.version)
    try:
        report.version = claim.number
        made_from = identity(plan)
        host = ending.enter_context(hosts.make(claim.directory, scratch))
        built = _build(plan, plugins, report, scratch, progress, host)
        progress("write")
        export = _to_export(plan, made_from, built, claim, scratch, report)
        export.hosts[claim.directory, scratch] = host
        ending.callback(_end, export)
        written = _write(plugins, export, built, host)
        if plan.weights.prove:
            progress("prove")
            _prove(built.prepared, claim.directory, report, written.readback)
        else:
            _check_untouched(plan)
        run_steps(plugins, export, progress, *(phase for phase in Phase if phase < Phase.PUBLISH))
        for host in export.hosts.values():
            host.kill()  # a loaded version takes a tenth of a second a gigabyte to be freed
        progress("commit")
        report.bytes, private = size(claim.directory), is_private(claim.directory)
        with report.stage("commit"):
            export.directory = claim.commit()
        if private:
            report.warnings.append(f"{export.directory}: {PRIVATE}")
    except BaseException as error:
        report.version = None
        _abandon(claim, plan, error)
        raise
    report.version, report.directory, export.version = claim.number, str(export.directory), claim.number
    report.status = "exported"
    if publishes(plan):
        run_steps(plugins, export, progress, Phase.PUBLISH)
        mark_published(plan.export_dir, claim.number)


def _end(export: Export) -> None:
    """End what steps have started: what is begun first, for it may wait for a host."""
    with ExitStack() as ending:
        for started in (*(host.stop for host in export.hosts.values()), *(begun.close for begun in export.begun.values())):
            ending.callback(started)


def publishes(plan: ExportPlan) -> bool:
    """Return whether a plan has steps that run on the visible version."""
    return any(step.phase is Phase.PUBLISH for step in plan.post.values())


def _abandon(claim: Claim, plan: ExportPlan, error: BaseException) -> None:
    """Abandon the claim. Raise the cause instead where somebody removed its directory or wrote to a checkpoint."""
    try:
        if isinstance(error, Exception) and not claim.is_visible:
            claim.check()
            _check_untouched(plan)
    except (EnvironmentFailed, WeightsError) as reason:
        raise reason from error
    finally:
        claim.abandon()


def _build(plan: ExportPlan, plugins: Plugins, report: ExportReport, scratch: Path, progress: Progress, host: Host) -> Built:
    resolved = {one.where: one for one in plan.resolved_sources()}
    if plan.uses_tensorflow:
        progress("import tensorflow")
        with report.stage("import tensorflow"):
            import_tensorflow()
    progress("build")
    with report.stage("build"):
        built = {where: _built(one, plan, plugins, scratch / f"source-{n}") for n, (where, one) in enumerate(resolved.items())}
        prepared = _prepared(plan, resolved, built)
        if problems := objections(plan, prepared, plugins):
            raise ConfigError(*problems)
        prepared.assets = assets.demand(plan, prepared)
    progress("bind")
    with report.stage("bind"):
        bound = savedmodel.bind(plan, prepared, host)
    first = next(iter(resolved))
    checkpoint = resolved[first].bundle or Bundle(built[first].checkpoint)
    report.warnings = list(dict.fromkeys([*report.warnings, *prepared.warnings]))
    return Built(built[first], checkpoint, prepared, bound)


def _built(resolved: Resolved, plan: ExportPlan, plugins: Plugins, room: Path) -> SourceModel:
    """Return what a source yields. If its checkpoint is no longer the planned one, that is reported with whatever fails."""
    room.mkdir()
    try:
        model = build_source(resolved, plugins, room, wanted(plan))
    except ExportKitError as error:
        if what := resolved.fate():
            raise type(error)(*error.problems, *resolved.refusal(what).problems) from error
        raise
    if model.checkpoint != resolved.preview.checkpoint and (what := resolved.fate()) not in (None, DELETED):
        raise resolved.refusal(what)  # the values that were captured may be those of either
    return model


def _prepared(plan: ExportPlan, resolved: Mapping[str, Resolved], built: Mapping[str, SourceModel]) -> Prepared:
    """Return what the plan prepared, where the sources yield just what it knew; prepare it anew otherwise."""
    if plan.prepared is not None and all(_is_as_planned(one, built[where]) for where, one in resolved.items()):
        return plan.prepared
    models = {where: _model(one, built[where]) for where, one in resolved.items()}
    return demand(plan, {key: models[one.where] for key, one in plan.resolved.items()})


def _is_as_planned(resolved: Resolved, model: SourceModel) -> bool:
    known = model.meta_graph is resolved.preview.meta_graph and model.checkpoint == resolved.preview.checkpoint
    same = model.tensors == (resolved.preview.tensors or {}) and model.original == resolved.preview.original
    return known and same and not model.answers


def _model(resolved: Resolved, source: SourceModel) -> Model:
    named = source.checkpoint == resolved.preview.checkpoint
    bundle = resolved.bundle if named else Bundle(source.checkpoint)
    return Model(Graph(source.meta_graph), source.tensors, bundle, source.answers, source.original)


def _write(plugins: Plugins, export: Export, built: Built, host: Host) -> savedmodel.Written:
    """Write the version, and complete what steps are given with what was written."""
    plan, report, directory = export.plan, export.report, export.directory
    describe(report, plan, built.source, built.prepared, built.bound)
    with report.stage("write"):
        begin_steps(plugins, export, "begin")
        with savedmodel.write(directory, plan, built.prepared, built.bound, host) as written:
            assets.check_copied(built.prepared.assets, directory / "assets")
            export.meta_graphs = written.meta_graphs
            begin_steps(plugins, export, "begin_written")
    report.assets = sorted(path.name for path in (directory / "assets").glob("*"))
    if written.readback is not None:
        export.known_digest = partial(_known_digest, written.readback)
    return written


def _known_digest(readback: Readback, path: Path) -> str | None:
    """Return the digest of the variables' data file, as its bytes were checked; None for any other file.

    Raises:
        StepFailed: the file was changed since.
    """
    if os.fspath(path) != readback.path or readback.digest is None:
        return None
    if not readback.is_unchanged() and file_digest(path) != readback.digest:
        what = "was changed after its bytes were compared with the checkpoint's"
        raise StepFailed(Problem(path.name, what, "export again, without what changes it"))
    return readback.digest


def _to_export(
    plan: ExportPlan, made_from: Mapping[str, Any], built: Built, claim: Claim, scratch: Path, report: ExportReport
) -> Export:
    """Return what steps are given, before anything is written."""
    return Export(
        directory=claim.directory,
        version=claim.number,
        scratch=scratch,
        plan=plan,
        identity=made_from,
        source=built.source,
        checkpoint=built.checkpoint,
        prepared=built.prepared,
        meta_graphs={},
        bound=savedmodel.bound_tensors(built.bound),
        report=report,
    )


def _check_untouched(plan: ExportPlan) -> None:
    for one in plan.resolved_sources():
        one.check_untouched()


def _prove(prepared: Prepared, directory: Path, report: ExportReport, readback: Readback | None) -> None:
    """Compare each checksum with its source's and with the written bytes; what was not read back by now is read."""
    if not prepared.coverage.saved:
        return
    with report.stage("prove"):
        equal = check_copied(str(directory / "variables" / "variables"), prepared.sources, readback).tensors
    report.weights.proof = prepared.coverage.summary(equal)


def finish(plan: ExportPlan, plugins: Plugins, report: ExportReport) -> None:
    """Write the report and call the observers; what they raise is logged and changes nothing."""
    report.not_sandboxed = not_sandboxed()
    if plan.report is not None:
        try:
            report.write(plan.report)
        except OSError as error:
            log.warning("%s", system_error(error, plan.report))
    for failure in plugins.notify("exportkit_export_finished", report=report):
        log.warning("%s", failure)
