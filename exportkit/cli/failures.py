"""How a job fails: one exception, whatever it raised, and what is printed of it."""

import sys

from exportkit.cli import print_problems, wants_tracebacks
from exportkit.errors import ConfigError, ExportKitError, Problem


class JobFailed(Exception):
    """The one exception that a failed job raises: its problems' text and its exit code, which can be pickled, unlike causes."""

    def __init__(self, text: str, exit_code: int = 1):
        super().__init__(text, exit_code)
        self.exit_code = exit_code

    def __str__(self) -> str:
        return self.args[0]


def failure(error: Exception) -> JobFailed:
    """Return `error` as the `JobFailed` that a job raises."""
    if isinstance(error, JobFailed):
        return error
    if isinstance(error, ExportKitError):
        return JobFailed(str(error), error.exit_code)
    omegaconf = sys.modules.get("omegaconf.errors")
    if omegaconf is not None and isinstance(error, omegaconf.OmegaConfBaseException):
        from exportkit.cli.explain import explain

        return JobFailed(str(explain(error)), ConfigError.exit_code)
    return JobFailed(str(unexpected(error)))


def report_failure(failed: JobFailed) -> int:
    """Print why a job failed and return the exit code; raise `failed` where the user asked for tracebacks."""
    if wants_tracebacks():
        raise failed
    print_problems(str(failed))
    return failed.exit_code


def unexpected(error: Exception) -> Problem:
    """Return the problem of an error that is a fault in exportkit or in a plugin."""
    what = f"{type(error).__name__}: {' '.join(str(error).split())}"
    return Problem("exportkit", what, "this is a fault in exportkit or in a plugin; HYDRA_FULL_ERROR=1 shows where")
