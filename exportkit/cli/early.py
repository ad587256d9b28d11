"""What an export starts before it is known whether there will be one: processes that import while its config is composed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields

from exportkit import processes
from exportkit.cli import arguments as cli_arguments
from exportkit.cli import choices, wants_tracebacks
from exportkit.spec import Config

WORKERS = "exportkit.core.preload"  # what the process imports from which workers are forked
WORKERS_OF_MANY = "exportkit.core.preload_many"  # the same for a sweep
_SWEEP = {"-m", "--multirun", *cli_arguments.SWITCHES}


@contextmanager
def spare(arguments: Sequence[str]) -> Iterator[None]:
    """Start the process from which workers will be forked; it ends with the context.

    Not where one of Hydra's flags asks for something else. Where a name is wrong at first sight, there will be no export: it is
    ended at once, as its imports would slow the answer down.
    """
    flags, overrides = cli_arguments.arrange(arguments, (*cli_arguments.HYDRA_FLAGS, *cli_arguments.SWITCHES))
    if wants_tracebacks() or not _SWEEP.issuperset(flags):
        yield
        return
    workers = WORKERS_OF_MANY if flags else WORKERS
    with processes.early(workers) as end:  # before the look at names, for which plugins are imported
        if not flags and not all(map(_is_known, overrides)):
            end()
        yield


def _is_known(override: str) -> bool:
    """Return whether an override names an option that there is, or a key below one that there is."""
    key, _, value = override.lstrip("+~").partition("=")
    if key in choices.GROUPS:
        return value in choices.listed_options(key, choices.user_conf(()))
    return key.partition(".")[0].partition("/")[0] in ("hydra", *(field.name for field in fields(Config)))
