"""The jobs of ``exportkit export``: one export in a process of its own or in this one, and what is printed of it."""

from collections.abc import Sequence
from contextlib import nullcontext
from contextvars import ContextVar
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from exportkit import processes
from exportkit.cli import channel, hydra_app, packed_plan, print_line, tables, wants_tracebacks
from exportkit.cli.channel import Detail
from exportkit.cli.early import WORKERS
from exportkit.cli.hydra_app import JobFailed
from exportkit.cli.progress import progress
from exportkit.cli.sweep import job_record, job_run, worker_side
from exportkit.cli.sweep.process_launcher import preload
from exportkit.cli.sweep.summary import closing
from exportkit.config.reader import Reader
from exportkit.errors import ExportKitError, Problem, system_error
from exportkit.report import ExportReport
from exportkit.spec import ExportPlan

_debugged = ContextVar("debugged", default=False)  # whether the user asked for tracebacks; inside Hydra that is always set


def export_all(arguments: Sequence[str], quiet: bool) -> int:
    """Run one export or a sweep and return the exit code."""
    rest, switches = hydra_app.sweep_switches(arguments)
    _debugged.set(wants_tracebacks())
    with channel.quiet(quiet), closing() as swept:
        try:
            hydra_app.run(rest, job, switches)
        except JobFailed as failed:
            if not swept.is_sweep:
                return hydra_app.report_failure(failed)
    return swept.code


@hydra_app.reporting
def job(config: DictConfig) -> str:
    """Export `config` and return its status: a job of Hydra's."""
    hydra_app.unmute_tensorflow()
    if job_record.is_sweep():
        return job_run.run(config, _export_once)
    here = _runs_here()
    with nullcontext() if here or not worker_side.uses_tensorflow(config) else processes.prestarted(preload(True)):
        planned = _plan(config)
        report = _export(planned, moving=False) if here else _export_isolated(planned, config)
    _show(report, planned)
    return report.status


def _runs_here() -> bool:
    """Return whether the export runs in this process, where debuggers work and tracebacks go back to their cause."""
    return _debugged.get() or worker_side.is_basic_launcher()


def _export_isolated(planned: ExportPlan, config: DictConfig) -> ExportReport:
    """Export in a process of its own."""
    from exportkit.cli import single
    from exportkit.cli.sweep import process_launcher

    launcher = HydraConfig.get().launcher
    ours = launcher._target_ == process_launcher.LAUNCHER
    if ours:
        process_launcher.check_options(launcher)
    return single.run(planned, config, launcher.timeout if ours else None)


def _show(report: ExportReport, planned: ExportPlan) -> None:
    match channel.detail():
        case Detail.WHOLE:
            tables.show_report(report, planned)
        case Detail.LINE:
            tables.line(tables.one_line(report))
            for warning in report.warnings:
                print_line(f"{report.name}: warning: {warning}")


def _export_once(config: DictConfig) -> ExportReport:
    """Export a job of a sweep, or return the report of an earlier attempt that exported it before its worker was lost."""
    if made := job_run.find_earlier(config):
        return made
    planned = packed_plan.unpack(packed_plan.read(), lambda: _plan(config))
    job_record.begin_attempt(planned.export_dir)
    return _export(planned)


def _export(planned: ExportPlan, moving: bool = True) -> ExportReport:
    from exportkit.exporting import pipeline

    if processes.inside() and processes.shared() is None:
        processes.reserve(WORKERS)
    with processes.terminable(), progress(planned.name, moving) as stage:
        return pipeline.run(planned, hydra_app.plugins(), progress=stage)


def _plan(config: DictConfig) -> ExportPlan:
    """Return the plan of `config`; where it cannot be planned, write the report here, for the pipeline never starts."""
    from exportkit.planning.plan import plan

    try:
        return plan(config, hydra_app.plugins(), hydra_app.directories())
    except ExportKitError as error:
        _report_failure(error, config)
        raise


def _report_failure(error: ExportKitError, config: DictConfig) -> None:
    """Write the report to ``report.path``, if that is set; where it cannot be written, add the problem to `error`."""
    path = OmegaConf.select(config, "report.path", throw_on_resolution_failure=False)
    if not path or any(problem.where == "report.path" for problem in error.problems):
        return
    reader = Reader(Path.cwd())
    if (target := reader.convert(Path, path, "report.path")) is None:
        error.args = (*error.problems, *reader.problems)
        return
    try:
        job_run.failed_report(error, job_run.unplanned_report(config)).write(target)
    except OSError as cause:
        refused = system_error(cause, path).problems[0]
        error.args = (*error.problems, Problem("report.path", f"{refused.where}: {refused.what}", refused.do))
