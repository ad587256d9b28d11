"""``exportkit [export] model=NAME …``: plan, run, and say what came of it."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from exportkit import processes
from exportkit.cli import arguments as cli_arguments
from exportkit.cli import hydra_app, tables
from exportkit.cli.hydra_app import JobFailed
from exportkit.cli.progress import progress
from exportkit.cli.sweep import job_record, job_run
from exportkit.cli.sweep.summary import closing
from exportkit.errors import ConfigError, ExportKitError
from exportkit.processes import workers
from exportkit.report import ExportReport
from exportkit.spec import ExportPlan

SWITCHES = {"--force": "hydra.sweeper.force=true", "--keep-going": "hydra.sweeper.keep_going=true"}


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
    switches = [SWITCHES[word] for word in arguments if word in SWITCHES]
    rest = [word for word in arguments if word not in SWITCHES]
    with closing() as swept:
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
    report = _export(planned)
    tables.show_report(report, planned)
    return report.status


def _export_once(config: DictConfig) -> ExportReport:
    """Export a job of a sweep, which may have been made by an attempt that was lost."""
    if made := job_run.find_earlier(config):
        return made
    planned = _plan(config)
    job_record.begin_attempt(planned.export_dir)
    return _export(planned)


def _export(planned: ExportPlan) -> ExportReport:
    from exportkit.exporting import pipeline

    if processes.inside() and planned.post:
        workers.reserve()
    with progress(planned.name) as stage:
        return pipeline.run(planned, hydra_app.plugins(), progress=stage)


def _plan(config: DictConfig) -> ExportPlan:
    """The plan; without one, the report that is asked for is written here, for the pipeline never starts."""
    from exportkit.planning.plan import plan

    try:
        return plan(config, hydra_app.plugins())
    except ExportKitError as error:
        if path := OmegaConf.select(config, "report.path", throw_on_resolution_failure=False):
            job_run.failed_report(error, job_run.unplanned_report(config)).write(Path(path))
        raise
