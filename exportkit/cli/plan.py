"""``exportkit plan model=NAME …``: what an export would do, in order, and how much of it is known to go well."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from omegaconf import DictConfig

from exportkit.cli import arguments as cli_arguments
from exportkit.cli import hydra_app, print_problems, tables
from exportkit.cli.hydra_app import JobFailed
from exportkit.cli.progress import progress
from exportkit.cli.sweep import records
from exportkit.errors import ConfigError, ExportKitError
from exportkit.spec import ExportPlan

BUILD = "--build"
SWEEPS = ("-m", "--multirun")


def main(arguments: Sequence[str]) -> int:
    """Show the plan of what `arguments` say, or do what Hydra's flags among them ask for."""
    rest = [word for word in arguments if word != BUILD]
    if cli_arguments.has(rest, "-h", "--help") or not rest:
        hydra_app.show_overview("plan", rest)
        return 0 if rest else ConfigError.exit_code
    records.RememberDirectory.directory = None
    try:
        if BUILD in arguments:
            _compose(rest, build, hydra_app.run)
        else:
            _compose(rest, job, hydra_app.run_alone)
    except JobFailed as failed:
        said = records.RememberDirectory.directory is not None  # by the jobs of a sweep
        return failed.exit_code if said else hydra_app.told(failed)
    return 0


def _compose(arguments: Sequence[str], work: Any, alone: Any) -> None:
    """Run Hydra; the jobs of a sweep one by one in this process, their record in a directory that goes with it."""
    if not cli_arguments.has(arguments, *SWEEPS):
        return alone(arguments, work)
    with tempfile.TemporaryDirectory(prefix="exportkit-plan-") as home:
        hydra_app.run(arguments, work, [f"hydra.sweep.dir={home}", "hydra/launcher=basic"])


@hydra_app.reporting
def job(config: DictConfig) -> None:
    """Show the plan of `config`."""
    with _said_in_a_sweep():
        tables.show_plan(_plan(config))


@hydra_app.reporting
def build(config: DictConfig) -> None:
    """Show the plan of `config`, build its graph, bind its signatures, and write nothing."""
    from exportkit import pipeline

    hydra_app.unmute_tensorflow()
    with _said_in_a_sweep():
        plan = _plan(config)
        tables.show_plan(plan)
        with progress(plan.name) as stage:
            report = pipeline.build(plan, hydra_app.plugins(), progress=stage)
        tables.show_built(report)


def _plan(config: DictConfig) -> ExportPlan:
    from exportkit.plan import plan

    return plan(config, hydra_app.plugins())


@contextmanager
def _said_in_a_sweep() -> Iterator[None]:
    """Say problems at once where more jobs follow: Hydra raises only the first one's at the end."""
    try:
        yield
    except ExportKitError as error:
        if records.is_sweep():
            print_problems(str(error))
        raise
