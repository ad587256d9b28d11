"""The way of the data: claim, build, prune, bind, write, steps, commit, publish. One direction, and no version left behind on failure."""

import importlib
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exportkit.bundle import Bundle
from exportkit.errors import EnvironmentFailed, ExportKitError, PluginError, Problem, StepFailed
from exportkit.metagraph import Graph
from exportkit.plan import wanted
from exportkit.plugin import Export, ModelSource, Phase, SourceModel
from exportkit.registry import Plugins, load_plugins
from exportkit.report import ExportReport, MetaGraphReport, SignatureReport, StepReport, TensorReport, WeightsReport
from exportkit.serving import Model, Prepared, demand
from exportkit.spec import ExportPlan
from exportkit.versions import Claim, failed

if TYPE_CHECKING:
    from exportkit.savedmodel import BoundGraph

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

    Raises:
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
        report.status = "exported"
    except ExportKitError as error:
        report.error = str(error)
        raise
    except OSError as error:
        report.error = str(failed(error, plan.export_dir))
        raise failed(error, plan.export_dir) from error
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
        _run_steps(plan, plugins, export, progress, Phase.AUGMENT, Phase.VERIFY, Phase.SEAL)
        progress("commit")
        report.bytes = sum(path.stat().st_size for path in claim.directory.rglob("*") if path.is_file())
        with report.stage("commit"):
            export.directory = claim.commit()
    except BaseException:
        report.version = None
        claim.abandon()
        raise
    report.version, report.directory, export.version = claim.number, str(export.directory), claim.number
    _run_steps(plan, plugins, export, progress, Phase.PUBLISH)


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
        from exportkit import savedmodel

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
            built[id(source)] = _build_source(source, plugins, room, wanted(plan))
        found[key] = built[id(source)]
    return found


def _build_source(source: ModelSource, plugins: Plugins, room: Path, wanted: list[str]) -> SourceModel:
    provider = plugins.providers.get(type(source))
    try:
        model = source.build(room, wanted)
    except (ExportKitError, OSError):
        raise
    except Exception as cause:
        raise PluginError(Problem(f"source ({provider})", f"raised {_brief(cause)}")) from cause
    if not isinstance(model, SourceModel):
        raise PluginError(Problem(f"source ({provider})", f"build returned a {type(model).__name__}, not a SourceModel"))
    return model


def _model(source: SourceModel) -> Model:
    return Model(Graph(source.meta_graph), source.tensors, Bundle(source.checkpoint))


def _write(plan: ExportPlan, built: Built, claim: Claim, scratch: Path, report: ExportReport, progress: Progress) -> Export:
    from exportkit import savedmodel

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
        meta_graphs=written,
        bound=savedmodel.bound_tensors(built.bound),
        report=report,
    )


@contextmanager
def _tensorflow_errors(where: Path) -> Iterator[None]:
    """TensorFlow's own file errors, as ours; they would not survive a worker's pipe."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as cause:
        do = "free some space" if "space" in str(cause).lower() else ""
        raise EnvironmentFailed(Problem(str(where), _brief(cause), do)) from cause


def _run_steps(plan: ExportPlan, plugins: Plugins, export: Export, progress: Progress, *phases: Phase) -> None:
    for name, step in plan.post.items():
        if step.phase in phases:
            progress(name)
            with export.report.stage(name):
                _run_step(name, step, plugins, export)


def _run_step(name: str, step: Any, plugins: Plugins, export: Export) -> None:
    line = StepReport(kind=step.kind, phase=step.phase.name, status="failed")
    export.report.steps.append(line)
    try:
        line.details = dict(step.run(export) or {})
        line.status = "passed"
    except ExportKitError:
        raise
    except Exception as cause:
        provider = plugins.providers.get(type(step))
        raise StepFailed(Problem(f"post.{name} ({provider})", f"raised {_brief(cause)}")) from cause


def _describe(plan: ExportPlan, built: Built, report: ExportReport) -> None:
    report.meta_graphs = [_meta_graph_report(plan, key, bound) for key, bound in built.bound.items()]
    coverage = built.prepared.coverage
    report.weights = WeightsReport(
        variables=len(coverage.saved),
        bytes=sum(bundle.entries[key].size for bundle, key in built.prepared.sources.values()),
        proof=coverage.summary,
        notes=[*built.source.notes, *coverage.notes],
    )


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
            log.warning("%s", failed(error, plan.report))
    for error in plugins.notify("exportkit_export_finished", report=report):
        log.warning("%s", error)


def _brief(cause: BaseException) -> str:
    return f"{type(cause).__name__}: {' '.join(str(cause).split())[:300]}"


def import_tensorflow() -> None:
    """Import TensorFlow without its start-up noise, which is printed only if the import fails.

    What it logs at import goes to file descriptor 2 whatever TF_CPP_MIN_LOG_LEVEL says. tf.compat.v1.layers, which builders of
    that age use, is only there with tf-keras and TF_USE_LEGACY_KERAS, read at import.
    """
    if "tensorflow" in sys.modules:
        return
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if importlib.util.find_spec("tf_keras"):
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
    with tempfile.TemporaryFile() as noise, _descriptor(2, noise.fileno()) as terminal:
        try:
            importlib.import_module("tensorflow")
        except Exception as cause:
            noise.seek(0)
            os.write(terminal, noise.read())
            raise EnvironmentFailed(Problem("tensorflow", f"cannot be imported: {_brief(cause)}")) from cause


@contextmanager
def _descriptor(number: int, replacement: int) -> Iterator[int]:
    """Have file descriptor `number` write to `replacement` for a while; yields a copy of the old one."""
    sys.stderr.flush()
    saved = os.dup(number)
    os.dup2(replacement, number)
    try:
        yield saved
    finally:
        os.dup2(saved, number)
        os.close(saved)
