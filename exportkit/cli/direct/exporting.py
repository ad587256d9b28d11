"""One export whose config was composed without Hydra: planned, carried out in a process of its own, its report printed."""

from collections.abc import Sequence

from exportkit.cli import channel, export_run
from exportkit.cli.direct.stand_in import Composed, configure_log
from exportkit.cli.failures import failure, report_failure
from exportkit.planning.plain import PlainConfig


def export(config: PlainConfig, overrides: Sequence[str], quiet: bool) -> int:
    """Export `config` and return the exit code.

    Args:
        config: what `overrides` were composed to.
        quiet: whether only problems are printed.
    """
    state = Composed.here(overrides)
    with channel.quiet(quiet), state.job():
        configure_log()
        try:
            export_run.run_apart(config, state)
        except BrokenPipeError:
            raise
        except Exception as error:
            return report_failure(failure(error))
    return 0
