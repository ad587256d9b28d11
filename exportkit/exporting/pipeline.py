"""The way of the data: claim, build, prune, bind, write, steps, commit, publish. A failure leaves no version behind."""

import errno
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exportkit.checkpoint import Bundle, check_copied
from exportkit.errors import EnvironmentFailed, Problem, brief, system_error
from exportkit.exporting.source_runner import build_source
from exportkit.exporting.step_runner import run_steps
from exportkit.metagraph import Graph
from exportkit.planning.plan import wanted
from exportkit.planning.prepare import Model, Prepared, demand
from exportkit.plugin import Export, Phase, SourceModel
from exportkit.processes.tensorflow import import_tensorflow
from exportkit.registry import Plugins, load_plugins
from exportkit.report import ExportReport, MetaGraphReport, SignatureReport, TensorReport, WeightsReport
from exportkit.spec import ExportPlan
from exportkit.version.claim import Claim, size
from exportkit.version.published import mark_published

if TYPE_CHECKING:
    from exportkit.exporting.savedmodel import BoundGraph

log = logging.getLogger(__name__)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Built:
    """A plan whose sources were built and whose graphs were bound; nothing is written yet."""

    source: SourceModel
    prepared: Prepared
    bound: Mapping[str, "BoundGraph"]


def run(plan: ExportPlan, plugins: Plugins | None = None, progress: Progress | None = None) -> ExportReport:
    """Carry out a plan.

    Args:
        plan: what `exportkit.plan` returned.
        plugins: those that observe the end; default: the installed ones.
        progress: called with the name of each stage as it starts.

    Raises, each error with the report so far as its `report`:
        ConfigError, BindingError, WeightsError: the config does not fit what was built.
        StepFailed: a step refused; nothing was committed, unless it was of PUBLISH.
        EnvironmentFailed: the machine refused.
        PluginError: a plugin broke its contract.
    """
    plugins = plugins or load_plugins()
    report = ExportReport(name=plan.name, base_path=str(plan.export_dir), warnings=list(plan.warnings))
    try:
        with _scratch() as scratch:
            _export(plan, plugins, report, scratch, progress or _silent)
    except OSError as cause:
        error = system_error(cause, plan.export_dir)
        _blame(report, error)
        raise error from cause
    except BaseException as error:
        _blame(report, error)
        raise
    finally:
        _finish(plan, plugins, report)
    return report


def build(plan: ExportPlan, plugins: Plugins | None = None, progress: Progress | None = None) -> ExportReport:
    """Build and bind as `run` does, and write nothing; the report's status is ``built``. Raises what `run` raises."""
    report = ExportReport(name=plan.name, base_path=str(plan.export_dir), warnings=list(plan.warnings))
    with _scratch() as scratch:
        built = _build(plan, plugins or load_plugins(), report, scratch, progress or _silent)
    _describe(plan, built, report)
    report.status = "built"
    return report


def _blame(report: ExportReport, error: BaseException) -> None:
    """The failure in the report, and the report with the failure."""
    report.status, report.error = "failed", str(error) or type(error).__name__
    error.report = report


def _silent(stage: str) -> None:
    pass


@contextmanager
def _scratch() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="exportkit-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _export(plan: ExportPlan, plugins: Plugins, report: ExportReport, scratch: Path, progress: Progress) -> None:
    claim = Claim(plan.export_dir, plan.version)
    try:
        report.version = claim.number
        built = _build(plan, plugins, report, scratch, progress)
        export = _write(plan, built, claim, scratch, report, progress)
        if plan.weights.prove:
            progress("prove")
            _prove(built.prepared, claim.directory, report)
        run_steps(plugins, export, progress, Phase.AUGMENT, Phase.VERIFY, Phase.SEAL)
        progress("commit")
        report.bytes = size(claim.directory)
        with report.stage("commit"):
            export.directory = claim.commit()
    except BaseException as error:
        report.version = None
        _give_up(claim, error)
        raise
    report.version, report.directory, export.version = claim.number, str(export.directory), claim.number
    report.status = "exported"
    if publishes(plan):
        run_steps(plugins, export, progress, Phase.PUBLISH)
        mark_published(plan.export_dir, claim.number)


def publishes(plan: ExportPlan) -> bool:
    """Whether a plan has steps that run on the visible version."""
    return any(step.phase is Phase.PUBLISH for step in plan.post.values())


def _give_up(claim: Claim, error: BaseException) -> None:
    """Abandon the claim; where it failed because somebody removed its directory, say so instead."""
    try:
        if isinstance(error, Exception) and not claim.is_visible:
            claim.check()
    except EnvironmentFailed as removed:
        raise removed from error
    finally:
        claim.abandon()


def _build(plan: ExportPlan, plugins: Plugins, report: ExportReport, scratch: Path, progress: Progress) -> Built:
    progress("import tensorflow")
    with report.stage("import tensorflow"):
        import_tensorflow()
    progress("build")
    with report.stage("build"):
        sources = _sources(plan, plugins, scratch)
        models = {id(source): _model(source) for source in sources.values()}
        prepared = demand(plan, {key: models[id(source)] for key, source in sources.items()})
    progress("bind")
    with report.stage("bind"):
        from exportkit.exporting import savedmodel

        bound = savedmodel.bind(plan, prepared)
    first = next(iter(sources.values()))
    report.warnings = list(dict.fromkeys([*report.warnings, *prepared.warnings]))
    return Built(first, prepared, bound)


