"""Launchers of other engines, run by the process that started the sweep, through Hydra's launcher interface only."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

from hydra.core.utils import JobReturn, JobStatus
from hydra.types import HydraContext
from omegaconf import DictConfig

from exportkit.cli import process
from exportkit.cli.sweep import job_record, sweep_record
from exportkit.cli.sweep.job_record import Job
from exportkit.errors import EnvironmentFailed, ExportKitError, Problem, brief
from exportkit.printable import shown

PERIOD = 0.5  # seconds between two searches for new records
QUIET = {"SUBMITIT_LOG_LEVEL": "ERROR"}  # or Submitit warns at each poll that Slurm keeps no accounts
AGAIN = "end what still runs there, and start the same command again: what is done is not done twice"


class ReadyLauncher(Protocol):
    """A launcher of Hydra after its `setup`, which in every launcher stores the sweep's config and context."""

    config: DictConfig
    hydra_context: HydraContext

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]: ...


def launch(launcher: ReadyLauncher, jobs: Sequence[Job], on_end: Callable[[Job], None]) -> None:
    """Run jobs, each with its record in its own directory.

    Args:
        jobs: the jobs to run. A launcher numbers them from 0, so each gets its directory by override.
        on_end: called, in another thread, with the record of each job that ended.

    Raises:
        EnvironmentFailed: the engine failed; the records show which jobs have ended.
    """
    directory = Path(str(launcher.config.hydra.sweep.dir)).absolute()
    overrides = [[*job.overrides, *_directory_overrides(directory, job.number)] for job in jobs]
    with _watching_records(directory, [job.number for job in jobs], on_end), process.environment(QUIET):
        try:
            returns = launcher.launch(overrides, initial_job_idx=0)
        except ExportKitError:
            raise
        except Exception as error:
            what = f"{launcher.config.hydra.runtime.choices['hydra/launcher']} gave up: {shown(brief(error))}"
            raise EnvironmentFailed(Problem("hydra/launcher", what, AGAIN)) from error
        finally:
            _leave_ray()
        _record_missing(directory, jobs, returns)


def _directory_overrides(directory: Path, number: int) -> list[str]:
    """Return the overrides that set a job's directory: absolute, since a worker may have another working directory."""
    quoted = str(directory).replace("'", "\\'")
    return [f"hydra.sweep.dir='{quoted}'", f"hydra.sweep.subdir={number}"]


def _leave_ray() -> None:
    """Disconnect from a Ray cluster, which ends our jobs there; jobs of other engines end by themselves, or go on."""
    if ray := sys.modules.get("ray"):
        ray.shutdown()


def _record_missing(directory: Path, jobs: Sequence[Job], returns: Sequence[JobReturn]) -> None:
    """Write the record of each failed job that has none, for example because its machine does not see the directory."""
    for job, returned in zip(jobs, returns, strict=True):
        place = directory / str(job.number)
        if returned.status is JobStatus.FAILED and not (place / job_record.RECORD).is_file():
            job_record.write_job(replace(job, status="failed", reason=str(returned._return_value)), place)


@contextmanager
def _watching_records(directory: Path, numbers: Sequence[int], on_end: Callable[[Job], None]) -> Iterator[None]:
    """Call `on_end` with each record as it appears, and with the last ones at the end."""
    left, over = set(numbers), threading.Event()

    def watch() -> None:
        last = False
        while left and not last:
            last = over.wait(PERIOD)
            for job in sweep_record.read_jobs(directory, sorted(left)):
                left.discard(job.number)
                on_end(job)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
