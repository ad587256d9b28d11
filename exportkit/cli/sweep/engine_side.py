"""Launchers of other engines, driven from where the sweep was started: all that is known of them is Hydra's interface."""

import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher

from exportkit.cli import process
from exportkit.cli.sweep import job_record, sweep_record
from exportkit.cli.sweep.job_record import Job
from exportkit.errors import EnvironmentFailed, ExportKitError, Problem, brief

PERIOD = 0.5  # seconds between two looks for records
QUIET = {"SUBMITIT_LOG_LEVEL": "ERROR"}  # or it says at each look that Slurm keeps no accounts
COLOR = re.compile(r"\x1b\[[0-9;]*m")
AGAIN = "end what still runs there, and start the same command again: what is done is not done twice"


def launch(launcher: Launcher, jobs: Sequence[Job], on_end: Callable[[Job], None]) -> None:
    """Run jobs, each with its record in its own directory.

    Args:
        jobs: those that have to run. A launcher numbers them from 0, so each brings its directory.
        on_end: called, by another thread, with the record of each job that ended.

    Raises:
        EnvironmentFailed: the engine gave up; how far it came is in the records.
    """
    directory = Path(str(launcher.config.hydra.sweep.dir)).absolute()
    overrides = [[*job.overrides, *_places(directory, job.number)] for job in jobs]
    with _watched(directory, [job.number for job in jobs], on_end), process.environment(QUIET):
        try:
            returns = launcher.launch(overrides, initial_job_idx=0)
        except ExportKitError:
            raise
        except Exception as error:
            what = f"{launcher.config.hydra.runtime.choices['hydra/launcher']} gave up: {COLOR.sub('', brief(error))}"
            raise EnvironmentFailed(Problem("hydra/launcher", what, AGAIN)) from error
        finally:
            _part()
        _record_untold(directory, jobs, returns)


def _places(directory: Path, number: int) -> list[str]:
    """Where a job keeps its record; relative, it would be another place in a worker's directory."""
    quoted = str(directory).replace("'", "\\'")
    return [f"hydra.sweep.dir='{quoted}'", f"hydra.sweep.subdir={number}"]


def _part() -> None:
    """Leave a Ray cluster, which ends what is still running for us there; the others end by themselves, or go on."""
    if ray := sys.modules.get("ray"):
        ray.shutdown()


def _record_untold(directory: Path, jobs: Sequence[Job], returns: Sequence[JobReturn]) -> None:
    """Write the record of each job that failed where its directory is not to be seen."""
    for job, returned in zip(jobs, returns, strict=True):
        place = directory / str(job.number)
        if returned.status is JobStatus.FAILED and not (place / job_record.RECORD).is_file():
            job_record.write_job(replace(job, status="failed", reason=str(returned._return_value)), place)


@contextmanager
def _watched(directory: Path, numbers: Sequence[int], on_end: Callable[[Job], None]) -> Iterator[None]:
    """Tell of each record as it appears, and of the last ones at the end."""
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
