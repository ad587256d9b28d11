"""``exportkit [export] model=NAME …``: plan, run, and say what came of it."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from exportkit.cli import arguments as cli_arguments
from exportkit.cli import hydra_app, print_problems, sweep, tables
from exportkit.cli.hydra_app import JobFailed
from exportkit.cli.progress import progress
from exportkit.errors import ConfigError, ExportKitError
from exportkit.report import ExportReport


def main(arguments: Sequence[str]) -> int:
    """Export what `arguments` say, or do what Hydra's flags among them ask for."""
    if not arguments:
        return _nothing_asked()
    if cli_arguments.has(arguments, "-h", "--help"):
        hydra_app.show_overview("", arguments)
        return 0
    if cli_arguments.has(arguments, "-sc", "--shell-completion"):
        return hydra_app.complete(arguments)
    sweep.RememberDirectory.directory = None
    try:
        hydra_app.run(arguments, job)
    except JobFailed as failed:
        if sweep.RememberDirectory.directory is None:
            print_problems(str(failed))
            return failed.exit_code
    return _swept(sweep.RememberDirectory.directory)


def _nothing_asked() -> int:
    with redirect_stdout(sys.stderr):
        hydra_app.show_overview("short")
    return ConfigError.exit_code


def _swept(directory: Path | None) -> int:
    """Say what became of a sweep's jobs, if there was a sweep."""
    if directory is None:
        return 0
    jobs = sweep.jobs(directory)
    tables.show_jobs(jobs)
    failed = [job for job in jobs if job.status != "exported"]
    if failed:
        print_problems("\n".join(job.error for job in failed))
    return 1 if failed else 0


@hydra_app.reporting
def job(config: DictConfig) -> None:
    """Export `config`: a job of Hydra's. What came of it is written where `report.path` says, also of a failure."""
    hydra_app.unmute_tensorflow()
    report = ExportReport(name=str(OmegaConf.select(config, "name")))
    try:
        plan, report = _export(config)
    except Exception as error:
        report = _failed(error, report)
        raise
    else:
        _said(report, plan)
    finally:
        _keep(report, config)


def _export(config: DictConfig) -> tuple[Any, ExportReport]:
    from exportkit import pipeline
    from exportkit.plan import plan as make_plan

    plugins = hydra_app.plugins()
    plan = make_plan(config, plugins)
    with progress(plan.name) as stage:
        return plan, pipeline.run(plan, plugins, progress=stage)


def _failed(error: Exception, report: ExportReport) -> ExportReport:
    """The report that the pipeline had come to, or the bare one, with `error`."""
    report = getattr(error, "report", None) or report
    report.status = "failed"
    report.error = report.error or str(error if isinstance(error, ExportKitError) else hydra_app.unexpected(error))
    return report


def _said(report: ExportReport, plan: Any) -> None:
    if sweep.is_sweep():
        print(tables.one_line(report), flush=True)
    else:
        tables.show_report(report, plan)


def _keep(report: ExportReport, config: DictConfig) -> None:
    """Write the report where the user asked for it, and into a sweep's record."""
    if sweep.is_sweep():
        sweep.record(report)
    if path := OmegaConf.select(config, "report.path"):
        report.write(Path(path))