def _sources(plan: ExportPlan, plugins: Plugins, scratch: Path) -> dict[str, SourceModel]:
    """Meta graph key → what its source yielded; each source is built once."""
    built: dict[int, SourceModel] = {}
    found: dict[str, SourceModel] = {}
    for key in plan.meta_graphs:
        source = plan.sources.get(key, plan.source)
        if id(source) not in built:
            room = scratch / f"source-{len(built)}"
            room.mkdir()
            built[id(source)] = build_source(source, plugins, room, wanted(plan))
        found[key] = built[id(source)]
    return found


def _model(source: SourceModel) -> Model:
    return Model(Graph(source.meta_graph), source.tensors, Bundle(source.checkpoint))


def _write(plan: ExportPlan, built: Built, claim: Claim, scratch: Path, report: ExportReport, progress: Progress) -> Export:
    from exportkit.exporting import savedmodel

    progress("write")
    _describe(plan, built, report)
    with report.stage("write"), _tensorflow_errors(plan.export_dir):
        written = savedmodel.write(claim.directory, plan, built.prepared, built.bound)
    report.assets = sorted(path.name for path in (claim.directory / "assets").glob("*"))
    return Export(
        directory=claim.directory,
        version=claim.number,
        scratch=scratch,
        plan=plan,
        source=built.source,
        prepared=built.prepared,
        meta_graphs=written,
        bound=savedmodel.bound_tensors(built.bound),
        report=report,
    )


def _prove(prepared: Prepared, directory: Path, report: ExportReport) -> None:
    """Read the written variables back: each has its source's checksum, and its bytes have that checksum."""
    if not prepared.coverage.saved:
        return
    with report.stage("prove"):
        equal = check_copied(str(directory / "variables" / "variables"), prepared.sources).tensors
    report.weights.proof = prepared.coverage.summary(equal)


@contextmanager
def _tensorflow_errors(where: Path) -> Iterator[None]:
    """TensorFlow's own file errors (``path; what the system said``) as ours; they would not survive a worker's pipe."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as cause:
        path, _, what = cause.message.rpartition("; ")
        number = next((n for n in errno.errorcode if os.strerror(n) == what), None)
        if number is None:
            raise EnvironmentFailed(Problem(str(where), brief(cause))) from cause
        raise system_error(OSError(number, what, path), where) from cause


def _describe(plan: ExportPlan, built: Built, report: ExportReport) -> None:
    report.meta_graphs = [_meta_graph_report(plan, key, bound) for key, bound in built.bound.items()]
    coverage = built.prepared.coverage
    report.weights = WeightsReport(
        variables=len(coverage.saved),
        bytes=sum(bundle.entries[key].size for bundle, key in built.prepared.sources.values()),
        proof=coverage.summary(),
        how=_how(built.prepared),
        notes=[*built.source.notes, *coverage.notes],
    )


def _how(prepared: Prepared) -> str:
    """Which way the values took: bytes are copied, but V1 checkpoints hold numbers of a protobuf, which are decoded."""
    formats = {bundle.format for bundle, _ in prepared.sources.values()}
    ways = {"V2": "copied as bytes", "V1": "decoded from a V1 checkpoint"}
    return " and ".join(way for version, way in ways.items() if version in formats)


def _meta_graph_report(plan: ExportPlan, key: str, bound: "BoundGraph") -> MetaGraphReport:
    return MetaGraphReport(
        key=key,
        tags=list(plan.meta_graphs[key].tags),
        nodes_before=bound.part.pruned.nodes_before,
        nodes_after=bound.part.pruned.nodes_after,
        signatures=[_signature_report(plan, name, bound) for name in bound.part.wiring.signatures],
    )


def _signature_report(plan: ExportPlan, key: str, bound: "BoundGraph") -> SignatureReport:
    signature = plan.signatures[key]
    return SignatureReport(
        key=key,
        method=signature.method,
        inputs=[_tensor_report(alias, ref, bound.fed[ref]) for alias, ref in signature.inputs.items()],
        outputs=[_tensor_report(alias, ref, bound.values[ref]) for alias, ref in signature.outputs.items()],
    )


def _tensor_report(alias: str, ref: str, tensor: Any) -> TensorReport:
    shape = None if tensor.shape.rank is None else tensor.shape.as_list()
    return TensorReport(alias=alias, binding=ref, tensor=tensor.name, dtype=tensor.dtype.base_dtype.name, shape=shape)


def _finish(plan: ExportPlan, plugins: Plugins, report: ExportReport) -> None:
    """Write the report and tell the observers; what they raise changes nothing."""
    if plan.report is not None:
        try:
            report.write(plan.report)
        except OSError as error:
            log.warning("%s", system_error(error, plan.report))
    for error in plugins.notify("exportkit_export_finished", report=report):
        log.warning("%s", error)
