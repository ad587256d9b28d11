"""``exportkit plan model=NAME …`` shows what an export would do, in order, and which of it is checked already."""

from collections.abc import Sequence
from functools import partial

from exportkit.cli import arguments as cli_arguments
from exportkit.cli import choices, failures
from exportkit.cli.direct.composing import compose
from exportkit.cli.direct.stand_in import Composed
from exportkit.cli.hydra_command import HydraCommand
from exportkit.cli.overview import overview
from exportkit.errors import ConfigError, ExportKitError, Problem
from exportkit.planning.plain import PlainConfig

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
            choices.show_help(partial(overview, head=DETAILS), shown)
            return 0 if rest else ConfigError.exit_code
        return _plan(rest, builds, JSON in arguments)


def _plan(arguments: Sequence[str], builds: bool, as_json: bool) -> int:
    """Show a plan, or those of a sweep, and return the exit code."""
    if not builds and (config := compose(arguments)) is not None:
        return _plan_one(config, arguments, as_json)
    from exportkit.cli import hydra_app, plan_job

    rest, switches = hydra_app.sweep_switches(arguments)
    if hydra_app.is_sweep(rest):
        if as_json:
            raise ConfigError(Problem(JSON, "shows one plan, and this is a sweep", "leave it out, or plan one job"))
        return plan_job.plan_sweep(rest, switches, builds)
    if builds and as_json:
        raise ConfigError(Problem(JSON, "shows a plan that is not built", f"leave out {BUILD}, or {JSON}"))
    try:
        if builds:
            hydra_app.run(rest, plan_job.build)
        else:
            hydra_app.run_alone(rest, plan_job.print_json if as_json else plan_job.job)
    except failures.JobFailed as failed:
        return failures.report_failure(failed)
    return 0


def _plan_one(config: PlainConfig, arguments: Sequence[str], as_json: bool) -> int:
    """Show the plan of a config that was composed without Hydra."""
    from exportkit.cli import plan_view
    from exportkit.planning.plan import plan

    state = Composed.here(arguments)
    try:
        with state.job():
            planned = plan(config, choices.plugins(), state.directories())
            plan_view.print_json(planned) if as_json else plan_view.show(planned)
    except (ExportKitError, BrokenPipeError):
        raise
    except Exception as error:
        return failures.report_failure(failures.failure(error))
    return 0
