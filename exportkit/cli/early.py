"""What an export starts before it is known whether there will be one: processes that import while its config is composed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from exportkit import processes
from exportkit.cli import arguments as cli_arguments
from exportkit.cli import wants_tracebacks

WORKERS = "exportkit.core.preload"  # what the process imports from which workers are forked
WORKERS_OF_MANY = "exportkit.core.preload_many"  # the same for a sweep
_SWEEP = {"-m", "--multirun", *cli_arguments.SWITCHES}


@contextmanager
def spare(arguments: Sequence[str]) -> Iterator[None]:
    """Start the process from which workers will be forked; it ends with the context.

    Not where one of Hydra's flags asks for something else.
    """
    flags, _ = cli_arguments.arrange(arguments, (*cli_arguments.HYDRA_FLAGS, *cli_arguments.SWITCHES))
    if wants_tracebacks() or not _SWEEP.issuperset(flags):
        yield
        return
    with processes.early(WORKERS_OF_MANY if flags else WORKERS):
        yield
