"""``exportkit plan model=NAME …``: what an export would do, in order, and how much of it is known to go well."""

import tempfile
from collections.abc import Sequence

from omegaconf import DictConfig

from exportkit.cli import arguments as cli_arguments
from exportkit.cli import hydra_app, tables
from exportkit.cli.hydra_app import JobFailed
from exportkit.cli.progress import progress
from exportkit.cli.sweep import job_record, job_run
from exportkit.cli.sweep.summary import closing
from exportkit.errors import ConfigError
from exportkit.report import ExportReport
from exportkit.spec import ExportPlan

BUILD = "--build"


def main(arguments: Sequence[str]) -> int:
    """Show the plan of what `arguments` say, or do what Hydra's flags among them ask for."""
    rest = [word for word in arguments if word != BUILD]
    if cli_arguments.has(rest, "-h", "--help") or not rest:
        hydra_app.show_overview("plan", rest)
        return 0 if rest else ConfigError.exit_code
    if hydra_app.is_sweep(rest):
        return _sweep(rest, BUILD in arguments)
    try:
        if BUILD in arguments:
            hydra_app.run(rest, build)
        else:
            hydra_app.run_alone(rest, job)
    except JobFailed as failed:
        return hydra_app.told(failed)
    return 0


def _sweep(arguments: Sequence[str], builds: bool) -> int:
    """Plan all jobs, or build them too; their record is in a directory that goes with it."""
    only = "hydra.sweeper.force=true" if builds else "hydra.sweeper.dry_run=true"
    with tempfile.TemporaryDirectory(prefix="exportkit-plan-") as home, closing(keeps=False) as swept:
        hydra_app.run(arguments, build, [f"hydra.sweep.dir={home}", "hydra/sweeper=exportkit", only])
    return swept.code


@hydra_app.reporting
def job(config: DictConfig) -> None:
    """Show the plan of `config`."""
    tables.show_plan(_plan(config))


@hydra_app.reporting
def build(config: DictConfig) -> str:
    """Build the graph of `config`, bind its signatures, write nothing, and return the status."""
    hydra_app.unmute_tensorflow()
    return job_run.run(config, _build) if job_record.is_sweep() else _build(config).status


def _build(config: DictConfig) -> ExportReport:
    from exportkit.exporting import pipeline

    plan = _plan(config)
    tables.show_plan(plan)
    with progress(plan.name) as stage:
        report = pipeline.build(plan, hydra_app.plugins(), progress=stage)
    tables.show_built(report)
    return report


def _plan(config: DictConfig) -> ExportPlan:
    from exportkit.planning.plan import plan

    return plan(config, hydra_app.plugins())
