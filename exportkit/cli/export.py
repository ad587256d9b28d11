"""``exportkit [export] model=NAME …`` plans an export, runs it and prints its report."""

import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from exportkit.cli import arguments as cli_arguments
from exportkit.cli import choices, early, is_completion, wants_tracebacks
from exportkit.cli.direct.composing import compose
from exportkit.cli.hydra_command import HydraCommand
from exportkit.cli.overview import overview, short_overview
from exportkit.errors import ConfigError

QUIET = ("-q", "--quiet")


class ExportCommand(HydraCommand):
    """Export what the arguments configure, or do what one of Hydra's flags asks for."""

    name = "export"
    help = "export; or: exportkit export ..."
    usage = "model=NAME [KEY=VALUE ...]"
    own_flags = (*cli_arguments.SWITCHES, *QUIET)

    def run(self, arguments: Sequence[str]) -> int:
        if not arguments:
            with redirect_stdout(sys.stderr):
                choices.show_help(short_overview)
            return ConfigError.exit_code
        cli_arguments.arrange(arguments, self.flags)
        rest = [word for word in arguments if word not in QUIET]
        if cli_arguments.has(rest, "-h", "--help"):
            choices.show_help(overview, [word for word in rest if word not in cli_arguments.SWITCHES])
            return 0
        if cli_arguments.has(rest, "-sc", "--shell-completion"):
            _complete(rest)
            return 0
        with early.spare(rest):
            return _export(rest, cli_arguments.has(arguments, *QUIET))


def _export(arguments: Sequence[str], quiet: bool) -> int:
    """Export by Hydra what needs it: flags, tracebacks, configs that are not composed to the same without it."""
    config = None if wants_tracebacks() else compose(arguments)
    if config is not None:
        from exportkit.cli.direct import exporting

        return exporting.export(config, cli_arguments.arrange(arguments)[1], quiet)
    from exportkit.cli import export_job

    return export_job.export_all(arguments, quiet)


def _complete(arguments: Sequence[str]) -> None:
    from exportkit.cli import completion, hydra_app

    completion.answer(arguments) if is_completion(arguments) else hydra_app.shell_completion(arguments)
