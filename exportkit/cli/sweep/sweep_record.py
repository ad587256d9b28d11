"""The record of a whole sweep: ``sweep.json``, and the summary at the end."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path

from exportkit.cli.sweep.job_record import RECORD, Job, is_held, read_record, write_whole

SWEEP = "sweep.json"
DIED = "died without a word; its last output says more"
RUNS = "still runs where its engine has put it"


def write_sweep(directory: Path, jobs: Iterable[Job], seconds: float | None = None) -> Path:
    """Write ``sweep.json``, once with the planned jobs and at the end with the results, and return its path."""
    listed = sorted(jobs, key=lambda job: job.number)
    records = [asdict(replace(job, report=None)) for job in listed]
    for record in records:
        del record["report"]
    content = {
        "directory": str(directory),
        "seconds": seconds,
        "counts": counts(listed),
        "jobs": records,
    }
    directory.mkdir(parents=True, exist_ok=True)
    write_whole(directory / SWEEP, json.dumps(content, indent=2) + "\n")
    return directory / SWEEP


def counts(jobs: Iterable[Job]) -> dict[str, int]:
    """Return status → number of jobs."""
    found: dict[str, int] = {}
    for job in jobs:
        found[job.status] = found.get(job.status, 0) + 1
    return found


def read_sweep(directory: Path, interrupted: bool = False) -> list[Job]:
    """Return all jobs of the sweep in `directory`, by number: as planned, or as its own record says where there is one.

    A job with a directory but without a record died before it could write one, was killed when the sweep was `interrupted`, or
    still runs (`is_held`).
    """
    planned = _planned(directory)
    known = {job.number: job for job in planned}
    for path in directory.glob("*"):
        if path.is_dir() and (path.name.isdecimal() or (path / RECORD).is_file()):
            job = _job(path, known, interrupted)
            known[job.number] = job
    return [known[number] for number in sorted(known)]


def read_jobs(directory: Path, numbers: Iterable[int]) -> list[Job]:
    """Return the records of those of the jobs that have one, and so have ended."""
    return [_job(path, {}, False) for number in numbers if ((path := directory / str(number)) / RECORD).is_file()]


def _planned(directory: Path) -> list[Job]:
    file = directory / SWEEP
    return read_record(file, lambda content: [Job(**job) for job in content["jobs"]]) if file.exists() else []


def _job(path: Path, known: Mapping[int, Job], interrupted: bool) -> Job:
    file = path / RECORD
    if file.exists():
        return read_record(file, lambda content: Job(**content))
    job = known.get(int(path.name), Job(number=int(path.name)))
    if is_held(path):
        return replace(job, status="running", reason=RUNS)
    return replace(job, status="interrupted") if interrupted else replace(job, status="died", reason=DIED)


def summary(jobs: Sequence[Job], seconds: float) -> str:
    """Return one line: ``50 jobs in 12.3 s: 47 exported, 2 unchanged, 1 failed``."""
    found = ", ".join(f"{number} {status}" for status, number in counts(jobs).items())
    return f"{_jobs(len(jobs))} in {seconds:.1f} s: {found}"


def _jobs(number: int) -> str:
    return "1 job" if number == 1 else f"{number} jobs"


def problems(jobs: Sequence[Job]) -> list[str]:
    """Return lines with the reasons why jobs failed, and one with the number of jobs that were not run."""
    waiting = [job.number for job in jobs if job.status in ("interrupted", "not run")]
    lines = [f"job {job.number}: {line}" for job in jobs if not job.good for line in job.reason.splitlines()]
    if waiting:
        lines.append(f"{_jobs(len(waiting))} not run, from job {waiting[0]} on: run the sweep again, and it goes on there")
    return lines


def distinct_overrides(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return for each job the overrides that not all jobs have."""
    shared: set[str] = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    return [[word for word in job if word not in shared] for job in jobs]
