"""``exportkit [export] model=NAME …``: plan, run, and say what came of it."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from exportkit.cli import arguments as cli_arguments
from exportkit.cli import hydra_app, print_problems, tables
from exportkit.cli.hydra_app import JobFailed
from exportkit.cli.progress import progress
from exportkit.cli.sweep import records
from exportkit.errors import ConfigError, ExportKitError
from exportkit.report import ExportReport
from exportkit.spec import ExportPlan


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
    records.RememberDirectory.directory = None
    try:
        hydra_app.run(arguments, job)
    except JobFailed as failed:
        if records.RememberDirectory.directory is None:
            return hydra_app.told(failed)
    except ExportKitError as error:
        if records.RememberDirectory.directory is None or isinstance(error, ConfigError):
            raise
        print_problems(str(error))  # the launcher gave up; how far it came is in the records
        return _swept(records.RememberDirectory.directory) or error.exit_code
    return _swept(records.RememberDirectory.directory)


def _nothing_asked() -> int:
    with redirect_stdout(sys.stderr):
        hydra_app.show_overview("short")
    return ConfigError.exit_code


def _swept(directory: Path | None) -> int:
    """Say what became of a sweep's jobs, if there was a sweep."""
    if directory is None:
        return 0
    jobs = records.jobs(directory)
    tables.show_jobs(jobs)
    failed = [job for job in jobs if job.status != "exported"]
    if failed:
        print_problems("\n".join(f"job {job.number}: {problem}" for job in failed for problem in job.error.splitlines()))
    return 1 if failed else 0


@hydra_app.reporting
def job(config: DictConfig) -> None:
    """Export `config`: a job of Hydra's."""
    from exportkit import pipeline

    hydra_app.unmute_tensorflow()
    report = ExportReport(name=str(OmegaConf.select(config, "name")))
    try:
        plan = _plan(config, report)
        with progress(plan.name) as stage:
            report = pipeline.run(plan, hydra_app.plugins(), progress=stage)
    except Exception as error:
        report = _failed(error, report)
        raise
    finally:
        if records.is_sweep():
            records.record(report)
            tables.line(tables.summary(report))
    if not records.is_sweep():
        tables.show_report(report, plan)


def _plan(config: DictConfig, report: ExportReport) -> ExportPlan:
    """The plan; without one, the report that is asked for is written here, for the pipeline never starts."""
    from exportkit.plan import plan

    try:
        return plan(config, hydra_app.plugins())
    except ExportKitError as error:
        if path := OmegaConf.select(config, "report.path", throw_on_resolution_failure=False):
            _failed(error, report).write(Path(path))
        raise


def _failed(error: Exception, report: ExportReport) -> ExportReport:
    """The report that the pipeline had come to, or the bare one, with `error`."""
    report = getattr(error, "report", None) or report
    report.error = str(error if isinstance(error, ExportKitError) else hydra_app.unexpected(error))
    return report
