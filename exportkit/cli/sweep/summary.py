"""The end of a sweep: one table, ``sweep.json``, ``models.config`` and the exit code, however it ended."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from exportkit.cli import print_problems, tables
from exportkit.cli.channel import is_quiet
from exportkit.cli.sweep import job_record, sweep_record
from exportkit.cli.sweep.server_config import write_server_configs
from exportkit.errors import ConfigError, ExportKitError
from exportkit.version import claim


@dataclass
class Swept:
    """The exit code of a sweep, set when it has ended."""

    code: int = 0

    @property
    def is_sweep(self) -> bool:
        return job_record.RememberDirectory.directory is not None


@contextmanager
def closing(keeps: bool = True) -> Iterator[Swept]:
    """Print the summary of the sweep that runs inside of this context, if one does, and write its record.

    Args:
        keeps: whether ``sweep.json`` and ``models.config`` are written, and named in the summary.
    """
    job_record.RememberDirectory.directory = None
    swept = Swept()
    started = time.perf_counter()
    try:
        yield swept
    except ConfigError:
        raise
    except ExportKitError as error:
        if not swept.is_sweep:
            raise
        print_problems(str(error))  # the launcher failed; the records show how far it came
        swept.code = error.exit_code
    except (KeyboardInterrupt, SystemExit):
        _close(swept, time.perf_counter() - started, keeps, interrupted=True)
        raise
    _close(swept, time.perf_counter() - started, keeps)


def _close(swept: Swept, seconds: float, keeps: bool, interrupted: bool = False) -> None:
    directory = job_record.RememberDirectory.directory
    jobs = sweep_record.read_sweep(directory, interrupted) if directory else []
    if directory is None or not jobs:
        return
    for base in {job.base for job in jobs if job.base and job.status in ("died", "interrupted")}:
        claim.remove_stale(Path(base))
    if not is_quiet():
        tables.show_jobs(jobs, sweep_record.distinct_overrides([job.overrides for job in jobs]))
        tables.line(sweep_record.summary(jobs, seconds))
    if keeps:
        _keep(directory, jobs, seconds)
    if problems := sweep_record.problems(jobs):
        print_problems("\n".join(problems))
    swept.code = swept.code or int(bool(problems))


def _keep(directory: Path, jobs: list[job_record.Job], seconds: float) -> None:
    record = sweep_record.write_sweep(directory, jobs, seconds)
    configs, warnings = write_server_configs(directory, jobs)
    if is_quiet():
        return
    tables.line(f"record: {tables.short_path(str(record))}")
    for config in configs:
        tables.line(config.command)
    if len(configs) > 1:
        tables.text("These are servers of their own: --saved_model_tags holds for all models of a server.")
    for warning in warnings:
        tables.text(f"warning: {warning}", "yellow")
