"""``exportkit plan model=NAME …`` shows what an export would do, in order, and which of it is checked already."""

import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from omegaconf import DictConfig

from exportkit.cli import arguments as cli_arguments
from exportkit.cli import hydra_app, tables
from exportkit.cli.hydra_app import JobFailed
from exportkit.cli.hydra_command import HydraCommand
from exportkit.cli.overview import overview
from exportkit.cli.progress import progress
from exportkit.cli.sweep import job_record, job_run
from exportkit.cli.sweep.summary import closing
from exportkit.errors import ConfigError, Problem
from exportkit.report import ExportReport
from exportkit.spec import ExportPlan

BUILD, JSON = "--build", "--json"
DETAILS = """\
exportkit plan model=NAME [KEY=VALUE ...] [--build | --json]

Shows what an export would do, in the order in which it would, and writes
nothing. Each line says 'checked', or 'when built' where only a built graph can
tell; --build builds the graph and binds the signatures, to check that too.
--json prints the plan for programs.
"""


class PlanCommand(HydraCommand):
    """Show the plan of what the arguments configure, or do what one of Hydra's flags asks for."""

    name = "plan"
    help = "show what an export would do"
    usage = "model=NAME [KEY=VALUE ...]"
    own_flags = (*cli_arguments.SWITCHES, BUILD, JSON)

    def run(self, arguments: Sequence[str]) -> int:
        cli_arguments.arrange(arguments, self.flags)
        rest, builds = [word for word in arguments if word not in (BUILD, JSON)], BUILD in arguments
        if cli_arguments.has(rest, "-h", "--help") or not rest:
            shown = [word for word in rest if word not in cli_arguments.SWITCHES]
            hydra_app.show_help(partial(overview, head=DETAILS), shown)
            return 0 if rest else ConfigError.exit_code
        rest, switches = hydra_app.sweep_switches(rest)
        if hydra_app.is_sweep(rest):
            if JSON in arguments:
                raise ConfigError(Problem(JSON, "shows one plan, and this is a sweep", "leave it out, or plan one job"))
            return _sweep(rest, switches, builds)
        if builds and JSON in arguments:
            raise ConfigError(Problem(JSON, "shows a plan that is not built", f"leave out {BUILD}, or {JSON}"))
        try:
            if JSON in arguments:
                hydra_app.run_alone(rest, print_json)
                return 0
            hydra_app.run(rest, build) if builds else hydra_app.run_alone(rest, job)
        except JobFailed as failed:
            return hydra_app.report_failure(failed)
        return 0


def _sweep(arguments: Sequence[str], switches: Sequence[str], builds: bool) -> int:
    """Plan all jobs of a sweep, or build them too, with their record in a temporary directory; return the exit code."""
    only = "hydra.sweeper.force=true" if builds else "hydra.sweeper.dry_run=true"
    with tempfile.TemporaryDirectory(prefix="exportkit-plan-") as home, closing(keeps=False) as swept:
        hydra_app.run(arguments, build, [f"hydra.sweep.dir={home}", "hydra/sweeper=exportkit", *switches, only])
    return swept.code


@hydra_app.reporting
def job(config: DictConfig) -> None:
    """Show the plan of `config`: a job of Hydra's."""
    tables.show_plan(_plan(config))


@hydra_app.reporting
def print_json(config: DictConfig) -> None:
    """Print the plan of `config` as JSON: a job of Hydra's."""
    from exportkit.planning.plan import next_version

    planned = _plan(config)
    assets = [{"path": str(one.path), "named_by": one.named_by, "resolved": str(one.resolved)} for one in planned.assets]
    found = {
        "name": planned.name,
        "export_dir": str(planned.export_dir),
        "version": next_version(planned),
        "checks": [asdict(check) for check in planned.checks],
        "assets": assets,
        "warnings": planned.warnings,
    }
    tables.line(json.dumps(found, indent=2))


@hydra_app.reporting
def build(config: DictConfig) -> str:
    """Build the graph of `config`, bind its signatures, write nothing, and return the status: a job of Hydra's."""
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
