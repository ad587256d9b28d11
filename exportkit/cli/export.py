"""``exportkit [export] model=NAME …``: plan, run, and say what came of it."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from contextvars import ContextVar
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from exportkit import processes
from exportkit.cli import arguments as cli_arguments
from exportkit.cli import channel, hydra_app, single, tables, wants_tracebacks
from exportkit.cli.channel import Detail
from exportkit.cli.hydra_app import JobFailed
from exportkit.cli.progress import progress
from exportkit.cli.sweep import job_record, job_run, process_launcher, worker_side
from exportkit.cli.sweep.summary import closing
from exportkit.config.reader import Reader
from exportkit.errors import ConfigError, ExportKitError, Problem, system_error
from exportkit.report import ExportReport
from exportkit.spec import ExportPlan

QUIET = ("-q", "--quiet")

_debugged = ContextVar("debugged", default=False)  # inside Hydra the variable is set that asks for tracebacks


def main(arguments: Sequence[str]) -> int:
    """Export what `arguments` say, or do what Hydra's flags among them ask for."""
    if not arguments:
        return _nothing_asked()
    if cli_arguments.has(arguments, "-h", "--help"):
        hydra_app.show_overview("", arguments)
        return 0
    if cli_arguments.has(arguments, "-sc", "--shell-completion"):
        hydra_app.complete(arguments)
        return 0
    rest, switches = hydra_app.sweep_switches([word for word in arguments if word not in QUIET])
    _debugged.set(wants_tracebacks())
    with channel.quiet(cli_arguments.has(arguments, *QUIET)), closing() as swept:
        try:
            hydra_app.run(rest, job, switches)
        except JobFailed as failed:
            if not swept.is_sweep:
                return hydra_app.told(failed)
    return swept.code


def _nothing_asked() -> int:
    with redirect_stdout(sys.stderr):
        hydra_app.show_overview("short")
    return ConfigError.exit_code


@hydra_app.reporting
def job(config: DictConfig) -> str:
    """Export `config` and return its status: a job of Hydra's."""
    hydra_app.unmute_tensorflow()
    if job_record.is_sweep():
        return job_run.run(config, _export_once)
    planned = _plan(config)
    report = _export(planned, moving=False) if _stays() else _export_apart(planned, config)
    _show(report, planned)
    return report.status


def _stays() -> bool:
    """Whether the export runs in this process, where debuggers work and tracebacks go back to their cause."""
    return _debugged.get() or worker_side.is_here()


def _export_apart(planned: ExportPlan, config: DictConfig) -> ExportReport:
    launcher = HydraConfig.get().launcher
    ours = launcher._target_ == process_launcher.LAUNCHER
    if ours:
        process_launcher.check(launcher)
    return single.run(planned, config, launcher.timeout if ours else None)


def _show(report: ExportReport, planned: ExportPlan) -> None:
    match channel.detail():
        case Detail.WHOLE:
            tables.show_report(report, planned)
        case Detail.LINE:
            tables.line(tables.one_line(report))
            for warning in report.warnings:
                print(f"{report.name}: warning: {warning}", file=sys.stderr)


def _export_once(config: DictConfig) -> ExportReport:
    """Export a job of a sweep, which may have been made by an attempt that was lost."""
    if made := job_run.earlier(config):
        return made
    planned = _plan(config)
    job_record.begin_attempt(planned.export_dir)
    return _export(planned)


def _export(planned: ExportPlan, moving: bool = True) -> ExportReport:
    from exportkit.exporting import pipeline

    if processes.inside() and planned.post:
        processes.reserve()
    with processes.terminable(), progress(planned.name, moving) as stage:
        return pipeline.run(planned, hydra_app.plugins(), progress=stage)


def _plan(config: DictConfig) -> ExportPlan:
    """The plan; without one, the report that is asked for is written here, for the pipeline never starts."""
    from exportkit.planning.plan import plan

    try:
        return plan(config, hydra_app.plugins())
    except ExportKitError as error:
        _report_failure(error, config)
        raise


def _report_failure(error: ExportKitError, config: DictConfig) -> None:
    """Write the report that is asked for, if it can be written; otherwise `error` says so too."""
    path = OmegaConf.select(config, "report.path", throw_on_resolution_failure=False)
    if not path or any(problem.where == "report.path" for problem in error.problems):
        return
    reader = Reader(Path.cwd())
    if (target := reader.convert(Path, path, "report.path")) is None:
        error.args = (*error.problems, *reader.problems)
        return
    try:
        job_run.failed(error, job_run.named(config)).write(target)
    except OSError as cause:
        refused = system_error(cause, path).problems[0]
        error.args = (*error.problems, Problem("report.path", f"{refused.where}: {refused.what}", refused.do))
