"""The jobs of ``exportkit plan``: a plan is shown, printed as JSON, or built."""

import tempfile
from collections.abc import Sequence

from omegaconf import DictConfig

from exportkit.cli import hydra_app, plan_view, tables
from exportkit.cli.progress import progress
from exportkit.cli.sweep import job_record
from exportkit.report import ExportReport
from exportkit.spec import ExportPlan


def plan_sweep(arguments: Sequence[str], switches: Sequence[str], builds: bool) -> int:
    """Plan all jobs of a sweep, or build them too, with their record in a temporary directory; return the exit code."""
    from exportkit.cli.sweep.summary import closing

    only = "hydra.sweeper.force=true" if builds else "hydra.sweeper.dry_run=true"
    with tempfile.TemporaryDirectory(prefix="exportkit-plan-") as home, closing(keeps=False) as swept:
        hydra_app.run(arguments, build, [f"hydra.sweep.dir={home}", "hydra/sweeper=exportkit", *switches, only])
    return swept.code


@hydra_app.reporting
def job(config: DictConfig) -> None:
    """Show the plan of `config`: a job of Hydra's."""
    plan_view.show(_plan(config))


@hydra_app.reporting
def print_json(config: DictConfig) -> None:
    """Print the plan of `config` as JSON: a job of Hydra's."""
    plan_view.print_json(_plan(config))


@hydra_app.reporting
def build(config: DictConfig) -> str:
    """Build the graph of `config`, bind its signatures, write nothing, and return the status: a job of Hydra's."""
    from exportkit.cli.sweep import job_run

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

    return plan(config, hydra_app.plugins(), hydra_app.directories())
